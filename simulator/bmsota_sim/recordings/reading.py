"""Recordings of files, and the scenario in which a run plays them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bmsota.adapters.frame_sources import find_frames
from bmsota_sim.kernel import SECOND
from bmsota_sim.recordings.playback import Played
from bmsota_sim.recordings.recording import RecordedVehicle, read_recording, recorded_fleet, without_gaps

__all__ = ["ReadRecording", "read_recorded"]

# So long all are switched on one after another, and so long before the first report.
START_S, LEAD_S = 5, 10
# For the answers to the last reports.
MARGIN_S = 20

_SCENARIO = """\
name: recording
description: What {count} recorded vehicles sent, sent again.
duration: {duration_s}s
start: {{ over: {start_s}s }}
groups:
  recorded: {{ profile: F7, count: {count} }}
expect:
  - {{ what: sent, above: 0 }}
  - {{ what: logged_in, at_least: 0% }}  # They may have logged out.
"""


@dataclass(frozen=True, slots=True)
class ReadRecording:
    """What files hold, as a run plays it."""

    vehicles: tuple[RecordedVehicle, ...]
    loops: int
    duration_s: int
    """Of all rounds."""
    skipped: dict[str, int]
    """What is not sent again, in words, and how often."""

    def played(self, *, shift: bool) -> Played:
        return Played(self.vehicles, loops=self.loops, shift=shift, lead_s=LEAD_S)

    def scenario_text(self) -> bytes:
        """A scenario that lets the recording pass, and expects nothing but that the platform does its part."""
        duration_s = LEAD_S + self.duration_s + MARGIN_S
        text = _SCENARIO.format(count=len(self.vehicles), duration_s=duration_s, start_s=START_S)
        return text.encode()


def read_recorded(
    sources: list[str], *, count: int | None = None, seed: int = 1, loops: int = 1, gap_max_s: float | None = None
) -> ReadRecording:
    """Read *sources* as `find_frames` does, for *count* vehicles.

    Raises:
        ConfigurationError: a source cannot be read, or holds no report that can be sent again.
    """
    recording = read_recording(find_frames(sources))
    if gap_max_s is not None:
        recording = without_gaps(recording, gap_max_s)
    vehicles = recorded_fleet(recording, count=count, seed=seed)
    longest_ns = max(
        vehicle.late_ns + loops * (vehicle.recorded[-1].sent_ns - vehicle.recorded[0].sent_ns + vehicle.period_ns)
        for vehicle in vehicles
    )
    return ReadRecording(vehicles, loops, math.ceil(longest_ns / SECOND), recording.skipped)
