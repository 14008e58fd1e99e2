"""A small run in virtual time, and what its platform saw."""

from __future__ import annotations

from bmsota_sim.kernel import Kernel
from bmsota_sim.run.runner import Run
from bmsota_sim.run.scenario import parse_scenario
from bmsota_sim.session_platform import SessionPlatform
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink, run_virtual

from bmsota.gbt32960 import ReportReceived

HEAD = """
name: small
duration: {duration}
groups:
  f: {{ profile: E7, count: {count}, fidelity: full }}
life: {{ report: 2s, heartbeat: 5s, measure: 5s }}
"""


class Watched:
    """A run, and every report that the platform got: (VIN, seconds from the start, report)."""

    def __init__(self, rest="", *, count=1, duration="30s", seed=1, **options):
        self.kernel = Kernel(VIRTUAL_START_NS)
        self.reports = []
        self.links = []
        self.platform = SessionPlatform(self._received)
        self.scenario = parse_scenario(HEAD.format(duration=duration, count=count) + rest)
        self.run = Run(
            self.scenario,
            seed,
            kernel=self.kernel,
            uplink=lambda _index: MemoryUplink(self.kernel, self, delay_ns=0),
            **options,
        )

    def open_link(self, wake):
        self.links.append(self.platform.open_link(wake))
        return self.links[-1]

    def respond(self, request):
        return self.platform.respond(request)

    def _received(self, event, now_ns):
        if isinstance(event, ReportReceived):
            self.reports.append((event.vin, (now_ns - VIRTUAL_START_NS) / 1e9, event.report))

    def play(self, until_s=None, tick=lambda: None):
        """Let the run go on, to its end or until that second."""
        run = self.run
        if not run._is_started:
            run.start()
        until_ns = run.duration_ns if until_s is None else round(until_s * 1e9)
        run_virtual(self.kernel, lambda: run.is_over, until_ns=run.start_ns + until_ns, tick=tick)
        return self

    def end(self):
        self.play()
        return self.run.end()
