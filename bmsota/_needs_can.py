"""As `bmsota._needs_trust`, for the packages that cannot do without the extra `can`."""

from __future__ import annotations

from bmsota._extras import needs_extra

with needs_extra("this part of bmsota", "can"):
    import cryptography  # noqa: F401 - what is tested is that it is there
    import isotp  # noqa: F401
    import udsoncan  # noqa: F401
