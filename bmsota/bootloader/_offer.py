"""The offer record: what image the client wants to send, sent before anything is erased.

It travels as one block of data frames before BeginTransfer, so that its frames are repeated as selectively as the image's
own, and so that what comes later needs no new CAN message.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from construct import Bytes, Const, Int8ul, Int16ul, Int32ul, Struct

from bmsota.bootloader._messages import ALL_NODES, BLOCK_FRAMES_MAX, GROUP_MAX, GROUP_MIN
from bmsota.errors import ImageError
from bmsota.node import OfferedImage

_LAYOUT = 2
_FLAG_COMPRESSED, _FLAG_FD = 1, 2

OFFER_LAYOUT = Struct(
    "layout" / Const(_LAYOUT, Int8ul),
    "role" / Int8ul,
    "flags" / Int16ul,  # bit 0: the stream is compressed; bit 1: in data frames of CAN FD
    "size_bytes" / Int32ul,
    "sha256" / Bytes(32),
    "class_id" / Bytes(16),
    "major" / Int8ul,
    "minor" / Int8ul,
    "revision" / Int16ul,
    "build" / Int32ul,
    "security_counter" / Int32ul,
    "group" / Int8ul,  # position that addresses the nodes of this broadcast; 255: none
    "block_frames" / Int8ul,  # data frames of every block but the last
    "window_bits" / Int8ul,  # of the compression (heatshrink); 0: none
    "lookahead_bits" / Int8ul,
)

OFFER_BYTES = OFFER_LAYOUT.sizeof()


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer(OfferedImage):
    """The image in short, and how it will be sent."""

    group: int
    block_frames: int
    is_fd: bool = False
    window_bits: int = 0
    """0: the stream is not compressed."""
    lookahead_bits: int = 0

    @property
    def is_compressed(self) -> bool:
        return self.window_bits > 0

    def stream_crc(self, offset: int) -> int:
        """What the CRCs of the stream from *offset* on begin with: the CRC-32 of the digest and the offset."""
        return crc32(self.sha256 + offset.to_bytes(4, "little"))

    def serialize(self) -> bytes:
        flags = (_FLAG_COMPRESSED if self.is_compressed else 0) | (_FLAG_FD if self.is_fd else 0)
        return bytes(
            OFFER_LAYOUT.build(
                self.fields()
                | {
                    "flags": flags,
                    "group": self.group,
                    "block_frames": self.block_frames,
                    "window_bits": self.window_bits,
                    "lookahead_bits": self.lookahead_bits,
                }
            )
        )

    @classmethod
    def parse(cls, data: bytes) -> Offer:
        """Read an offer record; what a frame was filled up with behind it is ignored.

        Raises:
            ImageError: it has another length or layout, contradicts itself, or its group is no group: that of another node's position
                would make a node answer, and obey, what is for the other one.
        """
        if len(data) < OFFER_BYTES or data[0] != _LAYOUT:
            raise ImageError(
                "offer record",
                expected=f"{OFFER_BYTES} bytes of layout {_LAYOUT}",
                received=f"{data[:4].hex()}... of {len(data)}",
            )
        parsed = OFFER_LAYOUT.parse(data)
        offer = cls(
            **cls.values(parsed),
            group=int(parsed.group),
            block_frames=int(parsed.block_frames),
            is_fd=bool(parsed.flags & _FLAG_FD),
            window_bits=int(parsed.window_bits),
            lookahead_bits=int(parsed.lookahead_bits),
        )
        if offer.serialize() != data[:OFFER_BYTES] or not 0 < offer.block_frames <= BLOCK_FRAMES_MAX:
            raise ImageError(
                "offer record",
                expected=f"known flags and 1 to {BLOCK_FRAMES_MAX} frames a block",
                received=f"flags 0x{int(parsed.flags):04x}, {offer.block_frames} frames",
            )
        if not (GROUP_MIN <= offer.group <= GROUP_MAX or offer.group == ALL_NODES):
            raise ImageError(
                "offer record",
                expected=f"a group of {GROUP_MIN} to {GROUP_MAX}, or {ALL_NODES}",
                received=str(offer.group),
            )
        return offer
