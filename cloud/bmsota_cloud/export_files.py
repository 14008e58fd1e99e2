"""The files of exports: CSV, Parquet and xlsx, and the folder they are in.

Strategy: which columns there are is known when the last report has been read. So rows go into a part file first, with the
columns of what has come so far; a batch with a new column begins a new part. The end puts the parts together under the columns of all:
for one kind of vehicle that is one part, and nothing is left to do. No more than a batch is in memory. A file gets its name when it is whole
and synced.
"""

from __future__ import annotations

import csv
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

import numpy as np

from bmsota._extras import needs
from bmsota.gbt32960 import BEIJING
from bmsota_cloud.domain.exports import ExportFormat
from bmsota_cloud.folders import make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from bmsota_cloud.services.export_columns import ExportPart, ExportRows

__all__ = ["COLUMNS_MAX", "ExportFolder"]

COLUMNS_MAX: Final = 4096
"""Columns of a file. A pack of 400 cells has some 500; a vehicle that says it has 65,000 must not spoil the file of all others."""
_TOO_MANY: Final = "its values are left out: the file has no room for more columns"
_ZONE_NAME: Final = "+08:00"
_COPY_SIZE_BYTES: Final = 1 << 20
_STEP_ROWS: Final = 2000
"""xlsx rows between two signs of life."""


class _Writer(Protocol):
    def write(self, rows: ExportRows) -> None: ...
    def finish(self) -> Iterator[None]:
        """Make the whole file at its path, in steps."""
        ...

    def close(self) -> None:
        """Let go of what is open, finished or not."""
        ...


class ExportFolder:
    """A folder with the files of exports."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def path_of(self, name: str) -> Path:
        """Where the file of this name is, or would be."""
        return self._path / name

    def check(self, kind: ExportFormat) -> None:
        """Refuse a format for which a package is missing.

        Raises:
            MissingExtraError: says which extra.
        """
        if kind is ExportFormat.PARQUET:
            with needs("an export to Parquet", "pyarrow", "parquet"):
                import_module("pyarrow.parquet")
        elif kind is ExportFormat.XLSX:
            with needs("an export to xlsx", "xlsxwriter", "xlsx"):
                import_module("xlsxwriter")

    def begin(self, name: str, kind: ExportFormat, process: str) -> ExportFile:
        """Begin a file. Parts of it that an earlier process has left are removed.

        Raises:
            OSError: the folder or the file can't be written.
        """
        make_folder(self._path)
        self.clean(name)
        return ExportFile(self._path, name, kind, process)

    def clean(self, name: str) -> None:
        """Remove the parts of an unfinished file."""
        for part in self._path.glob(f".{name}.*"):
            part.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Remove a file, and what is unfinished of it."""
        self.clean(name)
        self.path_of(name).unlink(missing_ok=True)

    def names(self) -> tuple[str, ...]:
        """The finished files, and the parts of unfinished ones."""
        return tuple(sorted(each.name for each in self._path.iterdir())) if self._path.is_dir() else ()

    def free_bytes(self) -> int:
        """How much room there is on its disk."""
        return shutil.disk_usage(self._path if self._path.is_dir() else self._path.parent).free


class ExportFile:
    """A file that is being made."""

    def __init__(self, folder: Path, name: str, kind: ExportFormat, process: str) -> None:
        self._folder = folder
        self._path = folder / name
        # Two processes that both believe the job to be theirs never write into the same part.
        self._stem = f".{name}.{''.join(each if each.isalnum() else '-' for each in process)}"
        self._columns: set[str] = set()
        whole = folder / f"{self._stem}.whole"
        if kind is ExportFormat.PARQUET:
            self._writer: _Writer = _ParquetWriter(folder, self._stem, whole)
        else:
            self._writer = _CsvWriter(folder, self._stem, whole, is_xlsx=kind is ExportFormat.XLSX)
        self._whole = whole

    @property
    def size_bytes(self) -> int:
        """Of all that is on the disk for it."""
        total = 0
        for part in self._folder.glob(f"{self._stem}.*"):
            try:
                total += part.stat().st_size
            except FileNotFoundError:
                continue
        return total

    def write(self, rows: ExportRows) -> None:
        """Add rows.

        Raises:
            OSError: the disk is full, for example. The file can only be abandoned.
        """
        if rows.parts:
            self._writer.write(self._bounded(rows))

    def _bounded(self, rows: ExportRows) -> ExportRows:
        parts: list[ExportPart] = []
        fault = list(rows.fault)
        for part in rows.parts:
            new = {name for column, values in part.values.items() for name in _names(column, values)} - self._columns
            if len(self._columns) + len(new) > COLUMNS_MAX:
                for place in part.places.tolist():
                    fault[place] = "; ".join(filter(None, (fault[place], _TOO_MANY)))
                parts.append(replace(part, values={}, marks=None))
            else:
                self._columns |= new
                parts.append(part)
        return replace(rows, parts=parts, fault=fault)

    def finish(self) -> Iterator[None]:
        """Put the parts together, in steps, and give the file its name.

        Raises:
            OSError: as `write`.
        """
        yield from self._writer.finish()
        with self._whole.open("rb+") as file:
            os.fsync(file.fileno())
        self._whole.replace(self._path)
        _sync_folder(self._folder)
        self.abandon()

    def abandon(self) -> None:
        """Remove the parts; safe to call at any time."""
        # Closing a file on a full disk fails as well; it goes all the same.
        with suppress(OSError):
            self._writer.close()
        for part in self._folder.glob(f"{self._stem}.*"):
            part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _is_spread(values: Any) -> bool:
    """Whether a list has a column for each of its values: cells and probes have; fault codes and bytes, of any number, have not."""
    return bool(values.ndim == 2 and values.dtype.kind == "f")


def _names(column: str, values: Any) -> list[str]:
    """The columns of a CSV file for one column of the codec."""
    return [f"{column}.{number}" for number in range(1, values.shape[1] + 1)] if _is_spread(values) else [column]


# -- CSV, and xlsx made from it ----------------------------------------------------------------------------------------

_FIRST: Final = (
    "vin",
    "time_utc",
    "vehicle_time",
    "received_utc",
    "is_backfill",
    "is_time_plausible",
    "fault",
    "marks",
)
_LAST: Final = "other"


class _CsvWriter:
    """Rows with the columns of what has come so far, and at the end the line with the names before them."""

    def __init__(self, folder: Path, stem: str, whole: Path, *, is_xlsx: bool) -> None:
        self._whole = whole
        self._is_xlsx = is_xlsx
        self._names: dict[str, int] = {}
        self._body_path = folder / f"{stem}.body"
        self._body: BinaryIO = self._body_path.open("wb")
        self._sections: list[list[int]] = []
        """Of each section its lines and its columns."""

    def write(self, rows: ExportRows) -> None:
        for part in rows.parts:
            for column, values in part.values.items():
                for name in _names(column, values):
                    self._names.setdefault(name, len(self._names))
        width = len(self._names)
        lines: list[str] = [""] * len(rows)
        heads = _heads(rows)
        for part in rows.parts:
            columns: list[Sequence[str] | None] = [None] * width
            for column, values in part.values.items():
                for name, texts in zip(_names(column, values), _texts(values), strict=True):
                    columns[self._names[name]] = texts
            empty = [""] * len(part.places)
            filled = [empty if texts is None else texts for texts in columns]
            marks = empty if part.marks is None else part.marks
            for place, mark, *values_of_row in zip(part.places.tolist(), marks, *filled, strict=True):
                lines[place] = ",".join((heads[place], _quoted(mark), _quoted(rows.other[place]), *values_of_row))
        self._body.write("\n".join(lines).encode("utf-8", "backslashreplace") + b"\n")
        self._body.flush()
        if self._sections and self._sections[-1][1] == width:
            self._sections[-1][0] += len(lines)
        else:
            self._sections.append([len(lines), width])

    def finish(self) -> Iterator[None]:
        self._body.close()
        width = len(self._names)
        # `other` stands before the values, so that lines can grow at their end.
        header = ",".join((*_FIRST, _LAST, *map(_quoted, self._names)))
        if self._is_xlsx:
            yield from self._to_xlsx(header, width)
            return
        with self._body_path.open("rb") as body, self._whole.open("wb") as whole:
            whole.write(header.encode() + b"\n")
            for count, own in self._sections:
                if own == width and count == sum(section[0] for section in self._sections):
                    while data := body.read(_COPY_SIZE_BYTES):
                        whole.write(data)
                        yield
                    break
                end = b"," * (width - own) + b"\n"
                for number in range(count):
                    whole.write(body.readline()[:-1] + end)
                    if number % _STEP_ROWS == 0:
                        yield

    def _to_xlsx(self, header: str, width: int) -> Iterator[None]:
        xlsxwriter: Any = import_module("xlsxwriter")
        book = xlsxwriter.Workbook(
            str(self._whole), {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
        )
        try:
            sheet = book.add_worksheet("reports")
            sheet.freeze_panes(1, 1)
            first_value = len(_FIRST) + 1
            sheet.write_row(0, 0, next(csv.reader([header])))
            with self._body_path.open(encoding="utf-8", newline="") as body:
                for number, row in enumerate(csv.reader(body), 1):
                    for column, text in enumerate(row[: first_value + width]):
                        if not text:
                            continue
                        if column < first_value:
                            sheet.write_string(number, column, text)
                        else:
                            try:
                                sheet.write_number(number, column, float(text))
                            except ValueError:
                                sheet.write_string(number, column, text)
                    if number % _STEP_ROWS == 0:
                        yield
        finally:
            book.close()
        yield

    def close(self) -> None:
        self._body.close()


def _heads(rows: ExportRows) -> list[str]:
    """Of each row what stands before its values, without the marks."""
    received = rows.received_at_ns // 1000
    return [
        f"{_quoted(vin)},{utc},{local},{came},{'true' if late else 'false'},{'true' if plausible else 'false'},{_quoted(fault)}"
        for vin, (utc, local), came, late, plausible, fault in zip(
            rows.vin,
            map(_time_texts, rows.reported_at_s.tolist()),
            map(_microseconds, received.tolist()),
            rows.is_backfill.tolist(),
            rows.is_time_plausible.tolist(),
            rows.fault,
            strict=True,
        )
    ]


def _time_texts(at_s: int) -> tuple[str, str]:
    at = datetime.fromtimestamp(at_s, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%SZ}", f"{at.astimezone(BEIJING):%Y-%m-%dT%H:%M:%S}{_ZONE_NAME}"


def _microseconds(at_us: int) -> str:
    return f"{datetime.fromtimestamp(at_us // 1_000_000, UTC):%Y-%m-%dT%H:%M:%S}.{at_us % 1_000_000 // 1000:03}Z"


def _quoted(text: str) -> str:
    if not text:
        return ""
    text = text.replace("\r", " ").replace("\n", " ")
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text


def _texts(values: Any) -> Iterator[Sequence[str]]:
    """The texts of one column of the codec, for each of its columns in the file."""
    if values.ndim == 1:
        yield _column_texts(values)
    elif _is_spread(values):
        for place in range(values.shape[1]):
            yield _column_texts(values[:, place])
    else:
        # Fault codes and bytes.
        yield [" ".join(map(str, row)) for row in values.tolist()]


def _column_texts(values: Any) -> Sequence[str]:
    # Measured values repeat: each is put into words once. A float32 says its shortest decimals, which are those of the wire.
    different, which = np.unique(values, return_inverse=True)
    words = [_word(value) for value in different]
    return [words[number] for number in which.tolist()]


def _word(value: Any) -> str:
    if isinstance(value, np.floating):
        if not np.isfinite(value):
            return ""
        return str(int(value)) if value == int(value) else str(value)
    return str(value).lower()


# -- Parquet -----------------------------------------------------------------------------------------------------------


class _ParquetWriter:
    """Parts that each have one schema. Lists stay lists; numbers have the codec's types, with null where one is missing."""

    def __init__(self, folder: Path, stem: str, whole: Path) -> None:
        self._arrow: Any = import_module("pyarrow")
        self._parquet: Any = import_module("pyarrow.parquet")
        self._folder, self._stem, self._whole = folder, stem, whole
        self._schema: Any = None
        self._parts: list[Path] = []
        self._open: Any = None

    def write(self, rows: ExportRows) -> None:
        table = self._table(rows)
        if self._schema is None:
            self._begin(table.schema)
        else:
            both = self._unified([self._schema, table.schema])
            if both != self._schema:
                self._begin(both)
        self._open.write_table(self._fitted(table, self._schema), row_group_size=len(table))

    def _unified(self, schemas: Sequence[Any]) -> Any:
        return self._arrow.unify_schemas(schemas, promote_options="permissive")

    def _begin(self, schema: Any) -> None:
        if self._open is not None:
            self._open.close()
        part = self._folder / f"{self._stem}.part{len(self._parts)}"
        self._schema = schema
        self._open = self._parquet.ParquetWriter(str(part), schema, compression="zstd")
        self._parts.append(part)

    def finish(self) -> Iterator[None]:
        if self._open is None:
            self._begin(self._fixed_schema())
        self._open.close()
        self._open = None
        yield
        if len(self._parts) == 1:
            self._parts[0].replace(self._whole)
            return
        self._open = self._parquet.ParquetWriter(str(self._whole), self._schema, compression="zstd")
        for part in self._parts:
            file = self._parquet.ParquetFile(str(part))
            try:
                for number in range(file.num_row_groups):
                    self._open.write_table(self._fitted(file.read_row_group(number), self._schema))
                    yield
            finally:
                file.close()
            part.unlink()
        self._open.close()
        self._open = None

    def close(self) -> None:
        writer, self._open = self._open, None
        if writer is not None:
            writer.close()

    def _fixed_schema(self) -> Any:
        pa = self._arrow
        return pa.schema(
            [
                ("vin", pa.string()),
                ("time_utc", pa.timestamp("s", tz="UTC")),
                ("vehicle_time", pa.timestamp("s")),
                ("received_utc", pa.timestamp("ns", tz="UTC")),
                ("is_backfill", pa.bool_()),
                ("is_time_plausible", pa.bool_()),
                ("fault", pa.string()),
                ("marks", pa.string()),
                ("other", pa.string()),
            ]
        )

    def _table(self, rows: ExportRows) -> Any:
        """The rows in their order, with the columns of all parts."""
        pa = self._arrow
        if len(rows.parts) == 1:
            marks, values = self._values(rows.parts[0])
        else:
            tables = []
            for part in rows.parts:
                own_marks, columns = self._values(part)
                tables.append(pa.table({"marks": own_marks, **columns}))
            order = np.argsort(np.concatenate([part.places for part in rows.parts]), kind="stable")
            joined = pa.concat_tables(tables, promote_options="permissive").take(pa.array(order)).combine_chunks()
            marks, values = joined["marks"], {name: joined[name] for name in joined.column_names if name != "marks"}
        local_s = rows.reported_at_s + int(BEIJING.utcoffset(None).total_seconds())
        fixed = [
            pa.array(rows.vin, pa.string()),
            pa.array(rows.reported_at_s).cast(pa.timestamp("s")).cast(pa.timestamp("s", tz="UTC")),
            pa.array(local_s).cast(pa.timestamp("s")),
            pa.array(rows.received_at_ns).cast(pa.timestamp("ns")).cast(pa.timestamp("ns", tz="UTC")),
            pa.array(rows.is_backfill),
            pa.array(rows.is_time_plausible),
            self._words(rows.fault),
            marks,
            self._words(rows.other),
        ]
        names = self._fixed_schema().names
        return pa.table({**dict(zip(names, fixed, strict=True)), **values})

    def _words(self, words: Sequence[str]) -> Any:
        return self._arrow.array([word or None for word in words], self._arrow.string())

    def _values(self, part: ExportPart) -> tuple[Any, Mapping[str, Any]]:
        pa = self._arrow
        count = len(part.places)
        marks = pa.nulls(count, pa.string()) if part.marks is None else self._words(part.marks)
        return marks, {name: self._array(values) for name, values in part.values.items()}

    def _array(self, values: Any) -> Any:
        pa = self._arrow
        # NaN is "missing" in the columns of the codec, and nothing else.
        flat = pa.array(np.ascontiguousarray(values).reshape(-1), from_pandas=True)
        if values.ndim == 1:
            return flat
        offsets = np.arange(values.shape[0] + 1, dtype=np.int32) * values.shape[1]
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)

    def _fitted(self, table: Any, schema: Any) -> Any:
        """*table* under *schema*, with nulls in columns that it has not."""
        if table.schema == schema:
            return table
        pa = self._arrow
        here = set(table.column_names)
        arrays = [
            table[field.name].cast(field.type) if field.name in here else pa.nulls(len(table), field.type)
            for field in schema
        ]
        return pa.table(arrays, schema=schema)
