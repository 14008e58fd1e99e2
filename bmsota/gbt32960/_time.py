"""Time on the cloud link: Beijing time, UTC+8, whole seconds, never the host's zone (2016 table 8).

Every instant that leaves this package is an aware datetime at +08:00. Instants that enter may be in any zone but must be
aware: a naive one would mean the host's zone, and the same program would then report other times on another machine.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from bmsota.errors import LocalProtocolError

SECOND_NS: Final = 1_000_000_000
MINUTE_NS: Final = 60 * SECOND_NS

BEIJING: Final = timezone(timedelta(hours=8))
"""UTC+8 without daylight saving, fixed here so that no time-zone database is needed."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BEIJING_EPOCH: Final = _EPOCH.astimezone(BEIJING)


def beijing_time(now_ns: int) -> datetime:
    """Return *now_ns* (nanoseconds since the Unix epoch) as the wire carries it: aware, +08:00, whole seconds."""
    return _BEIJING_EPOCH + timedelta(seconds=now_ns // SECOND_NS)


def nanoseconds(moment: datetime) -> int:
    """Return *moment* as nanoseconds since the Unix epoch. The inverse of `beijing_time`."""
    if moment.tzinfo is None:
        msg = f"time: expected an aware datetime, got {moment!r} without a time zone"
        raise LocalProtocolError(msg)
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def to_beijing(moment: datetime) -> datetime:
    """Return *moment* at +08:00.

    Raises:
        LocalProtocolError: *moment* is naive.
    """
    if moment.tzinfo is None:
        msg = f"time: expected an aware datetime, got {moment!r} without a time zone"
        raise LocalProtocolError(msg)
    return moment.astimezone(BEIJING)


_DAY_STARTS: Final[dict[tuple[int, int, int], int]] = {}
"""The three bytes that name a day -> the second in UTC at which it begins in Beijing. A century has 36,525 of them."""


def seconds_at(data: bytes, at: int) -> int | None:
    """Return the six bytes of a time as seconds since the Unix epoch; None if they name no instant of 2000 to 2099."""
    try:
        year, month, day, hour, minute, second = data[at : at + 6]
    except ValueError:  # Fewer bytes.
        return None
    start = _DAY_STARTS.get((year, month, day))
    if start is None:
        if year > 99:
            return None
        try:
            midnight = datetime(2000 + year, month, day, tzinfo=BEIJING)
        except ValueError:
            return None
        start = _DAY_STARTS[year, month, day] = (midnight - _EPOCH) // timedelta(seconds=1)
    if hour > 23 or minute > 59 or second > 59:
        return None
    return start + hour * 3600 + minute * 60 + second
