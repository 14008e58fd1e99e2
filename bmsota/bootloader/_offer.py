"""The offer record: what image the client wants to send, told before anything is erased.

It travels as one block of data frames before BeginTransfer, so that its frames are repeated as selectively as the image's
own, and so that what comes later (compression, security access) needs no new CAN message.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from construct import Bytes, Const, Int8ul, Int16ul, Int32ul, Struct

from bmsota.errors import ImageError
from bmsota.image import ImageVersion

__all__ = ["OFFER_BYTES", "OFFER_LAYOUT", "Offer"]

_LAYOUT = 1

OFFER_LAYOUT = Struct(
    "layout" / Const(_LAYOUT, Int8ul),
    "role" / Int8ul,
    "flags" / Const(0, Int16ul),  # none is defined in layout 1
    "size_bytes" / Int32ul,
    "sha256" / Bytes(32),
    "class_id" / Bytes(16),
    "major" / Int8ul,
    "minor" / Int8ul,
    "revision" / Int16ul,
    "build" / Int32ul,
    "security_counter" / Int32ul,
    "reserved" / Const(b"\xff" * 4),
)

OFFER_BYTES = OFFER_LAYOUT.sizeof()


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The image in a few words."""

    role: int
    size_bytes: int
    sha256: bytes
    """Of the whole file."""
    class_id: UUID
    version: ImageVersion
    security_counter: int

    def serialize(self) -> bytes:
        return bytes(
            OFFER_LAYOUT.build(
                {
                    "role": self.role,
                    "size_bytes": self.size_bytes,
                    "sha256": self.sha256,
                    "class_id": self.class_id.bytes,
                    "major": self.version.major,
                    "minor": self.version.minor,
                    "revision": self.version.revision,
                    "build": self.version.build,
                    "security_counter": self.security_counter,
                }
            )
        )

    @classmethod
    def parse(cls, data: bytes) -> Offer:
        """Read an offer record.

        Raises:
            ImageError: it has another length or layout.
        """
        if len(data) != OFFER_BYTES or data[0] != _LAYOUT or data[2:4] != b"\0\0" or data[-4:] != b"\xff" * 4:
            raise ImageError(
                "offer record",
                expected=f"{OFFER_BYTES} bytes of layout {_LAYOUT}",
                received=f"{data[:4].hex()}... of {len(data)}",
            )
        parsed = OFFER_LAYOUT.parse(data)
        return cls(
            role=int(parsed.role),
            size_bytes=int(parsed.size_bytes),
            sha256=bytes(parsed.sha256),
            class_id=UUID(bytes=bytes(parsed.class_id)),
            version=ImageVersion(parsed.major, parsed.minor, parsed.revision, parsed.build),
            security_counter=int(parsed.security_counter),
        )
