"""The master's image store: downloaded images on external flash, before anything is switched.

Strategy: no progress journal. The release manifest carries a digest of every block, so the flash itself says which
blocks are good: after a power cut anywhere, inside a write or an erase, the intact blocks are found by reading them.
A block is written by erasing its cells first; a block is an erase block, or several.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from bmsota.errors import TransferError

if TYPE_CHECKING:
    from bmsota.boot import Flash
    from bmsota.ota._manifest import ReleaseImage


IMAGE_STORE_LAYOUT = 0
"""Of the places: one image after another in the order they are assigned, each from the start of an erase block. The flash has
no room for a number, so the upgrade journal holds it beside the order whose images lie there."""


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
        for block in range(start, start + len(data), flash.erase_block_bytes):
            flash.erase(block)
        short = -len(data) % flash.write_unit_bytes
        flash.write(start, data + b"\xff" * short)

    def intact_blocks(self, image: ReleaseImage) -> frozenset[int]:
        """The blocks that are there and right, found by their digests."""
        data = self.read(image)
        size = image.block_size_bytes
        return frozenset(
            index
            for index, digest in enumerate(image.block_sha256)
            if hashlib.sha256(data[index * size : (index + 1) * size]).digest() == digest
        )

    def read(self, image: ReleaseImage) -> bytes:
        """The bytes at the image's place, right or not; the caller verifies."""
        return self._flash.read(self._places[image.sha256], image.size_bytes)
