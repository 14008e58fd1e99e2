"""Make the sample images, release manifests and keys of this folder. The same bytes every time.

    python -m firmware_images.build            write the files beside this recipe
    python -m firmware_images.build --check    write nothing; exit code 1 when a file is missing or differs

Two series of the vendor "bmsota.example": F7 and E7, each with a master and a slave; version 2.0.0 is what units leave the
factory with, 2.1.0 the update. The programs do nothing: they look like Cortex-M code (vector table, functions of a small
set of instructions, constants, erased runs), so that compression and deltas behave as on real firmware. Of 2.0.0 and 2.1.0
most functions are equal, some are changed and one is new, so that everything behind it moves.

The keys are those of `bmsota_sim.samples`, derived from sentences. They are public: never trust them outside a test.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bmsota_sim.samples import sample_key, sample_key_files

from bmsota.image import HardwareClass, ImageDependency, ImageRole, ImageVersion, build_image
from bmsota.ota import ReleaseManifest, describe_image, sign_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["VENDOR", "build", "main"]

VENDOR: Final = "bmsota.example"
SERIES: Final = ("F7", "E7")
# Each version with its security counter: an image of 2.0.0 is refused once 2.1.0 has been confirmed.
VERSIONS: Final = (("2.0.0", 1), ("2.1.0", 2))
UPDATE: Final = "2.1.0"

MASTER_PAYLOAD_SIZE_BYTES: Final = 48 * 1024
SLAVE_PAYLOAD_SIZE_BYTES: Final = 12 * 1024

# 2025-01-01 and 2036-01-01, UTC: the tests of this decade need no new release.
CREATED_S: Final = 1_735_689_600
EXPIRES_S: Final = 2_082_758_400

# Protected TLV 0xa1: the CAN bootloader protocol the image speaks.
_BOOTLOADER_PROTOCOL: Final = (0xA1, b"\x01")

_FLASH_BASE: Final = 0x0800_0000
_STACK_TOP: Final = 0x2000_8000
_VECTORS: Final = 64
# Halfwords that fill most Thumb programs: moves, adds, loads, stores, compares, branches, no-ops.
_COMMON: Final = (
    0x4603,
    0x4620,
    0x2000,
    0x2101,
    0x6800,
    0x6018,
    0x681B,
    0x3301,
    0x429A,
    0xD1FB,
    0xE7FE,
    0xBF00,
    0x4770,
)


def build() -> dict[str, bytes]:
    """All files by name, keys included."""
    files = sample_key_files()
    for series in SERIES:
        images: list[bytes] = []
        for version, counter in VERSIONS:
            for role in (ImageRole.MASTER, ImageRole.SLAVE):
                name = f"{series}-{role.name.lower()}"
                data = _image(name, role, ImageVersion.parse(version), counter)
                files[f"{name}-{version}.bin"] = data
                if version == UPDATE:
                    images.append(data)
        manifest = ReleaseManifest(
            release=f"{series}-{UPDATE}",
            software_version=UPDATE,
            series=series,
            images=tuple(describe_image(data) for data in images),
            created_s=CREATED_S,
            expires_s=EXPIRES_S,
        )
        files[f"{series}-{UPDATE}.manifest.cose"] = sign_manifest(manifest, sample_key("manifest"))
    return files


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the files; return the exit code."""
    parser = argparse.ArgumentParser(description="Make the sample firmware images.")
    parser.add_argument("--check", action="store_true", help="compare with the files there are, write nothing")
    options = parser.parse_args(arguments)
    folder = Path(__file__).parent
    (folder / "keys").mkdir(exist_ok=True)
    files = build()
    different = [name for name, data in files.items() if not _is_there(folder / name, data)]
    for name in different:
        sys.stdout.write(f"{'differs' if options.check else 'written'}: {name}\n")
        if not options.check:
            (folder / name).write_bytes(files[name])
    return 1 if different and options.check else 0


def _is_there(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


def _image(name: str, role: ImageRole, version: ImageVersion, counter: int) -> bytes:
    is_master = role is ImageRole.MASTER
    size = MASTER_PAYLOAD_SIZE_BYTES if is_master else SLAVE_PAYLOAD_SIZE_BYTES
    # A master speaks to slaves of its own major version.
    dependency = ImageDependency(role=ImageRole.SLAVE, version_min=ImageVersion(version.major))
    return build_image(
        _payload(name, version, size),
        version=version,
        security_counter=counter,
        hardware_class=HardwareClass.named(VENDOR, name),
        role=role,
        signing_key=sample_key("image"),
        dependencies=(dependency,) if is_master else (),
        custom_tlvs=(_BOOTLOADER_PROTOCOL,),
    )


def _payload(name: str, version: ImageVersion, size_bytes: int) -> bytes:
    """Vector table, functions, text, an erased run and a table of calibration values, in *size_bytes*."""
    table = b"".join(_calibration(name, row) for row in range(32))
    text = f"{name} {version}".encode().ljust(32, b"\0")
    # An eighth of the program is erased flash between code and calibration, as a linker leaves it.
    erased = bytes([0xFF]) * (size_bytes // 8)
    room = size_bytes - 4 * _VECTORS - len(text) - len(erased) - len(table)
    code = b"".join(_functions(name, version, room))
    vectors = [_STACK_TOP] + [_FLASH_BASE + 4 * _VECTORS + 16 * index + 1 for index in range(_VECTORS - 1)]
    return b"".join(vector.to_bytes(4, "little") for vector in vectors) + code + text + erased + table


def _functions(name: str, version: ImageVersion, room_bytes: int) -> Iterator[bytes]:
    """Functions until *room_bytes* are full. From 2.1 on every tenth is another one, and there is one more in front."""
    is_update = version >= ImageVersion(2, 1)
    if is_update:
        function = _function(f"{name} new in 2.1", 64)
        room_bytes -= len(function)
        yield function
    index = 0
    while room_bytes > 0:
        revision = "revised" if is_update and index % 10 == 3 else "first"
        function = _function(f"{name} {index} {revision}", room_bytes)
        room_bytes -= len(function)
        index += 1
        yield function


def _function(seed: str, room_bytes: int) -> bytes:
    """Push, some instructions of which two thirds are common ones, a few literals, pop; all drawn from *seed*."""
    draw = hashlib.shake_256(seed.encode()).digest(512)
    count = 12 + draw[0] % 52
    body = bytearray(b"\x10\xb5")
    for at in range(1, count):
        kind, low, high = draw[3 * at : 3 * at + 3]
        halfword = _COMMON[low % len(_COMMON)] if kind < 170 else low | high << 8
        body += halfword.to_bytes(2, "little")
    body += b"\x10\xbd"
    body += bytes(-len(body) % 4)
    return bytes(body[:room_bytes])


def _calibration(name: str, row: int) -> bytes:
    """A row of the table every BMS has: open circuit voltage in mV over state of charge, with a drawn spread."""
    draw = hashlib.shake_256(f"{name} calibration {row}".encode()).digest(8)
    return b"".join((3000 + 36 * row + value % 8).to_bytes(2, "little") for value in draw)


if __name__ == "__main__":
    sys.exit(main())
