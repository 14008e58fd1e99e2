"""The boot store: staging, test boot, confirm, revert, counters, records, and every refusal."""

from __future__ import annotations

import hashlib
from itertools import product

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.boot import SLOT_TRANSITIONS, BootReason, SlotChange, SlotState
from bmsota.errors import ConfigurationError, LocalProtocolError, TrustError
from bmsota.image import HardwareClass, ImageRole


def digest(image):
    return hashlib.sha256(image).digest()


@pytest.fixture
def tested(device, parts):
    """A device that runs 2.1.0 in test, and its store."""
    store, _ = device.power_on()
    parts.stage(store, parts.NEW)
    store.request_test()
    store, result = device.power_on()
    assert result.reason is BootReason.TEST
    return device, store


def test_a_new_device_runs_nothing_until_the_factory_installs_an_image(parts):
    device = parts.Device(factory=None)
    store, result = device.power_on()
    assert (result.slot, result.reason, result.facts) == (None, BootReason.NOTHING, None)
    facts = store.install_factory(parts.OLD)
    assert str(facts.version) == "2.0.0"
    store, result = device.power_on()
    assert (result.slot, result.reason, parts.version(result)) == (0, BootReason.NORMAL, "2.0.0")
    assert store.security_counter == 1
    with pytest.raises(LocalProtocolError, match="already has an image"):
        store.install_factory(parts.OLD)


def test_a_staged_image_does_not_run_until_it_is_asked_to(device, parts):
    store, _ = device.power_on()
    parts.stage(store, parts.NEW)
    assert store.slots[1].state is SlotState.STAGED
    assert store.slots[1].security_counter == 2
    _, result = device.power_on()
    assert (parts.version(result), result.reason) == ("2.0.0", BootReason.NORMAL)


def test_a_confirmed_test_boot_is_permanent(tested, parts):
    device, store = tested
    store.confirm()
    assert (store.active_slot, store.security_counter) == (1, 2)
    for _ in range(2):
        store, result = device.power_on()
        assert (result.slot, result.reason, parts.version(result)) == (1, BootReason.NORMAL, "2.1.0")
    operations = device.flash.operations
    store.confirm()
    assert device.flash.operations == operations  # nothing to write


def test_an_unconfirmed_test_boot_is_reverted_at_the_next_boot(tested, parts):
    device, _ = tested
    store, result = device.power_on()
    assert (result.slot, result.reason, parts.version(result)) == (0, BootReason.REVERTED, "2.0.0")
    assert (store.slots[1].state, store.slots[1].reverts) == (SlotState.STAGED, 1)
    assert store.security_counter == 1
    _, result = device.power_on()
    assert result.reason is BootReason.NORMAL


def test_a_reverted_image_can_be_tried_again_without_sending_it(tested, parts):
    """A pack goes forward together: the node that lost its supply before it could confirm tries again."""
    device, _ = tested
    store, _ = device.power_on()
    assert store.begin_staging(size_bytes=len(parts.NEW), sha256=digest(parts.NEW)) == len(parts.NEW)
    store.finish_staging()
    store.request_test()
    store, result = device.power_on()
    assert (parts.version(result), result.reason) == ("2.1.0", BootReason.TEST)
    store.confirm()


def test_the_counter_rises_at_confirm_or_later_never_before(tested):
    device, store = tested
    assert store.security_counter == 1
    with pytest.raises(LocalProtocolError):
        store.raise_counter(2)  # in test
    store.confirm(raise_counter=False)
    assert store.security_counter == 1
    store.raise_counter(2)
    store.raise_counter(2)
    assert device.store().security_counter == 2
    for value in (1, 3):  # back, or beyond the running image: nothing would boot any more
        with pytest.raises(LocalProtocolError, match=f"expected 2 to 2, got {value}"):
            store.raise_counter(value)


def test_a_counter_that_rises_leaves_an_image_that_is_being_staged_where_it_is(tested, parts):
    """Confirm with RaiseCounter may come while the next image is being received: what is stored of it stays stored."""
    _, store = tested
    store.confirm(raise_counter=False)
    image = parts.NEXT
    assert store.begin_staging(size_bytes=len(image), sha256=digest(image)) == 0
    store.write_staged(0, image[:1504])  # half an erase block behind the recorded progress
    store.confirm(raise_counter=True)
    assert (store.security_counter, store.staging_offset) == (2, 1504)
    store.write_staged(1504, image[1504:])
    store.finish_staging()


def test_revert_in_the_test_goes_back_at_the_next_boot(tested, parts):
    device, store = tested
    store.revert()
    _, result = device.power_on()
    assert (parts.version(result), result.reason) == ("2.0.0", BootReason.NORMAL)


def test_revert_before_the_test_boot_cancels_it(device, parts):
    store, _ = device.power_on()
    parts.stage(store, parts.NEW)
    store.request_test()
    store.revert()
    _, result = device.power_on()
    assert (parts.version(result), result.reason) == ("2.0.0", BootReason.NORMAL)


def test_revert_after_confirm_goes_back_once(tested, parts):
    device, store = tested
    store.confirm(raise_counter=False)
    store.revert()
    store, result = device.power_on()
    assert (result.slot, parts.version(result)) == (0, "2.0.0")
    assert store.slots[1].state is SlotState.STAGED
    with pytest.raises(LocalProtocolError, match="no confirmed image to go back to"):
        store.revert()
    store.request_test()
    _, result = device.power_on()
    assert parts.version(result) == "2.1.0"


@pytest.mark.parametrize("is_confirmed", [False, True])
def test_until_the_next_boot_revert_may_be_asked_for_again_and_nothing_is_confirmed(is_confirmed, tested, parts):
    """Whoever has not heard the answer asks again: that is no second step back. What runs then must not be confirmed."""
    device, store = tested
    if is_confirmed:
        store.confirm(raise_counter=False)
    store.revert()
    sequence = store.journal_sequence
    store.revert()
    with pytest.raises(LocalProtocolError, match="the image that runs has been reverted"):
        store.confirm()
    with pytest.raises(LocalProtocolError, match="the reverted image still runs; restart first"):
        store.begin_staging(len(parts.NEW), None)
    assert (store.journal_sequence, store.active_slot, store.security_counter) == (sequence, 0, 1)
    store, result = device.power_on()
    assert (result.slot, parts.version(result)) == (0, "2.0.0")
    store.confirm()


def test_revert_after_the_counter_has_risen_is_a_rollback(tested):
    device, store = tested
    store.confirm()
    with pytest.raises(TrustError, match="at least 2, got 1") as refusal:
        store.revert()
    assert refusal.value.attack == "rollback"
    assert device.store().active_slot == 1


def test_there_is_nothing_to_revert_or_confirm_on_a_quiet_device(device, parts):
    store, _ = device.power_on()
    with pytest.raises(LocalProtocolError):
        store.revert()
    with pytest.raises(LocalProtocolError):
        store.request_test()
    parts.stage(store, parts.NEW)
    store.request_test()
    with pytest.raises(LocalProtocolError, match="not been booted"):
        store.confirm()
    with pytest.raises(LocalProtocolError):
        parts.Device(factory=None).store().confirm()


def test_staging_resumes_at_a_whole_erase_block_after_a_power_cut(device, parts):
    store, _ = device.power_on()
    image = parts.NEXT
    assert store.begin_staging(size_bytes=len(image), sha256=digest(image)) == 0
    store.write_staged(0, image[:1000])
    store.write_staged(1000, image[1000:1504])
    assert store.staging_offset == 1504
    assert store.begin_staging(size_bytes=len(image), sha256=digest(image)) == 1504  # power stayed on
    store, _ = device.power_on()
    assert store.begin_staging(size_bytes=len(image), sha256=digest(image)) == 1024
    store.write_staged(1024, image[1024:])
    store, _ = device.power_on()
    assert store.begin_staging(size_bytes=len(image), sha256=digest(image)) == len(image)
    store.finish_staging()
    assert device.flash.read(device.layout.slot_offsets[1], len(image)) == image


def test_an_image_without_a_digest_is_believed_for_its_signature_and_guarded_by_its_digest_from_then_on(device, parts):
    store, _ = device.power_on()
    assert store.begin_staging(len(parts.NEW), None) == 0
    store.write_staged(0, parts.NEW[:1024])
    assert store.begin_staging(len(parts.NEW), None) == 0, "it may be another image"
    store.write_staged(0, parts.NEW)
    store.finish_staging()
    assert (store.slots[1].state, store.slots[1].sha256) == (SlotState.STAGED, digest(parts.NEW))
    assert store.begin_staging(len(parts.NEW), digest(parts.NEW)) == len(parts.NEW)
    device.flash.flip_bit(device.layout.slot_offsets[1] + 100, 3)
    with pytest.raises(TrustError, match="expected digest"):
        store.finish_staging()


def test_a_wrong_image_without_a_digest_is_refused(device, parts):
    store, _ = device.power_on()
    wrong = parts.NEW[:300] + bytes([parts.NEW[300] ^ 1]) + parts.NEW[301:]
    store.begin_staging(len(wrong), None)
    store.write_staged(0, wrong)
    with pytest.raises(TrustError):
        store.finish_staging()
    assert store.slots[1].state is SlotState.BAD
    with pytest.raises(LocalProtocolError, match="expected a digest of 32 bytes"):
        store.begin_staging(len(wrong), b"\xff" * 32)


def test_another_image_starts_from_zero(device, parts):
    store, _ = device.power_on()
    store.begin_staging(size_bytes=len(parts.NEW), sha256=digest(parts.NEW))
    store.write_staged(0, parts.NEW[:1024])
    assert store.begin_staging(size_bytes=len(parts.NEXT), sha256=digest(parts.NEXT)) == 0
    parts.stage(store, parts.NEXT)


def test_a_wrong_piece_is_refused_and_changes_nothing(device, parts):
    store, _ = device.power_on()
    with pytest.raises(LocalProtocolError, match="the slot is EMPTY"):
        store.write_staged(0, bytes(8))
    with pytest.raises(LocalProtocolError, match="the slot is EMPTY"):
        store.finish_staging()
    store.begin_staging(size_bytes=2000, sha256=bytes(32))
    operations = device.flash.operations
    for offset, data, expected in (
        (8, bytes(8), "expected offset 0, got 8"),
        (0, bytes(2001), "expected at most 2000 bytes, got 2001"),
        (0, bytes(7), "whole write units of 8 bytes, got 7"),
    ):
        with pytest.raises(LocalProtocolError, match=expected):
            store.write_staged(offset, data)
    with pytest.raises(LocalProtocolError, match="expected 2000 bytes, got 0"):
        store.finish_staging()
    assert device.flash.operations == operations


def test_an_image_that_does_not_fit_is_refused_before_anything_is_erased(device):
    store, _ = device.power_on()
    operations = device.flash.operations
    for size, sha in ((0, bytes(32)), (store.slot_size_bytes + 1, bytes(32)), (100, bytes(31))):
        with pytest.raises(LocalProtocolError):
            store.begin_staging(size_bytes=size, sha256=sha)
    assert device.flash.operations == operations


def test_nothing_is_staged_over_the_fallback_of_a_test(tested, parts):
    _, store = tested
    with pytest.raises(LocalProtocolError, match="an image is in test"):
        store.begin_staging(size_bytes=len(parts.NEXT), sha256=digest(parts.NEXT))


def test_images_that_are_wrong_are_refused_and_fetched_again_from_zero(device, parts):
    other_class = HardwareClass.named("bmsota.example", "another")
    cases = {
        "corrupted-data": (parts.NEW, bytes(32)),
        "wrong-hardware": (parts.make_image("2.1.0", 2, hardware=other_class), None),
        "arbitrary-software": (
            parts.make_image("2.1.0", 2, key=Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)),
            None,
        ),
        "rollback": (parts.make_image("1.9.0", 0), None),
    }
    for attack, (image, wrong_sha) in cases.items():
        store, _ = device.power_on()
        sha = wrong_sha or digest(image)
        store.begin_staging(size_bytes=len(image), sha256=sha)
        store.write_staged(0, image)
        with pytest.raises(TrustError) as refusal:
            store.finish_staging()
        assert refusal.value.attack == attack
        assert store.slots[1].state is SlotState.BAD
        with pytest.raises(LocalProtocolError):
            store.request_test()
        with pytest.raises(LocalProtocolError, match="the slot is BAD"):
            store.finish_staging()
        assert store.begin_staging(size_bytes=len(image), sha256=sha) == 0
    _, result = device.power_on()
    assert parts.version(result) == "2.0.0"


def test_an_image_damaged_before_its_test_boot_is_not_booted(device, parts):
    store, _ = device.power_on()
    parts.stage(store, parts.NEW)
    store.request_test()
    device.flash.flip_bit(device.layout.slot_offsets[1] + 500, 3)
    store, result = device.power_on()
    assert (parts.version(result), result.reason) == ("2.0.0", BootReason.NORMAL)
    assert store.slots[1].state is SlotState.BAD


def test_a_damaged_active_image_falls_back_to_the_previous_one(tested, parts):
    device, store = tested
    store.confirm(raise_counter=False)
    device.flash.flip_bit(device.layout.slot_offsets[1] + 500, 3)
    store, result = device.power_on()
    assert (parts.version(result), result.reason) == ("2.0.0", BootReason.FALLBACK)
    assert (store.active_slot, store.slots[1].state) == (0, SlotState.BAD)
    _, result = device.power_on()
    assert result.reason is BootReason.NORMAL


def test_a_damaged_active_image_falls_back_to_a_staged_one_rather_than_to_nothing(device, parts):
    store, _ = device.power_on()
    parts.stage(store, parts.NEW)
    device.flash.flip_bit(device.layout.slot_offsets[0] + 500, 3)
    store, result = device.power_on()
    assert (parts.version(result), result.reason) == ("2.1.0", BootReason.FALLBACK)
    assert store.security_counter == 1
    _, result = device.power_on()
    assert (parts.version(result), result.reason) == ("2.1.0", BootReason.NORMAL)


def test_a_previous_image_below_the_counter_is_no_fallback(tested):
    """Rollback protection is stronger than availability: the node waits in its bootloader for a new image."""
    device, store = tested
    store.confirm()
    device.flash.flip_bit(device.layout.slot_offsets[1] + 500, 3)
    _, result = device.power_on()
    assert (result.slot, result.reason) == (None, BootReason.NOTHING)


def test_a_node_without_an_image_can_be_updated(tested, parts):
    device, store = tested
    store.confirm()
    device.flash.flip_bit(device.layout.slot_offsets[1] + 500, 3)
    store, _ = device.power_on()
    parts.stage(store, parts.NEXT)
    store.request_test()
    store, result = device.power_on()
    assert parts.version(result) == "2.2.0"
    store.confirm()
    assert device.power_on()[1].reason is BootReason.NORMAL


def test_an_unconfirmed_first_image_of_a_blank_device_is_kept(parts):
    device = parts.Device(factory=None)
    store = device.store()
    parts.stage(store, parts.OLD)
    store.request_test()
    _, result = device.power_on()
    assert result.reason is BootReason.TEST
    _, result = device.power_on()
    assert (parts.version(result), result.reason) == ("2.0.0", BootReason.FALLBACK)


def test_records_survive_and_are_replaced_and_deleted(device):
    store = device.store()
    assert store.get_record("order") is None
    store.put_record("order", b"one")
    store.put_record("order", b"two")
    store.put_record("empty", b"")
    again = device.store()
    assert again.get_record("order") == b"two"
    assert again.get_record("empty") == b""
    assert again.record_names() == ("empty", "order")
    again.delete_record("order")
    again.delete_record("never there")
    assert device.store().get_record("order") is None
    operations = device.flash.operations
    device.store().put_record("empty", b"")
    assert device.flash.operations == operations  # the same value again costs nothing


def test_records_that_do_not_fit_are_refused_and_the_old_value_stays(device):
    store = device.store()
    store.put_record("a", bytes(300))
    with pytest.raises(LocalProtocolError, match="live records"):
        store.put_record("b", bytes(700))
    with pytest.raises(LocalProtocolError, match="1 to 32 bytes"):
        store.put_record("", b"x")
    with pytest.raises(LocalProtocolError, match="1 to 32 bytes"):
        store.put_record("n" * 33, b"x")
    store.put_record("a", bytes(500))  # in place of the old value it fits
    again = device.store()
    assert again.get_record("a") == bytes(500)
    assert again.get_record("b") is None


def test_a_store_full_of_records_still_updates(parts):
    """An updater's own journal may leave little room: every change then moves to the other area, and nothing is lost."""
    device = parts.Device()
    store, _ = device.power_on()
    store.put_record("a", bytes(600))
    parts.stage(store, parts.NEW)
    store.request_test()
    store, result = device.power_on()
    assert result.reason is BootReason.TEST
    store.confirm()
    assert device.store().get_record("a") == bytes(600)


def test_flash_time_is_told_once(device, parts):
    store, _ = device.power_on()
    store.take_busy_ns()
    parts.stage(store, parts.NEW)
    busy = store.take_busy_ns()
    blocks = -(-len(parts.NEW) // 1024)
    units = -(-len(parts.NEW) // 8)
    assert busy >= blocks * device.flash.erase_ns + units * device.flash.program_ns
    assert store.take_busy_ns() == 0


def test_a_layout_that_does_not_fit_is_refused(device, parts):
    from dataclasses import replace

    from bmsota.boot import BootStore

    with pytest.raises(ConfigurationError):
        BootStore(device.flash, replace(device.layout, slot_size_bytes=12), verify=device.verify)


def test_every_state_is_reached_and_left_in_the_table():
    reached = set(SLOT_TRANSITIONS.values())
    assert reached == set(SlotState) - {SlotState.EMPTY}
    assert {state for state, _ in SLOT_TRANSITIONS} == set(SlotState)
    assert {change for _, change in SLOT_TRANSITIONS} == set(SlotChange)
    for state, change in product(SlotState, SlotChange):
        if change is SlotChange.BEGUN:
            assert ((state, change) in SLOT_TRANSITIONS) == (state is not SlotState.TEST)
        if change is SlotChange.TEST_BOOTED:
            assert ((state, change) in SLOT_TRANSITIONS) == (state is SlotState.TEST_REQUESTED)


def test_roles_are_checked_with_the_hardware(parts):
    from bmsota.boot import for_hardware
    from bmsota.image import parse_image

    check = for_hardware(parse_image, class_id=parts.MASTER_CLASS.class_id, role=ImageRole.SLAVE)
    with pytest.raises(TrustError, match="expected role 1, got 0"):
        check(parts.NEW)
