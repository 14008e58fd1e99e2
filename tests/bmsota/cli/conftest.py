"""The conformance vectors, a runner for each command, and captures made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

VECTORS = json.loads((Path(__file__).parents[1] / "gbt32960" / "vectors.json").read_text(encoding="utf-8"))


def pytest_generate_tests(metafunc):
    """`good_vector` runs over the frames that are valid, `bad_vector` over those that are not."""
    for name, is_good in (("good_vector", True), ("bad_vector", False)):
        if name in metafunc.fixturenames:
            chosen = [vector for vector in VECTORS if (vector["strict_decode"] == "ok") is is_good]
            metafunc.parametrize(name, chosen, ids=[vector["id"] for vector in chosen])


@pytest.fixture(scope="session")
def good_frames():
    """The bytes of every valid frame."""
    return [bytes.fromhex(vector["hex"]) for vector in VECTORS if vector["strict_decode"] == "ok"]


@pytest.fixture(scope="session")
def vectors():
    """Every vector by its id."""
    return {vector["id"]: vector for vector in VECTORS}


@pytest.fixture(scope="session")
def runner():
    """Makes a function that runs one command as a user would."""

    def make(command):
        app = typer.Typer()
        app.command()(command)
        return lambda *arguments, stdin=None: CliRunner().invoke(app, [str(each) for each in arguments], input=stdin)

    return make
