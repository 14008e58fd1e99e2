"""One scenario in virtual time, at either fidelity, and all that its units sent."""

from __future__ import annotations

from typing import ClassVar

from bmsota_sim.columns.units import FleetUnit
from bmsota_sim.devices.unit import FullUnit
from bmsota_sim.kernel import Kernel
from bmsota_sim.run.check import check
from bmsota_sim.run.runner import Run
from bmsota_sim.session_platform import SessionPlatform
from bmsota_sim.trace import LinkTrace
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink, run_virtual

SCENARIO = """
name: both
duration: {duration}
{start}
groups:
  f: {{ profile: {profile}, count: {count}, fidelity: {fidelity}, edition: {edition}, {soc} }}
{groups}
life: {{ report: {report}, heartbeat: 20s, measure: {measure}{life} }}
network: {{ latency: {latency}, jitter: {jitter}, split: {split} }}
timeline:
{timeline}
"""


class Played:
    """A run in virtual time, and what it sent."""

    def __init__(self, fidelity, *, timeline="", seed=1, prepared=lambda _run: None, **given):
        values = {
            "duration": "125s",
            "start": "",
            "profile": "F7",
            "count": 4,
            "edition": 2016,
            "groups": "",
            "soc": "soc_spread: 15",
            "life": "",
            "report": "10s",
            "measure": "1s",
            "latency": "50ms",
            "jitter": "0s",
            "split": "0%",
            **given,
        }
        text = SCENARIO.format(fidelity=fidelity, timeline=timeline.strip("\n") or "  []", **values)
        scenario = check(text.encode(), "both.yaml", seed).scenario
        kernel = Kernel(VIRTUAL_START_NS)
        self.events = []
        platform = SessionPlatform(received=lambda event, now_ns: self.events.append((now_ns, event)))
        self.run = Run(scenario, seed, kernel=kernel, uplink=lambda _index: MemoryUplink(kernel, platform, delay_ns=0))
        self.sent = {str(name): [] for name in self.run.units}
        for name, unit in self.run.units.items():
            self.watch(unit.trace, self.sent[str(name)])
        prepared(self.run)
        self.run.start()
        run_virtual(kernel, lambda: self.run.is_over, until_ns=self.run.start_ns + self.run.duration_ns)
        self.result = self.run.end()
        self.totals = self.run.ledger.totals()

    def watch(self, trace, sent):
        WatchedTrace.sinks[id(trace)] = lambda at_ns, who, data: sent.append(
            f"{(at_ns - self.run.start_ns) / 1e9:.9f} {who} {data.hex()}"
        )
        trace.__class__ = WatchedTrace


class WatchedTrace(LinkTrace):
    """What crosses the link is told too. A trace has no room for more, so it stands here who is told."""

    __slots__ = ()
    sinks: ClassVar = {}

    def octets(self, at_ns, who, data):
        self.sinks[id(self)](at_ns, who, data)
        super().octets(at_ns, who, data)


def assert_equal(full, fleet):
    assert all(isinstance(unit.unit, FullUnit) for unit in full.run.units.values())
    assert all(isinstance(unit.unit, FleetUnit) for unit in fleet.run.units.values())
    assert {event.outcome for event in full.result.events} <= {"happened"}, full.result.events
    for name, lines in full.sent.items():
        assert fleet.sent[name] == lines, name
    assert fleet.result.hashes == full.result.hashes
    assert fleet.result.fold == full.result.fold
    # Only a full unit has a bus.
    assert fleet.totals.pop("can_frames") == 0 < full.totals.pop("can_frames")
    assert fleet.totals == full.totals
