"""What both ends of a conversation are made of: a state, timers, a reader, outgoing bytes and events.

A session is a table of states, a table of timers and some methods; this is the machine that runs them. Time and bytes go in,
events and bytes come out; nothing here waits or opens anything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._enums import Command
from bmsota.gbt32960._messages import TimeReply
from bmsota.gbt32960._reader import NEED_DATA, DiscardedBytes, FrameReader
from bmsota.gbt32960._session.events import FrameRefused
from bmsota.gbt32960._time import SECOND_NS, beijing_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bmsota.gbt32960._cipher import DataUnitCipher
    from bmsota.gbt32960._frame import Frame
    from bmsota.gbt32960._reader import FrameReceived
    from bmsota.gbt32960._registry import Layouts
    from bmsota.gbt32960._session.backfill import StoredReport


TRIES: Final = 3
"""Annex B and B.2.9: what is not answered is sent three times."""
_UNFINISHED_NS: Final = 30 * SECOND_NS
"""How long the rest of a frame may take. A frame is one burst; after this its beginning was none."""

SECURITY_UP: Final = frozenset({Command.ACTIVATION, Command.KEY_EXCHANGE})
SECURITY_DOWN: Final = frozenset({Command.ACTIVATION_REPLY, Command.KEY_EXCHANGE})
"""2025: may come before the login, which may already need the key."""


class SessionTimer(Enum):
    """In the order in which they run when several are due."""

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
        self._events: deque[EventT | DiscardedBytes | FrameRefused] = deque()
        self._outgoing: list[tuple[bytes, StoredReport | None]] = []
        """What waits for the link; a report is kept beside its bytes, in case the link never takes them."""
        self._outgoing_size_bytes = 0
        self._timers: dict[SessionTimer, int] = {}

    # --- what the caller asks ----------------------------------------------------------------------------------------

    @property
    def state(self) -> StateT:
        """Where the session stands."""
        return self._state

    def next_event(self) -> EventT | DiscardedBytes | FrameRefused | None:
        """Return the oldest event that was not returned yet; None if there is none."""
        return self._events.popleft() if self._events else None

    def data_to_send(self) -> bytes:
        """Return what the link should send now; each byte once."""
        if not self._outgoing:
            return b""
        data = b"".join(raw for raw, _ in self._outgoing)
        self._outgoing.clear()
        self._outgoing_size_bytes = 0
        return data

    def next_timeout(self) -> int | None:
        """Return when `handle_timeout` has something to do; 0 means at once, None means never."""
        return min(self._timers.values(), default=None)

    # --- what happened -----------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes, now_ns: int) -> None:
        """Take what the link received. Bytes that come without a link, or while it is being closed, count as well."""
        self._reader.receive_data(data)
        self._timers.pop(SessionTimer.UNFINISHED, None)
        self._read(now_ns)

    def handle_timeout(self, now_ns: int) -> None:
        """Do what is due at *now_ns*. Has no effect before its time."""
        while self._timers:
            timer = min(self._timers, key=lambda item: (self._timers[item], item.value))
            if self._timers[timer] > now_ns:
                return
            del self._timers[timer]
            if timer is SessionTimer.UNFINISHED:
                self._reader.skip_start()
                self._read(now_ns)
            else:
                self._DUE[timer](self, now_ns)

    # --- for the sessions --------------------------------------------------------------------------------------------

    def _move(self, what: Enum) -> None:
        following = self._TRANSITIONS[self._state].get(what)
        if following is None:
            msg = f"{self._NAME}: not possible in state {self._state.name} ({what.name})"
            raise LocalProtocolError(msg)
        self._state = following

    def _use(self, cipher: DataUnitCipher | None, layouts: Layouts | None) -> None:
        """Read with these from the next frame on."""
        self._reader.cipher, self._reader.layouts = cipher, layouts

    def _send(self, raw: bytes, stored: StoredReport | None = None) -> None:
        self._outgoing.append((raw, stored))
        self._outgoing_size_bytes += len(raw)

    def _read(self, now_ns: int) -> None:
        while self._state not in self._DEAF:
            event = self._reader.next_event()
            if event is NEED_DATA:
                if self._reader.unfinished_size_bytes and self._state in self._LINKED:
                    self._timers[SessionTimer.UNFINISHED] = now_ns + _UNFINISHED_NS
                return
            if isinstance(event, DiscardedBytes):
                self._events.append(event)
                self._receive_discarded(event, now_ns)
            else:
                self._receive(event, now_ns)

    @abstractmethod
    def _receive(self, event: FrameReceived, now_ns: int) -> None:
        """A valid frame has come."""

    def _receive_discarded(self, discarded: DiscardedBytes, now_ns: int) -> None:
        """Bytes that belong to no frame have come; they are reported already."""

    def _refuse(self, frame: Frame, reason: str) -> None:
        self._events.append(FrameRefused(frame, reason))
