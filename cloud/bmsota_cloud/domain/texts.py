"""Text from outside: what no database keeps."""

from __future__ import annotations

from urllib.parse import unquote_plus

from bmsota_cloud.domain.errors import InvalidInputError

__all__ = ["check_address", "expect_no_nul"]


def expect_no_nul(text: str) -> str:
    """*text*, unless it has a NUL character: PostgreSQL does not even compare with one.

    Raises:
        ValueError: it has.
    """
    if "\0" in text:
        raise ValueError("expected text without NUL characters")
    return text


def check_address(path: str, query: bytes) -> None:
    """Refuse the address of a request, its *path* decoded and its *query* not, with a NUL character in it.

    Raises:
        InvalidInputError: "bad-address".
    """
    try:
        expect_no_nul(path)
        expect_no_nul(unquote_plus(query.decode("latin-1")))
    except ValueError as error:
        raise InvalidInputError("bad-address", f"address: {error}") from None
