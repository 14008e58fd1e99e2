"""Files: those that ship with the package, and DBC files of the user.

The DBC files stand at the top of a checkout, where people look for them, and are copied into the package (`bmsota/_data`)
when the wheel is built. Here both places are one.
"""

from __future__ import annotations

import codecs
from functools import cache
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bmsota.errors import ConfigurationError
from bmsota.signals import DbcFault, Severity, loads

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from bmsota.signals import Database

__all__ = ["FilePath", "load_dbc", "packaged_database", "packaged_dbc", "packaged_dbc_names"]

FilePath: TypeAlias = str | PathLike[str]

# The largest public DBC files have a few megabytes; something larger is not a DBC and must not be parsed for minutes.
DBC_SIZE_BYTES_MAX = 32 * 1024 * 1024


def load_dbc(path: FilePath) -> Database:
    """Load the DBC file at *path*.

    DBC files are written in the code page of the tool's machine; what is not UTF-8 is read as Windows-1252, the most
    usual one, with unknown characters replaced (they can only be in comments and units). UTF-16, which Windows editors call
    "Unicode", is read and reported as a fault, because few other tools read it.

    Raises:
        OSError: the file cannot be read.
        ConfigurationError: the file is larger than any DBC.
        SignalError: the extra `can` is not installed.
    """
    with Path(path).open("rb") as file:
        data = file.read(DBC_SIZE_BYTES_MAX + 1)
    if len(data) > DBC_SIZE_BYTES_MAX:
        raise ConfigurationError(f"expected a DBC of at most {DBC_SIZE_BYTES_MAX} bytes, got more ({path})")
    wide = _wide_encoding(data)
    if wide is None:
        return loads(_text(data))
    database = loads(data.decode(wide, errors="replace").removeprefix("\ufeff"))
    reason = "the file is UTF-16, which most DBC tools cannot read; save it as UTF-8"
    database.faults = (DbcFault(1, reason, Severity.WARNING), *database.faults)
    return database


def packaged_dbc(name: str) -> str:
    """The text of a DBC that ships with the package, for example `packaged_dbc("bms_internal")`.

    Raises:
        ConfigurationError: there is none of that name.
    """
    stem = name.removesuffix(".dbc")
    # Compared with the listing, so that a name with ".." in it cannot leave the folder.
    if f"{stem}.dbc" not in _listed():
        raise ConfigurationError(f"no packaged DBC {name!r}; there are {', '.join(packaged_dbc_names()) or 'none'}")
    return _text(_folder().joinpath(f"{stem}.dbc").read_bytes())


def packaged_database(name: str) -> Database:
    """The database of a DBC that ships with the package. Reading one takes a second, so a process reads it once; change nothing in it.

    Raises:
        ConfigurationError: there is none of that name.
        MissingExtraError: the extra `can` is not installed.
    """
    return _packaged_database(name.removesuffix(".dbc"))


@cache
def _packaged_database(stem: str) -> Database:
    return loads(packaged_dbc(stem))


def packaged_dbc_names() -> tuple[str, ...]:
    """The names `packaged_dbc` knows, without the suffix."""
    return tuple(name.removesuffix(".dbc") for name in _listed())


def _wide_encoding(data: bytes) -> str | None:
    """UTF-16's name, by the byte order mark or by the zeros between the letters of the first word; None for anything else."""
    for encoding, mark in (("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE)):
        zeros = data[1:16:2] if encoding == "utf-16-le" else data[0:16:2]
        if data.startswith(mark) or (len(zeros) > 1 and not any(zeros)):
            return encoding
    return None


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _folder() -> Traversable:
    inside = resources.files("bmsota").joinpath("_data", "dbc")
    return inside if inside.is_dir() else Path(__file__).resolve().parents[2] / "dbc"  # A checkout: beside the package.


def _listed() -> tuple[str, ...]:
    folder = _folder()
    return (
        tuple(sorted(item.name for item in folder.iterdir() if item.name.endswith(".dbc"))) if folder.is_dir() else ()
    )
