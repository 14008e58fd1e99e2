"""Oddities of links: a link of GB/T 32960 proves nothing, but a stranger who uses one leaves marks.

Nothing is refused here. Each login is compared with the one before (ICCID, serial, time), and with what other links of the
same vehicle do; what is odd becomes a line of the audit log and a note on the vehicle's page.

Strategy. A stranger decides how often something odd happens, so a line is one per vehicle, kind and hour, and counts. Lines and
last logins are collected in memory and written by `flush` in one transaction: ten thousand logins after an outage are some
writes, not ten thousand. What a crash takes with it are a few seconds of notes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta, timezone
from enum import StrEnum
from threading import Lock
from typing import TYPE_CHECKING

from bmsota_cloud.domain.audit import AuditEntry

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota_cloud.domain.vehicles import LastLogin
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.storage.base import Work

__all__ = ["ACTION", "LinkNote", "LinkWatch", "Oddity"]

ACTION = "link.watch"
"""The action of these lines in the audit log; the outcome is the `Oddity`."""

SERIAL_MAX = 65531
"""The largest login serial (GB/T 32960.3, table 6); after it comes 1."""

# As for reports (design decision 13): a terminal's clock may be this far from ours before its times are not believed.
CLOCK_OFF_MAX = timedelta(minutes=5)

# A link that breaks without a word is taken over by the next one of the same unit; that often in an hour it is no wonder.
TAKEOVERS_MAX = 2

# Vehicles whose last login is kept in memory; the others' are read again.
_LOGINS_MAX = 20_000
# Lines that wait for `flush`, which runs every few seconds; more in that time are counted and left out.
_LINES_MAX = 10_000
_DETAIL_MAX = 300
# On a vehicle's page; the audit log has all of them.
_NOTES_MAX = 10

# The serial begins anew with each day of the terminal's time, which is Beijing's.
_BEIJING = timezone(timedelta(hours=8))


class Oddity(StrEnum):
    """What was odd; the outcome of the audit line."""

    OTHER_ICCID = "other-iccid"
    SERIAL_NOT_RISING = "serial-not-rising"
    LOGIN_TIME_BACK = "login-time-back"
    LOGIN_TIME_OFF = "login-time-off"
    TAKEN_OVER = "taken-over"
    OLD_SESSION = "old-session"
    OTHER_HWID = "other-hwid"
    REFUSED_UPGRADES = "too-many-local-upgrades"
    REFUSED_DOCUMENT = "refused-document"

    @property
    def words(self) -> str:
        """What a person reads."""
        return _WORDS[self]


_WORDS = {
    Oddity.OTHER_ICCID: "logged in with another SIM card (ICCID)",
    Oddity.SERIAL_NOT_RISING: "logged in with a serial number that was used before",
    Oddity.LOGIN_TIME_BACK: "logged in with an earlier time than before",
    Oddity.LOGIN_TIME_OFF: "logged in with a time that is far from the platform's clock",
    Oddity.TAKEN_OVER: "another link took over the vehicle while the first was open",
    Oddity.OLD_SESSION: "two sessions of the device API are in use at the same time",
    Oddity.OTHER_HWID: "reported another master than the registered one",
    Oddity.REFUSED_DOCUMENT: "sent a signed document that was not accepted",
    Oddity.REFUSED_UPGRADES: "reported more local upgrades than the platform keeps without a signature",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkNote:
    """One oddity of one hour, as a vehicle's page shows it."""

    kind: str
    words: str
    count: int
    first_at: datetime
    last_at: datetime


@dataclass(slots=True)
class _Line:
    """What waits to be written of one vehicle, kind and hour."""

    entry: AuditEntry
    key: str


class LinkWatch:
    """Safe from any thread. `flush` writes what was collected; until then nothing of it is in the store."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = Lock()
        self._logins: dict[str, LastLogin] = {}
        self._unsaved: set[str] = set()
        self._lines: dict[str, _Line] = {}
        self._takeovers: dict[str, tuple[str, int]] = {}

    # -- what happens --------------------------------------------------------------------------------------------------

    def logged_in(self, login: LastLogin) -> None:
        """A registered vehicle has logged in. It reads the store if the login before is not in memory."""
        now = login.received_at
        before = self._last_login(login.vin)
        off = login.login_at - now
        if abs(off) > CLOCK_OFF_MAX:
            ahead = "ahead of" if off > timedelta() else "behind"
            self.note(
                login.vin,
                Oddity.LOGIN_TIME_OFF,
                f"login dated {login.login_at.isoformat()}, {abs(int(off.total_seconds()))} s {ahead} the platform",
                now,
                address=login.address,
            )
        if before is not None:
            for kind, detail in _compare(before, login):
                self.note(login.vin, kind, detail, now, address=login.address)
        with self._lock:
            if login.vin not in self._logins and len(self._logins) >= _LOGINS_MAX:
                # Only what is in the store may be forgotten here.
                forgotten = next((vin for vin in self._logins if vin not in self._unsaved), None)
                if forgotten is not None:
                    del self._logins[forgotten]
            self._logins.pop(login.vin, None)
            self._logins[login.vin] = login
            self._unsaved.add(login.vin)

    def taken_over(self, vin: str, *, old_address: str, new_address: str, now: datetime) -> None:
        """A link has logged in as a vehicle whose other link was still open.

        From another address it is odd. From the same one it is what a lost link looks like, until it happens again and again.
        """
        hour = _hour(now)
        with self._lock:
            known_hour, count = self._takeovers.get(vin, (hour, 0))
            count = count + 1 if known_hour == hour else 1
            if len(self._takeovers) >= _LOGINS_MAX:
                self._takeovers.clear()
            self._takeovers[vin] = (hour, count)
        if _host(old_address) != _host(new_address) or count > TAKEOVERS_MAX:
            detail = f"from {old_address or 'an unknown address'} by {new_address or 'an unknown address'}"
            self.note(vin, Oddity.TAKEN_OVER, detail, now, address=new_address)

    def note(self, vin: str, kind: Oddity, detail: str, now: datetime, *, address: str = "") -> None:
        """Something odd about this vehicle's link."""
        key = f"{ACTION}|{kind}|{vin}|{_hour(now)}"
        detail = "".join(character if character.isprintable() else " " for character in detail)[:_DETAIL_MAX]
        self._context.counters.add(f"link_{kind.name.lower()}")
        with self._lock:
            line = self._lines.get(key)
            if line is not None:
                line.entry = replace(line.entry, count=line.entry.count + 1, last_at=now, detail=detail)
            elif len(self._lines) < _LINES_MAX:
                entry = AuditEntry(
                    at=now,
                    who=f"vehicle {vin}",
                    action=ACTION,
                    subject=f"vehicle {vin}",
                    outcome=str(kind),
                    detail=detail,
                    address=address[:64],
                    last_at=now,
                )
                self._lines[key] = _Line(entry, key)
            else:
                self._context.counters.add("link_note_left_out")

    # -- the store -----------------------------------------------------------------------------------------------------

    def flush(self) -> int:
        """Write what was collected; how many audit lines. Call it every few seconds. If the store fails, nothing is lost."""
        with self._lock:
            if not self._lines and not self._unsaved:
                return 0
            lines, self._lines = self._lines, {}
            unsaved, self._unsaved = self._unsaved, set()
            logins = [self._logins[vin] for vin in sorted(unsaved)]
        try:
            with self._context.store.transaction() as work:
                for line in lines.values():
                    work.audit.count(line.entry, line.key)
                for login in logins:
                    work.vehicles.save_last_login(login)
        except BaseException:
            with self._lock:
                self._unsaved |= unsaved
                for key, line in lines.items():
                    newer = self._lines.get(key)
                    if newer is not None:
                        count = line.entry.count + newer.entry.count
                        line.entry = replace(newer.entry, at=line.entry.at, count=count)
                    self._lines[key] = line
            raise
        for vin in sorted({line.entry.subject for line in lines.values()}):
            self._context.live.publish(vin.replace("vehicle ", "vehicle:"), {"kind": "link"})
        return len(lines)

    @staticmethod
    def notes(work: Work, vin: str) -> tuple[LinkNote, ...]:
        """What was odd about a vehicle's links, the newest 10 lines; as far as it is written."""
        entries = work.audit.newest(f"vehicle {vin}", action=ACTION, limit=_NOTES_MAX)
        return tuple(
            LinkNote(
                kind=entry.outcome,
                words=Oddity(entry.outcome).words if entry.outcome in set(Oddity) else entry.outcome,
                count=entry.count,
                first_at=entry.at,
                last_at=entry.last_at or entry.at,
            )
            for entry in entries
        )

    def _last_login(self, vin: str) -> LastLogin | None:
        with self._lock:
            known = self._logins.get(vin)
        if known is not None:
            return known
        with self._context.store.reading() as work:
            return work.vehicles.last_login(vin)


def _compare(before: LastLogin, login: LastLogin) -> list[tuple[Oddity, str]]:
    """What is odd about *login* after *before*."""
    found: list[tuple[Oddity, str]] = []
    if login.iccid != before.iccid:
        found.append((Oddity.OTHER_ICCID, f"ICCID {login.iccid or 'empty'}, before {before.iccid or 'empty'}"))
    if login.login_at < before.login_at:
        detail = f"login dated {login.login_at.isoformat()}, the one before {before.login_at.isoformat()}"
        found.append((Oddity.LOGIN_TIME_BACK, detail))
    is_same_day = login.login_at.astimezone(_BEIJING).date() == before.login_at.astimezone(_BEIJING).date()
    has_wrapped = before.login_serial >= SERIAL_MAX and login.login_serial == 1
    if is_same_day and login.login_serial <= before.login_serial and not has_wrapped:
        detail = f"serial {login.login_serial}, before {before.login_serial} on the same day"
        found.append((Oddity.SERIAL_NOT_RISING, detail))
    return found


def _hour(now: datetime) -> str:
    return f"{now.astimezone(_BEIJING):%Y%m%d%H}"


def _host(address: str) -> str:
    """The address without its port."""
    host, separator, port = address.rpartition(":")
    return host if separator and port.isdigit() else address
