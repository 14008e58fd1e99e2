"""The slcan back end against python-can's own, over a pseudo terminal, in wall time.

Another process plays the adapter. `receive`: it sends frames of 8 bytes as fast as the line takes them. `full 500k bus`: it
sends as many as a 500 kbit/s bus can carry, in bursts of a millisecond, numbered; the ratio is that of frames received.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import statistics
import time
import tty

import can
from can.interfaces.slcan import slcanBus as PythonCanSlcan

from benchmarks._figures import Figure, print_figures
from bmsota.adapters.slcan import SlcanBus
from bmsota.can_timing import frame_bits
from bmsota.canframe import CanFrame

ROUNDS = 5
ROUND_S = 0.8
PACED_S = 2.0
FULL_BUS_FRAMES_PER_S = 500_000 / frame_bits(CanFrame(0x123, bytes(8)))[0]

# As many lines as a driver hands over at once; each write blocks until the reader has made room.
CHUNK_LINES = 200


def answer_until_open(near: int) -> None:
    """Play an adapter that says yes to everything, up to the command that opens the channel."""
    rest = b""
    while True:
        *lines, rest = (rest + os.read(near, 4096)).split(b"\r")
        for line in lines:
            os.write(near, b"V1013\r" if line == b"V" else b"\r")
            if line == b"O":
                return


def flood(near: int) -> None:
    """For ever: ended from outside."""
    answer_until_open(near)
    lines = b"".join(b"t%03X8%016X\r" % (0x100 + number % 64, number) for number in range(CHUNK_LINES))
    while True:
        data = lines
        while data:
            data = data[os.write(near, data) :]


def paced(near: int) -> None:
    """A full bus for some seconds, then the commands of the host are answered until it is ended."""
    answer_until_open(near)
    start, number = time.monotonic(), 0
    while (elapsed := time.monotonic() - start) < PACED_S:
        due = int(elapsed * FULL_BUS_FRAMES_PER_S)
        while number < due:
            os.write(near, b"t1238%016X\r" % number)
            number += 1
        select.select([], [], [], 0.001)
    os.write(near, b"t7FF8%016X\r" % number)
    while True:
        os.write(near, b"\r" * os.read(near, 4096).count(b"\r"))


def adapter(play: object) -> tuple[multiprocessing.Process, str, tuple[int, int]]:
    """A process that plays the adapter, the port it is behind, and our hold on both ends."""
    near, far = os.openpty()
    tty.setraw(far)
    process = multiprocessing.get_context("fork").Process(target=play, args=(near,), daemon=True)
    process.start()
    return process, os.ttyname(far), (near, far)


def release(process: multiprocessing.Process, bus: can.BusABC, ends: tuple[int, int]) -> None:
    """The other end goes first: nobody answers a close any more."""
    process.terminate()
    process.join()
    for end in ends:
        os.close(end)
    try:
        bus.shutdown()
    except can.CanError:
        return  # python-can's does not expect the adapter to be gone.


def receive_rate(open_bus: object) -> float:
    """Frames per second through `recv`."""
    process, path, ends = adapter(flood)
    bus = open_bus(path)
    assert bus.recv(5) is not None
    count, start = 0, time.monotonic()
    while (elapsed := time.monotonic() - start) < ROUND_S:
        message = bus.recv(1)
        assert message is not None
        assert message.dlc == 8
        count += 1
    release(process, bus, ends)
    return count / elapsed


def full_bus() -> tuple[float, float]:
    """(frames per second received, share of those sent)."""
    process, path, ends = adapter(paced)
    bus = SlcanBus(path, bitrate=500_000)
    numbers, start = set(), time.monotonic()
    while (message := bus.recv(5)).arbitration_id != 0x7FF:
        numbers.add(int.from_bytes(message.data, "big"))
    elapsed = time.monotonic() - start
    sent = int.from_bytes(message.data, "big")
    release(process, bus, ends)
    return len(numbers) / elapsed, len(numbers) / sent


def open_ours(path: str) -> can.BusABC:
    return SlcanBus(path, bitrate=500_000)


def open_theirs(path: str) -> can.BusABC:
    return PythonCanSlcan(path, bitrate=500_000, sleep_after_open=0)


def figures() -> list[Figure]:
    rounds = [(receive_rate(open_ours), receive_rate(open_theirs)) for _ in range(ROUNDS)]
    ours, theirs = (statistics.median(each[place] for each in rounds) for place in (0, 1))
    ratio = statistics.median(own / other for own, other in rounds)
    paced_rate, share = full_bus()
    base = "python-can receive"
    wire = f"wire {FULL_BUS_FRAMES_PER_S:.0f} frames/s"
    return [
        Figure(base, round(theirs, 1), "frames/s"),
        Figure("receive", round(ours, 1), "frames/s", round(ratio, 3), base),
        Figure("full 500k bus", round(paced_rate, 1), "frames/s", round(share, 4), wire),
    ]


if __name__ == "__main__":
    print_figures("slcan", figures)
