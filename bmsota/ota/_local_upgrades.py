"""Local upgrades: what was flashed over CAN without an order, kept until the platform knows of it.

A node that is flashed in a workshop does not report it. The master finds out at a discovery: the same hardware runs
another version, and no order has done it. `LocalUpgradeDetector` compares what it sees with what it saw before, keeps what it found in the boot store, hands it out after a login, and forgets it when the platform has answered.

Strategy. All that must survive a power cut is one record: what each node ran when it was last seen, and the upgrades the
platform has not acknowledged. A change and the new picture of the node are written by the same flash write, so no cut
can lose an upgrade or find it twice. What was acknowledged is gone with the next write; a cut before that write has the
unit tell it once more, with the same time, by which the platform knows it again.

What an upgrade order changes is not a local upgrade: the signed post-boot report tells it. While an order is open, the
nodes it answers for are left alone; when its outcome is known, what they run becomes the picture to compare with. One that
is silent then is met anew when it answers: the order's work could not be told from another tool's.
Another hardware id at a position is an equipment change, which the unit's identity tells.

Left out: an attempt that leaves no trace at the node. A slave shows a reverted test only until its next boot, and a
transfer that broke off never.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from bmsota.boot import BootReason, SlotState
from bmsota.errors import LocalProtocolError, RecordError
from bmsota.image import ImageVersion
from bmsota.node import running_image_sha256
from bmsota.ota._fields import LAYOUT
from bmsota.ota._records import OlderLayout, RecordFormat, StoredRecord
from bmsota.ota._rules import expect, expect_digest, expect_integer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bmsota.boot import BootResult, BootStore
    from bmsota.node import NodeDescription


SECOND = 1_000_000_000

LOCAL_UPGRADES_RECORD = "field-upgrades"
"""The application record of the boot store that holds everything."""

LOCAL_UPGRADES_MAX = 64
"""Upgrades kept at most: every node of the largest pack twice, and what one frame carries. The oldest is forgotten first."""

UPGRADES_WITH_DIGESTS_MAX = 16
"""Of the newest: 64 bytes each, in a journal that has room for an order and its manifest beside them."""

NO_VERSION = ImageVersion()
"""What a node is said to run when it has no valid image."""


class NodeUpgradeOutcome(StrEnum):
    """How a local upgrade ended (`bmsota.gbt32960.LocalUpgradeOutcome` has the same names)."""

    SUCCEEDED = "succeeded"
    """The node runs another version than before, and will run it again."""
    FAILED = "failed"
    """The node refused the image, or has none left that can run."""
    REVERTED = "reverted"
    """The node went back to the image it had before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUpgrade:
    """One local upgrade of one node."""

    at_s: int
    """When the unit noticed it, seconds since the Unix epoch."""
    position: int
    hwid: str
    version_before: ImageVersion
    version_after: ImageVersion
    """What the node runs now, whatever the tool wanted."""
    outcome: NodeUpgradeOutcome
    tool: str = ""
    """What the tool calls itself, if it is known."""
    detail: str = ""
    """Why it did not succeed; ASCII."""
    sha256_before: bytes | None = None
    """Of the image before and of the one that runs now, where both have the same version: two builds differ in them alone."""
    sha256_after: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSnapshot:
    """What one node said of itself at a discovery, as far as local upgrades show in it."""

    position: int
    hwid: str
    version: ImageVersion
    """Of the running image; `NO_VERSION` if none runs."""
    image_sha256: bytes | None = None
    """Of the running image; None if none runs, or the node cannot say it."""
    is_in_test: bool = False
    """The running image is not confirmed, or will not run again behind the next boot: nothing has been decided yet."""
    has_fallen_back: bool = False
    """The node found its image damaged at this boot and runs the other one."""
    reverted: frozenset[int] = frozenset()
    """Marks of images that were reverted; a new mark is a new one."""
    refused: frozenset[int] = frozenset()
    """Marks of images that were refused, likewise."""
    tool: str = ""
    """Who flashed it, where the node or a gateway knows."""

    @classmethod
    def of_discovery(cls, node: NodeDescription) -> NodeSnapshot:
        """A node as it described itself when it was discovered."""
        return cls(
            position=node.position,
            hwid=node.hwid,
            version=node.version,
            image_sha256=node.image_sha256,
            is_in_test=node.is_spare_running,
            has_fallen_back=node.boot_reason is BootReason.FALLBACK,
            reverted=frozenset({node.boot_id} if node.boot_reason is BootReason.REVERTED else ()),
            refused=frozenset(slot for slot, state in enumerate(node.slot_states) if state is SlotState.BAD),
        )

    @classmethod
    def of_store(cls, store: BootStore, boot: BootResult, *, position: int, hwid: str) -> NodeSnapshot:
        """The node whose boot store this is: the master itself. It knows its slots, so its marks outlive its boots."""
        return cls(
            position=position,
            hwid=hwid,
            version=NO_VERSION if boot.facts is None else boot.facts.version,
            image_sha256=running_image_sha256(store, boot),
            is_in_test=store.is_spare_running,
            has_fallen_back=boot.reason is BootReason.FALLBACK,
            reverted=frozenset(crc32(slot.sha256, slot.reverts) for slot in store.slots if slot.reverts),
            refused=frozenset(crc32(slot.sha256) for slot in store.slots if slot.state is SlotState.BAD),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderScope:
    """Which nodes the order under way answers for (`Updater.scope`)."""

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
    in_test: ImageVersion | None = None
    """What it runs in test, beside the confirmed `version`."""
    reverted: frozenset[int] = _NOTHING
    refused: frozenset[int] = _NOTHING
    sha256: bytes | None = None
    """Of the image of `version`; None if it was not known."""
    in_test_sha256: bytes | None = None

    @classmethod
    def of(cls, snapshot: NodeSnapshot) -> _Known:
        return cls(
            snapshot.hwid, snapshot.version, None, snapshot.reverted, snapshot.refused, snapshot.image_sha256, None
        )

    def runs_still(self, snapshot: NodeSnapshot) -> bool:
        """Whether the image is the same; where a digest is not known, the version decides."""
        digests = {self.sha256, snapshot.image_sha256} - {None}
        return snapshot.version == self.version and len(digests) < 2


class LocalUpgradeDetector:
    """Finds local upgrades and keeps them until they are acknowledged. Make it at each power-on.

    After an exception of the flash driver (a power cut) the object is worthless: create a new one on a new store.
    """

    def __init__(self, store: BootStore) -> None:
        self._known: dict[int, _Known] = {}
        self._concluded = ""
        """The order whose outcome is in the picture already."""
        self._pending: tuple[NodeUpgrade, ...] = ()
        self._sent: tuple[NodeUpgrade, ...] = ()
        self._is_held = False
        self.forgotten = 0
        """Upgrades that were dropped, because too many came before the platform could be reached."""
        self.problem = ""
        """What the log must say: the record could not be read. Empty if nothing."""
        self._record = StoredRecord(store, LOCAL_UPGRADES_RECORD, LOCAL_UPGRADES_FORMAT)
        self._load()

    @property
    def pending(self) -> tuple[NodeUpgrade, ...]:
        """What the platform has not acknowledged, oldest first."""
        return self._pending

    @property
    def awaits_confirmation(self) -> bool:
        """A node ran an image in test when it was last seen. How that ends shows at a later discovery only."""
        return any(node.in_test is not None for node in self._known.values())

    # -- what is seen --------------------------------------------------------------------------------------------------

    def nodes_seen(
        self, snapshots: Iterable[NodeSnapshot], now_ns: int, *, order: OrderScope | None = None
    ) -> tuple[NodeUpgrade, ...]:
        """Compare the nodes that answered with what they were; the local upgrades found now.

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
        for snapshot in snapshots:
            silent.discard(snapshot.position)
            before = known.get(snapshot.position)
            if snapshot.position in runs:
                if is_new_outcome:
                    known[snapshot.position] = _taken_over(before, snapshot)
                continue
            if snapshot.position in stages and before is not None:
                # What the order was refused there is for its report to tell.
                before = replace(before, refused=before.refused | snapshot.refused)
            after, upgrade = _compare(before, snapshot, now_ns // SECOND)
            if after is not None:
                known[snapshot.position] = after
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

    # -- what the platform hears ----------------------------------------------------------------------------------------

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
            sent, self._sent = self._sent, ()
            self._pending = tuple(upgrade for upgrade in self._pending if upgrade not in sent)
            self._save()

    def undelivered(self) -> None:
        """The platform refused it or did not answer: it is sent again after the next login."""
        self._sent = ()
        self._is_held = True

    # -- the record ----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        surplus = len(self._pending) - LOCAL_UPGRADES_MAX
        if surplus > 0:
            self._forget(surplus)
        while True:
            try:
                self._record.save(self._fields())
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

    def _fields(self) -> dict[str, Any]:
        nodes = [
            [
                position,
                node.hwid,
                _numbers(node.version),
                None if node.in_test is None else _numbers(node.in_test),
                sorted(node.reverted),
                sorted(node.refused),
                node.sha256,
                node.in_test_sha256,
            ]
            for position, node in sorted(self._known.items())
        ]
        first = len(self._pending) - UPGRADES_WITH_DIGESTS_MAX
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
                item.sha256_before if number >= first else None,
                item.sha256_after if number >= first else None,
            ]
            for number, item in enumerate(self._pending)
        ]
        return {"concluded": self._concluded, "forgotten": self.forgotten, "nodes": nodes, "upgrades": upgrades}

    def _load(self) -> None:
        try:
            found = self._record.load()
        except RecordError as problem:
            # What the nodes run is seen again; what was not delivered is lost, and the log says so.
            self.problem = f"{problem}; starts again from what the nodes run now"
            return
        if found is None:
            return
        self._concluded, self.forgotten = found["concluded"], found["forgotten"]
        self._known = _parse_nodes(found["nodes"])
        self._pending = _parse_upgrades(found["upgrades"])


def _parse_nodes(nodes: Any) -> dict[int, _Known]:
    return {
        position: _Known(
            hwid,
            ImageVersion(*version),
            None if in_test is None else ImageVersion(*in_test),
            frozenset(reverted),
            frozenset(refused),
            sha256,
            in_test_sha256,
        )
        for position, hwid, version, in_test, reverted, refused, sha256, in_test_sha256 in nodes
    }


def _parse_upgrades(upgrades: Any) -> tuple[NodeUpgrade, ...]:
    return tuple(
        NodeUpgrade(
            at_s=at_s,
            position=position,
            hwid=hwid,
            version_before=ImageVersion(*before),
            version_after=ImageVersion(*after),
            outcome=NodeUpgradeOutcome(outcome),
            tool=tool,
            detail=detail,
            sha256_before=sha256_before,
            sha256_after=sha256_after,
        )
        for at_s, position, hwid, before, after, outcome, tool, detail, sha256_before, sha256_after in upgrades
    )


def _check(found: Mapping[str, Any]) -> None:
    """Every value of its type. What nodes say of themselves is not judged here: it was not when it was written."""
    nodes, upgrades = _parse_nodes(found["nodes"]), _parse_upgrades(found["upgrades"])
    texts = [found["concluded"], *(node.hwid for node in nodes.values())]
    texts += [text for upgrade in upgrades for text in (upgrade.hwid, upgrade.tool, upgrade.detail)]
    numbers = [found["forgotten"], *nodes, *(mark for node in nodes.values() for mark in node.reverted | node.refused)]
    numbers += [number for upgrade in upgrades for number in (upgrade.at_s, upgrade.position)]
    digests = [digest for node in nodes.values() for digest in (node.sha256, node.in_test_sha256)]
    digests += [digest for upgrade in upgrades for digest in (upgrade.sha256_before, upgrade.sha256_after)]
    for digest in digests:
        expect_digest("record", digest)
    for text in texts:
        expect(isinstance(text, str), "record", "text", repr(text))
    for number in numbers:
        expect_integer("record", number)


_NAMES: Final = ("concluded", "forgotten", "nodes", "upgrades")

_DIGESTS_ADDED: Final = 2
"""Digests at the end of each node and upgrade, since layout 3."""


def _with_digests(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of layouts 1 and 2 as today's: no digest was known."""
    lists = {name: [[*item, *[None] * _DIGESTS_ADDED] for item in fields[name]] for name in ("nodes", "upgrades")}
    return {**fields, **lists}


def _without_digests(fields: Mapping[str, Any]) -> dict[str, Any]:
    lists = {name: [list(item)[:-_DIGESTS_ADDED] for item in fields[name]] for name in ("nodes", "upgrades")}
    return {**fields, **lists}


# Layout 2 had no digests. Layout 1 was a list of the number and the fields. Layout 0 never was.
LOCAL_UPGRADES_FORMAT: Final = RecordFormat(
    title="record of local upgrades",
    layout=3,
    names=_NAMES,
    check=_check,
    older={
        1: OlderLayout(
            lambda value: _with_digests(dict(zip(_NAMES, value[1:], strict=False))),
            lambda found: [1, *(_without_digests(found)[name] for name in _NAMES)],
        ),
        2: OlderLayout(
            lambda value: _with_digests({name: field for name, field in value.items() if name != LAYOUT}),
            lambda found: {**_without_digests(found), LAYOUT: 2},
        ),
    },
    layout_of=lambda value: value[0] if isinstance(value, list) and value else value[LAYOUT],
)


def _compare(known: _Known | None, snapshot: NodeSnapshot, now_s: int) -> tuple[_Known | None, NodeUpgrade | None]:
    """The new picture of a node, and the local upgrade that made the difference, if one did."""
    if known is None or known.hwid != snapshot.hwid:
        # New hardware. In test it has no version of its own yet.
        return (known if snapshot.is_in_test else _Known.of(snapshot)), None
    if snapshot.is_in_test:
        return _in_test(known, snapshot), None
    verdict = _verdict(known, snapshot)
    if verdict is None:
        return _Known.of(snapshot), None
    outcome, detail = verdict
    # Where the versions differ they say it all, and what the node runs now has its digest in the identity report.
    is_same_version = snapshot.version == known.version
    upgrade = NodeUpgrade(
        at_s=now_s,
        position=snapshot.position,
        hwid=snapshot.hwid,
        version_before=known.version,
        version_after=snapshot.version,
        outcome=outcome,
        tool=snapshot.tool,
        detail=detail,
        sha256_before=known.sha256 if is_same_version else None,
        sha256_after=snapshot.image_sha256 if is_same_version else None,
    )
    return _Known.of(snapshot), upgrade


def _verdict(known: _Known, snapshot: NodeSnapshot) -> tuple[NodeUpgradeOutcome, str] | None:
    """How an upgrade ended between the two, and why it did not succeed; None if there was none."""
    if not known.runs_still(snapshot):
        if snapshot.version == NO_VERSION:
            return NodeUpgradeOutcome.FAILED, "no image is left that can run"
        if snapshot.has_fallen_back:
            return NodeUpgradeOutcome.REVERTED, "the image was found damaged at boot"
        return NodeUpgradeOutcome.SUCCEEDED, ""
    if known.in_test is not None:
        return NodeUpgradeOutcome.REVERTED, f"{known.in_test} ran in test and was not confirmed"
    if snapshot.reverted - known.reverted:
        return NodeUpgradeOutcome.REVERTED, "another image ran in test and was not confirmed"
    if snapshot.refused - known.refused:
        return NodeUpgradeOutcome.FAILED, "the node refused an image"
    return None


def _in_test(known: _Known, snapshot: NodeSnapshot) -> _Known:
    """The picture of a node that runs an image in test, beside the confirmed one."""
    if known.runs_still(snapshot):
        return replace(known, in_test=None, in_test_sha256=None)
    return replace(known, in_test=snapshot.version, in_test_sha256=snapshot.image_sha256)


def _taken_over(known: _Known | None, snapshot: NodeSnapshot) -> _Known:
    """The picture of a node after an order: the order's report says what it runs."""
    if known is not None and known.hwid == snapshot.hwid and snapshot.is_in_test:
        # It will fall back by itself, and that will be news.
        return replace(
            known,
            in_test=snapshot.version,
            in_test_sha256=snapshot.image_sha256,
            reverted=snapshot.reverted,
            refused=snapshot.refused,
        )
    return _Known.of(snapshot)


def _numbers(version: ImageVersion) -> list[int]:
    return [version.major, version.minor, version.revision, version.build]
