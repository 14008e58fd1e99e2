"""Every layout as a table: which byte stands where.

One file for each edition and one for our extension. The number of a type means other things in the other edition (0x06 is extremes in
2016 and alarms in 2025), so every look-up goes through the edition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bmsota.gbt32960._enums import Edition
from bmsota.gbt32960._tables.common import PLATFORM_LOGOUT, VEHICLE_LOGOUT
from bmsota.gbt32960._tables.edition_2016 import (
    BODIES_2016,
    MESSAGES_2016,
    PARAMETERS_2016,
    PLATFORM_LOGIN_2016,
    VEHICLE_LOGIN_2016,
)
from bmsota.gbt32960._tables.edition_2025 import (
    ACTIVATION,
    ACTIVATION_REPLY,
    BODIES_2025,
    KEY_EXCHANGE,
    MESSAGES_2025,
    PARAMETERS_2025,
    PLATFORM_LOGIN_2025,
    SIGNATURE_2025,
    VEHICLE_LOGIN_2025,
)
from bmsota.gbt32960._tables.extension import (
    BLOCK_REQUEST_SIZE_BYTES,
    EXTENSION_BODY_LAYOUTS,
    EXTENSION_LAYOUTS,
    EXTENSION_REPLY_LAYOUTS,
)

if TYPE_CHECKING:
    from bmsota.gbt32960._fields import Layout, Row

__all__ = [
    "ACTIVATION",
    "ACTIVATION_REPLY",
    "BLOCK_REQUEST_SIZE_BYTES",
    "BODY_LAYOUTS",
    "EXTENSION_BODY_LAYOUTS",
    "EXTENSION_LAYOUTS",
    "EXTENSION_REPLY_LAYOUTS",
    "KEY_EXCHANGE",
    "MESSAGE_LAYOUTS",
    "PARAMETER_ROWS",
    "PLATFORM_LOGIN_2016",
    "PLATFORM_LOGIN_2025",
    "PLATFORM_LOGOUT",
    "SIGNATURE_2025",
    "VEHICLE_LOGIN_2016",
    "VEHICLE_LOGIN_2025",
    "VEHICLE_LOGOUT",
]

BODY_LAYOUTS: Final[dict[Edition, dict[int, Layout]]] = {Edition.GBT2016: BODIES_2016, Edition.GBT2025: BODIES_2025}
"""Bodies of a report, by edition and type."""

MESSAGE_LAYOUTS: Final[dict[Edition, dict[int, Layout]]] = {
    Edition.GBT2016: MESSAGES_2016,
    Edition.GBT2025: MESSAGES_2025,
}
"""Data units with a layout, by edition and command."""

PARAMETER_ROWS: Final[dict[Edition, dict[int, Row | int]]] = {
    Edition.GBT2016: PARAMETERS_2016,
    Edition.GBT2025: PARAMETERS_2025,
}
"""How each parameter is laid out. An id that is missing here has an unknown size: the list cannot be read on."""
