"""The folder of a report: each file is whole or not there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from bmsota.errors import MissingExtraError
from bmsota_sim.run.outputs.html import report_html
from bmsota_sim.run.outputs.junit import junit_xml
from bmsota_sim.run.outputs.parquet import write_parquet
from bmsota_sim.run.outputs.run_json import run_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bmsota_sim.run.judged import Result

__all__ = ["REPORT_FILES", "write_report"]

TEMPORARY = ".new"
_NAMES = ("scenario.yaml", "run.json", "junit.xml", "report.html", "units.parquet")
REPORT_FILES = frozenset({".lock", *_NAMES, *(name + TEMPORARY for name in _NAMES)})
"""What a folder of a report may have in it."""


def write_report(folder: Path, document: dict[str, Any], result: Result, *, name: str) -> str:
    """Write all files; what could not be written for want of a package is told, nothing if all was.

    The smallest and most needed come first: a disk that fills up costs the last. A file that is there keeps its content until the
    new one is complete.

    Raises:
        OSError: the disk is full, say. What was written before is whole.
    """
    given = document["given"]
    _write(folder / "scenario.yaml", given["scenario"])
    _write(
        folder / "junit.xml", junit_xml(result, name=name, replay=given["replay"], no_verdict=document["no_verdict"])
    )
    _write(folder / "run.json", run_json(document))
    _write(folder / "report.html", report_html(document))
    if not document["units"]:
        return ""
    try:
        _replace(folder / "units.parquet", lambda path: write_parquet(document, path))
    except MissingExtraError as error:
        return str(error)
    return ""


def _write(path: Path, text: str) -> None:
    _replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        write(temporary)
        os.replace(temporary, path)  # noqa: PTH105 - says what it does
    finally:
        temporary.unlink(missing_ok=True)
