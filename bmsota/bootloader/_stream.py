"""The flasher's side of a stream of blocks: what to send next, to one node or to many at once.

Strategy. Blocks go out one behind the other, each with its CheckBlock. Every few blocks a CheckBlock requests a report.
While the reports are on their way the next blocks go out: as long as the window has room nothing waits. A report
says what the node misses; what any of the nodes misses is sent again once, between two blocks: when all have reported, or
when the window is full and those that have not reported are being polled again. A node that does not answer,
or answers that it has lost its place, is left behind, and the others continue.

The window (blocks beyond the slowest node's first incomplete one) begins small and doubles with every report up to what the
nodes can hold; when much is missing, pauses between the frames are tried (`_pace`). Reports are requested twice a window,
so that the second half goes out while the first is reported; less often as long as nothing is missing (`_reports`).

There is one question under way at a time. It is repeated to each node that has not answered; a report names the block it is
about, so that a late one is not taken for an early one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from zlib import crc32

from bmsota.bootloader._messages import (
    BLOCK_NUMBERS,
    CHECK_FRAME,
    OFFER_BLOCK,
    SEGMENT_FRAMES,
    BitmapReply,
    ListReply,
    PendingReply,
    ReportReply,
    Request,
    ResultReply,
)
from bmsota.bootloader._pace import Pace
from bmsota.bootloader._reports import ReportInterval
from bmsota.node import CAUSE_OF_RESULT, FailureCause, NodeCommand, ResultCode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bmsota.bootloader._messages import Reply
    from bmsota.bootloader._timing import BootloaderTiming
    from bmsota.bootloader._wire import BootloaderWire
    from bmsota.canframe import CanFrame


_MS = 1_000_000
# With pauses between frames, as many go out at once as should take this long: a driver's thread sleeps no shorter.
_PACED_BURST_NS = 500_000
# A list that is lost once is requested again; a node that cannot say what it misses gets a whole block.
_REPORTS_BLIND_MAX = 1
# With much loss, the part of a window after which it is asked before the next block what became of a repair.
_EARLY_PART = 6
# So many of them are few: polled alone they take less time than a report of all.
_FEW = 4
# A few times what was measured before is late.
_USUAL_GAPS, _USUAL_REPLIES = 2, 4


@dataclass(frozen=True, slots=True)
class StreamProgressed:
    """The node has stored the image up to `stored_offset`."""

    position: int
    stored_offset: int


@dataclass(frozen=True, slots=True)
class StreamRepeated:
    """The node missed this many frames; they are sent again."""

    position: int
    frames: int


@dataclass(frozen=True, slots=True)
class StreamCompleted:
    """The node has everything."""

    position: int


@dataclass(frozen=True, slots=True)
class StreamLost:
    """The node has fallen silent or lost its place, and gets nothing more."""

    position: int
    detail: str
    is_damaged: bool = False
    """Whether the node could make nothing of what it got, though its CRCs were right."""
    cause: FailureCause | None = None
    """Why sending it again cannot help; None: it can."""


StreamEvent: TypeAlias = StreamProgressed | StreamRepeated | StreamCompleted | StreamLost


class _Receiver:
    """What is known of one node."""

    __slots__ = (
        "asked_repair",
        "deadline_ns",
        "doubt",
        "has_more_time",
        "is_waiting",
        "missing",
        "next_block",
        "pending_left",
        "polls_unheard",
        "reports_blind",
        "rounds_left",
        "tries_left",
    )

    def __init__(self, rounds: int) -> None:
        self.next_block = 0
        self.missing: set[tuple[int, int]] = set()
        self.reports_blind = 0
        """Reports in a row that said that something is missing, but not what."""
        self.rounds_left = rounds
        self.is_waiting = False
        self.asked_repair = 0
        """Repairs up to this one had been sent when it was last polled."""
        self.has_more_time = False
        """Whether it has been given more time than the others: it was polled again, or has said that it needs it."""
        self.deadline_ns: int | None = None
        self.doubt = ""
        """What it has said to this question instead of an answer."""
        self.tries_left = 0
        self.polls_unheard = 0
        """How often it has been polled since it was last heard."""
        self.pending_left = 0


class BlockStream:
    """Sends *data*, which begins at *offset* of the image, to the nodes at *positions*.

    *node* is how they are addressed together: the position of the only one, or a group.
    """

    def __init__(
        self,
        wire: BootloaderWire,
        *,
        node: int,
        positions: Iterable[int],
        data: bytes,
        offset: int,
        block_frames: int,
        window_blocks: int,
        timing: BootloaderTiming,
        crc_start: int = 0,
    ) -> None:
        assert data
        self._wire = wire
        self._node = node
        self._timing = timing
        self._data = data
        self._offset = offset
        self._crc_start = crc_start
        self._block_frames = block_frames
        self._block_bytes = block_frames * wire.data_bytes
        self.blocks = -(-len(data) // self._block_bytes)
        self._reports = ReportInterval()
        self._has_stalled = False
        """Whether the window was full before all had answered the question under way."""
        self._receivers = {position: _Receiver(timing.rounds_max) for position in positions}
        self._pace = Pace(timing, window_blocks, nodes=len(self._receivers))
        self._events: deque[StreamEvent] = deque()
        self._out: deque[CanFrame] = deque()
        self._burst_due_ns = 0
        self._next_block = 0
        """Blocks before this one have been sent."""
        self._asked: int | None = None
        """The block a report is wanted of."""
        self._ask_frame: CanFrame | None = None
        """The question, until it has been handed out: only then the time for its answer runs."""
        self._asked_ns = self._asked_before_ns = 0
        self._left_ns = 0
        """When the driver wanted more behind the question: one that waits until all is sent is not charged what went before it."""
        self._is_leaving = False
        """Whether that is still to come."""
        self._is_repeated = False
        """Whether any node has been polled twice."""
        self._round_trip_ns: int | None = None
        """From the question to the slowest report, smoothed."""
        self._members = len(self._receivers)
        """Nodes that answer when all are asked, those that have everything included."""
        self._is_group = self._members > 1
        self._is_for_few = False
        """Whether the question under way is one to a few nodes."""
        self._first_reply_ns: int | None = None
        """From the question to the first reply, smoothed."""
        self._reply_ns: int | None = None
        """When the last reply to the question under way came, if one has come."""
        self._gap_ns = 0
        """The longest time between two replies to this question."""
        self._gap_usual_ns: int | None = None
        """The same of the questions before, smoothed."""
        self._blocks_since_ask = 0
        self._frames_since_ask = 0
        self._frames_asked = 0
        """Frames that the question under way is about: sent since the question before."""
        self._judged_ns: int | None = None
        self._judged_block = 0
        """Blocks before this one have been reported at least once."""
        self._asked_before = -1
        """The last of the blocks that all have reported at least twice."""
        self._lost_max = 0
        """Frames behind those that a node has missed at the first try, at most."""
        self._frames_since_report = 0
        self._repairs: set[tuple[int, int]] = set()
        self._repair_count = 0
        self._repaired_in: dict[tuple[int, int], int] = {}
        """The repair in which a frame was last sent, of those sent since the question under way."""
        self._polls: list[CanFrame] = []
        """Questions to single nodes that must wait until a repair has gone out: a CheckBlock would end it."""
        self._is_repairing = False
        """Whether what waits to go out is a repair."""
        self._must_open = True

    # ---- the driver's side

    @property
    def finished(self) -> bool:
        """Whether every node has everything or has been left behind."""
        return not self._receivers

    def receive(self, reply: Reply, now_ns: int) -> None:
        """Take what a node says."""
        receiver = self._receivers.get(reply.position)
        asked = self._asked
        if receiver is None or asked is None or not receiver.is_waiting or self._ask_frame is not None:
            return  # Late, or about a question before this one.
        number = asked % BLOCK_NUMBERS
        self._hear_one(receiver, now_ns)
        if isinstance(reply, BitmapReply):
            if reply.block != OFFER_BLOCK:
                block = self._absolute(reply.block)
                first = reply.segment * SEGMENT_FRAMES
                receiver.missing |= {(block, first + bit) for bit in range(SEGMENT_FRAMES) if reply.bitmap >> bit & 1}
        elif isinstance(reply, ListReply):
            if reply.block == number:
                receiver.missing |= {(asked - age, frame) for age, frame in reply.entries}
        elif isinstance(reply, ReportReply):
            if reply.block == number and (next_block := self._absolute(reply.next_block)) >= receiver.next_block:
                self._reported(reply, receiver, next_block)
                self._measure(now_ns, receiver)
            elif reply.block == number:
                # A late copy of an earlier report; or the node has lost its place, then it says so until its tries are used up.
                receiver.doubt = f"expected block {receiver.next_block} or later next, got {reply.next_block}"
        elif isinstance(reply, PendingReply):
            if (reply.tag, reply.command) == (number, NodeCommand.CHECK_BLOCK) and receiver.pending_left:
                receiver.pending_left -= 1
                receiver.has_more_time = True
                receiver.deadline_ns = now_ns + reply.wait_ms * _MS + self._timing.report_timeout_ns
        elif (
            isinstance(reply, ResultReply)
            and (reply.tag, reply.command) == (number, NodeCommand.CHECK_BLOCK)
            and reply.code != ResultCode.OK
        ):
            codes = {int(code): code for code in ResultCode}
            code = codes.get(reply.code)
            detail = f"CHECK_BLOCK: {reply.code if code is None else code.name}"
            cause = None if code is None else CAUSE_OF_RESULT.get(code)
            self._leave(reply.position, detail, is_damaged=code is ResultCode.DAMAGED, cause=cause)
        self._look_at_answers(now_ns)

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        """What to put on the bus now, in this order; a burst at a time."""
        if self._is_leaving:
            self._is_leaving, self._left_ns = False, now_ns
        if now_ns < self._burst_due_ns:
            return []
        if self._judged_ns is None:
            self._judged_ns = self._asked_ns = now_ns
        if not self._out:
            self._refill()
            self._has_stalled = self._has_stalled or (not self._out and self._next_block < self.blocks)
        timing, spacing_ns = self._timing, self._pace.spacing_ns
        limit = timing.burst_frames
        if spacing_ns:
            limit = min(limit, max(1, _PACED_BURST_NS // spacing_ns))
        out = self._out
        frames = [out.popleft() for _ in range(min(limit, len(out)))]
        if frames:
            self._burst_due_ns = now_ns + max(timing.burst_spacing_ns, spacing_ns * len(frames))
            self._frames_since_report += len(frames)
            if self._ask_frame is not None and any(frame is self._ask_frame for frame in frames):
                self._ask_frame = None
                self._wait_for_reports(now_ns)
        return frames

    def next_event(self) -> StreamEvent | None:
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> int | None:
        """When `frames_to_send` and `handle_timeout` want to be called at the latest."""
        if self._out or self._polls or self._wants_to_send():
            return self._burst_due_ns
        return min(
            (receiver.deadline_ns for receiver in self._receivers.values() if receiver.deadline_ns is not None),
            default=None,
        )

    def handle_timeout(self, now_ns: int) -> None:
        """Act on the time; no effect before `next_timeout`."""
        for position, receiver in list(self._receivers.items()):
            if receiver.deadline_ns is None or now_ns < receiver.deadline_ns:
                continue
            receiver.tries_left -= 1
            if receiver.tries_left <= 0:
                self._leave(position, receiver.doubt or f"CHECK_BLOCK: no answer in {self._timing.report_tries} tries")
                continue
            # Again, to this node alone, before what waits, unless that is a repair, which would end by it. What the node has
            # said of this block so far may have been a part.
            assert self._asked is not None
            receiver.polls_unheard += 1
            receiver.deadline_ns = now_ns + self._repeat_timeout_ns(receiver.polls_unheard)
            receiver.has_more_time = self._is_repeated = True
            receiver.missing.clear()
            receiver.asked_repair = self._repair_count - (1 if self._is_repairing and self._out else 0)
            poll = self._check(self._asked, node=position, report_wanted=True)
            if self._is_repairing and self._out:
                self._polls.append(poll)
            else:
                self._out.appendleft(poll)
        self._look_at_answers(now_ns)

    # ---- what goes out

    def _wants_to_send(self) -> bool:
        return bool(self._receivers) and (
            bool(self._repairs and self._may_repair()) or self._has_room() or self._asked is None
        )

    def _has_room(self) -> bool:
        slowest = min((receiver.next_block for receiver in self._receivers.values()), default=self.blocks)
        return self._next_block < min(self.blocks, slowest + self._pace.window_blocks)

    def _refill(self) -> None:
        if not self._receivers:
            return
        self._is_repairing = False
        if self._polls:
            self._out.extend(self._polls)
            self._polls.clear()
        elif self._asked is None and (few := self._stragglers()):
            self._out.extend(self._poll(few, self._asked_before))
        elif self._repairs and self._may_repair():
            self._send_repair()
        elif self._asked is None and self._wants_early_report():
            self._out.append(self._send_request(self._next_block - 1))
        elif self._has_room():
            self._send_block()
        elif self._asked is None:
            # Nothing new may go out: what became of the last block, and of what was repaired?
            self._out.extend(
                self._poll(self._in_the_way(), self._judged_block - 1) or [self._send_request(self._next_block - 1)]
            )

    def _send_block(self) -> None:
        out, block = self._out, self._next_block
        if self._must_open:
            self._must_open = False
            # Twice: a node that misses it misses a whole block.
            out.extend([self._open(block)] * (3 if self._pace.is_lossy else 2))
        frames = self._wire.data_frames(self._block_data(block))
        out.extend(frames)
        self._next_block = block + 1
        self._blocks_since_ask += 1
        self._frames_since_ask += len(frames)
        wants_report = self._asked is None and (
            self._blocks_since_ask >= self._reports.blocks(self._pace.window_blocks, is_paced=self._pace.is_paced)
            or not (self._has_room() or self._in_the_way())
        )
        out.append(self._send_request(block) if wants_report else self._check(block, node=self._node))

    def _wants_early_report(self) -> bool:
        """Whether to ask before the next block what became of a repair, so that blocks go out while the reports come in."""
        return (
            self._must_open
            and self._pace.is_lossy
            and self._blocks_since_ask >= self._pace.window_blocks // _EARLY_PART
        )

    def _may_repair(self) -> bool:
        """Whether to repair now: all have reported, or nothing new may go out and those that have not were polled again."""
        if self._asked is None or self._is_for_few:
            return True
        receivers = self._receivers.values()
        return not self._has_room() and all(each.has_more_time for each in receivers if each.is_waiting)

    def _send_repair(self) -> None:
        """What any node misses of the first block of which something is missing."""
        out = self._out
        block = min(self._repairs)[0]
        indices = sorted(frame for number, frame in self._repairs if number == block)
        self._repairs -= {(block, frame) for frame in indices}
        self._repair_count += 1
        self._repaired_in |= dict.fromkeys(((block, frame) for frame in indices), self._repair_count)
        frames = self._wire.data_frames(self._block_data(block))
        wanted = [frames[index] for index in indices if index < len(frames)]
        if wanted:
            # A node that misses it takes the frames for another block's, and drops those that it got right with them.
            out.extend([self._open(block, is_repair=True)] * (2 if self._pace.is_lossy else 1))
            out.extend(wanted)
            self._frames_since_ask += len(wanted)
        # The CheckBlock was missed; or a frame that this block does not have, by a node that has its CheckBlock wrong.
        if len(wanted) < len(indices):
            out.append(self._check(block, node=self._node))
        self._is_repairing = self._must_open = True

    def _block_data(self, block: int) -> bytes:
        return self._data[block * self._block_bytes : (block + 1) * self._block_bytes]

    def _open(self, block: int, *, is_repair: bool = False) -> CanFrame:
        number = block % BLOCK_NUMBERS
        request = Request(self._node, NodeCommand.OPEN_BLOCK, number, offset=self._offset, repair=int(is_repair))
        return self._wire.serialize(request)

    def _check(self, block: int, *, node: int, report_wanted: bool = False) -> CanFrame:
        data = self._block_data(block)
        filled = data + b"\xff" * (-len(data) % self._wire.data_bytes)
        return self._wire.serialize(
            Request(
                node,
                NodeCommand.CHECK_BLOCK,
                block % BLOCK_NUMBERS,
                frames=len(filled) // self._wire.data_bytes,
                crc32=crc32(filled, self._crc_start),
                report_wanted=int(report_wanted),
            )
        )

    def _send_request(self, block: int) -> CanFrame:
        """The CheckBlock that wants a report."""
        self._asked = block
        self._is_repeated = self._has_stalled = False
        self._blocks_since_ask = 0
        self._frames_asked, self._frames_since_ask, self._lost_max = self._frames_since_ask, 0, 0
        self._ask_frame = self._check(block, node=self._node, report_wanted=True)
        self._repaired_in.clear()
        for receiver in self._receivers.values():
            self._ask_receiver(receiver)
        return self._ask_frame

    def _few_of(self, asked: int) -> list[int]:
        """The nodes that miss something of the blocks up to *asked*, if they are few of many and all of it has been repaired."""
        if not self._is_group or asked < 0 or any(block <= asked for block, _ in self._repairs):
            return []
        few = [position for position, receiver in self._receivers.items() if receiver.next_block <= asked]
        return few if _FEW * len(few) <= self._members else []

    def _stragglers(self) -> list[int]:
        """The nodes that have missed a repair as well: the window will be full before all are asked again."""
        return [] if self._pace.is_lossy else self._few_of(self._asked_before)

    def _in_the_way(self) -> list[int]:
        """The nodes that hold the window up, or, behind the last block, miss something."""
        is_end = self._next_block == self.blocks
        asked = self._judged_block - 1
        if (asked < self.blocks - 1) if is_end else self._pace.is_lossy:
            return []
        end = asked if is_end else self._next_block - self._pace.window_blocks
        few = [position for position, receiver in self._receivers.items() if receiver.next_block <= end]
        return few if self._is_group and asked >= 0 and _FEW * len(few) <= self._members else []

    def _poll(self, few: list[int], asked: int) -> list[CanFrame]:
        """Questions to these nodes alone, about what they were asked before: the blocks behind that are not repaired for them alone."""
        if not few:
            return []
        self._asked = asked
        self._is_for_few = True
        polls = []
        for position in few:
            receiver = self._receivers[position]
            self._ask_receiver(receiver)
            receiver.has_more_time = True
            polls.append(self._check(asked, node=position, report_wanted=True))
        self._ask_frame = polls[-1]
        return polls

    def _ask_receiver(self, receiver: _Receiver) -> None:
        receiver.is_waiting = True
        receiver.has_more_time = False
        receiver.doubt = ""
        receiver.missing.clear()
        receiver.asked_repair = self._repair_count
        receiver.tries_left = self._timing.report_tries
        receiver.polls_unheard = 0
        receiver.pending_left = self._timing.pending_max

    # ---- what comes in

    def _wait_for_reports(self, now_ns: int) -> None:
        if self._is_for_few:
            deadline_ns = now_ns + self._repeat_timeout_ns(1)
            for receiver in self._receivers.values():
                if receiver.is_waiting:
                    receiver.deadline_ns = deadline_ns
            return
        self._asked_before_ns, self._asked_ns = self._asked_ns, now_ns
        self._is_leaving, self._left_ns = True, now_ns
        deadline_ns = now_ns + self._timeout_ns()
        for receiver in self._receivers.values():
            if receiver.is_waiting:
                receiver.deadline_ns = deadline_ns

    def _timeout_ns(self, tries_before: int = 0) -> int:
        """How long to wait for a report: at first as long as the slowest adapter may take, then by what was measured."""
        timing = self._timing
        longest_ns = timing.report_timeout_ns + timing.frame_timeout_ns * self._frames_since_report
        if self._round_trip_ns is None:
            return longest_ns
        doublings = max(0, tries_before + 1 - timing.report_tries_quick)
        return min(longest_ns, max(timing.report_timeout_ns_min, 3 * self._round_trip_ns) << doublings)

    def _repeat_timeout_ns(self, tries_before: int) -> int:
        """How long to wait for the report of one node that is polled again: no other reports before it."""
        timeout_ns = self._timeout_ns(tries_before)
        if self._first_reply_ns is None:
            return timeout_ns
        doublings = max(0, tries_before + 1 - self._timing.report_tries_quick)
        return min(timeout_ns, max(self._timing.report_late_ns_min, _USUAL_REPLIES * self._first_reply_ns) << doublings)

    def _measure(self, now_ns: int, receiver: _Receiver) -> None:
        """A report has come: how long did it take, and how much longer may the others need?"""
        if not receiver.has_more_time:
            # The answer to a repeated request cannot be timed: it may belong to either.
            taken_ns = now_ns - self._asked_ns
            before_ns = self._round_trip_ns
            self._round_trip_ns = taken_ns if before_ns is None else max(taken_ns, (7 * before_ns + taken_ns) // 8)

    def _hear_one(self, receiver: _Receiver, now_ns: int) -> None:
        """A reply has come: how much longer may the others need? All were polled at once, so they answer one behind the other."""
        self._is_leaving = False
        receiver.polls_unheard = 0
        if not receiver.has_more_time:
            if self._reply_ns is not None:
                self._gap_ns = max(self._gap_ns, now_ns - self._reply_ns)
            elif self._is_group:
                first_ns, taken_ns = self._first_reply_ns, now_ns - self._left_ns
                self._first_reply_ns = taken_ns if first_ns is None else max(taken_ns, (7 * first_ns + taken_ns) // 8)
            self._reply_ns = now_ns
        timing = self._timing
        late_ns = timing.report_late_ns
        if self._gap_usual_ns is not None:
            late_ns = min(late_ns, max(timing.report_late_ns_min, _USUAL_GAPS * self._gap_usual_ns))
        if receiver.has_more_time and receiver.deadline_ns is not None and self._gap_usual_ns is not None:
            receiver.deadline_ns = min(receiver.deadline_ns, now_ns + late_ns)
        for other in self._receivers.values():
            if other is not receiver and other.is_waiting and not other.has_more_time and other.deadline_ns is not None:
                due_ns = now_ns + late_ns
                other.deadline_ns = due_ns if self._gap_usual_ns is not None else min(other.deadline_ns, due_ns)

    def _reported(self, reply: ReportReply, receiver: _Receiver, next_block: int) -> None:
        position = reply.position
        receiver.is_waiting = False
        receiver.deadline_ns = None
        lost = sum(block >= self._judged_block for block, _ in receiver.missing)
        # What it misses without having said it: its lists were lost, or are too long.
        unsaid = max(0, reply.missing_total - len(receiver.missing))
        if self._is_group:
            # Reports of many nodes are often about the same blocks again. To one node it is new for the most part.
            assert self._asked is not None
            unsaid = unsaid * (self._asked + 1 - self._judged_block) // max(1, self._asked + 1 - next_block)
        self._lost_max = max(self._lost_max, lost + unsaid)
        if next_block > receiver.next_block:
            receiver.next_block = next_block
            receiver.rounds_left = self._timing.rounds_max
            self._events.append(StreamProgressed(position, reply.stored_offset))
        if next_block == self.blocks:
            del self._receivers[position]
            self._events.append(StreamCompleted(position))
            return
        assert self._asked is not None
        receiver.missing = {
            (block, frame)
            for block, frame in receiver.missing
            if next_block <= block <= self._asked and (frame < self._block_frames or frame == CHECK_FRAME)
        }
        if next_block <= self._asked:
            receiver.rounds_left -= 1
            if not receiver.rounds_left:
                self._leave(position, f"block {next_block}: still incomplete after {self._timing.rounds_max} rounds")
                return
            rounds = self._timing.rounds_max - receiver.rounds_left
            if rounds % self._timing.rounds_stuck == 0:
                self._pace.slow_down()
            receiver.reports_blind = 0 if receiver.missing else receiver.reports_blind + 1
            if receiver.reports_blind > _REPORTS_BLIND_MAX:
                # The lists were lost, or no OpenBlock has come through: then this block's will do.
                receiver.missing = {(next_block, frame) for frame in range(self._block_frames)} | {
                    (next_block, CHECK_FRAME)
                }
        if receiver.missing:
            # What another node's report has had repaired meanwhile may have come here too: the next report says.
            self._repairs |= {
                place for place in receiver.missing if self._repaired_in.get(place, 0) <= receiver.asked_repair
            }

    def _look_at_answers(self, now_ns: int) -> None:
        """When the last answer is in: what must be repeated, and at which pace to continue."""
        if self._asked is None or self._ask_frame is not None:
            return
        if any(receiver.is_waiting for receiver in self._receivers.values()):
            return
        asked, self._asked = self._asked, None
        if self._is_for_few:
            self._is_for_few = False
            for position, receiver in self._receivers.items():
                if receiver.missing:
                    self._events.append(StreamRepeated(position, len(receiver.missing)))
            return
        if self._reply_ns is not None:
            usual_ns = self._gap_usual_ns
            self._gap_usual_ns = (
                self._gap_ns if usual_ns is None else max(self._gap_ns, (7 * usual_ns + self._gap_ns) // 8)
            )
        self._reply_ns, self._gap_ns = None, 0
        for position, receiver in self._receivers.items():
            if receiver.missing:
                self._events.append(StreamRepeated(position, len(receiver.missing)))
        is_clean = all(receiver.next_block > asked for receiver in self._receivers.values())
        self._reports.judge(is_clean=is_clean, has_stalled=self._has_stalled)
        # The pace is judged by what was lost at the first try. Repairs say little: their loss may be that of an OpenBlock.
        assert self._judged_ns is not None
        # From answer to answer, or from question to question: whichever is longer. A repeated request gives no time.
        frame_ns = None
        if not self._is_repeated:
            taken_ns = max(now_ns - self._judged_ns, self._asked_ns - self._asked_before_ns)
            frame_ns = taken_ns // max(1, self._frames_asked)
        self._pace.judge(self._lost_max, (asked + 1 - self._judged_block) * self._block_frames, frame_ns)
        self._asked_before = self._judged_block - 1
        self._judged_ns, self._judged_block = now_ns, asked + 1
        self._frames_since_report = 0

    def _leave(
        self, position: int, detail: str, *, is_damaged: bool = False, cause: FailureCause | None = None
    ) -> None:
        del self._receivers[position]
        self._events.append(StreamLost(position, detail, is_damaged, cause))

    def _absolute(self, number: int) -> int:
        """The newest block with this number that can have been spoken of."""
        return self._next_block - (self._next_block - number) % BLOCK_NUMBERS
