"""The one-message codec: a plan compiled into Python functions, and the slow reference they are measured against.

Strategy. A message is decoded far more often than its DBC is loaded, so `compile_decoder` and `compile_encoder` write one
function per node of the plan and let Python compile it: byte-aligned signals of 16, 32 and 64 bits come out of one
`struct` call, signals inside one byte out of an index and a shift, everything else out of the frame read as one integer.
Generated source contains numbers and `repr` of names only; tables go in as arguments. The encoder is written for values
that fit: whatever it stumbles over goes to `encode_reference`, which is slow, follows the definition signal by signal,
and either succeeds or says exactly which value is wrong and why. So there is one wording of every error.

Agreed with cantools (the tests hold us to it): values are rounded to the nearest raw number, half to even; a value
outside [minimum|maximum] is refused unless the value table names it; a frame longer than the message is accepted and its
tail ignored, a shorter one refused; a multiplexer is looked up by its scaled value.

What a frame holds and its values do not (bits of no signal, decimals that scaling lost) is kept by `encode_onto`: it starts
from a frame and writes only the signals whose values differ from that frame's.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, TypeAlias

from bmsota.errors import SignalError
from bmsota.signals._plan import NamedValue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bmsota.signals._plan import ByteOrder, LayoutNode, Signal, SignalValue


Decoder: TypeAlias = "Callable[[bytes], dict[str, SignalValue]]"
Encoder: TypeAlias = "Callable[[Mapping[str, SignalValue]], bytes]"

_FLOAT_CODES = {16: "e", 32: "f", 64: "d"}
_INT_CODES = {16: "h", 32: "i", 64: "q"}
# The bits of the fraction; what they say of a NaN is lost when the hardware widens it to Python's float.
_FRACTION_BITS = {16: 10, 32: 23, 64: 52}

# cantools lets a value miss its limits by a millionth of a step, so that 0.1 * 3 is still inside [0|0.3].
RANGE_TOLERANCE_STEPS = 1e-6


# --- The reference: one signal at a time, as the definition reads -----------------------------------------------------


def scaled(signal: Signal, raw: float) -> float:
    if signal.scale == 1 and signal.offset == 0:
        return raw
    if is_integer_conversion(signal):
        return raw * int(signal.scale) + int(signal.offset)
    value = raw * signal.scale
    return value if signal.offset == 0 else value + signal.offset  # -0.0 + 0 would be 0.0.


def is_integer_conversion(signal: Signal) -> bool:
    """Whether scale and offset keep integers integers, however large."""
    return not signal.is_float and float(signal.scale).is_integer() and float(signal.offset).is_integer()


def named(signal: Signal, raw: float) -> SignalValue:
    if signal.choices and math.isfinite(raw) and (name := signal.choices.get(int(raw))) is not None:
        return NamedValue(name, raw)
    return scaled(signal, raw)


def names_of(signal: Signal) -> dict[str, int]:
    """The value table turned round. A name that stands for two numbers is encoded as the last of them, as in cantools."""
    return {name: number for number, name in signal.choices.items()}


def number_named(signal: Signal, value: str) -> float | None:
    """The raw number that *value* names: the one it keeps, if it is a name of this signal's; None if it is no name."""
    if isinstance(value, NamedValue):
        raw = value.raw
        if (signal.is_float or raw.__class__ is int) and math.isfinite(raw) and signal.choices.get(int(raw)) == value:
            return raw
    return names_of(signal).get(value)


def float_of(bits: int, length_bits: int) -> float:
    """The number of a float's bits. A NaN keeps all of them, whatever its length."""
    fraction = _FRACTION_BITS[length_bits]
    exponent = (1 << length_bits - 1 - fraction) - 1
    if bits >> fraction & exponent == exponent and (payload := bits & (1 << fraction) - 1):
        bits = (bits >> length_bits - 1 << 63) | (0x7FF << 52) | (payload << 52 - fraction)
        length_bits = 64
    return float(struct.unpack("<" + _FLOAT_CODES[length_bits], bits.to_bytes(length_bits // 8, "little"))[0])


def float_bits(value: float, length_bits: int) -> int:
    """The bits of a float; the inverse of `float_of`. Raises OverflowError and struct.error as `struct.pack`."""
    if value != value:  # noqa: PLR0124 - a NaN; math.isnan refuses what is no number, which struct.pack is to say
        wide = int.from_bytes(struct.pack("<d", value), "little")
        fraction = _FRACTION_BITS[length_bits]
        exponent = (1 << length_bits - 1 - fraction) - 1
        # A fraction that is 0 after the cut would be infinity: then the first bit of it, as the hardware does.
        payload = (wide & (1 << 52) - 1) >> 52 - fraction or 1 << fraction - 1
        return (wide >> 63 << length_bits - 1) | (exponent << fraction) | payload
    return int.from_bytes(struct.pack("<" + _FLOAT_CODES[length_bits], value), "little")


def extract(signal: Signal, data: bytes) -> float:
    word = int.from_bytes(data, signal.byte_order) >> signal.shift
    raw = word & (1 << signal.length_bits) - 1
    if signal.is_float:
        return float_of(raw, signal.length_bits)
    if signal.is_signed and raw >> signal.length_bits - 1:
        raw -= 1 << signal.length_bits
    return raw


def multiplexer_number(signal: Signal, value: SignalValue, where: str) -> int:
    if isinstance(value, str):
        number = number_named(signal, value)
        if number is None:
            raise SignalError(f"expected one of {sorted(names_of(signal))}, got {value!r} ({where}.{signal.name})")
        return int(number)
    if not isinstance(value, int | float) or (isinstance(value, float) and not math.isfinite(value)):
        raise SignalError(f"expected a number, got {value!r} ({where}.{signal.name})")
    return int(value)


def _sized(data: bytes, size_bytes: int, where: str) -> bytes:
    if len(data) < size_bytes:
        raise SignalError(f"expected {size_bytes} data bytes, got {len(data)} ({where})")
    return data[:size_bytes]


def decode_reference(
    node: LayoutNode, data: bytes, *, size_bytes: int, where: str, raw: bool = False
) -> dict[str, SignalValue]:
    """Decode *data* signal by signal. With *raw* the numbers stay as they are on the wire.

    Raises:
        SignalError: the data are too short, or a multiplexer has a number the message does not define.
    """
    data = _sized(data, size_bytes, where)
    values: dict[str, SignalValue] = {}
    nodes = [node]
    for current in nodes:
        for signal in current.signals:
            number = extract(signal, data)
            values[signal.name] = number if raw else named(signal, number)
        for branch in current.branches:
            signal = branch.multiplexer
            number = multiplexer_number(signal, named(signal, extract(signal, data)), where)
            if number not in branch.nodes:
                raise SignalError(unknown_branch(branch.nodes, number, f"{where}.{signal.name}"))
            nodes.append(branch.nodes[number])
    return values


def unknown_branch(nodes: Mapping[int, LayoutNode], number: int, where: str) -> str:
    return f"expected multiplexer number {_listed(sorted(nodes))}, got {number} ({where})"


def _listed(items: list[int]) -> str:
    shown = ", ".join(str(item) for item in items[:12])
    return shown if len(items) <= 12 else f"{shown}, ... ({len(items)} numbers)"


def raw_of(signal: Signal, value: SignalValue, place: str) -> float:
    """Check *value* and turn it into the number on the wire; *place* is how an error names it."""
    if isinstance(value, str):
        number = number_named(signal, value)
        if number is None:
            expected = f"one of {sorted(names_of(signal))}" if signal.choices else "a number"
            raise SignalError(f"expected {expected}, got {value!r} ({place})")
        return number
    if not isinstance(value, int | float):
        raise SignalError(f"expected a number or a name of the value table, got {type(value).__name__} ({place})")
    try:
        raw = _unscaled(signal, value, place)
    except OverflowError:
        raise SignalError(f"expected a number that a double can hold, got {value} ({place})") from None
    if raw not in signal.choices:
        tolerance = abs(signal.scale) * RANGE_TOLERANCE_STEPS
        if signal.minimum is not None and value < signal.minimum - tolerance:
            raise SignalError(f"expected at least {signal.minimum} {signal.unit}, got {value} ({place})")
        if signal.maximum is not None and value > signal.maximum + tolerance:
            raise SignalError(f"expected at most {signal.maximum} {signal.unit}, got {value} ({place})")
    return raw


def wire_of(signal: Signal, value: SignalValue, place: str) -> float:
    """Check *value*, a raw number, before `bits_of`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SignalError(f"expected a raw number, got {value!r} ({place})")
    if not signal.is_float and not isinstance(value, int):
        raise SignalError(f"expected an integer, got {value!r} ({place})")
    return value


def _unscaled(signal: Signal, value: float, place: str) -> float:
    if signal.scale == 0:
        raise SignalError(f"expected a scale other than 0 to encode with, got 0 ({place})")
    if signal.is_float:
        return value if signal.scale == 1 and signal.offset == 0 else (value - signal.offset) / signal.scale
    if isinstance(value, float) and not math.isfinite(value):
        raise SignalError(f"expected a finite number, got {value} ({place})")
    if signal.scale == 1 and signal.offset == 0:
        return round(value)
    if is_integer_conversion(signal):
        # Through divmod, so that integers beyond 2**53 are not rounded by the division.
        difference = value - int(signal.offset)
        quotient, remainder = divmod(difference, int(signal.scale))
        return round(quotient if remainder == 0 else difference / int(signal.scale))
    return round((value - signal.offset) / signal.scale)


def bits_of(signal: Signal, raw: float, place: str) -> int:
    """The bits of *raw*, at their place in the integer of the signal's byte order."""
    if signal.is_float:
        try:
            return float_bits(raw, signal.length_bits) << signal.shift
        except (OverflowError, struct.error):
            raise SignalError(f"expected a number of {signal.length_bits} float bits, got {raw} ({place})") from None
    if not signal.raw_minimum <= raw <= signal.raw_maximum:
        limits = f"{scaled(signal, signal.raw_minimum)} to {scaled(signal, signal.raw_maximum)}"
        try:
            got = f"{scaled(signal, raw)}"
        except OverflowError:
            got = f"raw {raw}"
        raise SignalError(f"expected {limits} ({signal.length_bits} bits), got {got} ({place})")
    return (int(raw) & (1 << signal.length_bits) - 1) << signal.shift


def _frame_nodes(
    layout: LayoutNode, values: Mapping[str, SignalValue], *, where: str, raw: bool = False
) -> list[LayoutNode]:
    """The nodes of the plan that *values* bring into the frame. Every signal of theirs has a value, and no other has one.

    Raises:
        SignalError: a signal is missing or unknown, or a multiplexer chooses nothing.
    """
    nodes = [layout]
    names: set[str] = set()
    for node in nodes:
        for signal in node.signals:
            if signal.name not in values:
                raise SignalError(f"no value for {signal.name} ({where})")
            names.add(signal.name)
        for branch in node.branches:
            signal = branch.multiplexer
            value = values[signal.name]
            if raw:
                value = named(signal, wire_of(signal, value, f"{where}.{signal.name}"))
            number = multiplexer_number(signal, value, where)
            if number not in branch.nodes:
                raise SignalError(unknown_branch(branch.nodes, number, f"{where}.{signal.name}"))
            nodes.append(branch.nodes[number])
    if unknown := sorted(set(values) - names):
        raise SignalError(f"no such signals in this frame: {', '.join(unknown)} ({where})")
    return nodes


def _mask(signal: Signal) -> int:
    return (1 << signal.length_bits) - 1 << signal.shift


def encode_reference(
    node: LayoutNode, values: Mapping[str, SignalValue], *, size_bytes: int, where: str, raw: bool = False
) -> bytes:
    """Encode *values* signal by signal. Exactly the signals of the frame must be given. With *raw* they are wire numbers.

    Raises:
        SignalError: a signal is missing or unknown, or its value does not fit; the message names it.
    """
    return _encoded(node, values, {}, bytes(size_bytes), where=where, raw=raw)


def encode_onto(
    node: LayoutNode,
    values: Mapping[str, SignalValue],
    *,
    base: bytes,
    held: Mapping[str, SignalValue],
    where: str,
    raw: bool = False,
) -> bytes:
    """Encode *values* into the frame *base*, which decodes to *held*: signals with the value they have there stay as they are."""
    return _encoded(node, values, held, base, where=where, raw=raw)


def _is_same(signal: Signal, given: SignalValue, held: SignalValue) -> bool:
    """Whether *given* asks for what the frame holds. Of two equal names, both with their number, the numbers decide."""
    if isinstance(held, NamedValue):
        if isinstance(given, NamedValue) and given.raw != held.raw:
            return False
        if not isinstance(given, str):
            held = scaled(signal, held.raw)
    return given == held or (given != given and held != held)  # noqa: PLR0124 - NaN is what NaN was


def _encoded(
    layout: LayoutNode,
    values: Mapping[str, SignalValue],
    held: Mapping[str, SignalValue],
    base: bytes,
    *,
    where: str,
    raw: bool,
) -> bytes:
    """*base*, which decodes to *held*, with the values that differ from those written into it."""
    number_of = wire_of if raw else raw_of
    numbers: dict[str, int] = {}
    signals: list[Signal] = []
    for node in _frame_nodes(layout, values, where=where, raw=raw):
        for signal in node.signals:
            signals.append(signal)
            value = values[signal.name]
            if signal.name not in held or not _is_same(signal, value, held[signal.name]):
                place = f"{where}.{signal.name}"
                numbers[signal.name] = bits_of(signal, number_of(signal, value, place), place)
    words = {"little": int.from_bytes(base, "little"), "big": int.from_bytes(base, "big")}
    if any(words.values()):
        cleared = base
        for signal in signals:
            if signal.name in numbers:
                word = int.from_bytes(cleared, signal.byte_order) & ~_mask(signal)
                cleared = word.to_bytes(len(base), signal.byte_order)
        words = {"little": int.from_bytes(cleared, "little"), "big": 0}
    for signal in signals:
        words[signal.byte_order] |= numbers.get(signal.name, 0)
    little = int.from_bytes(words["little"].to_bytes(len(base), "little"), "big")
    data = (little | words["big"]).to_bytes(len(base), "big")
    for signal in signals:
        wanted = numbers.get(signal.name)
        if wanted is None:
            wanted = int.from_bytes(base, signal.byte_order) & _mask(signal)
        if int.from_bytes(data, signal.byte_order) & _mask(signal) != wanted:
            text = f"{signal.name}={values[signal.name]!r}"
            raise SignalError(f"signals that share bits disagree: {text} ({where})")
    return data


def has_overlap(node: LayoutNode, *, size_bytes: int, taken: int = 0) -> bool:
    """Whether two signals that can be in the same frame share a bit."""
    for signal in node.signals:
        bits = (1 << signal.length_bits) - 1 << signal.shift
        if signal.byte_order == "little":
            bits = int.from_bytes(bits.to_bytes(size_bytes, "little"), "big")
        if taken & bits:
            return True
        taken |= bits
    below = {id(child): child for branch in node.branches for child in branch.nodes.values()}
    return any(has_overlap(child, size_bytes=size_bytes, taken=taken) for child in below.values())


# --- Generated functions ----------------------------------------------------------------------------------------------


class _Source:
    """Lines of one generated function and the objects they refer to."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.scope: dict[str, Any] = {"from_bytes": int.from_bytes, "NamedValue": NamedValue}

    def add(self, line: str, depth: int = 1) -> None:
        self.lines.append("    " * depth + line)

    def bind(self, prefix: str, value: object) -> str:
        """Give *value* a name the generated lines can use."""
        name = f"{prefix}{len(self.scope)}"
        self.scope[name] = value
        return name

    def function(self, name: str, where: str) -> Any:
        # The names in the source come through repr() and bind(), so a DBC cannot put code of its own here.
        exec(compile("\n".join(self.lines), f"<signals {where}>", "exec"), self.scope)  # noqa: S102 - see above
        return self.scope[name]


def _aligned_bytes(signal: Signal, size_bytes: int) -> int | None:
    """The offset of the first byte, if `struct` has a code for this signal; None otherwise."""
    codes = _FLOAT_CODES if signal.is_float else _INT_CODES
    if signal.length_bits not in codes or signal.shift % 8:
        return None
    if signal.byte_order == "little":
        return signal.shift // 8
    return size_bytes - signal.shift // 8 - signal.length_bits // 8


def _struct_code(signal: Signal) -> str:
    if signal.is_float:
        return _FLOAT_CODES[signal.length_bits]
    code = _INT_CODES[signal.length_bits]
    return code if signal.is_signed else code.upper()


def _struct_groups(signals: tuple[Signal, ...], size_bytes: int) -> list[tuple[struct.Struct, list[Signal]]]:
    """Cut the aligned signals into as few `struct` calls as their byte orders and overlaps allow."""
    groups: list[tuple[struct.Struct, list[Signal]]] = []
    for order, mark in (("little", "<"), ("big", ">")):
        aligned = [
            (at, signal)
            for signal in signals
            if signal.byte_order == order and (at := _aligned_bytes(signal, size_bytes)) is not None
        ]
        aligned.sort(key=lambda item: item[0])
        while aligned:
            layout, members, end, later = mark, [], 0, []
            for at, signal in aligned:
                if at < end:
                    later.append((at, signal))  # Overlaps its neighbour: taken by another call.
                    continue
                layout += f"{at - end}x" * (at > end) + _struct_code(signal)
                members.append(signal)
                end = at + signal.length_bits // 8
            layout += f"{size_bytes - end}x" * (size_bytes > end)
            groups.append((struct.Struct(layout), members))
            aligned = later
    return groups


def _inside_byte(signal: Signal, size_bytes: int) -> tuple[int, int] | None:
    """(byte, shift) of a signal that lies in one byte, where the byte order makes no difference; None otherwise."""
    if signal.is_float or signal.shift % 8 + signal.length_bits > 8:
        return None
    byte = signal.shift // 8
    return (byte if signal.byte_order == "little" else size_bytes - 1 - byte), signal.shift % 8


def _linear(signal: Signal, variable: str) -> str:
    """The expression that scales a raw number, term by term as `_scaled`."""
    if signal.scale == 1 and signal.offset == 0:
        return variable
    integer = is_integer_conversion(signal)
    scale, offset = (int(signal.scale), int(signal.offset)) if integer else (signal.scale, signal.offset)
    text = variable if scale == 1 and integer else f"{variable} * {scale!r}"
    return text if offset == 0 else f"{text} + {offset!r}"


def _valued(signal: Signal, variable: str, source: _Source) -> str:
    """The expression of the decoded value, with the value table if there is one."""
    linear = _linear(signal, variable)
    if not signal.choices:
        return linear
    if signal.is_float:
        return f"{source.bind('named', lambda raw, signal=signal: named(signal, raw))}({variable})"
    table = source.bind("table", {raw: NamedValue(name, raw) for raw, name in signal.choices.items()})
    if signal.length_bits <= 8 and all(
        raw in signal.choices for raw in range(signal.raw_minimum, signal.raw_maximum + 1)
    ):
        return f"{table}[{variable}]"
    lookup = f"{table}[{variable}] if {variable} in {table} else {linear}"
    lowest = min(signal.choices)
    if lowest > signal.raw_maximum // 2:  # Marks at the top of the range ("invalid"): one comparison in the usual case.
        return f"{linear} if {variable} < {lowest} else {lookup}"
    return lookup


def _raw_lines(signals: tuple[Signal, ...], size_bytes: int, source: _Source) -> dict[str, str]:
    """Write the lines that fetch each signal's raw number into a variable; return signal name -> variable."""
    variables = {signal.name: f"v{index}" for index, signal in enumerate(signals)}
    done: set[str] = set()
    for layout, members in _struct_groups(signals, size_bytes):
        targets = ", ".join(variables[signal.name] for signal in members)
        source.add(f"{targets}, = {source.bind('unpack', layout.unpack)}(data)")
        done.update(signal.name for signal in members)
    rest = [signal for signal in signals if signal.name not in done]
    wide = {signal.byte_order for signal in rest if _inside_byte(signal, size_bytes) is None}
    for order in sorted(wide):
        source.add(f"{order} = from_bytes(data, {order!r})")
    for signal in rest:
        mask = (1 << signal.length_bits) - 1
        if (place := _inside_byte(signal, size_bytes)) is not None:
            byte, shift = place
            text = f"data[{byte}]"
            text = f"{text} >> {shift}" if shift else text
            text = f"{text} & {mask}" if shift + signal.length_bits < 8 else text
        else:
            text = f"{signal.byte_order} >> {signal.shift} & {mask}"
        if signal.is_signed:
            half = 1 << signal.length_bits - 1
            text = f"(({text}) ^ {half}) - {half}"
        if signal.is_float:
            text = f"{source.bind('float_of', float_of)}({text}, {signal.length_bits})"
        source.add(f"{variables[signal.name]} = {text}")
    for signal in signals:
        if signal.is_float and signal.length_bits < 64 and signal.name in done:
            variable = variables[signal.name]
            whole = source.bind("whole", lambda data, signal=signal: extract(signal, data))
            source.add(f"if {variable} != {variable}: {variable} = {whole}(data)")
    return variables


def _branch_lines(
    node: LayoutNode, variables: dict[str, str], source: _Source, *, size_bytes: int, where: str, raw: bool
) -> None:
    for branch in node.branches:
        signal = branch.multiplexer
        children = {id(child): child for child in branch.nodes.values()}  # Ranges of numbers share one node.
        compiled = {
            key: _decoder_below(child, size_bytes=size_bytes, where=where, raw=raw) for key, child in children.items()
        }
        below = {number: compiled[id(child)] for number, child in branch.nodes.items()}

        def unknown(
            number: int, nodes: Mapping[int, LayoutNode] = branch.nodes, place: str = f"{where}.{signal.name}"
        ) -> SignalError:
            return SignalError(unknown_branch(nodes, number, place))

        plain = not signal.choices and not signal.is_float and signal.scale == 1 and signal.offset == 0
        number = variables[signal.name]
        if not plain:

            def number_of(raw_number: float, signal: Signal = signal) -> int:
                return multiplexer_number(signal, named(signal, raw_number), where)

            number = f"{source.bind('number_of', number_of)}({number})"
        source.add(f"number = {number}")
        source.add(f"below = {source.bind('below', below)}.get(number)")
        source.add(f"if below is None: raise {source.bind('unknown', unknown)}(number)")
        source.add("below(data, values)")


def _decoder_below(
    node: LayoutNode, *, size_bytes: int, where: str, raw: bool
) -> Callable[[bytes, dict[str, SignalValue]], None]:
    source = _Source()
    source.add("def decode(data, values):", 0)
    variables = _raw_lines(node.signals, size_bytes, source)
    for signal in node.signals:
        variable = variables[signal.name]
        source.add(f"values[{signal.name!r}] = {variable if raw else _valued(signal, variable, source)}")
    _branch_lines(node, variables, source, size_bytes=size_bytes, where=where, raw=raw)
    source.add("return None")
    function: Callable[[bytes, dict[str, SignalValue]], None] = source.function("decode", where)
    return function


def compile_decoder(node: LayoutNode, *, size_bytes: int, where: str, raw: bool = False) -> Decoder:
    """Write the function that decodes a whole frame; equal to `decode_reference` for every input."""
    source = _Source()
    sized = source.bind("sized", lambda data: _sized(data, size_bytes, where))
    source.add("def decode(data):", 0)
    source.add(f"if len(data) != {size_bytes}: data = {sized}(data)")
    variables = _raw_lines(node.signals, size_bytes, source)
    items = ", ".join(
        f"{signal.name!r}: {variables[signal.name] if raw else _valued(signal, variables[signal.name], source)}"
        for signal in node.signals
    )
    if node.branches:
        source.add(f"values = {{{items}}}")
        _branch_lines(node, variables, source, size_bytes=size_bytes, where=where, raw=raw)
        source.add("return values")
    else:
        source.add(f"return {{{items}}}")
    function: Decoder = source.function("decode", where)
    return function


def _unscaled_lines(signal: Signal, variable: str, source: _Source) -> None:
    """Write the lines that turn the value in *variable* into a raw number, or raise anything."""
    depth = 1
    raw_check: str | None = None
    if signal.choices:
        names = source.bind("names", names_of(signal))
        kept = source.bind("kept", lambda value, signal=signal: number_named(signal, value))
        source.add(f"if {variable}.__class__ is str: {variable} = {names}[{variable}]")
        source.add(f"elif {variable}.__class__ is NamedValue: {variable} = {kept}({variable})")
        source.add("else:")
        depth = 2
        raw_check = source.bind("table", dict(signal.choices))
    checks = []
    tolerance = abs(signal.scale) * RANGE_TOLERANCE_STEPS
    if signal.minimum is not None:
        checks.append(f"{variable} < {signal.minimum - tolerance!r}")
    if signal.maximum is not None:
        checks.append(f"{variable} > {signal.maximum + tolerance!r}")
    condition = " or ".join(checks)
    if signal.is_float:
        source.add(f"if {variable}.__class__ is not float: {variable} = float({variable})", depth)
        converted = f"({variable} - {signal.offset!r}) / {signal.scale!r}"
        converted = variable if signal.scale == 1 and signal.offset == 0 else converted
    elif signal.scale == 1 and signal.offset == 0:
        converted = f"{variable} if {variable}.__class__ is int else round(float({variable}))"
    elif is_integer_conversion(signal):
        # A float may take the divmod detour as well: the reference does, and the result must not differ.
        converted = f"{source.bind('unscaled', lambda value, signal=signal: _unscaled(signal, value, ''))}({variable})"
    elif signal.offset == 0:
        converted = f"round({variable} / {signal.scale!r})"
    else:
        converted = f"round(({variable} - {signal.offset!r}) / {signal.scale!r})"
    if raw_check is not None and condition:
        source.add(f"raw = {converted}", depth)
        source.add(f"if ({condition}) and raw not in {raw_check}: raise ValueError", depth)
        source.add(f"{variable} = raw", depth)
        return
    if condition:
        source.add(f"if {condition}: raise ValueError", depth)
    if converted != variable:
        source.add(f"{variable} = {converted}", depth)


def _word_terms(signals: tuple[Signal, ...], variables: dict[str, str], source: _Source) -> dict[ByteOrder, list[str]]:
    """Write the range checks; return the terms that make up the frame as an integer, by byte order."""
    terms: dict[ByteOrder, list[str]] = {"little": [], "big": []}
    for signal in signals:
        variable = variables[signal.name]
        if signal.is_float:
            text = f"{source.bind('float_bits', float_bits)}({variable}, {signal.length_bits})"
        else:
            source.add(f"if not {signal.raw_minimum} <= {variable} <= {signal.raw_maximum}: raise ValueError")
            text = f"({variable} & {(1 << signal.length_bits) - 1})" if signal.is_signed else variable
        terms[signal.byte_order].append(f"{text} << {signal.shift}" if signal.shift else text)
    return terms


def _value_lines(node: LayoutNode, source: _Source, *, raw: bool) -> dict[str, str]:
    """Write the lines that turn the values of a node into raw numbers; return signal name -> variable."""
    variables = {signal.name: f"v{index}" for index, signal in enumerate(node.signals)}
    for signal in node.signals:
        source.add(f"{variables[signal.name]} = values[{signal.name!r}]")
    for branch in node.branches:
        signal = branch.multiplexer
        variable = variables[signal.name]

        def number_of(value: SignalValue, signal: Signal = signal) -> int:
            return multiplexer_number(signal, named(signal, wire_of(signal, value, "")) if raw else value, "")

        number = f"{source.bind('number_of', number_of)}({variable})"
        # What is no number goes to the function as well, which refuses it.
        plain = not signal.is_float and (not raw or (signal.scale == 1 and signal.offset == 0 and not signal.choices))
        source.add(
            f"m{variable} = {variable} if {variable}.__class__ is int else {number}"
            if plain
            else f"m{variable} = {number}"
        )
    for signal in node.signals:
        variable = variables[signal.name]
        if not raw:
            _unscaled_lines(signal, variable, source)
        else:
            kinds = "int, float" if signal.is_float else "int,"
            source.add(f"if {variable}.__class__ not in ({kinds}): raise TypeError")
        if signal.is_float and signal.length_bits < 64:
            source.add(f"if {variable} != {variable}: raise ValueError")
    return variables


def _words_function(
    node: LayoutNode, where: str, *, raw: bool
) -> Callable[[Mapping[str, SignalValue]], tuple[int, int, int]]:
    """(little-endian word, big-endian word, number of signals) of a node and what its multiplexers choose below it."""
    source = _Source()
    source.add("def words(values):", 0)
    variables = _value_lines(node, source, raw=raw)
    terms = _word_terms(node.signals, variables, source)
    source.add(f"little = {' | '.join(terms['little']) or '0'}")
    source.add(f"big = {' | '.join(terms['big']) or '0'}")
    source.add(f"count = {len(node.signals)}")
    for branch in node.branches:
        children = {id(child): child for child in branch.nodes.values()}
        compiled = {key: _words_function(child, where, raw=raw) for key, child in children.items()}
        below = {number: compiled[id(child)] for number, child in branch.nodes.items()}
        source.add(f"l, b, c = {source.bind('below', below)}[m{variables[branch.multiplexer.name]}](values)")
        source.add("little |= l; big |= b; count += c")
    source.add("return little, big, count")
    function: Callable[[Mapping[str, SignalValue]], tuple[int, int, int]] = source.function("words", where)
    return function


# Whatever can go wrong in generated encoder lines when a value does not fit; the reference then says what it was.
_STUMBLES = (
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    ZeroDivisionError,
    AttributeError,
    struct.error,
    SignalError,
)


def compile_encoder(node: LayoutNode, *, size_bytes: int, where: str, raw: bool = False) -> Encoder:
    """Write the function that encodes a whole frame; equal to `encode_reference` for every input."""

    def refer(values: Mapping[str, SignalValue]) -> bytes:
        return encode_reference(node, values, size_bytes=size_bytes, where=where, raw=raw)

    if has_overlap(node, size_bytes=size_bytes):
        return refer
    source = _Source()
    source.scope["stumbles"] = _STUMBLES
    reference = source.bind("reference", refer)
    groups = _struct_groups(node.signals, size_bytes)
    source.add("def encode(values):", 0)
    if not node.branches and len(groups) == 1 and len(groups[0][1]) == len(node.signals):
        layout, members = groups[0]
        body = _Source()
        body.scope = source.scope
        variables = _value_lines(node, body, raw=raw)
        arguments = ", ".join(variables[signal.name] for signal in members)
        body.add(f"if len(values) == {len(node.signals)}: return {source.bind('pack', layout.pack)}({arguments})")
    elif node.branches:
        body = _Source()
        words = source.bind("words", _words_function(node, where, raw=raw))
        body.add(f"little, big, count = {words}(values)")
        body.add("if count == len(values):")
        body.add(
            f"return (from_bytes(little.to_bytes({size_bytes}, 'little'), 'big') | big).to_bytes({size_bytes}, 'big')",
            2,
        )
    else:
        body = _Source()
        body.scope = source.scope
        variables = _value_lines(node, body, raw=raw)
        terms = _word_terms(node.signals, variables, body)
        little, big = " | ".join(terms["little"]), " | ".join(terms["big"])
        if little and big:
            result = f"(from_bytes(({little}).to_bytes({size_bytes}, 'little'), 'big') | {big}).to_bytes({size_bytes}, 'big')"
        elif big:
            result = f"({big}).to_bytes({size_bytes}, 'big')"
        else:
            result = f"({little or '0'}).to_bytes({size_bytes}, 'little')"
        body.add(f"if len(values) == {len(node.signals)}: return {result}")
    source.add("try:")
    source.lines += ["    " + line for line in body.lines]
    source.add("except stumbles: pass")
    source.add(f"return {reference}(values)")
    function: Encoder = source.function("encode", where)
    return function
