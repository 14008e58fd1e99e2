"""J1939 transport packets put together, as they are seen on the bus (SAE J1939-21, 5.10; GB/T 27930 uses the same).

A message of 9 to 1785 bytes is cut into packets of 7. It is announced to all (BAM) or to one node, which asks for the packets
in portions (RTS, CTS) and may ask again for some of them. This reassembler only listens: it answers nothing, it takes packets in
any order, and it may begin in the middle of a conversation, where the first CTS and the end's acknowledgement say what the
announcement would have said.

Left out: the extended protocol for more than 1785 bytes (ETP), and J1939-22 (CAN FD). `OtherTransport` recognizes their frames.

Strategy. A session is a pair of addresses, as the standard allows one at a time from one node to another (and one to all). It
ends when its packets are complete, which is when the message is given out: not only at the acknowledgement, which a broadcast
does not have. A complete session stays known until the next one, so that packets that are sent again and the acknowledgement
are not taken for strays. What does not become a message is counted by its reason.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

_CONTROL_FORMAT = 0xEC
_DATA_FORMAT = 0xEB
_REQUEST_TO_SEND = 16
_CLEAR_TO_SEND = 17
_END_OF_MESSAGE = 19
_ANNOUNCEMENT = 32
_ABORT = 255
_BROADCAST = 0xFF

# From this PDU format on, the byte below it belongs to the PGN; under it, it is the destination's address.
_PDU2_FORMAT_MIN = 240

# J1939-21, 5.11: the extended protocol's data and its control. J1939-22: several parameter groups in a frame, control, data.
_EXTENDED_FORMATS = (0xC7, 0xC8)
_FD_FORMATS = (0x25, 0x4D, 0x4E)

_FRAME_SIZE = 8
_PACKET_SIZE = 7
TRANSPORT_SIZE_BYTES_MAX = 1785

# The longest time between two frames of a session: T2 and T3 of the standard (5.10.2.4) are 1250 ms.
SESSION_TIMEOUT_NS = 1_250_000_000
# More conversations at one time than any network has; a flood of announcements must not grow without end.
SESSIONS_MAX = 512


def pgn_of(can_id: int) -> int:
    """The parameter group number of a J1939 frame's 29-bit id.

    >>> f"{pgn_of(0x18FEF100):X}", f"{pgn_of(0x1C0256F4):X}"
    ('FEF1', '200')
    """
    number = can_id >> 8 & 0x3FFFF
    return number if number >> 8 & 0xFF >= _PDU2_FORMAT_MIN else number & 0x3FF00


class TransportFault(Enum):
    """Why a message that was sent in packets could not be put together."""

    MISSED_PACKETS = "packets missing"
    RESTARTED = "announced again before it was complete"
    ABORTED = "aborted by a node"
    TIMED_OUT = "no packet for 1.25 s"
    STRAY = "packet without an announcement"
    MALFORMED = "malformed packet"
    UNFINISHED = "not complete at the end"


class OtherTransport(Enum):
    """A way to send a message in packets that is recognized, but not put together."""

    EXTENDED = "J1939 extended transport (ETP)"
    FD = "J1939-22 (CAN FD)"

    @classmethod
    def of(cls, can_id: int, size_bytes: int) -> OtherTransport | None:
        """What a frame with this extended id and as many bytes belongs to; None if it is none of these.

        >>> OtherTransport.of(0x18C7F456, 8), OtherTransport.of(0x1C4DFF56, 12), OtherTransport.of(0x1CEBFF56, 8)
        (<OtherTransport.EXTENDED: 'J1939 extended transport (ETP)'>, <OtherTransport.FD: 'J1939-22 (CAN FD)'>, None)
        """
        if can_id >> 24 & 3:
            return None
        pdu_format, is_fd = can_id >> 16 & 0xFF, size_bytes > _FRAME_SIZE
        if pdu_format in _EXTENDED_FORMATS and not is_fd:
            return cls.EXTENDED
        return cls.FD if pdu_format in _FD_FORMATS and is_fd else None


@dataclass(frozen=True, slots=True)
class TransportMessage:
    """A message put together from packets."""

    can_id: int
    """The extended id that one frame of this message would have: its PGN and addresses, the priority of the packets."""
    data: bytes


@dataclass(slots=True)
class _Session:
    pgn: int
    priority: int
    last_ns: int
    size_bytes: int | None
    """None if the announcement was before our time."""
    packets: dict[int, bytes] = field(default_factory=dict)
    is_done: bool = False

    @property
    def count(self) -> int | None:
        return None if self.size_bytes is None else -(-self.size_bytes // _PACKET_SIZE)


class TransportReassembler:
    """Puts the transport packets of one bus together. Give it every extended frame, in the order of the bus."""

    __slots__ = ("_sessions", "faults")

    def __init__(self) -> None:
        self.faults: Counter[TransportFault] = Counter()
        """What did not become a message, by its reason."""
        self._sessions: dict[tuple[int, int], _Session] = {}

    @staticmethod
    def is_packet(can_id: int) -> bool:
        """Whether a frame with this extended id belongs to the transport protocol, and is no message of its own."""
        return can_id >> 24 & 3 == 0 and can_id >> 16 & 0xFF in (_CONTROL_FORMAT, _DATA_FORMAT)

    def receive(self, can_id: int, data: bytes, now_ns: int) -> TransportMessage | None:
        """Take a frame; the message that it completes, if it does. Frames that are no packets are ignored.

        *now_ns* is the time of the frame. It may jump: only a pause between two frames of one session ends that session.
        """
        if not self.is_packet(can_id):
            return None
        if can_id >> 16 & 0xFF == _DATA_FORMAT:
            return self._data(can_id, data, now_ns)
        if len(data) < _FRAME_SIZE:
            self.faults[TransportFault.MALFORMED] += 1
            return None
        return self._control(can_id, data, now_ns)

    def finish(self) -> None:
        """No frame follows: count what is not complete."""
        for session in self._sessions.values():
            if not session.is_done:
                self.faults[TransportFault.UNFINISHED] += 1
        self._sessions.clear()

    def _control(self, can_id: int, data: bytes, now_ns: int) -> TransportMessage | None:
        source, destination = can_id & 0xFF, can_id >> 8 & 0xFF
        priority = can_id >> 26
        kind, pgn = data[0], int.from_bytes(data[5:8], "little")
        size, count = int.from_bytes(data[1:3], "little"), data[3]
        if kind in (_REQUEST_TO_SEND, _ANNOUNCEMENT):
            # To all by BAM only, to one by RTS only; a request to all would have nobody to clear it.
            is_broadcast = destination == _BROADCAST
            if is_broadcast != (kind == _ANNOUNCEMENT) or not _is_sound(size, count, pgn):
                self.faults[TransportFault.MALFORMED] += 1
                return None
            self._open((source, destination), _Session(pgn, priority, now_ns, size))
        elif kind == _CLEAR_TO_SEND:
            session = self._alive((destination, source), now_ns)
            if session is None or (session.is_done and session.pgn != pgn):
                self._open((destination, source), _Session(pgn, priority, now_ns, None))
            else:
                session.last_ns = now_ns
        elif kind == _END_OF_MESSAGE:
            return self._acknowledged((destination, source), pgn, size, count, now_ns)
        elif kind == _ABORT:
            for key in ((source, destination), (destination, source)):
                found = self._sessions.get(key)
                if found is not None and found.pgn == pgn:
                    del self._sessions[key]
                    self.faults[TransportFault.ABORTED] += not found.is_done
        else:
            self.faults[TransportFault.MALFORMED] += 1
        return None

    def _acknowledged(
        self, key: tuple[int, int], pgn: int, size: int, count: int, now_ns: int
    ) -> TransportMessage | None:
        session = self._alive(key, now_ns)
        if session is None or session.pgn != pgn:
            self.faults[TransportFault.MISSED_PACKETS] += 1  # The whole conversation was before our time.
            return None
        if session.is_done:
            return None
        if session.size_bytes is None and _is_sound(size, count, pgn):
            session.size_bytes = size
        message = self._completed(key, session)
        if message is None:
            del self._sessions[key]
            self.faults[TransportFault.MISSED_PACKETS] += 1
        return message

    def _data(self, can_id: int, data: bytes, now_ns: int) -> TransportMessage | None:
        key = (can_id & 0xFF, can_id >> 8 & 0xFF)
        session = self._alive(key, now_ns)
        if session is None:
            self.faults[TransportFault.STRAY] += 1
            return None
        session.last_ns = now_ns
        if session.is_done:
            return None  # Sent again to a receiver that missed it; we did not.
        number, payload = (data[0] if data else 0), data[1:_FRAME_SIZE]
        count = session.count
        wanted = _PACKET_SIZE
        if session.size_bytes is not None:
            wanted = min(_PACKET_SIZE, session.size_bytes - _PACKET_SIZE * (number - 1))
        if number == 0 or (count is not None and number > count) or len(payload) < wanted:
            self.faults[TransportFault.MALFORMED] += 1
            return None
        session.packets[number] = bytes(payload)
        message = self._completed(key, session)
        if message is None and number == count and key[1] == _BROADCAST:
            # The last one has come, and a broadcast is not repeated.
            del self._sessions[key]
            self.faults[TransportFault.MISSED_PACKETS] += 1
        return message

    def _completed(self, key: tuple[int, int], session: _Session) -> TransportMessage | None:
        count = session.count
        if count is None or session.size_bytes is None or len(session.packets) < count:
            return None
        # Without an announcement a packet may have come that the message does not have.
        if any(number not in session.packets for number in range(1, count + 1)):
            return None
        data = b"".join(session.packets[number] for number in range(1, count + 1))[: session.size_bytes]
        if len(data) < session.size_bytes:
            return None
        session.is_done = True
        session.packets.clear()
        source, destination = key
        group = session.pgn if session.pgn >> 8 & 0xFF >= _PDU2_FORMAT_MIN else session.pgn & 0x3FF00 | destination
        return TransportMessage(session.priority << 26 | group << 8 | source, data)

    def _alive(self, key: tuple[int, int], now_ns: int) -> _Session | None:
        """The session, unless it has been silent for too long."""
        session = self._sessions.get(key)
        if session is not None and now_ns - session.last_ns > SESSION_TIMEOUT_NS:
            del self._sessions[key]
            self.faults[TransportFault.TIMED_OUT] += not session.is_done
            return None
        return session

    def _open(self, key: tuple[int, int], session: _Session) -> None:
        former = self._alive(key, session.last_ns)
        if former is not None:
            del self._sessions[key]  # So that the order of the dictionary is that of the announcements.
            # A request is repeated until it is answered; that costs nothing.
            self.faults[TransportFault.RESTARTED] += bool(former.packets)
        while len(self._sessions) >= SESSIONS_MAX:
            oldest = self._sessions.pop(next(iter(self._sessions)))
            self.faults[TransportFault.UNFINISHED] += not oldest.is_done
        self._sessions[key] = session


def _is_sound(size: int, count: int, pgn: int) -> bool:
    """Whether an announcement (5.10.3) can be true."""
    return 0 < size <= TRANSPORT_SIZE_BYTES_MAX and count == -(-size // _PACKET_SIZE) and pgn < 1 << 18
