"""The conformance vectors: frames of twenty sources, with what their sources say they mean (the file says where from)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from bmsota.checksums import bcc_xor
from bmsota.gbt32960 import FrameReader, encode
from bmsota.gbt32960._codec import message_layout
from bmsota.gbt32960._extension import EXTENSION_VERSION
from bmsota.gbt32960._fields import (
    CodeTable,
    Field,
    FixedBytes,
    Layout,
    PackTable,
    Repeat,
    SizedBytes,
    SizedText,
    Text,
    Time,
)
from bmsota.gbt32960._tables import BODY_LAYOUTS, EXTENSION_BODY_LAYOUTS, EXTENSION_LAYOUTS, EXTENSION_REPLY_LAYOUTS

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))


def pytest_generate_tests(metafunc):
    """`good_vector` runs over the frames that are valid, `bad_vector` over those that are not."""
    for name, is_good in (("good_vector", True), ("bad_vector", False)):
        if name in metafunc.fixturenames:
            chosen = [vector for vector in VECTORS if (vector["strict_decode"] == "ok") is is_good]
            metafunc.parametrize(name, chosen, ids=[vector["id"] for vector in chosen])


@pytest.fixture(scope="session")
def good_frames():
    """The bytes of every valid frame."""
    return [bytes.fromhex(vector["hex"]) for vector in VECTORS if vector["strict_decode"] == "ok"]


@pytest.fixture(scope="session")
def vectors():
    """Every vector by its id."""
    return {vector["id"]: vector for vector in VECTORS}


START_NS = 1_767_225_600 * 10**9
"""2026-01-01 08:00:00 Beijing time."""


class Talk:
    """A conversation as a list of lines, for comparing with a script.

    A line is a time since the start, then what happened: `>` the session sent a frame, `!` it reported an event. The time
    runs from one timeout of the session to the next; nothing waits.
    """

    def __init__(self, session):
        self.session = session
        self.now_ns = START_NS
        self.lines = []
        self.events = []
        self.reader = FrameReader()
        self.frames = []

    def note(self):
        """Write down what the session has sent and said."""
        seconds = (self.now_ns - START_NS) / 10**9
        clock = f"{int(seconds // 3600):02}:{int(seconds // 60) % 60:02}:{seconds % 60:02.0f}"
        self.reader.receive_data(self.session.data_to_send())
        while (event := self.reader.next_event()) is not None:
            frame = event.frame
            self.frames.append(frame)
            flag = "" if frame.reply_flag == 0xFE else f" flag {frame.reply_flag}"
            self.lines.append(f"{clock} > {frame.command:#04x}{flag} {type(frame.message).__name__}")
        while (event := self.session.next_event()) is not None:
            self.events.append(event)
            parts = [type(event).__name__]
            for name in ("reason", "reply_flag", "misses", "attempt", "serial", "command", "count", "tries"):
                value = getattr(event, name, None)
                if value is not None:
                    parts.append(f"{name}={int(value) if isinstance(value, int) else getattr(value, 'name', value)}")
            self.lines.append(f"{clock} ! {' '.join(parts)}")

    def do(self, name, *arguments, **more):
        """Call a method of the session, now."""
        getattr(self.session, name)(*arguments, self.now_ns, **more)
        self.note()

    def hear(self, frame):
        """Let the session receive a frame."""
        self.do("receive_data", encode(frame))

    def pass_time(self, seconds):
        """Let time pass, with every timeout on the way handled at its time and not before."""
        until = self.now_ns + round(seconds * 10**9)
        while (due := self.session.next_timeout()) is not None and due <= until:
            self.now_ns = max(self.now_ns, due)
            self.do("handle_timeout")
        self.now_ns = until
        self.do("handle_timeout")

    def take(self):
        """Return the lines so far and begin anew."""
        lines, self.lines = self.lines, []
        return lines


@pytest.fixture
def talk():
    """Makes a `Talk` with a session."""
    return Talk


# --- the bytes of frames, generated from the tables ------------------------------------------------------------------

TIMES = st.tuples(
    st.integers(0, 99), st.integers(1, 12), st.integers(1, 28), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59)
).map(bytes)  # fmt: skip


def _bytes_of_row(row):
    """Bytes that may stand where *row* is: any number, with the sentinels and limits often."""
    match row:
        case Field():
            top = (1 << 8 * row.size_bytes) - 1
            raws = st.sampled_from([0, row.raw_min, row.raw_max, top - 2, top - 1, top]) | st.integers(0, top)
            if row.name == "extension":
                raws = st.just(row.raw_min)
            return raws.map(lambda raw: raw.to_bytes(row.size_bytes, "big"))
        case Time():
            return TIMES
        case Text():
            return st.binary(max_size=row.size_bytes).map(lambda raw: raw.ljust(row.size_bytes, b"\0"))
        case SizedText():
            texts = st.text(min_size=row.size_bytes_min, max_size=row.size_bytes_max // 4).map(str.encode)
            return texts.map(lambda raw: bytes((len(raw),)) + raw)
        case SizedBytes():
            return st.binary(min_size=row.size_bytes_min, max_size=40).map(
                lambda raw: len(raw).to_bytes(2, "big") + raw
            )
        case FixedBytes():
            return st.binary(min_size=row.size_bytes, max_size=row.size_bytes)
        case Repeat():
            item = _bytes_of_layout(row.item) if isinstance(row.item, Layout) else _bytes_of_row(row.item)
            size = row.count_size_bytes
            lists = st.lists(item, max_size=3 if isinstance(row.item, Layout) else 12).map(
                lambda items: len(items).to_bytes(size, "big") + b"".join(items)
            )
            top = (1 << 8 * size) - 1
            none = st.sampled_from([top - 1, top]).map(lambda count: count.to_bytes(size, "big"))
            return lists | none if row.sentinels else lists
        case CodeTable():
            return st.integers(0, 4).flatmap(
                lambda length: st.integers(0, 3).flatmap(
                    lambda count: st.binary(min_size=count * length, max_size=count * length).map(
                        lambda codes: bytes((count, length)) + codes
                    )
                )
            )
        case PackTable():
            return st.lists(st.integers(0, 2), max_size=3).flatmap(
                lambda counts: st.binary(min_size=24 * sum(counts), max_size=24 * sum(counts)).map(
                    lambda codes: bytes((len(counts), *counts)) + codes
                )
            )
    raise AssertionError(row)


def _bytes_of_layout(layout):
    return st.tuples(*map(_bytes_of_row, layout.rows)).map(b"".join)


def frame_bytes(edition, command, flag, vin, unit):
    """A whole frame around a data unit."""
    data = edition.value + bytes((command, flag)) + vin.ljust(17, b"\0") + b"\1" + len(unit).to_bytes(2, "big") + unit
    return data + bytes((bcc_xor(data[2:]),))


VINS = st.sampled_from([b"LTEST000000000001", b"LTEST000000000002", b"SHORT", b"A B", b"", b"PADDED" + b" " * 11])


def _reports(edition):
    bodies = [
        _bytes_of_layout(layout).map(bytes((type_id,)).__add__) for type_id, layout in BODY_LAYOUTS[edition].items()
    ]
    ours = [
        st.tuples(st.just(type_id), _bytes_of_layout(layout).map(EXTENSION_VERSION.to_bytes(2, "big").__add__))
        for type_id, layout in EXTENSION_BODY_LAYOUTS.items()
    ]
    theirs = st.tuples(st.sampled_from([0x80, 0xFE, *EXTENSION_BODY_LAYOUTS]), st.binary(max_size=20))
    user_defined = st.one_of(theirs, *ours).map(
        lambda parts: bytes((parts[0],)) + len(parts[1]).to_bytes(2, "big") + parts[1]
    )
    return st.builds(
        frame_bytes,
        st.just(edition),
        st.sampled_from([2, 3]),
        st.just(0xFE),
        VINS,
        st.tuples(TIMES, st.lists(st.one_of(*bodies, user_defined), max_size=4).map(b"".join)).map(b"".join),
    )


def _messages(edition):
    found = {command: message_layout(edition, command, b"", 0, 0) for command in range(256)} | EXTENSION_LAYOUTS
    commands = [(command, 0xFE, layout) for command, layout in found.items() if layout is not None]
    replies = [(command, 0x01, layout) for command, layout in EXTENSION_REPLY_LAYOUTS.items()]
    return st.one_of(
        *(
            st.builds(frame_bytes, st.just(edition), st.just(command), st.just(flag), VINS, _bytes_of_layout(layout))
            for command, flag, layout in (*commands, *replies)
        )
    )


@pytest.fixture(scope="session")
def reports():
    """A function that gives, by edition, the bytes of reports of any bodies. (A function, because strategies print long.)"""
    found = {edition: _reports(edition) for edition, layouts in BODY_LAYOUTS.items() if layouts}
    return lambda: found


@pytest.fixture(scope="session")
def messages():
    """A function that gives, by edition, the bytes of frames of every command and answer that has a layout."""
    found = {edition: _messages(edition) for edition in BODY_LAYOUTS}
    return lambda: found
