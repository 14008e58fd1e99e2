"""Read the map of a document or message: every key known, none missing, none left over, broken rules named."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bmsota.errors import BmsotaError, LocalProtocolError, RemoteProtocolError, TrustError
from bmsota.image import Attack, ImageRole, ImageVersion
from bmsota.ota._rules import expect_count, expect_integer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["malformed_as_remote_error", "malformed_as_trust_error", "parse_role", "parse_version", "take_fields"]


def take_fields(value: Any, names: tuple[str, ...], where: str) -> list[Any]:
    """The values of exactly *names*, in their order.

    A key we do not know is refused: what a signed document says and we do not understand may be the reason not to obey it.
    """
    if not isinstance(value, dict) or set(value) != set(names):
        found = ", ".join(sorted(str(key)[:24] for key in value)) if isinstance(value, dict) else type(value).__name__
        raise TrustError(Attack.MALFORMED_DOCUMENT, f"{where}: expected {', '.join(names)}, got {found[:200]}")
    return [value[name] for name in names]


@contextmanager
def malformed_as_trust_error(where: str) -> Iterator[None]:
    """Turn a broken rule into `TrustError`, for a value that came from outside."""
    try:
        yield
    except TrustError:
        raise
    except BmsotaError as error:
        raise TrustError(Attack.MALFORMED_DOCUMENT, f"{where}: {error}") from error


@contextmanager
def malformed_as_remote_error(where: str) -> Iterator[None]:
    """Turn a broken rule into `RemoteProtocolError`, for a message nobody has signed."""
    try:
        yield
    except LocalProtocolError as error:
        raise RemoteProtocolError(f"{where}: {error}") from error


def parse_role(value: Any) -> ImageRole:
    """A role from its number."""
    expect_integer("role", value, maximum=max(ImageRole))
    return ImageRole(value)


def parse_version(value: Any) -> ImageVersion:
    """A version from its four numbers."""
    expect_count("version", value, minimum=4, maximum=4)
    for part in value:
        expect_integer("version", part)
    return ImageVersion(*value)
