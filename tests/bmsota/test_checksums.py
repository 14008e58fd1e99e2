"""Checksums against their published check values and against the plain way to compute them."""

from __future__ import annotations

from functools import reduce
from operator import xor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmsota.checksums import bcc_xor, crc16_ccitt, crc32

DIGITS = b"123456789"


def test_check_values():
    """Each checksum gives its published value for the nine digits (reveng's catalogue of CRC algorithms)."""
    assert bcc_xor(DIGITS) == 0x31
    assert crc16_ccitt(DIGITS) == 0x29B1
    assert crc16_ccitt(DIGITS, 0) == 0x31C3
    assert crc32(DIGITS) == 0xCBF43926


def test_a_checksum_can_be_continued():
    """A checksum over two parts is that of the whole."""
    assert crc32(DIGITS[4:], crc32(DIGITS[:4])) == crc32(DIGITS)
    assert crc16_ccitt(DIGITS[4:], crc16_ccitt(DIGITS[:4])) == crc16_ccitt(DIGITS)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 9, 255, 256, 257, 1023, 1024, 1025, 2047, 2048, 2049, 4096, 65556])
def test_bcc_at_the_edges_of_its_folding(size):
    """Folding in halves of a power of two gives the XOR of all bytes at every size around those powers."""
    data = bytes((7 * i + 3 * (i >> 8) + 1) & 0xFF for i in range(size))
    assert bcc_xor(data) == reduce(xor, data, 0)


@given(st.binary(max_size=600))
def test_bcc_is_the_xor_of_all_bytes(data):
    """For any bytes, of any of the accepted types."""
    expected = reduce(xor, data, 0)
    assert bcc_xor(data) == expected
    assert bcc_xor(bytearray(data)) == expected
    assert bcc_xor(memoryview(data)) == expected
