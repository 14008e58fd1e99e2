"""A platform that misbehaves, over real sockets, in a thread of the tests."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from functools import reduce

from bmsota.gbt32960 import Acknowledgement, CloseRequested, LoginRequested, PlatformOptions, PlatformSession, ReplyFlag


def with_check_byte(frame: bytes) -> bytes:
    return frame[:-1] + bytes([reduce(lambda left, right: left ^ right, frame[2:-1])])


class Gateway(asyncio.Protocol):
    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.session = PlatformSession(options=PlatformOptions(acknowledge_reports=Acknowledgement.AT_ONCE))
        self.received = 0

    def connection_made(self, transport):
        self.transport = transport
        self.session.connected(time.time_ns())
        if self.mode == "drop_at_once":
            transport.abort()
        if self.mode == "http_banner":
            transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    def data_received(self, data):
        self.received += 1
        if self.mode == "never":
            return
        now = time.time_ns()
        self.session.receive_data(data, now)
        while (event := self.session.next_event()) is not None:
            if isinstance(event, LoginRequested):
                if self.mode == "refuse_login":
                    self.session.refuse_login(ReplyFlag.ERROR, now)
                else:
                    self.session.accept_login(now)
            elif isinstance(event, CloseRequested):
                self.transport.close()
        frames = self.session.data_to_send()
        while frames:
            size = 25 + int.from_bytes(frames[22:24])
            self.answer(frames[:size])
            frames = frames[size:]

    def answer(self, frame: bytes) -> None:
        is_login, is_report, is_heartbeat = frame[2] == 1, frame[2] in (2, 3), frame[2] == 7
        match self.mode:
            case "twice":
                frame = frame * 2
            case "report_twice" if is_report:
                frame = frame * 2
            case "garbage":
                frame = b"\x00\x01garbage" + frame
            case "garbage_behind":
                frame = frame + b"##garbage that never ends"
            case "bad_bcc":
                frame = frame[:-1] + bytes([frame[-1] ^ 1])
            case "bad_bcc_of_reports" if is_report:
                frame = frame[:-1] + bytes([frame[-1] ^ 1])
            case "wrong_vin":
                frame = with_check_byte(frame[:4] + b"X" * 17 + frame[21:])
            case "wrong_vin_after_login" if not is_login:
                frame = with_check_byte(frame[:4] + b"X" * 17 + frame[21:])
            case "refuse_reports" if is_report:
                frame = with_check_byte(frame[:3] + b"\x02" + frame[4:])
            case "no_report_answer" if is_report:
                return
            case "no_heartbeat_answer" if is_heartbeat:
                return
            case "answers_nothing_asked" if is_login:
                self.transport.write(frame)
                frame = with_check_byte(frame[:2] + b"\x04" + frame[3:])
            case "other_report_time" if is_report:
                frame = with_check_byte(frame[:24] + bytes([frame[24] - 1]) + frame[25:])
            case "cut" if is_report:
                frame = frame[:-3]
            case "drop_after_report" if is_report:
                self.transport.abort()
                return
            case "closes_politely" if is_report:
                self.transport.close()
                return
            case "late":
                asyncio.get_running_loop().call_later(1.0, self.later, frame)
                return
            case "bytewise":
                for index in range(len(frame)):
                    asyncio.get_running_loop().call_later(index * 0.001, self.later, frame[index : index + 1])
                return
        self.transport.write(frame)

    def later(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)


@contextmanager
def gateway(mode: str, ssl=None):
    """Serve on a free port of 127.0.0.1; gives the port."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(lambda: Gateway(mode), "127.0.0.1", 0, ssl=ssl))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
