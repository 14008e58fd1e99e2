"""`python -m benchmarks.overview` measures what it says. Times are no verdict: the same work in small, and its lines."""

from __future__ import annotations

import pytest

from benchmarks import overview

pytestmark = pytest.mark.slow


def test_every_address_has_its_line_and_its_ratio_to_the_page_without_vehicles(monkeypatch):
    monkeypatch.setattr(overview, "VEHICLES", 120)
    monkeypatch.setattr(overview, "ROUNDS", 2)
    monkeypatch.setitem(overview._ASKED, "overview page 150", "/vehicles?page=2")
    figures = {figure.figure: figure for figure in overview.overview()}
    assert list(figures) == list(overview._ASKED)
    floor = figures["empty task list"].value
    for figure in figures.values():
        assert figure.ratio == round(figure.value / floor, 2)
        assert figure.baseline == "empty task list"
