"""Reports as rows of an export: what every row has, and the columns of the batch codec.

Strategy: thousands of frames are decoded at once (`decode_batch`), so a column of the export is a column of the codec, under the
same name. A report that has no columns, because of a body of its maker or a wrong tail, is made again from its bodies of the standard;
what else it says stands in the column `other` as JSON, why it could not be read in the column `fault`. Every report is a row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from bmsota.errors import BmsotaError, FrameError
from bmsota.gbt32960 import (
    MARK_ABNORMAL,
    Alarms,
    Alarms2025,
    CellVoltages,
    CellVoltages2025,
    Command,
    DriveMotors,
    DriveMotors2025,
    Edition,
    Engine,
    Engine2025,
    Extremes,
    Frame,
    FuelCell,
    FuelCell2025,
    FuelCellStacks,
    Position,
    Position2025,
    ProbeTemperatures,
    ProbeTemperatures2025,
    Report,
    Signature,
    Supercapacitor,
    SupercapacitorExtremes,
    UserDefined,
    VehicleData,
    VehicleData2025,
    decode_batch,
    decode_partial,
    encode,
)
from bmsota_cloud.services.values import plain_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bmsota.gbt32960 import FrameGroup, Layouts
    from bmsota_cloud.domain.exports import ExportFormat
    from bmsota_cloud.domain.telemetry import StoredFrame

    Array = NDArray[Any]

__all__ = ["ExportPart", "ExportRows", "rows_of"]

# Bodies that `decode_batch` has columns for.
_IN_COLUMNS: Final = (
    VehicleData,
    VehicleData2025,
    DriveMotors,
    DriveMotors2025,
    FuelCell,
    FuelCell2025,
    FuelCellStacks,
    Engine,
    Engine2025,
    Position,
    Position2025,
    Extremes,
    Alarms,
    Alarms2025,
    CellVoltages,
    CellVoltages2025,
    ProbeTemperatures,
    ProbeTemperatures2025,
    Supercapacitor,
    SupercapacitorExtremes,
    Signature,
    UserDefined,
)
_START_2025 = b"$$"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExportPart:
    """Rows that are laid out alike."""

    places: Array
    """int64: which rows of the whole."""
    values: Mapping[str, Array] = field(default_factory=dict)
    """As `bmsota.gbt32960.FrameGroup.values`: NaN where a number is missing, lists in two dimensions."""
    marks: Sequence[str] | None = None
    """Why numbers are missing, as "vehicle_data.soc_pct invalid"; None: none is."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExportRows:
    """Some thousand reports, oldest first, of one vehicle after the other."""

    vin: Sequence[str]
    reported_at_s: Array
    """int64: Unix seconds, by the vehicle's clock."""
    received_at_ns: Array
    """int64: Unix nanoseconds, by the platform's clock."""
    is_backfill: Array
    is_time_plausible: Array
    fault: Sequence[str]
    """Why not all could be read; empty: all could."""
    other: Sequence[str]
    """What has no column, as JSON; empty: nothing."""
    parts: Sequence[ExportPart]
    """Every row is in exactly one."""
    unreadable: int = 0
    """Rows of which nothing could be read."""

    def __len__(self) -> int:
        return len(self.vin)


def rows_of(frames: Sequence[StoredFrame], layouts: Layouts | None = None) -> ExportRows:
    """The rows of *frames*, in their order. *layouts*: bodies of the vehicles' makers."""
    count = len(frames)
    fault = [frame.fault for frame in frames]
    other = [""] * count
    parts: list[ExportPart] = []
    slow = list(range(count))
    # Columns know no bodies but the standard's: one of a maker's without a length would be read as something else.
    if layouts is None:
        columns = decode_batch([frame.clear for frame in frames])
        parts += [_part(group, group.index) for group in columns.groups]
        slow = sorted(place for place, _ in (*columns.others, *columns.errors))
    unreadable = _slow(frames, slow, layouts, fault, other, parts) if slow else 0
    return ExportRows(
        vin=[frame.vin for frame in frames],
        reported_at_s=np.fromiter((frame.reported_at_s for frame in frames), np.int64, count),
        received_at_ns=np.fromiter((frame.arrived_at_ns for frame in frames), np.int64, count),
        is_backfill=np.fromiter((frame.is_backfill for frame in frames), np.bool_, count),
        is_time_plausible=np.fromiter((frame.is_time_plausible for frame in frames), np.bool_, count),
        fault=fault,
        other=other,
        parts=parts,
        unreadable=unreadable,
    )


def _slow(
    frames: Sequence[StoredFrame],
    places: Sequence[int],
    layouts: Layouts | None,
    fault: list[str],
    other: list[str],
    parts: list[ExportPart],
) -> int:
    """Reports one by one: what they have of the standard goes into columns; how many have nothing that can be read."""
    again: list[bytes] = []
    again_places: list[int] = []
    bare: list[int] = []
    reports: dict[int, Report] = {}
    unreadable = 0
    for place in places:
        frame = frames[place]
        try:
            message, wrong = decode_partial(frame.clear, layouts=layouts)
            report = message.message
            assert isinstance(report, Report)  # Nothing else is stored, and it is in the clear.
            fault[place] = fault[place] or ("" if wrong is None else str(wrong))
        except FrameError as error:
            fault[place] = fault[place] or str(error)
            bare.append(place)
            unreadable += 1
            continue
        reports[place] = report
        standard = tuple(body for body in report.bodies if isinstance(body, _IN_COLUMNS))
        if len(standard) < len(report.bodies):
            rest = tuple(body for body in report.bodies if not isinstance(body, _IN_COLUMNS))
            other[place] = _json(Report(report.time, rest))
        try:
            data = encode(
                Frame(
                    command=Command(frame.clear[2]),
                    vin=frame.vin,
                    message=Report(report.time, standard),
                    edition=Edition.GBT2025 if frame.clear.startswith(_START_2025) else Edition.GBT2016,
                )
            )
        except (BmsotaError, ValueError):
            # The values that the wire carried are no values that may be sent again.
            other[place] = _json(report)
            bare.append(place)
            continue
        again.append(data)
        again_places.append(place)
    if again:
        columns = decode_batch(again)
        own = np.array(again_places, np.int64)
        parts += [_part(group, own[group.index]) for group in columns.groups]
        for index, _ in (*columns.others, *columns.errors):
            place = again_places[index]
            other[place] = _json(reports[place])
            bare.append(place)
    if bare:
        parts.append(ExportPart(places=np.array(sorted(bare), np.int64)))
    return unreadable


def _json(report: Report) -> str:
    return json.dumps(plain_values([report]), ensure_ascii=False, separators=(",", ":"))


def _part(group: FrameGroup, places: Array) -> ExportPart:
    return ExportPart(places=places, values=group.values, marks=_marks(group))


def _marks(group: FrameGroup) -> Sequence[str] | None:
    if not group.marks:
        return None
    names = list(group.marks)
    flat = [np.ascontiguousarray(group.marks[name]).reshape(len(group), -1).astype(np.uint8) for name in names]
    rows = np.ascontiguousarray(np.concatenate(flat, axis=1))
    # The same values are missing in most reports: each pattern is put into words once.
    patterns, which = np.unique(rows.view(f"V{rows.shape[1]}").reshape(-1), return_inverse=True)
    words = []
    for pattern in patterns:
        octets = np.frombuffer(pattern.tobytes(), np.uint8)
        edges = np.cumsum([0, *(part.shape[1] for part in flat)])
        words.append(
            "; ".join(
                text
                for name, start, stop in zip(names, edges[:-1], edges[1:], strict=True)
                for text in _in_words(name, octets[start:stop].tolist(), is_list=group.marks[name].ndim > 1)
            )
        )
    return [words[number] for number in which.tolist()]


def _in_words(name: str, marks: Sequence[int], *, is_list: bool) -> Iterator[str]:
    """As "soc invalid", "cells[3] abnormal", "cells[5-8] invalid"."""
    start = 0
    for place in range(1, len(marks) + 1):
        if place < len(marks) and marks[place] == marks[start]:
            continue
        if marks[start]:
            word = "abnormal" if marks[start] == MARK_ABNORMAL else "invalid"
            where = "" if not is_list else f"[{start + 1}]" if place == start + 1 else f"[{start + 1}-{place}]"
            yield f"{name}{where} {word}"
        start = place


class GrowingFile(Protocol):
    """A file that is being made."""

    @property
    def size_bytes(self) -> int: ...
    def write(self, rows: ExportRows) -> None: ...
    def finish(self) -> Iterator[None]: ...
    def abandon(self) -> None: ...


class ExportFiles(Protocol):
    """Where files of exports are; see `bmsota_cloud.export_files`."""

    def path_of(self, name: str) -> Path: ...
    def check(self, kind: ExportFormat) -> None: ...
    def begin(self, name: str, kind: ExportFormat, process: str) -> GrowingFile: ...
    def delete(self, name: str) -> None: ...
    def names(self) -> tuple[str, ...]: ...
    def free_bytes(self) -> int: ...
