"""Who is meant, as a scenario writes it: `all`, `watched/3`, `80% of shanghai-f7`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, InstanceOf, WithJsonSchema

from bmsota_sim.run.places import did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["GROUP_NAME", "Who", "WhoPart", "parse_who", "problems_of"]

GROUP_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,39}"
_PART = re.compile(
    rf"(?:([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*%(?:\s+of\s+)?)?(?:those\s+of\s+({GROUP_NAME})|({GROUP_NAME})(?:/([0-9]{{1,9}})(?:-([0-9]{{1,9}}))?)?)?"
)
_HELP = "all, a group, a unit (watched/3), a range (watched/3-9), a share (80% of watched), those of an entry, or a list of these"


@dataclass(frozen=True, slots=True)
class WhoPart:
    """One part of a selection. No group: all of them; no numbers: the whole group."""

    group: str | None = None
    first: int | None = None
    last: int | None = None
    share: float | None = None
    entry: str | None = None
    """The units that this entry of the timeline meets."""

    def __str__(self) -> str:
        what = self.group or "all"
        if self.entry is not None:
            what = f"those of {self.entry}"
        elif self.first is not None:
            what += f"/{self.first}" + (f"-{self.last}" if self.last != self.first else "")
        return what if self.share is None else f"{self.share * 100:g}% of {what}"


def parse_who(value: object) -> tuple[WhoPart, ...]:
    """Read a selection.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, tuple) and all(isinstance(part, WhoPart) for part in value):
        return value
    texts = value if isinstance(value, list) else [value]
    if not texts:
        raise ValueError(f"expected {_HELP}, got an empty list")
    return tuple(_part(text) for text in texts)


def _part(text: object) -> WhoPart:
    match = _PART.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or not match[0]:
        raise ValueError(f"expected {_HELP}, got {shown(text)}")
    percent, entry, group, first, last = match.groups()
    share = None if percent is None else float(percent) / 100
    if share is not None and not 0 < share <= 1:
        raise ValueError(f"expected a share above 0% and at most 100%, got {shown(text)}")
    if first is not None and (int(first) < 1 or int(last or first) < int(first)):
        raise ValueError(f"expected numbers from 1, the lower one first, got {shown(text)}")
    return WhoPart(
        group=None if group == "all" and first is None else group,
        first=None if first is None else int(first),
        last=None if first is None else int(last or first),
        share=share,
        entry=entry,
    )


_TEXT_SCHEMA = {"type": "string", "pattern": f"^\\s*{_PART.pattern}\\s*$", "minLength": 1}
Who = Annotated[
    InstanceOf[tuple],  # type: ignore[type-arg]
    BeforeValidator(parse_who),
    WithJsonSchema(
        {
            "description": f"Who: {_HELP}.",
            "anyOf": [_TEXT_SCHEMA, {"type": "array", "items": _TEXT_SCHEMA, "minItems": 1}],
        }
    ),
]


def problems_of(
    who: tuple[WhoPart, ...],
    counts: Mapping[str, int],
    entries: Collection[str],
    *,
    entries_where: str = "of the timeline",
) -> list[str]:
    """What in *who* is not there: an unknown group or entry, or a number above the group's."""
    found = []
    for part in who:
        if part.entry is not None and part.entry not in entries:
            found.append(f"no entry {entries_where} is named {part.entry!r}{did_you_mean(part.entry, entries)}")
        elif part.group is not None and part.group not in counts:
            found.append(f"no group {part.group!r}{did_you_mean(part.group, counts)}")
        elif part.group is not None and part.last is not None and part.last > counts[part.group]:
            found.append(f"expected a number from 1 to {counts[part.group]:,} in group {part.group!r}, got {part.last}")
    return found
