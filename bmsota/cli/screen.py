"""What every command that prints frames needs of the screen."""

from __future__ import annotations

import io
import sys

__all__ = ["forgiving_output"]


def forgiving_output() -> None:
    """Print a character that the screen's encoding lacks as its escape, instead of failing in the middle of a file."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
