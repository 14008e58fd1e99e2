"""The file of `bmsota-cloud serve --platform-logins`: which other platforms may log in. No message here names a password."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bmsota.errors import ConfigurationError
from bmsota_cloud.domain.platform_peers import PlatformPeer

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["load_platform_logins"]

_CODE_LENGTH_MAX = 17


class _Peer(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    # As long as the fields of the login (table 21). A short password could be guessed: the gateway is open to everybody.
    user: str = Field(pattern=r"^[!-~]{1,12}$")
    password: str = Field(pattern=r"^[!-~]{12,20}$")
    projects: frozenset[str] = frozenset()
    vins: frozenset[str] = frozenset()


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    platforms: dict[str, _Peer] = Field(default_factory=dict)


def load_platform_logins(path: Path) -> dict[str, PlatformPeer]:
    """The platforms in the file, by their codes: `[platforms.CODE]`.

    Raises:
        ConfigurationError: the file can't be read, or an entry can't be used; it is said which, never with its password.
    """
    try:
        # The error of the parser would quote the line.
        content = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise ConfigurationError(f"{path}: not TOML") from None
    try:
        found = _File.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{path}: {where}: {first['msg']}") from None
    peers = {}
    for code, peer in found.platforms.items():
        if not 1 <= len(code) <= _CODE_LENGTH_MAX or not code.isascii() or not code.isprintable() or " " in code:
            raise ConfigurationError(
                f"{path}: platforms: expected a code of 1 to 17 ASCII characters, got {code[:40]!r}"
            )
        if not peer.projects and not peer.vins:
            raise ConfigurationError(f"{path}: platforms.{code}: name the projects or the vins it may send for")
        peers[code] = PlatformPeer(
            code=code, user=peer.user, password=peer.password, projects=peer.projects, vins=peer.vins
        )
    return peers
