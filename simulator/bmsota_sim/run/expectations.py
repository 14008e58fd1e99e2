"""What a run must show, and whether it does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema

from bmsota_sim.run.base import EVERYONE, NS_PER_S, Section
from bmsota_sim.run.places import did_you_mean, shown
from bmsota_sim.run.quantities import duration_s, duration_text, share
from bmsota_sim.run.selection import Who, select

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bmsota_sim.run.scenario import Scenario
    from bmsota_sim.run.selection import UnitId, Units

__all__ = ["COUNTERS", "STATUSES", "Expectation", "Facts", "Moment", "Verdict", "evaluate", "moments"]

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

    def purpose(self, scenario: Scenario) -> str:
        """For what a share in `who` is drawn."""
        return f"expect {self.what} {_when_ns(scenario, self.by)}"

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


class Facts(Protocol):
    """What a run knows of its units at a moment. Times are nanoseconds from the start of the run."""

    def count(self, counter: str, units: Units, since_ns: int | None = None, until_ns: int | None = None) -> int:
        """The sum of one of `COUNTERS` over *units*, from `since_ns` up to `until_ns`."""

    def reply_seconds(self, units: Units, quantile: float) -> float | None:
        """How long this share of the answers took at most; None: there was none."""

    def status(self, unit: UnitId) -> str | None:
        """How far its upgrade is, one of `STATUSES`; None: it has none."""

    def statuses_seen(self, unit: UnitId) -> Sequence[str]:
        """Those that its upgrade has had."""

    def logged_in(self, unit: UnitId) -> bool:
        """Whether the platform has accepted its login on the link that it has now."""

    def history(self, unit: UnitId) -> Sequence[str]:
        """What the platform says of it, event by event."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one expectation."""

    position: int
    """Of the expectation in the scenario."""
    expectation: Expectation
    passed: bool | None
    """None: the run ended before it could be judged."""
    expected: str
    got: str
    failing: tuple[UnitId, ...] = ()
    """Some of the units that do not do what is expected, for expectations about single units."""


FAILING_MAX = 100
_SIGNS = {"is": "exactly", "at_least": "at least", "at_most": "at most", "above": "above", "below": "below"}
# A share is compared as a fraction of whole numbers; rounding of the limit must not decide.
_EPSILON = 1e-12


def _when_ns(scenario: Scenario, moment: Moment | None) -> int:
    return round(scenario.seconds_of(moment) * NS_PER_S)


def moments(scenario: Scenario) -> tuple[int, ...]:
    """When something has to be judged, in nanoseconds from the start, sorted; the end of the run is the last."""
    return tuple(
        sorted({_when_ns(scenario, expectation.by) for expectation in scenario.expect} | {_when_ns(scenario, None)})
    )


def evaluate(
    scenario: Scenario, facts: Facts, now_ns: int, *, seed: int, since_ns: int | None = None, ended: bool = False
) -> list[Verdict]:
    """Judge the expectations that are due after `since_ns` and up to `now_ns`, by what is known now.

    Args:
        scenario: its `expect` is judged.
        facts: what is known.
        now_ns: from the start of the run. To judge each expectation at its own time, call at each of `moments`.
        seed: of the run; it draws shares in `who`.
        since_ns: what was due up to then is left out; default: nothing is.
        ended: the run is over; what is due later comes as not judged.
    """
    verdicts = []
    for position, expectation in enumerate(scenario.expect):
        due_ns = _when_ns(scenario, expectation.by)
        if due_ns > now_ns:
            if ended:
                got = f"not judged: the run ended at {duration_text(now_ns / NS_PER_S)}, before {duration_text(due_ns / NS_PER_S)}"
                verdicts.append(Verdict(position, expectation, None, expectation.text, got))
        elif since_ns is None or due_ns > since_ns:
            passed, got, failing = _judge(scenario, expectation, facts, due_ns, seed)
            verdicts.append(Verdict(position, expectation, passed, expectation.text, got, failing))
    return verdicts


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


def _judge(
    scenario: Scenario, expectation: Expectation, facts: Facts, due_ns: int, seed: int
) -> tuple[bool, str, tuple[UnitId, ...]]:
    units = select(scenario, seed, expectation.who, expectation.purpose(scenario))
    if not units:
        return False, "no unit is drawn", ()
    kind = expectation.kind
    limits = list(expectation.limits())
    since_ns = None if expectation.since is None else _when_ns(scenario, expectation.since)
    if kind == "counter":
        count = facts.count(expectation.what, units, since_ns, due_ns)
        return all(_holds(key, count, limit) for key, limit, _ in limits), f"{count:,}", ()
    if kind == "ratio":
        above, below = expectation.what.split(" / ")
        whole = facts.count(below, units, since_ns, due_ns)
        part = facts.count(above, units, since_ns, due_ns)
        if not whole:
            return False, f"{part:,} / 0: nothing was counted as {below}", ()
        got = f"{part:,} / {whole:,} = {part / whole:.4%}"
        return all(_holds(key, part / whole, limit) for key, limit, _ in limits), got, ()
    if kind == "reply":
        seconds = facts.reply_seconds(units, expectation.quantile)
        if seconds is None:
            return False, "no answer was measured", ()
        return all(_holds(key, seconds, limit) for key, limit, _ in limits), f"{seconds:.3f} s", ()
    return _judge_units(expectation, facts, units, limits)


def _judge_units(
    expectation: Expectation, facts: Facts, units: Units, limits: list[tuple[str, float, bool]]
) -> tuple[bool, str, tuple[UnitId, ...]]:
    failing: list[UnitId] = []
    count = 0
    for unit in units:
        if _does(expectation, facts, unit):
            count += 1
        elif len(failing) < FAILING_MAX:
            failing.append(unit)
    if not limits:
        limits = [("at_least", 1.0, True)]
    passed = all(_holds(key, count / len(units) if is_share else count, limit) for key, limit, is_share in limits)
    return passed, f"{count:,} of {len(units):,} units", tuple(failing)


def _does(expectation: Expectation, facts: Facts, unit: UnitId) -> bool:
    match expectation.kind:
        case "logged_in":
            return facts.logged_in(unit)
        case "status":
            return facts.status(unit) in expectation.statuses
        case "seen_status":
            return not set(expectation.statuses).isdisjoint(facts.statuses_seen(unit))
        case _:
            return any((expectation.contains or "") in text for text in facts.history(unit))


def _holds(key: str, value: float, limit: float) -> bool:
    match key:
        case "is":
            return abs(value - limit) <= _EPSILON
        case "at_least":
            return value >= limit - _EPSILON
        case "at_most":
            return value <= limit + _EPSILON
        case "above":
            return value > limit + _EPSILON
        case _:
            return value < limit - _EPSILON
