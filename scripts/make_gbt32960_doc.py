"""Write the made parts of docs/gbt32960.md: the public names and the support tables, from `__all__` and the codec's tables.

Run it after a change of either; `--check` only says whether the page is up to date. What stands outside the marks is
written by hand and is kept.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from bmsota import gbt32960
from bmsota.gbt32960 import Command, Edition, ParameterId, RawMessage
from bmsota.gbt32960._codec import _KINDS
from bmsota.gbt32960._fields import Field, Text
from bmsota.gbt32960._tables import BODY_LAYOUTS, PARAMETER_ROWS

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pages import DOCS, run

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = DOCS / "gbt32960.md"

# Where a name belongs, by the module that defines it; the rest are found by what they are.
SECTIONS = {
    "_frame": "Frames",
    "_reader": "Streams",
    "_messages": "Messages",
    "_extension": "The extension (protocol.md)",
    "_bodies": "Bodies of a report",
    "_enums": "Codes",
    "terminal": "Terminal session",
    "platform": "Platform session",
    "events": "Events of the sessions",
    "_explain": "Explanations",
    "values": "Columns",
    "_cipher": "Encryption",
    "_symmetric": "Encryption",
    "_signatures": "Signatures",
    "_registry": "Bodies of makers",
    "_assembler": "Split subsystems",
    "_time": "Time",
}
ORDER = ["Functions", *dict.fromkeys(SECTIONS.values()), "More", "Constants and unions"]


def first_line(value: object) -> str:
    """The first sentence of a docstring, on one line; dataclasses without one have a signature there."""
    text = inspect.getdoc(value) or ""
    if isinstance(value, type) and text.startswith(f"{value.__name__}("):
        return ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", "\\|")


def described(name: str, value: object) -> tuple[str, str, str]:
    """A name's section, its call, and what it is."""
    module = (getattr(value, "__module__", "") or "").rpartition(".")[2]
    if inspect.isfunction(value):
        parameters = ", ".join(
            ("*" if each.kind is each.VAR_POSITIONAL else "") + each.name
            for each in inspect.signature(value).parameters.values()
        )
        return "Functions", f"{name}({parameters})", first_line(value)
    if isinstance(value, type):
        what = first_line(value)
        if issubclass(value, Enum):
            what += " Members: " + ", ".join(f"`{member}`" for member in value.__members__) + "."
            what = what.strip()
        elif is_dataclass(value):
            members = ", ".join(f"`{member}`" for member in inspect.signature(value).parameters)
            what = f"{what} Fields: {members}." if members else what
        else:
            ours = [base for base in value.__mro__ if base.__module__.startswith("bmsota.")]
            names = dict.fromkeys(each for base in ours for each in vars(base))
            public = [f"`{each}`" for each in names if not each.startswith("_")]
            what = f"{what} {', '.join(public)}." if public else what
        return SECTIONS.get(module, "More"), name, what
    section = "Constants and unions"
    if members := get_args(value):
        # A Literal of one member of an enumeration is called as that member.
        names = [each.__name__ if isinstance(each, type) else get_args(each)[0].name for each in members]
        return section, name, "One of " + ", ".join(f"`{each}`" for each in names) + "."
    if isinstance(value, Enum):
        return section, name, f"A constant of its own: {value.value}."
    return section, name, f"`{value:#06x}`" if name.endswith("VERSION") else f"`{value!r}`"


def api() -> Iterator[str]:
    """Every public name once."""
    rows = [described(name, getattr(gbt32960, name)) for name in gbt32960.__all__]
    for section in ORDER:
        chosen = [(call, what) for where, call, what in rows if where == section]
        if chosen:
            yield f"\n### {section}\n\n| name | what it is |\n|---|---|\n"
            yield from (f"| `{call}` | {what} |\n" for call, what in chosen)


def support() -> Iterator[str]:
    """Commands, bodies and parameters, by edition."""
    yield "\n### Commands\n\n| command | 2016 | 2025 |\n|---|---|---|\n"
    for command in Command:
        cells = [_command_cell(command, edition) for edition in (Edition.GBT2016, Edition.GBT2025)]
        yield f"| {command:#04x} {_words(command.name)} | {cells[0]} | {cells[1]} |\n"
    yield "| any other, 0xC0 to 0xFE included | raw (`RawMessage`) | raw (`RawMessage`) |\n"
    yield "| any, encrypted, without a cipher | ciphertext (`RawMessage`) | ciphertext (`RawMessage`) |\n"
    for edition, year in ((Edition.GBT2016, 2016), (Edition.GBT2025, 2025)):
        yield f"\n### Bodies of reports, {year}\n\n| type | value | clause |\n|---|---|---|\n"
        for layout in BODY_LAYOUTS[edition].values():
            yield f"| {layout.label} | supported: `{layout.cls.__name__}` | {layout.clause} |\n"
        if BODY_LAYOUTS[edition]:
            yield "| 0x80 to 0xFE user-defined | supported: `UserDefined`, the data as bytes; or your class, by `Layouts` | table 7 |\n"
            yield "| any other | raw (`RawBody`): its length is unknown, so it holds the rest of the report | table 7 |\n"
        else:
            yield "| all | raw: the data unit is a `RawMessage` | |\n"
    yield "\n### Parameters of 0x80 and 0x81\n\n| id | 2016 | 2025 |\n|---|---|---|\n"
    for parameter in ParameterId:
        cells = [_parameter_cell(PARAMETER_ROWS[edition].get(parameter)) for edition in Edition]
        yield f"| {parameter:#04x} {_words(parameter.name)} | {cells[0]} | {cells[1]} |\n"
    yield "| any other | raw: bytes up to the end of the list | raw: bytes up to the end of the list |\n"


def _words(name: str) -> str:
    return name.lower().replace("_", " ")


def _command_cell(command: Command, edition: Edition) -> str:
    classes = [
        cls.__name__
        for cls, kind in _KINDS.items()
        if cls is not RawMessage and command in kind.commands and len(kind.commands) < 256 and edition in kind.editions
    ]
    # One class for both directions is named once.
    return "supported: " + ", ".join(f"`{name}`" for name in classes) if classes else "raw (`RawMessage`)"


def _parameter_cell(row: object) -> str:
    if isinstance(row, Field):
        unit = f" {row.unit}" if row.unit else ""
        return f"supported: {row.raw_min} to {row.raw_max}{unit}, {row.size_bytes} B"
    if isinstance(row, Text):
        return f"supported: text, {row.size_bytes} B"
    if isinstance(row, int):
        return f"supported: text, as long as {row:#04x} says"
    return "raw"


PARTS = {"api": lambda: "".join(api()), "support": lambda: "".join(support())}


if __name__ == "__main__":
    sys.exit(run(PAGE, PARTS))
