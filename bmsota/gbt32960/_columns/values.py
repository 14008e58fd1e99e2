"""What `decode_batch` gives and `encode_batch` takes. Needs no NumPy itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bmsota.errors import FrameError
    from bmsota.gbt32960._enums import Edition
    from bmsota.gbt32960._frame import Frame

    Array = NDArray[Any]


MARK_ABNORMAL: Final = 1
"""In `FrameGroup.marks`: the value was `Sentinel.ABNORMAL`."""
MARK_INVALID: Final = 2
"""In `FrameGroup.marks`: the value was `Sentinel.INVALID`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameGroup:
    """Reports that are laid out alike. Row i of every array belongs to the same frame."""

    edition: Edition
    skeleton: bytes
    """A frame of this layout: type and count bytes as they are, zeros where values stand."""
    index: Array
    """int64: the place of each frame in the batch."""
    command: Array
    """uint8: 2 real-time, 3 backfill."""
    vin: Array
    """str of up to 17 characters."""
    time: Array
    """datetime64[s], UTC."""
    values: Mapping[str, Array]
    """Columns by name: body, place in the list from 1, field, as "vehicle_data.soc_pct" or "cell_voltages.1.voltage_v". If a
    body comes twice in a report, the second is "vehicle_data_2"."""
    marks: Mapping[str, Array] = field(default_factory=dict)
    """Why a number is missing, for the columns where one is."""

    def __len__(self) -> int:
        return len(self.index)

    def to_dict(self) -> dict[str, Array]:
        """Return all columns by name: index, vin, command, time, then the values. Lists (cells, probes) are 2-D."""
        return {"index": self.index, "vin": self.vin, "command": self.command, "time": self.time, **self.values}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameColumns:
    """What `decode_batch` made of a batch. Every frame is in exactly one of the three."""

    groups: tuple[FrameGroup, ...] = ()
    """In the order of their first frames."""
    others: tuple[tuple[int, Frame], ...] = ()
    """Place in the batch, and the frame: frames that have no columns."""
    errors: tuple[tuple[int, FrameError], ...] = ()
    """Place in the batch, and what is wrong with the frame."""

    def __len__(self) -> int:
        """The number of frames in the batch, bad ones included."""
        return sum(map(len, self.groups)) + len(self.others) + len(self.errors)
