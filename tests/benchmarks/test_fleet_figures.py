"""`benchmarks.fleet` runs, and counts what was decoded. How fast it was is not asked here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_fleet_benchmark_runs():
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.fleet", "--quick", "--json"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    figures = {line["figure"]: line for line in map(json.loads, said.stdout.splitlines())}
    assert all(line["value"] >= 0 for line in figures.values())
    for name in ("virtual fleet", "virtual fleet, standing"):
        assert (
            180 <= figures[f"{name}: reports"]["value"] <= 200
        )  # 20 units for 10 periods; the last ones may be under way.
        assert figures[f"{name}: heartbeats"]["value"] > 0
    assert figures["virtual fleet: driving"]["value"] == 25.0
    assert figures["virtual fleet, standing: driving"]["value"] == 0.0
    assert figures["virtual full"]["value"] > 0
    assert {
        "memory fleet",
        "memory full",
        "physics",
        "start",
        "start fleet",
        "start full",
        "virtual full: growth",
    } <= figures.keys()
