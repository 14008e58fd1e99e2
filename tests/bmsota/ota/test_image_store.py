"""The image shelf: what is found again after any power cut, and what it refuses."""

from __future__ import annotations

import copy
from contextlib import suppress
from random import Random

import pytest
from bmsota_sim.devices.flash import CutPhase, FlashModel, PowerCut

from bmsota.errors import FlashError, TransferError
from bmsota.image import ImageRole
from bmsota.ota import ImageStore, describe_image, stored_images

BLOCK = 1024


@pytest.fixture(scope="module")
def images(world):
    """Two images of several blocks, the last of each a short one: (entry of the manifest, bytes)."""
    data = (world.firmware(size_bytes=2900), world.firmware(ImageRole.SLAVE, size_bytes=1100))
    return [(describe_image(image, BLOCK), image) for image in data]


def blocks(entry, data):
    return [data[index * BLOCK : (index + 1) * BLOCK] for index in range(len(entry.block_sha256))]


def shelf_on(flash, images):
    shelf = ImageStore(flash)
    shelf.assign(tuple(entry for entry, _ in images))
    return shelf


def flash_of(size_bytes=8192, **options):
    return FlashModel(size_bytes, **{"erase_block_bytes": 512, "seed": "shelf", **options})


def fill(shelf, images, written=None):
    """Write every block, and note in *written* which were."""
    for entry, data in images:
        for index, block in enumerate(blocks(entry, data)):
            shelf.write_block(entry, index, block)
            if written is not None:
                written.add((entry.sha256, index))


def test_every_image_is_read_back_as_it_was_written(images):
    flash = flash_of()
    shelf = shelf_on(flash, images)
    assert all(shelf.intact_blocks(entry) == frozenset() for entry, _ in images)
    fill(shelf, images)
    again = shelf_on(flash, images)
    for entry, data in images:
        assert again.read(entry) == data
        assert again.intact_blocks(entry) == frozenset(range(len(entry.block_sha256)))


def test_blocks_may_come_in_any_order_and_twice(images):
    flash = flash_of()
    shelf = shelf_on(flash, images)
    pieces = [(entry, index, block) for entry, data in images for index, block in enumerate(blocks(entry, data))] * 2
    Random(5).shuffle(pieces)
    for entry, index, block in pieces:
        shelf.write_block(entry, index, block)
    assert [shelf.read(entry) for entry, _ in images] == [data for _, data in images]


def test_a_block_that_lies_there_wrong_is_not_intact(images):
    flash = flash_of()
    shelf = shelf_on(flash, images)
    fill(shelf, images)
    (entry, data), (other, _) = images
    flash.flip_bit(BLOCK + 17, 4)
    assert shelf.intact_blocks(entry) == frozenset(range(len(entry.block_sha256))) - {1}
    assert len(shelf.intact_blocks(other)) == len(other.block_sha256)
    shelf.write_block(entry, 1, blocks(entry, data)[1])
    assert shelf.read(entry) == data


def test_another_release_takes_the_places_and_finds_nothing(images, world):
    flash = flash_of()
    fill(shelf_on(flash, images), images)
    newer = world.firmware(version="2.2.0", size_bytes=2900)
    entry = describe_image(newer, BLOCK)
    shelf = shelf_on(flash, [(entry, newer)])
    assert shelf.intact_blocks(entry) == frozenset()
    fill(shelf, [(entry, newer)])
    assert shelf.read(entry) == newer


def test_images_that_do_not_fit_are_refused_before_the_first_erase(images):
    flash = flash_of(4096)
    with pytest.raises(TransferError, match="expected at most 4096 bytes of images, got") as refusal:
        shelf_on(flash, images)
    assert refusal.value.permanent
    assert flash.operations == 0


def test_images_that_fit_exactly_fit(images):
    needed = sum(-(-len(data) // 512) * 512 for _, data in images)
    fill(shelf_on(flash_of(needed), images), images)
    with pytest.raises(TransferError):
        shelf_on(flash_of(needed - 512), images)


def test_blocks_that_are_no_whole_number_of_erase_blocks_are_refused(images):
    with pytest.raises(TransferError, match="multiple of 4096 bytes, got 1024") as refusal:
        shelf_on(flash_of(erase_block_bytes=4096), images)
    assert refusal.value.permanent


def test_a_refused_assignment_leaves_the_one_before(images, world):
    shelf = shelf_on(flash_of(), images)
    fill(shelf, images)
    large = describe_image(world.firmware(size_bytes=9000), BLOCK)
    with pytest.raises(TransferError):
        shelf.assign((large,))
    assert shelf.read(images[0][0]) == images[0][1]


def test_power_may_fail_at_any_operation(images):
    """A block written before stays intact, the block under way is intact or missing, and never a wrong one counts."""
    reference = flash_of()
    fill(shelf_on(reference, images), images)
    for operation in range(1, reference.operations + 1):
        for phase in CutPhase:
            flash = flash_of(seed=operation)
            flash.cut_at(operation, phase)
            shelf = shelf_on(flash, images)
            written = set()
            with pytest.raises(PowerCut):
                fill(shelf, images, written)
            flash.power_on()
            shelf = shelf_on(flash, images)
            for entry, data in images:
                intact = shelf.intact_blocks(entry)
                assert {index for sha256, index in written if sha256 == entry.sha256} <= intact
                content = flash.read(shelf._places[entry.sha256], entry.size_bytes)
                for index in intact:
                    assert content[index * BLOCK : (index + 1) * BLOCK] == blocks(entry, data)[index]
                for index in set(range(len(entry.block_sha256))) - intact:
                    shelf.write_block(entry, index, blocks(entry, data)[index])
                assert shelf.read(entry) == data


def test_the_shelf_keeps_nothing_in_ram(images):
    """A copy of the flash is a copy of the shelf."""
    flash = flash_of()
    fill(shelf_on(flash, images), images)
    twin = shelf_on(copy.deepcopy(flash), images)
    assert [twin.read(entry) for entry, _ in images] == [data for _, data in images]


@pytest.mark.parametrize("fault", ["not programmed", "unreadable"])
def test_a_block_whose_cells_are_worn_is_not_intact(images, fault):
    """And the others are; what cannot be read is no exception before the image is needed."""
    flash = flash_of()
    shelf = shelf_on(flash, images)
    for bit in range(8):
        flash.wear(fault, BLOCK + 17, bit)
    fill(shelf, images)
    (entry, _), (other, data) = images
    assert shelf.intact_blocks(entry) == frozenset(range(len(entry.block_sha256))) - {1}
    assert shelf.read(other) == data
    with pytest.raises(FlashError, match="flash worn: the image store has lost block 1 of an image"):
        shelf.read(entry)


def test_a_block_that_is_read_right_now_and_then_is_read(images):
    flash = flash_of(seed=3)
    shelf = shelf_on(flash, images)
    fill(shelf, images)
    flash.wear("unstable", BLOCK + 17)
    for _ in range(10):
        with suppress(FlashError):  # One time in 256.
            assert shelf.read(images[0][0]) == images[0][1]


def test_images_are_found_without_their_manifest(images):
    """Those that are whole as far as their own lengths say; a flash without any has none, and one that cannot be read neither."""
    flash = flash_of()
    assert list(stored_images(flash)) == []
    fill(shelf_on(flash, images), images)
    assert list(stored_images(flash)) == [data for _, data in images]
    flash.wear("unreadable", 8)
    assert list(stored_images(flash)) == [images[1][1]]
