"""A frame field by field: offset, bytes, name, raw number, value, unit, clause.

Walks the same tables as the compiled codec, one row at a time and without any cleverness; a test holds the two together. Made
for people: for a program `decode` is quicker and its result is typed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bmsota.gbt32960._codec import decode, message_layout
from bmsota.gbt32960._enums import Command, ControlId, Edition, Encryption, ParameterId, ReplyFlag
from bmsota.gbt32960._extension import EXTENSION_VERSION, BlockReply
from bmsota.gbt32960._fields import (
    CodeTable,
    Field,
    FixedBytes,
    Layout,
    PackTable,
    Repeat,
    SizedBytes,
    SizedText,
    Text,
    Time,
    sentinel_raws,
)
from bmsota.gbt32960._frame import HEADER_SIZE_BYTES
from bmsota.gbt32960._messages import (
    ActivationReply,
    Control,
    KeyExchange,
    ParameterQuery,
    ParameterValues,
    RawMessage,
    Report,
)
from bmsota.gbt32960._plain import text_of, time_of
from bmsota.gbt32960._registry import body_end
from bmsota.gbt32960._sized import USER_DEFINED
from bmsota.gbt32960._tables import BODY_LAYOUTS, EXTENSION_BODY_LAYOUTS, EXTENSION_REPLY_LAYOUTS, PARAMETER_ROWS

if TYPE_CHECKING:
    from bmsota.gbt32960._fields import Row
    from bmsota.gbt32960._frame import Frame
    from bmsota.gbt32960._registry import BodyCodec, Layouts


_MARK: Final = EXTENSION_VERSION.to_bytes(2, "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedField:
    """One field of a frame."""

    offset: int
    """Counted from the first byte of the frame."""
    data: bytes
    name: str
    """Where it belongs, outermost first: "0x08 cell voltages / subsystems[0] / number"."""
    raw: int | None
    """The number on the wire; None for text, times and plain bytes."""
    value: Any
    """As `decode` gives it."""
    unit: str = ""
    clause: str = ""
    is_in_range: bool = True
    """Whether the text allows this number. Decoding keeps it either way."""


def explain(data: bytes, *, layouts: Layouts | None = None) -> tuple[ExplainedField, ...]:
    """Explain one whole frame. The fields follow each other without a gap, from the first byte to the check byte.

    An enciphered data unit is one field: what it says after deciphering has no bytes in this frame.

    Raises:
        FrameError: as `decode`.
    """
    frame = decode(data, layouts=layouts)
    walk = _Walk(bytes(data), frame.edition, layouts)
    walk.header(frame)
    walk.data_unit(frame)
    walk.plain("check byte", len(data) - 1, f"{data[-1]:#04x}", "table 2")
    return tuple(walk.found)


class _Walk:
    """Where we are in a frame, and what was found."""

    def __init__(self, data: bytes, edition: Edition, layouts: Layouts | None) -> None:
        self.layouts = layouts
        self.data = data
        self.edition = edition
        self.at = 0
        self.end = len(data) - 1
        self.found: list[ExplainedField] = []

    # --- adding what was found ----------------------------------------------------------------------------------------

    def add(self, name: str, size: int, value: Any, *, clause: str = "", raw: int | None = None, **more: Any) -> None:
        """Take *size* bytes as one field."""
        taken = self.data[self.at : self.at + size]
        self.found.append(
            ExplainedField(offset=self.at, data=taken, name=name, raw=raw, value=value, clause=clause, **more)
        )
        self.at += size

    def plain(self, name: str, at: int, value: Any, clause: str) -> None:
        """Take one byte that has a meaning and no unit."""
        assert at == self.at
        self.add(name, 1, value, clause=clause, raw=self.data[at])

    def number(self, name: str, row: Field, clause: str) -> Any:
        """Take one number."""
        raw = int.from_bytes(self.data[self.at : self.at + row.size_bytes], "big")
        in_range = row.raw_min <= raw <= row.raw_max or (row.sentinels and raw > row.raw_limit)
        value = row.value(raw)
        self.add(name, row.size_bytes, value, clause=clause, raw=raw, unit=row.unit, is_in_range=in_range)
        return value

    # --- the parts of a frame -----------------------------------------------------------------------------------------

    def header(self, frame: Frame) -> None:
        self.add("start", 2, f"{frame.edition.name}", clause="table 2")
        self.plain("command", 2, _named(Command, frame.command), "table 3")
        self.plain("reply flag", 3, _named(ReplyFlag, frame.reply_flag), "table 4")
        self.add("identifier", 17, frame.vin, clause="table 2")
        self.plain("encryption", 21, _named(Encryption, frame.encryption), "table 5")
        length = self.end - HEADER_SIZE_BYTES
        self.add("data unit length", 2, length, clause="table 2", raw=length, unit="B")

    def data_unit(self, frame: Frame) -> None:
        if self.at == self.end:
            return
        message = frame.message
        is_command = frame.reply_flag == ReplyFlag.COMMAND
        is_own = is_command or isinstance(message, (ActivationReply, KeyExchange))
        layout = message_layout(self.edition, frame.command, self.data, self.at, self.end) if is_own else None
        if isinstance(message, BlockReply):
            layout = EXTENSION_REPLY_LAYOUTS[frame.command]
        if isinstance(message, RawMessage):
            self.rest("data unit")
        elif layout is not None:
            self.layout(layout, layout.label)
        else:
            self.time("time", "table 8")
            if isinstance(message, Report):
                self.bodies()
            elif isinstance(message, ParameterQuery):
                self.query()
            elif isinstance(message, ParameterValues):
                self.parameters()
            elif isinstance(message, Control):
                self.control(message)
            else:
                self.rest("echo of the request")

    def rest(self, name: str) -> None:
        """Take all that is left, if anything, without looking into it."""
        if self.at < self.end:
            self.add(name, self.end - self.at, self.data[self.at : self.end])

    def time(self, name: str, clause: str) -> None:
        self.add(name, 6, time_of(self.data[self.at : self.at + 6], self.at), clause=clause)

    def bodies(self) -> None:
        while self.at < self.end:
            type_id = self.data[self.at]
            layout = BODY_LAYOUTS[self.edition].get(type_id)
            codec = self.layouts.codec(self.edition, type_id) if self.layouts is not None else None
            if layout is not None:
                self.plain("body type", self.at, layout.label, "table 7")
                self.layout(layout, layout.label)
            elif codec is not None:
                self.registered(codec)
            elif type_id in EXTENSION_BODY_LAYOUTS and self.data[self.at + 3 : self.at + 5] == _MARK:
                self.sized(EXTENSION_BODY_LAYOUTS[type_id], has_mark=True)
            elif type_id in USER_DEFINED:
                self.user_defined(type_id)
            else:
                self.plain("body type", self.at, f"{type_id:#04x} unknown", "table 7")
                self.rest("the rest, since its length is not known")

    def user_defined(self, type_id: int) -> None:
        label = f"{type_id:#04x} user-defined"
        self.plain("body type", self.at, label, "table 7")
        size = int.from_bytes(self.data[self.at : self.at + 2], "big")
        self.add(f"{label} / length", 2, size, clause="table 7", raw=size, unit="B")
        if size:
            self.add(f"{label} / data", size, self.data[self.at : self.at + size], clause="table 7")

    def sized(self, layout: Layout, *, has_mark: bool) -> None:
        """A body with its length in front."""
        self.plain("body type", self.at, layout.label, "table 7")
        size = int.from_bytes(self.data[self.at : self.at + 2], "big")
        self.add(f"{layout.label} / length", 2, size, clause="table 7", raw=size, unit="B")
        if has_mark:
            self.add(f"{layout.label} / extension", 2, EXTENSION_VERSION, raw=EXTENSION_VERSION)
        self.layout(layout, layout.label)

    def registered(self, codec: BodyCodec) -> None:
        """A body of the user's own `Layouts`."""
        if codec.layout is None:
            if codec.has_length:
                self.user_defined(codec.type_id)
                return
            label = f"{codec.type_id:#04x} registered"
            self.plain("body type", self.at, label, "table 7")
            size = body_end(codec, self.data, self.at, self.end) - self.at
            if size:
                self.add(f"{label} / data", size, self.data[self.at : self.at + size])
        elif codec.has_length:
            self.sized(codec.layout, has_mark=False)
        else:
            self.plain("body type", self.at, codec.layout.label, "table 7")
            self.layout(codec.layout, codec.layout.label)

    def query(self) -> None:
        self.plain("count", self.at, self.data[self.at], "table B.9")
        while self.at < self.end:
            self.plain("parameter id", self.at, _named(ParameterId, self.data[self.at]), "table B.12")

    def parameters(self) -> None:
        self.plain("count", self.at, self.data[self.at], "table B.10")
        lengths: dict[int, int] = {}
        while self.at < self.end:
            parameter_id = self.data[self.at]
            name = _named(ParameterId, parameter_id)
            self.plain("parameter id", self.at, name, "table B.12")
            row = PARAMETER_ROWS[self.edition].get(parameter_id)
            if isinstance(row, Field):
                lengths[parameter_id] = self.number(f"{name} / value", row, "table B.12")
            elif isinstance(row, Text):
                self.text(f"{name} / value", row.size_bytes, "table B.12")
            elif isinstance(row, int):
                self.text(f"{name} / value", lengths[row], "table B.12")
            else:
                self.rest(f"{name} / the rest, since its size is not known")

    def control(self, control: Control) -> None:
        self.plain("control id", self.at, _named(ControlId, control.control_id), "table B.15")
        if self.at < self.end:
            self.add("parameters", self.end - self.at, control.parameters, clause="tables B.15 to B.17")

    # --- rows ---------------------------------------------------------------------------------------------------------

    def layout(self, layout: Layout, path: str) -> None:
        for row in layout.rows:
            self.row(row, f"{path} / {row.name}", row.clause or layout.clause)

    def row(self, row: Row, path: str, clause: str) -> None:
        match row:
            case Field():
                self.number(path, row, clause)
            case Time():
                self.time(path, clause)
            case Text():
                self.text(path, row.size_bytes, clause, row.padding)
            case FixedBytes():
                self.add(path, row.size_bytes, self.data[self.at : self.at + row.size_bytes], clause=clause)
            case SizedText():
                size = self.data[self.at]
                self.plain(f"{path} / length", self.at, size, clause)
                if size:
                    self.add(path, size, self.data[self.at : self.at + size].decode("utf-8"), clause=clause)
            case SizedBytes():
                size = int.from_bytes(self.data[self.at : self.at + 2], "big")
                self.add(f"{path} / length", 2, size, clause=clause, raw=size, unit="B")
                if size:
                    self.add(path, size, self.data[self.at : self.at + size], clause=clause)
            case CodeTable():
                count, length = self.data[self.at], self.data[self.at + 1]
                self.plain("subsystem_count", self.at, count, clause)
                self.plain("code_length", self.at, length, clause)
                for index in range(count if length else 0):
                    self.text(f"{path}[{index}]", length, clause)
            case PackTable():
                self.packs(row, path, clause)
            case Repeat():
                self.repeat(row, path, clause)

    def text(self, path: str, size: int, clause: str, padding: bytes = b"\0") -> None:
        if size:
            self.add(path, size, text_of(self.data[self.at : self.at + size], padding), clause=clause)

    def packs(self, row: PackTable, path: str, clause: str) -> None:
        counts = self.data[self.at + 1 : self.at + 1 + self.data[self.at]]
        self.plain("bms_count", self.at, len(counts), clause)
        for index, count in enumerate(counts):
            self.plain(f"pack_count[{index}]", self.at, count, clause)
        for index, count in enumerate(counts):
            for pack in range(count):
                self.text(f"{path}[{index}][{pack}]", row.code_size_bytes, clause)

    def repeat(self, row: Repeat, path: str, clause: str) -> None:
        size = row.count_size_bytes
        count = int.from_bytes(self.data[self.at : self.at + size], "big")
        is_sentinel = row.sentinels and count > row.count_limit
        self.add(
            f"{path} / count",
            size,
            sentinel_raws(size)[count] if is_sentinel else count,
            clause=clause,
            raw=count,
            is_in_range=is_sentinel or row.count_min <= count <= row.count_max,
        )
        for index in range(0 if is_sentinel else count):
            place = f"{path}[{index}]"
            if isinstance(row.item, Layout):
                self.layout(row.item, place)
            else:
                self.number(place, row.item, row.item.clause or clause)


def _named(codes: type[Command | ReplyFlag | Encryption | ParameterId | ControlId], code: int) -> str:
    """Return the name of a code, or the code."""
    found = codes._value2member_map_.get(code)
    return f"{code:#04x}" if found is None else f"{code:#04x} {found.name}"
