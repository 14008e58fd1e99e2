"""What a master tells the platform beside its reports: who it is, how far an upgrade is, how it ended, what was flashed locally.

Two of it are signed, and travel in the same message: how an upgrade ended (`bmsota.ota.Updater`), and who the nodes are
(`bmsota.ota.IdentityReporter`). The session sends one message of the extension at a time and in order, so the answers come in
the order of the questions, and so each is told from the other.

All of it are frames of the extension (docs/protocol.md). The local upgrades are found and kept by `bmsota.ota.LocalUpgradeDetector`;
here discoveries become what it looks at, and what it hands out becomes frames.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import (
    Command,
    ExtensionUndelivered,
    LocalUpgrade,
    LocalUpgradeOutcome,
    LocalUpgrades,
    LoggedIn,
    NodeIdentity,
    NodeRole,
    NodeState,
    ReplyFlag,
    ReplyReceived,
    SignedReport,
    TerminalState,
    UnitIdentity,
    UpgradeState,
    UpgradeStateCode,
    beijing_time,
)
from bmsota.image import ImageRole, ImageVersion
from bmsota.master._events import (
    IdentityAcknowledged,
    IdentityReported,
    LocalUpgradeDetected,
    LocalUpgradesAcknowledged,
    LocalUpgradesDropped,
    LocalUpgradesReported,
    ReportAcknowledged,
)
from bmsota.node import SLOT_SIZE_KIB_MAX, running_image_sha256
from bmsota.ota import IdentifiedNode, IdentityReporter, LocalUpgradeDetector, LogNote, NodeSnapshot, PackMaster

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from bmsota.boot import BootResult, BootStore
    from bmsota.gbt32960 import Message, TerminalEvent, TerminalSession
    from bmsota.master._events import MasterEvent
    from bmsota.node import NodeDescription, TargetIdentity
    from bmsota.ota import NodeUpgrade, OrderScope, PackWatch, TellState


SECOND = 1_000_000_000

# What an upgrade-state frame can carry of a reason (docs/protocol.md); the whole reason stands in the signed report.
REASON_SIZE_BYTES_MAX = 255


class CloudReporter:
    """One master's, from one power-on to the next. Flash is written in `nodes_discovered` and `session_event`."""

    def __init__(
        self,
        session: TerminalSession,
        *,
        identity: TargetIdentity,
        store: BootStore,
        boot: BootResult,
        device_key: Ed25519PrivateKey,
        emit: Callable[[MasterEvent], None],
        pack_watch: PackWatch,
        slave_positions: Sequence[int],
    ) -> None:
        self._session = session
        self._identity = identity
        self._store = store
        self._boot = boot
        self._emit = emit
        self._pack_watch = pack_watch
        self._slave_positions = frozenset(slave_positions)
        self.mixed_pack = ""
        """How the pack is mixed, as the last discovery found; empty if it is not."""
        self._detector = LocalUpgradeDetector(store)
        self._identities = IdentityReporter(store, vin=session.vin, device_key=device_key)
        self._signed: deque[type[ReportAcknowledged | IdentityAcknowledged]] = deque()
        """The signed documents that were given to the session and are not answered, oldest first."""
        self._slaves: tuple[NodeDescription, ...] = ()
        self._has_discovered = False
        self._may_identify = False
        """The last discovery found the nodes as they will stay: no order is under way, no node runs in test."""
        for problem in (self._detector.problem, self._identities.problem, pack_watch.problem):
            if problem:
                emit(LogNote(problem))

    # -- identity and upgrades -------------------------------------------------------------------------------------------

    def send_identity(self, slaves: Sequence[NodeDescription], now_ns: int) -> None:
        """Who the master and its slaves are, and what they run."""
        identity, boot = self._identity, self._boot
        master = NodeIdentity(
            role=NodeRole.MASTER,
            position=identity.position,
            hwid=identity.hwid,
            hardware_class=identity.hardware_class.class_id,
            version=_numbers(ImageVersion() if boot.facts is None else boot.facts.version),
            security_counter=self._store.security_counter,
            serial=identity.serial,
        )
        nodes = [
            NodeIdentity(
                role=NodeRole.SLAVE,
                position=node.position,
                hwid=node.hwid,
                hardware_class=node.class_id,
                version=_numbers(node.version),
                security_counter=node.security_counter,
                serial=node.serial,
                state=NodeState.RUNNING,
            )
            for node in slaves
        ]
        message = UnitIdentity(beijing_time(now_ns), (master, *nodes))
        self._session.send_extension(Command.UNIT_IDENTITY, message, now_ns)

    def send_state(self, state: TellState, now_ns: int) -> None:
        """How far the order is."""
        message = UpgradeState(
            time=beijing_time(now_ns),
            order_id=state.order_id,
            state=UpgradeStateCode[state.stage.name],
            progress_pct=state.progress_pct,
            reason=state.reason.encode()[:REASON_SIZE_BYTES_MAX].decode(errors="ignore"),
        )
        self._send_if_logged_in(Command.UPGRADE_STATE, message, now_ns)

    def send_report(self, document: bytes, now_ns: int) -> None:
        """The signed post-boot report; `ReportAcknowledged` when the platform has it."""
        if self._send_if_logged_in(Command.SIGNED_REPORT, SignedReport(beijing_time(now_ns), document), now_ns):
            self._signed.append(ReportAcknowledged)

    def _send_if_logged_in(self, command: Command, message: Message, now_ns: int) -> bool:
        # What is sent without a link would wait in the session; the updater repeats it at the next login.
        if self._session.state is not TerminalState.LOGGED_IN:
            return False
        self._session.send_extension(command, message, now_ns)
        return True

    def _send_identity_report(self, now_ns: int) -> None:
        """The signed one, if something has changed and the nodes stay as they are."""
        if self._session.state is not TerminalState.LOGGED_IN or not self._may_identify:
            return
        try:
            document = self._identities.take(self._nodes(), self._detector.pending, now_ns, mixed_pack=self.mixed_pack)
        except LocalProtocolError as problem:
            # A journal without room.
            self._may_identify = False
            self._emit(LogNote(f"no identity report: {problem}"))
            return
        if document is not None:
            self._signed.append(IdentityAcknowledged)
            self._session.send_extension(Command.SIGNED_REPORT, SignedReport(beijing_time(now_ns), document), now_ns)
            self._emit(IdentityReported(document))

    def _nodes(self) -> list[IdentifiedNode]:
        identity, facts = self._identity, self._boot.facts
        master = IdentifiedNode(
            position=identity.position,
            role=ImageRole.MASTER,
            hwid=identity.hwid,
            class_id=identity.hardware_class.class_id,
            version=ImageVersion() if facts is None else facts.version,
            security_counter=self._store.security_counter,
            serial=identity.serial,
            image_sha256=running_image_sha256(self._store, self._boot),
            slot_size_kib=min(self._store.slot_size_bytes // 1024, SLOT_SIZE_KIB_MAX),
        )
        slaves = [
            IdentifiedNode(
                position=node.position,
                role=ImageRole.SLAVE,
                hwid=node.hwid,
                class_id=node.class_id,
                version=node.version,
                security_counter=node.security_counter,
                serial=node.serial,
                image_sha256=node.image_sha256,
                slot_size_kib=node.slot_size_kib,
            )
            for node in sorted(self._slaves, key=lambda node: node.position)
        ]
        return [master, *slaves]

    def _signed_answered(self, flag: ReplyFlag | int | None) -> None:
        """The oldest signed document was answered with *flag*; None: it was given up."""
        if not self._signed:
            return
        kind, is_taken = self._signed.popleft(), flag == ReplyFlag.SUCCESS
        if kind is IdentityAcknowledged:
            if is_taken:
                self._identities.acknowledged()
            else:
                self._identities.undelivered()
        if is_taken:
            self._emit(kind())

    # -- local upgrades --------------------------------------------------------------------------------------------------

    @property
    def awaits_confirmation(self) -> bool:
        """A node ran an image in its test boot when it was last asked: ask again, because it will not say how that ended."""
        return self._detector.awaits_confirmation

    def nodes_discovered(self, slaves: Sequence[NodeDescription], order: OrderScope | None, now_ns: int) -> None:
        """The slaves have answered a discovery; *order* is `Updater.scope` after it."""
        snapshots = [
            NodeSnapshot.of_store(self._store, self._boot, position=self._identity.position, hwid=self._identity.hwid)
        ]
        snapshots += map(NodeSnapshot.of_discovery, slaves)
        dropped = self._detector.forgotten
        for upgrade in self._detector.nodes_seen(snapshots, now_ns, order=order):
            self._emit(LocalUpgradeDetected(upgrade))
        if self._detector.forgotten > dropped:
            self._emit(LocalUpgradesDropped(self._detector.forgotten - dropped))
        self._slaves, self._has_discovered = tuple(slaves), True
        # Without any slave the bus is more likely to be dead than the pack to have none.
        self._may_identify = bool(slaves) and order is None and not self._detector.awaits_confirmation
        if self._may_identify:
            self._watch_pack()
        # Before the local upgrades: they are forgotten when they are answered, and the signature is to name them.
        self._send_identity_report(now_ns)
        self._send_local_upgrades(now_ns)

    def _master(self) -> PackMaster:
        facts = self._boot.facts
        return PackMaster(
            self._identity.hardware_class.class_id,
            ImageVersion() if facts is None else facts.version,
            running_image_sha256(self._store, self._boot),
        )

    def _watch_pack(self) -> None:
        """Judge what the nodes run; the log hears of a mixed pack at each power-on, and of its end."""
        is_complete = {node.position for node in self._slaves} >= self._slave_positions
        try:
            found = self._pack_watch.seen((self._master(), *self._slaves), is_complete=is_complete)
        except LocalProtocolError as problem:
            self._emit(LogNote(f"what the pack runs is not kept: {problem}"))
            return
        if found != self.mixed_pack:
            self.mixed_pack = found
            self._emit(LogNote(f"mixed pack: {found}" if found else "the pack is no longer mixed"))

    def session_event(self, event: TerminalEvent, now_ns: int, *, order: OrderScope | None = None) -> None:
        """Something happened on the cloud link; *order* is `Updater.scope`, or None before it is known."""
        match event:
            case LoggedIn():
                self._detector.logged_in()
                self._identities.logged_in()
                # An order that was under way at the last discovery may be over; what its report told is what runs now.
                self._may_identify = bool(self._slaves) and order is None and not self._detector.awaits_confirmation
                self._send_identity_report(now_ns)
                self._send_local_upgrades(now_ns)
            case ReplyReceived(Command.SIGNED_REPORT, flag, _):
                self._signed_answered(flag)
            case ExtensionUndelivered(Command.SIGNED_REPORT, _):
                self._signed_answered(None)
            case ReplyReceived(Command.LOCAL_UPGRADES, ReplyFlag.SUCCESS, _):
                self._detector.acknowledged()
                self._emit(LocalUpgradesAcknowledged())
                self._send_local_upgrades(now_ns)
            case ReplyReceived(Command.LOCAL_UPGRADES, _, _) | ExtensionUndelivered(Command.LOCAL_UPGRADES, _):
                # A platform that knows only the standard. The next one may know more.
                self._detector.undelivered()
            case _:
                pass

    def _send_local_upgrades(self, now_ns: int) -> None:
        # Not before the first discovery of a power-on, which makes the signed document that names them and goes before them.
        if self._session.state is not TerminalState.LOGGED_IN or not self._has_discovered:
            return
        upgrades = self._detector.take()
        if upgrades:
            self._emit(LocalUpgradesReported(len(upgrades)))
            message = LocalUpgrades(beijing_time(now_ns), tuple(_on_the_wire(upgrade) for upgrade in upgrades))
            self._session.send_extension(Command.LOCAL_UPGRADES, message, now_ns)


def _on_the_wire(upgrade: NodeUpgrade) -> LocalUpgrade:
    return LocalUpgrade(
        upgraded_at=beijing_time(upgrade.at_s * SECOND),
        position=upgrade.position,
        hwid=upgrade.hwid,
        version_before=_numbers(upgrade.version_before),
        version_after=_numbers(upgrade.version_after),
        outcome=LocalUpgradeOutcome[upgrade.outcome.name],
        tool=upgrade.tool,
        detail=upgrade.detail,
    )


def _numbers(version: ImageVersion) -> tuple[int, int, int, int]:
    return (version.major, version.minor, version.revision, version.build)
