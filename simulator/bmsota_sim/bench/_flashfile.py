"""The flash file: what all flashes of a bench hold, kept between two benches, so that ending one is a power cycle.

CBOR: a map with the format's name and version, what the bench is made of, and for each position the hardware id, the cells
and which units of them have been written. It is replaced as a whole.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import cbor2

from bmsota.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from bmsota_sim.bench._world import BenchWorld

__all__ = ["load_flashes", "save_flashes"]

FORMAT = "bmsota bench flash"
VERSION = 1


def load_flashes(world: BenchWorld, path: Path) -> bool:
    """Give every node of *world*, still without power, the flash it had. False: there is no such file yet.

    Raises:
        ConfigurationError: it is not a flash file, or one of a bench with other nodes.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigurationError(f"cannot read the flash file {path}: {error.strerror or error}") from error
    try:
        kept = cbor2.loads(data)
        head = (kept["format"], kept["version"])
        nodes = {int(position): (str(hwid), bytes(cells), bytes(used)) for position, hwid, cells, used in kept["nodes"]}
    except (cbor2.CBORDecodeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{path} is not a flash file of a bench: {error}") from error
    if head != (FORMAT, VERSION):
        raise ConfigurationError(f"flash file: expected {FORMAT} {VERSION}, got {head[0]} {head[1]} ({path})")
    expected = {device.position: (device.hwid, device.node.flash.size_bytes) for device in world.nodes}
    found = {position: (hwid, len(cells)) for position, (hwid, cells, _) in nodes.items()}
    if found != expected:
        raise ConfigurationError(
            f"{path} holds the flashes of another bench; give that bench's series, slaves, seed and slot size, "
            "or another file"
        )
    for device in world.nodes:
        _, cells, used = nodes[device.position]
        device.node.flash.load(cells, used)
    return True


def save_flashes(world: BenchWorld, path: Path) -> None:
    """Keep every flash of *world* as it is now.

    Raises:
        OSError: the file cannot be written.
    """
    nodes = [[device.position, device.hwid, *device.node.flash.dump()] for device in world.nodes]
    data = cbor2.dumps({"format": FORMAT, "version": VERSION, "series": world.options.series, "nodes": nodes})
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(data)
    os.replace(beside, path)  # noqa: PTH105 - the same on every system
