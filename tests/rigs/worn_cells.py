"""Worn cells in the flashes of a whole unit: where one may be, and whether an image is still intact somewhere.

Used by the tests that wear a unit of `tests/simulator/conftest.py`: the worn units and the hostile campaigns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bmsota_sim.devices.master import JOURNAL_SIZE_BYTES as MASTER_JOURNAL_BYTES
from bmsota_sim.devices.slave import JOURNAL_SIZE_BYTES as SLAVE_JOURNAL_BYTES

from bmsota.boot import SlotLayout

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from bmsota_sim.devices.flash import CellFault

__all__ = ["AREAS", "holds", "is_lost", "wear_somewhere"]

AREAS = ("journal", "journal", "slot", "image store", "slave journal", "slave journal", "slave slot")
"""Journals twice: everything that decides lies there."""

# What a master's and a slave's image take of their slots and of the image store.
IMAGE_BYTES = 5000


def wear_somewhere(bench: Any, area: str, fault: CellFault, random: Random, *, slave: int = 1) -> str:
    """Wear one cell of *area*, drawn from *random*; says which."""
    if area == "image store":
        name, offset = "shelf", random.randrange(2 * IMAGE_BYTES)
        flash = bench.flashes[name]
    else:
        is_slave = area.startswith("slave")
        name = f"slave {slave}" if is_slave else "master"
        flash = bench.flashes[name]
        layout = SlotLayout.divide(flash, journal_size_bytes=SLAVE_JOURNAL_BYTES if is_slave else MASTER_JOURNAL_BYTES)
        if "journal" in area:
            place = random.choice((random.randrange(16), random.randrange(400), random.randrange(4000)))
            offset = random.choice(layout.journal_offsets) + place
        else:
            offset = random.choice(layout.slot_offsets) + random.randrange(IMAGE_BYTES)
    bit = random.randrange(8)
    flash.wear(fault, offset, bit)
    return f"{name} {area} {fault.value} {offset}.{bit}"


def holds(flash: Any, image: bytes) -> bool:
    """Whether *flash* has the whole image somewhere, in cells that are not worn."""
    cells, _ = flash.dump()
    start = cells.find(image)
    worn = {*flash._unstable, *flash._torn}
    worn |= {place + index for place in flash._unreadable for index in range(flash.write_unit_bytes)}
    while start != -1:
        if not worn & set(range(start, start + len(image))):
            return True
        start = cells.find(image, start + 1)
    return False


def can_hold(flash: Any, journal_size_bytes: int, size_bytes: int) -> bool:
    """Whether an image of this size can be written into one of the two slots: its cells are not worn."""
    worn = {*flash._not_programmed, *flash._not_erased, *flash._unstable, *flash._unreadable}
    layout = SlotLayout.divide(flash, journal_size_bytes=journal_size_bytes)
    return any(not worn & set(range(start, start + size_bytes)) for start in layout.slot_offsets)


def is_lost(bench: Any, releases: Iterable[Any]) -> bool:
    """Whether a node is dead because no image that its counter allows is left in the unit, or none of its slots can hold one.

    *releases*: from the lowest security counter, 1, upwards.
    """
    releases = tuple(releases)
    master, *slaves = (bench.unit.master, *bench.unit.slaves)
    nodes = [(master, "master", MASTER_JOURNAL_BYTES), *((slave, "slave", SLAVE_JOURNAL_BYTES) for slave in slaves)]

    def is_at_hand(device: Any, kind: str, journal_size_bytes: int) -> bool:
        flash = device.node.flash
        images = [
            getattr(release, kind)
            for counter, release in enumerate(releases, start=1)
            if counter >= device.node._store.security_counter
        ]
        return any(
            holds(flash, image)
            or (holds(master.image_flash, image) and can_hold(flash, journal_size_bytes, len(image)))
            for image in images
        )

    return any(
        not is_at_hand(device, kind, journal_size_bytes)
        for device, kind, journal_size_bytes in nodes
        if device.node.is_powered and device.node._store is not None and device.version is None
    )
