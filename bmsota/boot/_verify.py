"""What the store asks of an image verifier.

The store itself checks sizes, the digest it was given and the security counter. Whether an image is genuine is decided
by an injected function, so that the store knows neither signatures nor keys: `bmsota.image.verify_image` with its
public keys bound is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from bmsota.errors import TrustError
from bmsota.image import Attack

if TYPE_CHECKING:
    from uuid import UUID

    from bmsota.image import HardwareClass, ImageVersion


class ImageFacts(Protocol):
    """What a verified image says of itself; `bmsota.image.FirmwareImage` is one."""

    @property
    def version(self) -> ImageVersion: ...
    @property
    def security_counter(self) -> int: ...
    @property
    def hardware_class(self) -> HardwareClass: ...
    @property
    def role(self) -> int: ...


VerifyImage: TypeAlias = Callable[[bytes], ImageFacts]
"""Take a whole image file; return its facts or raise `ImageError` or `TrustError`."""


def for_hardware(verify: VerifyImage, *, class_id: UUID, role: int) -> VerifyImage:
    """Narrow *verify* to images made for this hardware: a genuine image of another device must not boot here."""

    def verify_for_hardware(data: bytes) -> ImageFacts:
        facts = verify(data)
        if facts.hardware_class.class_id != class_id:
            raise TrustError(
                Attack.WRONG_HARDWARE, f"image: expected hardware class {class_id}, got {facts.hardware_class.class_id}"
            )
        if int(facts.role) != role:
            raise TrustError(Attack.WRONG_HARDWARE, f"image: expected role {role}, got {int(facts.role)}")
        return facts

    return verify_for_hardware
