"""What is to be flashed: a release with its images, or one image; and why what was given cannot be flashed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING
from uuid import uuid5

from bmsota.errors import BmsotaError, LocalProtocolError
from bmsota.image import ImageRole, parse_image

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from bmsota.flashing._checks import Check
    from bmsota.image import FirmwareImage
    from bmsota.node import NodeDescription
    from bmsota.ota import ReleaseManifest


class SourceFault(Enum):
    """What is wrong with the files of a flash. The value is the fault's name for users."""

    FILE_MISSING = "file missing"
    FILE_UNREADABLE = "file unreadable"
    NOT_AN_IMAGE = "not an image"
    IMAGE_DAMAGED = "image damaged"
    BAD_MANIFEST = "bad manifest"
    IMAGE_MISSING = "image missing"
    BAD_KEY = "bad key"


class SourceError(BmsotaError):
    """Files that cannot be used for a flash. `fault` says why; `detail` names the file and what is wrong with it."""

    def __init__(self, fault: SourceFault | Check, detail: str) -> None:
        super().__init__(f"{fault.value}: {detail}")
        self.fault = fault
        self.detail = detail


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image at hand."""

    data: bytes
    facts: FirmwareImage


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashSource:
    """What is to be flashed: a release with its images, or one image."""

    name: str
    images: tuple[SourceImage, ...]
    manifest: ReleaseManifest | None = None
    """None: one image without a release."""
    is_manifest_verified: bool = False

    @classmethod
    def of_image(cls, name: str, data: bytes) -> FlashSource:
        """One image.

        Raises:
            ImageError: *data* is not an image.
        """
        return cls(name=name, images=(SourceImage(data, parse_image(data)),))

    @classmethod
    def of_release(cls, manifest: ReleaseManifest, images: Iterable[bytes], *, is_verified: bool) -> FlashSource:
        """A release. *images* are the files the manifest names, which the caller has compared by digest.

        Raises:
            ImageError: one of them is not an image.
            LocalProtocolError: one of them does not belong to this release.
        """
        known = {entry.sha256 for entry in manifest.images}
        parsed = tuple(SourceImage(data, parse_image(data)) for data in images)
        for image in parsed:
            if image.facts.digest not in known:
                raise LocalProtocolError(
                    f"release {manifest.release}: the manifest does not list image {image.facts.digest.hex()}"
                )
        return cls(name=manifest.release, images=parsed, manifest=manifest, is_manifest_verified=is_verified)

    @property
    def class_names(self) -> dict[UUID, str]:
        """Names of hardware classes as far as the release tells: "F7-master" where that is what the class was named."""
        if self.manifest is None:
            return {}
        names: dict[UUID, str] = {}
        for vendor_id in {image.facts.hardware_class.vendor_id for image in self.images}:
            for role in ImageRole:
                name = f"{self.manifest.series}-{role.name.lower()}"
                names[uuid5(vendor_id, name)] = name
        return names

    def image_for(self, node: NodeDescription) -> SourceImage | None:
        """The image for this kind of node."""
        for image in self.images:
            if image.facts.role is node.role and image.facts.hardware_class.class_id == node.class_id:
                return image
        return None
