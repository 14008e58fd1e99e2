"""What `make test-long` asks of the tests marked `long`: larger counts, and a range of seeds."""

from __future__ import annotations

import os

# The exhaustive tests leave nothing out.
LONG = bool(os.environ.get("BMSOTA_LONG"))


def seeds() -> range:
    """The seeds of this run: `BMSOTA_LONG_SEEDS=4:8` are 4 to 7; without it, seed 0 alone."""
    first, _, end = os.environ.get("BMSOTA_LONG_SEEDS", "0:1").partition(":")
    return range(int(first), int(end))
