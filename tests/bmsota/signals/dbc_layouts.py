"""Hypothesis strategies that make DBC texts: any layout a DBC can express, without overlaps."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

SIZES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 24, 64)


@dataclass
class Row:
    name: str
    start_bit: int
    length_bits: int
    big_endian: bool
    signed: bool
    float_type: int  # 0, 1 (32 bits), 2 (64 bits)
    scale: str
    offset: str
    minimum: str
    maximum: str
    mux: str = ""
    choices: dict[int, str] = field(default_factory=dict)


@dataclass
class Layout:
    size_bytes: int
    rows: list[Row]
    multiplexer_ranges: list[str] = field(default_factory=list)
    """SG_MUL_VAL_ lines of extended multiplexing."""

    @property
    def text(self) -> str:
        lines = ['VERSION ""', "NS_ :", "BS_:", "BU_: A B", f"BO_ 291 Message: {self.size_bytes} A"]
        for row in self.rows:
            mux = f" {row.mux}" if row.mux else ""
            lines.append(
                f" SG_ {row.name}{mux} : {row.start_bit}|{row.length_bits}@{0 if row.big_endian else 1}{'-' if row.signed else '+'}"
                f' ({row.scale},{row.offset}) [{row.minimum}|{row.maximum}] "u" B'
            )
        lines += self.multiplexer_ranges
        for row in self.rows:
            if row.float_type:
                lines.append(f"SIG_VALTYPE_ 291 {row.name} : {row.float_type};")
            if row.choices:
                pairs = " ".join(f'{number} "{name}"' for number, name in row.choices.items())
                lines.append(f"VAL_ 291 {row.name} {pairs} ;")
        return "\n".join(lines) + "\n"


def bits_of(start_bit: int, length_bits: int, *, big_endian: bool) -> set[int] | None:
    """DBC bit numbers of a signal; walks the saw-tooth of a big-endian one bit by bit."""
    if not big_endian:
        return set(range(start_bit, start_bit + length_bits))
    bits, bit = set(), start_bit
    for _ in range(length_bits):
        bits.add(bit)
        bit = bit + 15 if bit % 8 == 0 else bit - 1
    return bits


SCALES = st.sampled_from(["1", "2", "-1", "0.1", "0.0001", "0.5", "-0.25", "1.0", "1E-3", "100"])
OFFSETS = st.sampled_from(["0", "0", "-40", "273.15", "1000000", "-0.5"])
NAMES = st.sampled_from(["Off", "On", "Abnormal", "Invalid", "With space", "On"])


@st.composite
def rows(draw, name: str, size_bytes: int, taken: set[int], *, mux: str = "", number: bool = False) -> Row | None:
    """One signal beside what is *taken*, or None if the draw does not fit. With *number* one fit to be a multiplexer."""
    big_endian = draw(st.booleans())
    float_type = 0 if number else draw(st.sampled_from([0, 0, 0, 0, 1, 2]))
    if float_type:
        length = 32 * float_type
    else:
        length = draw(
            st.one_of(st.integers(1, 8 if number else 64), st.sampled_from([4, 8] if number else [8, 16, 32, 64]))
        )
    start = draw(st.integers(0, max(0, 8 * size_bytes - 1)))
    if not number and draw(st.booleans()):
        start = start // 8 * 8 + (7 if big_endian else 0)  # As people do it: on a byte.
    bits = bits_of(start, length, big_endian=big_endian)
    if max(bits) >= 8 * size_bytes or bits & taken:
        return None
    signed = draw(st.booleans()) and not number
    scale, offset = ("1", "0") if number and draw(st.booleans()) else (draw(SCALES), draw(OFFSETS))
    limits = draw(st.sampled_from([("0", "0"), ("0", "0"), ("-10", "100"), ("0", "1.5"), ("-1000000", "1000000")]))
    choices = {}
    if not float_type and not number and draw(st.integers(0, 2)) == 0:
        low, high = (-(1 << length - 1), (1 << length - 1) - 1) if signed else (0, (1 << length) - 1)
        near_top = st.integers(max(low, high - 2), high)
        # Some files name numbers that the bits cannot hold; a table may look complete and not be.
        somewhere = st.one_of(st.integers(low, min(high, low + 3)), near_top, st.integers(high + 1, high + 4))
        choices = draw(st.dictionaries(somewhere, NAMES, max_size=4))
    if number:
        limits = ("0", "0")
    taken |= bits
    return Row(name, start, length, big_endian, signed, float_type, scale, offset, *limits, mux, choices)


@st.composite
def layouts(draw) -> Layout:
    size_bytes = draw(st.sampled_from(SIZES))
    taken: set[int] = set()
    members: list[Row] = []
    if size_bytes and draw(st.booleans()):
        multiplexer = draw(rows("Mux", size_bytes, taken, mux="M", number=True))
        if multiplexer is not None:
            members.append(multiplexer)
    for index in range(draw(st.integers(0, 6)) if size_bytes else 0):
        row = draw(rows(f"S{index}", size_bytes, taken))
        members += [row] if row else []
    if members and members[0].mux:
        for number in draw(st.sets(st.integers(0, 5), min_size=1, max_size=3)):
            branch = set(taken)
            for index in range(draw(st.integers(1, 3))):
                row = draw(rows(f"M{number}_{index}", size_bytes, branch, mux=f"m{number}"))
                members += [row] if row else []
        if not any(row.mux.startswith("m") for row in members):
            members[0].mux = ""  # A multiplexer without branches: cantools takes it for an ordinary signal.
    return Layout(size_bytes, members)


@st.composite
def extended_layouts(draw) -> Layout:
    """Multiplexers below a multiplexer, and signals that several of their numbers bring in."""
    size_bytes = draw(st.sampled_from((4, 8, 12, 64)))
    taken: set[int] = set()
    outer = draw(rows("Mux", size_bytes, taken, mux="M", number=True))
    if outer is None:
        return draw(layouts())
    members, ranges = [outer], []
    below = set(taken)
    inner = draw(rows("Inner", size_bytes, below, mux="m1M", number=True))
    if inner is not None:
        members.append(inner)
        ranges.append("SG_MUL_VAL_ 291 Inner Mux 1-2;")
        for index in range(draw(st.integers(1, 4))):
            row = draw(rows(f"I{index}", size_bytes, below, mux=f"m{index}"))
            if row:
                members.append(row)
                ranges.append(f"SG_MUL_VAL_ 291 I{index} Inner {index}-{index + draw(st.integers(0, 3))};")
    for index in range(draw(st.integers(1, 4))):
        # Beside what every page has: ranges overlap, so these share pages among each other and with the inner ones.
        row = draw(rows(f"O{index}", size_bytes, below, mux=f"m{index}"))
        if row:
            low = draw(st.integers(0, 4))
            members.append(row)
            ranges.append(f"SG_MUL_VAL_ 291 O{index} Mux {low}-{low + draw(st.integers(0, 2))}, 6-6;")
    if not any(row.mux.startswith("m") and not row.mux.endswith("M") for row in members):
        return draw(layouts())
    if inner is not None and not any(row.name.startswith("I") and row.name != "Inner" for row in members):
        inner.mux = "m1"  # Nothing depends on it: an ordinary signal.
    return Layout(size_bytes, members, ranges)


@st.composite
def values_for(draw, message, *, complete=False):
    """Values for a frame: mostly such that fit, some at or beyond a limit, some names, some missing or too many,
    unless *complete*."""
    chosen = {}
    nodes = [message.layout]
    for node in nodes:
        for signal in node.signals:
            ends = [limit for limit in (signal.minimum, signal.maximum) if limit is not None]
            if not signal.is_float:
                ends += [
                    signal.raw_minimum * signal.scale + signal.offset,
                    signal.raw_maximum * signal.scale + signal.offset,
                ]
            options = [st.integers(-200, 2000), st.floats(-300, 3000), st.floats(width=32)]
            if ends:
                options += [st.sampled_from(ends), st.floats(float(min(ends)), float(max(ends))), st.sampled_from(ends)]
                options.append(st.sampled_from(ends).map(lambda end, step=signal.scale: end + step))
            if signal.choices:
                options += [
                    st.sampled_from(sorted(signal.choices.values())),
                    st.just("Nobody"),
                    st.sampled_from(sorted(signal.choices)),
                ]
            chosen[signal.name] = draw(st.one_of(options))
        for branch in node.branches:
            number = draw(st.sampled_from([*sorted(branch.nodes), 7]))
            chosen[branch.multiplexer.name] = number
            if number in branch.nodes:
                nodes.append(branch.nodes[number])
    what = 2 if complete else draw(st.integers(0, 30))
    if what == 0 and chosen:
        del chosen[draw(st.sampled_from(sorted(chosen)))]
    elif what == 1:
        chosen["Unknown"] = 1
    return chosen
