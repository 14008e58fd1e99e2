"""The file of `bmsota-cloud serve --config`: the command's options under their names, without the dashes in front.

TOML, read whole before anything starts: an unknown or unusable setting is an error with its name. Paths in it are relative to the
file. An option on the command line wins over the file.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bmsota.errors import ConfigurationError
from bmsota_cloud.services import LINKS_MAX, REPORT_KEEP_S_MIN

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["REPORT_KEEP_DAYS_MIN", "ServeFile", "gateway_name", "load_config", "origin", "proxy", "tiles"]

_GATEWAY_NAME = re.compile(r"[A-Za-z0-9._-]{1,48}", re.ASCII)

REPORT_KEEP_DAYS_MIN = REPORT_KEEP_S_MIN // 86_400


def origin(value: str) -> str:
    """*value* if it is the address of a web server and no more, without the slash at its end.

    Raises:
        ValueError: it is not.
    """
    parts = urlsplit(value)
    try:
        is_fit = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_fit = False
    if not is_fit or parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username:
        raise ValueError(f"expected https://host or https://host:port, got {value!r}")
    return value.rstrip("/")


def proxy(value: str) -> str:
    """*value* if it is an address or a network.

    Raises:
        ValueError: it is not.
    """
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise ValueError(f"expected an address or a network as 10.0.0.0/8, got {value!r}") from None
    return value


def tiles(value: str) -> str:
    """*value* if it is the template of a web map's tiles.

    Raises:
        ValueError: it is not.
    """
    parts = urlsplit(value)
    is_address = parts.scheme in {"http", "https"} and re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", parts.netloc)
    if (
        not is_address
        or any(value.count(name) != 1 for name in ("{z}", "{x}", "{y}"))
        or re.search(r"[\s;,'\"]", value)
    ):
        raise ValueError(f"expected https://host/path with {{z}}, {{x}} and {{y}}, got {value[:120]!r}")
    return value


def gateway_name(value: str) -> str:
    """*value* if it can be the name of a gateway.

    Raises:
        ValueError: it cannot.
    """
    if not _GATEWAY_NAME.fullmatch(value):
        raise ValueError(f"expected 1 to 48 letters, digits, dots, hyphens and underscores, got {value[:80]!r}")
    return value


Port = Annotated[int, Field(ge=0, le=65_535)]
Origin = Annotated[str, AfterValidator(origin)]
Tiles = Annotated[str, AfterValidator(tiles)]
GatewayName = Annotated[str, AfterValidator(gateway_name)]
Proxy = Annotated[str, AfterValidator(proxy)]


class ServeFile(BaseModel):
    """What the file may hold; None where it does not."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, alias_generator=lambda name: str(name).replace("_", "-")
    )

    data: str | None = None
    database: str | None = None
    telemetry_database: str | None = None
    report_keep_days: Annotated[int, Field(ge=REPORT_KEEP_DAYS_MIN, le=36_500)] | None = None
    event_keep_days: Annotated[int, Field(ge=REPORT_KEEP_DAYS_MIN, le=36_500)] | None = None
    report_compact_after_hours: Annotated[int, Field(ge=0, le=8760)] | None = None

    export_keep_days: Annotated[int, Field(ge=1, le=365)] | None = None
    export_max_mib: Annotated[int, Field(ge=1, le=1024 * 1024)] | None = None

    host: str | None = None
    http_port: Port | None = None
    web_cert: str | None = None
    web_key: str | None = None
    public_url: Origin | None = None
    trusted_proxy: list[Proxy] | None = None
    device_url_alias: list[Origin] | None = None
    accept_proof_without_origin: bool | None = None
    upload_max_mib: Annotated[int, Field(ge=1, le=4096)] | None = None
    map_tiles: Tiles | None = None
    map_attribution: Annotated[str, Field(max_length=200)] | None = None

    gateway_host: str | None = None
    gateway_port: Port | None = None
    gateway_name: GatewayName | None = None
    gateway_cert: str | None = None
    gateway_key: str | None = None
    links_max: Annotated[int, Field(ge=1, le=LINKS_MAX)] | None = None
    heartbeat_window_s: Annotated[int, Field(ge=10, le=86_400)] | None = None
    login_timeout_s: Annotated[int, Field(ge=10, le=86_400)] | None = None
    acknowledge_reports: bool | None = None
    link_keys: str | None = None
    platform_logins: str | None = None
    report_key: str | None = None
    report_hash: Literal["sha256", "sha384", "sha512"] | None = None
    report_padding: Literal["pkcs1v15", "pss"] | None = None

    manifest_key: list[str] | None = None
    image_key: list[str] | None = None

    smtp_host: str | None = None
    smtp_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    smtp_user: str | None = None
    smtp_tls: bool | None = None


# By Pydantic's word for what is wrong.
_EXPECTED = {
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
    "list_type": "expected a list",
    "string_type": "expected a text",
}

_PATHS = frozenset(
    {
        "data",
        "web_cert",
        "web_key",
        "gateway_cert",
        "gateway_key",
        "link_keys",
        "platform_logins",
        "report_key",
        "manifest_key",
        "image_key",
    }
)


def load_config(path: Path) -> dict[str, Any]:
    """The settings that the file holds, by the names of the parameters; its paths from its own folder.

    Raises:
        ConfigurationError: the file can't be read, is no TOML, or holds what can't be used; one line for each fault.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"no such file: {path}") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from error
    try:
        found = ServeFile.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_faults(path, error))) from error
    return {
        name: _from_folder(path.parent, value) if name in _PATHS else value
        for name, value in found.model_dump(exclude_none=True).items()
    }


def _faults(path: Path, error: ValidationError) -> list[str]:
    known = [field.alias or name for name, field in ServeFile.model_fields.items()]
    lines = []
    for fault in error.errors(include_url=False):
        name = str(fault["loc"][0])
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, known, n=1)
            lines.append(f"{path}: {name}: no such setting" + (f"; did you mean {near[0]}?" if near else ""))
        else:
            words = _EXPECTED.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
            if fault["type"] in {"greater_than_equal", "less_than_equal"}:
                words = "expected {ge} to {le}".format(**_limits(name))
            if fault["type"] == "literal_error":
                words = f"expected {fault['ctx']['expected']}"
            got = "" if "got " in words else f", got {fault['input']!r}"[:200]
            lines.append(f"{path}: {name}: {words[:1].lower()}{words[1:]}{got}")
    return lines


def _limits(name: str) -> dict[str, int]:
    """The least and the most that a setting can be."""
    (field,) = (field for field in ServeFile.model_fields.values() if field.alias == name)
    (number,) = (part for part in get_args(field.annotation) if part is not type(None))
    rules = get_args(number)[1].metadata
    return {side: getattr(rule, side) for rule in rules for side in ("ge", "le") if hasattr(rule, side)}


def _from_folder(folder: Path, value: str | list[str]) -> str | list[str]:
    return [str(folder / each) for each in value] if isinstance(value, list) else str(folder / value)
