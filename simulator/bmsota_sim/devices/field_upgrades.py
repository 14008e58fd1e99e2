"""How a master tells the platform of field upgrades: `bmsota.ota.LocalUpgradeDetector` between its boot store and its cloud link.

The watch decides; here discoveries become what it looks at, and what it hands out becomes frames of the extension.
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
    ReplyFlag,
    ReplyReceived,
    TerminalState,
    beijing_time,
)
from bmsota.ota import LocalUpgradeDetector, NodeSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bmsota.boot import BootResult, BootStore
    from bmsota.gbt32960 import TerminalSession
    from bmsota.image import ImageVersion
    from bmsota.node import NodeDescription
    from bmsota.ota import NodeUpgrade, OrderScope

__all__ = ["FieldUpgradeReporter"]

SECOND = 1_000_000_000


class FieldUpgradeReporter:
    """One master's, from one power-on to the next. Flash is written in `nodes_discovered` and `session_event`."""

    def __init__(
        self,
        *,
        store: BootStore,
        boot: BootResult,
        hwid: str,
        session: TerminalSession,
        note: Callable[[str], None],
    ) -> None:
        self._store = store
        self._boot = boot
        self._hwid = hwid
        self._session = session
        self._note = note
        self._watch = LocalUpgradeDetector(store)
        if self._watch.problem:
            note(self._watch.problem)

    @property
    def awaits_confirmation(self) -> bool:
        """A node ran an image on trial when it was last asked: ask again, because nobody tells of its confirmation."""
        return self._watch.awaits_confirmation

    def nodes_discovered(self, nodes: Iterable[NodeDescription], order: OrderScope | None, now_ns: int) -> None:
        """The slaves have answered a discovery; *order* is `Updater.scope` behind it."""
        sights = [NodeSnapshot.of_store(self._store, self._boot, position=0, hwid=self._hwid)]
        sights += [
            NodeSnapshot.of_discovery(
                position=node.position,
                hwid=node.hwid,
                version=node.version,
                boot_reason=node.boot_reason,
                boot_id=node.boot_id,
                slot_states=node.slot_states,
                active_slot=node.active_slot,
                running_slot=node.running_slot,
            )
            for node in nodes
            if node.position > 0
        ]
        forgotten = self._watch.forgotten
        for upgrade in self._watch.nodes_seen(sights, now_ns, order=order):
            self._note(f"field upgrade of {_words(upgrade)}")
        if self._watch.forgotten > forgotten:
            self._note(f"forgets {_count(self._watch.forgotten - forgotten)}: there were too many")
        self._send(now_ns)

    def session_event(self, event: object, now_ns: int) -> None:
        """Something happened on the cloud link."""
        match event:
            case LoggedIn():
                self._watch.logged_in()
                self._send(now_ns)
            case ReplyReceived(Command.LOCAL_UPGRADES, ReplyFlag.SUCCESS, _):
                self._watch.acknowledged()
                self._note("field upgrades acknowledged")
                self._send(now_ns)
            case ReplyReceived(Command.LOCAL_UPGRADES, _, _) | ExtensionUndelivered(Command.LOCAL_UPGRADES, _):
                # A platform that knows only the standard. The next one may know more.
                self._watch.undelivered()
            case _:
                pass

    def _send(self, now_ns: int) -> None:
        if self._session.state is not TerminalState.LOGGED_IN:
            return
        upgrades = self._watch.take()
        if upgrades:
            self._note(f"tells {_count(len(upgrades))}")
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


def _count(number: int) -> str:
    return f"{number} field upgrade{'' if number == 1 else 's'}"


def _words(upgrade: NodeUpgrade) -> str:
    name = f"slave {upgrade.position}" if upgrade.position else "the master"
    versions = f"{upgrade.version_before} -> {upgrade.version_after}"
    return f"{name}: {versions}, {upgrade.outcome.value} {upgrade.detail}".rstrip()
