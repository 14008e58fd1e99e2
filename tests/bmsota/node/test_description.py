"""Where an image is in its life, as the node's boot store has it and as its description shows it."""

from __future__ import annotations

from functools import cache

import pytest
from bmsota_sim.devices.flash import FlashModel
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from described import describe

from bmsota.boot import BootStore, SlotLayout, for_hardware
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image, verify_image
from bmsota.node import ImageStatus, image_status, spare_image_status

KEY = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)
HARDWARE = HardwareClass.named("bmsota.example", "description")


@cache
def image(minor):
    return build_image(
        bytes(500),
        version=ImageVersion(2, minor),
        security_counter=1,
        hardware_class=HARDWARE,
        role=ImageRole.SLAVE,
        signing_key=KEY,
    )


class Node:
    """A boot store that is driven through an image's life."""

    def __init__(self, *, has_factory_image):
        self.flash = FlashModel(8 * 1024, erase_block_bytes=512, seed="description")
        if has_factory_image:
            self._new_store().install_factory(image(0))
        self.restart()

    def _new_store(self):
        def verify(data):
            return verify_image(data, public_keys=[KEY.public_key()])

        layout = SlotLayout.divide(self.flash)
        return BootStore(
            self.flash, layout, verify=for_hardware(verify, class_id=HARDWARE.class_id, role=ImageRole.SLAVE)
        )

    def restart(self):
        self.store = self._new_store()
        self.boot = self.store.boot()

    def stage(self):
        data = image(1)
        self.store.begin_staging(len(data), None)
        self.store.write_staged(0, data)
        self.store.finish_staging()

    def describe(self):
        return describe(
            slot_states=tuple(slot.state for slot in self.store.slots),
            active_slot=self.store.active_slot,
            running_slot=self.boot.slot,
        )


# What is done to the node, then: the image that runs, the one that does not, and whether one of them is unconfirmed.
LIFE = (
    ("restart", ImageStatus.CONFIRMED, ImageStatus.ABSENT, False),
    ("stage", ImageStatus.CONFIRMED, ImageStatus.STAGED, False),
    ("request_test", ImageStatus.CONFIRMED, ImageStatus.PENDING, True),
    ("restart", ImageStatus.TEST, ImageStatus.CONFIRMED, True),
    ("revert", ImageStatus.REVERTED, ImageStatus.CONFIRMED, False),
    ("restart", ImageStatus.CONFIRMED, ImageStatus.STAGED, False),
    ("request_test", ImageStatus.CONFIRMED, ImageStatus.PENDING, True),
    ("restart", ImageStatus.TEST, ImageStatus.CONFIRMED, True),
    ("confirm", ImageStatus.CONFIRMED, ImageStatus.CONFIRMED, False),
    ("revert", ImageStatus.REVERTED, ImageStatus.CONFIRMED, False),
)


def do(node, what):
    getattr(node if hasattr(node, what) else node.store, what)()


def test_a_description_shows_what_the_boot_store_knows():
    node = Node(has_factory_image=True)
    for what, running, spare, is_unconfirmed in LIFE:
        do(node, what)
        described = node.describe()
        assert (image_status(described), spare_image_status(described)) == (running, spare), what
        assert described.has_unconfirmed_image is is_unconfirmed, what
        assert described.is_spare_running is node.store.is_spare_running, what


@pytest.mark.parametrize("what", ["test", "reverted"])
def test_also_of_a_node_that_never_had_a_confirmed_image(what):
    node = Node(has_factory_image=False)
    assert image_status(node.describe()) is ImageStatus.ABSENT
    assert not node.describe().is_spare_running
    for step in ("stage", "request_test", "restart"):
        do(node, step)
    if what == "reverted":
        node.store.revert()
    assert image_status(node.describe()) is ImageStatus(what)
    assert node.describe().is_spare_running
    assert node.store.is_spare_running


def test_a_node_whose_image_is_damaged_runs_none():
    described = describe(running_slot=None)
    assert (image_status(described), described.is_spare_running) == (ImageStatus.ABSENT, False)
