"""The staging that both protocols' servers drive: what it refuses, what it stores, and what it says of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from random import Random

import pytest
from bmsota_sim.devices.flash import FlashModel
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.boot import BootStore, SlotLayout, SlotState, for_hardware
from bmsota.errors import ImageError
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image, verify_image
from bmsota.node import (
    CAUSE_OF_RESULT,
    FAILURES,
    CommandFailed,
    FailureCause,
    ImageConfirmed,
    ImageRefused,
    ImageReverted,
    ImageStaged,
    NodeCommand,
    NodeRefusedError,
    NodeStaging,
    OfferedImage,
    ResultCode,
    StagingStarted,
    TargetIdentity,
    TestRequested,
)

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
CLASS, OTHER_CLASS = (HardwareClass.named("bmsota.example", name) for name in ("staging", "another"))
WRITE_BYTES = 32


def make_image(version="2.1.0", *, counter=2, hardware=CLASS, role=ImageRole.SLAVE, key=KEY):
    payload = Random(version).randbytes(2000)
    parsed = ImageVersion.parse(version)
    return build_image(
        payload, version=parsed, security_counter=counter, hardware_class=hardware, role=role, signing_key=key
    )


def offer_of(image, **changes):
    values = {
        "role": ImageRole.SLAVE,
        "size_bytes": len(image),
        "sha256": hashlib.sha256(image).digest(),
        "class_id": CLASS.class_id,
        "version": ImageVersion.parse("2.1.0"),
        "security_counter": 2,
    }
    return OfferedImage(**{**values, **changes})


class Node:
    """A slave that runs 2.0.0 with counter 1."""

    def __init__(self):
        self.flash = FlashModel(16 * 1024, erase_block_bytes=1024, seed=0)
        self.boot()

    def boot(self):
        layout = self.layout = SlotLayout.divide(self.flash)
        check = partial(verify_image, public_keys=[KEY.public_key()])
        verify = for_hardware(check, class_id=CLASS.class_id, role=ImageRole.SLAVE)
        self.store = BootStore(self.flash, layout, verify=verify)
        if self.store.active_slot is None:
            self.store.install_factory(make_image("2.0.0", counter=1))
        self.boot_result = self.store.boot()
        identity = TargetIdentity(position=1, role=ImageRole.SLAVE, hwid="HW", serial="SN", hardware_class=CLASS)
        self.events = []
        self.staging = NodeStaging(self.store, identity, self.events.append, write_bytes=WRITE_BYTES)

    def begin(self, offer, can_take=lambda _offer: True):
        return self.staging.begin(b"", lambda _record: offer, can_take)

    def stage(self, image, **changes):
        self.begin(offer_of(image, **changes))
        self.staging.write(image)
        self.staging.finish()


@pytest.fixture
def node():
    return Node()


@pytest.fixture
def image():
    return make_image()


def refused(action):
    with pytest.raises(NodeRefusedError) as caught:
        action()
    return caught.value


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"role": ImageRole.MASTER, "class_id": OTHER_CLASS.class_id}, ResultCode.WRONG_ROLE),
        ({"class_id": OTHER_CLASS.class_id, "size_bytes": 0}, ResultCode.WRONG_HARDWARE),
        ({"size_bytes": 0}, ResultCode.TOO_LARGE),
        ({"size_bytes": 16 * 1024, "security_counter": 0}, ResultCode.TOO_LARGE),
        ({"security_counter": 0}, ResultCode.COUNTER_TOO_LOW),
        ({"sha256": b"\xff" * 32}, ResultCode.NOTHING_TO_DO),
    ],
)
def test_an_offer_that_does_not_fit_is_refused_before_anything_is_written(node, image, changes, code):
    operations = node.flash.operations
    refusal = refused(lambda: node.begin(offer_of(image, **changes)))
    assert refusal.code is code
    assert node.events == [ImageRefused(code, str(refusal))]
    assert node.flash.operations == operations


def test_a_record_that_cannot_be_read_and_a_stream_that_cannot_be_taken_are_bad_offers(node, image):
    def parse(record):
        raise ImageError("offer record", expected="layout 2", received=record.hex())

    unreadable = refused(lambda: node.staging.begin(b"\x07", parse))
    untaken = refused(lambda: node.begin(offer_of(image), lambda _offer: False))
    assert [unreadable.code, untaken.code] == [ResultCode.BAD_OFFER] * 2
    assert [event.code for event in node.events] == [ResultCode.BAD_OFFER] * 2


def test_what_the_offer_says_first_is_refused_first(node, image):
    """Of an image for another node the reason is that, not the form of its stream."""
    wrong = offer_of(image, role=ImageRole.MASTER)
    assert refused(lambda: node.begin(wrong, lambda _offer: False)).code is ResultCode.WRONG_ROLE


def test_the_image_that_runs_is_not_overwritten(node, image):
    """In test, and reverted and not restarted; with an offer and without."""
    node.stage(image)
    node.staging.request_test()
    node.boot()
    for _ in range(2):
        assert refused(lambda: node.begin(offer_of(image))).code is ResultCode.TEST_PENDING
        assert refused(lambda: node.staging.begin_plain(len(image))).code is ResultCode.TEST_PENDING
        assert refused(node.staging.check_spare_is_free).code is ResultCode.TEST_PENDING
        node.staging.revert()
    node.boot()
    node.staging.check_spare_is_free()


def test_pieces_are_stored_in_whole_units_and_what_is_behind_the_end_is_ignored(node, image):
    node.begin(offer_of(image))
    assert node.events == [StagingStarted(0, len(image))]
    node.staging.write(image[:100])
    assert (node.staging.offset, node.staging.received_bytes, node.staging.held_bytes) == (96, 100, 4)
    node.staging.drop_held()
    assert node.staging.received_bytes == node.staging.offset == node.store.staging_offset == 96
    node.staging.write(image[96:] + b"\xff" * 7)
    assert node.staging.received_bytes == node.staging.offset == len(image)
    node.staging.write(b"\xff" * 8)
    assert node.staging.received_bytes == len(image)
    node.staging.finish()
    assert isinstance(node.events[-1], ImageStaged)
    assert node.store.read_slot(1) == image


def test_an_offer_again_goes_on_where_the_image_is_stored(node, image):
    node.begin(offer_of(image))
    node.staging.write(image[:1100])
    node.begin(offer_of(image))
    assert node.events[-1] == StagingStarted(1088, len(image))
    assert node.staging.held_bytes == 0
    node.boot()
    node.begin(offer_of(image))
    assert node.events == [StagingStarted(1024, len(image))]


def test_another_upgrade_that_takes_the_store_ends_this_one(node, image):
    node.begin(offer_of(image))
    node.staging.write(image[:320])
    node.store.begin_staging(1000, bytes(32))
    assert refused(lambda: node.staging.write(image[320:640])).code is ResultCode.WRONG_STATE
    assert node.store.staging_offset == 0


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"key": Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)}, ResultCode.NOT_TRUSTED),
        ({"hardware": OTHER_CLASS}, ResultCode.WRONG_HARDWARE),
        ({"role": ImageRole.MASTER}, ResultCode.WRONG_HARDWARE),
        ({"counter": 0}, ResultCode.COUNTER_TOO_LOW),
    ],
)
def test_an_image_that_is_not_what_its_offer_said_is_refused_at_the_end(node, options, code):
    refusal = refused(lambda: node.stage(make_image("2.2.0", **options)))
    assert refusal.code is code
    assert node.events[-1] == ImageRefused(code, str(refusal))
    assert node.store.slots[1].state is SlotState.BAD


def test_damaged_and_malformed_images_are_told_apart(node, image):
    damaged = refused(lambda: node.stage(image, sha256=bytes(32)))
    broken = b"\0" * len(image)
    malformed = refused(lambda: node.stage(broken))
    assert [damaged.code, malformed.code] == [ResultCode.DAMAGED, ResultCode.BAD_IMAGE]


@pytest.mark.parametrize("fault", ["not programmed", "unreadable"])
def test_a_flash_that_does_not_keep_the_image_is_worn_and_not_a_damaged_image(node, image, fault):
    """Sending it again cannot help; the image that runs stays."""
    # In the other slot, at the first byte of the image with a bit to program.
    offset = next(index for index, byte in enumerate(image) if byte != 0xFF)
    bit = next(bit for bit in range(8) if not image[offset] >> bit & 1)
    node.flash.wear(fault, node.layout.slot_offsets[1] + offset, bit)
    worn = refused(lambda: node.stage(image))
    assert (worn.code, str(worn)[:10]) == (ResultCode.WORN, "flash worn")
    assert CAUSE_OF_RESULT[worn.code] is FailureCause.FLASH_WORN
    assert FAILURES[FailureCause.FLASH_WORN].permanent
    node.boot()
    assert str(node.boot_result.facts.version) == "2.0.0"


def test_a_journal_that_keeps_nothing_is_worn(node, image):
    node.stage(image)
    for area in node.layout.journal_offsets:
        for offset in range(area, area + node.layout.journal_size_bytes, 8):
            node.flash.wear("unreadable", offset)
    worn = refused(node.staging.request_test)
    assert (worn.code, str(worn)[:10]) == (ResultCode.WORN, "flash worn")


def test_there_is_nothing_to_verify_test_confirm_or_revert_yet(node):
    actions = (node.staging.request_test, node.staging.revert, node.staging.finish)
    assert [refused(action).code for action in actions] == [ResultCode.NOTHING_TO_DO] * 3
    # Only the verification is about an image.
    assert [type(event) for event in node.events] == [ImageRefused]


def test_the_life_of_an_image_is_reported(node, image):
    node.stage(image)
    node.staging.request_test()
    assert node.events[-1] == TestRequested()
    assert refused(lambda: node.staging.confirm(raise_counter=True)).code is ResultCode.NOTHING_TO_DO
    node.boot()
    node.staging.confirm(raise_counter=False)
    assert (node.events, node.store.security_counter) == ([ImageConfirmed()], 1)
    node.staging.confirm(raise_counter=True)
    assert node.store.security_counter == 2
    assert refused(node.staging.revert).code is ResultCode.COUNTER_TOO_LOW
    assert node.events == [ImageConfirmed()] * 2


def test_without_the_raised_counter_the_image_before_comes_back(node, image):
    node.stage(image)
    node.staging.request_test()
    node.boot()
    node.staging.confirm(raise_counter=False)
    node.staging.revert()
    assert node.events[-1] == ImageReverted()
    node.boot()
    assert str(node.boot_result.facts.version) == "2.0.0"


def test_a_whole_image_without_an_offer(node, image):
    for size_bytes in (0, node.store.slot_size_bytes + 1):
        assert refused(lambda size=size_bytes: node.staging.begin_plain(size)).code is ResultCode.TOO_LARGE
    node.staging.begin_plain(len(image))
    node.staging.write(image)
    node.staging.finish()
    assert [type(event) for event in node.events] == [StagingStarted, ImageStaged]


def test_a_refusal_says_its_code_if_it_has_nothing_else_to_say():
    refusal = NodeRefusedError(ResultCode.ACCESS_WAIT, number=300)
    assert (str(refusal), refusal.code, refusal.number) == ("ACCESS_WAIT", ResultCode.ACCESS_WAIT, 300)


@pytest.mark.parametrize("cause", FailureCause)
def test_a_failure_means_what_the_table_says_of_its_cause(cause):
    failed = CommandFailed(command=NodeCommand.CONFIRM, cause=cause, detail="", node=None)
    assert (failed.permanent, failed.safe_to_run_again) == (
        FAILURES[cause].permanent,
        FAILURES[cause].safe_to_run_again,
    )
    other = FailureCause.IN_USE if FAILURES[cause].permanent else FailureCause.BAD_IMAGE
    assert replace(failed, cause=other).permanent is not failed.permanent
