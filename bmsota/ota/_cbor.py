"""Plain, deterministic CBOR (RFC 8949, section 4.2.1): the only encoding our documents and messages use.

Plain means integers, byte strings, text strings, arrays, maps with text or integer keys, booleans and null. There is no
floating point, no tag (but COSE's own, where the caller allows it), nothing of indefinite length.

Strategy: cbor2 does the decoding, but it knows tags that build dates, regular expressions and big numbers, and its
errors are many. So we first walk the bytes with a few lines that accept the plain subset only and bound depth and item
count; what passes is harmless to decode. Then we encode the result again: other bytes mean a longer form, unsorted or
doubled keys, and are refused. One value, one encoding, hence one digest.
"""

from __future__ import annotations

from typing import Any, Final

import cbor2

from bmsota._words import counted

COSE_SIGN1_TAG: Final = 18

# Our deepest document is map, array, map, array (a version); the rest is room for one more idea.
DEPTH_MAX: Final = 6

# A manifest of 64 images has about 1 300 items. More is no document of ours, whatever its size.
ITEMS_MAX: Final = 4096


class CborError(ValueError):
    """Bytes that are not plain, deterministic CBOR. Callers translate it; it never leaves `bmsota.ota`."""


def encode(value: Any) -> bytes:
    """Encode *value*, which must be plain, deterministically."""
    # cbor2 sorts keys by length first (RFC 7049). For keys shorter than 24 bytes that is the order of RFC 8949.
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, *, tag: int | None = None) -> Any:
    """Decode exactly one item.

    Args:
        data: the bytes, of a length the caller has bounded.
        tag: the one tag the item must stand in; its content is returned. None: no tag.

    Raises:
        CborError: the bytes are anything but one plain item in deterministic encoding.
    """
    start = 0
    if tag is not None:
        start = 1
        if data[:1] != bytes([0xC0 | tag]):
            raise CborError(f"expected tag {tag}, got {data[:1].hex() or 'nothing'}")
    _walk(data, start)
    value = cbor2.loads(data[start:])
    if encode(value) != data[start:]:
        raise CborError("expected deterministic encoding, got another one")
    return value


def _walk(data: bytes, start: int) -> None:
    """Check that one plain item fills *data* from *start* on."""
    offset = start
    # How many items are still missing at each depth; a map of n pairs misses 2n.
    missing = [1]
    is_map = [False]
    items = 0
    while missing:
        if missing[-1] == 0:
            missing.pop()
            is_map.pop()
            continue
        items += 1
        if items > ITEMS_MAX:
            raise CborError(f"expected at most {ITEMS_MAX} items, got more")
        is_key = is_map[-1] and missing[-1] % 2 == 0
        missing[-1] -= 1
        major, argument, offset = _head(data, offset)
        if is_key and major > 3:
            raise CborError(f"expected a text or integer key, got major type {major} (offset {offset})")
        if major in (2, 3):
            if argument > len(data) - offset:
                raise CborError(f"expected a string of {argument} bytes, got {len(data) - offset} (offset {offset})")
            if major == 3:
                _check_text(data[offset : offset + argument], offset)
            offset += argument
        elif major in (4, 5):
            if argument > ITEMS_MAX or len(missing) == DEPTH_MAX:
                raise CborError(f"expected depth <= {DEPTH_MAX} and {ITEMS_MAX} items, got more (offset {offset})")
            missing.append(argument * (major - 3))
            is_map.append(major == 5)
    if offset != len(data):
        raise CborError(f"expected the end, got {counted(len(data) - offset, 'more byte')} (offset {offset})")


def _head(data: bytes, offset: int) -> tuple[int, int, int]:
    """Read an item's head: major type, argument, offset behind it."""
    if offset >= len(data):
        raise CborError(f"expected an item, got the end (offset {offset})")
    major, low = data[offset] >> 5, data[offset] & 0x1F
    offset += 1
    if low < 24:
        argument = low
    elif low < 28:
        size = 1 << (low - 24)
        if size > len(data) - offset:
            raise CborError(f"expected {size} bytes of a head, got {len(data) - offset} (offset {offset})")
        argument = int.from_bytes(data[offset : offset + size], "big")
        offset += size
    else:
        raise CborError(f"expected a definite length, got {low} (offset {offset})")
    if major == 6 or (major == 7 and low not in (20, 21, 22)):  # false, true, null
        raise CborError(f"expected a plain item, got major type {major} with {low} (offset {offset})")
    return major, argument, offset


def _check_text(octets: bytes, offset: int) -> None:
    try:
        octets.decode()
    except UnicodeDecodeError as error:
        raise CborError(f"expected UTF-8 text, got {error.reason} (offset {offset})") from error
