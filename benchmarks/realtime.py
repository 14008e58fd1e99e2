"""Fleet fidelity in real time: connected units against a bare gateway in another process.

`real time` is 5,000 F7 (`--count=N` for others) at a report each 30 s: `bmsota-sim run` as a user starts it, ledger on, sources 127.0.0.k with
at most 12,000 connections each. Its figures are the share of a core that all units take once they are in, the lateness, boots per second and the
resident memory of a unit: the difference between two runs of different size, by the difference of their units. All units must be in and every
report that the ledger counts must be at the gateway; else there is no figure but an error.

Its baseline is Locust (`pip install 'bmsota[bench]'`) with the same number of users and the same load against the same gateway: its users
have no battery, no session and no ledger (`benchmarks._locust_fleet`). Without Locust the figure has no ratio.

`--processes=N` with `--count` is the same over N processes of units, each against a gateway process of its own, from two source addresses
of its own at least: `--processes=3 --count=50000` is what issue 12 asks for, on a quiet machine with two cores. The share of a core is the sum over the
unit processes, the lateness that of the worst.

`--quick`: fewer units and less time, to see that it runs; its figures are nobody's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks._figures import Figure, print_figures

if TYPE_CHECKING:
    from collections.abc import Iterator

SCENARIO = """
name: realtime
duration: {duration_s}s
groups:
  {group}: {{ profile: F7, count: {count}, fidelity: fleet }}
life: {{ report: 30s, heartbeat: 60s }}
network: {{ latency: 0s }}
"""
SOURCE_CONNECTIONS_MAX: Final = 12_000
CLOCK_TICKS_PER_S: Final = 100
ROOT: Final = Path(__file__).resolve().parent.parent
COUNT: Final = 5_000
NO_VERDICT: Final = 4


@dataclass(frozen=True, slots=True)
class Measured:
    """One run against one gateway."""

    exit_code: int
    output: str
    report: dict[str, Any]
    """`run.json`."""
    gateway: dict[str, int]
    resident_bytes: int
    """Of the simulator, at its highest."""
    settled_cpu_share: float
    """Of one core, over the last third of the run."""


@contextmanager
def bare_gateway() -> Iterator[tuple[int, dict[str, int]]]:
    """Its port; what it has counted is in the dictionary afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks._bare_gateway"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    counted: dict[str, int] = {}
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), counted
        text, _ = process.communicate(timeout=60)
        counted.update(json.loads(text))
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class Watched:
    """What a process used."""

    output: str
    resident_bytes: int
    """At its highest."""
    settled_cpu_share: float
    """Of one core, over the last third of its time."""


def _watched(process: subprocess.Popen[str]) -> Watched:
    samples: list[tuple[float, float]] = []
    resident = 0
    while process.poll() is None:
        try:
            cpu_s, resident = _status(process.pid)
        except (OSError, StopIteration):  # It has just ended.
            break
        samples.append((time.monotonic(), cpu_s))
        time.sleep(0.2)
    output, _ = process.communicate()
    settled = samples[len(samples) * 2 // 3 :]
    (begin_s, begin_cpu_s), (end_s, end_cpu_s) = settled[0], settled[-1]
    return Watched(output, resident, (end_cpu_s - begin_cpu_s) / max(end_s - begin_s, 1e-9))


def _status(pid: int) -> tuple[float, int]:
    """CPU seconds and highest resident bytes of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    peak_kb = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S, peak_kb * 1024


def measure(count: int, duration_s: int, *options: str, group: str = "units", network: int = 0) -> Measured:
    """Run *count* units of *group*, whose name is in their VINs, for *duration_s* of their time; from addresses 127.0.*network*.k."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "realtime.yaml"
        path.write_text(SCENARIO.format(group=group, count=count, duration_s=duration_s), encoding="utf-8")
        with bare_gateway() as (port, gateway):
            last = 1 + -(-count // SOURCE_CONNECTIONS_MAX)
            process = subprocess.Popen(  # noqa: S603 - our own modules
                [
                    *(sys.executable, "-m", "bmsota_sim.cli", "run", str(path), "--to", f"tcp://127.0.0.1:{port}"),
                    *(
                        "--source-address",
                        f"127.0.{network}.2-{max(2 + bool(network), last)}",
                        "--report",
                        f"{folder}/out",
                        *options,
                    ),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            watched = _watched(process)
        try:
            report = json.loads((Path(folder) / "out" / "run.json").read_text(encoding="utf-8"))
        except OSError:
            report = {}
    return Measured(
        process.returncode, watched.output, report, gateway, watched.resident_bytes, watched.settled_cpu_share
    )


def measure_locust(count: int, duration_s: int) -> Watched | None:
    """The same load by as many users of Locust, or None if it is not installed.

    Raises:
        RuntimeError: a user is not in.
    """
    if importlib.util.find_spec("locust") is None:
        return None
    with bare_gateway() as (port, gateway):
        process = subprocess.Popen(  # noqa: S603 - our own module
            [
                *(
                    sys.executable,
                    "-m",
                    "locust",
                    "-f",
                    str(Path(__file__).with_name("_locust_fleet.py")),
                    "--headless",
                ),
                *("--users", str(count), "--spawn-rate", "500", "--run-time", f"{duration_s}s", "--only-summary"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ
            | {
                "BMSOTA_GATEWAY_PORT": str(port),
                "BMSOTA_SOURCES": str(-(-count // SOURCE_CONNECTIONS_MAX)),
                "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            },
        )
        watched = _watched(process)
    if gateway.get("vins", 0) != count:
        raise RuntimeError(f"Locust: expected {count} users in, got {gateway.get('vins', 0)}\n{watched.output[-2000:]}")
    return watched


def measure_together(counts: list[int], duration_s: int) -> list[Measured]:
    """Run so many units in as many processes at the same time."""
    with ThreadPoolExecutor(len(counts)) as pool:
        runs = [
            pool.submit(measure, count, duration_s, group=f"units{number}", network=number)
            for number, count in enumerate(counts)
        ]
        return [run.result() for run in runs]


def check(measured: Measured, count: int) -> None:
    """Nothing is lost.

    Raises:
        RuntimeError: a unit is not in, or the gateway has another number of reports than the ledger.
    """
    counters = measured.report.get("counters", {})
    got = {
        "units in": measured.gateway.get("vins", 0),
        "logins": counters.get("logins", 0),
        "reports at the gateway": measured.gateway.get("reports", 0),
    }
    expected = {"units in": count, "logins": count, "reports at the gateway": counters.get("sent", -1)}
    if got != expected:
        raise RuntimeError(f"real time: expected {expected}, got {got}\n{measured.output}")


def figures(count: int, seconds: int, few: int, processes: int = 1) -> list[Figure]:
    """Measure.

    Raises:
        RuntimeError: see `check`; or the simulator gave no verdict because this machine was too slow.
    """
    sizes = [count // processes + (number < count % processes) for number in range(processes)]
    small, *large = measure(few, seconds), *measure_together(sizes, seconds)
    for measured, size in zip((small, *large), (few, *sizes), strict=True):
        if measured.exit_code == NO_VERDICT:
            raise RuntimeError(f"real time: no verdict, this machine is too slow or busy\n{measured.output}")
        check(measured, size)
    share = sum(measured.settled_cpu_share for measured in large)
    locust = measure_locust(count, seconds) if processes == 1 else None
    ratio = round(share / locust.settled_cpu_share, 3) if locust else None
    late = [measured.report["generator"]["late_s"] for measured in large]
    name = "real time" if processes == 1 else f"real time, {processes} processes"
    memory = sum(measured.resident_bytes - small.resident_bytes for measured in large) / (count - few * processes)
    return [
        Figure(name, round(share, 4), "cores", ratio, "Locust, the same load" if ratio else ""),
        Figure(f"{name}: units", count, "units"),
        Figure(f"{name}: reports", sum(measured.gateway.get("reports", 0) for measured in large), "reports"),
        Figure(f"{name}: lateness p99", round(max(each["p99"] for each in late), 4), "s"),
        Figure(f"{name}: lateness max", round(max(each["max"] for each in late), 4), "s"),
        Figure(
            f"{name}: boots",
            sum(measured.report["generator"]["boots_per_s"] or 0.0 for measured in large),
            "units/s",
        ),
        Figure(f"{name}: memory", round(memory / 1000, 2), "kB/unit"),
    ]


def _option(name: str, default: int) -> int:
    return next((int(each.partition("=")[2]) for each in sys.argv if each.startswith(f"--{name}=")), default)


if __name__ == "__main__":
    is_quick = "--quick" in sys.argv
    count, processes = _option("count", COUNT), _option("processes", 1)
    sys.argv = [each for each in sys.argv if each != "--quick" and not each.startswith(("--count=", "--processes="))]
    print_figures("realtime", partial(figures, *((200, 15, 50) if is_quick else (count, 150, 500)), processes))
