"""bmsota: the sans-IO library for updating and monitoring battery management systems.

Import what you need: `bmsota.gbt32960` (cloud link), `bmsota.signals` (DBC), `bmsota.bootloader` (CAN bootloader),
`bmsota.boot` (A/B slots), `bmsota.image` (MCUboot images), `bmsota.ota` (release manifest, upgrade order, download).
This module imports none of them, so each costs only what it needs.
"""

__version__ = "0.1.0"
