"""The rows that a layout is made of, for bodies of your own (`bmsota.gbt32960.Layouts`).

    @dataclass(frozen=True, slots=True)
    class Heater:
        state: int
        temperature_c: float | Sentinel

    HEATER = Layout(
        label="0x85 heater",
        cls=Heater,
        rows=(
            Field(name="state", size_bytes=1, raw_min=0, raw_max=3),
            Field(name="temperature_c", size_bytes=2, raw_min=0, raw_max=2000, divisor=10, raw_offset=400, sentinels=True),
        ),
    )

A class has the fields of its rows, in their order, and no `__post_init__`; otherwise give `build` and `parts`.
"""

from __future__ import annotations

from bmsota.gbt32960._fields import Field, FixedBytes, Layout, Repeat, SizedBytes, SizedText, Text, Time

__all__ = ["Field", "FixedBytes", "Layout", "Repeat", "SizedBytes", "SizedText", "Text", "Time"]
