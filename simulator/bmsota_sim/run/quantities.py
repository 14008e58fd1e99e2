"""Quantities as a scenario writes them: `90`, `90s`, `20min`, `80%`, `50kB/s`, `5..28C`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

__all__ = [
    "ByteRate",
    "Celsius",
    "CelsiusRange",
    "Clock",
    "Duration",
    "PositiveDuration",
    "Share",
    "SignedDuration",
    "duration_s",
    "duration_text",
]

_NUMBER = r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = rf"{_NUMBER}\s*(ms|s|min|h|d)"
_DURATIONS = re.compile(rf"([-+]?)\s*((?:{_DURATION}\s*)+)")
_ONE_DURATION = re.compile(_DURATION)
_SHARE = re.compile(rf"{_NUMBER}\s*%")
_BYTES = {"B": 1, "kB": 1000, "MB": 1_000_000}
_RATE = re.compile(rf"{_NUMBER}\s*(B|kB|MB)/s")
_CELSIUS = re.compile(rf"([-+]?{_NUMBER})\s*C?")
_CELSIUS_RANGE = re.compile(rf"([-+]?{_NUMBER})\s*\.\.\s*([-+]?{_NUMBER})\s*C?")
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_DURATION_HELP = "a number of seconds or a duration, such as 90s, 20min or 2h"
# Ten years; nanoseconds since 1970 still fit in 64 bits.
DURATION_S_MAX = 315_360_000.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _got(expected: str, value: object) -> ValueError:
    from bmsota_sim.run.places import shown  # noqa: PLC0415

    return ValueError(f"expected {expected}, got {shown(value)}")


def duration_s(value: object) -> float:
    """Seconds.

    Raises:
        ValueError: not a duration.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        match = _DURATIONS.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise _got(_DURATION_HELP, value)
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _ONE_DURATION.findall(match[2]))
        if match[1] == "-":
            seconds = -seconds
    if not abs(seconds) <= DURATION_S_MAX:
        raise _got("at most 3,650 days", value)
    return seconds


def duration_text(seconds: float) -> str:
    """`20min`, `1h 30min`, `90.5s`: as a scenario would write it."""
    sign, left = ("-" if seconds < 0 else ""), abs(seconds)
    parts = []
    for unit in ("d", "h", "min"):
        count, left = divmod(left, _SECONDS[unit])
        if count:
            parts.append(f"{count:.0f}{unit}")
    if left or not parts:
        parts.append(f"{round(left, 3):g}s")
    return sign + " ".join(parts)


def _not_negative_s(value: object) -> float:
    seconds = duration_s(value)
    if seconds < 0:
        raise _got(f"{_DURATION_HELP}, not negative", value)
    return seconds


def _positive_s(value: object) -> float:
    seconds = duration_s(value)
    # Times are integer nanoseconds; what is below one would be none.
    if seconds < 1e-9:
        raise _got(f"{_DURATION_HELP}, more than 0", value)
    return seconds


def share(value: object) -> float:
    """`80%` as 0.8; a plain number is refused, for 1 could be 1 % or all.

    Raises:
        ValueError: not a share.
    """
    match = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or not 0 <= float(match[1]) <= 100:
        raise _got("a share from 0% to 100%", value)
    return float(match[1]) / 100


def _byte_rate(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        rate = value
    else:
        match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise _got("a rate, such as 50kB/s", value)
        rate = round(float(match[1]) * _BYTES[match[2]])
    if not 100 <= rate <= 10**9:
        raise _got("a rate from 100B/s to 1000MB/s", value)
    return rate


def _celsius(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        degrees = float(value)
    else:
        match = _CELSIUS.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise _got("a temperature, such as 25C", value)
        degrees = float(match[1])
    if not -60 <= degrees <= 1500:
        raise _got("a temperature from -60C to 1500C", value)
    return degrees


def _celsius_range(value: object) -> tuple[float, float]:
    match = _CELSIUS_RANGE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        if _is_number(value) or (isinstance(value, str) and _CELSIUS.fullmatch(value.strip())):
            degrees = _celsius(value)
            return (degrees, degrees)
        raise _got("the coldest and the warmest temperature of the day, such as 5..28C", value)
    low, high = _celsius(match[1]), _celsius(match[3])
    if low > high or high > 60:
        raise _got("the coldest temperature first, and at most 60C", value)
    return (low, high)


def _clock(value: object) -> int:
    match = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _got("a time of day, such as 22:00", value)
    return int(match[1]) * 3600 + int(match[2]) * 60


def _schema(description: str, *kinds: str, pattern: str) -> WithJsonSchema:
    text = {"type": "string", "pattern": f"^\\s*{pattern}\\s*$"}
    numbers = [{"type": kind} for kind in kinds]
    return WithJsonSchema({"description": description, **({"anyOf": [*numbers, text]} if numbers else text)})


_DURATION_SCHEMA = _schema("Seconds, or a duration such as 90s, 20min, 2h.", "number", pattern=rf"({_DURATION}\s*)+")
Duration = Annotated[float, BeforeValidator(_not_negative_s), _DURATION_SCHEMA]
"""Seconds, 0 or more."""
PositiveDuration = Annotated[float, BeforeValidator(_positive_s), _DURATION_SCHEMA]
SignedDuration = Annotated[
    float,
    BeforeValidator(duration_s),
    _schema("Seconds, or a duration such as -1h.", "number", pattern=rf"[-+]?\s*({_DURATION}\s*)+"),
]
Share = Annotated[float, BeforeValidator(share), _schema("A share, such as 80%.", pattern=rf"{_NUMBER}\s*%")]
"""0 to 1."""
ByteRate = Annotated[
    int,
    BeforeValidator(_byte_rate),
    _schema("Bytes per second, or such as 50kB/s.", "integer", pattern=rf"{_NUMBER}\s*(B|kB|MB)/s"),
]
Celsius = Annotated[
    float, BeforeValidator(_celsius), _schema("Degrees Celsius.", "number", pattern=rf"[-+]?{_NUMBER}\s*C?")
]
CelsiusRange = Annotated[
    tuple[float, float],
    BeforeValidator(_celsius_range),
    _schema(
        "Coldest and warmest of the day, such as 5..28C.",
        "number",
        pattern=rf"[-+]?{_NUMBER}(\s*\.\.\s*[-+]?{_NUMBER})?\s*C?",
    ),
]
Clock = Annotated[
    int, BeforeValidator(_clock), _schema("A time of day, such as 22:00.", pattern=r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
]
"""Seconds after midnight, local time."""
