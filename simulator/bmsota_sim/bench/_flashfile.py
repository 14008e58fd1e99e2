"""The flash file: what all flashes of a bench hold, kept between two benches, so that ending one is a power cycle.

CBOR: a map with the format's name and version (the layout's number), what the bench is made of, and for each position the
hardware id, the cells and which units of them have been written. It is replaced as a whole. A newer layout is refused and the
file left alone; fields that this version does not know are kept.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import cbor2

from bmsota.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from bmsota_sim.bench._world import BenchWorld


FORMAT = "bmsota bench flash"

VERSION = 1
"""The first layout there was: one without a number (0) has the same fields."""


def load_flashes(world: BenchWorld, path: Path) -> bool:
    """Give every node of *world*, still without power, the flash it had. False: there is no such file yet.

    Raises:
        ConfigurationError: the file was not kept by a bench, or by one with other nodes, or by a newer version.
    """
    kept = _read(path)
    if kept is None:
        return False
    try:
        nodes = {
            int(position): (str(hwid), bytes(cells), bytes(used)) for position, hwid, cells, used, *_ in kept["nodes"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"flash file: {path} is damaged ({error}); use another file") from error
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
    """Keep every flash of *world* as it is now, and what a later version has added to the file.

    Raises:
        ConfigurationError: the file was not kept by a bench, or is of a newer version; it is left as it is.
        OSError: the file cannot be written.
    """
    nodes = [[device.position, device.hwid, *device.node.flash.dump()] for device in world.nodes]
    fields = {"format": FORMAT, "version": VERSION, "series": world.options.series, "nodes": nodes}
    data = cbor2.dumps({**(_read(path) or {}), **fields})
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(data)
    os.replace(beside, path)  # noqa: PTH105 - the same on every system


def _read(path: Path) -> dict[str, Any] | None:
    """The fields of the file; None if there is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"flash file: cannot read {path}: {error}") from error
    try:
        kept = cbor2.loads(data)
        found, version = kept["format"], int(kept.get("version", 0))
    except (cbor2.CBORDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"flash file: {path} is not the flash file of a bench; use another file") from error
    if found != FORMAT:
        raise ConfigurationError(f"flash file: expected {FORMAT}, got {str(found)[:40]} ({path})")
    if version > VERSION:
        raise ConfigurationError(
            f"flash file: layout {version} is newer than this version reads ({VERSION}): {path}; "
            "use the newer version, or another file"
        )
    return dict(kept)
