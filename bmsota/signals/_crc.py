"""CRCs of any width and polynomial, for one frame and for columns of frames.

A CRC is named by the parameters of the Rocksoft model, as the catalogue of CRC algorithms writes them:
`width=8 poly=0x1D init=0xFF refin=false refout=false xorout=0xFF` is CRC-8/SAE-J1850.

One frame goes through `crcmod`, which is written in C. It knows widths of 8, 16, 24, 32 and 64 bits, reflected at both ends or at
neither; the rest (the CRC-4, CRC-12 and CRC-15 that DBC files also have) and columns go through a table of 256 entries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from bmsota.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

WIDTH_MAX = 64
_CRCMOD_WIDTHS = frozenset({8, 16, 24, 32, 64})
_PARAMETERS = ("width", "poly", "init", "refin", "refout", "xorout")
_TOKEN = re.compile(r"(\w+)\s*=\s*(\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class CrcAlgorithm:
    """A CRC by the parameters of its entry in the catalogue.

    Raises:
        ConfigurationError: a width outside 1 to 64, or a parameter that needs more bits than the width has.
    """

    width: int
    """Bits."""
    poly: int
    """The polynomial without its highest term, highest coefficient first whatever the reflection."""
    init: int = 0
    refin: bool = False
    refout: bool = False
    xorout: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.width <= WIDTH_MAX:
            raise ConfigurationError(f"CRC width: expected 1 to {WIDTH_MAX}, got {self.width}")
        for name in ("poly", "init", "xorout"):
            value = getattr(self, name)
            if not 0 <= value < 1 << self.width:
                raise ConfigurationError(f"CRC {name}: expected {self.width} bits, got 0x{value:X}")

    @classmethod
    def parse(cls, text: str) -> CrcAlgorithm:
        """Read the catalogue's notation. *width* and *poly* must be there; the others are 0 and false by default.

        Raises:
            ConfigurationError: not this notation, or values that are none.
        """
        found = dict(_TOKEN.findall(text))
        rest = _TOKEN.sub("", text).strip()
        unknown = [name for name in found if name not in _PARAMETERS and name not in ("check", "residue", "name")]
        if rest or unknown or "width" not in found or "poly" not in found:
            raise ConfigurationError(
                f"CRC: expected width=.. poly=.. init=.. refin=.. refout=.. xorout=.., got {text[:80]!r}"
            )
        return cls(
            width=_integer(found["width"]),
            poly=_integer(found["poly"]),
            init=_integer(found.get("init", "0")),
            refin=_boolean(found.get("refin", "false")),
            refout=_boolean(found.get("refout", "false")),
            xorout=_integer(found.get("xorout", "0")),
        )

    def compute(self, data: bytes) -> int:
        """The CRC of *data*.

        Raises:
            MissingExtraError: the extra `can`, which brings crcmod, is not installed.
        """
        return function_of(self)(data)

    def compute_columns(self, data: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """The CRC of each row of *data*, an array of uint8."""
        import numpy as np  # noqa: PLC0415 - an extra, imported when first used

        table = np.array(_table(self), dtype=np.uint64)
        bits, mask = _register(self)
        register = np.full(len(data), _start(self), dtype=np.uint64)
        for column in range(data.shape[1]):
            byte = data[:, column].astype(np.uint64)
            if self.refin:
                register = register >> np.uint64(8) ^ table[(register ^ byte) & np.uint64(0xFF)]
            else:
                index = (register >> np.uint64(bits - 8) ^ byte) & np.uint64(0xFF)
                register = register << np.uint64(8) & np.uint64(mask) ^ table[index]
        if not self.refin:
            register >>= np.uint64(bits - self.width)
        if self.refin != self.refout:
            register = _reflect_columns(register, self.width)
        return register ^ np.uint64(self.xorout)


def _integer(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ConfigurationError(f"CRC: expected a number, got {text!r}") from None


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ConfigurationError(f"CRC: expected true or false, got {text!r}")
    return text.lower() == "true"


def _reflect(value: int, width: int) -> int:
    return int(f"{value:0{width}b}"[::-1], 2)


def _reflect_columns(values: NDArray[np.uint64], width: int) -> NDArray[np.uint64]:
    import numpy as np  # noqa: PLC0415

    reflected = np.zeros_like(values)
    for bit in range(width):
        reflected |= (values >> np.uint64(bit) & np.uint64(1)) << np.uint64(width - 1 - bit)
    return reflected


def _register(crc: CrcAlgorithm) -> tuple[int, int]:
    """The register's width and mask. One that is not reflected stands left-aligned in at least a byte."""
    bits = crc.width if crc.refin else max(8, crc.width)
    return bits, (1 << bits) - 1


def _start(crc: CrcAlgorithm) -> int:
    return _reflect(crc.init, crc.width) if crc.refin else crc.init << _register(crc)[0] - crc.width


@cache
def _table(crc: CrcAlgorithm) -> tuple[int, ...]:
    """What each byte does to an empty register."""
    bits, mask = _register(crc)
    entries = []
    for byte in range(256):
        if crc.refin:
            register, poly = byte, _reflect(crc.poly, crc.width)
            for _ in range(8):
                register = register >> 1 ^ (poly if register & 1 else 0)
        else:
            register, poly = byte << bits - 8, crc.poly << bits - crc.width
            for _ in range(8):
                register = register << 1 & mask ^ (poly if register >> bits - 1 else 0)
        entries.append(register)
    return tuple(entries)


@cache
def function_of(crc: CrcAlgorithm) -> Callable[[bytes], int]:
    """The function that computes it; made once. Raises as `CrcAlgorithm.compute`."""
    if crc.width not in _CRCMOD_WIDTHS or crc.refin != crc.refout:
        return lambda data: _by_table(crc, data)
    try:
        import crcmod  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("message protection", "crcmod-plus", "can") from error
    start = _reflect(crc.init, crc.width) if crc.refin else crc.init
    # crcmod's "initCrc" is what it gives for no data at all.
    made: Any = crcmod.mkCrcFun(1 << crc.width | crc.poly, initCrc=start ^ crc.xorout, rev=crc.refin, xorOut=crc.xorout)
    computed: Callable[[bytes], int] = made
    return computed


def _by_table(crc: CrcAlgorithm, data: bytes) -> int:
    table, (bits, mask), register = _table(crc), _register(crc), _start(crc)
    if crc.refin:
        for byte in data:
            register = register >> 8 ^ table[(register ^ byte) & 0xFF]
    else:
        for byte in data:
            register = register << 8 & mask ^ table[(register >> bits - 8 ^ byte) & 0xFF]
        register >>= bits - crc.width
    if crc.refin != crc.refout:
        register = _reflect(register, crc.width)
    return register ^ crc.xorout


SAE_J1850 = CrcAlgorithm(width=8, poly=0x1D, init=0xFF, xorout=0xFF)
"""AUTOSAR SWS CRC library 7.2.1.1."""
P01_CRC = CrcAlgorithm(width=8, poly=0x1D)
"""E2E profile 1: the polynomial of SAE J1850, but start value and XOR value are 0 (PRS E2E protocol, profile 1)."""
H2F = CrcAlgorithm(width=8, poly=0x2F, init=0xFF, xorout=0xFF)
"""SWS CRC library 7.2.1.2; E2E profile 2."""
CCITT = CrcAlgorithm(width=16, poly=0x1021, init=0xFFFF)
"""SWS CRC library 7.2.2; E2E profile 5."""
