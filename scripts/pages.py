"""What the scripts that keep a documentation page share: tables between marks, in a page that a person writes.

A page is Markdown that anybody edits. Between `<!-- made: NAME -->` and `<!-- /made -->` stands what a script makes from the
code: tables, layouts, recorded sequences. Sentences that name a number of the code stand in the page as they are; the script
lists them, and the check names those that the page does not have.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

DOCS = Path(__file__).resolve().parents[1] / "docs"


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    heads = list(heads)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def layout(struct: Any) -> str:
    """A `construct` structure of fixed size: offset, size, name."""
    rows, offset = [], 0
    for field in struct.subcons:
        size = field.sizeof()
        rows.append((offset, size, f"`{field.name}`"))
        offset += size
    return table(("offset", "bytes", "field"), rows)


def made(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """*text* with what stands between the marks made anew.

    Raises:
        SystemExit: the page has not exactly one place for each part, or a place for a part that is not made.
    """
    marks = re.findall(r"^<!-- made: (.+?) -->$", text, re.MULTILINE)
    if sorted(marks) != sorted(parts):
        raise SystemExit(f"marks of the page: expected {sorted(parts)}, got {sorted(marks)}")
    for name, part in parts.items():
        content = part().strip("\n")
        pattern = re.compile(rf"(<!-- made: {re.escape(name)} -->\n).*?(<!-- /made -->)", re.DOTALL)
        text = pattern.sub(lambda match, content=content: f"{match[1]}\n{content}\n\n{match[2]}", text)
    return text


def missing(text: str, phrases: Iterable[str]) -> list[str]:
    """Which of *phrases* the page's prose does not have; a line break counts as a blank."""
    flat = " ".join(text.split())
    return [phrase for phrase in phrases if phrase not in flat]


def run(page: Path, parts: Mapping[str, Callable[[], str]], phrases: Iterable[str] = ()) -> int:
    """The command line of a page's script."""
    parser = argparse.ArgumentParser(description=f"Write the made parts of docs/{page.name}.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is not up to date")
    is_check = parser.parse_args().check
    text = page.read_text(encoding="utf-8")
    new = made(text, parts)
    for phrase in (lacking := missing(new, phrases)):
        print(f"{page.name}: the code's numbers ask for this phrase, which the page does not have: {phrase}")
    if is_check and new != text:
        print(f"{page.name} is not up to date: run its script in scripts/")
    if not is_check and new != text:
        page.write_text(new, encoding="utf-8")
    return 1 if lacking or (is_check and new != text) else 0
