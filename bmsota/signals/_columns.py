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

        values = self[name]
        if self.is_everywhere(name):
            return values
        kind = values.dtype if fill is not None and values.dtype.kind != "O" else np.dtype(np.float64)
        spread: NDArray[Any] = np.full(self.length, np.nan if fill is None else fill, dtype=kind)
        if values.dtype.kind == "O":
            spread = spread.astype(object)
        spread[self.rows(name)] = values
        return spread


class PageRuns:
    """What the pages of one multiplexer hold, as `decode_batch` finds it: frames sorted by page, and runs of values cut from them.

    A run is one array for neighbouring pages that have a signal with the same bits each. It is cut into a column per signal when
    that signal is asked for: of hundreds of cells most are not.
    """

    __slots__ = ("bounds", "places", "rows", "runs")

    def __init__(
        self,
        rows: NDArray[np.intp],
        bounds: list[int],
        runs: list[NDArray[Any]],
        places: Mapping[str, tuple[int, int, int]],
    ) -> None:
        self.rows = rows
        """The frames, sorted by page."""
        self.bounds = bounds
        """Where in `rows` each page begins; one more than there are pages."""
        self.runs = runs
        self.places = places
        """Signal -> the number of its run, the run's first page, the signal's page."""

    def has(self, rows: NDArray[np.intp], bounds: list[int]) -> bool:
        """Whether these are the frames, sorted by page, and where each page begins."""
        return bounds == self.bounds[: len(bounds)] and len(rows) == len(self.rows) and bool((rows == self.rows).all())

    def held(self, name: str) -> NDArray[np.intp]:
        page = self.places[name][2]
        return self.rows[self.bounds[page] : self.bounds[page + 1]]


class PagedColumns(SignalColumns):
    """As `decode_batch` makes them: columns of pages are cut when they are asked for."""

    __slots__ = ("_names", "_pages")

    def __init__(
        self,
        length: int,
        values: Mapping[str, NDArray[Any]],
        rows: Mapping[str, NDArray[np.intp]],
        *,
        undefined: tuple[int, ...],
        names: tuple[str, ...],
        pages: tuple[PageRuns, ...],
    ) -> None:
        """*names* are all columns: those of *values*, and those that *pages* hold."""
        super().__init__(length, values, rows, undefined=undefined)
        self._names = names
        self._pages = pages

    def __getitem__(self, name: str) -> NDArray[Any]:
        values = self._values.get(name)
        if values is None:
            for pages in self._pages:
                place = pages.places.get(name)
                if place is not None:
                    run, first, page = place
                    bounds = pages.bounds
                    start = bounds[first]
                    values = self._values[name] = pages.runs[run][bounds[page] - start : bounds[page + 1] - start]
                    return values
            raise KeyError(name)
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._values or any(name in pages.places for pages in self._pages)

    def is_everywhere(self, name: str) -> bool:
        return super().is_everywhere(name) if not any(name in pages.places for pages in self._pages) else False

    def rows(self, name: str) -> NDArray[np.intp]:
        if name not in self._rows:
            for pages in self._pages:
                if name in pages.places:
                    self._rows[name] = pages.held(name)
        return super().rows(name)

    def run(self, names: tuple[str, ...], first: int, rows: NDArray[np.intp], bounds: list[int]) -> NDArray[Any] | None:
        """The values of *names*, signals of neighbouring pages from page *first* on, as one array, if they are kept as one.

        *rows* and *bounds* are the frames sorted by page, which must be those of the columns.
        """
        for pages in self._pages:
            place = pages.places.get(names[0])
            if place is None:
                continue
            run, start, _ = place
            if all(pages.places.get(name) == (run, start, page) for page, name in enumerate(names, first)):
                if not pages.has(rows, bounds):
                    return None
                begin = pages.bounds[start]
                return pages.runs[run][bounds[first] - begin : bounds[first + len(names)] - begin]
        return None
