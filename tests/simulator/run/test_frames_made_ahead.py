"""Frames of vehicles that stand are made before their latch, and nobody can tell."""

from __future__ import annotations

import pytest
from bmsota_sim.columns.units import UnitColumns
from fidelities import Played

# What can happen to a vehicle between the making of its frame and its latch.
TIMELINE = """
  - { at: 61.5s, do: driving, who: f/5-8, for: 20s }
  - { at: 62.3s, do: charging, who: f/9-11, for: 50s, power_kw: 7 }
  - { at: 62.2s, do: restart, who: f/12, off: 1s }
  - { at: 65s, do: offline, who: f/4, for: 25s }
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edition", "report", "soc"), [(2016, "30s", "soc: 60"), (2025, "7s", "soc: 9, soc_spread: 4")]
)
def test_frames_made_ahead_are_those_made_at_the_latch(monkeypatch, edition, report, soc):
    given = {
        "profile": "E7",
        "edition": edition,
        "count": 12,
        "start": "start: { over: 20s }",
        "duration": "115s",
        "report": report,
        "soc": soc,
        "timeline": TIMELINE,
    }
    taken, stale = [], []
    take = UnitColumns._frame_made_ahead

    def watched(group, unit, due_ns):
        has_one = unit.row in group._ahead
        frame = take(group, unit, due_ns)
        (stale if frame is None and has_one else taken).append(frame)
        return frame

    monkeypatch.setattr(UnitColumns, "_frame_made_ahead", watched)
    ahead = Played("fleet", **given)
    used = [frame for frame in taken if frame is not None]
    monkeypatch.setattr(UnitColumns, "_make_ahead", lambda *_: None)
    taken.clear()
    at_the_latch = Played("fleet", **given)
    assert set(taken) == {None}
    assert ahead.result.hashes == at_the_latch.result.hashes
    assert len(used) > 6
    assert stale
