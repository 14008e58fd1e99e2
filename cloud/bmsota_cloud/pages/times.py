"""Times for people: one zone for the whole platform, always with its offset, and "3 min ago" beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from bmsota.gbt32960 import BEIJING

if TYPE_CHECKING:
    from datetime import datetime, timedelta

__all__ = ["ago", "clock", "duration", "iso", "offset", "since", "span", "stamp", "when"]

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


def span(seconds: int) -> str:
    """How long something took, in two units."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60:02} min"
    return f"{minutes} min {seconds % 60:02} s" if minutes else f"{seconds} s"


def duration(seconds: int) -> str:
    """A time limit in words."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
