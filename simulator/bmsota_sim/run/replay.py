"""A run again, from its `run.json`: in virtual time, as a whole or one unit alone, with every CAN frame of that unit.

Units share nothing, so one of them alone does what it did among the others. A run in virtual time is replayed to the bit: the hashes of
its traces are compared. One against a real platform is not, because the platform's bytes and the moments of the starts were its own; there a
replay shows what scenario and seed make of the units.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmsota import __version__
from bmsota.errors import ConfigurationError
from bmsota_sim.kernel import Kernel
from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.check import check
from bmsota_sim.run.keys import load_run_keys
from bmsota_sim.run.places import did_you_mean, shown
from bmsota_sim.run.runner import Run
from bmsota_sim.run.selection import UnitId, group_units
from bmsota_sim.run.shards.part import shard_units
from bmsota_sim.run.steering import steer_again
from bmsota_sim.session_platform import SessionPlatform
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota.canframe import CanFrame
    from bmsota_sim.run.model import FleetScenario

__all__ = ["RecordedRun", "candump_line", "scenario_sha256"]


def scenario_sha256(text: str) -> str:
    """By which a scenario is known again."""
    return hashlib.sha256(text.encode()).hexdigest()


def candump_line(frame: CanFrame, now_ns: int) -> str:
    """A frame as candump's log has it (can-utils, `candump -l`)."""
    seconds, rest_ns = divmod(now_ns, NS_PER_S)
    name = f"{frame.can_id:08X}" if frame.is_extended_id else f"{frame.can_id:03X}"
    mark = "##1" if frame.is_fd else "#"  # 1: the data bit rate is another.
    return f"({seconds}.{rest_ns // 1000:06d}) can0 {name}{mark}{frame.data.hex().upper()}"


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run as its `run.json` has it."""

    scenario: FleetScenario
    seed: int
    ran_ns: int
    is_virtual: bool
    hash: str
    """Over all units."""
    hashes: dict[str, str]
    """Of each unit's trace."""
    options: tuple[str, ...]
    steered: list[dict[str, Any]]
    shards: tuple[int, ...]
    """How far each shard ran, in nanoseconds; empty for a run in one process."""
    notes: tuple[str, ...]
    """What a reader should know of this replay."""

    @classmethod
    def load(cls, path: Path) -> RecordedRun:
        """Read a `run.json`.

        Raises:
            ConfigurationError: it is none, or its scenario was changed.
        """
        try:
            document = json.loads(path.read_bytes())
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror or error}") from error
        except ValueError as error:
            raise ConfigurationError(f"{path}: expected the run.json of a run: {error}") from error
        try:
            return cls._of(document, path)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"{path}: expected the run.json of a run, got another file ({error})") from error

    @classmethod
    def _of(cls, document: dict[str, Any], path: Path) -> RecordedRun:
        given = document["given"]
        text, options = given["scenario"], tuple(given["options"])
        notes = []
        if given.get("scenario_sha256", scenario_sha256(text)) != scenario_sha256(text):
            raise ConfigurationError(f"{path}: the scenario in it is not the one that was run: its hash differs")
        beside = path.parent / "scenario.yaml"
        if beside.is_file() and beside.read_text(encoding="utf-8") != text:
            notes.append(f"{beside} was changed since; the scenario in {path.name} is replayed")
        if given["version"] != __version__:
            notes.append(
                f"the run was made by version {given['version']}, this is {__version__}: the traces may differ"
            )
        is_virtual = "--virtual" in options
        if not is_virtual:
            notes.append(
                f"the run was against {_option(options, '--to') or 'a platform'}: it is replayed in virtual time against the library's own "
                "platform end, and its hashes cannot be compared"
            )
        count = _option(options, "--count")
        checked = check(
            text.encode(), given["scenario_name"], given["seed"], count=None if count is None else int(count)
        )
        if checked.scenario.ota is not None:
            notes.append("the OTA task is left out: it needs the platform's API")
        return cls(
            scenario=checked.scenario,
            seed=int(given["seed"]),
            ran_ns=round(document["ran_s"] * NS_PER_S),
            is_virtual=is_virtual,
            hash=str(document["hash"]),
            hashes={unit: str(told["hash"]) for unit, told in document["units"].items()},
            options=options,
            steered=list(given.get("steered", [])),
            shards=tuple(round(shard["ran_s"] * NS_PER_S) for shard in document.get("shards", [])),
            notes=tuple(notes),
        )

    def unit(self, name: str) -> UnitId:
        """The unit of this name, `watched/3`.

        Raises:
            ConfigurationError: there is none.
        """
        group, _, number = name.partition("/")
        count = self.scenario.groups[group].count if group in self.scenario.groups else 0
        if not (number.isascii() and number.isdigit() and 1 <= int(number) <= count):
            raise ConfigurationError(f"no unit {shown(name)} in the run{did_you_mean(name, self.hashes)}")
        return UnitId(group, int(number))

    def pieces(self, unit: UnitId | None = None) -> list[tuple[tuple[UnitId, ...] | None, int]]:
        """What has to be built, and how far it ran: *unit*, or all. The shards of a run that was stopped did not end at the same time."""
        if unit is not None:
            place = list(group_units(self.scenario)).index(unit)
            return [((unit,), self.shards[place % len(self.shards)] if self.shards else self.ran_ns)]
        if len(set(self.shards)) <= 1:
            return [(None, self.ran_ns)]
        count = len(self.shards)
        return [(shard_units(self.scenario, index, count), ran_ns) for index, ran_ns in enumerate(self.shards)]

    def build(self, only: tuple[UnitId, ...] | None = None, *, full: bool = False) -> Run:
        """The run again, at its start; with *only*, these units alone; with *full*, in full fidelity, whatever they were in the run.

        Raises:
            ConfigurationError: the keys it was given are not there any more.
        """
        kernel, platform = Kernel(VIRTUAL_START_NS), SessionPlatform()
        edition = _option(self.options, "--edition")
        keys, order_key = _option(self.options, "--keys"), _option(self.options, "--order-key")
        run = Run(
            self.scenario,
            self.seed,
            kernel=kernel,
            uplink=lambda _index: MemoryUplink(kernel, platform, delay_ns=0),
            edition=None if edition is None else int(edition),
            keys=load_run_keys(None if keys is None else Path(keys), None if order_key is None else Path(order_key)),
            only=only,
            full=only if full and only is not None else (),
        )
        steer_again(run, self.steered)
        return run

    def differences(self, hashes: dict[str, str]) -> Iterator[str]:
        """The units whose trace is another one, of those that were replayed; nothing can be said of a run in real time."""
        if self.is_virtual:
            yield from (unit for unit, digest in hashes.items() if self.hashes.get(unit) != digest)


def _option(options: tuple[str, ...], name: str) -> str | None:
    return options[options.index(name) + 1] if name in options else None
