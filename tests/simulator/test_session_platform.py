"""The platform that needs no cloud decodes every report, at once or many at a time."""

from __future__ import annotations

from bmsota_sim.kernel import Kernel
from bmsota_sim.run.check import check
from bmsota_sim.run.runner import Run
from bmsota_sim.session_platform import SessionPlatform
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink

SCENARIO = b"""
name: two
duration: 240s
groups:
  f: { profile: F7, count: 2 }
  e: { profile: E7, count: 2, edition: 2025 }
life: { report: 10s }
timeline:
  - { at: 40s, do: platform_outage, for: 20s }
"""


def test_every_report_is_decoded_behind():
    kernel, platform = Kernel(VIRTUAL_START_NS), SessionPlatform(decodes_behind=True)
    run = Run(
        check(SCENARIO, "two.yaml", 1).scenario,
        1,
        kernel=kernel,
        uplink=lambda _index: MemoryUplink(kernel, platform, delay_ns=0),
    )
    run.start()
    kernel.run_until(run.start_ns + run.duration_ns)
    platform.decode()
    traffic = platform.vehicles.values()
    assert sum(each.backfilled for each in traffic) > 0
    assert platform.decoded == sum(each.reports + each.backfilled for each in traffic) > 30
