"""The node's side of a stream by itself: where a frame belongs, what is missing, what a wrong number or a lost frame costs."""

from __future__ import annotations

from random import Random
from zlib import crc32

import pytest

from bmsota.bootloader._messages import CHECK_FRAME
from bmsota.bootloader._receiver import BlockReceiver

FRAMES = 8
START = 0x1234


def frame(block, index):
    """What belongs there; no two are equal."""
    return bytes([block & 0xFF, index]) * 4


def data(block, frames=FRAMES):
    return b"".join(frame(block, index) for index in range(frames))


class Sender:
    """Says to a receiver what a flasher would, with losses at will; keeps what the receiver has given."""

    def __init__(self, *, window_blocks=4, frames=FRAMES):
        self.receiver = BlockReceiver(block_frames=frames, window_blocks=window_blocks, crc_start=START)
        self.frames = frames
        self.given = []

    def open(self, block, *, is_repair=False):
        self.receiver.open(block % 255, is_repair=is_repair)

    def send(self, block, *indices):
        for index in indices:
            self.receiver.receive(index, frame(block, index))

    def check(self, block, frames=None, crc=None):
        frames = self.frames if frames is None else frames
        crc = crc32(data(block, frames), START) if crc is None else crc
        accepted = self.receiver.check(block % 255, frames, crc)
        self.given += self.receiver.take()
        return accepted

    def block(self, block, *, lost=(), frames=None, check=True):
        count = self.frames if frames is None else frames
        self.send(block, *(index for index in range(count) if index not in lost))
        if check:
            self.check(block, count)

    def repair(self, block, *indices):
        self.open(block, is_repair=True)
        self.send(block, *indices)

    def missing(self, block):
        return self.receiver.missing(block % 255)


@pytest.fixture
def sender():
    sender = Sender()
    sender.open(0)
    return sender


def test_blocks_are_given_in_order_as_they_are_complete(sender):
    for block in range(3):
        sender.block(block)
        assert sender.missing(block) == []
    assert sender.given == [data(0), data(1), data(2)]
    assert (sender.receiver.next_block, sender.receiver.next_number) == (3, 3)


def test_a_stream_may_go_round_the_numbers_many_times(sender):
    for block in range(600):
        sender.block(block, lost={2} if block in {100, 253, 254, 255, 509, 510} else ())
        if sender.missing(block):
            assert sender.missing(block) == [(block, 2)]
            assert sender.receiver.age(block % 255, block) == 0
            sender.repair(block, 2)
            sender.open(block + 1)
    sender.given += sender.receiver.take()
    assert sender.given == [data(block) for block in range(600)]
    assert sender.receiver.next_number == 600 % 255


@pytest.mark.parametrize("lost", [range(count) for count in range(1, 4)] + [range(5, 8), range(3, 6), range(7, 8)])
def test_a_run_of_less_than_half_a_block_may_be_lost(sender, lost):
    """The frames behind it are still at their places, and so is the block behind."""
    sender.block(0, lost=lost, check=False)
    sender.block(1, check=False)
    sender.check(1)
    assert sender.missing(1) == [(0, index) for index in [*lost, CHECK_FRAME]]
    sender.repair(0, *lost)
    sender.check(0)
    assert sender.given == [data(0), data(1)]


def test_a_longer_run_costs_frames_but_no_wrong_byte(sender):
    """More than half a block is lost: what follows is counted to the wrong block, and its CRC says so."""
    sender.block(0, lost=range(1, 7), check=False)
    sender.block(1)
    missing = sender.missing(1)
    assert sender.given == []
    assert {block for block, _ in missing} >= {0}
    for block in (0, 1):
        sender.repair(block, *(index for at, index in missing if at == block and index < FRAMES))
        sender.check(block)
        sender.repair(block, *(index for at, index in sender.missing(block) if at == block and index < FRAMES))
        sender.check(block)
    assert sender.given == [data(0), data(1)]


@pytest.mark.parametrize("index", range(FRAMES))
def test_a_frame_that_comes_twice_changes_nothing(sender, index):
    """Also the last of a block behind the first of the next one."""
    order = [*range(index + 1), index, *range(index + 1, FRAMES)]
    sender.send(0, *order)
    sender.check(0)
    sender.block(1)
    assert sender.given == [data(0), data(1)]


def test_frames_out_of_order_find_their_places_across_a_blocks_border(sender):
    for block, index in [(0, 1), (0, 0), *((0, at) for at in range(2, 6)), (1, 0), (0, 6), (1, 1), (0, 7), (1, 2)]:
        sender.send(block, index)
    sender.check(0)
    assert sender.given == [data(0)]
    sender.receiver.open(1)  # A CheckBlock in the middle of the next block sets the count to its beginning.
    sender.block(1)
    assert sender.given == [data(0), data(1)]


def test_a_late_frame_completes_a_block_that_was_checked(sender):
    """It is the next frame the count allows, so it is taken without a repair."""
    sender.open(0)
    sender.send(0, *range(FRAMES))
    sender.check(0)
    sender.send(1, 0, 1, 2, 4, 5)
    sender.receiver.check(1, FRAMES, crc32(data(1), START))
    # The stream stands at block 2 now and does not go back for stream frames ...
    sender.send(1, 3)
    assert sender.missing(1) == [(1, 3), (1, 6), (1, 7)]
    # ... unless CheckBlock came before the last frames of its own block.
    sender.repair(1, 3, 6, 7)
    sender.given += sender.receiver.take()
    assert sender.given == [data(0), data(1)]


def test_a_frame_behind_its_own_repeated_check_completes_the_block(sender):
    """CheckBlock is known from an earlier round when the stream is told to go on with this very block."""
    sender.check(0)
    sender.open(0)
    sender.send(0, *range(FRAMES))
    sender.given += sender.receiver.take()
    assert sender.given == [data(0)]


def test_lost_checks_are_missing_frames(sender):
    sender.block(0, check=False)
    sender.block(1, check=False)
    sender.block(2)
    assert sender.missing(2) == [(0, CHECK_FRAME), (1, CHECK_FRAME)]
    sender.check(0)
    sender.check(1)
    assert sender.given == [data(0), data(1), data(2)]


def test_a_lost_open_costs_the_block_and_no_other(sender):
    """After a repair the stream goes on; both OpenBlocks are lost, so the node takes the block's frames for a repair."""
    sender.block(0, lost={3})
    sender.repair(0, 3)
    sender.block(1)
    sender.block(2)
    sender.given += sender.receiver.take()
    assert sender.given == [data(0)]
    assert sender.missing(2) == [(1, index) for index in range(FRAMES)]
    sender.repair(1, *range(FRAMES))
    sender.given += sender.receiver.take()
    assert sender.given == [data(0), data(1), data(2)]


def test_what_a_repair_without_its_open_leaves_is_dropped_when_the_stream_goes_on(sender):
    sender.block(0, lost={3})
    sender.send(0, 3)  # counted: frame 3 of block 1
    sender.open(1)
    sender.block(1, lost={3})
    assert sender.missing(1) == [(0, 3), (1, 3)]


def test_a_wrong_crc_takes_the_repaired_frames_first_and_then_all(sender):
    """An OpenBlock lost between two repairs brings frames of another block; what came in the stream is most likely right."""
    sender.block(0, lost={1, 2})
    sender.block(1, lost={3})
    sender.repair(0, 1)
    sender.send(1, 2)  # its OpenBlock is lost: of another block, at an index that is missing here
    assert sender.missing(1) == [(0, 1), (0, 2), (1, 3)]
    sender.repair(0, 1)
    sender.send(1, 2)
    assert sender.missing(1) == [(0, index) for index in [*range(FRAMES), CHECK_FRAME]] + [(1, 3)]
    sender.repair(0, *range(FRAMES))
    sender.check(0)
    sender.repair(1, 3)
    sender.given += sender.receiver.take()
    assert sender.given == [data(0), data(1)]


def test_a_wrong_crc_without_repairs_takes_all_and_the_check(sender):
    sender.receiver.receive(0, b"\xee" * 8)
    sender.block(0, lost={0})
    assert sender.missing(0) == [(0, index) for index in [*range(FRAMES), CHECK_FRAME]]
    sender.repair(0, *range(FRAMES))
    assert sender.missing(0) == [(0, CHECK_FRAME)]
    sender.check(0)
    assert sender.given == [data(0)]


@pytest.mark.parametrize(("frames", "crc"), [(FRAMES, 5), (FRAMES - 1, None), (FRAMES, None)])
def test_a_spoilt_check_is_asked_for_again(sender, frames, crc):
    """An adapter has changed its CRC or its count; of a short block, its count upwards."""
    real = FRAMES if frames < FRAMES or crc else FRAMES - 2
    spoilt = crc32(data(0, real), START) if crc is None else crc
    sender.block(0, frames=real, check=False)
    sender.check(0, frames, spoilt)
    rounds = 0
    while missing := [index for _, index in sender.missing(0)]:
        sender.repair(0, *(index for index in missing if index < real))
        sender.check(0, real)
        rounds += 1
        assert rounds < 3
    assert rounds
    assert sender.given == [data(0, real)]


def test_a_block_of_another_stream_is_never_complete():
    """Its CRC begins with something else: another image, or another place in this one."""
    receiver = BlockReceiver(block_frames=FRAMES, window_blocks=4, crc_start=START + 1)
    receiver.open(0)
    for index in range(FRAMES):
        receiver.receive(index, frame(0, index))
    receiver.check(0, FRAMES, crc32(data(0), START))
    assert (receiver.take(), receiver.is_proven) == ([], False)
    receiver.check(0, FRAMES, crc32(data(0), START + 1))
    for index in range(FRAMES):
        receiver.receive(index, frame(0, index))
    receiver.open(0, is_repair=True)
    for index in range(FRAMES):
        receiver.receive(index, frame(0, index))
    assert (receiver.take(), receiver.is_proven) == ([data(0)], True)


def test_the_last_block_may_be_short(sender):
    sender.block(0)
    sender.block(1, frames=3)
    assert sender.given == [data(0), data(1, 3)]


def test_frames_of_larger_blocks_are_ignored(sender):
    sender.receiver.receive(FRAMES, bytes(8))
    sender.repair(0, 0)
    sender.receiver.receive(FRAMES, bytes(8))
    sender.open(0)
    sender.block(0)
    assert sender.given == [data(0)]


def test_a_repair_touches_gaps_of_its_block_only(sender):
    sender.block(0, lost={1})
    sender.block(1, lost={2})
    sender.open(1, is_repair=True)
    for index in range(FRAMES):
        sender.receiver.receive(index, bytes([index]) * 8 if index != 2 else frame(1, 2))
    sender.repair(7, 0)  # a block nobody has begun
    sender.repair(0, 1)
    sender.given += sender.receiver.take()
    assert sender.given == [data(0), data(1)]
    sender.repair(0, 1)  # and one that is done
    assert sender.missing(1) == []


def test_what_is_beyond_the_window_is_not_kept(sender):
    """Four blocks; the flasher never goes further while the first is incomplete, so this is not its word."""
    sender.block(0, lost={0})
    for block in range(1, 4):
        sender.block(block)
    assert not sender.check(4)
    sender.open(4)  # ignored as well: frames still belong to the block that was expected
    for block in range(4, 20):
        sender.block(block, check=False)
    assert len(sender.receiver._blocks) == 4
    assert sender.missing(3) == [(0, 0)]
    sender.repair(0, 0)
    sender.given += sender.receiver.take()
    assert sender.given == [data(block) for block in range(4)]
    sender.open(4)
    sender.block(4)
    assert sender.given[-1] == data(4)


def test_a_node_that_has_more_than_the_stream_ignores_what_it_has():
    """A broadcast begins at the lowest offset of all nodes."""
    sender = Sender()
    sender.receiver.next_block = 300
    sender.open(0)
    for block in range(302):
        sender.block(block)
        assert sender.missing(block) == []
    assert sender.given == [data(300), data(301)]


@pytest.mark.parametrize("number", [130, 90, 40, 60, 160, 161, 200, 254, 255])
@pytest.mark.parametrize("is_check", [True, False])
def test_one_wrong_number_does_not_carry_the_count_away(number, is_check):
    """A stray or spoilt OpenBlock or CheckBlock, at a node that takes whatever number is possible."""
    sender = Sender(window_blocks=30)
    sender.receiver.next_block = 500
    sender.open(0)
    for block in range(500):
        sender.block(block, check=True)
        if block == 100:
            if is_check:
                sender.receiver.check(number, FRAMES, 0)
            else:
                sender.receiver.open(number)
    sender.open(500)  # as after any repair
    sender.block(500)
    assert sender.given == [data(500)]
    assert sender.receiver.next_number == 501 % 255


def test_frames_alone_do_not_carry_the_count_away(sender):
    """Late frames of repairs, again and again: each counts on, and none of them names a block."""
    sender.block(0, lost={7})
    for _ in range(300):
        sender.send(0, 0, 3, 7)
    assert sender.check(0)
    sender.repair(0, 7)
    sender.given += sender.receiver.take()
    assert sender.given == [data(0)]


def test_a_newer_check_sets_a_count_right_that_has_run_ahead(sender):
    """Two late frames of the block before have counted a whole block too many; the next CheckBlock is believed."""
    sender.block(0)
    sender.send(0, 3, 7, 3, 7)
    sender.block(1)
    sender.block(2)
    assert sender.given[0] == data(0)
    assert sender.missing(2) == [(1, index) for index in range(FRAMES) if index not in {3, 7}]  # block 2 is whole
    for _ in range(3):  # what the late frames have left is found out by the CRC
        sender.repair(1, *(index for _, index in sender.missing(2)))
        sender.check(1)
    assert sender.given == [data(0), data(1), data(2)]


def test_a_repeated_check_does_not_set_the_count_back(sender):
    """Block 0 is asked about once more while block 3 is on its way."""
    for block in range(3):
        sender.block(block)
    sender.send(3, 0, 1, 2)
    sender.check(0)
    sender.send(3, *range(3, FRAMES))
    sender.check(3)
    assert sender.given == [data(block) for block in range(4)]


@pytest.mark.parametrize("seed", range(40))
def test_any_loss_and_repetition_ends_in_the_same_bytes(seed):
    """A small flasher that repairs what is said to be missing, over a channel that loses, doubles and swaps."""
    rng = Random(seed)
    loss = rng.choice((0.02, 0.1, 0.3))
    blocks, window = 40, 6
    sender = Sender(window_blocks=window, frames=16)
    receiver, queue = sender.receiver, []

    def say(*what):
        draw = rng.random()
        if draw >= loss:
            queue.append(what)
        if draw > 0.95:
            queue.append(what)
        if len(queue) > 1 and rng.random() < 0.05:
            queue[-1], queue[-2] = queue[-2], queue[-1]

    def deliver():
        for name, *arguments in queue:
            getattr(sender, name)(*arguments) if name != "repair" else sender.open(arguments[0], is_repair=True)
        queue.clear()

    sent, rounds = 0, 0
    say("open", 0)
    while receiver.next_block < blocks:
        while sent < min(blocks, receiver.next_block + window):
            for index in range(16):
                say("send", sent, index)
            say("check", sent)
            sent += 1
        deliver()
        by_block = {}
        for block, index in sender.missing(sent - 1):
            by_block.setdefault(block, []).append(index)
        for block, indices in by_block.items():
            say("repair", block)
            for index in indices:
                say("send", block, index) if index != CHECK_FRAME else say("check", block)
        say("open", sent)
        deliver()
        sender.given += receiver.take()
        assert len(receiver._blocks) <= window
        rounds += 1
        assert rounds < 400, f"seed {seed}: block {receiver.next_block} does not get done"
    assert sender.given == [data(block, 16) for block in range(blocks)]
