"""How long a CAN frame occupies the bus, and what a bus can carry at most.

ISO 11898-1. A frame lasts from its start bit to the end of the third intermission bit, stuff bits included; the bits of a
CAN FD frame run at two rates, those between the bit rate switch and the CRC delimiter at the data rate. The switch itself
is charged wholly to the slow part and the delimiter wholly to the fast one (each really changes rate at its sample point).

Stuffing. `Stuffing.EXPECTED` charges the mean for random data of the frame's length (fractions of a bit included; over a
transfer the sum is right to a few tenths of a percent). `Stuffing.EXACT` builds the frame, CRC included, and counts.
"""

from __future__ import annotations

from enum import Enum

from bmsota.canframe import CanFrame
from bmsota.errors import LocalProtocolError

__all__ = [
    "FD_SIZES",
    "Stuffing",
    "ceiling_bytes_per_s",
    "frame_bits",
    "frame_stuff_bits",
    "wire_seconds",
]

FD_SIZES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64)
"""The data lengths a CAN FD frame can have; the index is the length code. Those up to 8 are a classic frame's."""


class Stuffing(Enum):
    """How stuff bits are charged."""

    EXPECTED = "expected"
    EXACT = "exact"


# Mean stuff bits of a classic frame with 0..8 random data bytes, and of a CAN FD frame (arbitration rate, data rate) with
# random data of each legal size. Means of 100,000 (CAN FD: 20,000) frames counted by `frame_stuff_bits`, identifiers 0x3A5 and 0x18FF50E5;
# the tests count again.
_STUFF_CLASSIC: dict[bool, tuple[float, ...]] = {
    False: (2.0, 1.69, 1.96, 2.43, 1.56, 1.76, 2.03, 2.49, 2.76),
    True: (4.0, 3.69, 3.96, 4.42, 3.56, 3.76, 4.03, 4.49, 4.76),
}
_STUFF_FD: dict[bool, tuple[tuple[float, float], ...]] = {
    False: (
        (0.0, 1.0),
        (0.0, 0.19),
        (0.0, 0.46),
        (0.0, 0.78),
        (0.0, 1.06),
        (0.0, 1.26),
        (0.0, 1.52),
        (0.0, 2.01),
        (0.0, 2.26),
        (0.0, 3.11),
        (0.0, 4.22),
        (0.0, 5.34),
        (0.0, 6.4),
        (0.0, 8.45),
        (0.0, 12.72),
        (0.0, 17.48),
    ),
    True: (
        (2.0, 1.0),
        (2.0, 0.19),
        (2.0, 0.46),
        (2.0, 0.78),
        (2.0, 1.06),
        (2.0, 1.26),
        (2.0, 1.52),
        (2.0, 1.99),
        (2.0, 2.25),
        (2.0, 3.13),
        (2.0, 4.17),
        (2.0, 5.34),
        (2.0, 6.38),
        (2.0, 8.45),
        (2.0, 12.72),
        (2.0, 17.42),
    ),
}


def _crc15_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << 7
        for _ in range(8):
            crc = (crc << 1 ^ 0x4599) if crc & 0x4000 else crc << 1
        table.append(crc & 0x7FFF)
    return tuple(table)


def _stuff_table() -> tuple[tuple[tuple[int, int], ...], ...]:
    """[state][byte] -> (next state, stuff bits). State: 2 * run + last bit, run 1..4; 0 before the first bit."""
    return tuple(tuple(_stuff_steps(state, byte, 8) for byte in range(256)) for state in range(10))


def _stuff_steps(state: int, value: int, width: int) -> tuple[int, int]:
    run, last = state >> 1, state & 1
    count = 0
    for index in range(width - 1, -1, -1):
        bit = value >> index & 1
        run = run + 1 if run and bit == last else 1
        last = bit
        if run == 5:
            count += 1
            last, run = 1 - bit, 1  # The stuff bit starts a run of its own.
    return run << 1 | last, count


_CRC15 = _crc15_table()
_STUFF = _stuff_table()


def _count_stuff(value: int, width: int) -> int:
    """Stuff bits a transmitter inserts into *width* bits."""
    state, count = _stuff_steps(0, value >> (width - width % 8), width % 8)
    for byte in (value & (1 << width - width % 8) - 1).to_bytes(width // 8, "big"):
        state, more = _STUFF[state][byte]
        count += more
    return count


def _head(frame: CanFrame) -> tuple[int, int]:
    """(bits, width) from the start bit to the last one before the DLC; for CAN FD to the bit rate switch."""
    if frame.is_extended_id:
        bits = (frame.can_id >> 18) << 20 | 0b11 << 18 | frame.can_id & 0x3FFFF  # SRR and IDE between the two parts.
        return (bits << 4 | 0b0101, 36) if frame.is_fd else (bits << 3, 35)
    return (frame.can_id << 5 | 0b00101, 17) if frame.is_fd else (frame.can_id << 3, 15)


def frame_stuff_bits(frame: CanFrame) -> tuple[int, int]:
    """The exact number of stuff bits: (at the arbitration rate, at the data rate); the latter only for CAN FD.

    The fixed stuff bits of a CAN FD frame's CRC are part of `frame_bits`, not of this.
    """
    head, width = _head(frame)
    length = len(frame.data)
    if frame.is_fd:
        slow = _count_stuff(head, width)
        body = head << 5 | FD_SIZES.index(length)  # ESI (0) and the DLC.
        return slow, _count_stuff(body << 8 * length | int.from_bytes(frame.data, "big"), width + 5 + 8 * length) - slow
    bits = (head << 4 | length) << 8 * length | int.from_bytes(frame.data, "big")
    width += 4 + 8 * length
    crc = 0
    for byte in bits.to_bytes((width + 7) // 8, "big"):  # Leading zeros do not change a CRC that starts at zero.
        crc = (crc << 8 & 0x7FFF) ^ _CRC15[crc >> 7 ^ byte]
    return _count_stuff(bits << 15 | crc, width + 15), 0


def frame_bits(frame: CanFrame, stuffing: Stuffing = Stuffing.EXPECTED) -> tuple[float, float]:
    """Bits from the start bit to the third intermission bit: (at the arbitration rate, at the data rate).

    Raises:
        LocalProtocolError: the frame cannot exist on a bus (identifier or data too long).
    """
    length, extended = len(frame.data), frame.is_extended_id
    if frame.can_id >> (29 if extended else 11) or frame.can_id < 0:
        raise LocalProtocolError(f"expected an identifier of {29 if extended else 11} bits, got 0x{frame.can_id:X}")
    if length not in FD_SIZES if frame.is_fd else length > 8:
        raise LocalProtocolError(f"expected a data length that CAN{' FD' * frame.is_fd} has, got {length}")
    stuff: tuple[float, float]
    if stuffing is Stuffing.EXACT:
        stuff = frame_stuff_bits(frame)
    elif frame.is_fd:
        stuff = _STUFF_FD[extended][FD_SIZES.index(length)]
    else:
        stuff = (_STUFF_CLASSIC[extended][length], 0)
    if not frame.is_fd:
        return (67 if extended else 47) + 8 * length + stuff[0], 0
    crc = 21 if length > 16 else 17
    fixed = 1 + (4 + crc) // 4  # One before the stuff count, then one after every fourth bit of stuff count and CRC.
    # Slow: up to the bit rate switch, then acknowledgement, end of frame and intermission (12). Fast: ESI, DLC, data,
    # stuff count (4), CRC with its fixed stuff bits, CRC delimiter.
    return (36 if extended else 17) + 12 + stuff[0], 5 + 8 * length + 4 + crc + fixed + 1 + stuff[1]


def wire_seconds(
    frame: CanFrame, bitrate_bps: int, data_bitrate_bps: int | None = None, *, stuffing: Stuffing = Stuffing.EXPECTED
) -> float:
    """How long *frame* occupies the bus. Without *data_bitrate_bps* a CAN FD frame does not switch its rate.

    Raises:
        LocalProtocolError: the frame cannot exist on a bus.
    """
    slow, fast = frame_bits(frame, stuffing)
    return slow / bitrate_bps + fast / (data_bitrate_bps or bitrate_bps)


def ceiling_bytes_per_s(bitrate_bps: int, *, extended: bool, data_bitrate_bps: int | None = None) -> float:
    """The payload the wire could carry: full data frames back to back and nothing else, with expected stuffing.

    *extended*: 29-bit identifiers. *data_bitrate_bps*: CAN FD frames of 64 bytes; None: classic frames of 8.
    """
    size_bytes = 8 if data_bitrate_bps is None else 64
    frame = CanFrame(0, bytes(size_bytes), is_extended_id=extended, is_fd=data_bitrate_bps is not None)
    return size_bytes / wire_seconds(frame, bitrate_bps, data_bitrate_bps)
