"""docs/bench.md says what the bench does: its options, its commands, and the journey at its top."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from bmsota_sim.bench import Bench, BenchCommands, BenchOptions, BenchWorld
from bmsota_sim.bench._console import introduction
from bmsota_sim.cli import main
from bmsota_sim.kernel import SECOND, Kernel

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "bench.md").read_text(encoding="utf-8")
LIMIT_S = 300


def rows(heading):
    """First cells of the table under *heading*, as their code words."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [re.findall(r"`([^`]+)`", re.split(r"(?<!\\)\|", line)[1]) for line in lines]


def test_every_option_is_on_the_page_and_no_other(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bmsota-sim", "bench", "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main()
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help", "--traffic"}
    told = {
        word.split()[0] for heading in ("What is on the bench", "Faults") for words in rows(heading) for word in words
    }
    assert {word for word in told if word.startswith("--")} == known


def test_every_command_on_the_page_is_done():
    world = BenchWorld(Kernel(1_790_000_000 * SECOND), BenchOptions(slaves=3))
    world.power_on()
    commands = BenchCommands(world)
    examples = [word for words in rows("Commands while it runs") for word in words]
    assert len(examples) > 12
    for example in examples:
        world.kernel.run_until(world.kernel.now_ns + 2 * SECOND)
        line = (
            f"{example} 0.1" if example in {"duplication", "reordering", "delay", "corruption", "bus-off"} else example
        )
        assert commands.do(line)[-1].startswith("ok"), line
    assert {example.split()[0] for example in examples} >= {
        "cut",
        "power",
        "loss",
        "faults",
        "busoff",
        "status",
        "quit",
    }


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo terminals are POSIX")
def test_the_journey_on_the_page(tmp_path, monkeypatch, capsys):
    """Every command of a user, as written, against a bench as written; the flash is real, the flash times are not."""
    lines = [line.removeprefix("$ ") for line in PAGE.splitlines() if line.startswith("$ ")]
    make_samples, bench_line, *tool = lines
    assert (make_samples, bench_line) == ("bmsota-sim samples samples", "bmsota-sim bench --series E7")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", shlex.split(make_samples))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "files in samples" in capsys.readouterr().out
    assert len(tool) == 3
    with Bench(BenchOptions(series="E7", flash_erase_ns=0, flash_program_ns=0)) as bench:
        for line in itertools.islice(introduction(bench, None), 2):
            assert line in PAGE.splitlines()
        for line in tool:
            program, *arguments = shlex.split(line.replace("/dev/pts/7", bench.paths[0]))
            assert program == "bmsota"
            command = [sys.executable, "-m", "bmsota.cli.main", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}\n{bench.command('status')}"
        assert [row.version for row in bench.rows()] == ["2.1.0"] * 4
