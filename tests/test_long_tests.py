"""`scripts/long_tests.py --sum`: what several runs have covered together, and that no failure is lost in the sum."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest


@pytest.fixture
def long_tests(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "scripts"))
    return importlib.import_module("long_tests")


@pytest.fixture
def summed(long_tests, monkeypatch, tmp_path, capsys):
    """Sum states given as {test: (commit, passed)}; the exit code and the lines."""

    def run(*states):
        paths = []
        for number, state in enumerate(states):
            rows = {name: {"commit": of, "passed": passed, "seconds": 1.0} for name, (of, passed) in state.items()}
            paths.append(tmp_path / f"{number}.json")
            paths[-1].write_text(json.dumps(rows), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["long_tests.py", "--sum", *map(str, paths)])
        code = long_tests.main()
        return code, capsys.readouterr().out.splitlines()

    return run


def test_seeds_of_two_machines_are_summed(summed):
    code, lines = summed({"t[seed0]": ("c", True), "all": ("c", True)}, {"t[seed4]": ("c", True), "all": ("c", True)})
    assert (code, lines) == (0, ["commit c: 3 tests, 2 seeds, 3 s of work, 0 failed"])


@pytest.mark.parametrize("first", [True, False])
def test_a_test_that_failed_once_has_failed(summed, first):
    code, lines = summed({"all": ("c", first)}, {"all": ("c", not first)})
    assert code == 1
    assert lines[1:] == ["  failed: all"]


def test_each_commit_has_its_own_sum(summed):
    code, lines = summed({"all": ("a", False)}, {"all": ("b", True)})
    assert code == 1
    assert [line.rpartition(", ")[2] for line in lines if line.startswith("commit")] == ["1 failed", "0 failed"]
