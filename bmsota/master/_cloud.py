"""What a master tells the platform beside its reports: who it is, how far an upgrade is, how it ended, what was flashed locally.

All of it are frames of the extension (docs/protocol.md). The local upgrades are found and kept by `bmsota.ota.LocalUpgradeDetector`;
here discoveries become what it looks at, and what it hands out becomes frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from bmsota.image import ImageVersion
from bmsota.master._events import (
    LocalUpgradeDetected,
    LocalUpgradesAcknowledged,
    LocalUpgradesDropped,
    LocalUpgradesReported,
)
from bmsota.ota import LocalUpgradeDetector, LogNote, NodeSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bmsota.boot import BootResult, BootStore
    from bmsota.gbt32960 import Message, TerminalEvent, TerminalSession
    from bmsota.master._events import MasterEvent
    from bmsota.node import NodeDescription, TargetIdentity
    from bmsota.ota import NodeUpgrade, OrderScope, TellState


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
        emit: Callable[[MasterEvent], None],
    ) -> None:
        self._session = session
        self._identity = identity
        self._store = store
        self._boot = boot
        self._emit = emit
        self._detector = LocalUpgradeDetector(store)
        if self._detector.problem:
            emit(LogNote(self._detector.problem))

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
        """The signed post-boot report."""
        self._send_if_logged_in(Command.SIGNED_REPORT, SignedReport(beijing_time(now_ns), document), now_ns)

    def _send_if_logged_in(self, command: Command, message: Message, now_ns: int) -> None:
        # What is sent without a link would wait in the session; the updater repeats it at the next login.
        if self._session.state is TerminalState.LOGGED_IN:
            self._session.send_extension(command, message, now_ns)

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
        self._send_local_upgrades(now_ns)

    def session_event(self, event: TerminalEvent, now_ns: int) -> None:
        """Something happened on the cloud link."""
        match event:
            case LoggedIn():
                self._detector.logged_in()
                self._send_local_upgrades(now_ns)
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
        if self._session.state is not TerminalState.LOGGED_IN:
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
