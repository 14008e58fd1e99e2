"""The flasher's side of a stream by itself, in conversations: what goes out, what a node says, what goes out then."""

from __future__ import annotations

from zlib import crc32

import pytest

from bmsota.bootloader import BootloaderTiming, BootloaderWire
from bmsota.bootloader._messages import (
    CHECK_FRAME,
    BitmapReply,
    ListReply,
    PendingReply,
    ReportReply,
    Request,
    ResultReply,
)
from bmsota.bootloader._stream import BlockStream, StreamCompleted, StreamLost, StreamProgressed, StreamRepeated
from bmsota.node import FailureCause, NodeCommand, ResultCode

MS = 1_000_000
FRAMES = 4
BLOCK = FRAMES * 8


class Talk:
    """A stream and what it says, in short: "0.2" a data frame, "open 1", "repair 1", "check 1", "ask 1", "ask 1 of 7"."""

    def __init__(self, bench_parts, *, blocks=6, size=None, positions=(5,), node=5, window=30, **timing):
        self.wire = BootloaderWire(bench_parts.database())
        self.data = bytes(range(256)) * 256
        self.data = self.data[: blocks * BLOCK if size is None else size]
        self.node = node
        self.timing = BootloaderTiming(
            **{"loss_pct_low": 100, "loss_pct_high": 100, **timing}
        )  # the pace: test_pace.py
        self.stream = BlockStream(
            self.wire,
            node=node,
            positions=positions,
            data=self.data,
            offset=4096,
            block_frames=FRAMES,
            window_blocks=window,
            timing=self.timing,
            crc_start=77,
        )
        self.now_ns = 0
        self.at = 0
        self.received = []

    def said(self, *, bursts=1000):
        """What goes out now, without waiting."""
        words = []
        for _ in range(bursts):
            frames = self.stream.frames_to_send(self.now_ns)
            if not frames:
                break
            words += [self._word(frame) for frame in frames]
        return words

    def _word(self, frame):
        request = self.wire.parse(frame)
        if not isinstance(request, Request):
            index = frame.can_id - self.wire.data_id
            start = (self.at * FRAMES + index) * 8
            assert frame.data == self.data[start : start + 8].ljust(8, b"\xff")
            return f"{self.at}.{index}"
        if request.command is NodeCommand.OPEN_BLOCK:
            assert (request.node, request.offset) == (self.node, 4096)
            self.at = self._block(request.tag)
            return f"{'repair' if request.repair else 'open'} {self.at}"
        block = self._block(request.tag)
        content = self.data[block * BLOCK : (block + 1) * BLOCK]
        content += b"\xff" * (-len(content) % 8)
        assert (request.frames, request.crc32) == (len(content) // 8, crc32(content, 77))
        if block == self.at:
            self.at = block + 1
        word = f"ask {block}" if request.report_wanted else f"check {block}"
        return word if request.node == self.node else f"{word} of {request.node}"

    def _block(self, number):
        return min(range(number, self.stream.blocks, 255), key=lambda block: abs(block - self.at))

    def whole(self, *blocks, ask=()):
        """What goes out of whole blocks."""
        return [
            word
            for block in blocks
            for word in (
                *(f"{block}.{index}" for index in range(FRAMES)),
                f"{'ask' if block in ask else 'check'} {block}",
            )
        ]

    def hear(self, *replies):
        for reply in replies:
            self.stream.receive(reply, self.now_ns)
        return list(iter(self.stream.next_event, None))

    def report(self, block, following, *, missing=0, position=5, stored=None):
        return ReportReply(
            position, block % 255, following % 255, missing, following * BLOCK if stored is None else stored
        )

    def late(self, by_ns=1):
        """The next deadline passes."""
        self.now_ns = self.stream.next_timeout() + by_ns
        self.stream.handle_timeout(self.now_ns)


@pytest.mark.slow
def test_blocks_go_out_one_behind_the_other_until_the_window_is_full(bench_parts):
    """Four blocks at first, with a question behind the second; the next half while its answer is on the way."""
    talk = Talk(bench_parts, blocks=20)
    assert talk.said() == ["open 0", "open 0", *talk.whole(0, 1, 2, 3, ask={1})]
    assert talk.hear(talk.report(1, 2)) == [StreamProgressed(5, 2 * BLOCK)]
    # The window has doubled: eight blocks. Nothing was missing, so the question comes when one block of it is left.
    assert talk.said() == talk.whole(*range(4, 10), ask={8})
    assert talk.hear(talk.report(8, 9)) == [StreamProgressed(5, 9 * BLOCK)]
    assert talk.said() == talk.whole(*range(10, 20), ask={19})
    assert not talk.stream.finished
    events = talk.hear(talk.report(19, 20))
    assert events == [StreamProgressed(5, 20 * BLOCK), StreamCompleted(5)]
    assert talk.stream.finished
    assert (talk.said(), talk.stream.next_timeout()) == ([], None)


@pytest.mark.slow
def test_the_window_ends_at_what_the_nodes_hold(bench_parts):
    talk = Talk(bench_parts, blocks=20, window=3)
    assert talk.said() == ["open 0", "open 0", *talk.whole(0, 1, 2, ask={0})]
    talk.hear(talk.report(0, 1))
    assert talk.said() == talk.whole(3, ask={3})
    talk.hear(talk.report(3, 2))
    assert talk.said() == talk.whole(4, ask={4})


@pytest.mark.slow
def test_a_short_last_block_is_filled_up(bench_parts):
    talk = Talk(bench_parts, size=BLOCK + 9)
    assert talk.said() == ["open 0", "open 0", *talk.whole(0), "1.0", "1.1", "ask 1"]
    assert talk.hear(talk.report(1, 2))[-1] == StreamCompleted(5)


def test_what_is_missing_goes_out_once_more_and_then_the_stream_goes_on(bench_parts):
    """From a list and a bitmap; the CheckBlock is frame 64. OpenBlock of a repair comes once, of the stream twice."""
    talk = Talk(bench_parts, blocks=8)
    talk.said()
    events = talk.hear(
        ListReply(5, 1, ((1, 3), (0, CHECK_FRAME))), BitmapReply(5, 0, 0, 2, 0b0010), talk.report(1, 0, missing=3)
    )
    assert events == [StreamRepeated(5, 3)]
    assert talk.said()[:6] == ["repair 0", "0.1", "0.3", "check 1", "open 4", "open 4"]


def test_a_frame_that_the_block_does_not_have_brings_its_check_again(bench_parts):
    """The node has got the CheckBlock of the short last block wrong, and waits for frames that do not exist."""
    talk = Talk(bench_parts, size=BLOCK + 9)
    talk.said()
    talk.hear(ListReply(5, 1, ((0, 3),)), talk.report(1, 1, missing=1))
    assert talk.said() == ["check 1", "ask 1"]


def test_what_any_node_misses_goes_out_once_for_all(bench_parts):
    talk = Talk(bench_parts, blocks=4, positions=(5, 6, 7), node=130)
    assert talk.said()[-1] == "check 3"
    assert talk.hear(ListReply(5, 1, ((1, 0), (0, 2))), talk.report(1, 0, missing=2)) == []
    assert talk.hear(ListReply(6, 1, ((1, 0),)), talk.report(1, 0, missing=1, position=6)) == []
    assert talk.said() == []
    events = talk.hear(talk.report(1, 2, position=7))
    assert events == [StreamProgressed(7, 2 * BLOCK), StreamRepeated(5, 2), StreamRepeated(6, 1)]
    assert talk.said() == ["repair 0", "0.0", "repair 1", "1.2", "ask 3"]
    events = talk.hear(*(talk.report(3, 4, position=position) for position in (5, 6, 7)))
    assert events.count(StreamCompleted(6)) == 1
    assert talk.stream.finished


def test_what_is_known_to_be_missing_is_repaired_while_a_silent_node_is_asked_again(bench_parts):
    """Its report is older than the repair, so what both miss is not sent twice: the next report says whether it has come."""
    talk = Talk(bench_parts, blocks=4, positions=(5, 6, 7), node=130)
    talk.said()
    talk.hear(ListReply(5, 1, ((1, 0),)), talk.report(1, 0, missing=1), talk.report(1, 2, position=6))
    assert talk.said() == []
    talk.late()
    assert talk.said() == ["ask 1 of 7", "repair 0", "0.0"]
    talk.hear(ListReply(7, 1, ((1, 0), (1, 1))), talk.report(1, 0, missing=2, position=7))
    assert talk.said() == ["repair 0", "0.1", "ask 3"]


def test_few_that_have_missed_a_repair_too_are_asked_alone_about_no_more_than_that(bench_parts):
    """Before the other repairs: their answer comes while those go out. The next report of all is where it would have been."""
    nodes = tuple(range(1, 9))
    talk = Talk(bench_parts, positions=nodes, node=200, blocks=24, window=8)
    assert talk.said() == ["open 0", "open 0", *talk.whole(0, 1, 2, 3, ask=[1])]
    missing = ListReply(7, 1, ((1, 2),))
    talk.hear(missing, *(talk.report(1, 0 if node == 7 else 2, position=node) for node in nodes))
    said = talk.said()
    assert said[:4] == ["repair 0", "0.2", "open 4", "open 4"]
    asked = next(int(word.split()[1]) for word in said if word.startswith("ask"))
    others = ListReply(3, asked, ((0, 1),))
    still = ListReply(7, asked, ((asked, 2),))
    talk.hear(others, still)
    talk.hear(*(talk.report(asked, {3: asked, 7: 0}.get(node, asked + 1), position=node) for node in nodes))
    said = talk.said()
    assert said[:5] == ["repair 0", "0.2", "ask 1 of 7", f"repair {asked}", f"{asked}.1"]
    assert not [word for word in said[3:] if word.startswith("ask")]
    talk.hear(talk.report(1, 2, position=7))
    (word,) = [word for word in talk.said() if word.startswith("ask")]
    assert word == f"ask {asked + 4}"


def sent_until_asked(talk):
    """A driver that wants more when all has been sent, which takes a millisecond a frame, to the first millisecond behind a question."""
    is_asked = False
    while not is_asked and (frames := talk.stream.frames_to_send(talk.now_ns)):
        is_asked = any(
            isinstance(request, Request) and request.report_wanted for request in map(talk.wire.parse, frames)
        )
        talk.now_ns += len(frames) * MS
    talk.stream.frames_to_send(talk.now_ns)
    talk.now_ns += MS


def test_a_poll_may_take_what_an_answer_takes_not_the_block_before_the_question(bench_parts):
    """A node that is heard, if not wholly, is not waited for longer and longer either."""
    talk = Talk(bench_parts, positions=(1, 2), node=200, blocks=30)
    sent_until_asked(talk)
    talk.hear(*(talk.report(1, 2, position=node) for node in (1, 2)))
    sent_until_asked(talk)
    asked = talk.stream._asked
    talk.hear(talk.report(asked, asked + 1, position=1))
    talk.said()
    for polls in range(1, 6):
        talk.late(0)
        polled_ns = talk.now_ns
        sent_until_asked(talk)
        talk.said()
        assert talk.stream.next_timeout() - polled_ns <= talk.timing.report_late_ns_min, polls
        talk.hear(ListReply(2, asked, ((0, 1),)))  # Its report is lost.


def test_a_lost_list_is_asked_for_again_and_then_the_block_goes_out_whole(bench_parts):
    """A report that names nothing is believed once; the second time the first incomplete block is sent as it is."""
    talk = Talk(bench_parts, blocks=4)
    talk.said()
    assert talk.hear(talk.report(1, 0, missing=3)) == []
    assert talk.said() == ["ask 3"]
    assert talk.hear(talk.report(3, 0, missing=3)) == [StreamRepeated(5, FRAMES + 1)]
    assert talk.said() == ["repair 0", *talk.whole(0), "ask 3"]


def test_a_silent_node_is_asked_again_and_again_and_left_behind(bench_parts):
    talk = Talk(bench_parts, blocks=2, positions=(5, 6), node=130, report_tries=4)
    talk.said()
    talk.now_ns += 10 * MS
    talk.hear(talk.report(1, 2, position=6))
    asked = []
    while not talk.stream.finished:
        talk.late()
        asked += talk.said()
    assert asked == ["ask 1 of 5"] * 3
    assert list(iter(talk.stream.next_event, None)) == [StreamLost(5, "CHECK_BLOCK: no answer in 4 tries")]


def test_patience_is_the_round_trip_not_the_longest_possible(bench_parts):
    """The first question waits for the slowest adapter; then three round trips, and not longer while more are tried."""
    talk = Talk(bench_parts, blocks=20)
    talk.said()
    assert talk.stream.next_timeout() >= 200 * MS
    talk.now_ns += 30 * MS
    talk.hear(talk.report(1, 2))
    talk.said()
    assert talk.stream.next_timeout() == talk.now_ns + 90 * MS
    for _ in range(2):
        talk.late(0)
        assert talk.said() == ["ask 8"]
        assert talk.stream.next_timeout() == talk.now_ns + 90 * MS
    talk.late(0)
    talk.said()
    assert talk.stream.next_timeout() == talk.now_ns + 180 * MS
    # What was asked four times says nothing about the round trip.
    talk.now_ns += 150 * MS
    talk.hear(talk.report(8, 9))
    talk.said()
    assert talk.stream.next_timeout() == talk.now_ns + 90 * MS


def test_when_one_node_has_reported_the_others_are_not_waited_for_long(bench_parts):
    talk = Talk(bench_parts, blocks=4, positions=(5, 6), node=130)
    talk.said()
    talk.now_ns += 7 * MS
    talk.hear(talk.report(1, 2, position=6))
    assert talk.stream.next_timeout() == talk.now_ns + 20 * MS
    talk.late(0)
    assert talk.said() == ["ask 1 of 5"]


def test_a_node_that_needs_time_gets_it_so_often_and_no_more(bench_parts):
    talk = Talk(bench_parts, blocks=2, positions=(5, 6), node=130, pending_max=2)
    talk.said()
    pending = PendingReply(5, 1, NodeCommand.CHECK_BLOCK, 3000)
    talk.hear(pending)
    talk.hear(talk.report(1, 2, position=6))  # does not make it hurry
    assert talk.stream.next_timeout() == talk.now_ns + 3200 * MS
    talk.now_ns += 3000 * MS
    talk.hear(pending)
    until_ns = talk.stream.next_timeout()
    assert until_ns == talk.now_ns + 3200 * MS
    talk.now_ns += 100 * MS
    talk.hear(
        pending,
        PendingReply(5, 0, NodeCommand.CHECK_BLOCK, 9000),
        PendingReply(5, 1, NodeCommand.FINISH_TRANSFER, 9000),
    )
    assert talk.stream.next_timeout() == until_ns


def test_a_question_is_repeated_in_front_of_what_waits_to_be_sent(bench_parts):
    """With a short queue or at a slow pace frames wait here, and with them the question would."""
    talk = Talk(bench_parts, blocks=8, burst_frames=3, burst_spacing_ns=160 * MS)
    words = []
    while "2.3" not in words:
        talk.stream.handle_timeout(talk.now_ns)
        words += talk.said(bursts=1)
        talk.now_ns = talk.stream.next_timeout()
    assert words == ["open 0", "open 0", *talk.whole(0, 1, ask={1}), "2.0", "2.1", "2.2", "ask 1", "2.3", "check 2"]


@pytest.mark.parametrize(
    ("code", "detail"), [(ResultCode.WRONG_STATE, "CHECK_BLOCK: WRONG_STATE"), (99, "CHECK_BLOCK: 99")]
)
def test_a_node_that_has_lost_its_place_is_left_behind(bench_parts, code, detail):
    talk = Talk(bench_parts, blocks=2, positions=(5, 6), node=130)
    talk.said()
    assert (
        talk.hear(ResultReply(5, 0, NodeCommand.CHECK_BLOCK, code, 0), ResultReply(5, 1, NodeCommand.CONFIRM, code, 0))
        == []
    )
    assert talk.hear(ResultReply(5, 1, NodeCommand.CHECK_BLOCK, code, 0)) == [StreamLost(5, detail)]
    assert not talk.stream.finished
    assert talk.hear(talk.report(1, 2, position=6))[-1] == StreamCompleted(6)


def test_a_node_whose_image_came_out_damaged_says_so(bench_parts):
    talk = Talk(bench_parts, blocks=2)
    talk.said()
    event = talk.hear(ResultReply(5, 1, NodeCommand.CHECK_BLOCK, ResultCode.DAMAGED, 0))[0]
    assert (event.detail, event.is_damaged) == ("CHECK_BLOCK: DAMAGED", True)


def test_a_node_whose_flash_is_worn_gets_nothing_more_and_is_not_tried_again(bench_parts):
    talk = Talk(bench_parts, blocks=2)
    talk.said()
    assert talk.hear(ResultReply(5, 1, NodeCommand.CHECK_BLOCK, ResultCode.WORN, 0))[0] == StreamLost(
        5, "CHECK_BLOCK: WORN", cause=FailureCause.FLASH_WORN
    )


def test_a_late_copy_of_an_earlier_report_is_not_an_answer(bench_parts):
    """The same block is asked for again after a repair; the first answer comes twice."""
    talk = Talk(bench_parts, blocks=2)
    talk.said()
    early = talk.report(1, 0, missing=1)
    talk.hear(ListReply(5, 1, ((1, 0),)), early)
    assert talk.said() == ["repair 0", "0.0", "ask 1"]
    talk.hear(ListReply(5, 1, ((0, 1),)), talk.report(1, 1, missing=1))
    assert talk.said() == ["repair 1", "1.1", "ask 1"]
    assert talk.hear(early) == []
    assert talk.said() == []
    assert talk.hear(talk.report(1, 2)) == [StreamProgressed(5, 2 * BLOCK), StreamCompleted(5)]


def test_a_node_that_goes_back_for_good_is_left_behind(bench_parts):
    talk = Talk(bench_parts, blocks=4, report_tries=3)
    talk.said()
    talk.hear(talk.report(1, 2))
    talk.said()
    events = []
    while not events:
        events = talk.hear(talk.report(3, 1, missing=9))
        talk.late()
        talk.said()
        events += iter(talk.stream.next_event, None)
    assert events == [StreamLost(5, "expected block 2 or later next, got 1")]


def test_what_nobody_asked_for_is_ignored(bench_parts):
    """Before the question has gone out, about another block, from a stranger, and when all has been said."""
    talk = Talk(bench_parts, blocks=4, burst_frames=2)
    talk.said(bursts=3)
    assert talk.hear(talk.report(1, 2)) == []
    talk.said(bursts=7)
    replies = [
        talk.report(2, 3),
        talk.report(1, 2, position=6),
        ListReply(5, 0, ((0, 0),)),
        BitmapReply(5, 255, 0, 1, 1),
        BitmapReply(5, 0, 1, 1, 1),  # frames 32 and up: not of these blocks
        ListReply(5, 1, ((3, 0), (0, 9))),
    ]
    assert talk.hear(*replies) == []
    assert talk.hear(talk.report(1, 1, missing=1)) == [StreamProgressed(5, BLOCK)]
    assert talk.hear(talk.report(1, 2)) == []
    assert not [word for word in talk.said() if word.startswith("repair")]


def test_block_numbers_go_round(bench_parts):
    """Lists and bitmaps on both sides of the border between number 254 and 0."""
    talk = Talk(bench_parts, blocks=300, window=10)
    asked = 0
    while asked < 257:
        talk.hear(talk.report(asked, asked + 1))
        asked = next(int(word.split()[1]) for word in talk.said() if word.startswith("ask"))
    talk.hear(
        ListReply(5, asked % 255, ((asked - 254, 1), (asked - 255, 2))),
        BitmapReply(5, 256 % 255, 0, 1, 0b1000),
        talk.report(asked, 254, missing=3),
    )
    assert talk.said()[:6] == ["repair 254", "254.1", "repair 255", "255.2", "repair 256", "256.3"]


def test_a_block_that_never_gets_complete_ends_the_stream_for_its_node(bench_parts):
    talk = Talk(bench_parts, blocks=2, rounds_max=5)
    talk.said()
    events = []
    for _ in range(5):
        events = talk.hear(ListReply(5, 1, ((1, 0),)), talk.report(1, 0, missing=1))
        talk.said()
    assert events == [StreamLost(5, "block 0: still incomplete after 5 rounds")]


def test_a_node_that_gets_no_further_is_sent_to_more_slowly(bench_parts):
    talk = Talk(bench_parts, blocks=2, rounds_stuck=3)
    talk.said()
    for round_number in range(4):
        talk.hear(ListReply(5, 1, ((1, 0), (1, 1))), talk.report(1, 0, missing=2))
        words = talk.said()
        assert (words == ["repair 0", "0.0", "0.1", "ask 1"]) is (round_number < 2)
        while "ask 1" not in words:
            talk.now_ns = talk.stream.next_timeout()
            words = talk.said()


def test_with_much_loss_openblock_is_said_once_more(bench_parts):
    """Two frames of each report's are lost: of the first 116 frames eight, which is more than four in a hundred."""
    talk = Talk(bench_parts, blocks=60, loss_pct_low=4)
    repairs, opens = [], []
    words = talk.said()
    for _ in range(5):
        asked = next(int(word.split()[1]) for word in words if word.startswith("ask"))
        talk.hear(ListReply(5, asked, ((0, 2), (0, 3))), talk.report(asked, asked, missing=2))
        words = talk.said()
        repairs.append(words.count(f"repair {asked}"))
        opens.append(len([word for word in words if word.startswith("open")]))
    assert (repairs, opens) == ([1, 1, 1, 2, 2], [2, 2, 2, 3, 3])
