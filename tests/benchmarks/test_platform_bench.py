"""`python -m benchmarks.platform --quick`: it runs, every report is acknowledged and read back, and the lines are JSON. No figure is judged."""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from postgresql import some_server

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_benchmark_of_the_platform_runs(database):
    command = [sys.executable, "-m", "benchmarks.platform", "--json", "--quick", "--only", database]
    with some_server() if database == "postgresql" else nullcontext("") as address:
        command += ["--postgresql", address] if address else []
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(line["ratio"] > 0 and line["baseline"] for line in lines)
    figures = {line["figure"]: line["value"] for line in lines}
    assert {f"ingest {database}", f"bytes per report {database}", f"commit lag {database}"} <= figures.keys()
    assert all(value > 0 for value in figures.values())
    # Bytes do not depend on the machine. A handful of rows leaves pages half empty; the full run has less.
    assert figures[f"bytes per report {database}"] < 1.5
