"""Which image a slave without one gets, and when nothing is to be done."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from random import Random

import pytest
from bmsota_sim.devices.flash import FlashModel
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.boot import BootReason, SlotState
from bmsota.image import HardwareClass, ImageDependency, ImageRole, ImageVersion, build_image, verify_image
from bmsota.master import SlaveRescue
from bmsota.node import Capability, NodeDescription, NodeMode

KEY, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (7, 8))
SLAVE_CLASS, OTHER_CLASS = (HardwareClass.named("bmsota.example", name) for name in ("rescue", "another"))
BLOCK = 4096


def image(version, *, counter=1, key=KEY, role=ImageRole.SLAVE, hardware=SLAVE_CLASS, size=900, **options):
    return build_image(
        Random(version).randbytes(size),
        version=ImageVersion.parse(version),
        security_counter=counter,
        hardware_class=hardware,
        role=role,
        signing_key=key,
        **options,
    )


class Watch:
    """What the pack's release has for slaves."""

    def __init__(self, digest=None):
        self.digest = digest

    def digest_of(self, _role, _class_id):
        return self.digest


def node(position, data=None, **changes):
    """A slave that runs *data*; None: nothing."""
    facts = None if data is None else verify_image(data, public_keys=(KEY.public_key(),))
    described = NodeDescription(
        position=position,
        role=ImageRole.SLAVE,
        hwid=f"S{position}",
        serial=f"S{position}",
        class_id=SLAVE_CLASS.class_id,
        version=ImageVersion() if facts is None else facts.version,
        security_counter=1,
        state=NodeMode.BOOTLOADER if data is None else NodeMode.APPLICATION,
        boot_reason=BootReason.NOTHING if data is None else BootReason.NORMAL,
        slot_states=(SlotState.CONFIRMED, SlotState.BAD),
        active_slot=0,
        running_slot=None if data is None else 0,
        protocol_version=2,
        protocol_version_min=2,
        capabilities=Capability.NONE,
        boot_id=1,
        slot_size_kib=16,
        image_sha256=None if data is None else digest(data),
    )
    return replace(described, **changes)


def digest(data):
    return hashlib.sha256(data).digest()


def rescue(*images, released=None, counter=0, master="2.0.0"):
    """With these images in the store, one behind the other."""
    flash = FlashModel(64 * 1024, erase_block_bytes=BLOCK)
    for index, data in enumerate(images):
        flash.write(index * BLOCK, data + b"\xff" * (-len(data) % 8))
    return SlaveRescue(
        flash,
        image_keys=(KEY.public_key(),),
        slave_class=SLAVE_CLASS,
        master_version=ImageVersion.parse(master),
        pack_watch=Watch(released),
        security_counter=lambda _position: counter,
    )


def chosen(made, *slaves):
    made.nodes_discovered(slaves, 5)
    job = made.next_job()
    return None if job is None else str(job.version)


def test_a_pack_that_runs_has_nothing_to_do():
    made = rescue(image("2.1.0"))
    made.nodes_discovered([node(1, image("2.0.0")), node(2, image("2.0.0"))], 5)
    assert (made.look_ns, made.next_job(), made.notes) == (None, None, [])


def test_the_image_that_the_other_slaves_run_goes_first_then_the_release_s_then_the_newest():
    old, new = image("2.0.0"), image("2.1.0")
    assert chosen(rescue(new, old), node(1), node(2, old)) == "2.0.0"
    assert chosen(rescue(new, old, released=digest(old)), node(1)) == "2.0.0"
    assert chosen(rescue(old, new), node(1)) == "2.1.0"
    made = rescue(new)
    made.nodes_discovered([node(3)], 5)
    job = made.next_job()
    assert (job.job.position, job.job.image, made.look_ns) == (3, new, None)


@pytest.mark.parametrize(
    "data",
    [
        image("2.1.0", key=STRANGER),
        image("2.1.0", role=ImageRole.MASTER),
        image("2.1.0", hardware=OTHER_CLASS),
        image("2.1.0", counter=0),
        image("2.1.0", dependencies=(ImageDependency(role=ImageRole.MASTER, version_min=ImageVersion(2, 1)),)),
        image("2.1.0")[:-1] + b"\0",
        bytes(500),
    ],
    ids=["unknown key", "master's", "other hardware", "counter", "needs a later master", "damaged", "no image"],
)
def test_what_does_not_belong_into_this_slave_is_not_given_to_it(data):
    made = rescue(data)
    assert chosen(made, node(1)) is None
    assert made.notes == ["slave 1 has no image that can run, and the image store has none for it: flash it over CAN"]
    made.nodes_discovered([node(1)], 9)
    assert made.look_ns is None, "told once a power-on"


def test_the_master_s_trust_and_the_slot_count_too():
    assert chosen(rescue(image("2.1.0"), counter=2), node(1)) is None
    assert chosen(rescue(image("2.1.0")), node(1, slot_size_kib=1, security_counter=1)) == "2.1.0"
    assert chosen(rescue(image("2.1.0", size=3000)), node(1, slot_size_kib=1)) is None
    assert chosen(rescue(image("2.1.0")), node(1, class_id=OTHER_CLASS.class_id)) is None


def test_each_slave_is_tried_twice():
    made = rescue(image("2.1.0"))
    for _ in range(2):
        made.nodes_discovered([node(1)], 5)
        assert made.look_ns == 5
        made.postpone(7)
        assert made.look_ns == 7 + 10 * 1_000_000_000
        assert made.next_job() is not None
        made.restored(1, "CHECK_BLOCK: WORN")
    made.nodes_discovered([node(1)], 5)
    assert (made.look_ns, made.next_job()) == (None, None)
    assert made.notes[1::2] == ["slave 1 was not restored: CHECK_BLOCK: WORN"] * 2
    made.restored(1, "")
    assert made.notes[-1] == "slave 1 was restored"
