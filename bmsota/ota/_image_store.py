"""The master's image store: downloaded images on external flash, before anything is switched.

Strategy: no progress journal. The release manifest carries a digest of every block, so the flash itself says which
blocks are good: after a power cut anywhere, inside a write or an erase, the intact blocks are found by reading them.
A block is written by erasing its cells first; a block is an erase block, or several.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING

from bmsota.errors import FlashError, ImageError, TransferError
from bmsota.image import image_length

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota.boot import Flash
    from bmsota.ota._manifest import ReleaseImage


IMAGE_STORE_LAYOUT = 0
"""Of the places: one image after another in the order they are assigned, each from the start of an erase block. The flash has
no room for a number, so the upgrade journal holds it beside the order whose images lie there."""


READINGS = 8
"""How often a block is read before it is given up: an unstable cell is right now and then."""


def stored_images(flash: Flash) -> Iterator[bytes]:
    """The image files that lie on the flash of an image store, found without their manifest: for a boot that has no other.

    They are not verified: one may be incomplete, or of a release that was never confirmed.
    """
    erase = flash.erase_block_bytes
    data = b"".join(_erase_block(flash, start) for start in range(0, flash.size_bytes, erase))
    for start in range(0, flash.size_bytes, erase):
        with suppress(ImageError):
            yield data[start : start + image_length(data[start:])]


def _erase_block(flash: Flash, start: int) -> bytes:
    """One erase block; zeros if it cannot be read, in which no image is found."""
    try:
        return flash.read(start, flash.erase_block_bytes)
    except FlashError:
        return bytes(flash.erase_block_bytes)


class ImageStore:
    """Places for images on a flash, one after another in the order of the manifest."""

    def __init__(self, flash: Flash) -> None:
        self._flash = flash
        self._places: dict[bytes, int] = {}

    def assign(self, images: tuple[ReleaseImage, ...]) -> None:
        """Give every image of a release its place; what lies there stays until it is written.

        Raises:
            TransferError: permanent; the images do not fit, or a block is no whole number of erase blocks.
        """
        erase = self._flash.erase_block_bytes
        places: dict[bytes, int] = {}
        offset = 0
        for image in images:
            if image.block_size_bytes % erase:
                raise TransferError(
                    f"image store: expected blocks of a multiple of {erase} bytes, got {image.block_size_bytes}",
                    permanent=True,
                )
            places[image.sha256] = offset
            offset += -(-image.size_bytes // erase) * erase
        if offset > self._flash.size_bytes:
            raise TransferError(
                f"image store: expected at most {self._flash.size_bytes} bytes of images, got {offset}", permanent=True
            )
        self._places = places

    def write_block(self, image: ReleaseImage, index: int, data: bytes) -> None:
        """Erase the cells of block *index* and write it."""
        flash = self._flash
        start = self._places[image.sha256] + index * image.block_size_bytes
        short = -len(data) % flash.write_unit_bytes
        # That the flash cannot do it is found, and counted, when the block is looked for.
        with suppress(FlashError):
            for block in range(start, start + len(data), flash.erase_block_bytes):
                flash.erase(block)
            flash.write(start, data + b"\xff" * short)

    def intact_blocks(self, image: ReleaseImage) -> frozenset[int]:
        """The blocks that are there and right, found by their digests."""
        blocks = range(len(image.block_sha256))
        return frozenset(index for index in blocks if self._read_block(image, index) is not None)

    def read(self, image: ReleaseImage) -> bytes:
        """The image, whose blocks have the digests of the manifest.

        Raises:
            FlashError: a block that was intact is not any more.
        """
        return b"".join(self._read_intact(image, index) for index in range(len(image.block_sha256)))

    def _read_intact(self, image: ReleaseImage, index: int) -> bytes:
        for _ in range(READINGS):
            block = self._read_block(image, index)
            if block is not None:
                return block
        raise FlashError(f"flash worn: the image store has lost block {index} of an image")

    def _read_block(self, image: ReleaseImage, index: int) -> bytes | None:
        """Block *index* if it can be read and is right."""
        start = index * image.block_size_bytes
        size = min(image.block_size_bytes, image.size_bytes - start)
        try:
            data = self._flash.read(self._places[image.sha256] + start, size)
        except FlashError:
            return None
        return data if hashlib.sha256(data).digest() == image.block_sha256[index] else None
