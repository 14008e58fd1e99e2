"""`benchmarks.physics` runs, and both contenders come to the same voltages. How fast they were is not asked here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_physics_benchmark_runs():
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.physics", "--quick", "--json"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    figures = {line["figure"]: line for line in map(json.loads, said.stdout.splitlines())}
    assert figures.keys() == {"physics", "bare"}
    assert figures["physics"]["baseline"] == "bare"
