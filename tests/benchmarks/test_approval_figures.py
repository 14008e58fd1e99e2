"""`python -m benchmarks.approval` measures what it says. Times are no verdict: the same work in small, and its lines."""

from __future__ import annotations

import pytest

from benchmarks.approval import PHASES, figures

pytestmark = pytest.mark.slow


def test_every_phase_has_its_lines():
    """In each phase every vehicle is changed (the benchmark itself checks it), and the link was answered."""
    found = {figure.figure: figure for figure in figures(30, 0.1)}
    names = [f"approval {what} {phase}" for phase in ("idle", *PHASES) for what in ("stall", "hold", "loop")]
    assert list(found) == names
    assert all(figure.value > 0 for name, figure in found.items() if "stall" in name)
    assert all(
        found[f"approval hold {phase}"].value > 0 for phase in ("create", "edit", "approve", "retry", "end", "cancel")
    )
    # The wall figure is never without what the machine itself adds to it.
    idle = found["approval stall idle"].value
    for phase in PHASES:
        stall = found[f"approval stall {phase}"]
        assert stall.ratio == round(stall.value / idle, 2)
    assert {figure.unit for name, figure in found.items() if "stall" not in name} == {"CPU-ms"}
