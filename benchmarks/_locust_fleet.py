"""The load of `benchmarks.realtime` by Locust: a locust file, run by `locust -f`.

Each user is a terminal as one would write it by hand: it logs in, sends a report of fixed values each 30 s and waits for the answer to a heartbeat
each 60 s. It has no battery, no session, no ledger; only time, serial number and check byte of its frames change.

The environment says where: `BMSOTA_GATEWAY_PORT`, and `BMSOTA_SOURCES` how many addresses from 127.0.0.2 on its links come from.
"""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone
from itertools import count

from gevent import socket
from locust import User, constant_pacing, task

from benchmarks.codec import report_frame
from bmsota.checksums import bcc_xor
from bmsota.gbt32960 import encode

PORT = int(os.environ.get("BMSOTA_GATEWAY_PORT", "0"))
SOURCES = int(os.environ.get("BMSOTA_SOURCES", "1"))
REPORT_S = 30
CHINA = timezone(timedelta(hours=8))
VIN_AT, VIN_SIZE, BODY_AT, TIME_SIZE = 4, 17, 24, 6
_numbers = count()
_REPORT = encode(report_frame())


def _with_check(frame: bytes) -> bytes:
    return frame + bytes((bcc_xor(frame[2:]),))


def _time() -> bytes:
    now = datetime.now(CHINA)  # noqa: TID251 - a program of its own
    return bytes((now.year - 2000, now.month, now.day, now.hour, now.minute, now.second))


class Terminal(User):
    """One vehicle."""

    wait_time = constant_pacing(REPORT_S)

    def on_start(self) -> None:
        number = next(_numbers)
        self._vin = f"LBMF7LOC{number:09d}".encode()
        self._sent = 0
        self._socket = socket.create_connection(
            ("127.0.0.1", PORT), timeout=30, source_address=(f"127.0.0.{2 + number % SOURCES}", 0)
        )
        iccid = f"8986{number:016d}".encode()
        self._ask(self._frame(0x01, 0xFE, _time() + b"\x00\x01" + iccid + b"\x01\x00"))

    def on_stop(self) -> None:
        self._socket.close()

    @task
    def report(self) -> None:
        head = _REPORT[:VIN_AT] + self._vin + _REPORT[VIN_AT + VIN_SIZE : BODY_AT]
        frame = _with_check(head + _time() + _REPORT[BODY_AT + TIME_SIZE : -1])
        self._socket.sendall(frame)
        self._told("report", len(frame), 0.0)
        self._sent += 1
        if self._sent % 2 == 0:
            self._ask(self._frame(0x07, 0xFE, b""))

    def _frame(self, command: int, flag: int, body: bytes) -> bytes:
        return _with_check(b"##" + bytes((command, flag)) + self._vin + b"\x01" + len(body).to_bytes(2, "big") + body)

    def _ask(self, frame: bytes) -> None:
        asked = time.perf_counter()
        self._socket.sendall(frame)
        answer = self._socket.recv(4096)
        if len(answer) <= BODY_AT or answer[3] != 0x01:
            raise ValueError(f"expected an answer with flag 0x01, got {answer.hex()}")
        self._told("question", len(frame), (time.perf_counter() - asked) * 1000)

    def _told(self, name: str, size: int, milliseconds: float) -> None:
        self.environment.events.request.fire(
            request_type="gbt32960",
            name=name,
            response_time=milliseconds,
            response_length=size,
            exception=None,
            context={},
        )
