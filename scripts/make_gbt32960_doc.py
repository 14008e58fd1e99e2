"""Write the support tables of docs/gbt32960.md from the codec's tables.

Run it after a change of these; `--check` only says whether the page is up to date. What stands outside the marks is
written by hand and is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bmsota.gbt32960 import Command, Edition, ParameterId, RawMessage
from bmsota.gbt32960._codec import _KINDS
from bmsota.gbt32960._fields import Field, Text
from bmsota.gbt32960._tables import BODY_LAYOUTS, PARAMETER_ROWS

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pages import DOCS, run

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = DOCS / "gbt32960.md"


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


PARTS = {"support": lambda: "".join(support())}


if __name__ == "__main__":
    sys.exit(run(PAGE, PARTS))
