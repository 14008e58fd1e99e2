"""A console script imports what its command needs, and not what the others do."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import bmsota
from bmsota.cli.app import app, run

# What takes long to import, and has its users among the commands.
HEAVY = (
    "bmsota.bootloader",
    "bmsota_cloud.services",
    "bmsota_sim.bench",
    "can",
    "cantools",
    "fastapi",
    "numpy",
    "sqlalchemy",
)

SCRIPT = """
import json, sys
from importlib import import_module
try:
    import_module(sys.argv[1]).main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(json.dumps([name for name in sys.stdin.read().split() if name in sys.modules]))
"""


def imported_by(module, *arguments):
    """The lines that a script prints, and what of HEAVY it has imported."""
    code = SCRIPT.replace("import_module(sys.argv[1])", f"import_module({module!r})")
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], input=" ".join(HEAVY), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *lines, names = done.stdout.splitlines()
    return lines, json.loads(names)


@pytest.mark.parametrize(
    ("module", "program"),
    [("bmsota.cli.main", "bmsota"), ("bmsota_sim.cli", "bmsota-sim"), ("bmsota_cloud.__main__", "bmsota-cloud")],
)
def test_the_version_costs_no_imports(module, program):
    assert imported_by(module, "--version") == ([f"{program} {bmsota.__version__}"], [])


@pytest.mark.slow
def test_a_command_imports_nothing_of_the_others():
    lines, heavy = imported_by("bmsota.cli.main", "decode", "--help")
    assert " decode " in lines[0]
    assert heavy == []


@pytest.mark.parametrize(("word", "message"), [("flahs", "Did you mean 'flash'?"), ("xyz", "No such command 'xyz'.")])
def test_a_command_that_there_is_not_is_compared_with_all(word, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bmsota", word])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_help_lists_every_command_in_its_order():
    import typer

    group = typer.main.get_command(app)
    names = ["decode", "encode", "send", "adapters", "nodes", "flash", "verify", "reset", "dbc"]
    assert group.list_commands(None) == names
    assert [group.get_command(None, name).name for name in names] == names
