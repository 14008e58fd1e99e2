"""A device in memory: a flash model, signed images, and a power switch."""

from __future__ import annotations

import copy
import hashlib
from functools import cache, partial
from random import Random
from typing import Any

import pytest
from bmsota_sim.devices.flash import FlashModel, PowerCut
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.boot import BootStore, SlotLayout, for_hardware
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image, verify_image

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
MASTER_CLASS = HardwareClass.named("bmsota.example", "test-master")


@cache
def make_image(
    version: str, counter: int, *, size: int = 2000, hardware: HardwareClass = MASTER_CLASS, key: Any = KEY
) -> bytes:
    return build_image(
        Random(f"{version}/{size}").randbytes(size),
        version=ImageVersion.parse(version),
        security_counter=counter,
        hardware_class=hardware,
        role=ImageRole.MASTER,
        signing_key=key,
    )


OLD = make_image("2.0.0", 1)
NEW = make_image("2.1.0", 2)
NEXT = make_image("2.2.0", 3, size=2600)


class Device:
    """A flash with one layout; `power_on` is a restart."""

    def __init__(
        self,
        *,
        factory: bytes | None = OLD,
        journal_bytes: int | None = None,
        seed: int | str = 0,
        **flash_options: Any,
    ) -> None:
        options = {"erase_block_bytes": 1024, "seed": seed, **flash_options}
        self.flash = FlashModel(16 * 1024, **options)
        self.layout = SlotLayout.divide(self.flash, journal_size_bytes=journal_bytes)
        self.verify = for_hardware(
            partial(verify_image, public_keys=[KEY.public_key()]), class_id=MASTER_CLASS.class_id, role=ImageRole.MASTER
        )
        self.spare_images: list[bytes] = []
        if factory is not None:
            self.store().install_factory(factory)

    def store(self) -> BootStore:
        """What the journal says, without a boot."""
        return BootStore(self.flash, self.layout, verify=self.verify, spare_images=lambda: self.spare_images)

    def power_on(self):
        """Restart as often as the power fails meanwhile; the store and what runs."""
        for _ in range(10):
            self.flash.power_on()
            try:
                store = self.store()
                return store, store.boot()
            except PowerCut:
                continue
        raise AssertionError("the power failed ten times in a row")

    def twin(self) -> Device:
        return copy.deepcopy(self)


def stage(store: BootStore, image: bytes, *, piece: int = 512) -> None:
    """What an updater does: begin, write what is missing, finish."""
    offset = store.begin_staging(size_bytes=len(image), sha256=hashlib.sha256(image).digest())
    while offset < len(image):
        store.write_staged(offset, image[offset : offset + piece])
        offset = min(offset + piece, len(image))
    store.finish_staging()


def version(result: Any) -> str:
    assert result.facts is not None, result
    return str(result.facts.version)


@pytest.fixture
def parts() -> Any:
    """This module's names."""

    class Parts:
        pass

    found = Parts()
    found.__dict__.update(globals())
    return found


@pytest.fixture
def device() -> Device:
    return Device()
