"""What a report takes in a compressed block, and what compressing costs.

One vehicle's day of reports of 342 bytes, one every 30 s: 96 cells and 32 probes of the simulator's pack model, 14 hours parked, 8 hours
charging, 2 hours driving with a new current in every report; each cell's voltage with Gaussian noise before it is rounded to 1 mV.

    bytes per report      all blocks of the day by the number of reports; arrival times and everything else included
    ... of an hour        the same for hours of one kind
    encode, decode        CPU of one block of 120 reports
    compacting            the same through the store on SQLite: rows read, block written, read back, compared
    file                  the file of blocks by the number of reports
    lag beside a fleet    an hour of 2,000 vehicles is compacted at full speed, while a writer commits 66 reports every 20 ms and a reader
                          leafs through histories: how long the writer's commits take, median, 99 of 100 and the longest; the ratio
                          is to the same without the compactor. The frames read back in the end are compared.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.telemetry import StoredFrame
from bmsota_cloud.storage._blocks import decode_block, encode_block
from bmsota_cloud.storage.sql import SqlTelemetryStore
from bmsota_cloud.storage.sql._packing import pack
from bmsota_sim.physics import PackDesign, Packs

from benchmarks._figures import Figure, print_figures
from bmsota.checksums import bcc_xor
from bmsota.gbt32960 import (
    Alarms,
    CellVoltages,
    Command,
    DriveMotor,
    DriveMotors,
    Extremes,
    Frame,
    Position,
    ProbeTemperatures,
    Report,
    SubsystemTemperatures,
    SubsystemVoltages,
    VehicleData,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bmsota_cloud.storage._blocks import FrameRow

PERIOD_S = 30
HOUR_REPORTS = 3600 // PERIOD_S
START_S = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp())
DRIVING, CHARGING, PARKED = "driving", "charging", "parked"
# By hour: to work, back home, charged over the evening and the night.
HOURS = (*[CHARGING] * 4, *[PARKED] * 4, DRIVING, *[PARKED] * 8, DRIVING, *[PARKED] * 2, *[CHARGING] * 4)
FLEET_VEHICLES = 2000
_COMMITS_ALONE = 200
NOISES_MV = (0.0, 0.5, 1.0, 2.0)


def day_of_frames(
    *, noise_mv: float, seed: int, vin: str = "LBLOCK00000000001", start_s: int = START_S
) -> list[StoredFrame]:
    """One day of one vehicle."""
    draw = random.Random(seed)
    packs = Packs(PackDesign(cell_count=96, probe_count=32), [vin], seed=seed, soc=0.6, temperature_c=22.0)
    odometer_km, longitude, latitude, speed_kmh = 12345.0, 121.47, 31.23, 0.0
    frames = []
    for number in range(len(HOURS) * HOUR_REPORTS):
        now = HOURS[number // HOUR_REPORTS]
        current_a = {DRIVING: draw.gauss(40, 60), CHARGING: -13.0 + draw.gauss(0, 0.05), PARKED: 0.0}[now]
        packs.step(current_a, PERIOD_S, ambient_c=20.0)
        speed_kmh = max(0.0, draw.gauss(60, 20)) if now == DRIVING else 0.0
        odometer_km += speed_kmh * PERIOD_S / 3600
        if now == DRIVING:
            longitude, latitude = longitude + draw.gauss(0, 0.002), latitude + draw.gauss(0, 0.002)
        volts = tuple(round(float(volt) + draw.gauss(0, noise_mv / 1000), 3) for volt in packs.cell_voltage_v[0])
        probes = tuple(round(float(each)) for each in packs.probe_temperature_c[0])
        total_v, pack_a = round(sum(volts), 1), round(current_a, 1)
        motor = (4, 0) if now != DRIVING else (1, int(speed_kmh * 70))
        at_s = start_s + number * PERIOD_S
        bodies = (
            VehicleData(
                vehicle_state=1 if now == DRIVING else 2,
                charging_state={DRIVING: 3, CHARGING: 1, PARKED: 3}[now],
                run_mode=1,
                speed_kmh=round(speed_kmh, 1),
                odometer_km=round(odometer_km, 1),
                total_voltage_v=total_v,
                total_current_a=pack_a,
                soc_pct=round(100 * float(packs.soc[0])),
                dcdc_state=1,
                gear=14 if now == DRIVING else 15,
                insulation_kohm=5000 + draw.randrange(-20, 20),
                accelerator_pct=draw.randrange(40) if now == DRIVING else 0,
                brake_pct=0,
            ),
            DriveMotors((DriveMotor(1, motor[0], 41, motor[1], 15.0, 48, total_v, pack_a),)),
            Position(valid=True, longitude_deg=longitude, latitude_deg=latitude),
            Extremes(
                1,
                volts.index(max(volts)) + 1,
                max(volts),
                1,
                volts.index(min(volts)) + 1,
                min(volts),
                1,
                probes.index(max(probes)) + 1,
                max(probes),
                1,
                probes.index(min(probes)) + 1,
                min(probes),
            ),
            Alarms(0, 0),
            CellVoltages((SubsystemVoltages(1, total_v, pack_a, 96, 1, volts),)),
            ProbeTemperatures((SubsystemTemperatures(1, probes),)),
        )
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at_s)
        frame = encode(Frame(command=Command.REALTIME_REPORT, vin=vin, message=Report(moment, bodies)))
        arrived_at_ns = at_s * 1_000_000_000 + 200_000_000 + int(draw.expovariate(1 / 80e6))
        frames.append(
            StoredFrame(
                vin=vin,
                frame=frame,
                clear=frame,
                reported_at_s=at_s,
                arrived_at_ns=arrived_at_ns,
                is_backfill=False,
            )
        )
    return frames


def rows_by_hour(frames: Sequence[StoredFrame]) -> Iterator[list[FrameRow]]:
    """As the compactor reads them."""
    rows: list[FrameRow] = [(row[0], *row[2:]) for row in map(pack, frames)]
    for begin in range(0, len(rows), HOUR_REPORTS):
        yield rows[begin : begin + HOUR_REPORTS]


def size_of_blocks(frames: Sequence[StoredFrame]) -> float:
    """Bytes a report, in blocks of an hour."""
    return sum(len(encode_block(rows, b"")) for rows in rows_by_hour(frames)) / len(frames)


def figures() -> list[Figure]:
    found = []
    days = {noise_mv: day_of_frames(noise_mv=noise_mv, seed=1) for noise_mv in NOISES_MV}
    for noise_mv, frames in days.items():
        assert {len(frame.frame) for frame in frames} == {342}
        found.append(Figure(f"bytes per report, {noise_mv:g} mV", round(size_of_blocks(frames), 1), "B"))
    hours = list(rows_by_hour(days[1.0]))
    for kind in (PARKED, CHARGING, DRIVING):
        own = [rows for rows, hour in zip(hours, HOURS, strict=True) if hour == kind]
        size_bytes = sum(len(encode_block(rows, b"")) for rows in own) / len(own) / HOUR_REPORTS
        found.append(Figure(f"bytes per report, an hour {kind}", round(size_bytes, 1), "B"))
    blocks = [encode_block(rows, b"") for rows in hours]
    found.append(Figure("encode", _cpu_ms(lambda number: encode_block(hours[number], b"")), "ms a block"))
    found.append(Figure("decode", _cpu_ms(lambda number: decode_block(blocks[number], b"")), "ms a block"))
    return found + _store_figures() + _fleet_figures()


def _cpu_ms(work: object, rounds: int = 10) -> float:
    start = time.process_time()
    for _ in range(rounds):
        for number in range(len(HOURS)):
            work(number)  # type: ignore[operator]
    return round((time.process_time() - start) * 1000 / rounds / len(HOURS), 3)


def _store_figures(vehicles: int = 20) -> list[Figure]:
    """A day of some vehicles, appended in the order of time and compacted."""
    days = [
        day_of_frames(noise_mv=1.0, seed=number, vin=f"LBLOCK{number:011d}", start_s=START_S)
        for number in range(vehicles)
    ]
    with tempfile.TemporaryDirectory() as folder:
        telemetry = SqlTelemetryStore(f"sqlite:///{folder}/telemetry.sqlite")
        for moment in zip(*days, strict=True):
            telemetry.append(moment)
        telemetry.save_derived((), (), telemetry.mark())
        (partition,) = telemetry.hot()
        start = time.process_time()
        count = 0
        while not (done := telemetry.compact(partition.name, 32)).is_done:
            count += done.hours
        spent_s = time.process_time() - start
        for frames in days:
            assert list(telemetry.read(frames[0].vin, 0, 2**40)) == frames
        telemetry.close()
        (path,) = Path(folder, "reports").glob("*.blocks.sqlite")
        size_bytes = path.stat().st_size
    return [
        Figure("compacting", round(spent_s * 1000 / count, 3), "ms a block"),
        Figure("file", round(size_bytes / vehicles / len(HOURS) / HOUR_REPORTS, 1), "B a report"),
    ]


def _fleet_figures(vehicles: int = FLEET_VEHICLES) -> list[Figure]:
    """What the writer and readers notice of a fleet's hour going into blocks."""
    hour = day_of_frames(noise_mv=1.0, seed=1, vin=f"LFLEET{0:011d}", start_s=START_S)[:HOUR_REPORTS]
    vins = [f"LFLEET{number:011d}" for number in range(vehicles)]
    live = [_as_of(frame, f"LLIVE{number:012d}", 86_400) for number, frame in enumerate(hour[:66])]
    with tempfile.TemporaryDirectory() as folder:
        telemetry = SqlTelemetryStore(f"sqlite:///{folder}/telemetry.sqlite")
        for frame in hour:
            telemetry.append([_as_of(frame, vin) for vin in vins])
        telemetry.save_derived((), (), telemetry.mark())
        partition = telemetry.hot()[0].name
        alone = _commits(telemetry, live, 0, lambda count: count >= _COMMITS_ALONE)
        is_over = threading.Event()

        def compact() -> None:
            try:
                while not telemetry.compact(partition, 16).is_done:
                    pass
            finally:
                is_over.set()

        def read() -> None:
            for vin in itertools.cycle(vins):
                if is_over.is_set():
                    return
                assert telemetry.frames(vin, PageRequest(1, 50)).total == HOUR_REPORTS

        threads = [threading.Thread(target=work) for work in (compact, read)]
        for thread in threads:
            thread.start()
        beside = _commits(telemetry, live, _COMMITS_ALONE, lambda _: is_over.is_set())
        for thread in threads:
            thread.join()
        for vin in vins[:: max(1, vehicles // 50)]:
            assert list(telemetry.read(vin, 0, 2**40)) == [_as_of(frame, vin) for frame in hour]
        telemetry.close()
    return [
        Figure(f"lag beside a fleet, {name}", round(at(beside) * 1000, 1), "ms", round(at(beside) / at(alone), 2))
        for name, at in (("median", _quantile(0.5)), ("p99", _quantile(0.99)), ("longest", max))
    ]


def _as_of(frame: StoredFrame, vin: str, later_s: int = 0) -> StoredFrame:
    """The same report of another vehicle; its time, within the frame, stays."""
    raw = bytearray(frame.frame)
    raw[4:21] = vin.encode()
    raw[-1] = bcc_xor(raw[2:-1])
    clear = bytes(raw)
    return replace(
        frame,
        vin=vin,
        frame=clear,
        clear=clear,
        arrived_at_ns=frame.arrived_at_ns,
        reported_at_s=frame.reported_at_s + later_s,
    )


def _commits(
    telemetry: SqlTelemetryStore, live: Sequence[StoredFrame], begin: int, is_over: Callable[[int], bool]
) -> list[float]:
    """How long each of many commits took; one every 20 ms."""
    took: list[float] = []
    for count in itertools.count(begin):
        if is_over(count) and took:
            return took
        batch = [replace(frame, reported_at_s=frame.reported_at_s + count) for frame in live]
        start = time.perf_counter()
        telemetry.append(batch)
        took.append(time.perf_counter() - start)
        time.sleep(max(0.0, 0.02 - took[-1]))
    raise AssertionError


def _quantile(share: float) -> Callable[[Sequence[float]], float]:
    return lambda values: sorted(values)[int(share * (len(values) - 1))]


if __name__ == "__main__":
    print_figures("blocks", figures)
