"""Turn a layout into a fast decoder and a fast encoder.

Strategy: for each layout we write the Python source that a careful person would write by hand (one `struct` call per run
of fixed fields, look-up tables for bytes and cell voltages, no loop where the C library has one) and compile it once. The
fast path knows only the usual case. Whatever is unusual (a sentinel, a float where the table wants an integer, a value out
of range) raises inside the fast path and is done again by the plain functions of `_plain`, which also find the words for errors.

A decoder is `decode(data, at, end) -> (value, at)`: it reads from *at*, never beyond *end*, and returns where it stopped.
An encoder is `encode(value, out)`: it appends byte strings to *out*. Each layout has two: the lenient one refuses what the
wire cannot carry, the strict one also what the text does not allow.
"""

from __future__ import annotations

import struct
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from bmsota.gbt32960._fields import (
    TIME_SIZE_BYTES,
    CodeTable,
    Field,
    FixedBytes,
    Layout,
    PackTable,
    Repeat,
    Row,
    Text,
    Time,
    sentinel_raws,
)
from bmsota.gbt32960._make import draft
from bmsota.gbt32960._plain import (
    bytes_of_rows,
    bytes_of_text,
    bytes_of_time,
    codes_at,
    packs_at,
    short,
    sized_at,
    text_of,
    time_of,
    wrong_item,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Decoder = Callable[[bytes, int, int], tuple[Any, int]]
    Encoder = Callable[[Any, list[bytes]], None]


_LETTERS: Final = {1: "B", 2: "H", 4: "I"}


def _key_of(row: Field) -> tuple[object, ...]:
    """What a table depends on. Many rows are alike, and share it."""
    return row.size_bytes, row.divisor, row.raw_offset, row.sentinels, row.values


_VALUES: Final[dict[tuple[object, ...], tuple[Any, ...]]] = {}
_RAWS: Final[dict[tuple[object, ...], dict[Any, int]]] = {}


def _values_of(row: Field) -> tuple[Any, ...]:
    """Raw number -> value, for every raw number. 256 entries for a BYTE, 65536 for the WORD of a long list."""
    key = _key_of(row)
    found = _VALUES.get(key)
    if found is None:
        raws = range(1 << (8 * row.size_bytes))
        if row.size_bytes == 1 or row.values is not None:
            found = tuple(map(row.value, raws))
        else:  # As `Field.value` does it, without 65536 calls.
            offset, divisor = row.raw_offset, row.divisor
            numbers = [(raw - offset) / divisor for raw in raws] if divisor != 1 else [raw - offset for raw in raws]
            found = (*numbers[: row.raw_limit + 1], *(sentinel_raws(row.size_bytes).values() if row.sentinels else ()))
        _VALUES[key] = found
    return found


def _raws_of(row: Field, strict: bool) -> dict[Any, int]:
    """Value -> raw number, sentinels included; only what may be sent."""
    low, high = (row.raw_min, row.raw_max) if strict else (0, row.raw_limit)
    key = (*_key_of(row), low, high)
    found = _RAWS.get(key)
    if found is None:
        values = _values_of(row)
        found = {values[raw]: raw for raw in range(low, high + 1)}
        if row.sentinels:
            found |= {sentinel: raw for raw, sentinel in sentinel_raws(row.size_bytes).items()}
        _RAWS[key] = found
    return found


class _Arrays:
    """The `struct` methods for n numbers of one size: made when first needed, and kept where the count is a BYTE."""

    def __init__(self, letter: str) -> None:
        self.letter = letter
        self.unpackers: list[Callable[[bytes, int], tuple[int, ...]] | None] = [None] * 256
        self.packers: list[Callable[..., bytes] | None] = [None] * 256

    def unpacker(self, count: int) -> Callable[[bytes, int], tuple[int, ...]]:
        made = struct.Struct(f">{count}{self.letter}").unpack_from
        if count < 256:
            self.unpackers[count] = made
        return made

    def packer(self, count: int) -> Callable[..., bytes]:
        made = struct.Struct(f">{count}{self.letter}").pack
        if count < 256:
            self.packers[count] = made
        return made


_ARRAYS: Final = {size: _Arrays(letter) for size, letter in _LETTERS.items()}


# --- writing the source ----------------------------------------------------------------------------------------------


class _Source:
    """Lines of a function under construction, and the names its globals need."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {}

    def add(self, *lines: str) -> None:
        self.lines += lines

    def name(self, stem: str, value: Any) -> str:
        name = f"_{stem}{len(self.names)}"
        self.names[name] = value
        return name

    def function(self, head: str, where: str) -> Any:
        source = "\n    ".join([head, *self.lines])
        # The source is made from our own tables above; nothing from outside gets into it.
        exec(compile(source, f"<gbt32960 {where}>", "exec"), self.names)  # noqa: S102
        return self.names[head[4 : head.index("(")]]


_FIXED: Final = (Field, Time, Text, FixedBytes)


def _runs(rows: tuple[Row, ...]) -> list[list[Row]]:
    """Group rows: adjacent rows of fixed size share a run, every other row is a run of its own."""
    runs: list[list[Row]] = []
    for row in rows:
        if runs and isinstance(row, _FIXED) and isinstance(runs[-1][-1], _FIXED):
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _format_of(run: list[Row]) -> str:
    parts = []
    for row in run:
        match row:
            case Field():
                parts.append(_LETTERS[row.size_bytes])
            case Time():
                parts.append(f"{TIME_SIZE_BYTES}s")
            case Text() | FixedBytes():
                parts.append(f"{row.size_bytes}s")
            case _:
                raise AssertionError(row)
    return ">" + "".join(parts)


def _field_expression(source: _Source, row: Field, raw: str) -> str:
    """The expression that turns the raw number in variable *raw* into the value."""
    if row.size_bytes == 1:
        if not (row.sentinels or row.raw_offset or row.values or row.divisor != 1):
            return raw
        return f"{source.name('values', _values_of(row))}[{raw}]"
    value = f"({raw} - {row.raw_offset})" if row.raw_offset else raw
    if row.divisor != 1:
        value = f"{value} / {row.divisor}"
    if row.sentinels:
        table = source.name("sentinels", sentinel_raws(row.size_bytes))
        value = f"{value} if {raw} <= {row.raw_limit} else {table}[{raw}]"
    return value


def _decode_run(source: _Source, run: list[Row], layout: Layout, values: list[str]) -> None:
    packer = struct.Struct(_format_of(run))
    label = source.name("label", layout.label)
    targets: list[str] = []
    expressions: list[tuple[str, str]] = []
    offset = 0
    for row in run:
        variable = f"v{len(values)}"
        values.append(variable)
        match row:
            case Time():
                targets.append(variable)
                expressions.append((variable, f"_time_of({variable}, at + {offset})"))
                offset += TIME_SIZE_BYTES
            case Field():
                targets.append(variable)
                expressions.append((variable, _field_expression(source, row, variable)))
                offset += row.size_bytes
            case Text():
                targets.append(variable)
                padding = "" if row.padding == b"\0" else f", {row.padding!r}"
                expressions.append((variable, f"_text_of({variable}{padding})"))
                offset += row.size_bytes
            case FixedBytes():
                targets.append(variable)
                offset += row.size_bytes
            case _:
                raise AssertionError(row)
    unpack = source.name("unpack", packer.unpack_from)
    source.add(
        f"if end - at < {packer.size}: raise _short({label}, at, {packer.size}, end)",
        f"{', '.join(targets)}{',' if len(targets) == 1 else ''} = {unpack}(data, at)",
        *(f"{variable} = {expression}" for variable, expression in expressions if variable != expression),
        f"at += {packer.size}",
    )


def _decode_repeat(source: _Source, row: Repeat, layout: Layout, values: list[str]) -> None:
    variable = f"v{len(values)}"
    values.append(variable)
    size = row.count_size_bytes
    label = source.name("label", f"{layout.label}.{row.name}")
    count = "data[at]" if size == 1 else "(data[at] << 8) | data[at + 1]"
    source.add(
        f"if end - at < {size}: raise _short({label}, at, {size}, end)",
        f"n = {count}",
        f"at += {size}",
    )
    indent = ""
    if row.sentinels:
        table = source.name("sentinels", sentinel_raws(size))
        source.add(f"if n > {row.count_limit}: {variable} = {table}[n]", "else:")
        indent = "    "
    if isinstance(row.item, Layout):
        item = source.name("item", decoder(row.item))
        lines = [
            "items = []",
            "for _ in range(n):",
            f"    item, at = {item}(data, at, end)",
            "    items.append(item)",
            f"{variable} = tuple(items)",
        ]
    else:
        lines = _list_lines(source, row, row.item, variable, label)
    source.add(*(indent + line for line in lines))


def _list_lines(source: _Source, row: Repeat, item: Field, variable: str, label: str) -> list[str]:
    """Read n numbers. Looking 96 cells up in one C call costs a third of dividing them one by one."""
    width = item.size_bytes
    stop = f"at + n * {width}" if width > 1 else "at + n"
    raws = "data[at:stop]"
    if width > 1:
        arrays = _ARRAYS[width]
        kept = f"{source.name('unpackers', arrays.unpackers)}[n]"
        kept = kept if row.count_size_bytes == 1 else f"(n < 256 and {kept})"
        raws = f"({kept} or {source.name('unpacker', arrays.unpacker)}(n))(data, at)"
    head = [f"stop = {stop}", f"if stop > end: raise _short({label}, at, stop - at, end)"]
    if width == 4:
        # Fault codes: as they are.
        assert (item.sentinels, item.divisor, item.raw_offset, item.values) == (False, 1, 0, None), item
        return [*head, f"{variable} = {raws}", "at = stop"]
    table = source.name("values", _values_of(item))
    return [
        *head,
        f"if n > 1: {variable} = _itemgetter(*{raws})({table})",
        f"else: {variable} = ({table}[{raws}[0]],) if n else ()",
        "at = stop",
    ]


@cache
def decoder(layout: Layout) -> Decoder:
    """Compile the decoder of *layout*."""
    source = _Source()
    source.names |= {
        "_short": short,
        "_time_of": time_of,
        "_text_of": text_of,
        "_codes_at": codes_at,
        "_itemgetter": itemgetter,
    }
    values: list[str] = []
    for run in _runs(layout.rows):
        row = run[0]
        if isinstance(row, _FIXED):
            _decode_run(source, run, layout, values)
        elif isinstance(row, Repeat):
            _decode_repeat(source, row, layout, values)
        elif isinstance(row, CodeTable):
            values.append(f"v{len(values)}")
            source.add(f"{values[-1]}, at = _codes_at(data, at, end)")
        else:
            values.append(f"v{len(values)}")
            read = source.name("sized", packs_at if isinstance(row, PackTable) else sized_at)
            what = f"{source.name('row', row)}, {source.name('label', layout.label)}"
            source.add(f"{values[-1]}, at = {read}({what}, data, at, end)")
    if layout.build is not None:
        make = source.name("build", layout.build)
        source.add(f"return {make}({', '.join(values)}), at")
    else:
        # What `maker` does, without the call.
        new, draft_of, cls = source.name("new", object.__new__), draft(layout.cls), source.name("cls", layout.cls)
        source.add(
            f"o = {new}({source.name('draft', draft_of)})",
            *(f"o.{row.name} = {value}" for row, value in zip(layout.rows, values, strict=True)),
            f"o.__class__ = {cls}",
            "return o, at",
        )
    function: Decoder = source.function("def decode(data, at, end):", layout.label)
    return function


def _encode_expression(source: _Source, row: Field, value: str, strict: bool) -> tuple[str, str | None]:
    """The expression for the raw number, and the condition under which it is not allowed (None: the table sees to it)."""
    if row.size_bytes == 1:
        return f"{source.name('raws', _raws_of(row, strict))}[{value}]", None
    low, high = (row.raw_min, row.raw_max) if strict else (0, row.raw_limit)
    raw = value if row.divisor == 1 else f"round({value} * {row.divisor})"
    if row.raw_offset:
        raw = f"{raw} + {row.raw_offset}"
    # Below zero and above the type's range `struct` refuses by itself.
    if low > 0:
        return raw, f"not {low} <= {{}} <= {high}"
    return raw, f"{{}} > {high}" if high < (1 << (8 * row.size_bytes)) - 1 else None


_UNUSUAL: Final = "except (KeyError, TypeError, ValueError, OverflowError, _struct_error):"


def _encode_run(source: _Source, run: list[Row], layout: Layout, values: list[str], strict: bool) -> None:
    arguments: list[str] = []
    checks: list[str] = []
    lines: list[str] = []
    for index, (row, value) in enumerate(zip(run, values, strict=True)):
        where = source.name("where", f"{layout.label}.{getattr(row, 'name', '')}")
        match row:
            case Field():
                raw, check = _encode_expression(source, row, value, strict)
                if check is None:
                    arguments.append(raw)
                else:
                    lines.append(f"r{index} = {raw}")
                    arguments.append(f"r{index}")
                    checks.append(check.format(f"r{index}"))
            case Time():
                arguments.append(f"_bytes_of_time({where}, {value})")
            case Text():
                arguments.append(f"_bytes_of_text({where}, {value}, {row.size_bytes}, {row.padding!r})")
            case FixedBytes():
                arguments.append(f"_fixed({where}, {value}, {row.size_bytes})")
            case _:
                raise AssertionError(row)
    pack = source.name("pack", struct.Struct(_format_of(run)).pack)
    rows = source.name("rows", tuple(run))
    label = source.name("label", layout.label)
    source.add(
        "try:",
        *(f"    {line}" for line in lines),
        *([f"    if {' or '.join(checks)}: raise ValueError"] if checks else []),
        f"    out.append({pack}({', '.join(arguments)}))",
        _UNUSUAL,
        f"    out.append(_bytes_of_rows({rows}, {label}, ({', '.join(values)},), {strict}))",
    )


def _fixed(where: str, value: Any, size_bytes: int) -> bytes:
    """Bytes of exactly that size; `struct` would cut or fill them without a word."""
    if not isinstance(value, bytes) or len(value) != size_bytes:
        raise ValueError(where)
    return value


def _encode_repeat(source: _Source, row: Repeat, layout: Layout, value: str, strict: bool) -> None:
    rows = source.name("rows", (row,))
    label = source.name("label", layout.label)
    plain = f"out.append(_bytes_of_rows({rows}, {label}, ({value},), {strict}))"
    low, high = (row.count_min, row.count_max) if strict else (0, row.count_limit)
    count = source.name("count", struct.Struct(f">{_LETTERS[row.count_size_bytes]}").pack)
    if isinstance(row.item, Layout):
        cls, encode = source.name("cls", row.item.cls), source.name("encode", encoder(row.item, strict=strict))
        source.add(
            f"if type({value}) is tuple and {low} <= len({value}) <= {high}:",
            f"    out.append({count}(len({value})))",
            f"    for item in {value}:",
            f"        if type(item) is not {cls}: raise _wrong_item({rows}[0], {label}, item)",
            f"        {encode}(item, out)",
            "else:",
            f"    {plain}",
        )
        return
    width = row.item.size_bytes
    arrays = _ARRAYS[width]
    kept = f"(n < 256 and {source.name('packers', arrays.packers)}[n])"
    pack = f"({kept} or {source.name('packer', arrays.packer)}(n))"
    many = one = f"{pack}(*{value})"
    if width < 4:
        table = source.name("raws", _raws_of(row.item, strict))
        many, one = f"_itemgetter(*{value})({table})", f"[{table}[item] for item in {value}]"
        many, one = (f"bytes({raws})" if width == 1 else f"{pack}(*{raws})" for raws in (many, one))
    source.add(
        "try:",
        f"    n = len({value})",
        f"    if not {low} <= n <= {high}: raise ValueError",
        f"    items = {many} if n > 1 else {one}",
        f"    out.append({count}(n))",
        "    out.append(items)",
        _UNUSUAL,
        f"    {plain}",
    )


@cache
def encoder(layout: Layout, *, strict: bool) -> Encoder:
    """Compile the encoder of *layout*."""
    source = _Source()
    source.names |= {
        "_bytes_of_rows": bytes_of_rows,
        "_bytes_of_text": bytes_of_text,
        "_bytes_of_time": bytes_of_time,
        "_fixed": _fixed,
        "_itemgetter": itemgetter,
        "_struct_error": struct.error,
        "_wrong_item": wrong_item,
    }
    if layout.parts is None:
        values = [f"o.{row.name}" for row in layout.rows]
    else:
        values = [f"p{i}" for i in range(len(layout.rows))]
        parts = source.name("parts", layout.parts)
        source.add(f"{', '.join(values)}{',' if len(values) == 1 else ''} = {parts}(o)")
    position = 0
    for run in _runs(layout.rows):
        names = values[position : position + len(run)]
        position += len(run)
        row = run[0]
        if isinstance(row, _FIXED):
            _encode_run(source, run, layout, names, strict)
        elif isinstance(row, Repeat):
            _encode_repeat(source, row, layout, names[0], strict)
        else:
            rows = source.name("rows", (row,))
            label = source.name("label", layout.label)
            source.add(f"out.append(_bytes_of_rows({rows}, {label}, ({names[0]},), {strict}))")
    function: Encoder = source.function("def encode(o, out):", layout.label)
    return function
