"""The pytest fixtures: the guide's examples run, and a pytest that uses none of them pays nothing."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PLUGIN = "bmsota_sim.pytest_plugin"


def pytest_run(folder, *arguments):
    """A user's pytest in *folder*, of which nothing of this checkout's settings is seen."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        folder,
        "-c",
        "/dev/null",
        *arguments,
    ]
    return subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.slow
def test_the_examples_of_the_guide_run(tmp_path):
    blocks = BLOCK.findall((ROOT / "docs" / "pytest.md").read_text(encoding="utf-8"))
    assert len(blocks) == 4
    for number, block in enumerate(blocks):
        (tmp_path / f"test_{number}.py").write_text(block, encoding="utf-8")
    result = pytest_run(tmp_path, "-p", PLUGIN)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 passed" in result.stdout


def test_the_test_of_a_gateway_is_short():
    """A QA engineer's test of an own asyncio gateway: under 20 lines beside the scenario and the gateway."""
    block = next(block for block in BLOCK.findall((ROOT / "docs" / "pytest.md").read_text()) if "start_server" in block)
    test = block[block.index("def test_") :]
    assert len(test.strip().splitlines()) < 20


def test_the_package_registers_the_plugin():
    """By the name of its module: `-p` and the entry point then load it once."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert points == {PLUGIN: PLUGIN}


@pytest.mark.slow
def test_a_pytest_that_does_not_use_it_loads_nothing_of_the_simulator(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        "import sys\n\n"
        "def test_mine():\n"
        f"    assert {PLUGIN!r} in sys.modules\n"
        "    heavy = {'numpy', 'pydantic', 'cantools', 'can', 'httpx', 'rich', 'typer', 'yaml', 'cryptography'}\n"
        "    assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "    ours = {name for name in sys.modules if name.startswith('bmsota')}\n"
        "    assert len(ours) <= 8, ours\n"
    )
    result = pytest_run(tmp_path, "-p", PLUGIN)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_what_did_not_hold_fails_the_test_with_unit_and_time(tmp_path):
    (tmp_path / "test_red.py").write_text(
        'SCENARIO = """\nname: red\nduration: 20s\ngroups: { cars: { profile: E7, count: 1 } }\nlife: { measure: 10s, report: 2s }\n'
        'expect: [{ what: sent, above: 1000 }]\n"""\n\n'
        "def test_red(virtual_fleet):\n    virtual_fleet(SCENARIO).check()\n\n"
        "def test_wrong(virtual_fleet):\n    virtual_fleet(SCENARIO.replace('sent', 'snet'))\n\n"
        "def test_twice(virtual_fleet):\n    fleet = virtual_fleet(SCENARIO)\n    fleet.result\n    fleet.run()\n"
    )
    result = pytest_run(tmp_path, "-p", PLUGIN)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "failed: sent of all: above 1000, at the end: " in result.stdout
    assert re.search(r"cars/1 \w{17}: first sent at \d+\.\d{3} s", result.stdout)
    assert "scenario:6:18: expect[0].what: " in result.stdout
    assert "this fleet has run already; make another one" in result.stdout
