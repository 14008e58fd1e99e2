"""The conformance vectors: frames of twenty sources, with what their sources say they mean (the file says where from)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))


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
