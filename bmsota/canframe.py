"""A CAN frame, as every core of the library sees it. Adapters translate it to a driver's own message type."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CanFrame"]


@dataclass(frozen=True, slots=True)
class CanFrame:
    """One data frame on a CAN bus (ISO 11898-1)."""

    can_id: int
    """11-bit identifier, or 29-bit when `is_extended_id`."""
    data: bytes
    """0 to 8 bytes; with `is_fd` 0 to 64."""
    is_extended_id: bool = False
    is_fd: bool = False
