"""The kept corpus of the fuzz target holds its invariant: seeds, what reached something new, and every finding ever made."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("fuzz_gbt32960", Path(__file__).parent / "fuzz_gbt32960.py")
target = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(target)


def test_the_corpus_is_there():
    """It reaches every mode, both editions, and frames that are valid."""
    inputs = [path.read_bytes() for path in target.corpus()]
    assert len(inputs) >= 100
    assert {data[0] % len(target.MODES) for data in inputs if data} == set(range(len(target.MODES)))


@pytest.mark.parametrize("first", "0123456789abcdef")
def test_nothing_is_found(first):
    """Replayed in sixteen heaps, by the input's name, so that a failure says where to look."""
    for number, path in enumerate(target.corpus()):
        if f"{number % 16:x}" == first:
            try:
                target.check(path.read_bytes())
            except Exception as error:
                error.add_note(f"input {path.name}")
                raise


def test_a_repaired_frame_is_one():
    """Length and check byte fit whatever the rest is, so that the fuzzer gets past them."""
    from bmsota.gbt32960 import decode_header

    for size in (0, 1, 25, 300, 70_000):
        frame = target.repaired(b"\2\2\2\xfe" + b"A" * 17 + b"\1" * size, b"##")
        assert decode_header(frame).data_size_bytes == len(frame) - 25


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("encode", lambda frame: b"##"),
        ("explain", lambda data: ()),
        ("decode", lambda data: 1 / 0),
    ],
)
def test_the_target_sees_a_broken_codec(monkeypatch, name, broken):
    """An invariant that cannot fail would find nothing for ever."""
    monkeypatch.setattr(target, name, broken)
    with pytest.raises((AssertionError, ZeroDivisionError)):
        target.check(b"\1" + bytes.fromhex("232307fe4c424d4637455630315230303030303031010000bb"))


def test_the_target_sees_a_reader_that_loses_bytes(monkeypatch):
    class Losing(target.FrameReader):
        def receive_data(self, data):
            super().receive_data(data[1:])

    monkeypatch.setattr(target, "FrameReader", Losing)
    with pytest.raises(AssertionError, match="give back"):
        target.check(b"\2\0some stream")


def test_the_target_sees_a_reader_that_minds_the_pieces(monkeypatch):
    """A reader that finds the frame only when it comes whole gives every byte back, and is found all the same."""

    class Whole(target.FrameReader):
        pieces = 0

        def receive_data(self, data):
            type(self).pieces += 1
            super().receive_data(data)

        def next_event(self):
            event = super().next_event()
            if isinstance(event, target.FrameReceived) and type(self).pieces > 1:
                return DiscardedBytes(event.offset, event.raw, "in pieces")
            return event

    from bmsota.gbt32960 import DiscardedBytes

    monkeypatch.setattr(target, "FrameReader", Whole)
    with pytest.raises(AssertionError, match="other frames"):
        target.check(b"\2\0" + bytes.fromhex("232307fe4c424d4637455630315230303030303031010000bb"))
