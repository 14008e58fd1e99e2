"""Checksums, each with its published check value: what it gives for the nine ASCII digits b"123456789".

    bcc_xor               0x31          XOR of all bytes (GB/T 32960.3 table 2; ISO/IEC 7816-3 calls it LRC)
    crc16_ccitt           0x29B1        CRC-16/IBM-3740, initial 0xFFFF; with initial 0 it is CRC-16/XMODEM, 0x31C3
    crc32                 0xCBF43926    CRC-32/ISO-HDLC, as in Ethernet and zlib

The CRCs are the standard library's, which are written in C.
"""

from __future__ import annotations

from binascii import crc_hqx
from zlib import crc32 as _zlib_crc32

__all__ = ["bcc_xor", "crc16_ccitt", "crc32"]


def bcc_xor(data: bytes | bytearray | memoryview) -> int:
    """Return the XOR of all bytes; 0 for none.

    The bytes are taken as one big integer that is folded in half until one byte is left: about two times faster than a
    loop over the bytes per fold, and logarithmically few folds.
    """
    size = len(data)
    value = int.from_bytes(data, "big")
    while size > 1:
        # The upper part is never longer than the lower one, so that the fold halves the number for good.
        half = (size + 1) >> 1
        bits = half << 3
        value = (value >> bits) ^ (value & ((1 << bits) - 1))
        size = half
    return value


def crc16_ccitt(data: bytes | bytearray | memoryview, initial: int = 0xFFFF) -> int:
    """Return the CRC-16 with polynomial 0x1021, not reflected. Pass an earlier result as *initial* to go on."""
    return crc_hqx(data, initial)


def crc32(data: bytes | bytearray | memoryview, initial: int = 0) -> int:
    """Return the CRC-32 of Ethernet and zlib. Pass an earlier result as *initial* to go on."""
    return _zlib_crc32(data, initial)
