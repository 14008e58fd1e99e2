"""Every row of the OTA attack and fault list names the tests that hold it, or says why there is none; and the tests exist."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROWS = tomllib.loads((TESTS / "rows" / "rows.toml").read_text(encoding="utf-8"))
NUMBERS = {"S": 42, "P": 24, "N": 20, "C": 12}


@cache
def names_in(path: Path) -> frozenset[str]:
    """The names of the test functions in a file, those in classes too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def missing_tests(rows: dict) -> list[str]:
    """What rows name and no file has."""
    return [
        f"{number}: {test}"
        for number, row in rows.items()
        for test in row.get("tests", ())
        if not (path := TESTS / test.partition("::")[0]).is_file() or test.partition("::")[2] not in names_in(path)
    ]


def test_every_row_is_listed_once_and_in_order():
    assert list(ROWS) == [f"{kind}{number}" for kind, last in NUMBERS.items() for number in range(1, last + 1)]


@pytest.mark.parametrize("number", ROWS)
def test_a_row_has_tests_or_says_why_it_has_none(number):
    row = ROWS[number]
    assert set(row) <= {"title", "tests", "missing"}
    assert row["title"]
    assert row.get("tests") or row.get("missing")
    assert len(set(row.get("tests", ()))) == len(row.get("tests", ()))


@pytest.mark.slow
def test_every_named_test_exists():
    assert missing_tests(ROWS) == []


@pytest.mark.parametrize("test", ["rows/test_rows.py::test_no_such", "rows/no_such_file.py::test_rows", "rows"])
def test_a_test_that_does_not_exist_is_noticed(test):
    assert missing_tests({"S1": {"tests": [test]}}) == [f"S1: {test}"]
