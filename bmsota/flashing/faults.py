"""What can go wrong when a pack is flashed from a laptop, what the user is told, and with which exit code it ends.

One table for everything: adapters and buses, files, calls, the plan's checks (`plan.Check`), and what nodes say
(`bmsota.bootloader.FAILURES`, taken over as it is). docs/flash.md shows it; a test provokes every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, TypeAlias

from bmsota.errors import BmsotaError
from bmsota.flashing.plan import CHECKS, NOT_OVERRIDABLE, OVERRIDABLE, Check
from bmsota.node import FAILURES, FailureCause

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EXIT_CODES", "FAULTS", "ExitCode", "Fault", "FaultError", "FaultRow", "FlashFault"]


class ExitCode(IntEnum):
    """How a command ended. The numbers are kept for scripts; never reuse one."""

    DONE = 0
    FAILED = 1
    CALLED_WRONGLY = 2
    REFUSED = 3
    BUS_UNUSABLE = 4
    MIXED = 5
    INTERRUPTED = 130


EXIT_CODES: Mapping[ExitCode, str] = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "failed; every node runs what it ran before, safe to run again unless said otherwise",
    ExitCode.CALLED_WRONGLY: "called wrongly, or a file cannot be used; nothing was written to any node",
    ExitCode.REFUSED: "refused by the plan; nothing was written to any node",
    ExitCode.BUS_UNUSABLE: "the adapter or the bus cannot be used; nothing was written to any node",
    ExitCode.MIXED: "some nodes are done and some are not: the pack is mixed; run again",
    ExitCode.INTERRUPTED: "interrupted; run again, it goes on where it stopped",
}


class FlashFault(Enum):
    """What can go wrong on this side. The value is the name the user reads."""

    # The call.
    BAD_OPTION = "bad option"
    BAD_TARGET = "bad target"
    UNKNOWN_CHECK = "unknown check"
    NOT_CONFIRMED = "nobody to ask"
    DECLINED = "not agreed to"
    # The adapter.
    NO_ADAPTER = "no adapter chosen"
    UNKNOWN_ADAPTER = "unknown adapter"
    DRIVER_MISSING = "driver missing"
    BAD_SETTING = "bad adapter setting"
    NO_SUCH_PORT = "no such port"
    PORT_FORBIDDEN = "port forbidden"
    PORT_BUSY = "port busy"
    ADAPTER_SILENT = "adapter silent"
    ADAPTER_REFUSES = "adapter refuses"
    ADAPTER_FAILS = "adapter fails"
    ADAPTER_LOST = "adapter lost"
    # The bus.
    WRONG_BITRATE = "wrong bit rate"
    BUS_NOT_WORKING = "bus not working"
    NO_NODE_SILENT_BUS = "no node, silent bus"
    NO_NODE_BUSY_BUS = "no node, busy bus"
    NO_NODE = "no node"
    # Files.
    FILE_MISSING = "file missing"
    FILE_UNREADABLE = "file unreadable"
    NOT_AN_IMAGE = "not an image"
    BAD_MANIFEST = "bad manifest"
    IMAGE_MISSING = "image missing"
    BAD_KEY = "bad key"
    REPORT_NOT_WRITABLE = "report not writable"
    LOG_BROKEN_OFF = "log broken off"
    REPORT_LOST = "report lost"
    # The outcome.
    INTERRUPTED = "interrupted"
    PACK_MIXED = "pack mixed"
    DIFFERS = "differs"


Fault: TypeAlias = FlashFault | Check | FailureCause


class FaultError(BmsotaError):
    """Something of `FAULTS` that ends what was asked for. `detail` names the place, what was expected and what came."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(f"{fault.value}: {detail}")
        self.fault = fault
        self.detail = detail


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One row: what it means for the user."""

    exit_code: ExitCode
    meaning: str
    """What has happened, in general; the message itself names the place, what was expected and what came."""
    advice: str
    """What to do next."""
    safe_to_run_again: bool = True


_E = ExitCode
_F = FlashFault

_OURS: Mapping[Fault, FaultRow] = {
    _F.BAD_OPTION: FaultRow(
        _E.CALLED_WRONGLY, "an option does not fit", "See `--help`; the options of the bus are python-can's."
    ),
    _F.BAD_TARGET: FaultRow(
        _E.CALLED_WRONGLY,
        "a target is none",
        "Name positions (0 is the master, 1 to 31 are slaves), `master`, `slaves` or `all`.",
    ),
    _F.UNKNOWN_CHECK: FaultRow(
        _E.CALLED_WRONGLY, "`--force` names no check", "Use one of the names the message lists; see docs/flash.md."
    ),
    _F.NOT_CONFIRMED: FaultRow(
        _E.CALLED_WRONGLY,
        "there is no terminal to ask on, and no `--yes`",
        "Look at the plan with `--plan`, then call with `--yes`.",
    ),
    _F.DECLINED: FaultRow(_E.REFUSED, "the question was answered with no", "Run again when it may be done."),
    _F.NO_ADAPTER: FaultRow(
        _E.CALLED_WRONGLY,
        "neither options nor files nor environment say which adapter",
        "Run `bmsota adapters` and use the `-i ... -c ...` it prints, or write them into can.conf.",
    ),
    _F.UNKNOWN_ADAPTER: FaultRow(
        _E.CALLED_WRONGLY,
        "python-can knows no such interface",
        "Run `bmsota adapters`; check the spelling in can.conf or CAN_INTERFACE.",
    ),
    _F.DRIVER_MISSING: FaultRow(
        _E.BUS_UNUSABLE,
        "the adapter's driver cannot be loaded",
        "Install the vendor's driver, or the package the message names.",
    ),
    _F.BAD_SETTING: FaultRow(
        _E.CALLED_WRONGLY,
        "the adapter cannot do such a setting",
        "Choose a bit rate or timing the message lists.",
    ),
    _F.NO_SUCH_PORT: FaultRow(
        _E.BUS_UNUSABLE,
        "the port or channel is not there",
        "Plug the adapter in; `bmsota adapters` lists what there is.",
    ),
    _F.PORT_FORBIDDEN: FaultRow(
        _E.BUS_UNUSABLE,
        "this user may not open the port",
        "Join the group that owns the port (on Linux often dialout or uucp) and log in again.",
    ),
    _F.PORT_BUSY: FaultRow(
        _E.BUS_UNUSABLE,
        "another program has the port",
        "Close the other program (a logger, a second bmsota, a modem manager).",
    ),
    _F.ADAPTER_SILENT: FaultRow(
        _E.BUS_UNUSABLE,
        "the port opens, but nobody answers",
        "Check that the port is the adapter's and its baud rate; unplug it and plug it in; "
        "`--bus-kwargs check_answers=False` for firmware that never answers.",
    ),
    _F.ADAPTER_REFUSES: FaultRow(
        _E.BUS_UNUSABLE,
        "the adapter refuses a setting (BEL)",
        "Choose another bit rate, or leave out what the message names; the adapter's firmware cannot do it.",
    ),
    _F.ADAPTER_FAILS: FaultRow(
        _E.BUS_UNUSABLE,
        "the adapter cannot be opened, or fails before anything is written",
        "Unplug it and plug it in; the message is the driver's.",
    ),
    _F.ADAPTER_LOST: FaultRow(
        _E.FAILED,
        "the adapter fails in the middle of the work",
        "Plug it in again and run again: it goes on where the nodes stopped.",
    ),
    _F.WRONG_BITRATE: FaultRow(
        _E.BUS_UNUSABLE,
        "the adapter hears errors and no frame at this bit rate",
        "Find the bit rate with `bmsota adapters --check-bitrate`; if none fits, check CAN high and low and the termination. "
        "`--no-listen` leaves the check out.",
    ),
    _F.BUS_NOT_WORKING: FaultRow(
        _E.BUS_UNUSABLE,
        "the adapter cannot get a frame onto the bus: nobody acknowledges it",
        "Check that the pack is supplied, the wiring, the termination and the bit rate.",
    ),
    _F.NO_NODE_SILENT_BUS: FaultRow(
        _E.FAILED,
        "nobody answers, and nobody else talks either",
        "Check the pack's supply, the wiring and the bit rate; a sleeping pack may have to be woken first.",
    ),
    _F.NO_NODE_BUSY_BUS: FaultRow(
        _E.FAILED,
        "nobody answers, but others talk: wiring and bit rate are right",
        "Check that this is the pack's internal bus, and `--ids` and `--profile`.",
    ),
    _F.NO_NODE: FaultRow(
        _E.FAILED,
        "nobody answers; whether others talk was not listened for",
        "Check the pack's supply, the wiring, the bit rate, `--ids` and `--profile`.",
    ),
    _F.FILE_MISSING: FaultRow(_E.CALLED_WRONGLY, "there is no such file", "Check the name."),
    _F.FILE_UNREADABLE: FaultRow(_E.CALLED_WRONGLY, "the file cannot be read", "Check its permissions; copy it again."),
    _F.NOT_AN_IMAGE: FaultRow(
        _E.CALLED_WRONGLY,
        "the file is neither a signed image nor a release manifest",
        "Give a signed image (.bin, or .hex, .s19, .elf that hold one) or a manifest (.manifest.cose); a linker's "
        "output must be signed first.",
    ),
    _F.BAD_MANIFEST: FaultRow(_E.CALLED_WRONGLY, "the manifest is damaged", "Get the release again from its source."),
    _F.IMAGE_MISSING: FaultRow(
        _E.CALLED_WRONGLY,
        "an image the manifest names does not lie beside it, or is another one",
        "Put all files of the release into one folder, as they were released.",
    ),
    _F.BAD_KEY: FaultRow(
        _E.CALLED_WRONGLY, "the key file holds no such key", "Give a PEM file with the key of this purpose."
    ),
    _F.REPORT_NOT_WRITABLE: FaultRow(
        _E.CALLED_WRONGLY,
        "report or log cannot be written",
        "Choose another place with `--report-dir`, `--report` or `--log` (or `--no-log`).",
    ),
    _F.LOG_BROKEN_OFF: FaultRow(
        _E.DONE,
        "the CAN log could not be written to its end; the flash went on",
        "Make room on the disk; the report says how many frames are missing.",
    ),
    _F.REPORT_LOST: FaultRow(
        _E.DONE,
        "the report could not be written at the end; it is printed instead",
        "Make room on the disk; keep what was printed.",
    ),
    _F.INTERRUPTED: FaultRow(_E.INTERRUPTED, "Ctrl-C", "Run again: it goes on where it stopped."),
    _F.PACK_MIXED: FaultRow(
        _E.MIXED,
        "some nodes run the new version, confirmed or on trial, and some do not",
        "Do not drive or charge. Bring the silent nodes back and run again: it does what is missing.",
    ),
    _F.DIFFERS: FaultRow(
        _E.FAILED,
        "a node runs something else than the release says, or (without a release) the pack is not in order by itself",
        "Run `bmsota flash` with the release the pack should have.",
    ),
}

# Not here: SAME_VERSION, which leaves a node alone, and VEHICLE_STATE, which is said and never refused.
_ADVICE_OF_CHECK: Mapping[Check, str] = {
    Check.NODE_PRESENT: "Check the node's supply and wiring.",
    Check.HARDWARE_CLASS: "Get the release for this hardware, or name the other nodes with `--to`; `bmsota nodes --json` shows each node's class.",
    Check.ROLE: "Choose the image for this kind of node, or other nodes with `--to`.",
    Check.HWID: "Another piece of hardware is at this position: check that this is the right vehicle.",
    Check.ACCESS_KEY: "Give the access key of this series (`--access-key`).",
    Check.VERSION_DOWNGRADE: "Use a newer release.",
    Check.SECURITY_COUNTER: "Use a newer release; older ones are locked out for good.",
    Check.IMAGE_SIZE: "This image is for hardware with more flash; get the one for this node.",
    Check.TEST_PENDING: "Somebody else's upgrade is under way: let it end, or restart the node, which takes the image back.",
    Check.IMAGE_SIGNATURE: "Check `--image-key`; get the release again from its source.",
    Check.MANIFEST_SIGNATURE: "Get the release again from its source; check `--manifest-key`.",
    Check.MANIFEST_EXPIRY: "Get a release that is still valid; check this machine's clock.",
    Check.MIXED_PACK: "Flash all nodes that belong together (`--to all`).",
}


def _check_row(check: Check) -> FaultRow:
    advice = _ADVICE_OF_CHECK[check]
    meaning = f"the plan asks that {CHECKS[check]}"
    if check in OVERRIDABLE:
        return FaultRow(_E.REFUSED, meaning, f"{advice} `--force {check}`: {OVERRIDABLE[check]}.")
    return FaultRow(_E.REFUSED, f"{meaning}; forcing does not help, {NOT_OVERRIDABLE[check]}", advice)


FAULTS: Mapping[Fault, FaultRow] = {
    **_OURS,
    **{check: _check_row(check) for check in _ADVICE_OF_CHECK},
    **{
        cause: FaultRow(
            _E.FAILED,
            f"on a node; the same thing again {'fails again' if failure.permanent else 'can succeed'}",
            failure.advice,
            failure.safe_to_run_again,
        )
        for cause, failure in FAILURES.items()
    },
}
