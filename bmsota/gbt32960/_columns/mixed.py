"""Reports of many layouts at once: what they share is not the frame but its bodies.

A plan (`plan`) is worth its price where many frames are laid out alike. A batch of reports whose fault lists differ has a few
frames of each of many layouts, and the price of NumPy's calls is paid for each. Here it is paid for the batch: all frames of an
edition are walked side by side, each with a place of its own, one row of a layout's table at a time; then the numbers of one size
are converted in one piece, whichever frame, body and list they stand in. What is left for each layout is to cut its columns
out of that piece, and its frames stand one behind the other there.

What the walk finds is what `_walk.Walk` finds for one frame, and tests hold the two together. Frames that cannot have columns
are left to `decode`; frames with more parts than the walk wants to follow are left to `Walk` and a plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from bmsota.gbt32960._bodies import Signature
from bmsota.gbt32960._columns.header import are_identifiers, times_of
from bmsota.gbt32960._columns.numbers import UNSIGNED, marks_of, sign_position
from bmsota.gbt32960._columns.values import FrameGroup
from bmsota.gbt32960._enums import Encryption, ReplyFlag
from bmsota.gbt32960._fields import Field, FixedBytes, Layout, Repeat, SizedBytes
from bmsota.gbt32960._frame import HEADER_SIZE_BYTES
from bmsota.gbt32960._sized import USER_DEFINED
from bmsota.gbt32960._tables import BODY_LAYOUTS, EXTENSION_BODY_LAYOUTS
from bmsota.gbt32960._walk import (
    BODIES_AT,
    OCTET,
    POSITION_ROWS,
    REPORTS,
    TIME,
    VIN,
    VIN_SIZE,
    body_name,
    is_integer,
)

if TYPE_CHECKING:
    from bmsota.gbt32960._columns.values import Array
    from bmsota.gbt32960._enums import Edition


_BODIES_MAX: Final = 40
"""Bodies of a report that are followed: each step costs the batch the same, however few frames still take part. The standard
has twelve kinds; a frame of 20,000 empty bodies must not make 20,000 steps."""
_PARTS_MAX: Final = 16
"""Motors, subsystems, packs of a body that are followed, for the same reason."""


class Mixed(NamedTuple):
    """What became of the frames: numbers are rows of what `decode_mixed` was given."""

    groups: list[FrameGroup]
    unfit: Array
    """`decode` shall look at these."""
    alone: Array
    """And these are to be walked one by one."""


def decode_mixed(data: bytes, starts: Array, ends: Array, index: Array, edition: Edition) -> Mixed:
    """Decode reports of one edition that stand in *data*, right check bytes provided.

    Args:
        data: frames, and perhaps others between them.
        starts: int64, where each frame begins.
        ends: int64, where each ends.
        index: int64, the places of the frames in the batch, rising.
        edition: of all of them.
    """
    octets = np.frombuffer(data, np.uint8)
    head = octets[starts[:, None] + _HEAD]
    seconds, fit = times_of(np.ascontiguousarray(head[:, TIME].T))
    letters = head[:, VIN].astype(np.uint32)
    fit = are_identifiers(letters) if fit is None else fit & are_identifiers(letters)
    command = head[:, 2]
    fit &= (command == REPORTS[0]) | (command == REPORTS[1])
    fit &= (head[:, 3] == ReplyFlag.COMMAND) & (head[:, 21] == Encryption.NONE)
    length = (head[:, 22].astype(np.int64) << 8) | head[:, 23]
    fit &= length + (HEADER_SIZE_BYTES + 1) == ends - starts
    walk = _SideBySide(octets, starts, ends - 1, fit, edition)
    walk.run()

    skeletons, group_of = _grouped(walk, data, starts, ends)
    order = np.argsort(group_of, kind="stable")[np.count_nonzero(group_of < 0) :]
    edges = np.searchsorted(group_of[order], np.arange(len(skeletons) + 1)).tolist()
    columns = _Columns(octets, group_of, order, len(skeletons))
    columns.fill(walk)
    index, command = index[order], command[order]
    vin = letters[order].view(f"=U{VIN_SIZE}")[:, 0]
    time = seconds[order].view("datetime64[s]")
    groups = [
        FrameGroup(
            edition=edition,
            skeleton=skeleton,
            index=index[begin:end],
            command=command[begin:end],
            vin=vin[begin:end],
            time=time[begin:end],
            values=values,
            marks=marks,
        )
        for skeleton, (begin, end), values, marks in zip(
            skeletons, pairwise(edges), columns.values, columns.marks, strict=True
        )
    ]
    return Mixed(groups, np.flatnonzero(~walk.fit & ~walk.alone), np.flatnonzero(walk.alone))


_HEAD: Final = np.arange(BODIES_AT)
_HEAD_FIXED: Final = np.array([0, 1, 3, 21, 22, 23])
"""What of the header belongs to the skeleton: start, reply flag, encryption, length."""


def _grouped(walk: _SideBySide, data: bytes, starts: Array, ends: Array) -> tuple[list[bytes], Array]:
    """The skeletons of all frames that are fit, and of each frame the number of its own; -1 for others."""
    kept = np.zeros(len(data), np.uint8)
    for fixed in (*walk.fixed, (starts[:, None] + _HEAD_FIXED).ravel()):
        kept[fixed] = walk.octets[fixed]
    whole = kept.tobytes()
    group_of = np.full(len(starts), -1, np.int64)
    found: dict[bytes, int] = {}
    rows = np.flatnonzero(walk.fit)
    group_of[rows] = [
        found.setdefault(whole[start:end], len(found))
        for start, end in zip(starts[rows].tolist(), ends[rows].tolist(), strict=True)
    ]
    return list(found), group_of


@dataclass(slots=True, eq=False)
class _Found:
    """One number or list of numbers, in all frames that have it."""

    row: Field
    is_list: bool
    parts: list[tuple[Array, Array, Array | None]]
    """Rows of frames, where it stands in each, and how many numbers."""


class _SideBySide:
    """The walk of `_walk.Walk`, of many frames at once."""

    def __init__(self, octets: Array, starts: Array, ends: Array, fit: Array, edition: Edition) -> None:
        self.octets = octets
        self.at = starts + BODIES_AT
        self.ends = ends
        self.fit = fit
        """Frames that can have columns, as far as is known."""
        self.alone = np.zeros(len(fit), np.bool_)
        """Frames that have too many parts for this walk."""
        self.layouts = BODY_LAYOUTS[edition]
        self.fixed: list[Array] = []
        self.found: dict[str, _Found] = {}
        self.positions: dict[str, None] = {}
        self.seen: dict[str, Array] = {}

    def run(self) -> None:
        for _ in range(_BODIES_MAX):
            rows = np.flatnonzero(self.fit & (self.at < self.ends))
            if not len(rows):
                break
            at = self.at[rows]
            self.fixed.append(at)
            types = self.octets[at]
            for type_id in sorted(set(types.tolist())):
                self.bodies(type_id, rows[types == type_id])
        self.leave_alone(np.flatnonzero(self.fit & (self.at < self.ends)))
        self.fit &= self.at == self.ends

    def leave_alone(self, rows: Array) -> None:
        self.alone[rows] = True
        self.fit[rows] = False

    def bodies(self, type_id: int, rows: Array) -> None:
        """The next body of all these frames, which is of one type."""
        layout = self.layouts.get(type_id)
        if layout is None and (type_id not in USER_DEFINED or type_id in EXTENSION_BODY_LAYOUTS):
            self.fit[rows] = False
            return
        stem = body_name(type_id, layout)
        seen = self.seen.get(stem)
        if seen is None:
            seen = self.seen[stem] = np.zeros(len(self.fit), np.int64)
        seen[rows] += 1
        times = seen[rows]
        for nth in range(int(times.min()), int(times.max()) + 1):
            part = rows[times == nth]
            if not len(part):
                continue
            name = stem if nth == 1 else f"{stem}_{nth}"
            at = self.at[part] + 1
            self.at[part] = (
                self.sized(part, f"{name}.data", at) if layout is None else self.layout(part, layout, name, at)
            )
            if layout is not None and layout.cls is Signature:  # What stands behind it would not be signed.
                self.fit[part] &= self.at[part] == self.ends[part]

    def structural(self, rows: Array, at: Array, size: int) -> Array:
        """A number that says how the frame is laid out. Of a frame that ends before, it means nothing, and the frame is unfit."""
        inside = at + size <= self.ends[rows]
        if not inside.all():
            self.fit[rows[~inside]] = False
            at = np.where(inside, at, 0)
        number: Array = np.zeros(len(rows), np.int64)
        for place in range(size):
            number = (number << 8) | self.octets[at + place]
            self.fixed.append(at[inside] + place)
        return number

    def add(self, name: str, row: Field, rows: Array, at: Array, counts: Array | None = None) -> None:
        found = self.found.get(name)
        if found is None:
            found = self.found[name] = _Found(row, counts is not None, [])
        found.parts.append((rows, at, counts))

    def sized(self, rows: Array, name: str, at: Array, size_min: int = 0, size_max: int = 0xFFFF) -> Array:
        size = self.structural(rows, at, 2)
        self.fit[rows] &= (size >= size_min) & (size <= size_max)
        self.add(name, OCTET, rows, at + 2, size)
        return at + 2 + size

    def layout(self, rows: Array, layout: Layout, name: str, at: Array) -> Array:
        if layout.build is not None:
            if not {getattr(row, "name", "") for row in layout.rows} >= POSITION_ROWS:
                self.fit[rows] = False
                return at
            self.positions[name] = None
        for row in layout.rows:
            match row:
                case Field():
                    self.add(f"{name}.{row.name}", row, rows, at)
                    at = at + row.size_bytes
                case SizedBytes():
                    at = self.sized(rows, f"{name}.{row.name}", at, row.size_bytes_min, row.size_bytes_max)
                case FixedBytes():
                    self.add(f"{name}.{row.name}", OCTET, rows, at, np.full(len(rows), row.size_bytes))
                    at = at + row.size_bytes
                case Repeat():
                    at = self.repeat(rows, row, f"{name}.{row.name}", name, at)
                case _:
                    self.fit[rows] = False
        return at

    def repeat(self, rows: Array, row: Repeat, own_name: str, name: str, at: Array) -> Array:
        count = self.structural(rows, at, row.count_size_bytes)
        at = at + row.count_size_bytes
        if row.sentinels:
            said = count <= row.count_limit
            if not said.all():  # Such a count is a part of the skeleton, and nothing else.
                if said.any():
                    at[said] = self.items(rows[said], row, own_name, name, at[said], count[said])
                return at
        return self.items(rows, row, own_name, name, at, count)

    def items(self, rows: Array, row: Repeat, own_name: str, name: str, at: Array, count: Array) -> Array:
        if isinstance(row.item, Field):
            self.add(own_name, row.item, rows, at, count)
            behind: Array = at + count * row.item.size_bytes
            return behind
        many = count > _PARTS_MAX
        if many.any():
            self.leave_alone(rows[many & self.fit[rows]])
        at = at.copy()
        for place in range(1, int(count.max()) + 1):
            more = (count >= place) & self.fit[rows]
            if not more.any():
                break
            at[more] = self.layout(rows[more], row.item, f"{name}.{place}", at[more])
        return at


class _Sorted(NamedTuple):
    """How the rows of a number are brought into the order of the groups, and which group has which of them."""

    order: Array
    groups: list[int]
    edges: list[int]


class _Columns:
    """The columns of all groups, cut out of few arrays."""

    def __init__(self, octets: Array, group_of: Array, order: Array, count: int) -> None:
        self.octets = octets
        self.group_of = group_of
        self.rank = np.full(len(group_of), -1, np.int64)
        self.rank[order] = np.arange(len(order))
        self.values: list[dict[str, Array]] = [{} for _ in range(count)]
        self.marks: list[dict[str, Array]] = [{} for _ in range(count)]
        self._sorted: dict[tuple[int, ...], _Sorted] = {}

    def sorted(self, found: _Found) -> _Sorted:
        """Numbers of one body stand in the same frames, which are sorted once."""
        key = tuple(id(rows) for rows, _, _ in found.parts)  # The rows live as long as the walk.
        known = self._sorted.get(key)
        if known is None:
            rows = np.concatenate([part[0] for part in found.parts])
            rank = self.rank[rows]
            order = np.argsort(rank)[np.count_nonzero(rank < 0) :]
            groups = self.group_of[rows[order]]
            edges = np.flatnonzero(groups[1:] != groups[:-1]) + 1
            firsts = np.concatenate([[0], edges]) if len(groups) else edges
            known = _Sorted(order, groups[firsts].tolist(), [*firsts.tolist(), len(groups)])
            self._sorted[key] = known
        return known

    def fill(self, walk: _SideBySide) -> None:
        values: dict[str, Array] = {}
        marks: dict[str, Array] = {}
        kept = {name: known for name, found in walk.found.items() if (known := self.sorted(found)).groups}
        counts: dict[str, list[int]] = {}
        for size in (4, 2, 1):
            here = [name for name in kept if walk.found[name].row.size_bytes == size]
            if here:
                self.convert(size, {name: walk.found[name] for name in here}, values, marks, counts)
        for name in walk.positions:
            status = f"{name}.status"
            if status in kept:
                sign_position(name, values, marks)
                kept[f"{name}.valid"] = kept[f"{name}.reserved_bits"] = kept[status]
        for name, column in values.items():
            self.part(name, column, marks.get(name), kept[name], counts.get(name))

    def convert(
        self,
        size: int,
        here: dict[str, _Found],
        values: dict[str, Array],
        marks: dict[str, Array],
        counts: dict[str, list[int]],
    ) -> None:
        """All numbers of one size, lists and single ones."""
        names = sorted(here, key=lambda name: (is_integer(here[name].row), here[name].is_list))
        pieces = []
        for name in names:
            found, order = here[name], self.sorted(here[name]).order
            at = np.concatenate([part[1] for part in found.parts])[order]
            if found.is_list:
                count = np.concatenate([part[2] for part in found.parts if part[2] is not None])[order]
                firsts = np.cumsum(count) - count
                at = np.repeat(at - firsts * size, count) + np.arange(int(count.sum())) * size
                counts[name] = count[self.sorted(found).edges[:-1]].tolist()
            pieces.append(at)
        lengths = np.array([len(piece) for piece in pieces])
        ends = np.cumsum(lengths).tolist()
        places = np.concatenate(pieces)
        raw = self.octets[places].astype(UNSIGNED[size], copy=False)
        for place in range(1, size):
            raw <<= 8
            raw |= self.octets[places + place]
        rows = [here[name].row for name in names if not is_integer(here[name].row)]
        real = ends[len(rows) - 1] if rows else 0
        out = raw[:real].astype(np.float64 if size == 4 else np.float32)
        missing = None
        if real:
            spans = lengths[: len(rows)]
            if any(row.raw_offset for row in rows):
                out -= np.repeat(np.array([row.raw_offset for row in rows], out.dtype), spans)
            if any(row.divisor != 1 for row in rows):
                out /= np.repeat(np.array([row.divisor for row in rows], out.dtype), spans)
            over = raw[:real] > np.repeat(np.array([row.raw_limit for row in rows], raw.dtype), spans)
            if over.any():
                missing = over
                out[over] = np.nan
        for place, (name, end) in enumerate(zip(names, ends, strict=True)):
            begin = end - int(lengths[place])
            values[name] = out[begin:end] if place < len(rows) else raw[begin:end]
            if missing is not None and place < len(rows) and missing[begin:end].any():
                marks[name] = marks_of(raw[begin:end], missing[begin:end], here[name].row)

    def part(self, name: str, column: Array, mark: Array | None, known: _Sorted, counts: list[int] | None) -> None:
        """Give each group its own rows of a column."""
        edges = known.edges
        if counts is None:
            for group, (begin, end) in zip(known.groups, pairwise(edges), strict=True):
                self.values[group][name] = column[begin:end]
                if mark is not None and mark[begin:end].any():
                    self.marks[group][name] = mark[begin:end]
            return
        first = 0
        for group, (begin, end), count in zip(known.groups, pairwise(edges), counts, strict=True):
            shape = (end - begin, count)
            last = first + shape[0] * count
            self.values[group][name] = column[first:last].reshape(shape)
            if mark is not None and mark[first:last].any():
                self.marks[group][name] = mark[first:last].reshape(shape)
            first = last
