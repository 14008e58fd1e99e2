"""What an image is for: the role of the node and its hardware class."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from uuid import NAMESPACE_DNS, UUID, uuid5

__all__ = ["HardwareClass", "ImageRole"]


class ImageRole(IntEnum):
    """The kind of node an image runs on. The number is the value of the role TLV and the image id of a dependency."""

    MASTER = 0
    SLAVE = 1


@dataclass(frozen=True, slots=True)
class HardwareClass:
    """A vendor and one of its hardware classes, as MCUboot's UUID_VID and UUID_CID TLVs."""

    vendor_id: UUID
    class_id: UUID

    @classmethod
    def named(cls, vendor: str, class_name: str) -> HardwareClass:
        """The class *class_name* of *vendor* (a domain name): version 5 UUIDs, as imgtool's --vid and --cid make them."""
        vendor_id = uuid5(NAMESPACE_DNS, vendor)
        return cls(vendor_id, uuid5(vendor_id, class_name))

    def __str__(self) -> str:
        return f"{self.vendor_id}/{self.class_id}"
