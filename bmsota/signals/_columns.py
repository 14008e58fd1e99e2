"""Columns: what many frames of one message say, a NumPy array per signal.

A signal that is in every frame has one value a frame. A multiplexed signal has values only for the frames it is in, and
`SignalColumns.rows` says which those are: a pack with 32 pages of three cells would otherwise be 96 columns that are empty to
97 percent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class SignalColumns(Mapping[str, "NDArray[Any]"]):
    """Signal name -> its values, as `Message.decode_batch` returns them and `Message.encode_batch` takes them.

    Numbers are in the signal's unit: int64 (uint64 where that is too small) if scale and offset keep integers integers,
    float64 otherwise; Python integers (dtype object) if they need more than 64 bits. A value table's names stay numbers.
    """

    __slots__ = ("_rows", "_values", "length", "undefined")

    def __init__(
        self,
        length: int,
        values: Mapping[str, NDArray[Any]],
        rows: Mapping[str, NDArray[np.intp]],
        *,
        undefined: tuple[int, ...] = (),
    ) -> None:
        self.length = length
        """How many frames there are. Not `len()`, which is the number of columns."""
        self.undefined = undefined
        """The frames with a multiplexer number that the DBC does not define (only with `strict=False`)."""
        self._values = dict(values)
        self._rows = dict(rows)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The values of a signal.

        Raises:
            KeyError: the message has no such signal.
        """
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"SignalColumns({self.length} frames, {len(self)} signals)"

    def is_everywhere(self, name: str) -> bool:
        """Whether the signal is outside every multiplexer: one value a frame. Raises KeyError as `[]`."""
        if name not in self._values:
            raise KeyError(name)
        return name not in self._rows

    def rows(self, name: str) -> NDArray[np.intp]:
        """The frames that hold the signal, by number, rising; as long as the column. Raises KeyError as `[]`."""
        import numpy as np  # noqa: PLC0415 - an extra, imported when first used

        return np.arange(self.length, dtype=np.intp) if self.is_everywhere(name) else self._rows[name]

    def mask(self, name: str) -> NDArray[np.bool_]:
        """For every frame, whether it holds the signal. Raises KeyError as `[]`."""
        import numpy as np  # noqa: PLC0415

        held = np.zeros(self.length, dtype=np.bool_)
        held[self.rows(name)] = True
        return held

    def full(self, name: str, fill: float | None = None) -> NDArray[Any]:
        """One value for every frame; *fill* where the frame does not hold the signal.

        By default NaN, which makes a float64 column of an integer one; an integer *fill* keeps integers.
        Raises KeyError as `[]`.
        """
        import numpy as np  # noqa: PLC0415

        values = self._values[name]
        if self.is_everywhere(name):
            return values
        kind = values.dtype if fill is not None and values.dtype.kind != "O" else np.dtype(np.float64)
        spread: NDArray[Any] = np.full(self.length, np.nan if fill is None else fill, dtype=kind)
        if values.dtype.kind == "O":
            spread = spread.astype(object)
        spread[self._rows[name]] = values
        return spread
