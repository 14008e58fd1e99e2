"""The frames of the cloud link as `construct` describes them: for parsers of your own, and the second opinion on the fast codec.

    >>> from bmsota.gbt32960 import Edition
    >>> from bmsota.gbt32960.description import frame_description
    >>> data = bytes.fromhex("232304fe5445535456494e303030303030303035340100081206161015150046e1")
    >>> frame_description(Edition.GBT2016).parse(data).message.serial
    70

Made from the same tables as the codec (`_tables`) by another way: each row becomes one construct, read and built one number at a
time. It is thirty times as slow as `decode`, stops at the first thing it does not understand with a `ConstructError` or a
`ValueError`, and is meant for reading, for checking another implementation, and for tests: construct's descriptions can be printed,
taken apart and reused. Needs construct (extra `trust`).

Left out: the remote-upgrade string and the alarm text inside control 0x82, which are text (`_control` reads them here too),
identifiers padded with anything but zero bytes, deciphering, and `Layouts`.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from bmsota._extras import needs
from bmsota.gbt32960._bodies import RawBody, Signature, UserDefined
from bmsota.gbt32960._codec import message_layout
from bmsota.gbt32960._control import control_parameters, control_parameters_bytes
from bmsota.gbt32960._enums import Command, Edition, Encryption, ReplyFlag, Sentinel
from bmsota.gbt32960._extension import EXTENSION_VERSION
from bmsota.gbt32960._fields import (
    CodeTable,
    Field,
    FixedBytes,
    Layout,
    PackTable,
    Repeat,
    Row,
    SizedBytes,
    SizedText,
    Text,
    Time,
)
from bmsota.gbt32960._frame import Frame
from bmsota.gbt32960._messages import (
    Control,
    EchoReply,
    EmptyReply,
    Heartbeat,
    Parameter,
    ParameterQuery,
    ParameterValues,
    RawMessage,
    Report,
    TimeReply,
    TimeSync,
)
from bmsota.gbt32960._plain import values_in
from bmsota.gbt32960._sized import USER_DEFINED
from bmsota.gbt32960._tables import (
    BLOCK_REQUEST_SIZE_BYTES,
    BODY_LAYOUTS,
    EXTENSION_BODY_LAYOUTS,
    EXTENSION_LAYOUTS,
    EXTENSION_REPLY_LAYOUTS,
    PARAMETER_ROWS,
)
from bmsota.gbt32960._time import BEIJING

with needs("bmsota.gbt32960.description", "construct", "trust"):
    import construct as cs

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["body_description", "frame_description", "layout_description"]

_INTEGERS: Final = {1: cs.Int8ub, 2: cs.Int16ub, 4: cs.Int32ub}


class _As(cs.Adapter):  # type: ignore[misc]  # construct has no types.
    """*make* turns what the subconstruct gives into the value, *take* is the inverse; *cls* is what may be built."""

    def __init__(self, subcon: Any, make: Callable[[Any], Any], take: Callable[[Any], Any], cls: Any = object) -> None:
        super().__init__(subcon)
        self._make, self._take, self._cls = make, take, cls

    def _decode(self, obj: Any, _context: Any, _path: str) -> Any:
        return self._make(obj)

    def _encode(self, obj: Any, _context: Any, path: str) -> Any:
        if not isinstance(obj, self._cls):
            raise cs.MappingError(f"expected {self._cls}, got {type(obj).__name__}", path=path)
        return self._take(obj)


# --- rows --------------------------------------------------------------------------------------------------------------


def _sentinels(size_bytes: int) -> dict[Sentinel, int]:
    """The two highest numbers of that size, written down here a second time on purpose."""
    return {Sentinel.ABNORMAL: 256**size_bytes - 2, Sentinel.INVALID: 256**size_bytes - 1}


def _number(row: Field) -> Any:
    marks = _sentinels(row.size_bytes) if row.sentinels else {}
    names = {raw: mark for mark, raw in marks.items()}

    def make(raw: int) -> Any:
        if raw in names:
            return names[raw]
        if row.values is not None:
            try:
                return row.values(raw)
            except ValueError:
                return raw
        return (raw - row.raw_offset) / row.divisor if row.divisor != 1 else raw - row.raw_offset

    def take(value: Any) -> int:
        return marks[value] if isinstance(value, Sentinel) else round(value * row.divisor) + row.raw_offset

    number = _As(_INTEGERS[row.size_bytes], make, take)
    if row.name == "extension":  # Our mark: the one number that decides whether this layout is meant at all.
        return cs.Const(row.raw_min, _INTEGERS[row.size_bytes])
    return number


_MOMENT: Final = _As(
    cs.Int8ub[6],
    lambda raw: datetime(2000 + raw[0], raw[1], raw[2], raw[3], raw[4], raw[5], tzinfo=BEIJING),
    lambda time: [time.year - 2000, time.month, time.day, time.hour, time.minute, time.second],
    datetime,
)


def _filled(size: int, padding: bytes) -> Any:
    """Text of fixed size, filled up."""
    return _As(
        cs.Bytes(size),
        lambda raw: raw.rstrip(padding).decode("gb18030", "surrogateescape"),
        lambda text: text.encode("gb18030", "surrogateescape").ljust(size, padding),
        str,
    )


def _repeat(row: Repeat) -> Any:
    item = layout_description(row.item) if isinstance(row.item, Layout) else _number(row.item)
    size = row.count_size_bytes
    marks = _sentinels(size) if row.sentinels else {}
    names = {raw: mark for mark, raw in marks.items()}
    return _As(
        cs.Struct(
            "count" / _INTEGERS[size],
            "items" / cs.Array(lambda ctx: 0 if ctx.count in names else ctx.count, item),
        ),
        lambda found: names.get(found.count, tuple(found["items"])),
        lambda value: (
            {"count": marks[value], "items": []}
            if isinstance(value, Sentinel)
            else {"count": len(value), "items": list(value)}
        ),
    )


_CODES: Final = _As(
    cs.Struct(
        "count" / cs.Int8ub,
        "length" / cs.Int8ub,
        "codes" / cs.Array(lambda ctx: ctx["count"] if ctx.length else 0, cs.Bytes(cs.this.length)),
    ),
    lambda found: (
        found["count"],
        found.length,
        tuple(raw.rstrip(b"\0").decode("gb18030", "surrogateescape") for raw in found.codes),
    ),
    lambda value: {
        "count": value[0],
        "length": value[1],
        "codes": [code.encode("gb18030", "surrogateescape").ljust(value[1], b"\0") for code in value[2]],
    },
)


def _packs(row: PackTable) -> Any:
    """The counts of all BMS first, then the codes of all packs."""
    code = _filled(row.code_size_bytes, b"\0")
    return _As(
        cs.Struct(
            "counts" / cs.PrefixedArray(cs.Int8ub, cs.Int8ub),
            "codes" / cs.Array(lambda ctx: len(ctx.counts), cs.Array(lambda ctx: ctx.counts[ctx["_index"]], code)),
        ),
        lambda found: tuple(map(tuple, found.codes)),
        lambda packs: {"counts": list(map(len, packs)), "codes": packs},
        tuple,
    )


def _row(row: Row) -> Any:
    match row:
        case Field():
            return _number(row)
        case Time():
            return _MOMENT
        case Text():
            return _filled(row.size_bytes, row.padding)
        case SizedText():
            return cs.PascalString(cs.Int8ub, "utf-8")
        case SizedBytes():
            return cs.Prefixed(cs.Int16ub, cs.GreedyBytes)
        case FixedBytes():
            return cs.Bytes(row.size_bytes)
        case Repeat():
            return _repeat(row)
        case CodeTable():
            return _CODES
        case PackTable():
            return _packs(row)


@cache
def layout_description(layout: Layout) -> Any:
    """Describe one body, or one data unit, by its rows (`bmsota.gbt32960.rows`): parses to a value of its class."""
    make: Callable[..., Any] = layout.build or layout.cls
    return _As(
        cs.Sequence(*map(_row, layout.rows)),
        lambda values: make(*values),
        lambda value: list(values_in(layout, value)),
        layout.cls,
    )


def _marked(skip: int, ours: Any, theirs: Any, cls: type, *, size_bytes_min: int = 0) -> Any:
    """Our extension, if its mark stands *skip* bytes further on; another maker's use of the same number if not."""
    head = cs.Peek(cs.Bytes(max(skip + 2, size_bytes_min)))

    def is_ours(ctx: Any) -> bool:
        if ctx["_parsing"]:
            return bool(ctx.head is not None and ctx.head[skip : skip + 2] == EXTENSION_VERSION.to_bytes(2, "big"))
        return isinstance(ctx.value, cls)

    return _As(
        cs.Struct("head" / head, "value" / cs.IfThenElse(is_ours, ours, theirs)),
        lambda found: found.value,
        lambda value: {"head": None, "value": value},
    )


# --- reports -----------------------------------------------------------------------------------------------------------


@cache
def body_description(edition: Edition) -> Any:
    """Describe one body of a report with its type byte in front: parses to a value of its class."""
    layouts = BODY_LAYOUTS[edition]
    types = {layout.cls: type_id for type_id, layout in layouts.items()}
    cases: dict[int, Any] = {}
    cases |= dict.fromkeys(USER_DEFINED, cs.Prefixed(cs.Int16ub, cs.GreedyBytes))
    for type_id, layout in EXTENSION_BODY_LAYOUTS.items():
        types[layout.cls] = type_id
        ours = cs.Sequence(cs.Const(EXTENSION_VERSION, cs.Int16ub), layout_description(layout), cs.Terminated)
        body = _As(ours, lambda found: found[1], lambda value: [None, value, None], layout.cls)
        cases[type_id] = cs.Prefixed(cs.Int16ub, _marked(0, body, cs.GreedyBytes, layout.cls))
    cases |= {type_id: layout_description(layout) for type_id, layout in layouts.items()}

    def make(found: Any) -> Any:
        if found.type in layouts or not isinstance(found.body, bytes):
            return found.body
        return (UserDefined if found.type in USER_DEFINED else RawBody)(found.type, found.body)

    def take(body: Any) -> dict[str, Any]:
        if isinstance(body, (UserDefined, RawBody)):
            return {"type": body.type_id, "body": body.data}
        return {"type": types[type(body)], "body": body}

    return _As(
        cs.Struct("type" / cs.Int8ub, "body" / cs.Switch(cs.this.type, cases, default=cs.GreedyBytes)), make, take
    )


def _report(edition: Edition) -> Any:

    def make(found: Any) -> Report:
        if any(isinstance(body, Signature) for body in found[1][:-1]):
            raise cs.ValidationError("expected a signature only as the last body")
        return Report(found[0], tuple(found[1]))

    return _As(
        cs.Sequence(_MOMENT, cs.GreedyRange(body_description(edition)), cs.Terminated),
        make,
        lambda report: [report.time, list(report.bodies), None],
        Report,
    )


# --- parameters and control --------------------------------------------------------------------------------------------

_BYTE_MARKS: Final = {0xFE: Sentinel.ABNORMAL, 0xFF: Sentinel.INVALID}
_BYTE_RAWS: Final = {mark: raw for raw, mark in _BYTE_MARKS.items()}

_QUERY: Final = _As(
    cs.Struct(
        "time" / _MOMENT,
        "count" / cs.Int8ub,
        "ids" / cs.Array(lambda ctx: 0 if ctx["count"] in _BYTE_MARKS else ctx["count"], cs.Int8ub),
        cs.Terminated,
    ),
    lambda found: ParameterQuery(found.time, _BYTE_MARKS.get(found["count"], tuple(found.ids))),
    lambda query: (
        {"time": query.time, "count": _BYTE_RAWS[query.parameter_ids], "ids": []}
        if isinstance(query.parameter_ids, Sentinel)
        else {"time": query.time, "count": len(query.parameter_ids), "ids": query.parameter_ids}
    ),
    ParameterQuery,
)


def _values(edition: Edition) -> Any:
    """The list of 0x80 replies and 0x81: a name is as long as an earlier item says; an unknown item takes the rest."""
    rows = PARAMETER_ROWS[edition]

    def name(length_id: int) -> Any:
        return _As(
            cs.Bytes(lambda ctx: ctx._.lengths[length_id]),
            lambda raw: raw.decode("gb18030", "surrogateescape"),
            lambda text: text.encode("gb18030", "surrogateescape"),
            str,
        )

    cases = {parameter_id: name(row) if isinstance(row, int) else _row(row) for parameter_id, row in rows.items()}
    item = _As(
        cs.Struct(
            "id" / cs.Int8ub,
            "value" / cs.Switch(cs.this.id, cases, default=cs.GreedyBytes),
            cs.Computed(lambda ctx: ctx._.lengths.update({ctx.id: ctx.value})),
        ),
        lambda found: Parameter(found.id, found.value),
        lambda parameter: {"id": parameter.parameter_id, "value": parameter.value},
        Parameter,
    )
    items = cs.RepeatUntil(lambda last, found, ctx: len(found) >= ctx["count"] or last.parameter_id not in rows, item)
    return _As(
        cs.Struct(
            "time" / _MOMENT,
            "count" / cs.Int8ub,
            "lengths" / cs.Computed(lambda _ctx: {}),
            "items" / cs.If(lambda ctx: 0 < ctx["count"] < 0xFE, items),
            cs.Terminated,
        ),
        lambda found: (
            ParameterValues(found.time, _BYTE_MARKS[found["count"]])
            if found["count"] in _BYTE_MARKS
            else ParameterValues(found.time, tuple(found["items"] or ()), found["count"])
        ),
        lambda values: (
            {"time": values.time, "count": _BYTE_RAWS[values.parameters], "items": []}
            if isinstance(values.parameters, Sentinel)
            else {"time": values.time, "count": values.count, "items": list(values.parameters)}
        ),
        ParameterValues,
    )


_CONTROL: Final = _As(
    cs.Sequence(_MOMENT, cs.Int8ub, cs.GreedyBytes),
    lambda found: Control(found[0], found[1], control_parameters(found[1], found[2])),
    lambda control: [
        control.time,
        control.control_id,
        control_parameters_bytes(control.control_id, control.parameters),
    ],
    Control,
)


# --- frames ------------------------------------------------------------------------------------------------------------

_RAW: Final = _As(cs.GreedyBytes, RawMessage, lambda message: message.data, RawMessage)
_EMPTY_REPLY: Final = _As(cs.Terminated, lambda _found: EmptyReply(), lambda _message: None, EmptyReply)
_TIME_REPLY: Final = _As(
    cs.Sequence(_MOMENT, cs.Terminated),
    lambda found: TimeReply(found[0]),
    lambda reply: [reply.time, None],
    TimeReply,
)
_ECHO_REPLY: Final = _As(
    cs.Sequence(_MOMENT, cs.GreedyBytes),
    lambda found: EchoReply(found[0], found[1]),
    lambda reply: [reply.time, reply.rest],
    EchoReply,
)


def _nothing(cls: type) -> Any:
    return _As(cs.Terminated, lambda _found: cls(), lambda _message: None, cls)


def _whole(description: Any) -> Any:
    """With nothing behind it."""
    return _As(cs.Sequence(description, cs.Terminated), lambda found: found[0], lambda value: [value, None])


def _command(edition: Edition) -> Any:
    """The data unit of a command, by the frame's `command`."""
    cases: dict[int, Any] = {
        Command.HEARTBEAT: _nothing(Heartbeat),
        Command.TIME_SYNC: _nothing(TimeSync),
        Command.QUERY_PARAMETERS: cs.Select(_QUERY, _values(edition)),
        Command.SET_PARAMETERS: _values(edition),
        Command.CONTROL: _CONTROL,
    }
    for command in range(256):
        layout = message_layout(edition, command, b"", 0, 0)
        if layout is not None:
            cases[command] = _whole(layout_description(layout))
    for command, layout in EXTENSION_LAYOUTS.items():
        cases[command] = _marked(6, _whole(layout_description(layout)), _RAW, layout.cls)
    if BODY_LAYOUTS[edition]:
        cases |= dict.fromkeys((Command.REALTIME_REPORT, Command.BACKFILL_REPORT), _report(edition))
    return cs.Switch(cs.this.command, cases, default=_RAW)


def _reply(edition: Edition) -> Any:
    cases: dict[int, Any] = {
        Command.QUERY_PARAMETERS: cs.IfThenElse(
            cs.this.reply_flag == ReplyFlag.SUCCESS,
            cs.Select(_EMPTY_REPLY, _TIME_REPLY, _values(edition)),
            cs.Select(_EMPTY_REPLY, _TIME_REPLY, _ECHO_REPLY),
        )
    }
    if edition is Edition.GBT2025:  # These have no time in front that could be echoed.
        for command in (Command.ACTIVATION_REPLY, Command.KEY_EXCHANGE):
            layout = message_layout(edition, command, b"", 0, 0)
            assert layout is not None
            cases[command] = cs.Select(_EMPTY_REPLY, _TIME_REPLY, _whole(layout_description(layout)))
    for code, layout in EXTENSION_REPLY_LAYOUTS.items():  # What is no longer than the request is the request's echo.
        ours = _whole(layout_description(layout))
        cases[code] = cs.IfThenElse(
            cs.this.reply_flag == ReplyFlag.SUCCESS,
            cs.Select(
                _EMPTY_REPLY,
                _TIME_REPLY,
                _marked(6, ours, _ECHO_REPLY, layout.cls, size_bytes_min=BLOCK_REQUEST_SIZE_BYTES + 1),
            ),
            cs.Select(_EMPTY_REPLY, _TIME_REPLY, _ECHO_REPLY),
        )
    return cs.Switch(cs.this.command, cases, default=cs.Select(_EMPTY_REPLY, _TIME_REPLY, _ECHO_REPLY))


def _xor(data: bytes) -> int:
    check = 0
    for byte in data:
        check ^= byte
    return check


@cache
def frame_description(edition: Edition) -> Any:
    """Describe a frame of *edition* (table 2): parses to a `Frame`, builds from one. Needs all bytes and no more."""
    unit = cs.IfThenElse(
        cs.this.encryption != Encryption.NONE,
        _RAW,
        cs.IfThenElse(cs.this.reply_flag == ReplyFlag.COMMAND, _command(edition), _reply(edition)),
    )
    covered = cs.Struct(
        "command" / cs.Int8ub,
        "reply_flag" / cs.Int8ub,
        "vin" / cs.PaddedString(17, "ascii"),
        "encryption" / cs.Int8ub,
        "message" / cs.Prefixed(cs.Int16ub, unit),
    )
    frame = cs.Struct(
        "start" / cs.Const(edition.value),
        "covered" / cs.RawCopy(covered),
        "check" / cs.Checksum(cs.Int8ub, _xor, cs.this.covered.data),
        cs.Terminated,
    )

    def make(found: Any) -> Frame:
        value = found.covered.value
        return Frame(
            edition=edition,
            command=value.command,
            reply_flag=value.reply_flag,
            vin=value.vin,
            encryption=value.encryption,
            message=value.message,
        )

    def take(value: Frame) -> dict[str, Any]:
        names = ("command", "reply_flag", "vin", "encryption", "message")
        return {"covered": {"value": {name: getattr(value, name) for name in names}}}

    return _As(frame, make, take, Frame)
