"""Where the frames of `bmsota decode` and `bmsota send` come from: the options, and `find_frames` behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from bmsota.adapters.frame_sources import (
    FrameSourceError,
    FrameSourceFormat,
    FrameSourceOptions,
    ReadSummary,
    find_frames,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota.adapters.frame_sources import FoundFrame

__all__ = ["FrameInputOptions", "read_frames"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameInputOptions:
    """What the user says about the input."""

    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="[HEX|FILE]...", help="Frames or files; without any, standard input is read."),
    ] = None
    input_format: Annotated[
        FrameSourceFormat, typer.Option("--format", help="State the kind of the input instead of detecting it.")
    ] = FrameSourceFormat.AUTO
    port: Annotated[
        list[int] | None,
        typer.Option(
            "--port", min=1, max=65535, help="Captures: read only connections with this port. May be repeated."
        ),
    ] = None
    column: Annotated[
        str | None, typer.Option("--column", metavar="NAME", help="Tables: the column of frames, by name or number.")
    ] = None
    time_column: Annotated[
        str | None, typer.Option("--time-column", metavar="NAME", help="Tables: the column of times.")
    ] = None
    encoding: Annotated[
        str | None,
        typer.Option("--encoding", help="Text files: the encoding; UTF-8, UTF-16 and GB 18030 are detected."),
    ] = None


def read_frames(
    options: FrameInputOptions, summary: ReadSummary, *, vin_column: str | None = None
) -> Iterator[FoundFrame]:
    """Everything the input holds.

    Raises:
        typer.BadParameter: the input cannot be read, or does not match the options.
    """
    source_options = FrameSourceOptions(
        format=options.input_format,
        ports=frozenset(options.port or ()),
        column=options.column,
        time_column=options.time_column,
        vin_column=vin_column,
        encoding=options.encoding,
    )
    try:
        yield from find_frames(options.sources or (), source_options, summary)
    except FrameSourceError as error:
        option = f" (--{error.option.replace('_', '-')})" if error.option else ""
        raise typer.BadParameter(f"{error}{option}") from None
