"""Field upgrades: what was flashed over CAN without an order, kept until the platform knows of it.

A node that is flashed in a workshop tells nobody. The master finds out when it asks its nodes who they are: the same
hardware runs another version, and no order has done it. `FieldUpgradeWatch` compares what it sees with what it saw
before, keeps what it found in the boot store, hands it out after a login, and forgets it when the platform has answered.

Strategy. All that must survive a power cut is one record: what each node ran when it was last seen, and the upgrades the
platform has not acknowledged. A change and the new picture of the node are written by the same flash write, so no cut
can lose an upgrade or find it twice. What was acknowledged is gone with the next write; a cut before that write has the
unit tell it once more, with the same time, by which the platform knows it again.

What an upgrade order changes is not a field upgrade: the signed post-boot report tells it. While an order is open, the
nodes it answers for are left alone; when its outcome is known, what they run becomes the picture to compare with. One that
is silent then is met anew when it answers: nobody could tell the order's work from somebody else's.
Another hardware id at a position is an equipment change, which the unit's identity tells.

Left out: an attempt that leaves no trace at the node. A slave shows a reverted trial only until its next boot, and a
transfer that broke off never.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING
from zlib import crc32

import cbor2

from bmsota.boot import BootReason, SlotState
from bmsota.errors import LocalProtocolError
from bmsota.image import ImageVersion

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bmsota.boot import BootResult, BootStore

__all__ = [
    "FIELD_UPGRADES_MAX",
    "FIELD_UPGRADES_RECORD",
    "FieldUpgradeWatch",
    "NodeSight",
    "NodeUpgrade",
    "NodeUpgradeOutcome",
    "OrderReach",
]

SECOND = 1_000_000_000

FIELD_UPGRADES_RECORD = "field-upgrades"
"""The application record of the boot store that holds everything."""

FIELD_UPGRADES_MAX = 64
"""Upgrades kept at most: every node of the largest pack twice, and what one frame carries. The oldest is forgotten first."""

# The layout of the record. Another one is not understood: a firmware that finds it begins with what it sees.
_LAYOUT = 1

NO_VERSION = ImageVersion()
"""What a node is said to run when it has no valid image."""


class NodeUpgradeOutcome(StrEnum):
    """How a field upgrade ended (`bmsota.gbt32960.LocalUpgradeOutcome` has the same names)."""

    SUCCEEDED = "succeeded"
    """The node runs another version than before, and will run it again."""
    FAILED = "failed"
    """The node refused the image, or has none left that can run."""
    REVERTED = "reverted"
    """The node went back to the image it had before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUpgrade:
    """One field upgrade of one node."""

    at_s: int
    """When the unit noticed it, seconds since the Unix epoch."""
    position: int
    hwid: str
    version_before: ImageVersion
    version_after: ImageVersion
    """What the node runs now, whatever the tool wanted."""
    outcome: NodeUpgradeOutcome
    tool: str = ""
    """What the tool calls itself, if anybody said so."""
    detail: str = ""
    """Why it did not succeed; ASCII."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSight:
    """What one node said of itself at a discovery, as far as field upgrades show in it."""

    position: int
    hwid: str
    version: ImageVersion
    """Of the running image; `NO_VERSION` if none runs."""
    is_on_trial: bool = False
    """The running image is not confirmed, or will not run again behind the next boot: nothing has been decided yet."""
    has_fallen_back: bool = False
    """The node found its image damaged at this boot and runs the other one."""
    reverted: frozenset[int] = frozenset()
    """Marks of trials that were taken back; a new mark is a new one."""
    refused: frozenset[int] = frozenset()
    """Marks of images that were refused, likewise."""
    tool: str = ""
    """Who flashed it, where the node or a gateway knows."""

    @classmethod
    def of_discovery(
        cls,
        *,
        position: int,
        hwid: str,
        version: ImageVersion,
        boot_reason: BootReason,
        boot_id: int,
        slot_states: Sequence[SlotState],
        active_slot: int | None,
        running_slot: int | None,
    ) -> NodeSight:
        """A node as the bootloader's discovery describes it (`bmsota.bootloader.NodeDescription`)."""
        return cls(
            position=position,
            hwid=hwid,
            version=version,
            is_on_trial=SlotState.TEST in slot_states or running_slot not in {None, active_slot},
            has_fallen_back=boot_reason is BootReason.FALLBACK,
            reverted=frozenset({boot_id} if boot_reason is BootReason.REVERTED else ()),
            refused=frozenset(slot for slot, state in enumerate(slot_states) if state is SlotState.BAD),
        )

    @classmethod
    def of_store(cls, store: BootStore, boot: BootResult, *, position: int, hwid: str) -> NodeSight:
        """The node whose boot store this is: the master itself. It knows its slots, so its marks outlive its boots."""
        return cls(
            position=position,
            hwid=hwid,
            version=NO_VERSION if boot.facts is None else boot.facts.version,
            is_on_trial=store.is_spare_running,
            has_fallen_back=boot.reason is BootReason.FALLBACK,
            reverted=frozenset(crc32(slot.sha256, slot.reverts) for slot in store.slots if slot.reverts),
            refused=frozenset(crc32(slot.sha256) for slot in store.slots if slot.state is SlotState.BAD),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderReach:
    """Which nodes the order under way answers for (`Updater.reach`)."""

    order_id: str
    runs: frozenset[int]
    """Positions whose running image is the order's work, or may be."""
    stages: frozenset[int]
    """Positions into whose other slot the order writes."""
    is_concluded: bool
    """Its outcome is known: its report tells what these nodes run now."""


_NOTHING: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class _Known:
    """A node as it was last seen."""

    hwid: str
    version: ImageVersion
    trial: ImageVersion | None = None
    """What it runs on trial, beside the confirmed `version`."""
    reverted: frozenset[int] = _NOTHING
    refused: frozenset[int] = _NOTHING

    @classmethod
    def of(cls, sight: NodeSight) -> _Known:
        return cls(sight.hwid, sight.version, None, sight.reverted, sight.refused)


class FieldUpgradeWatch:
    """Finds field upgrades and keeps them until they are acknowledged. Make it at each power-on.

    After an exception of the flash driver (a power cut) the object is worthless: create a new one on a new store.
    """

    def __init__(self, store: BootStore) -> None:
        self._store = store
        self._known: dict[int, _Known] = {}
        self._concluded = ""
        """The order whose outcome is in the picture already."""
        self._pending: tuple[NodeUpgrade, ...] = ()
        self._sent: tuple[NodeUpgrade, ...] = ()
        self._is_held = False
        self.forgotten = 0
        """Upgrades that nobody will ever hear of, because too many came before the platform could be told."""
        self._load(store.get_record(FIELD_UPGRADES_RECORD))

    @property
    def pending(self) -> tuple[NodeUpgrade, ...]:
        """What the platform has not acknowledged, oldest first."""
        return self._pending

    @property
    def awaits_confirmation(self) -> bool:
        """A node ran an image on trial when it was last seen. How that ends shows at a later discovery only."""
        return any(node.trial is not None for node in self._known.values())

    # -- what is seen --------------------------------------------------------------------------------------------------

    def nodes_seen(
        self, sights: Iterable[NodeSight], now_ns: int, *, order: OrderReach | None = None
    ) -> tuple[NodeUpgrade, ...]:
        """Compare the nodes that answered with what they were; the field upgrades found now.

        Nodes that did not answer keep their picture, unless an order that answers for them has just ended. A node that was never seen before has none to compare with.

        Raises:
            LocalProtocolError: the journal has no room even for the picture of the nodes.
        """
        known, concluded = dict(self._known), self._concluded
        runs, stages = (_NOTHING, _NOTHING) if order is None else (order.runs, order.stages)
        is_new_outcome = order is not None and order.is_concluded and order.order_id != concluded
        if order is not None and order.is_concluded:
            if not is_new_outcome:
                runs = stages = _NOTHING
            concluded = order.order_id
        else:
            concluded = ""
        found: list[NodeUpgrade] = []
        silent = set(runs)
        for sight in sights:
            silent.discard(sight.position)
            before = known.get(sight.position)
            if sight.position in runs:
                if is_new_outcome:
                    known[sight.position] = _taken_over(before, sight)
                continue
            if sight.position in stages and before is not None:
                # What the order was refused there is for its report to tell.
                before = replace(before, refused=before.refused | sight.refused)
            after, upgrade = _compare(before, sight, now_ns // SECOND)
            if after is not None:
                known[sight.position] = after
            if upgrade is not None:
                found.append(upgrade)
        if is_new_outcome:
            for position in silent:
                known.pop(position, None)
        if found or (known, concluded) != (self._known, self._concluded):
            self._known, self._concluded = known, concluded
            self._pending += tuple(found)
            self._save()
        return tuple(found)

    # -- what the platform is told -------------------------------------------------------------------------------------

    def logged_in(self) -> None:
        """The cloud link is up again: what was not delivered may be tried once more."""
        self._is_held = False

    def take(self) -> tuple[NodeUpgrade, ...]:
        """What to tell the platform now, in one frame; empty if there is nothing, or a frame is under way."""
        if self._sent or self._is_held:
            return ()
        self._sent = self._pending
        return self._sent

    def acknowledged(self) -> None:
        """The platform has what `take` gave out: forget it."""
        if self._sent:
            told, self._sent = self._sent, ()
            self._pending = tuple(upgrade for upgrade in self._pending if upgrade not in told)
            self._save()

    def undelivered(self) -> None:
        """The platform refused it or did not answer: it is told again after the next login."""
        self._sent = ()
        self._is_held = True

    # -- the record ----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        surplus = len(self._pending) - FIELD_UPGRADES_MAX
        if surplus > 0:
            self._forget(surplus)
        while True:
            try:
                self._store.put_record(FIELD_UPGRADES_RECORD, self._dumps())
            except LocalProtocolError:
                # Others have filled the journal. What the nodes run is worth more than what they ran long ago.
                if not self._pending:
                    raise
                self._forget(1)
            else:
                return

    def _forget(self, count: int) -> None:
        self._pending = self._pending[count:]
        self.forgotten += count

    def _dumps(self) -> bytes:
        nodes = [
            [
                position,
                node.hwid,
                _numbers(node.version),
                None if node.trial is None else _numbers(node.trial),
                sorted(node.reverted),
                sorted(node.refused),
            ]
            for position, node in sorted(self._known.items())
        ]
        upgrades = [
            [
                item.at_s,
                item.position,
                item.hwid,
                _numbers(item.version_before),
                _numbers(item.version_after),
                item.outcome.value,
                item.tool,
                item.detail,
            ]
            for item in self._pending
        ]
        return cbor2.dumps([_LAYOUT, self._concluded, self.forgotten, nodes, upgrades])

    def _load(self, data: bytes | None) -> None:
        if data is None:
            return
        record = cbor2.loads(data)
        if record[0] != _LAYOUT:
            return
        _, self._concluded, self.forgotten, nodes, upgrades = record
        self._known = {
            position: _Known(
                hwid,
                ImageVersion(*version),
                None if trial is None else ImageVersion(*trial),
                frozenset(reverted),
                frozenset(refused),
            )
            for position, hwid, version, trial, reverted, refused in nodes
        }
        self._pending = tuple(
            NodeUpgrade(
                at_s=at_s,
                position=position,
                hwid=hwid,
                version_before=ImageVersion(*before),
                version_after=ImageVersion(*after),
                outcome=NodeUpgradeOutcome(outcome),
                tool=tool,
                detail=detail,
            )
            for at_s, position, hwid, before, after, outcome, tool, detail in upgrades
        )


def _compare(known: _Known | None, sight: NodeSight, now_s: int) -> tuple[_Known | None, NodeUpgrade | None]:
    """The new picture of a node, and the field upgrade that made the difference, if one did."""
    if known is None or known.hwid != sight.hwid:
        # New hardware. On trial it has no version of its own yet.
        return (known if sight.is_on_trial else _Known.of(sight)), None
    if sight.is_on_trial:
        is_news = sight.version != known.version
        return replace(known, trial=sight.version if is_news else None), None
    verdict = _verdict(known, sight)
    if verdict is None:
        return _Known.of(sight), None
    outcome, detail = verdict
    upgrade = NodeUpgrade(
        at_s=now_s,
        position=sight.position,
        hwid=sight.hwid,
        version_before=known.version,
        version_after=sight.version,
        outcome=outcome,
        tool=sight.tool,
        detail=detail,
    )
    return _Known.of(sight), upgrade


def _verdict(known: _Known, sight: NodeSight) -> tuple[NodeUpgradeOutcome, str] | None:
    """How an upgrade ended between the two, and why it did not succeed; None if there was none."""
    if sight.version != known.version:
        if sight.version == NO_VERSION:
            return NodeUpgradeOutcome.FAILED, "no image is left that can run"
        if sight.has_fallen_back:
            return NodeUpgradeOutcome.REVERTED, "the image was found damaged at boot"
        return NodeUpgradeOutcome.SUCCEEDED, ""
    if known.trial is not None:
        return NodeUpgradeOutcome.REVERTED, f"{known.trial} ran on trial and was not confirmed"
    if sight.reverted - known.reverted:
        return NodeUpgradeOutcome.REVERTED, "another image ran on trial and was not confirmed"
    if sight.refused - known.refused:
        return NodeUpgradeOutcome.FAILED, "the node refused an image"
    return None


def _taken_over(known: _Known | None, sight: NodeSight) -> _Known:
    """The picture of a node after an order: what it runs is told by the order's report."""
    if known is not None and known.hwid == sight.hwid and sight.is_on_trial:
        # It will fall back by itself, and that will be news.
        return replace(known, trial=sight.version, reverted=sight.reverted, refused=sight.refused)
    return _Known.of(sight)


def _numbers(version: ImageVersion) -> list[int]:
    return [version.major, version.minor, version.revision, version.build]
