"""Build the documentation site in build/site: strict, and a docstring that cannot be read is an error too.

Zensical's strict mode stops at a missing page, anchor or API reference. What griffe, the reader of docstrings, complains about
it only prints, so it is looked for here.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", "mkdocs.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    complaints = [line for line in output.splitlines() if line.startswith("griffe:")]
    if done.returncode or complaints:
        print(output if done.returncode else "\n".join(complaints))
        return 1
    print("documentation: build/site/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
