"""What vehicles sent, read from a capture, a log or a platform's export, as a fleet can send it again.

    recording = read_recording(find_frames(["export.csv"]))
    for vehicle in recorded_fleet(recording, count=50, seed=1):
        for due_ns, piece in vehicle.pieces(start_ns, loops=2):
            ...

A piece is a report, or the beginning or end of a drive (a login, a logout). The frames of these, heartbeats and questions for the time are
left to the session that sends the reports, so the platform's answers are heard and its clock is right. A report keeps every byte but the six of its time, the VIN
where it is sent for another vehicle, and the check byte.

When something was sent: as the source says (a capture, an export with a column of times), else when a real-time report was collected;
a backfilled one follows the frame before it. No I/O, no clock.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median_low
from typing import TYPE_CHECKING, Final, NamedTuple

from bmsota.errors import ConfigurationError
from bmsota.gbt32960 import (
    Command,
    Edition,
    Encryption,
    ReplyFlag,
    Report,
    Signature,
    VehicleLogin,
    VehicleLogin2025,
    beijing_time,
    nanoseconds,
)
from bmsota_sim.identity import vin_with_check_digit
from bmsota_sim.kernel import SECOND
from bmsota_sim.streams import stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bmsota.adapters.frame_sources import FoundFrame
    from bmsota.gbt32960 import Frame

__all__ = ["Piece", "RecordedVehicle", "Recording", "read_recording", "recorded_fleet", "without_gaps"]

FRAMES_MAX: Final = 5_000_000
"""About two gigabytes of reports of 342 bytes."""
PERIOD_S: Final = 30
"""Between two rounds of a loop, where a recording is too short to have a period of its own."""
_VIN: Final = slice(4, 21)
_TIME: Final = slice(24, 30)
_COMMAND: Final = 2
_ICCID: Final = "0" * 20
_LETTERS: Final = "0123456789ABCDEFGHJKLMNPRSTUVWXYZ"


class Piece(NamedTuple):
    """Something a vehicle sent."""

    sent_ns: int
    """When, in nanoseconds since the epoch."""
    collected_ns: int
    """When its values were collected."""
    frame: bytes
    """A whole frame 0x02 in the clear; empty: the vehicle logged in or out."""
    is_backfill: bool = False
    is_login: bool = False


@dataclass(frozen=True, slots=True)
class RecordedVehicle:
    """One vehicle, and what it sends."""

    vin: str
    edition: Edition
    login: VehicleLogin | VehicleLogin2025 | None
    """The first one that was recorded: ICCID and codes."""
    recorded: tuple[Piece, ...]
    """In the order in which it was sent."""
    period_ns: int
    """Of its reports, the median."""
    late_ns: int = 0
    """How long after the beginning of the whole recording it sends for the first time."""
    ahead_ns: int = 0
    """How far into the recording it begins; what it has skipped comes at the end. In whole seconds."""

    @property
    def iccid(self) -> str:
        return _ICCID if self.login is None else self.login.iccid

    def pieces(self, start_ns: int, *, loops: int = 1, shift: bool = True) -> Iterator[Piece]:
        """What it sends, *loops* times over, in the order in which it is sent.

        Args:
            start_ns: when the recording begins now, in nanoseconds since the epoch; whole seconds, or times of reports move by
                the part of a second that is left over.
            loops: how often; each round is moved by the length of the recording.
            shift: move the times inside the reports as well. If not, they stay as they were recorded.
        """
        if not self.recorded:
            return
        first_ns, last_ns = self.recorded[0].sent_ns, self.recorded[-1].sent_ns
        length_ns = _whole_seconds(last_ns - first_ns + self.period_ns)
        begin = next((at for at, each in enumerate(self.recorded) if each.sent_ns - first_ns >= self.ahead_ns), 0)
        for round_number in range(loops):
            for index in range(len(self.recorded)):
                at = begin + index
                wraps, piece = at // len(self.recorded), self.recorded[at % len(self.recorded)]
                moved_ns = start_ns - first_ns - self.ahead_ns + (round_number + wraps) * length_ns
                frame = piece.frame
                collected_ns = piece.collected_ns
                if frame and shift:
                    collected_ns += moved_ns
                    frame = _collected_at(frame, collected_ns)
                yield Piece(piece.sent_ns + moved_ns, collected_ns, frame, piece.is_backfill, piece.is_login)


@dataclass(frozen=True, slots=True)
class Recording:
    """All vehicles of a recording."""

    vehicles: tuple[RecordedVehicle, ...]
    """By their first frame."""
    skipped: dict[str, int]
    """What is not sent again, in words, and how often: nothing is dropped silently."""

    @property
    def start_ns(self) -> int:
        """When the first report of all was sent."""
        return min(vehicle.recorded[0].sent_ns for vehicle in self.vehicles)

    @property
    def duration_ns(self) -> int:
        """From the first report of all to the last."""
        return max(vehicle.recorded[-1].sent_ns for vehicle in self.vehicles) - self.start_ns

    @property
    def report_count(self) -> int:
        return sum(bool(piece.frame) for vehicle in self.vehicles for piece in vehicle.recorded)


class _Seen(NamedTuple):
    time_ns: int | None
    collected_ns: int
    frame: bytes
    is_backfill: bool = False
    is_login: bool = False


def read_recording(found: Iterable[FoundFrame]) -> Recording:
    """Sort what a source holds into vehicles.

    Raises:
        ConfigurationError: there is no report that can be sent again, or there are too many frames.
    """
    seen: defaultdict[str, list[_Seen]] = defaultdict(list)
    editions: dict[str, Edition] = {}
    logins: dict[str, VehicleLogin | VehicleLogin2025] = {}
    skipped: Counter[str] = Counter()
    for count, each in enumerate(found, start=1):
        if count > FRAMES_MAX:
            raise ConfigurationError(f"recording: expected at most {FRAMES_MAX:,} frames, got more; cut it up")
        frame = each.frame
        why = _why_not(frame, editions)
        if why or frame is None:
            skipped[why] += 1
            continue
        editions.setdefault(frame.vin, frame.edition)
        match frame.message:
            case VehicleLogin() | VehicleLogin2025():
                logins.setdefault(frame.vin, frame.message)
                seen[frame.vin].append(_Seen(each.time_ns, nanoseconds(frame.message.time), b"", is_login=True))
            case Report(time=time):
                is_backfill = frame.command == Command.BACKFILL_REPORT
                data = _as_report(each.data) if is_backfill else each.data
                data = _of_vin(data, frame.vin) if frame.vin_padding else data
                seen[frame.vin].append(_Seen(each.time_ns, nanoseconds(time), data, is_backfill))
            case _ if frame.command == Command.VEHICLE_LOGOUT:
                time_ns = nanoseconds(frame.message.time)  # type: ignore[union-attr] # of a logout
                seen[frame.vin].append(_Seen(each.time_ns, time_ns, b""))
            case _:
                pass  # Heartbeats and questions for the time are the session's.
    ordered = {vin: _in_order(rows) for vin, rows in seen.items()}
    vehicles = [
        RecordedVehicle(vin, editions[vin], logins.get(vin), pieces, _period_ns(pieces))
        for vin, pieces in ordered.items()
        if any(piece.frame for piece in pieces)
    ]
    if not vehicles:
        told = "; ".join(f"{count:,} {what}" for what, count in skipped.items()) or "it is empty"
        raise ConfigurationError(f"recording: expected reports of vehicles, got none: {told}")
    return Recording(tuple(vehicles), dict(skipped))


def _why_not(frame: Frame | None, editions: dict[str, Edition]) -> str:
    """Why a frame is not sent again; nothing if it is, or if the session has its own."""
    if frame is None:
        return "bytes that are no frame"
    if frame.reply_flag != ReplyFlag.COMMAND:
        return "answers"
    if frame.command > Command.TIME_SYNC or frame.command in {Command.PLATFORM_LOGIN, Command.PLATFORM_LOGOUT}:
        return f"frames with command {frame.command:#04x}"
    if frame.encryption != Encryption.NONE:
        return "enciphered frames: their times cannot be moved"
    if editions.get(frame.vin, frame.edition) is not frame.edition:
        return "frames in another edition than the first of their vehicle"
    if isinstance(frame.message, Report) and frame.message.get(Signature) is not None:
        return "signed reports: their signature would be wrong"
    return ""


def _in_order(rows: list[_Seen]) -> tuple[Piece, ...]:
    """By the time of sending."""
    live = [row.collected_ns for row in rows if not row.is_backfill and row.frame]
    if len(live) > 1 and live[0] > live[-1] and all(row.time_ns is None for row in rows):
        rows.reverse()  # An export with the newest first.
    pieces = []
    latest_ns: int | None = None
    for row in rows:
        sent_ns = row.time_ns
        if sent_ns is None:
            sent_ns = row.collected_ns if not row.is_backfill or latest_ns is None else latest_ns
            latest_ns = sent_ns
        pieces.append(Piece(sent_ns, row.collected_ns, row.frame, row.is_backfill, row.is_login))
    return tuple(sorted(pieces, key=lambda piece: piece.sent_ns))


def _period_ns(pieces: tuple[Piece, ...]) -> int:
    sent = [piece.sent_ns for piece in pieces if piece.frame and not piece.is_backfill]
    gaps = [later - earlier for earlier, later in pairwise(sent) if later > earlier]
    return max(SECOND, median_low(gaps)) if gaps else PERIOD_S * SECOND


def without_gaps(recording: Recording, longest_s: float) -> Recording:
    """*recording*, where no vehicle sends for longer than *longest_s*: what follows comes so much earlier, of all vehicles alike.

    One clock that stood at the year 2000 does not make a recording of 26 years of it.

    Raises:
        ConfigurationError: *longest_s* is below 1.
    """
    if longest_s < 1:
        raise ConfigurationError(f"recording: expected a longest gap of 1 s or more, got {longest_s:g}")
    longest_ns = round(longest_s) * SECOND
    times = sorted({piece.sent_ns for vehicle in recording.vehicles for piece in vehicle.recorded})
    removed, earlier = {times[0]: 0}, 0
    for before, after in pairwise(times):
        if after - before > longest_ns:
            earlier += _whole_seconds(after - before - longest_ns)
        removed[after] = earlier

    def moved(piece: Piece) -> Piece:
        by_ns = removed[piece.sent_ns]
        return piece._replace(sent_ns=piece.sent_ns - by_ns, collected_ns=piece.collected_ns - by_ns)

    return replace(
        recording,
        vehicles=tuple(
            replace(vehicle, recorded=tuple(moved(piece) for piece in vehicle.recorded))
            for vehicle in recording.vehicles
        ),
    )


def recorded_fleet(recording: Recording, *, count: int | None = None, seed: int = 1) -> tuple[RecordedVehicle, ...]:
    """*count* vehicles: first those of the recording, each as late as it was, then copies of them in turn.

    A copy has a VIN of its own and begins somewhere in its recording, both drawn from *seed* and its number, so that a further copy
    changes no other.

    Raises:
        ConfigurationError: *count* is below 1.
    """
    originals = recording.vehicles
    if count is None:
        count = len(originals)
    if count < 1:
        raise ConfigurationError(f"recording: expected 1 vehicle or more, got {count}")
    taken = {vehicle.vin for vehicle in originals}
    fleet = [
        replace(vehicle, late_ns=vehicle.recorded[0].sent_ns - recording.start_ns) for vehicle in originals[:count]
    ]
    for number in range(len(originals), count):
        original = originals[number % len(originals)]
        random = stream(seed, f"recording/{number}", "copy")
        vin = original.vin
        while vin in taken:
            vin = vin_with_check_digit("LBMREC" + "".join(random.choices(_LETTERS, k=5)) + f"{number % 10**6:06d}")
        taken.add(vin)
        first, last = original.recorded[0], original.recorded[-1]
        fleet.append(
            RecordedVehicle(
                vin,
                original.edition,
                original.login,
                tuple(piece._replace(frame=_of_vin(piece.frame, vin)) for piece in original.recorded),
                original.period_ns,
                ahead_ns=_whole_seconds(random.randrange(last.sent_ns - first.sent_ns + 1)),
            )
        )
    return tuple(fleet)


def _whole_seconds(time_ns: int) -> int:
    return time_ns // SECOND * SECOND


def _with_check(frame: bytearray, before: bytes, after: bytes) -> bytes:
    """The check byte is the XOR of all bytes behind the start mark (6.2): only what differs has to be looked at."""
    change = 0
    for old, new in zip(before, after, strict=True):
        change ^= old ^ new
    frame[-1] ^= change
    return bytes(frame)


def _as_report(frame: bytes) -> bytes:
    """A backfilled report as the real-time one that it was: sessions keep reports so."""
    changed = bytearray(frame)
    changed[_COMMAND] = Command.REALTIME_REPORT
    return _with_check(changed, frame[_COMMAND : _COMMAND + 1], bytes(changed[_COMMAND : _COMMAND + 1]))


def _collected_at(frame: bytes, collected_ns: int) -> bytes:
    moment = beijing_time(collected_ns)
    after = bytes((moment.year - 2000, moment.month, moment.day, moment.hour, moment.minute, moment.second))
    changed = bytearray(frame)
    changed[_TIME] = after
    return _with_check(changed, frame[_TIME], after)


def _of_vin(frame: bytes, vin: str) -> bytes:
    if not frame:
        return frame
    after = vin.encode().ljust(17, b"\0")
    changed = bytearray(frame)
    changed[_VIN] = after
    return _with_check(changed, frame[_VIN], after)
