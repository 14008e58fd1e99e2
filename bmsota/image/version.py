"""The version in a MCUboot image header: major.minor.revision+build (MCUboot design, "Image Format")."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bmsota.errors import ImageError

__all__ = ["ImageVersion"]

# imgtool's grammar: later parts may be left out, no leading zeros, so that one version has few spellings.
_VERSION = re.compile(
    r"(0|[1-9]\d{0,9})(?:\.(0|[1-9]\d{0,9})(?:\.(0|[1-9]\d{0,9})(?:\+(0|[1-9]\d{0,9}))?)?)?", re.ASCII
)

# The header's field widths: u8, u8, u16, u32.
_PARTS_MAX = (("major", 0xFF), ("minor", 0xFF), ("revision", 0xFFFF), ("build", 0xFFFF_FFFF))


@dataclass(frozen=True, slots=True, order=True)
class ImageVersion:
    """A version, ordered part by part, build number included.

    MCUboot ignores the build number in comparisons by default; we include it, because two images that
    differ in the build only are two images.
    """

    major: int = 0
    minor: int = 0
    revision: int = 0
    build: int = 0

    def __post_init__(self) -> None:
        for name, maximum in _PARTS_MAX:
            value = getattr(self, name)
            if not 0 <= value <= maximum:
                raise ImageError("image version", expected=f"{name} 0..{maximum}", received=str(value))

    @classmethod
    def parse(cls, text: str) -> ImageVersion:
        """Parse "2.1.0+5"; parts after the first may be left out and are 0.

        Raises:
            ImageError: *text* is no such version, or a part does not fit its field.
        """
        match = _VERSION.fullmatch(text)
        if match is None:
            raise ImageError("image version", expected="major.minor.revision+build", received=repr(text[:40]))
        return cls(*(int(part or 0) for part in match.groups()))

    def __str__(self) -> str:
        """The shortest full spelling: "2.1.0", and "2.1.0+5" when there is a build number."""
        text = f"{self.major}.{self.minor}.{self.revision}"
        return f"{text}+{self.build}" if self.build else text
