"""The conformance vectors: frames of twenty sources, with what their sources say they mean (the file says where from)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bmsota.gbt32960 import NEED_DATA, FrameReader, encode

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
        while (event := self.reader.next_event()) is not NEED_DATA:
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
