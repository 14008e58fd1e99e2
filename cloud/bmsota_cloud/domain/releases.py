"""Releases: a signed manifest and the images it lists, both verified when they were uploaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Release", "ReleasedImage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedImage:
    """One line of a release's manifest."""

    kind: str
    """"master" or "slave"."""
    hardware_class: str
    version: str
    security_counter: int
    size_bytes: int
    sha256: str
    """Of the whole file, hexadecimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What a series can be updated to."""

    id: int = 0
    name: str
    software_version: str
    series: str
    manifest_sha256: str
    """Hexadecimal; what an upgrade order names."""
    images: tuple[ReleasedImage, ...]
    expires_at: datetime
    uploaded_by: str
    uploaded_at: datetime

    def images_for(self, kind: str, hardware_class: str) -> tuple[ReleasedImage, ...]:
        """The images that fit a node of this *kind* ("master", "slave") and class; "" for a class that is not known."""
        return tuple(
            image
            for image in self.images
            if image.kind == kind and (not hardware_class or image.hardware_class == hardware_class)
        )
