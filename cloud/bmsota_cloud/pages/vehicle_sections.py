"""The parts of a vehicle's details, each with an address of its own, and who may see which."""

from __future__ import annotations

from typing import Final

__all__ = ["vehicle_sections"]

_SECTIONS: Final = (
    ("basic", "Basic information"),
    ("real-time", "Real-time status"),
    ("location", "Location"),
    ("configuration", "BMS configuration"),
    ("runs", "Running history"),
    ("faults", "Fault history"),
    ("upgrades", "Upgrade history"),
    ("equipment", "Equipment change"),
    ("export", "Data export"),
)


def vehicle_sections(vin: str) -> tuple[tuple[str, str, str], ...]:
    """Last part of the address, address and name of each part, in the order of the menu."""
    return tuple((name, f"/vehicles/{vin}/{name}", label) for name, label in _SECTIONS)
