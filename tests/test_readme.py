"""The README keeps its word: its commands run as they stand, its links work on a package index too."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
TREE = "https://github.com/bmsota/bmsota/blob/main/"
# A guard against a hang, not a verdict.
WATCHDOG_S = 600

pytestmark = pytest.mark.slow


def commands(heading: str) -> list[str]:
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [line[2:].partition("  #")[0].strip() for line in section.splitlines() if line.startswith("$ ")]


def blocks_shown(heading: str) -> list[list[str]]:
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [block.splitlines() for block in re.findall(r"^```text\n(.*?)^```", section, re.MULTILINE | re.DOTALL)]


def shown(heading: str) -> list[str]:
    return blocks_shown(heading)[0]


def run(command: str, folder: Path, **options) -> str:
    words = shlex.split(command)
    words[0] = str(Path(sys.executable).parent / words[0])
    done = subprocess.run(
        words, cwd=folder, env=os.environ | {"COLUMNS": "120"}, capture_output=True, text=True, timeout=WATCHDOG_S,
        check=False, **options,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def numberless(line: str) -> str:
    return re.sub(r"[\d.]+", "0", line)


def traceless(line: str) -> str:
    """The hash changes with the version, so the page shows one."""
    return re.sub(r"trace [0-9a-f]{16}", "trace ", line)


def test_a_pack_is_flashed_as_the_page_says(tmp_path):
    samples, bench, *rest = commands("Flash a battery pack")
    run(samples, tmp_path)
    assert bench.startswith("bmsota-sim bench ")
    words = [str(Path(sys.executable).parent / "bmsota-sim"), *shlex.split(bench)[1:]]
    with subprocess.Popen(
        words, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        try:
            adapter = next(match[1] for line in running.stdout if (match := re.match(r"adapter 1: (\S+)", line)))
            outputs = [run(command.replace("/dev/pts/3", adapter), tmp_path) for command in rest]
        finally:
            running.terminate()
            running.stdout.read()
    assert len(outputs) == 2
    lines = {numberless(line) for line in outputs[-1].splitlines()}
    for line in shown("Flash a battery pack"):
        assert numberless(line) in lines, line


def test_the_fleet_ends_as_the_page_says(tmp_path):
    told = [run(command, tmp_path).splitlines()[-1:] for command in commands("Run a fleet")]
    assert len(told) == 2
    assert [[traceless(line) for line in lines] for lines in told] == [
        [traceless(line) for line in lines] for lines in blocks_shown("Run a fleet")
    ]
    assert (tmp_path / "out" / "report.html").exists()


def test_links_are_absolute_and_lead_into_this_tree():
    """On a package index there is no folder beside the page."""
    targets = re.findall(r"\]\(([^)#]+)", TEXT)
    assert len(targets) > 8
    for target in targets:
        assert target.startswith(TREE), target
        assert (ROOT / target.removeprefix(TREE)).exists(), target


def test_the_first_block_of_each_role_is_short():
    """What one sees within the first screen."""
    for heading in ("Flash a battery pack", "Run a fleet", "Decode what vehicles send"):
        section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        for block in re.findall(r"^```\w+\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            assert len(block.strip().splitlines()) <= 6
