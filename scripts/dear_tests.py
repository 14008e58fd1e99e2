"""Measure what each test of `make check` costs, and write those that are dear to tests/rigs/dear.txt.

On a quiet machine: a busy one makes every test dearer. Tests that are marked slow, long, browser or demo are not run: they are left
out anyway.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RIGS = ROOT / "tests" / "rigs"
HEAD = """\
# Tests that `make check` leaves out, because each costs {:g} s of a core or more: files, and tests of other files.
# Made by scripts/dear_tests.py on a quiet machine. `make test` runs them all.
"""

sys.path.insert(0, str(RIGS))
from costs import DEAR_S, dear_of  # noqa: E402 - from the rigs of the tests


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        words = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "-p",
            "costs",
            "-m",
            "not slow and not long and not browser and not demo",
        ]
        # The list of now does not count meanwhile: what has become cheap comes back.
        environment = os.environ | {"BMSOTA_COSTS": f"{folder}/costs"}
        done = subprocess.run(words, cwd=ROOT, env=environment, check=False)
        if done.returncode:
            print("dear_tests: not written, because tests failed", file=sys.stderr)
            return 1
        costs: Counter[str] = Counter()
        for path in Path(folder).iterdir():
            for line in path.read_text(encoding="utf-8").splitlines():
                cost, _, name = line.partition("\t")
                costs[name] += float(cost)
    dear = dear_of(costs)
    (RIGS / "dear.txt").write_text(HEAD.format(DEAR_S) + "".join(f"{each}\n" for each in dear), encoding="utf-8")
    print(f"{len(dear)} files and tests of {len(costs)} cases are dear")
    return 0


if __name__ == "__main__":
    sys.exit(main())
