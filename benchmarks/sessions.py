"""The cloud link's sessions on the 342-byte report of `codec`, and the stream reader on garbage.

`receive` is a platform's session that is handed one report at a time and whose caller takes the event: with every report decoded,
and with `defer_decode`, which checks header, length, check byte, time and skeleton. `receive, decoded behind` is the second with
`decode_batch` on the bytes of a thousand events, which is what a platform pays in all. `send` is a terminal's session that is
given bodies, or a frame that is encoded already; the bytes are taken from it each time. `heartbeat` is both ends.

`garbage` is what a stranger can do to the reader: runs of start marks, random bytes, headers that can be ones and whose lengths
overlap. Its figures are megabytes a CPU-second: 10 is 0.1 us a byte.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from benchmarks._figures import Figure, compare, print_figures
from benchmarks.codec import VIN, report_frame
from bmsota.gbt32960 import (
    EmptyReply,
    Frame,
    FrameReader,
    PlatformOptions,
    PlatformSession,
    Report,
    ReportReceived,
    TerminalOptions,
    TerminalSession,
    VehicleLogin,
    beijing_time,
    decode_batch,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable

START_NS = 1_767_225_600 * 10**9
SECOND_NS = 10**9


def platform(*, defer_decode: bool) -> PlatformSession:
    session = PlatformSession(options=PlatformOptions(defer_decode=defer_decode))
    login = Frame(command=1, vin=VIN, message=VehicleLogin(beijing_time(START_NS), 1, "8" * 20))
    session.receive_data(encode(login), START_NS)
    session.next_event()
    session.accept_login(START_NS)
    session.data_to_send()
    return session


def terminal() -> TerminalSession:
    session = TerminalSession(vin=VIN, iccid="8" * 20, options=TerminalOptions(time_sync=False))
    session.handle_timeout(START_NS)
    session.connected(START_NS)
    session.receive_data(encode(Frame(command=1, vin=VIN, message=EmptyReply(), reply_flag=1)), START_NS)
    while session.next_event() is not None:
        pass
    session.data_to_send()
    return session


def receive(session: PlatformSession, frames: list[bytes], *, is_batch: bool = False) -> Callable[[], int]:
    def work() -> int:
        found = []
        for frame in frames:
            session.receive_data(frame, START_NS)
            event = session.next_event()
            assert type(event) is ReportReceived
            found.append(event.clear)
        if is_batch:
            assert len(decode_batch(found).groups) == 1
        return len(frames)

    return work


def send(session: TerminalSession, frame: Frame, raw: bytes | None) -> Callable[[], int]:
    report = frame.message
    assert isinstance(report, Report)

    def work() -> int:
        for _ in range(50):
            if raw is None:
                session.send_report(report.bodies, START_NS)
            else:
                session.send_encoded(raw, START_NS)
            session.data_to_send()
        return 50

    return work


def heartbeat() -> Callable[[], int]:
    unit, cloud = terminal(), platform(defer_decode=False)
    now_ns = START_NS

    def work() -> int:
        nonlocal now_ns
        for _ in range(20):
            now_ns += 60 * SECOND_NS
            unit.handle_timeout(now_ns)
            cloud.receive_data(unit.data_to_send(), now_ns)
            unit.receive_data(cloud.data_to_send(), now_ns)
            assert cloud.next_event() is not None
        return 20

    return work


def garbage(data: bytes) -> Callable[[], int]:
    def work() -> int:
        reader = FrameReader()
        for at in range(0, len(data), 1460):
            reader.receive_data(data[at : at + 1460])
            while reader.next_event() is not None:
                pass
        return len(data)

    return work


def figures() -> list[Figure]:
    frame = report_frame()
    raw = encode(frame)
    frames = [raw] * 1000
    one = receive(platform(defer_decode=False), frames[:50])
    found = compare(
        {
            "receive": one,
            "receive deferred": receive(platform(defer_decode=True), frames[:50]),
            "receive, decoded behind": receive(platform(defer_decode=True), frames, is_batch=True),
            "send": send(terminal(), frame, None),
            "send encoded": send(terminal(), frame, raw),
            "heartbeat": heartbeat(),
        },
        {
            "receive deferred": "receive",
            "receive, decoded behind": "receive",
            "send encoded": "send",
        },
        unit="frames/CPU-s",
    )
    header = raw[:22]
    streams = {
        "garbage marks": b"#" * 65536,
        "garbage marks and letters": b"##a" * 21845,
        "garbage random": random.Random(1).randbytes(65536),
        "garbage headers": (header + (60_000).to_bytes(2, "big")) * 2730,
        "good frames": raw * 191,
    }
    rates = compare({name: garbage(data) for name, data in streams.items()}, {}, unit="B/CPU-s")
    found += [Figure(rate.figure, round(rate.value / 1e6, 2), "MB/CPU-s") for rate in rates]
    return found


if __name__ == "__main__":
    print_figures("sessions", figures)
