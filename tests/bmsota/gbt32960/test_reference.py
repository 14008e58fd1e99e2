"""docs/gbt32960.md is the reference of the public names: no more, no fewer, and what it says of the codec is so."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from bmsota import gbt32960

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "make_gbt32960_doc.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_gbt32960_doc", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_public_name_once(script):
    text = script.PAGE.read_text(encoding="utf-8").partition("<!-- made: api -->")[2]
    named = re.findall(r"^\| `(\w+)", text, re.MULTILINE)
    assert sorted(named) == sorted(gbt32960.__all__), "run scripts/make_gbt32960_doc.py"


def test_every_public_thing_says_what_it_is(script):
    """A class or function without a word in the reference would be a name and nothing else."""
    for name in gbt32960.__all__:
        assert script.described(name, getattr(gbt32960, name))[2], name
