"""Write the tables of docs/flash.md that are data in the code: exit codes, checks, faults.

`python scripts/make_flash_doc.py` writes them between their marks, `--check` only says whether they are as this script would
write them (exit code 1 if not). The sentences around them are written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bmsota.flashing import CHECKS, EXIT_CODES, FAULTS, NOT_OVERRIDABLE, OVERRIDABLE, Check, ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = Path(__file__).resolve().parents[1] / "docs" / "flash.md"


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    heads = list(heads)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """The tables by the names of their marks."""
    return {
        "checks": table(
            ["check", "what must hold", "`--force`"],
            [
                [
                    f"`{check.value}`",
                    CHECKS[check],
                    OVERRIDABLE[check] if check in OVERRIDABLE else f"does not help: {NOT_OVERRIDABLE[check]}",
                ]
                for check in Check
            ],
        ),
        "exit codes": table(["code", "means"], [[int(code), EXIT_CODES[code]] for code in ExitCode]),
        "faults": table(
            ["fault", "what it means", "exit code", "what to do next", "safe to run again"],
            [
                [
                    f"`{fault.value}`",
                    row.meaning,
                    int(row.exit_code),
                    row.advice,
                    "yes" if row.safe_to_run_again else "no",
                ]
                for fault, row in FAULTS.items()
            ],
        ),
    }


def page(text: str) -> str:
    """The page with its tables made anew."""
    for name, content in tables().items():
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = mark.subn(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)
        if count != 1:
            raise SystemExit(f"{PAGE.name}: expected one mark <!-- {name} -->, got {count}")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is not up to date")
    options = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    made = page(text)
    if made == text:
        return 0
    if options.check:
        print(f"{PAGE.name} is not up to date: run scripts/make_flash_doc.py")
        return 1
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
