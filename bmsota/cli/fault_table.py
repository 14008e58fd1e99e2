"""What can go wrong when a pack is flashed through an adapter: what the user reads, what to do next, and the exit code.

One table for everything: options, adapters and buses, files (`SourceFault`), the plan's checks (`Check`), and what nodes report
(`FailureCause`). docs/flash.md shows it; a test provokes every row. The library states faults and checks; which option helps is said here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, TypeAlias

from bmsota.errors import BmsotaError
from bmsota.flashing import CHECKS, NOT_OVERRIDABLE, OVERRIDABLE, Check, SourceFault
from bmsota.node import FAILURES, FailureCause

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EXIT_CODES", "FAULTS", "OPTION_OF_CHECK", "ExitCode", "Fault", "FaultError", "FaultRow", "FlashFault"]


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
    ExitCode.DONE: "success",
    ExitCode.FAILED: "failed; every node runs what it ran before, and it is safe to run again unless stated otherwise",
    ExitCode.CALLED_WRONGLY: "usage error, or a file cannot be used; nothing was written to any node",
    ExitCode.REFUSED: "refused by the plan, or declined; nothing was written to any node",
    ExitCode.BUS_UNUSABLE: "the adapter or the bus cannot be used; nothing was written to any node",
    ExitCode.MIXED: "some nodes were updated and some were not: the pack is mixed; run again",
    ExitCode.INTERRUPTED: "interrupted; run again to continue",
}


class FlashFault(Enum):
    """What can go wrong on the side of the computer. The value is the name the user reads."""

    # The call.
    BAD_OPTION = "invalid option"
    BAD_TARGET = "invalid target"
    UNKNOWN_CHECK = "unknown check"
    NOT_CONFIRMED = "confirmation required"
    DECLINED = "declined"
    # The adapter.
    NO_ADAPTER = "no adapter selected"
    UNKNOWN_ADAPTER = "unknown adapter"
    DRIVER_MISSING = "driver missing"
    BAD_SETTING = "unsupported setting"
    NO_SUCH_PORT = "no such port"
    PORT_FORBIDDEN = "permission denied"
    PORT_BUSY = "port busy"
    ADAPTER_SILENT = "adapter not responding"
    ADAPTER_REFUSES = "setting rejected"
    INTERFACE_DOWN = "interface down"
    ADAPTER_FAILS = "adapter error"
    ADAPTER_LOST = "adapter lost"
    # The bus.
    WRONG_BITRATE = "wrong bit rate"
    BUS_NOT_WORKING = "no acknowledgement"
    NO_NODE_SILENT_BUS = "no node, silent bus"
    NO_NODE_BUSY_BUS = "no node, active bus"
    NO_NODE = "no node"
    # Report and log.
    REPORT_NOT_WRITABLE = "report not writable"
    LOG_INCOMPLETE = "log incomplete"
    REPORT_NOT_SAVED = "report not saved"
    OUTPUT_NOT_WRITTEN = "output not written"
    # The outcome.
    INTERRUPTED = "interrupted"
    PACK_MIXED = "pack mixed"
    DIFFERS = "differs"


Fault: TypeAlias = FlashFault | SourceFault | Check | FailureCause


class FaultError(BmsotaError):
    """A fault of `FAULTS` that ends a command. `detail` says what is wrong, and where; `advice` what to do, if the table is too general."""

    def __init__(self, fault: Fault, detail: str, *, advice: str | None = None) -> None:
        super().__init__(f"{fault.value}: {detail}")
        self.fault = fault
        self.detail = detail
        self.advice = advice


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One row: what a fault means for the user."""

    exit_code: ExitCode
    meaning: str
    """What has happened, in general; the message itself has the particulars."""
    advice: str
    """What to do next."""
    safe_to_run_again: bool = True


_E = ExitCode
_F = FlashFault
_S = SourceFault

_OURS: Mapping[Fault, FaultRow] = {
    _F.BAD_OPTION: FaultRow(
        _E.CALLED_WRONGLY, "invalid option", "See `--help`; the options of the bus are python-can's."
    ),
    _F.BAD_TARGET: FaultRow(
        _E.CALLED_WRONGLY,
        "not a valid target",
        "Name positions (0 is the master, 1 to 31 are slaves), `master`, `slaves` or `all`.",
    ),
    _F.UNKNOWN_CHECK: FaultRow(
        _E.CALLED_WRONGLY, "`--force` names an unknown check", "Use one of the names in the message; see docs/flash.md."
    ),
    _F.NOT_CONFIRMED: FaultRow(
        _E.CALLED_WRONGLY,
        "not a terminal, and `--yes` was not given",
        "Review the plan with `--plan`, then run with `--yes`.",
    ),
    _F.DECLINED: FaultRow(_E.REFUSED, "the question was answered with no", "Run again and confirm when ready."),
    _F.NO_ADAPTER: FaultRow(
        _E.CALLED_WRONGLY,
        "neither options nor configuration files nor the environment select an adapter",
        "Run `bmsota adapters` and use the `-i ... -c ...` it prints, or put them into can.conf.",
    ),
    _F.UNKNOWN_ADAPTER: FaultRow(
        _E.CALLED_WRONGLY,
        "python-can has no such interface",
        "Use one of the interfaces in the message; it comes from `-i`, can.conf or CAN_INTERFACE. `bmsota adapters` lists connected adapters.",
    ),
    _F.DRIVER_MISSING: FaultRow(
        _E.BUS_UNUSABLE,
        "the adapter's driver cannot be loaded",
        "Install the vendor's driver, or the package named in the message.",
    ),
    _F.BAD_SETTING: FaultRow(
        _E.CALLED_WRONGLY,
        "the adapter does not support this setting",
        "Choose a bit rate or timing from the message.",
    ),
    _F.NO_SUCH_PORT: FaultRow(
        _E.BUS_UNUSABLE,
        "the port or channel does not exist",
        "Plug in the adapter; `bmsota adapters` lists what is connected.",
    ),
    _F.PORT_FORBIDDEN: FaultRow(
        _E.BUS_UNUSABLE,
        "the user has no permission to open the port",
        "Join the group that owns the port (on Linux often dialout or uucp) and log in again.",
    ),
    _F.PORT_BUSY: FaultRow(
        _E.BUS_UNUSABLE,
        "another program uses the port",
        "Close the other program (a logger, a second bmsota, a modem manager).",
    ),
    _F.ADAPTER_SILENT: FaultRow(
        _E.BUS_UNUSABLE,
        "the port opens, but the adapter does not answer",
        "Check that the port is the adapter's, and its baud rate; unplug the adapter and plug it in again. "
        "Pass `--bus-kwargs check_answers=False` for firmware that never answers.",
    ),
    _F.ADAPTER_REFUSES: FaultRow(
        _E.BUS_UNUSABLE,
        "the adapter rejects a setting (BEL)",
        "Its firmware does not support what the message names: choose another bit rate, or leave the option out.",
    ),
    _F.INTERFACE_DOWN: FaultRow(
        _E.BUS_UNUSABLE,
        "the network interface of the adapter is down (socketcan)",
        "Bring it up: `sudo ip link set can0 up type can bitrate 500000`, with its name and bit rate.",
    ),
    _F.ADAPTER_FAILS: FaultRow(
        _E.BUS_UNUSABLE,
        "the adapter cannot be opened, or fails before anything is written",
        "Unplug it and plug it in again; the message is the driver's.",
    ),
    _F.ADAPTER_LOST: FaultRow(
        _E.FAILED,
        "the adapter failed while flashing",
        "Plug it in again and rerun the command: it continues where the nodes stopped.",
    ),
    _F.WRONG_BITRATE: FaultRow(
        _E.BUS_UNUSABLE,
        "the adapter receives errors and no frame at this bit rate",
        "Find the bit rate with `bmsota adapters --check-bitrate`; if none fits, check CAN high and low and the termination. "
        "`--no-listen` skips this check.",
    ),
    _F.BUS_NOT_WORKING: FaultRow(
        _E.BUS_UNUSABLE,
        "the adapter cannot send: no other device on the bus acknowledges",
        "Check that the pack is powered, the wiring, the termination and the bit rate.",
    ),
    _F.NO_NODE_SILENT_BUS: FaultRow(
        _E.FAILED,
        "no node answered and the bus is silent",
        "Check the pack's supply, the wiring and the bit rate; a sleeping pack may have to be woken first.",
    ),
    _F.NO_NODE_BUSY_BUS: FaultRow(
        _E.FAILED,
        "no node answered, but there is other traffic: wiring and bit rate are right",
        "Check that this is the pack's internal bus, and check `--ids` and `--profile`.",
    ),
    _F.NO_NODE: FaultRow(
        _E.FAILED,
        "no node answered; the bus was not checked for other traffic",
        "Check the pack's supply, the wiring, the bit rate, `--ids` and `--profile`.",
    ),
    _S.FILE_MISSING: FaultRow(_E.CALLED_WRONGLY, "the file does not exist", "Check the name."),
    _S.FILE_UNREADABLE: FaultRow(
        _E.CALLED_WRONGLY,
        "the file cannot be read",
        "Name a file, not a folder; check its permissions, or copy it again.",
    ),
    _S.NOT_AN_IMAGE: FaultRow(
        _E.CALLED_WRONGLY,
        "the file is neither a signed image nor a release manifest",
        "Use a signed image (.bin, or .hex, .s19, .elf that contain one) or a manifest (.manifest.cose); a linker's "
        "output must be signed first.",
    ),
    _S.IMAGE_DAMAGED: FaultRow(
        _E.CALLED_WRONGLY,
        "the image's content does not match the digest stored in it",
        "Copy it again, or get it again from its source.",
    ),
    _S.BAD_MANIFEST: FaultRow(_E.CALLED_WRONGLY, "the manifest is damaged", "Get the release again from its source."),
    _S.IMAGE_MISSING: FaultRow(
        _E.CALLED_WRONGLY,
        "an image listed in the manifest is not in its folder, or differs",
        "Put all files of the release into one folder, unchanged.",
    ),
    _S.BAD_KEY: FaultRow(
        _E.CALLED_WRONGLY, "the key file does not contain a key of this kind", "Use the PEM file with the right key."
    ),
    _F.REPORT_NOT_WRITABLE: FaultRow(
        _E.CALLED_WRONGLY,
        "report or log cannot be written",
        "Choose another place with `--report-dir`, `--report` or `--log` (or `--no-log`).",
    ),
    _F.LOG_INCOMPLETE: FaultRow(
        _E.DONE,
        "the CAN log could not be written to its end; flashing continued",
        "Free disk space; the report says how many frames are missing.",
    ),
    _F.REPORT_NOT_SAVED: FaultRow(
        _E.DONE,
        "the report could not be written at the end and is printed instead",
        "Free disk space; keep the printed report.",
    ),
    _F.OUTPUT_NOT_WRITTEN: FaultRow(
        _E.FAILED,
        "the result could not be written to standard output",
        "Free disk space, or write it to another place.",
    ),
    _F.INTERRUPTED: FaultRow(
        _E.INTERRUPTED,
        "stopped with Ctrl-C or by SIGTERM, the terminal was closed, or the output cannot be written",
        "Run again to continue where it stopped.",
    ),
    _F.PACK_MIXED: FaultRow(
        _E.MIXED,
        "some nodes run the new version, confirmed or in test, and some do not",
        "Do not drive or charge. Bring the silent nodes back and run again: it does what is missing.",
    ),
    _F.DIFFERS: FaultRow(
        _E.FAILED,
        "a node does not run what the release says, or (without a release) the pack is not consistent",
        "Run `bmsota flash` with the release the pack should have.",
    ),
}

OPTION_OF_CHECK: Mapping[Check, str] = {
    Check.HWID: "--hwid",
    Check.ACCESS_KEY: "--access-key",
    Check.IMAGE_SIGNATURE: "--image-key",
    Check.MANIFEST_SIGNATURE: "--manifest-key",
}
"""Check -> the option that says what it compares with."""

# Not here: SAME_VERSION, which leaves a node alone, and VEHICLE_STATE, which is stated and never refused.
_ADVICE_OF_CHECK: Mapping[Check, str] = {
    Check.NODE_PRESENT: "Check the node's supply and wiring.",
    Check.HARDWARE_CLASS: "Get the release for this hardware, or select other nodes with `--to`; `bmsota nodes --json` shows each node's class.",
    Check.ROLE: "Choose the image for this kind of node, or other nodes with `--to`.",
    Check.HWID: "Other hardware is at this position: check that this is the right vehicle.",
    Check.ACCESS_KEY: "Pass the access key of this series (`--access-key`).",
    Check.VERSION_DOWNGRADE: "Use a newer release.",
    Check.SECURITY_COUNTER: "Use a newer release; older ones are locked out permanently.",
    Check.IMAGE_SIZE: "This image is for hardware with more flash; get the one for this node.",
    Check.TEST_PENDING: "Another upgrade is in progress. Wait for it, or restart the node to revert its unconfirmed image.",
    Check.IMAGE_SIGNATURE: "Check `--image-key`, or get the release again from its source.",
    Check.MANIFEST_SIGNATURE: "Get the release again from its source, or check `--manifest-key`.",
    Check.MANIFEST_EXPIRY: "Get a release that is still valid; check this computer's clock.",
    Check.MIXED_PACK: "Flash all nodes that belong together (`--to all`).",
}


def _check_row(check: Check) -> FaultRow:
    advice = _ADVICE_OF_CHECK[check]
    if check in OVERRIDABLE:
        return FaultRow(
            _E.REFUSED, f"required: {CHECKS[check]}", f"{advice} With `--force {check}`, {OVERRIDABLE[check]}."
        )
    return FaultRow(_E.REFUSED, f"required: {CHECKS[check]}; cannot be forced: {NOT_OVERRIDABLE[check]}", advice)


FAULTS: Mapping[Fault, FaultRow] = {
    **_OURS,
    **{check: _check_row(check) for check in _ADVICE_OF_CHECK},
    **{
        cause: FaultRow(
            _E.FAILED,
            f"reported by a node; retrying {'will not help' if failure.permanent else 'may help'}",
            failure.advice,
            failure.safe_to_run_again,
        )
        for cause, failure in FAILURES.items()
    },
}
