"""What `bmsota dbc decode` writes: lines of text, CSV, Parquet. One value is one row; a frame of text is one line.

The tables have a row per value, not a column per signal: a log holds hundreds of messages, each with its own times. Columns:
time_s (nothing if the log has no times), channel, can_id, message, signal, value, name (of the value table, or nothing), unit.
"""

from __future__ import annotations

import csv
import math
import sys
from decimal import Decimal
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import numpy as np

from bmsota.cli.extras import extra_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from bmsota.adapters.canlogs import DecodedMessage, LogBlock
    from bmsota.signals import Message, Signal

__all__ = ["CsvTable", "LogTable", "ParquetTable", "TextLines"]

# Digits behind the point that a scale can ask for; numbers of a smaller scale are written with an exponent.
_DECIMALS_MAX = 12
# A float of more bits is a double, whose digits only `repr` has.
_SINGLE_BITS = 32


class LogTable(Protocol):
    """Where decoded blocks go."""

    def write(self, block: LogBlock, /) -> None: ...

    def close(self) -> None: ...


class _Shown:
    """How one signal's numbers are written."""

    __slots__ = ("_decimals", "_is_double", "_is_float", "_names", "name", "unit")

    def __init__(self, signal: Signal) -> None:
        self.name = signal.name
        self.unit = signal.unit
        self._names = {raw * signal.scale + signal.offset: name for raw, name in signal.choices.items()}
        places = [-int(Decimal(repr(each)).normalize().as_tuple().exponent) for each in (signal.scale, signal.offset)]
        self._decimals = max(*places, 0)
        self._is_float = signal.is_float
        self._is_double = signal.is_float and signal.length_bits > _SINGLE_BITS

    def number(self, value: float) -> str:
        if isinstance(value, int):
            return str(value)
        if self._is_float:
            return repr(float(value)) if self._is_double else f"{value:.9g}"
        # To the last digit that the scale can produce: 0.1 * 3 is 0.3.
        return f"{value:.{self._decimals}f}" if self._decimals <= _DECIMALS_MAX else f"{value:.15g}"

    def named(self, value: float) -> str:
        return self._names.get(value, "") if self._names else ""

    def names(self, values: Iterable[float]) -> list[str | None]:
        return [self._names.get(value) for value in values] if self._names else []


def _can_id(each: DecodedMessage) -> str:
    return f"{each.can_id:08X}" if each.message.is_extended_id else f"{each.can_id:03X}"


def _time(time_s: float) -> str:
    return "" if math.isnan(time_s) else f"{time_s:.6f}"


def _doubles(values: NDArray[Any]) -> NDArray[np.float64] | list[float | None]:
    if values.dtype != object:
        return values.astype(np.float64)
    return [float(each) if abs(each) <= sys.float_info.max else None for each in values.tolist()]


class _Writer:
    """Keeps how each signal is written: it is asked for once per message, not once per block."""

    def __init__(self) -> None:
        self._shown: dict[int, list[_Shown]] = {}

    def shown(self, message: Message) -> list[_Shown]:
        found = self._shown.get(id(message))
        if found is None:
            found = self._shown[id(message)] = [_Shown(signal) for signal in message.signals]
        return found

    def frames(self, block: LogBlock) -> Iterator[tuple[DecodedMessage, int, list[tuple[_Shown, Any]]]]:
        """Every frame in the log's order: its message, its row there, and its values."""
        found: list[tuple[int, DecodedMessage, int, list[tuple[_Shown, Any]]]] = []
        for each in block.decoded:
            values: list[list[tuple[_Shown, Any]]] = [[] for _ in range(each.columns.length)]
            for shown in self.shown(each.message):
                if shown.name not in each.columns:
                    continue  # These frames are too short for it.
                rows = each.columns.rows(shown.name).tolist()
                for row, value in zip(rows, each.columns[shown.name].tolist(), strict=True):
                    values[row].append((shown, value))
            positions = each.positions.tolist()
            found += [(positions[row], each, row, held) for row, held in enumerate(values)]
        found.sort(key=lambda item: item[0])
        for _, each, row, held in found:
            yield each, row, held


class TextLines(_Writer):
    """One line a frame: (time) channel id message: signal value unit, ..."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out

    def write(self, block: LogBlock) -> None:
        lines = []
        for each, row, held in self.frames(block):
            values = ", ".join(
                f"{shown.name} {name}" if (name := shown.named(value)) else f"{shown.name} {shown.number(value)}{shown.unit and ' '}{shown.unit}"
                for shown, value in held
            )  # fmt: skip
            time = _time(each.times_s[row])
            channel = each.channels[row]
            place = f"{time and f'({time}) '}{channel}{channel and ' '}{_can_id(each)}"
            lines.append(f"{place} {each.message.name}: {values}\n")
        self._out.write("".join(lines))
        self._out.flush()  # A live stream is read as it comes.

    def close(self) -> None:
        self._out.flush()


HEADER = ("time_s", "channel", "can_id", "message", "signal", "value", "name", "unit")


class CsvTable(_Writer):
    """RFC 4180, UTF-8, one row a value, in the log's order."""

    def __init__(self, out: TextIO, *, keep_open: bool = False) -> None:
        super().__init__()
        self._out = out
        self._keep_open = keep_open
        self._csv = csv.writer(out, lineterminator="\n")
        self._csv.writerow(HEADER)

    def write(self, block: LogBlock) -> None:
        for each, row, held in self.frames(block):
            start = (_time(each.times_s[row]), each.channels[row], _can_id(each), each.message.name)
            self._csv.writerows(
                (*start, shown.name, shown.number(value), shown.named(value), shown.unit) for shown, value in held
            )
        if self._keep_open:
            self._out.flush()

    def close(self) -> None:
        if self._keep_open:
            self._out.flush()
        else:
            self._out.close()


class ParquetTable(_Writer):
    """Parquet, Zstandard, one row a value; within a block of frames ordered by message and signal.

    `value` is float64: integers beyond 2**53 are rounded, and those beyond what it holds are null. Text columns are dictionaries, so that the names cost nothing.
    """

    def __init__(self, path: str) -> None:
        """Create the file.

        Raises:
            OSError: it cannot be created.
            MissingExtraError: pyarrow is not installed.
        """
        super().__init__()
        try:
            # Through import_module: an extra that most installations do not have, and that publishes no types.
            self._arrow: Any = import_module("pyarrow")
            parquet: Any = import_module("pyarrow.parquet")
        except ImportError as error:
            raise extra_error("parquet") from error
        arrow = self._arrow
        text = arrow.dictionary(arrow.int32(), arrow.string())
        self._schema = arrow.schema([
            ("time_s", arrow.float64()), ("channel", text), ("can_id", arrow.uint32()), ("is_extended_id", arrow.bool_()),
            ("message", text), ("signal", text), ("value", arrow.float64()), ("name", text), ("unit", text),
        ])  # fmt: skip
        self._writer: Any = parquet.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, block: LogBlock) -> None:
        arrow, schema = self._arrow, self._schema
        batches = []
        for each in block.decoded:
            channels = arrow.array(each.channels, arrow.string()).dictionary_encode()
            for shown in self.shown(each.message):
                if shown.name not in each.columns:
                    continue
                rows = each.columns.rows(shown.name)
                count = len(rows)
                if not count:
                    continue
                values = each.columns[shown.name]
                names = shown.names(values.tolist()) or [None] * count
                constant = {"message": each.message.name, "signal": shown.name, "unit": shown.unit}
                fields = {
                    "time_s": arrow.array(each.times_s[rows], from_pandas=True),  # NaN: no time.
                    "channel": channels.take(arrow.array(rows)),
                    "can_id": arrow.array(np.full(count, each.can_id, dtype=np.uint32)),
                    "is_extended_id": arrow.array(np.full(count, each.message.is_extended_id)),
                    "value": arrow.array(_doubles(values), arrow.float64()),
                    "name": arrow.array(names, arrow.string()).dictionary_encode(),
                    **{
                        key: arrow.DictionaryArray.from_arrays(np.zeros(count, dtype=np.int32), [text])
                        for key, text in constant.items()
                    },
                }
                batches.append(arrow.record_batch([fields[field.name] for field in schema], schema=schema))
        if batches:
            # One row group a block, whatever the number of messages in it.
            table = arrow.Table.from_batches(batches, schema=schema).unify_dictionaries().combine_chunks()
            self._writer.write_table(table)

    def close(self) -> None:
        self._writer.close()
