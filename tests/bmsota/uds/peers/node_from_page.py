"""A slave that is flashed over UDS, written from docs/uds.md alone: nothing of bmsota is imported. Unlocked, classic CAN, offers only.

Frames go in as (id, data), replies come out of `out` as data; the clock is an argument in seconds.
"""

from __future__ import annotations

import hashlib
import struct

EMPTY, STAGING, STAGED, TEST_REQUESTED, TEST, CONFIRMED, BAD = range(7)
APPLICATION, BOOTLOADER, RECEIVING = range(3)
NORMAL, IN_TEST, REVERTED = range(3)
DEFAULT, PROGRAMMING, EXTENDED = 1, 2, 3
UNKNOWN = b"\xff" * 32
BLOCK_BYTES, SLOT_KIB = 0xFFF, 128


class RefusedError(Exception):
    """A negative response; its argument is the code."""


class Node:
    def __init__(self, position, class_id):
        self.position, self.class_id = position, class_id
        self.request_ids = {0x7E0 + position, 0x18DA10F1 + 0x100 * position}
        self.functional_ids = {0x7DF, 0x18DB33F1}
        self.out = []
        self.slots = [
            {"state": CONFIRMED, "version": "2.0.0", "counter": 1, "sha": bytes(32), "size": 0, "data": b""},
            {"state": EMPTY, "version": "", "counter": 0, "sha": UNKNOWN, "size": 0, "data": b""},
        ]
        self.active = 0
        self.counter = 1
        self.boots = 0
        self.reset_at = None
        self.heard_at = 0.0
        self.boot()

    @property
    def spare(self):
        return self.slots[1 - self.active]

    def boot(self):
        self.boots += 1
        self.session, self.block = DEFAULT, None
        self.partial, self.rest, self.last = None, b"", None
        self.running, self.reason = self.active, NORMAL
        if self.spare["state"] == TEST:
            self.spare["state"], self.reason = STAGED, REVERTED
        elif self.spare["state"] == TEST_REQUESTED:
            self.spare["state"], self.running, self.reason = TEST, 1 - self.active, IN_TEST

    def turn(self, now):
        if self.reset_at is not None and now >= self.reset_at:
            self.reset_at = None
            self.boot()
        if self.session != DEFAULT and now > self.heard_at + 5:
            self.session, self.block = DEFAULT, None

    # ---- ISO-TP

    def frame(self, can_id, data, now):
        is_functional = can_id in self.functional_ids
        if not data or self.reset_at is not None or not (is_functional or can_id in self.request_ids):
            return
        kind = data[0] >> 4
        if kind == 0:
            self.message(data[1 : 1 + data[0]], is_functional, now)
        elif is_functional:
            return
        elif kind == 1:
            self.partial = [(data[0] & 15) << 8 | data[1], bytearray(data[2:]), 1]
            self.send(b"\x30\0\0")
        elif kind == 2 and self.partial:
            size, gathered, index = self.partial
            gathered += data[1:]
            self.partial = None if data[0] & 15 != index else [size, gathered, index + 1 & 15]
            if self.partial and len(gathered) >= size:
                self.partial = None
                self.message(bytes(gathered[:size]), False, now)
        elif kind == 3:
            for index in range(0, len(self.rest), 7):
                self.send(bytes([0x20 | index // 7 + 1 & 15]) + self.rest[index : index + 7])
            self.rest = b""

    def send(self, data):
        self.out.append(data.ljust(8, b"\xcc"))

    def answer(self, message):
        if len(message) <= 7:
            self.send(bytes([len(message)]) + message)
        else:
            self.send(bytes([0x10 | len(message) >> 8, len(message) & 255]) + message[:6])
            self.rest = message[6:]

    # ---- services

    def message(self, request, is_functional, now):
        self.heard_at = now
        service = request[0]
        if service == 0x3E:
            if not request[1] & 0x80:
                self.answer(b"\x7e\0")
            return
        if service == 0x31 and self.last is not None and self.last[0] == request:
            self.answer(self.last[1])
            return
        try:
            reply = bytes([service + 0x40]) + SERVICES[service](self, request, now)
        except KeyError:
            reply = bytes([0x7F, service, 0x11])
        except RefusedError as error:
            reply = bytes([0x7F, service, *error.args])
        self.last = request, reply
        if not (is_functional and reply[0] == 0x7F):
            self.answer(reply)

    def control_session(self, request, now):
        self.session, self.block = request[1], None
        return bytes([request[1], 0, 50, 1, 0xF4])

    def read(self, request, now):
        text = lambda value: value.encode().ljust(24, b"\0")  # noqa: E731
        running, spare = self.slots[self.running], self.spare
        state = RECEIVING if self.block else BOOTLOADER if self.session == PROGRAMMING else APPLICATION
        states = [slot["state"] for slot in self.slots]
        values = {
            0xF186: bytes([self.session]),
            0xF189: text(running["version"]),
            0xF18C: text("SERIAL-1"),
            0xF191: self.class_id,
            0xF192: text("FROM-THE-PAGE"),
            0xFD00: struct.pack(">BBBHH", 1, 1, 16, BLOCK_BYTES, SLOT_KIB),
            0xFD01: struct.pack(">I", self.counter),
            0xFD02: bytes([state, self.reason, *states, self.active, self.running]),
            0xFD03: struct.pack(">I", self.boots),
            0xFD04: struct.pack(">BII", spare["state"], spare["size"], len(spare["data"])) + spare["sha"],
            0xFD05: running["sha"],
        }
        reply = b""
        for at in range(1, len(request), 2):
            did = request[at] << 8 | request[at + 1]
            reply += request[at : at + 2] + values[did] if did in values else b""
        if not reply:
            raise RefusedError(0x31)
        return reply

    def control_access(self, request, now):
        return bytes([1]) + bytes(32)

    def reset(self, request, now):
        self.need(EXTENDED)
        self.reset_at = now + 0.02
        return request[1:2]

    def need(self, session):
        if self.session not in {PROGRAMMING, session}:
            raise RefusedError(0x7F)

    def routine(self, request, now):
        self.need(EXTENDED)
        number, spare = request[2] << 8 | request[3], self.spare
        reply = b""
        if number == 0xFF00:
            reply = self.offer(request[4:])
        elif number == 0x0202:
            if spare["state"] not in {STAGED, TEST_REQUESTED}:
                raise RefusedError(0x24)
            reply = b"\0"
        elif number == 0xFF01:
            if spare["state"] not in {STAGED, TEST_REQUESTED}:
                raise RefusedError(0xFB)
            spare["state"], reply = TEST_REQUESTED, b"\0"
        elif number == 0xF011:
            if spare["state"] == TEST:
                spare["state"], self.active = CONFIRMED, self.running
            if request[4:] != b"\0":
                self.counter = max(self.counter, self.slots[self.active]["counter"])
        elif number == 0xF012 and spare["state"] in {TEST, TEST_REQUESTED}:
            spare["state"] = STAGED
        else:
            raise RefusedError(0xFB if number == 0xF012 else 0x31)
        return request[1:4] + reply

    def offer(self, record):
        if self.session != PROGRAMMING:
            raise RefusedError(0x22)
        layout, role, size, sha, class_id = struct.unpack(">BBI32s16s", record[:54])
        *version, build, counter = struct.unpack(">BBHII", record[54:66])
        checks = {
            0xF7: layout != 1,
            0xF2: role != 1,
            0xF3: class_id != self.class_id,
            0xF4: size > SLOT_KIB * 1024,
            0xF5: counter < self.counter,
            0xF6: self.running != self.active,
        }
        for code, is_wrong in checks.items():
            if is_wrong:
                raise RefusedError(code)
        spare = self.spare
        if (spare["sha"], spare["size"]) != (sha, size) or spare["state"] in {EMPTY, BAD}:
            text = ".".join(map(str, version)) + (f"+{build}" if build else "")
            spare.update(state=STAGING, sha=sha, size=size, data=b"", version=text, counter=counter)
        return struct.pack(">I", len(spare["data"]))

    def request_download(self, request, now):
        self.need(PROGRAMMING)
        offset, size = struct.unpack(">II", request[3:11])
        if request[2] != 0x44 or offset != len(self.spare["data"]) or offset + size != self.spare["size"]:
            raise RefusedError(0x31)
        self.block = 1
        return b"\x20" + struct.pack(">H", BLOCK_BYTES)

    def transfer(self, request, now):
        if self.block is None:
            raise RefusedError(0x24)
        if request[1] == self.block & 255:
            self.spare["data"] += request[2:]
            self.block += 1
        elif self.block == 1 or request[1] != self.block - 1 & 255:
            raise RefusedError(0x73)
        return request[1:2]

    def exit(self, request, now):
        spare = self.spare
        if self.block is None or len(spare["data"]) < spare["size"]:
            raise RefusedError(0x24)
        self.block = None
        if hashlib.sha256(spare["data"]).digest() != spare["sha"]:
            spare["state"] = BAD
            raise RefusedError(0xFC)
        spare["state"] = STAGED
        return b""


SERVICES = {
    0x10: Node.control_session,
    0x11: Node.reset,
    0x22: Node.read,
    0x27: Node.control_access,
    0x31: Node.routine,
    0x34: Node.request_download,
    0x36: Node.transfer,
    0x37: Node.exit,
}
