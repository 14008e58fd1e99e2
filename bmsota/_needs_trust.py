"""Imported first by the packages that cannot do without the extra `trust`, so that its absence ends in a line that names it."""

from __future__ import annotations

from bmsota._extras import needs_extra

with needs_extra("this part of bmsota", "trust"):
    import cbor2  # noqa: F401 - what is tested is that it is there
    import construct  # noqa: F401
    import cryptography  # noqa: F401
