"""What a scenario expects of a run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema

from bmsota_sim.run.base import EVERYONE, Section
from bmsota_sim.run.places import did_you_mean, shown
from bmsota_sim.run.quantities import duration_s, duration_text, share
from bmsota_sim.run.who import Who

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["COUNTERS", "STATUSES", "Expectation", "Moment"]

COUNTERS = (
    "connects",
    "connect_failures",
    "logins",
    "login_refusals",
    "sent",
    "acknowledged",
    "refused",
    "unanswered",
    "answered_twice",
    "late_answers",
    "wrong_check_byte",
    "other_vin",
    "garbage",
    "drops",
    "backfilled",
    "heartbeats",
    "can_frames",
    "alarms",
)
"""What a run counts for each unit."""
STATUSES = (
    "Unapproved",
    "Approved",
    "To be downloaded",
    "Downloading",
    "Download Complete",
    "Upgrade succeeded",
    "Upgrade failed",
    "Rolled back",
    "Rejected",
    "Timed out",
    "Cancelled",
)
"""How far an upgrade is, in the platform's words; the first five are open."""


class Moment(Section):
    """A time: from the start, or from the end of an entry or of the time with faults."""

    offset_s: float
    after: str | None = None
    """Name of an entry, `faults_off` or `end`."""

    def __str__(self) -> str:
        if self.after is None:
            return f"at {duration_text(self.offset_s)}"
        if self.offset_s:
            return f"{duration_text(self.offset_s)} after {self.after}"
        return "at faults_off" if self.after == "faults_off" else f"at the end of {self.after}"


_MOMENT_HELP = (
    "a time (5min), a time after the end of a named entry (1min after NAME), the end of one (NAME), faults_off or end"
)


def _moment(value: object) -> Moment:
    if isinstance(value, Moment):
        return value
    if isinstance(value, str):
        before, separator, name = value.rpartition(" after ")
        if not separator and value[:1].isalpha():
            return Moment(offset_s=0.0, after=value)
        if separator:
            try:
                return Moment(offset_s=_positive(before), after=name.strip())
            except ValueError:
                raise ValueError(f"expected {_MOMENT_HELP}, got {shown(value)}") from None
    try:
        return Moment(offset_s=_positive(value))
    except ValueError:
        raise ValueError(f"expected {_MOMENT_HELP}, got {shown(value)}") from None


def _positive(value: object) -> float:
    seconds = duration_s(value)
    if seconds < 0:
        raise ValueError
    return seconds


MomentText = Annotated[
    Moment,
    BeforeValidator(_moment),
    WithJsonSchema({"description": f"When: {_MOMENT_HELP}.", "type": ["string", "number"]}),
]

_REPLY = "reply_p"
_QUANTILE = re.compile(rf"{_REPLY}[1-9][0-9]?")
WHATS = ("logged_in", "status", "seen_status", "history", "reply_p50", "reply_p99", *COUNTERS)


def _what(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(  # noqa: TRY004 - pydantic takes ValueError alone
            f"expected what to judge, such as sent, acknowledged / sent, reply_p99 or logged_in, got {shown(value)}"
        )
    parts = [part.strip() for part in value.split("/")]
    if len(parts) > 2:
        raise ValueError(f"expected one counter over another, such as acknowledged / sent, got {shown(value)}")
    known = COUNTERS if len(parts) == 2 else WHATS
    for part in parts:
        if part not in known and not (len(parts) == 1 and _QUANTILE.fullmatch(part)):
            raise ValueError(
                f"{'no counter' if len(parts) == 2 else 'nothing is known as'} {shown(part)}{did_you_mean(part, known)}"
            )
    return " / ".join(parts)


Number: TypeAlias = Annotated[
    float | str,
    WithJsonSchema(
        {"description": "A number, a share (99%) or a duration (2s), as `what` needs.", "type": ["number", "string"]}
    ),
]


class Expectation(Section):
    """What must hold, and when that is judged."""

    what: Annotated[
        str,
        BeforeValidator(_what),
        WithJsonSchema(
            {
                "type": "string",
                "description": "A counter, a ratio of two, reply_pNN, logged_in, status, seen_status or history.",
            }
        ),
    ]
    who: Who = EVERYONE
    by: MomentText | None = None
    """When it is judged; default: at the end of the run."""
    since: MomentText | None = None
    """Counters count from here; default: the start of the run."""
    is_: Any = Field(
        default=None, alias="is", json_schema_extra={"description": "A number, or a status or a list of statuses."}
    )
    contains: Annotated[str, Field(min_length=1)] | None = None
    """A text that the history of each unit contains."""
    at_least: Number | None = None
    at_most: Number | None = None
    above: Number | None = None
    below: Number | None = None

    @property
    def kind(self) -> str:
        """counter, ratio, reply, logged_in, status, seen_status or history."""
        if "/" in self.what:
            return "ratio"
        if self.what.startswith(_REPLY):
            return "reply"
        return "counter" if self.what in COUNTERS else self.what

    @property
    def quantile(self) -> float:
        """Of the reply times; 0 to 1."""
        return int(self.what.removeprefix(_REPLY)) / 100

    @property
    def statuses(self) -> tuple[str, ...]:
        """Those that are meant, for status and seen_status."""
        return tuple(self.is_) if isinstance(self.is_, list | tuple) else (self.is_,)

    @property
    def text(self) -> str:
        """In words."""
        return _expected(self)

    def limits(self) -> Iterator[tuple[str, float, bool]]:
        """Key, value in the unit of `kind`, and whether it is a share of the units.

        Raises:
            ValueError: it is not a number of the kind that `what` needs; begins with the key and a colon.
        """
        for key in ("is", "at_least", "at_most", "above", "below"):
            value = getattr(self, "is_" if key == "is" else key)
            if value is None or (key == "is" and self.kind in {"status", "seen_status"}):
                continue
            try:
                yield key, *_limit(value, self.kind)
            except ValueError as error:
                raise ValueError(f"{key}\0{error}") from None


def _limit(value: object, kind: str) -> tuple[float, bool]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "reply":
        return _positive(value), False
    if kind == "ratio":
        if is_number:
            return float(value), False  # type: ignore[arg-type]
        return share(value), False
    if kind == "counter" or is_number:
        if not is_number or value < 0:  # type: ignore[operator]
            raise ValueError(f"expected a number, 0 or more, got {shown(value)}")
        return float(value), False  # type: ignore[arg-type]
    return share(value), True


_SIGNS = {"is": "exactly", "at_least": "at least", "at_most": "at most", "above": "above", "below": "below"}


def _expected(expectation: Expectation) -> str:
    limits = []
    for key, word in _SIGNS.items():
        value = getattr(expectation, "is_" if key == "is" else key)
        if value is None:
            continue
        if key == "is" and expectation.kind in {"status", "seen_status"}:
            limits.append(f"is {' or '.join(map(str, expectation.statuses))}")
        else:
            limits.append(f"{word} {_plain(value)}")
    if expectation.contains is not None:
        limits.append(f"contains {expectation.contains!r}")
    who = ", ".join(map(str, expectation.who))
    since = "" if expectation.since is None else f", counted from {_moment_words(expectation.since)}"
    by = "the end" if expectation.by is None else _moment_words(expectation.by)
    return (
        f"{expectation.what} of {who}: {' and '.join(limits)}{since}, {'at' if expectation.by is None else 'by'} {by}"
    )


def _plain(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _moment_words(moment: Moment) -> str:
    return str(moment).removeprefix("at ")
