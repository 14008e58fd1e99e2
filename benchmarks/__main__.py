"""`python -m benchmarks`: every benchmark, one JSON line a figure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> None:
    names = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    for name in names:
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--json"], check=True)  # noqa: S603 - our own modules


if __name__ == "__main__":
    main()
