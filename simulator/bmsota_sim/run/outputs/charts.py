"""Line charts as inline SVG: no script, no network, colours from the page's variables, so that light and dark are the page's business."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import ceil, floor, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    _Scale = Callable[[float], float]

__all__ = ["Line", "line_chart", "number_text", "rates"]

WIDTH, HEIGHT = 480, 170
LEFT, RIGHT, TOP, BOTTOM = 56, 10, 12, 26
TICKS = 4


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart."""

    label: str
    values: Sequence[float | None]
    """None: nothing was measured; the line is interrupted."""


def line_chart(
    title: str, at_s: Sequence[float], lines: Sequence[Line], *, unit: str = "", limit: float | None = None
) -> str:
    """A `<figure>` with a chart and a legend.

    Args:
        title: its heading.
        at_s: where on the time axis the values are, rising.
        lines: what is shown, at most as many as the page has colours.
        unit: of the values, behind the heading.
        limit: a horizontal line, which is part of the scale.
    """
    known = [value for line in lines for value in line.values if value is not None]
    caption = f"{title} ({unit})" if unit else title
    figure = f"<figure><figcaption>{escape(caption)}</figcaption>"
    if not known or len(at_s) < 2:
        return figure + '<p class="none">nothing was measured</p></figure>'
    top = _round_up(max([*known, *([] if limit is None else [limit])]))
    first, last = at_s[0], max(at_s[-1], at_s[0] + 1e-9)

    def x(at: float) -> float:
        return LEFT + (at - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        *_value_axis(top, y),
        *_time_axis(first, last, x),
    ]
    if limit is not None:
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(limit):.1f}" y2="{y(limit):.1f}"/>')
    for index, line in enumerate(lines):
        parts.append(f'<path class="line c{index}" d="{_path(at_s, line.values, x, y)}"/>')
    parts.append("</svg>")
    legend = "".join(
        f'<span><i class="c{index}"></i>{escape(line.label)} <b>{_peak(line, unit)}</b></span>'
        for index, line in enumerate(lines)
    )
    return figure + "".join(parts) + f'<p class="legend">{legend}</p></figure>'


def _peak(line: Line, unit: str) -> str:
    known = [value for value in line.values if value is not None]
    return f"max {number_text(max(known))}{unit and ' ' + unit}" if known else "-"


def _value_axis(top: float, y: _Scale) -> list[str]:
    parts = []
    for index in range(TICKS + 1):
        value = top * index / TICKS
        text = number_text(value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        )
    return parts


def _time_axis(first: float, last: float, x: _Scale) -> list[str]:
    step = _time_step((last - first) / 5)
    unit, divisor = ("h", 3600) if last >= 2 * 3600 else ("min", 60) if last >= 120 else ("s", 1)
    parts = []
    at = ceil(first / step) * step
    while at <= last:
        anchor = "end" if x(at) > WIDTH - RIGHT - 20 else "middle"
        parts.append(
            f'<text x="{x(at):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{number_text(at / divisor)} {unit}</text>'
        )
        at += step
    return parts


def _path(at_s: Sequence[float], values: Sequence[float | None], x: _Scale, y: _Scale) -> str:
    """Points of the line; a lone point between gaps is drawn as a short stroke."""
    parts: list[str] = []
    is_down = False
    for at, value in zip(at_s, values, strict=True):
        if value is None:
            is_down = False
            continue
        parts.append(f"{'L' if is_down else 'M'}{x(at):.1f} {y(value):.1f}" + ("" if is_down else "h.1"))
        is_down = True
    return "".join(parts)


def _round_up(value: float) -> float:
    """The next number of 1, 2, 4, 8, 10 times a power of ten: it is divided by four."""
    if value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return float(next(step * power for step in (1, 2, 4, 8, 10, 20) if step * power >= value * (1 - 1e-9)))


_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 4 * 3600, 8 * 3600, 86_400)


def _time_step(wanted_s: float) -> float:
    return next((step for step in _STEPS_S if step >= wanted_s), ceil(wanted_s / 86_400) * 86_400.0)


def number_text(value: float) -> str:
    """Three digits, with the thousands apart."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def rates(at_s: Sequence[float], sums: Sequence[int]) -> list[float | None]:
    """What was counted in a second, between one sample and the next."""
    found: list[float | None] = [None]
    pairs = zip(pairwise(at_s), pairwise(sums), strict=True)
    for (before_s, now_s), (before, now) in pairs:
        found.append((now - before) / (now_s - before_s) if now_s > before_s else None)
    return found
