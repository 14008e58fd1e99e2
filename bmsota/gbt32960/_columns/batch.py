"""One batch of frames to columns and back."""

from __future__ import annotations

from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bmsota.checksums import bcc_xor
from bmsota.errors import FrameError, LocalProtocolError
from bmsota.gbt32960._codec import decode, encode
from bmsota.gbt32960._columns.header import are_identifiers, is_identifier, time_of, times_of
from bmsota.gbt32960._columns.late import late_group
from bmsota.gbt32960._columns.mixed import decode_mixed
from bmsota.gbt32960._columns.numbers import highest, lowest
from bmsota.gbt32960._columns.plan import Plan, plan_for, plan_of, same_layout, xor_of_rows
from bmsota.gbt32960._columns.values import FrameColumns, FrameGroup
from bmsota.gbt32960._enums import Edition
from bmsota.gbt32960._frame import FRAME_SIZE_BYTES_MAX, Frame
from bmsota.gbt32960._walk import BODIES_AT, REPORTS, VIN, VIN_SIZE, Unplannable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bmsota.gbt32960._columns.values import Array


_ALIKE_MIN: Final = 16
"""Frames of one layout for which a plan of their own is worth its price."""
_ONE_SIZE_MIN: Final = 48
"""Frames of one size, among others, for which it is worth looking whether they are alike."""
_SAMPLED_MAX: Final = 256
"""From here on they are not sampled: the first layout is looked for in all of them."""
_MIXED_MIN: Final = 16
"""Frames of many layouts for which the walk side by side is worth its price."""


def decode_batch(frames: Sequence[bytes] | bytes | bytearray | memoryview, offsets: Any = None) -> FrameColumns:
    """See `bmsota.gbt32960.decode_batch`."""
    if isinstance(frames, (bytes, bytearray, memoryview)):
        joined = bytes(frames)
        starts, sizes = _spans(len(joined), offsets)
        if len(sizes) < _ALIKE_MIN:
            return _few(
                [joined[start : start + size] for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)]
            )
        size = int(sizes[0])
        if starts[0] or not (sizes == size).all():
            return _Batch(joined, starts, sizes).columns()
        return _Batch(joined, None, None, len(sizes), size).columns()
    if offsets is not None:
        msg = "offsets: only for bytes, not for a sequence of frames"
        raise LocalProtocolError(msg)
    joined = b"".join(frames)
    count = len(frames)
    if count < _ALIKE_MIN:
        return _few([*map(bytes, frames)])
    size = len(frames[0])
    if size and size * count == len(joined) and _reach(frames, size):
        return _Batch(joined, None, None, count, size).columns()
    sizes = np.fromiter(map(len, frames), np.int64, count)
    return _Batch(joined, np.cumsum(sizes) - sizes, sizes).columns()


def _few(frames: list[bytes]) -> FrameColumns:
    batch = _Batch(b"", None, None)
    batch.few(range(len(frames)), frames)
    return batch.result(frames)


def _reach(frames: Sequence[bytes], size: int) -> bool:
    """Whether no frame is shorter than *size*: each has a byte there, which takes half as long as asking each for its length."""
    try:
        deque(map(itemgetter(size - 1), frames), maxlen=0)
    except IndexError:
        return False
    return True


def _spans(size: int, offsets: Any) -> tuple[Array, Array]:
    try:
        edges = np.asarray(() if offsets is None else offsets, np.int64)
    except (TypeError, ValueError, OverflowError):
        edges = np.empty(0, np.int64)
    sizes = edges[1:] - edges[:-1] if edges.ndim == 1 else edges
    if edges.ndim != 1 or not len(edges) or edges[0] < 0 or edges[-1] > size or (len(sizes) and sizes.min() < 0):
        msg = f"offsets: expected rising places in {size} bytes, one more than there are frames, got {offsets!r:.60}"
        raise LocalProtocolError(msg)
    return edges[:-1], sizes


class _Batch:
    """One call of `decode_batch`."""

    def __init__(self, joined: bytes, starts: Array | None, sizes: Array | None, count: int = 0, size: int = 0) -> None:
        self.joined = joined
        self.starts, self.sizes = starts, sizes
        self.count, self.size = count, size
        self.groups: list[FrameGroup] = []
        self.slow: list[int] = []
        self.mixed: list[Array] = []

    def frame(self, index: int) -> bytes:
        if self.starts is None or self.sizes is None:
            return self.joined[index * self.size : (index + 1) * self.size]
        start = int(self.starts[index])
        return self.joined[start : start + int(self.sizes[index])]

    def sort_by_size(self) -> Iterator[tuple[Array, Array]]:
        """The frames of each size that many have: their places, and their bytes, one row a frame. The rest is mixed."""
        octets = np.frombuffer(self.joined, np.uint8)
        if self.starts is None or self.sizes is None:
            if self.count:
                yield np.arange(self.count), octets[: self.count * self.size].reshape(self.count, self.size)
            return
        if not len(self.sizes):
            return
        order = np.argsort(self.sizes, kind="stable")
        sizes, firsts = np.unique(self.sizes[order], return_index=True)
        for size, index in zip(sizes.tolist(), np.split(order, firsts[1:]), strict=True):
            is_large = BODIES_AT < size <= FRAME_SIZE_BYTES_MAX and len(index) >= _ONE_SIZE_MIN
            if not is_large or (len(index) < _SAMPLED_MAX and not self.are_alike(index)):
                self.mixed.append(index)
                continue
            starts = self.starts[index]
            first, stop = int(starts[0]), int(starts[-1]) + size
            if stop - first == len(index) * size:  # One behind the other.
                yield index, octets[first:stop].reshape(len(index), size)
            else:
                yield index, octets[starts[:, None] + np.arange(size)]

    def are_alike(self, index: Array) -> bool:
        """Whether, by a look at four of them, most of a few frames of one size are laid out alike."""
        count = len(index)
        leader, *others = (self.frame(int(index[place])) for place in (0, count // 3, 2 * count // 3, count - 1))
        return sum(map(same_layout(leader), others)) > 1

    def columns(self) -> FrameColumns:
        for index, frames in self.sort_by_size():
            if frames.shape[1] <= BODIES_AT or frames.shape[1] > FRAME_SIZE_BYTES_MAX:
                self.slow.extend(index.tolist())
            else:
                self.one_size(index, frames)
        if self.mixed:
            self.many_sizes(np.sort(np.concatenate(self.mixed)))
        return self.result(None)

    def result(self, frames: Sequence[bytes] | None) -> FrameColumns:
        """What was found, and what `decode` says of the rest, which are in *frames* if they are not in this."""
        others: list[tuple[int, Frame]] = []
        errors: list[tuple[int, FrameError]] = []
        for place in sorted(self.slow):
            try:
                others.append((place, decode(self.frame(place) if frames is None else frames[place])))
            except FrameError as error:
                errors.append((place, error))
        if len(self.groups) > 1 and frames is None:  # A few frames are in order.
            self.groups.sort(key=lambda group: int(group.index[0]))
        return FrameColumns(groups=tuple(self.groups), others=tuple(others), errors=tuple(errors))

    def keep(self, index: Array, frames: Array, fit: Array) -> tuple[Array, Array]:
        """Go on with the rows that are *fit*; `decode` shall look at the others."""
        if fit.all():
            return index, frames
        self.slow.extend(index[~fit].tolist())
        return index[fit], frames[fit]

    def one_size(self, index: Array, frames: Array) -> None:
        """Group frames of one size: the first that is left leads, all that are laid out like it follow."""
        # Over everything, check byte included, the XOR is zero if it is right: the two start bytes cancel each other.
        wrong = xor_of_rows(frames)
        if np.count_nonzero(wrong):
            index, frames = self.keep(index, frames, wrong == 0)
        misses = 0
        while len(index) >= _ALIKE_MIN << 2 * misses:  # Each miss must be worth more frames than the last.
            leader = frames[0].tobytes()
            try:
                plan = plan_for(leader)
            except Unplannable:
                plan = None
            if plan is not None:
                gathered = plan.gather(frames)
                match = plan.matches(gathered)
                if match is None:
                    self.group(plan, index, frames, gathered)
                    return
                if np.count_nonzero(match) >= _ALIKE_MIN:
                    self.group(plan, index[match], frames[match], gathered[:, match])
                    index, frames = index[~match], frames[~match]
                    continue
            misses += 1
            self.mixed.append(index[:1])
            index, frames = index[1:], frames[1:]
        if len(index):
            self.mixed.append(index)

    def many_sizes(self, index: Array) -> None:
        """Decode frames of any layouts."""
        if self.starts is None or self.sizes is None:
            starts, sizes = index * self.size, np.full(len(index), self.size)
        else:
            starts, sizes = self.starts[index], self.sizes[index]
        fit = (sizes > BODIES_AT) & (sizes <= FRAME_SIZE_BYTES_MAX)
        if not fit.all():
            self.slow += index[~fit].tolist()
            index, starts, sizes = index[fit], starts[fit], sizes[fit]
        if len(index) < _MIXED_MIN:
            self.one_by_one(index)
            return
        data, ends = self.joined, starts + sizes
        if int(sizes.sum()) != len(data):  # Only these, one behind the other.
            data = b"".join([data[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)])
            ends = np.cumsum(sizes)
            starts = ends - sizes
        octets = np.frombuffer(data, np.uint8)
        # The XOR of a whole frame, see `one_size`.
        right = np.bitwise_xor.reduceat(octets, starts) == 0
        is_known = np.zeros(len(index), np.bool_)
        for edition in Edition:
            mark = np.frombuffer(edition.value, np.uint8)
            rows = np.flatnonzero(right & (octets[starts] == mark[0]) & (octets[starts + 1] == mark[1]))
            if not len(rows):
                continue
            is_known[rows] = True
            found = decode_mixed(data, starts[rows], ends[rows], index[rows], edition)
            self.groups += found.groups
            self.slow += index[rows[found.unfit]].tolist()
            self.one_by_one(index[rows[found.alone]])
        self.slow += index[~is_known].tolist()

    def one_by_one(self, index: Array) -> None:
        places = index.tolist()
        self.few(places, [self.frame(place) for place in places])

    def few(self, places: Sequence[int], frames: Sequence[bytes]) -> None:
        """Group a few frames by their skeletons, and give each group a plan."""
        found: dict[bytes, tuple[Plan, list[int], list[int]]] = {}
        plan = None
        for row, data in enumerate(frames):
            if plan is None or len(data) != plan.size or not plan.is_layout_of(data):
                try:
                    plan = plan_for(data)
                except Unplannable:
                    self.slow.append(places[row])
                    continue
            seconds = time_of(data)
            if seconds is None or data[2] not in REPORTS or bcc_xor(data) or not is_identifier(data[VIN]):
                self.slow.append(places[row])
                continue
            known = found.get(plan.skeleton)
            if known is None:
                found[plan.skeleton] = (plan, [row], [seconds])
            else:
                known[1].append(row)
                known[2].append(seconds)
        for plan, rows, times in found.values():
            every = len(rows) == len(frames)
            self.groups.append(
                late_group(
                    plan,
                    places if every else [places[row] for row in rows],
                    frames if every else [frames[row] for row in rows],
                    times,
                )
            )

    def group(self, plan: Plan, index: Array, frames: Array, gathered: Array) -> None:
        command = gathered[plan.command]
        octets = frames[:, VIN].copy()
        letters = octets.astype(np.uint32)
        seconds, fit = times_of(gathered.take(plan.time, axis=0))
        if highest(command) > REPORTS[1] or lowest(command) < REPORTS[0]:
            is_report = (command == REPORTS[0]) | (command == REPORTS[1])
            fit = is_report if fit is None else fit & is_report
        if highest(octets) >= 0x7F or lowest(octets) <= 0x20:
            are_good = are_identifiers(octets)
            fit = are_good if fit is None else fit & are_good
        if fit is not None and not fit.all():
            seconds, letters, gathered, command = seconds[fit], letters[fit], gathered[:, fit], command[fit]
            index, frames = self.keep(index, frames, fit)
            if not len(index):
                return
        values, marks = plan.decode(frames, gathered)
        self.groups.append(
            FrameGroup(
                edition=plan.edition,
                skeleton=plan.skeleton,
                index=index,
                command=command.copy(),
                vin=letters.view(f"=U{VIN_SIZE}")[:, 0],
                time=seconds.view("datetime64[s]"),
                values=values,
                marks=marks,
            )
        )


def encode_batch(columns: FrameColumns, *, strict: bool = False, raw: bool = False) -> list[bytes]:
    """See `bmsota.gbt32960.encode_batch`."""
    found: list[tuple[Array, list[bytes]]] = []
    for group in columns.groups:
        try:
            plan = plan_of(group.skeleton)
        except Unplannable:
            msg = f"skeleton: expected a report that has columns, got {group.skeleton[:40].hex(' ')}"
            raise LocalProtocolError(msg) from None
        found.append((group.index, plan.encode(group, strict, raw).view(f"V{plan.size}")[:, 0].tolist()))
    if columns.others:
        others = [encode(frame, strict=strict) for _, frame in columns.others]
        found.append((np.array([index for index, _ in columns.others], np.int64), others))
    if not found:
        return []
    index = np.concatenate([part[0] for part in found])
    frames = [frame for part in found for frame in part[1]] if len(found) > 1 else found[0][1]
    if bool((index[1:] > index[:-1]).all()):
        return frames
    return [frames[place] for place in np.argsort(index, kind="stable")]
