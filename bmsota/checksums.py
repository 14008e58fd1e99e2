"""Checksums, each with its published check value: what it gives for the nine ASCII digits b"123456789".

    bcc_xor               0x31          XOR of all bytes (GB/T 32960.3 table 2; ISO/IEC 7816-3 calls it LRC)
    crc16_ccitt           0x29B1        CRC-16/IBM-3740, initial 0xFFFF; with initial 0 it is CRC-16/XMODEM, 0x31C3
    crc32                 0xCBF43926    CRC-32/ISO-HDLC, as in Ethernet and zlib

The CRCs are the standard library's, which are written in C.
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final
from zlib import crc32 as _zlib_crc32

__all__ = ["bcc_xor", "crc16_ccitt", "crc32"]


_MASKS: Final = tuple((1 << (8 << k)) - 1 for k in range(11))
"""The low 2**k bytes. Up to 1024 bytes: frames of the cloud link are mostly shorter, and larger masks cost memory."""


def bcc_xor(data: bytes | bytearray | memoryview) -> int:
    """Return the XOR of all bytes; 0 for none.

    Strategy: the bytes are one big integer, folded in halves of a power of two bytes until one byte is left. That is
    logarithmically few operations, each in C; a loop over the bytes takes about ten times as long for a usual frame.
    """
    value = int.from_bytes(data, "little")
    k = (len(data) - 1).bit_length() if data else 0
    while k > 11:
        k -= 1
        bits = 8 << k
        value = (value >> bits) ^ (value & ((1 << bits) - 1))
    while k:
        k -= 1
        value = (value >> (8 << k)) ^ (value & _MASKS[k])
    return value


def crc16_ccitt(data: bytes | bytearray | memoryview, initial: int = 0xFFFF) -> int:
    """Return the CRC-16 with polynomial 0x1021, not reflected. Pass an earlier result as *initial* to go on."""
    return crc_hqx(data, initial)


def crc32(data: bytes | bytearray | memoryview, initial: int = 0) -> int:
    """Return the CRC-32 of Ethernet and zlib. Pass an earlier result as *initial* to go on."""
    return _zlib_crc32(data, initial)
