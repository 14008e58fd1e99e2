"""The cloud link's codec against careful hand-written code, on the 342-byte report of 96 cells and 32 probes.

The baselines are what a good engineer would write for this one layout with `struct` and dictionaries: check byte verified in a
few big-integer operations, engineering values, sentinels looked at, cells by look-up table. The codec under test does the same for
every layout, with types.

The batches are 1,000 reports of that layout, to columns and back. `batch decode` is given a list of `bytes`; a good part of its
time is asking each object for its length and joining them. `batch decode buffer` is given them as a receive buffer or a capture has
them: one buffer, and an array that says where each frame begins. Both check every frame whole, and convert every column.

`batch decode mixed` is 1,000 reports of nothing but alarms in 100 layouts, which differ in their fault lists: the worst case for
columns, because a short frame is quickly decoded and ten frames share little. Its baseline is `decode` in a loop. `batch decode one`,
`two`, `three` and `small` are so many (small: seven) of the reports: checked and grouped, their columns not looked at yet; the rows with
`read` look at every one. Where these are below 1, who wants all numbers of so few frames calls `decode`.

`rtm_con`, the only other Python package of some size, is measured in the same run if it is installed. It is GPL: nothing of it
is part of this project.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._figures import Figure, compare, print_figures
from bmsota.gbt32960 import (
    BEIJING,
    Alarms,
    CellVoltages,
    Command,
    DriveMotor,
    DriveMotors,
    Extremes,
    Frame,
    FrameReader,
    FrameReceived,
    Position,
    ProbeTemperatures,
    Report,
    SubsystemTemperatures,
    SubsystemVoltages,
    VehicleData,
    decode,
    decode_batch,
    decode_header,
    encode,
    encode_batch,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.gbt32960 import FrameColumns

VIN = "LBMF7EV01R0000001"


def report_frame() -> Frame:
    """The frame of section 10 of the measured comparison: 342 bytes."""
    return Frame(
        command=Command.REALTIME_REPORT,
        vin=VIN,
        message=Report(
            datetime(2026, 11, 22, 8, 0, 0, tzinfo=BEIJING),
            (
                VehicleData(1, 3, 1, 48.0, 12345.6, 355.2, 20.1, 73, 1, 15, 5000, 20, 0),
                DriveMotors((DriveMotor(1, 1, 41, 4320, 15.0, 48, 355.2, 20.1),)),
                Position(True, 121.473701, 31.230416),
                Extremes(1, 17, 3.712, 1, 80, 3.689, 1, 4, 31, 1, 28, 27),
                Alarms(0, 0),
                CellVoltages(
                    (SubsystemVoltages(1, 355.2, 20.1, 96, 1, tuple((3689 + n % 24) / 1000 for n in range(96))),)
                ),
                ProbeTemperatures((SubsystemTemperatures(1, tuple(27 + n % 5 for n in range(32))),)),
            ),
        ),
    )


def mixed_frames() -> list[bytes]:
    """1,000 reports of alarms with up to 49 and 19 faults, in 100 layouts."""
    time = datetime(2026, 1, 1, tzinfo=BEIJING)
    return [
        encode(
            Frame(
                command=Command.REALTIME_REPORT,
                vin=VIN,
                message=Report(time, (Alarms(1, 0, tuple(range(n % 50)), tuple(range(n * 7 % 20))),)),
            )
        )
        for n in range(1000)
    ]


FEW = {"one": 1, "two": 2, "three": 3, "small": 7}
_HEADER = struct.Struct(">2sBB17sBH")
_VEHICLE = struct.Struct(">BBBHIHHBBBHBB")
_MOTOR = struct.Struct(">BBBHHBHH")
_POSITION = struct.Struct(">BII")
_EXTREMES = struct.Struct(">BBHBBHBBBBBB")
_SUBSYSTEM = struct.Struct(">BHHHHB")
_ZONE = timezone(timedelta(hours=8))
_ABNORMAL, _INVALID = "abnormal", "invalid"


def _word(raw: int, scale: float, offset: float = 0.0) -> float | str:
    return raw / scale + offset if raw < 0xFFFE else _INVALID if raw == 0xFFFF else _ABNORMAL


def _byte(raw: int, offset: int = 0) -> int | str:
    return raw + offset if raw < 0xFE else _INVALID if raw == 0xFF else _ABNORMAL


_CELLS = [_word(raw, 1000) for raw in range(0x10000)]
_TEMPERATURES = [_byte(raw, -40) for raw in range(0x100)]


def _fold(data: bytes) -> int:
    """The XOR of all bytes (512 at most): a big integer folded in halves, five times as fast as `reduce(xor, data)`."""
    value = int.from_bytes(data, "little")
    value = (value >> 2048) ^ (value & (1 << 2048) - 1)
    value = (value >> 1024) ^ (value & (1 << 1024) - 1)
    value = (value >> 512) ^ (value & (1 << 512) - 1)
    value = (value >> 256) ^ (value & (1 << 256) - 1)
    value = (value >> 128) ^ (value & (1 << 128) - 1)
    value = (value >> 64) ^ (value & (1 << 64) - 1)
    value ^= value >> 32
    value ^= value >> 16
    return (value ^ value >> 8) & 0xFF


def struct_decode(data: bytes) -> dict[str, object]:
    """A decoder by hand for exactly the bodies of `report_frame`, in any order."""
    start, command, flag, vin, cipher, length = _HEADER.unpack_from(data)
    if start != b"##" or len(data) != 25 + length or _fold(data):
        raise ValueError("no valid frame")
    out: dict[str, object] = {"command": command, "flag": flag, "vin": vin.decode(), "cipher": cipher}
    year, month, day, hour, minute, second = data[24:30]
    out["time"] = datetime(2000 + year, month, day, hour, minute, second, tzinfo=_ZONE)
    at, end = 30, 24 + length
    while at < end:
        kind = data[at]
        at += 1
        if kind == 1:
            a, b, c, speed, odometer, volts, amps, soc, dcdc, gear, insulation, acc, brake = _VEHICLE.unpack_from(
                data, at
            )
            out["vehicle"] = {
                "state": _byte(a), "charging": _byte(b), "mode": _byte(c), "speed": _word(speed, 10),
                "odometer": odometer / 10 if odometer < 0xFFFFFFFE else _INVALID, "voltage": _word(volts, 10),
                "current": _word(amps, 10, -1000.0), "soc": _byte(soc), "dcdc": _byte(dcdc), "gear": gear,
                "insulation": _word(insulation, 1), "accelerator": _byte(acc), "brake": _byte(brake),
            }  # fmt: skip
            at += 20
        elif kind == 2:
            motors = []
            for index in range(data[at]):
                n, state, ct, speed, torque, mt, volts, amps = _MOTOR.unpack_from(data, at + 1 + 12 * index)
                motors.append({
                    "number": n, "state": _byte(state), "controller": _byte(ct, -40), "speed": _word(speed, 1, -20000),
                    "torque": _word(torque, 10, -2000.0), "temperature": _byte(mt, -40), "voltage": _word(volts, 10),
                    "current": _word(amps, 10, -1000.0),
                })  # fmt: skip
            out["motors"] = motors
            at += 1 + 12 * len(motors)
        elif kind == 5:
            status, longitude, latitude = _POSITION.unpack_from(data, at)
            out["position"] = {
                "valid": not status & 1,
                "longitude": longitude / 1e6 * (-1 if status & 4 else 1),
                "latitude": latitude / 1e6 * (-1 if status & 2 else 1),
            }
            at += 9
        elif kind == 6:
            a, b, high, c, d, low, e, f, hot, g, h, cold = _EXTREMES.unpack_from(data, at)
            out["extremes"] = {
                "max": (_byte(a), _byte(b), _word(high, 1000)), "min": (_byte(c), _byte(d), _word(low, 1000)),
                "hot": (_byte(e), _byte(f), _byte(hot, -40)), "cold": (_byte(g), _byte(h), _byte(cold, -40)),
            }  # fmt: skip
            at += 14
        elif kind == 7:
            out["level"], out["flags"] = _byte(data[at]), int.from_bytes(data[at + 1 : at + 5], "big")
            at += 5
            for name in ("ress", "motor", "engine", "other"):
                count = data[at]
                out[name] = struct.unpack_from(f">{count}I", data, at + 1)
                at += 1 + 4 * count
        elif kind == 8:
            subsystems = []
            count, at = data[at], at + 1
            for _ in range(count):
                number, volts, amps, cells, first, here = _SUBSYSTEM.unpack_from(data, at)
                raw = struct.unpack_from(f">{here}H", data, at + 10)
                subsystems.append({
                    "number": number, "voltage": _word(volts, 10), "current": _word(amps, 10, -1000.0), "cells": cells,
                    "first": first, "voltages": [_CELLS[value] for value in raw],
                })  # fmt: skip
                at += 10 + 2 * here
            out["voltages"] = subsystems
        elif kind == 9:
            probes = []
            count, at = data[at], at + 1
            for _ in range(count):
                number, here = data[at], int.from_bytes(data[at + 1 : at + 3], "big")
                probes.append(
                    {"number": number, "temperatures": [_TEMPERATURES[v] for v in data[at + 3 : at + 3 + here]]}
                )
                at += 3 + here
            out["temperatures"] = probes
        else:
            raise ValueError(f"unknown body {kind}")
    return out


def struct_encode(values: dict[str, object]) -> bytes:
    """The inverse of `struct_decode`, as far as the benchmark's frame needs it."""
    time = values["time"]
    vehicle, motors, position = values["vehicle"], values["motors"], values["position"]
    extremes = values["extremes"]
    assert isinstance(time, datetime)
    body = [bytes((time.year - 2000, time.month, time.day, time.hour, time.minute, time.second)), b"\x01"]
    body.append(
        _VEHICLE.pack(
            vehicle["state"],
            vehicle["charging"],
            vehicle["mode"],
            round(vehicle["speed"] * 10),
            round(vehicle["odometer"] * 10),
            round(vehicle["voltage"] * 10),
            round((vehicle["current"] + 1000) * 10),
            vehicle["soc"],
            vehicle["dcdc"],
            vehicle["gear"],
            round(vehicle["insulation"]),
            vehicle["accelerator"],
            vehicle["brake"],
        )
    )
    body.append(bytes((2, len(motors))))
    body.extend(
        _MOTOR.pack(
            m["number"], m["state"], m["controller"] + 40, round(m["speed"] + 20000), round((m["torque"] + 2000) * 10),
            m["temperature"] + 40, round(m["voltage"] * 10), round((m["current"] + 1000) * 10),
        )
        for m in motors
    )  # fmt: skip
    body.append(b"\x05")
    status = (not position["valid"]) | (position["latitude"] < 0) << 1 | (position["longitude"] < 0) << 2
    body.append(_POSITION.pack(status, round(abs(position["longitude"]) * 1e6), round(abs(position["latitude"]) * 1e6)))
    (a, b, high), (c, d, low) = extremes["max"], extremes["min"]
    (e, f, hot), (g, h, cold) = extremes["hot"], extremes["cold"]
    body.append(
        b"\x06" + _EXTREMES.pack(a, b, round(high * 1000), c, d, round(low * 1000), e, f, hot + 40, g, h, cold + 40)
    )
    body.append(b"\x07" + struct.pack(">BI", values["level"], values["flags"]))
    for name in ("ress", "motor", "engine", "other"):
        codes = values[name]
        body.append(struct.pack(f">B{len(codes)}I", len(codes), *codes))
    body.append(bytes((8, len(values["voltages"]))))
    for s in values["voltages"]:
        cells = s["voltages"]
        head = (
            s["number"],
            round(s["voltage"] * 10),
            round((s["current"] + 1000) * 10),
            s["cells"],
            s["first"],
            len(cells),
        )
        body.append(_SUBSYSTEM.pack(*head) + struct.pack(f">{len(cells)}H", *[round(v * 1000) for v in cells]))
    body.append(bytes((9, len(values["temperatures"]))))
    for s in values["temperatures"]:
        probes = s["temperatures"]
        body.append(struct.pack(">BH", s["number"], len(probes)) + bytes([v + 40 for v in probes]))
    unit = b"".join(body)
    data = (
        _HEADER.pack(b"##", values["command"], values["flag"], values["vin"].encode(), values["cipher"], len(unit))
        + unit
    )
    return data + bytes((_fold(data),))  # The two start bytes cancel each other.


def figures() -> list[Figure]:
    frame = report_frame()
    data = encode(frame)
    by_hand = struct_decode(data)
    assert len(data) == 342
    assert decode(data) == frame
    assert struct_encode(by_hand) == data
    glued = data * 50
    batch = [encode(replace(frame, vin=f"LBMF7EV01R{number:07d}")) for number in range(1000)]
    buffer, offsets = b"".join(batch), np.arange(len(batch) + 1) * len(data)
    mixed = mixed_frames()
    columns = decode_batch(batch)
    assert len(decode_batch(mixed).groups) == 100
    assert encode_batch(decode_batch(mixed)) == mixed
    assert encode_batch(columns) == batch
    assert encode_batch(decode_batch(buffer, offsets)) == batch
    assert len(columns.groups) == 1

    def repeat(function: object, *arguments: object, times: int = 50) -> object:
        def work() -> int:
            for _ in range(times):
                function(*arguments)
            return times

        return work

    def few(function: Callable[[list[bytes]], FrameColumns], frames: list[bytes]) -> Callable[[], int]:
        return lambda: sum(len(function(frames)) for _ in range(20))

    def read_all(frames: list[bytes]) -> FrameColumns:
        found = decode_batch(frames)
        assert all(group.to_dict() for group in found.groups)
        return found

    def read_stream() -> int:
        reader = FrameReader()
        reader.receive_data(glued)
        count = 0
        while isinstance(reader.next_event(), FrameReceived):
            count += 1
        assert count == 50
        return count

    contenders = {
        "struct decode": repeat(struct_decode, data),
        "struct encode": repeat(struct_encode, by_hand),
        "single decode": repeat(decode, data),
        "single encode": repeat(encode, frame),
        "routing": repeat(decode_header, data),
        "reader": read_stream,
        "batch decode": lambda: len(decode_batch(batch)),
        "batch decode buffer": lambda: len(decode_batch(buffer, offsets)),
        "batch decode mixed": lambda: len(decode_batch(mixed)),
        "loop over mixed": lambda: len([decode(each) for each in mixed]),
        **{f"batch decode {name}": few(decode_batch, batch[:count]) for name, count in FEW.items()},
        **{f"batch decode {name} read": few(read_all, batch[:count]) for name, count in FEW.items()},
        "batch encode": lambda: len(encode_batch(columns)),
    }
    baselines = {
        "single decode": "struct decode",
        "single encode": "struct encode",
        "routing": "struct decode",
        "reader": "single decode",
        "batch decode": "struct decode",
        "batch decode buffer": "struct decode",
        "batch decode mixed": "loop over mixed",
        **{f"batch decode {name}{read}": "single decode" for name in FEW for read in ("", " read")},
        "batch encode": "struct encode",
    }
    if find_spec("rtm_con") is not None:
        peer = import_module("rtm_con").msg_checked
        parsed = peer.parse(data)
        contenders["rtm_con decode"] = repeat(peer.parse, data, times=5)
        contenders["rtm_con encode"] = repeat(peer.build, parsed, times=5)
        baselines["rtm_con decode"] = "single decode"
        baselines["rtm_con encode"] = "single encode"
    return compare(contenders, baselines, unit="frames/CPU-s")


if __name__ == "__main__":
    print_figures("codec", figures)
