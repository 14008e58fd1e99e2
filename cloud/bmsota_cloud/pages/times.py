"""Times for people: one zone for the whole platform, always with its offset, and "3 min ago" beside it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from markupsafe import Markup

from bmsota.gbt32960 import BEIJING

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["ago", "clock", "duration", "from_field", "iso", "offset", "since", "span", "stamp", "to_field", "when"]

# GB/T 32960 frames carry this zone, and so do the displays of the vehicles; two people comparing a page with a frame
# must not have to calculate. A zone of the account comes with account settings.
_ZONE = BEIJING

_MISSING = Markup('<span class="missing">never</span>')


def iso(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


def stamp(at: datetime) -> str:
    """As text, with the offset."""
    return f"{at.astimezone(_ZONE):%Y-%m-%d %H:%M:%S} {offset()}"


def offset() -> str:
    """Of the zone times are shown in."""
    return "+08:00"


def when(at: datetime | None) -> Markup:
    """A whole time."""
    return _MISSING if at is None else Markup('<time datetime="{}">{}</time>').format(iso(at), stamp(at))


def clock(at: datetime, now: datetime) -> Markup:
    """The time of the day, with the date before it unless it is today's. Say the offset near it: `offset`."""
    local = at.astimezone(_ZONE)
    is_today = local.date() == now.astimezone(_ZONE).date()
    text = f"{local:%H:%M:%S}" if is_today else f"{local:%m-%d %H:%M:%S}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(iso(at), stamp(at), text)


def ago(span: timedelta) -> str:
    """How long ago, in the largest unit that fits. `static/times.js` says the same words."""
    seconds = max(0, int(span.total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def since(at: datetime, now: datetime) -> Markup:
    """How long ago, kept up to date by the page's script."""
    return Markup('<span data-since="{}">{}</span>').format(iso(at), ago(now - at))


def duration(seconds: int) -> str:
    """A time limit in words."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def span(seconds: int) -> str:
    """How long something lasted, in its two largest units: "2 d 3 h", "1 min 30 s"."""
    parts = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if count := seconds // size:
            parts.append(f"{count} {unit}")
        seconds %= size
        if len(parts) == 2:
            break
    return " ".join(parts) or "0 s"


def from_field(text: str) -> datetime | None:
    """What a field for date and time says, which names no zone: that of the pages. None if it is empty.

    Raises:
        ValueError: it is no time.
    """
    if not text:
        return None
    at = datetime.fromisoformat(text)
    return at if at.tzinfo is not None else at.replace(tzinfo=_ZONE)


def to_field(at: datetime | None) -> str:
    """The value of a field for date and time."""
    return "" if at is None else f"{at.astimezone(_ZONE):%Y-%m-%dT%H:%M:%S}"
