"""What a run's trace says of a master's events, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota.flashing import OperationFinished, TransferBroken
from bmsota.gbt32960 import CloseRequested, LoggedIn, LoggedOut, LoginFailed
from bmsota.master import (
    CommandUnsupported,
    IdentityAcknowledged,
    IdentityReported,
    InstructionReceived,
    LocalUpgradeDetected,
    LocalUpgradesAcknowledged,
    LocalUpgradesDropped,
    LocalUpgradesReported,
    ReportAcknowledged,
    SelfTestEnded,
    SlaveChanged,
    SlaveFaultChanged,
    UpgradeModeChanged,
)
from bmsota.ota import LogNote, Reset, SendReport, TellState

if TYPE_CHECKING:
    from bmsota.master import MasterEvent
    from bmsota.ota import NodeUpgrade

__all__ = ["note_of"]


def note_of(event: MasterEvent) -> str | None:
    """What the run's trace says of an event; None: nothing."""
    match event:
        case LoggedIn(serial):
            return f"logged in, serial {serial}"
        case LoggedOut():
            return "logged out"
        case LoginFailed(reason, misses, _):
            return f"login failed ({misses}): {reason.value}"
        case CloseRequested(reason):
            return f"closes the link: {reason.value}"
        case ReportAcknowledged():
            return "post-boot report acknowledged"
        case UpgradeModeChanged(in_upgrade_mode, must_rest):
            return f"upgrade mode {'on' if in_upgrade_mode else 'off'}{', must rest' if must_rest else ''}"
        case IdentityReported():
            return "sends its identity report"
        case IdentityAcknowledged():
            return "identity report acknowledged"
        case InstructionReceived(url, is_postponed):
            return f"instructed: {url}" + ("; a flasher is at work: the instruction waits" if is_postponed else "")
        case CommandUnsupported(name):
            return f"command not supported: {name}"
        case TellState(_, stage, progress_pct, reason):
            return f"{stage.value} {progress_pct} % {reason}".rstrip()
        case SendReport():
            return "sends its post-boot report"
        case Reset(reason):
            return f"resets: {reason}"
        case LogNote(text):
            return text
        case TransferBroken(position, detail):
            return f"slave {position}: {detail}; goes on"
        case OperationFinished(operation, results):
            return f"{operation}: {sum(result.ok for result in results)} of {len(results)} slaves"
        case SlaveChanged(_, detail):
            return detail
        case SlaveFaultChanged(position, fault, is_present, detail):
            name = fault.name.lower().replace("_", " ")
            return f"slave {position}: {name}{'' if is_present else ' no more'}: {detail}"
        case SelfTestEnded(failure):
            return f"self-test: {failure or 'passed'}"
        case LocalUpgradeDetected(upgrade):
            return f"local upgrade of {_upgrade_text(upgrade)}"
        case LocalUpgradesDropped(count):
            return f"forgets {_count(count)}: there were too many"
        case LocalUpgradesReported(count):
            return f"tells {_count(count)}"
        case LocalUpgradesAcknowledged():
            return "local upgrades acknowledged"
        case _:
            return None


def _count(number: int) -> str:
    return f"{number} local upgrade{'' if number == 1 else 's'}"


def _upgrade_text(upgrade: NodeUpgrade) -> str:
    name = f"slave {upgrade.position}" if upgrade.position else "the master"
    versions = f"{upgrade.version_before} -> {upgrade.version_after}"
    return f"{name}: {versions}, {upgrade.outcome.value} {upgrade.detail}".rstrip()
