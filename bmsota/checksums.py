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


_LOW_256_BYTES: Final = (1 << 2048) - 1
_LOW_128_BYTES: Final = (1 << 1024) - 1
_LOW_64_BYTES: Final = (1 << 512) - 1
_LOW_32_BYTES: Final = (1 << 256) - 1
_LOW_16_BYTES: Final = (1 << 128) - 1
_LOW_8_BYTES: Final = (1 << 64) - 1


def bcc_xor(data: bytes | bytearray | memoryview) -> int:
    """Return the XOR of all bytes; 0 for none.

    Strategy: the bytes are one big integer, folded in halves until one byte is left. That is logarithmically few operations,
    each in C; a loop over the bytes takes about ten times as long for a usual frame. The last nine folds are written out,
    because for frames below 512 bytes, which are nearly all, a loop around them costs as much as they do.
    """
    size = len(data)
    value = int.from_bytes(data, "little")
    if size > 64:
        if size > 512:
            bits = 8 << (size - 1).bit_length() - 1
            while bits > 2048:
                value = (value >> bits) ^ (value & ((1 << bits) - 1))
                bits >>= 1
        value = (value >> 2048) ^ (value & _LOW_256_BYTES)
        value = (value >> 1024) ^ (value & _LOW_128_BYTES)
        value = (value >> 512) ^ (value & _LOW_64_BYTES)
    if size > 32:
        value = (value >> 256) ^ (value & _LOW_32_BYTES)
    value = (value >> 128) ^ (value & _LOW_16_BYTES)
    value = (value >> 64) ^ (value & _LOW_8_BYTES)
    value ^= value >> 32
    value ^= value >> 16
    return (value ^ value >> 8) & 0xFF


def crc16_ccitt(data: bytes | bytearray | memoryview, initial: int = 0xFFFF) -> int:
    """Return the CRC-16 with polynomial 0x1021, not reflected. Pass an earlier result as *initial* to go on."""
    return crc_hqx(data, initial)


def crc32(data: bytes | bytearray | memoryview, initial: int = 0) -> int:
    """Return the CRC-32 of Ethernet and zlib. Pass an earlier result as *initial* to go on."""
    return _zlib_crc32(data, initial)
