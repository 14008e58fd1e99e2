"""Exports: reports per CPU-second from compressed blocks to a file, beside one report at a time as a script would do it.

`python -m benchmarks.export`. The reports are those of `benchmarks.blocks`: 342 bytes, 96 cells, 1 mV of noise.
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bmsota_cloud.domain.exports import ExportFormat
from bmsota_cloud.export_files import ExportFolder
from bmsota_cloud.services.export_columns import rows_of
from bmsota_cloud.storage.sql import SqlTelemetryStore

from benchmarks._figures import Figure, compare, print_figures
from benchmarks.blocks import _as_of, day_of_frames
from bmsota.gbt32960 import decode, to_dict

if TYPE_CHECKING:
    from bmsota_cloud.domain.telemetry import StoredFrame

VEHICLES = 6
_BATCH = 16_384


def figures() -> list[Figure]:
    day = day_of_frames(noise_mv=1.0, seed=1)
    vins = [f"LFLEET{number:011d}" for number in range(VEHICLES)]
    with tempfile.TemporaryDirectory() as place:
        telemetry = SqlTelemetryStore(f"sqlite:///{place}/telemetry.sqlite")
        for vin in vins:
            telemetry.append([_as_of(frame, vin) for frame in day])
        telemetry.save_derived((), (), telemetry.mark())
        name = telemetry.hot()[0].name
        while not telemetry.compact(name, 16).is_done:
            pass
        folder = ExportFolder(Path(place) / "exports")

        def to(kind: ExportFormat) -> int:
            file = folder.begin(f"export.{kind}", kind, "benchmark")
            waiting: list[StoredFrame] = []
            count = 0
            for vin in vins:
                for frame in telemetry.read(vin, 0, 2**40):
                    waiting.append(frame)
                    if len(waiting) == _BATCH:
                        file.write(rows_of(waiting))
                        count, waiting = count + len(waiting), []
            file.write(rows_of(waiting))
            for _ in file.finish():
                pass
            return count + len(waiting)

        def row_by_row() -> int:
            """What it is compared with: `decode` and the csv module, one report after the other."""
            count = 0
            with (Path(place) / "rows.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                for frame in telemetry.read(vins[0], 0, 2**40):
                    writer.writerow(_flat(to_dict(decode(frame.clear).message)))
                    count += 1
            return count

        def only_read() -> int:
            return sum(1 for vin in vins for _ in telemetry.read(vin, 0, 2**40))

        found = compare(
            {
                "export to parquet": lambda: to(ExportFormat.PARQUET),
                "export to csv": lambda: to(ExportFormat.CSV),
                "only read": only_read,
                "one by one": row_by_row,
            },
            dict.fromkeys(("export to parquet", "export to csv", "only read"), "one by one"),
            unit="reports/CPU-s",
        )
        telemetry.close()
    return found


def _flat(value: object) -> list[object]:
    if isinstance(value, dict):
        return [each for item in value.values() for each in _flat(item)]
    if isinstance(value, list | tuple):
        return [each for item in value for each in _flat(item)]
    return [value]


if __name__ == "__main__":
    print_figures("export", figures)
