"""docs/api/gbt32960.md is the reference of the public names: it takes them from `__all__`, and each says what it is."""

from __future__ import annotations

from pathlib import Path

import griffe
import pytest

from bmsota import gbt32960

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def package():
    """The package as the documentation's reader of docstrings sees it."""
    return griffe.load("bmsota.gbt32960", search_paths=[ROOT], resolve_aliases=True)


def test_the_reference_is_the_whole_package():
    text = (ROOT / "docs" / "api" / "gbt32960.md").read_text(encoding="utf-8")
    assert "::: bmsota.gbt32960\n" in text
    assert "members:" not in text


@pytest.mark.slow
def test_the_reference_has_every_public_name(package):
    assert sorted(package.exports) == sorted(gbt32960.__all__)
    assert [name for name in gbt32960.__all__ if name not in package.members] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", gbt32960.__all__)
def test_every_public_name_says_what_it_is(package, name):
    """A class, function, constant or union without a docstring would be a name and nothing else."""
    docstring = package[name].docstring
    assert docstring, f"{name} has no docstring"
    assert len(docstring.value) > 5
