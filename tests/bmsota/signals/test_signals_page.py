"""docs/signals.md does what it says."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bmsota.cli.dbc import app

PAGE = (Path(__file__).parents[3] / "docs" / "signals.md").read_text(encoding="utf-8")

LOG = """(1700000000.000000) can0 100#E80D9CFF01000000
(1700000000.100000) can0 12C#0088130000000000
(1700000000.200000) can0 12C#0189130000000000
"""


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_examples_run():
    """One after another, as a reader types them."""
    parser = doctest.DocTestParser()
    test = parser.get_doctest("\n".join(blocks("pycon")), {}, "signals.md", "docs/signals.md", 0)
    assert len(test.examples) > 15
    out = []
    result = doctest.DocTestRunner().run(test, out=out.append)
    assert result.failed == 0, "".join(out)


@pytest.mark.parametrize("block", blocks("console"))
def test_the_commands_print_what_the_page_says(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drive.log").write_text(LOG)
    dbc = re.search(r'loads\("""\n(.*?)\.\.\. """\)', PAGE, re.DOTALL)[1]
    dbc = "".join(line.removeprefix("... ") for line in dbc.splitlines(keepends=True) if "Again" not in line)
    (tmp_path / "pack.dbc").write_text(dbc)
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
        words = shlex.split(command)
        if words[0] == "cat":  # The page shows a file: the commands below it read it.
            (tmp_path / words[1]).write_text(expected)
            continue
        assert words[:2] == ["bmsota", "dbc"]
        result = CliRunner().invoke(app, words[2:])
        # What is not decoded is worth its exit code 1; the summary is on standard error, and not always shown.
        assert (result.exit_code, result.stdout) in ((0, expected), (1, expected.removesuffix(result.stderr)))
