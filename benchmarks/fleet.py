"""Fleet fidelity in virtual time: reports per CPU-second, memory of a connected unit, physics.

`virtual fleet` is 1,000 F7 over 24 hours, a report each 30 s in edition 2016, 6 % of the units driving, which is stepped each second. Every unit
has a `TerminalSession` and a `PlatformSession`; every frame goes through `data_to_send` and `receive_data`; every report that is counted was
encoded and was decoded by the columnar codec. `virtual fleet, standing` is the same with no unit driving. The time is that of the
whole run, boot and logins included; `driving` is the share of unit-seconds in steps of one second.

`memory fleet` is the difference of resident memory between a process before it makes 10,000 units and with all of them connected and
reporting for ten minutes, by unit; it is measured in a process of its own. `physics` is steps of 30 s of 1,000 packs.

`--quick`: fewer units and minutes, to see that it runs; its figures are nobody's.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from bmsota_sim.columns import ColumnFleet, ColumnUnit
from bmsota_sim.identity import vin
from bmsota_sim.physics import NMC, PackDesign, Packs
from bmsota_sim.profiles import PROFILES

from benchmarks._figures import Figure, print_figures

START_S = 1_795_305_600
F7 = PROFILES["F7"]
DESIGN = PackDesign(cell_count=96, probe_count=32, capacity_ah=150.0, chemistry=NMC)
DAY_S = 24 * 3600
DRIVING_PCT = 6


def fleet_of(count: int, *, driving_pct: int) -> ColumnFleet:
    units = [
        ColumnUnit(
            vin=vin("F7", number),
            iccid=f"{number:020d}",
            longitude_deg=116.4,
            latitude_deg=39.9,
            heading_rad=number / 100,
            odometer_km=100.0 * number,
            is_driving=number % 100 < driving_pct,
            is_charging=number % 100 >= 90,
        )
        for number in range(1, count + 1)
    ]
    return ColumnFleet(F7, DESIGN, units, seed=1, start_s=START_S)


def virtual(name: str, count: int, seconds: int, *, driving_pct: int) -> list[Figure]:
    """One run; what the platform has not decoded by its end is not counted."""
    start = time.process_time()
    fleet = fleet_of(count, driving_pct=driving_pct)
    fleet.run(seconds)
    spent = time.process_time() - start
    counts = fleet.counts
    decoded = counts.received + counts.backfilled
    assert counts.reports == count * seconds // 30
    assert counts.reports - count <= decoded <= counts.reports
    share = 100.0 * counts.driving_s / (count * seconds)
    return [
        Figure(name, round(decoded / spent, 1), "reports/CPU-s"),
        Figure(f"{name}: reports", decoded, "reports"),
        Figure(f"{name}: heartbeats", counts.heartbeats, "frames"),
        Figure(f"{name}: driving", round(share, 2), "% of unit-seconds"),
    ]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def memory(count: int) -> float:
    """Bytes of a connected unit, its platform's end included; only in a process of its own."""
    small = fleet_of(100, driving_pct=DRIVING_PCT)  # What is made once and kept, such as plans, is there already.
    small.run(120)
    before = resident_bytes()
    fleet = fleet_of(count, driving_pct=DRIVING_PCT)
    fleet.run(600)
    assert all(fleet.is_logged_in(row) for row in range(count))
    return (resident_bytes() - before) / count


def physics(count: int) -> Figure:
    packs = Packs(DESIGN, [vin("F7", number) for number in range(1, count + 1)], seed=1)
    packs.step(1.0, 30.0)
    rates = []
    for _ in range(7):
        start = time.process_time()
        for _ in range(20):
            packs.step(1.0, 30.0)
        rates.append(20 * count / (time.process_time() - start))
    return Figure("physics", round(sorted(rates)[3], 1), "pack steps/CPU-s")


def figures(*, is_quick: bool = False) -> list[Figure]:
    count, seconds = (20, 300) if is_quick else (1000, DAY_S)
    found = virtual("virtual fleet", count, seconds, driving_pct=DRIVING_PCT)
    found += virtual("virtual fleet, standing", count, seconds, driving_pct=0)
    many = 200 if is_quick else 10_000
    code = f"from benchmarks.fleet import memory; print(memory({many}))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)  # noqa: S603 - our own module
    found.append(Figure("memory fleet", round(float(said.stdout) / 1000, 2), "kB/unit"))
    found.append(physics(count))
    return found


if __name__ == "__main__":
    is_quick = "--quick" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--quick"]
    print_figures("fleet", partial(figures, is_quick=is_quick))
