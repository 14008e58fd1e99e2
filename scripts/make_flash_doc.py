"""Keep the made parts of docs/flash.md: exit codes, checks, faults.

`python scripts/make_flash_doc.py` writes them, `--check` only says whether they are up to date (exit code 1 if not).
"""

from __future__ import annotations

import sys
from pathlib import Path

from bmsota.cli.fault_table import EXIT_CODES, FAULTS, OPTION_OF_CHECK, ExitCode
from bmsota.flashing import CHECKS, NOT_OVERRIDABLE, OVERRIDABLE, Check

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pages import DOCS, run, table

PAGE = DOCS / "flash.md"


def checks() -> str:
    return table(
        ["check", "what must hold", "`--force`"],
        [
            [
                f"`{check.value}`",
                CHECKS[check] + (f" (`{OPTION_OF_CHECK[check]}`)" if check in OPTION_OF_CHECK else ""),
                OVERRIDABLE[check] if check in OVERRIDABLE else f"cannot be forced: {NOT_OVERRIDABLE[check]}",
            ]
            for check in Check
        ],
    )


def exit_codes() -> str:
    return table(["code", "means"], [[int(code), EXIT_CODES[code]] for code in ExitCode])


def faults() -> str:
    return table(
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
    )


PARTS = {"checks": checks, "exit codes": exit_codes, "faults": faults}


if __name__ == "__main__":
    sys.exit(run(PAGE, PARTS))
