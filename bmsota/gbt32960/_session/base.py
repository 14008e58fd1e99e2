"""What both ends of a conversation are made of: a state, timers, a reader, outgoing bytes and events.

A session is a table of states, a table of timers and some methods; this is the machine that runs them. Time and bytes go in,
events and bytes come out; nothing here waits or opens anything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum, IntEnum, auto
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._enums import Command
from bmsota.gbt32960._messages import TimeReply
from bmsota.gbt32960._reader import DiscardedBytes, FrameReader
from bmsota.gbt32960._session.events import FrameRefused
from bmsota.gbt32960._time import SECOND_NS, beijing_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bmsota.gbt32960._cipher import DataUnitCipher
    from bmsota.gbt32960._frame import Frame
    from bmsota.gbt32960._reader import FrameReceived, RefusalKind
    from bmsota.gbt32960._registry import Layouts
    from bmsota.gbt32960._session.backfill import StoredReport


TRIES: Final = 3
"""Annex B and B.2.9: what is not answered is sent three times."""
_UNFINISHED_NS: Final = 30 * SECOND_NS
"""How long the rest of a frame may take. A frame is one burst; after this its beginning was none."""
_BURST_NS: Final = SECOND_NS
"""So long a whole frame inside an unfinished one may be what that one carries. Then it is the next frame, behind a false beginning.
Also how often the waiting bytes are looked through: a sender of single bytes must not make that costly."""

SECURITY_UP: Final = frozenset({Command.ACTIVATION, Command.KEY_EXCHANGE})
SECURITY_DOWN: Final = frozenset({Command.ACTIVATION_REPLY, Command.KEY_EXCHANGE})
"""2025: may come before the login, which may already need the key."""


class SessionTimer(IntEnum):
    """In the order in which they run when several are due. Integers, because they are keys on the hot path."""

    UNFINISHED = auto()
    CONNECT = auto()
    COMMAND = auto()
    LOGIN = auto()
    LOGOUT = auto()
    SILENCE = auto()
    HEARTBEAT = auto()
    EXTENSION = auto()
    RESEND = auto()
    BACKFILL = auto()


def time_reply(frame: Frame, now_ns: int) -> TimeReply:
    """The plain answer to *frame*: its own time (6.3.2), or ours if it has none."""
    return TimeReply(getattr(frame.message, "time", None) or beijing_time(now_ns))


StateT = TypeVar("StateT", bound=Enum)
EventT = TypeVar("EventT")


class BaseSession(ABC, Generic[StateT, EventT]):
    """One end of one link. The tables of a subclass say what it does when."""

    __slots__ = (
        "__weakref__",
        "_event_at",
        "_events",
        "_is_next_known",
        "_look_ns",
        "_next_ns",
        "_outgoing",
        "_outgoing_size_bytes",
        "_reader",
        "_state",
        "_timers",
        "_unfinished_at",
        "_unfinished_due_ns",
        "_unfinished_end",
    )

    _NAME: ClassVar[str]
    _TRANSITIONS: ClassVar[Mapping[Any, Mapping[Any, Any]]]
    """State -> what happens -> state. Anything else is an error of the caller."""
    _LINKED: ClassVar[frozenset[Any]]
    """States in which there is a link."""
    _DEAF: ClassVar[frozenset[Any]] = frozenset()
    """States in which received bytes are not looked at."""
    _DUE: ClassVar[Mapping[SessionTimer, Callable[[Any, int], None]]]
    """SessionTimer -> the method that does what is due."""

    def __init__(self, state: StateT, cipher: DataUnitCipher | None, layouts: Layouts | None) -> None:
        self._state = state
        self._reader = FrameReader(cipher=cipher, layouts=layouts)
        self._events: list[EventT | DiscardedBytes | FrameRefused] = []
        """What was not returned yet, from `_event_at` on; before it is what was. Empty once all were: a deque is 0.8 kB in each of
        many sessions, and mostly there is one event."""
        self._event_at = 0
        self._outgoing: list[tuple[bytes, StoredReport | int | None]] = []
        """What waits for the link. Beside its bytes a report is kept, in case the link never takes them; of one that the caller
        has encoded, and whose bytes are the report, the time at which it was collected."""
        self._outgoing_size_bytes = 0
        self._timers: dict[SessionTimer, int] = {}
        """When each is due; changed by `_start` and `_stop` only."""
        self._next_ns: int | None = None
        """The earliest of them, if `_is_next_known`."""
        self._is_next_known = True
        self._unfinished_at = -1
        """Where in the stream the frame began whose rest is waited for; -1: there is none."""
        self._unfinished_end = 0
        """How far the stream had come when the wait for it began."""
        self._unfinished_due_ns = 0
        """When it is given up."""
        self._look_ns = 0
        """When the bytes that wait may be looked through for a whole frame."""

    # --- what the caller asks ----------------------------------------------------------------------------------------

    @property
    def state(self) -> StateT:
        """Where the session stands."""
        return self._state

    def next_event(self) -> EventT | DiscardedBytes | FrameRefused | None:
        """Return the oldest event that was not returned yet; None if there is none."""
        events = self._events
        if not events:
            return None
        event = events[self._event_at]
        self._event_at += 1
        if self._event_at == len(events):
            events.clear()
            self._event_at = 0
        return event

    def data_to_send(self) -> bytes:
        """Return what the link should send now; each byte once."""
        outgoing = self._outgoing
        if not outgoing:
            return b""
        data = outgoing[0][0] if len(outgoing) == 1 else b"".join([raw for raw, _ in outgoing])
        outgoing.clear()
        self._outgoing_size_bytes = 0
        return data

    def next_timeout(self) -> int | None:
        """Return when `handle_timeout` has something to do; 0 means at once, None means never."""
        if not self._is_next_known:
            self._next_ns = min(self._timers.values(), default=None)
            self._is_next_known = True
        return self._next_ns

    # --- what happened -----------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes, now_ns: int) -> None:
        """Take what the link received. Bytes that come without a link, or while it is being closed, count as well."""
        self._reader.receive_data(data)
        self._read(now_ns)

    def handle_timeout(self, now_ns: int) -> None:
        """Do what is due at *now_ns*. Has no effect before its time."""
        while (due_ns := self.next_timeout()) is not None and due_ns <= now_ns:
            timer = min(timer for timer, timer_ns in self._timers.items() if timer_ns == due_ns)
            self._stop(timer)
            if timer is SessionTimer.UNFINISHED:
                self._unfinished_due(now_ns)
            else:
                self._DUE[timer](self, now_ns)

    # --- for the sessions --------------------------------------------------------------------------------------------

    def _move(self, what: Enum) -> None:
        following = self._TRANSITIONS[self._state].get(what)
        if following is None:
            msg = f"{self._NAME}: not possible in state {self._state.name} ({what.name})"
            raise LocalProtocolError(msg)
        self._state = following

    def _start(self, timer: SessionTimer, due_ns: int) -> None:
        """Let *timer* be due then, and not when it was before."""
        self._timers[timer] = due_ns
        self._is_next_known = False

    def _stop(self, timer: SessionTimer) -> None:
        """Let *timer* not be due. Does nothing if it is not."""
        if self._timers.pop(timer, None) is not None:
            self._is_next_known = False

    def _stop_all(self) -> None:
        self._timers.clear()
        self._unfinished_at = -1
        self._is_next_known = False

    def _use(self, cipher: DataUnitCipher | None, layouts: Layouts | None) -> None:
        """Read with these from the next frame on."""
        self._reader.cipher, self._reader.layouts = cipher, layouts

    def _send(self, raw: bytes, stored: StoredReport | None = None) -> None:
        self._outgoing.append((raw, stored))
        self._outgoing_size_bytes += len(raw)

    def _read(self, now_ns: int) -> None:
        while self._state not in self._DEAF:
            event = self._reader.next_event()
            if event is None:
                if self._waits_for_rest(now_ns):
                    return
            elif isinstance(event, DiscardedBytes):
                self._receive_discarded(event, now_ns)
            else:
                self._receive(event, now_ns)

    def _waits_for_rest(self, now_ns: int) -> bool:
        """Give the frame that has begun its time. The time runs from its beginning: more bytes do not make it longer.

        Returns:
            Whether there is nothing to read now; False if a whole frame stood in an unfinished one, which is given up.
        """
        reader = self._reader
        if not reader.unfinished_size_bytes or self._state not in self._LINKED:
            if self._unfinished_at >= 0:
                self._stop(SessionTimer.UNFINISHED)
                self._unfinished_at = -1
        elif reader.unfinished_offset != self._unfinished_at:
            self._unfinished_at = reader.unfinished_offset
            self._unfinished_end = self._unfinished_at + reader.unfinished_size_bytes
            self._unfinished_due_ns = now_ns + _UNFINISHED_NS
            self._look_ns = now_ns + _BURST_NS
            self._start(SessionTimer.UNFINISHED, self._look_ns)
        elif now_ns >= self._look_ns:
            if reader.skip_to_frame():
                return False
            self._look_ns = now_ns + _BURST_NS
            self._start(SessionTimer.UNFINISHED, self._unfinished_due_ns)
        else:
            self._start(SessionTimer.UNFINISHED, min(self._look_ns, self._unfinished_due_ns))
        return True

    def _unfinished_due(self, now_ns: int) -> None:
        """What has begun is no frame, nor is any other beginning that was there already when the wait began."""
        if now_ns < self._unfinished_due_ns:
            self._read(now_ns)
            return
        end = self._unfinished_end
        while self._state not in self._DEAF and self._reader.unfinished_size_bytes and self._unfinished_at < end:
            self._reader.skip_start()
            self._read(now_ns)

    def _drain(self, now_ns: int) -> None:
        """Take every whole frame out of what has come: no rest will."""
        while self._state not in self._DEAF and self._reader.unfinished_size_bytes:
            self._reader.skip_start()
            self._read(now_ns)

    @abstractmethod
    def _receive(self, event: FrameReceived, now_ns: int) -> None:
        """A valid frame has come."""

    def _receive_discarded(self, discarded: DiscardedBytes, now_ns: int) -> None:  # noqa: ARG002 - the platform needs it
        """Bytes that belong to no frame have come: report them."""
        self._events.append(discarded)

    def _refuse(self, event: FrameReceived, kind: RefusalKind, reason: str, reply_flag: int | None = None) -> None:
        self._events.append(FrameRefused(event.frame, reason, kind, event.raw, reply_flag))
