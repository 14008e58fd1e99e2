"""Read the map of a document or record: no field missing, none that we would have to know, broken rules named."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from bmsota.errors import BmsotaError, LocalProtocolError, RemoteProtocolError, TrustError
from bmsota.image import Attack, ImageRole, ImageVersion
from bmsota.ota._rules import expect_count, expect_integer

if TYPE_CHECKING:
    from collections.abc import Iterator


LAYOUT: Final = "layout"
"""The field that holds the number, in every record and document that is a map."""

CRITICAL: Final = "critical"
"""The field that lists which fields of its map a reader must know."""


def take_fields(value: Any, names: tuple[str, ...], where: str, *, optional: tuple[str, ...] = ()) -> list[Any]:
    """The values of *names*, in their order, then those of *optional*: None where there is none.

    Fields that are not among them are passed over, unless the map itself lists them in `critical`: what a document says and
    we do not understand may be the reason not to obey it, and only its writer knows.

    Raises:
        TrustError: `malformed-document`; a field is missing, or `critical` is no list of fields that are there.
            `newer-document`; a critical field is unknown.
    """
    if not isinstance(value, dict):
        raise TrustError(Attack.MALFORMED_DOCUMENT, f"{where}: expected a map, got {type(value).__name__}")
    missing = [name for name in names if name not in value]
    if missing:
        raise TrustError(Attack.MALFORMED_DOCUMENT, f"{where}: {', '.join(missing)} missing")
    critical = value.get(CRITICAL, [])
    if not isinstance(critical, list) or not all(isinstance(name, str) and name in value for name in critical):
        raise TrustError(Attack.MALFORMED_DOCUMENT, f"{where}: {CRITICAL} does not list fields of this map")
    unknown = [name for name in critical if name not in names and name not in optional]
    if unknown:
        raise TrustError(Attack.NEWER_DOCUMENT, f"{where}: unknown critical field {', '.join(unknown)[:120]}")
    return [value[name] for name in names] + [value.get(name) for name in optional]


def check_layout(value: dict[Any, Any], layout_max: int, where: str) -> None:
    """Refuse a document of a later layout than we read.

    Raises:
        TrustError: `newer-document`, or `malformed-document` if the layout is no number.
    """
    layout = value.get(LAYOUT, 0)
    if not isinstance(layout, int) or isinstance(layout, bool) or layout < 0:
        raise TrustError(Attack.MALFORMED_DOCUMENT, f"{where}: {LAYOUT}: expected a number, got {str(layout)[:40]}")
    if layout > layout_max:
        raise TrustError(
            Attack.NEWER_DOCUMENT, f"{where}: layout {layout} is newer than this version reads ({layout_max})"
        )


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
    """Turn a broken rule into `RemoteProtocolError`, for a message that is not signed."""
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
