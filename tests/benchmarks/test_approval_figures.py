"""`python -m benchmarks.approval` measures what it says. Times are no verdict: the same work in small, and its lines."""

from __future__ import annotations

import pytest

from benchmarks.approval import figures

pytestmark = pytest.mark.slow


def test_every_phase_has_its_lines():
    """In each phase every vehicle is changed (the benchmark itself checks it), and the link was answered."""
    found = {figure.figure: figure for figure in figures(30, 0.1)}
    phases = ("create", "approve", "retry", "end", "create again", "cancel")
    assert set(found) == {
        "approval stall idle",
        *(f"approval {what} {phase}" for phase in phases for what in ("stall", "hold")),
    }
    assert all(figure.value > 0 for figure in found.values())
    assert {figure.unit for name, figure in found.items() if "hold" in name} == {"CPU-ms"}
