"""Plans: where everything stands in the frames of one layout, made once and kept."""

from __future__ import annotations

from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._columns.few import FewFrames
from bmsota.gbt32960._columns.header import bytes_of_times, check_header
from bmsota.gbt32960._columns.numbers import Narrow, NumberList, Scalars, Wide, sign_position, unsigned_position
from bmsota.gbt32960._enums import Edition
from bmsota.gbt32960._walk import TIME, VIN, Unplannable, Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from bmsota.gbt32960._columns.values import FrameGroup

    Array = NDArray[Any]


class Plan:
    """Where everything stands in the frames of one layout."""

    def __init__(self, data: bytes) -> None:
        walk = Walk(data)
        self.edition = Edition(data[:2])
        self.size = len(data)
        self.skeleton = skeleton_of(data, walk.fixed)
        self.names = tuple(slot.name for slot in walk.slots)
        self.positions = tuple(walk.positions)
        self.lists = [NumberList(slot) for slot in walk.slots if slot.count is not None]
        singles = [slot for slot in walk.slots if slot.count is None]
        places = {place for slot in singles for place in range(slot.at, slot.at + slot.row.size_bytes)}
        self.runs = _runs({*walk.fixed, 2, *range(TIME.start, TIME.stop), *places})
        firsts = [place for run in self.runs for place in range(run.start, run.stop, 2)]
        self.pairs = len(firsts)
        self.row_of = {place: row for row, place in enumerate(firsts)}
        self.row_of.update({place + 1: row + self.pairs for row, place in enumerate(firsts)})
        # Rows of the gather.
        self.fixed = np.array([self.row_of[place] for place in walk.fixed], np.intp)
        self.expected = np.array([[data[place]] for place in walk.fixed], np.uint8)
        self.command = self.row_of[2]
        self.time = np.array([self.row_of[place] for place in range(TIME.start, TIME.stop)], np.intp)
        self.filling = np.frombuffer(
            bytes(self.skeleton[place] for place in sorted(self.row_of, key=self.row_of.__getitem__)), np.uint8
        )[:, None]
        self.scalars: list[Scalars] = []
        self.singles: list[Wide | Narrow] = []
        for size in (4, 2, 1):
            slots = [slot for slot in singles if slot.row.size_bytes == size]
            if slots:
                self.scalars.append(Scalars(slots, size, self.row_of))
                if size == 4:
                    self.singles.append(Wide(slots, self.size))
        narrow = [slot for slot in singles if slot.row.size_bytes < 4]
        if narrow:
            self.singles.append(Narrow(narrow, self.row_of))
        self._slots = walk.slots
        self._pick = itemgetter(*walk.fixed)
        self._picked = self._pick(data)

    @cached_property
    def few(self) -> FewFrames:
        return FewFrames(self._slots)

    def is_layout_of(self, data: bytes) -> bool:
        """Whether one frame of this plan's size is laid out like this."""
        return bool(self._pick(data) == self._picked)

    def gather(self, frames: Array) -> Array:
        """Every byte that is no part of a list, a row for each place and a column for each frame.

        Two bytes at a time are turned, then parted: turning costs by the element, parting is vectorised.
        """
        pairs = np.empty((self.pairs, len(frames)), _PAIR)
        for begin in range(0, len(frames), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            row = 0
            for run in self.runs:
                stop = row + (run.stop - run.start) // 2
                pairs[row:stop, block] = frames[block, run].view(_PAIR).T
                row = stop
        out = np.empty((len(self.row_of), len(frames)), np.uint8)
        out[: self.pairs] = pairs  # The lower eight bits.
        pairs >>= 8
        out[self.pairs :] = pairs
        return out

    def scatter(self, gathered: Array, frames: Array) -> None:
        """The inverse of `gather`."""
        pairs = gathered[self.pairs :].astype(_PAIR)
        pairs <<= 8
        pairs |= gathered[: self.pairs]
        for begin in range(0, len(frames), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            row = 0
            for run in self.runs:
                stop = row + (run.stop - run.start) // 2
                frames[block, run].view(_PAIR)[...] = pairs[row:stop, block].T
                row = stop

    def matches(self, gathered: Array) -> Array | None:
        """Which of the frames, as `gather` gives them, are laid out like this; None if all are."""
        equal = gathered.take(self.fixed, axis=0) == self.expected
        return None if np.count_nonzero(equal) == equal.size else equal.all(axis=0)

    def decode(self, frames: Array, gathered: Array | None) -> tuple[dict[str, Array], dict[str, Array]]:
        """Columns and marks; of *gathered* bytes, or if there are none in the way of few frames."""
        values: dict[str, Array] = {}
        marks: dict[str, Array] = {}
        if gathered is None:
            self.few.decode(frames, values, marks)
        else:
            for singles in self.singles:
                singles.decode(frames, gathered, values, marks)
            for item in self.lists:
                item.decode(frames, values, marks)
        for name in self.positions:
            sign_position(name, values, marks)
        return values, marks

    def encode(self, group: FrameGroup, strict: bool, raw: bool) -> Array:
        values: Mapping[str, Array] = group.values
        if raw:
            if group.marks:
                msg = f"marks: expected none with raw=True, whose numbers say it themselves, got {min(group.marks)!r}"
                raise LocalProtocolError(msg)
        else:
            for name in self.positions:
                values = unsigned_position(name, values, group.marks)
        missing = [name for name in self.names if name not in values]
        unknown = sorted((values.keys() | group.marks.keys()).difference(self.names))
        if missing or unknown:
            msg = (
                f"columns: no {missing[0]!r}, which is in the layout"
                if missing
                else f"columns: {unknown[0]!r} is not in the layout"
            )
            raise LocalProtocolError(msg)
        count = len(group)
        gathered = np.empty((len(self.row_of), count), np.uint8)
        gathered[...] = self.filling
        for scalars in self.scalars:
            if raw:
                scalars.encode_raw(gathered, values, strict)
            else:
                scalars.encode(gathered, values, group.marks, strict)
        vin = check_header(group)
        gathered[self.command] = group.command
        gathered[self.time] = bytes_of_times(group.time)
        frames = np.empty((count, self.size), np.uint8)
        self.scatter(gathered, frames)
        frames[:, VIN] = vin
        for item in self.lists:
            if raw:
                item.encode_raw(frames, values, strict)
            else:
                item.encode(frames, values, group.marks, strict)
        frames[:, -1] = 0
        frames[:, -1] = xor_of_rows(frames)  # The two start bytes cancel each other.
        return frames


_PAIR: Final = np.dtype("<u2")
_BLOCK: Final = 500
"""Frames that are turned at a time. A thousand columns of one byte each are in as many cache lines, which the cache does not
hold; half of them takes half as long."""


_GAP_MAX: Final = 4
"""Bytes of a list that are rather copied too than that a new run is begun."""


def _runs(places: set[int]) -> list[slice]:
    """Cover *places* with few slices of whole pairs. What is behind the last place, the check byte, may be in one."""
    runs: list[slice] = []
    for place in sorted(places):
        if runs and place - runs[-1].stop <= _GAP_MAX:
            runs[-1] = slice(runs[-1].start, place + 1)
        else:
            runs.append(slice(place, place + 1))
    return [slice(run.start & ~1, (run.stop + 1) & ~1) for run in runs]


def xor_of_rows(frames: Array) -> Array:
    """The XOR of all bytes of each row: as `bitwise_xor.reduce(axis=1)`, which takes three times as long."""
    found: Array = np.bitwise_xor.reduceat(frames.ravel(), np.arange(0, frames.size, frames.shape[1]))
    return found


def skeleton_of(data: bytes, fixed: list[int]) -> bytes:
    kept = bytearray(len(data))
    for place in fixed:
        kept[place] = data[place]
    return bytes(kept)


_PLANS_MAX: Final = 256
"""Plans that are kept, some 10 kB each. A fleet has a layout per model and state; beyond this all are forgotten and made again."""


_SAME_SIZE_MAX: Final = 8
"""Plans of one frame size that are compared one after another, the latest; walking the frame costs as much as some twenty."""


_plans: dict[int, list[Plan]] = {}
"""By frame size, the latest first."""


_plans_by_skeleton: dict[bytes, Plan] = {}


def plan_for(data: bytes) -> Plan:
    """Return the plan for a frame, made if need be.

    Raises:
        Unplannable: such frames have no columns.
    """
    return _known(data) or plan_of(skeleton_of(data, Walk(data).fixed))


def _known(data: bytes) -> Plan | None:
    for plan in _plans.get(len(data), [])[:_SAME_SIZE_MAX]:
        if plan.is_layout_of(data):
            return plan
    return None


def same_layout(data: bytes) -> Callable[[bytes], bool]:
    """A test whether other frames of this size are laid out like *data*, without making a plan; never, if such frames have none."""
    plan = _known(data)
    if plan is not None:
        return plan.is_layout_of
    try:
        pick = itemgetter(*Walk(data).fixed)
    except Unplannable:
        return lambda _other: False
    picked = pick(data)
    return lambda other: bool(pick(other) == picked)


def plan_of(data: bytes) -> Plan:
    """Make the plan for frames like *data*, or find it.

    Raises:
        Unplannable: such frames have no columns.
    """
    found = _plans_by_skeleton.get(data)
    if found is None:
        plan = Plan(data)
        found = _plans_by_skeleton.get(plan.skeleton)
        if found is None:
            if len(_plans_by_skeleton) >= _PLANS_MAX:
                _plans.clear()
                _plans_by_skeleton.clear()
            found = _plans_by_skeleton[plan.skeleton] = plan
            _plans.setdefault(plan.size, []).insert(0, plan)
    return found
