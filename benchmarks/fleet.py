"""Fleet fidelity in virtual time: reports per CPU-second, memory of a connected unit, physics.

`virtual fleet` is 1,000 F7 over 24 hours, a report each 30 s in edition 2016, 6 % of the units driving, which is stepped each second. Every unit
has a `TerminalSession` and a `PlatformSession`; every frame goes through `data_to_send` and `receive_data`; every report that is counted was
encoded and was decoded by the columnar codec. `virtual fleet, standing` is the same with no unit driving. The time is that of the
whole run, boot and logins included; `driving` is the share of unit-seconds in steps of one second.

`memory fleet` is the difference of resident memory between a process before it makes 10,000 units and with all of them connected and
reporting for ten minutes, by unit; it is measured in a process of its own. `physics` is steps of 30 s of 1,000 packs.

`run daily` is what `bmsota-sim run daily --virtual` does with 500 vehicles (the packaged scenario: two editions, trips, latency and jitter, the
ledger, alarms): reports per CPU-second, from the end of the ramp-up on, at 08:05 in the morning.

`virtual full` is 1,000 F7 at full fidelity, each with its internal bus, against sessions of the library: unit-seconds per CPU-second, boot not included.
Its baseline is commit 231c49c on the same load, run in the same minute from a tree of its own (`_fleet_before`; not printed where there is no such commit).
`virtual full: growth` is what a unit costs among 1,000 by what it costs among 100. `memory full` is as `memory fleet`, of 200 units after a minute. `start`
is the CPU time until a process has loaded what a fleet needs, `start fleet` and `start full` that of a unit until it is logged in.

`--quick`: fewer units and minutes, to see that it runs; its figures are nobody's.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bmsota_sim.columns import ColumnFleet, ColumnUnit
from bmsota_sim.fleet import Fleet, virtual_fleet
from bmsota_sim.identity import vin
from bmsota_sim.kernel import SECOND, Kernel
from bmsota_sim.physics import NMC, PackDesign, Packs
from bmsota_sim.profiles import PROFILES
from bmsota_sim.run.check import check
from bmsota_sim.run.runner import Run
from bmsota_sim.run.scenario import packaged_text
from bmsota_sim.scenario import Scenario
from bmsota_sim.session_platform import SessionPlatform
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink

from benchmarks._figures import Figure, print_figures

START_S = 1_795_305_600
F7 = PROFILES["F7"]
DESIGN = PackDesign(cell_count=96, probe_count=32, capacity_ah=150.0, chemistry=NMC)
DAY_S = 24 * 3600
DRIVING_PCT = 6
BEFORE = "231c49c"
ROOT = Path(__file__).resolve().parents[1]
FULL_BOOT_S = 5
"""Units are switched on within two seconds and are logged in soon after."""


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


def run_daily(count: int, seconds: int) -> Figure:
    """Everything of `bmsota-sim run daily --virtual` but its screen."""
    kernel, platform = Kernel(VIRTUAL_START_NS), SessionPlatform(decodes_behind=True)
    scenario = check(packaged_text("daily").encode(), "daily", 1, count=count).scenario
    run = Run(scenario, 1, kernel=kernel, uplink=lambda _index: MemoryUplink(kernel, platform, delay_ns=0))
    run.start()
    kernel.run_until(run.start_ns + 300 * SECOND)
    platform.decode()
    begun, start = platform.decoded, time.process_time()
    kernel.run_until(kernel.now_ns + seconds * SECOND)
    platform.decode()
    return Figure("run daily", round((platform.decoded - begun) / (time.process_time() - start), 1), "reports/CPU-s")


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


def full_fleet(count: int) -> tuple[Fleet, SessionPlatform]:
    """Full units, switched on and logged in."""
    scenario = Scenario.model_validate(
        {"name": "full", "duration_s": 3600, "fleet": [{"series": "F7", "count": count, "city": "Shanghai"}]}
    )
    platform = SessionPlatform()
    fleet = virtual_fleet(scenario, 1, platform)
    fleet.run(FULL_BOOT_S)
    assert sum(vehicle.logins for vehicle in platform.vehicles.values()) == count
    return fleet, platform


def full_rate(count: int, seconds: int) -> float:
    """Unit-seconds per CPU-second."""
    fleet, platform = full_fleet(count)
    start = time.process_time()
    fleet.run(seconds)
    spent = time.process_time() - start
    assert seconds < 30 or sum(vehicle.reports for vehicle in platform.vehicles.values()) >= count
    return count * seconds / spent


def full_rate_before(count: int, seconds: int) -> float | None:
    """The same of the commit that full units are measured against; None if it is not here."""
    packed = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=False)  # noqa: S603, S607 - git of the path
    if packed.returncode:
        return None
    script = (ROOT / "benchmarks/_fleet_before.py").read_text(encoding="utf-8")
    with TemporaryDirectory() as tree:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(tree, filter="data")
        said = subprocess.run(  # noqa: S603 - our own script
            [sys.executable, "-c", script, str(count), str(seconds)],
            cwd=tree, env=os.environ | {"PYTHONPATH": tree}, check=True, capture_output=True, text=True,
        )  # fmt: skip
    return float(said.stdout)


def full(count: int, seconds: int, *, has_baseline: bool) -> list[Figure]:
    """`virtual full` and how it grows."""
    rate, rate_of_few = full_rate(count, seconds), full_rate(max(count // 10, 1), seconds)
    before = full_rate_before(count, seconds) if has_baseline else None
    ratio = None if before is None else round(rate / before, 2)
    return [
        Figure("virtual full", round(rate, 1), "unit-s/CPU-s", ratio, "" if ratio is None else BEFORE),
        Figure("virtual full: growth", round(rate_of_few / rate, 2), "of the cost of a unit among a tenth"),
    ]


def memory_full(count: int) -> float:
    """Bytes of a full unit, its platform's end included; only in a process of its own."""
    kept = full_fleet(2)
    before = resident_bytes()
    fleet, _platform = full_fleet(count)
    fleet.run(60)
    assert kept
    return (resident_bytes() - before) / count


def start_fleet(count: int) -> float:
    """CPU-seconds of a fleet unit until it is logged in."""
    start = time.process_time()
    fleet = fleet_of(count, driving_pct=DRIVING_PCT)
    fleet.run(30)
    assert all(fleet.is_logged_in(row) for row in range(count))
    return (time.process_time() - start) / count


def start_full(count: int) -> float:
    """CPU-seconds of a full unit until it is logged in."""
    full_fleet(1)
    start = time.process_time()
    full_fleet(count)
    return (time.process_time() - start) / count


def alone(call: str) -> float:
    """What *call* of this module says in a process of its own."""
    code = f"from benchmarks.fleet import *; print({call})"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)  # noqa: S603 - our own module
    return float(said.stdout)


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
    found.append(run_daily(20, 60) if is_quick else run_daily(500, 1800))
    many, few = (200, 2) if is_quick else (10_000, 200)
    found.append(Figure("memory fleet", round(alone(f"memory({many})") / 1000, 2), "kB/unit"))
    found.append(Figure("memory full", round(alone(f"memory_full({few})") / 1000, 1), "kB/unit"))
    found.append(Figure("start", round(alone("time.process_time()"), 3), "CPU-s"))
    found.append(Figure("start fleet", round(1e6 * alone(f"start_fleet({count})"), 1), "CPU-us/unit"))
    found.append(Figure("start full", round(1e3 * alone(f"start_full({few})"), 2), "CPU-ms/unit"))
    found += full(2 if is_quick else 1000, 2 if is_quick else 30, has_baseline=not is_quick)
    found.append(physics(count))
    return found


if __name__ == "__main__":
    is_quick = "--quick" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--quick"]
    print_figures("fleet", partial(figures, is_quick=is_quick))
