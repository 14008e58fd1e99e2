"""Pages of docs/ with made parts are up to date: the tables are the code's, and the sentences have the code's numbers."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [path.stem for path in sorted((ROOT / "scripts").glob("make_*_doc.py"))]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.fixture
def pages():
    return importlib.import_module("pages")


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_page_is_up_to_date(name, monkeypatch, capsys):
    """Run the script after a change of a table, a docstring or a limit; write the sentences it asks for by hand."""
    script = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--check"])
    code = script.run(
        script.PAGE, script.PARTS, getattr(script, "PHRASES", None) or getattr(script, "phrases", tuple)()
    )
    assert code == 0, capsys.readouterr().out


def test_there_are_pages():
    assert len(SCRIPTS) >= 5


def test_what_a_person_wrote_is_kept(pages, monkeypatch, tmp_path, capsys):
    """`--check` sees a difference, writing mends it, and only between the marks."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- made: sizes -->\nold\n<!-- /made -->\nup to 8\nblocks\n", encoding="utf-8")
    parts, phrases = {"sizes": lambda: "| 7 |"}, ["up to 8 blocks"]
    monkeypatch.setattr(sys, "argv", ["x", "--check"])
    assert pages.run(page, parts, phrases) == 1
    assert "page.md is not up to date" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["x"])
    assert pages.run(page, parts, phrases) == 0
    text = page.read_text(encoding="utf-8")
    assert text == "before\n<!-- made: sizes -->\n\n| 7 |\n\n<!-- /made -->\nup to 8\nblocks\n"
    monkeypatch.setattr(sys, "argv", ["x", "--check"])
    assert pages.run(page, parts, phrases) == 0


def test_a_number_that_the_code_no_longer_has_is_named(pages, monkeypatch, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("up to 8 blocks\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["x"])
    assert pages.run(page, {}, ["up to 9 blocks"]) == 1
    assert "page does not have: up to 9 blocks" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["no mark", "<!-- made: other -->\n<!-- /made -->\n"])
def test_a_mark_that_does_not_fit_ends_it(pages, text):
    with pytest.raises(SystemExit, match="marks of the page: expected"):
        pages.made(text, {"sizes": lambda: ""})
