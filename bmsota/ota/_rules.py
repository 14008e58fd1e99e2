"""The rules for values in documents and device messages, each said once.

A rule raises `LocalProtocolError`: a caller that builds a document with such a value has a bug. The parsers turn the same error
into `TrustError` or `RemoteProtocolError`, because then the value came from outside.
"""

from __future__ import annotations

import re
from typing import Any, Final

from bmsota.errors import LocalProtocolError

DIGEST_SIZE_BYTES: Final = 32

# A name may become part of a URL path or a file name. No slash, and no leading dot: ".." leads nowhere.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}", re.ASCII)
# ISO 3779 length; letters are not checked further, test fleets use I, O and Q.
_VIN = re.compile(r"[A-Z0-9]{17}", re.ASCII)
# Command 0xC0 of the cloud link's extension carries 1 to 24 printable ASCII characters.
_HWID = re.compile(r"[!-~]{1,24}", re.ASCII)


def expect(condition: bool, where: str, expected: str, received: object) -> None:
    """Raise unless *condition* holds."""
    if not condition:
        raise LocalProtocolError(f"{where}: expected {expected}, got {str(received)[:80]}")


def expect_integer(where: str, value: Any, *, maximum: int = 2**63 - 1, minimum: int = 0) -> None:
    """An integer; `True` is none."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    expect(is_integer and minimum <= value <= maximum, where, f"an integer {minimum}..{maximum}", repr(value))


def expect_text(where: str, value: Any, *, length_max: int, length_min: int = 0) -> None:
    """Printable text, of any script."""
    expect(
        isinstance(value, str) and length_min <= len(value) <= length_max and value.isprintable(),
        where,
        f"{length_min}..{length_max} printable characters",
        repr(value),
    )


def expect_name(where: str, value: Any) -> None:
    """A name that may stand in a path."""
    expect(
        isinstance(value, str) and _NAME.fullmatch(value) is not None,
        where,
        "1..64 letters, digits, . _ + -",
        repr(value),
    )


def expect_vin(where: str, value: Any) -> None:
    """A vehicle identification number."""
    expect(isinstance(value, str) and _VIN.fullmatch(value) is not None, where, "17 capitals or digits", repr(value))


def expect_hwid(where: str, value: Any) -> None:
    """The unique hardware id of a master or slave."""
    expect(isinstance(value, str) and _HWID.fullmatch(value) is not None, where, "1..24 printable ASCII", repr(value))


def expect_octets(where: str, value: Any, *, size_bytes: int) -> None:
    """A byte string of one size."""
    expect(isinstance(value, bytes) and len(value) == size_bytes, where, f"{size_bytes} bytes", repr(value))


def expect_digest(where: str, value: Any) -> None:
    """A SHA-256, or None where it is not known."""
    if value is not None:
        expect_octets(where, value, size_bytes=DIGEST_SIZE_BYTES)


def expect_count(where: str, value: Any, *, maximum: int, minimum: int = 0) -> None:
    """A tuple or list with a limited number of members."""
    is_list = isinstance(value, tuple | list)
    expect(
        is_list and minimum <= len(value) <= maximum,
        where,
        f"{minimum}..{maximum} members",
        len(value) if is_list else type(value).__name__,
    )
