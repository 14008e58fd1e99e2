"""The JSON report of a run, and the files a run leaves behind. The layout is docs/flash.md's; `format` names it."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmsota import __version__
from bmsota.cli.fault_table import FAULTS, FaultError, FlashFault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota.adapters.canprobe import Heard
    from bmsota.adapters.canrecord import CanRecord
    from bmsota.cli.bus_options import BusChoice
    from bmsota.cli.fault_table import ExitCode, Fault
    from bmsota.cli.flash_options import FlashOptions
    from bmsota.flashing import Finding, FlashPlan, FlashResult, FlashSource, NodeFlashReport, NodePlan
    from bmsota.node import NodeDescription

__all__ = ["REPORT_FORMAT", "RunFiles", "node_json", "plan_json", "result_json", "source_json"]

REPORT_FORMAT = "bmsota-flash-report/1"

UNFINISHED = "unfinished"
"""The outcome that stands in the report until the run has ended: it stays if the run is killed."""

# The report is kept this long while the run lasts, blanks behind it: a disk that is full at the end still takes it. Of 32 nodes it has
# about 60 KB.
_RESERVED_BYTES = 64 * 1024

_NAMES_MAX = 100
"""Runs that begin within the same second."""


def utc_text(time_ns: int) -> str:
    """A time as ISO 8601, UTC, to the millisecond."""
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class RunFiles:
    """Where report and log of one run go.

    Both are created before anything is written to a node: a run whose report cannot be written does not begin. The report says from the
    first moment on that the run has not ended, and has its room on the disk.
    """

    report: Path
    log: Path | None

    @classmethod
    def reserve(cls, now_ns: int, options: FlashOptions) -> RunFiles:
        """Choose the names and create a report that says that the run has not ended.

        Raises:
            FaultError: REPORT_NOT_WRITABLE.
        """
        stem = f"bmsota-flash-{datetime.fromtimestamp(now_ns / 1e9, UTC):%Y%m%dT%H%M%SZ}"
        folder = Path(options.report_dir)
        path: Path | None = None
        try:
            if options.report is not None:
                path = Path(options.report)
                path.touch()
            else:
                folder.mkdir(parents=True, exist_ok=True)
                path = _new_file(folder, stem)
            if path.is_file():
                _begin(path, _unfinished_text(now_ns, options))
            else:
                with path.open("ab"):  # A device or a pipe gets the report alone.
                    pass
        except OSError as error:
            # A run that does not begin leaves no report; one of an earlier run stays.
            with suppress(OSError):
                if path is not None and path.is_file() and not path.stat().st_size:
                    path.unlink()
            place = options.report or folder
            raise FaultError(FlashFault.REPORT_NOT_WRITABLE, f"{place}: {error.strerror or error}") from error
        if options.no_log:
            return cls(path, None)
        return cls(path, Path(options.log) if options.log is not None else path.with_suffix(".log"))

    def write(self, content: dict[str, Any]) -> None:
        """Write the report, whole or not at all; on a disk that is full, into the room that was kept for it.

        Raises:
            OSError: it cannot be written. What was there is still there.
        """
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        if not self.report.is_file():
            self.report.write_text(text, encoding="utf-8")  # A device or a pipe is written as it is.
            return
        beside = self.report.with_name(self.report.name + ".part")
        try:
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, self.report)  # noqa: PTH105 - the same name either way
        except OSError:
            if len(text.encode()) > self.report.stat().st_size:
                raise
            _write_padded(self.report, text, "r+b")
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)


def _begin(path: Path, text: str) -> None:
    """Make a report of *text*, with room for a longer one. What was there stays until it is whole.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_name(path.name + ".part")
    try:
        _write_padded(beside, text, "wb")
        os.replace(beside, path)  # noqa: PTH105 - the same name either way
    except PermissionError:  # The folder takes no new file.
        _write_padded(path, text, "wb")
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _write_padded(path: Path, text: str, mode: str) -> None:
    """Write *text* and blanks up to the reserved size: blanks behind JSON mean nothing."""
    data = text.encode()
    with path.open(mode) as file:
        file.write(data.rstrip() + b" " * max(0, _RESERVED_BYTES - len(data)) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _unfinished_text(now_ns: int, options: FlashOptions) -> str:
    content = {
        "format": REPORT_FORMAT,
        "tool": tool_json(sys.argv[1:]),
        "begun": utc_text(now_ns),
        "ended": None,
        **early_end_json(None, None, "the run has not ended, or was killed"),
        "is_plan_only": options.is_plan_only,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _new_file(folder: Path, stem: str) -> Path:
    for number in range(_NAMES_MAX):
        path = folder / f"{stem}{f'-{number + 1}' if number else ''}.json"
        with suppress(FileExistsError):
            path.touch(exist_ok=False)
            return path
    raise OSError(f"{_NAMES_MAX} reports of this second exist already")


# ---- the parts


def tool_json(arguments: Sequence[str]) -> dict[str, Any]:
    return {"name": "bmsota", "version": __version__, "command": list(arguments)}


def adapter_json(choice: BusChoice, heard: Heard | None) -> dict[str, Any]:
    return {
        "interface": choice.interface,
        "channel": choice.channel,
        "bitrate_bps": choice.bitrate_bps,
        "data_bitrate_bps": choice.data_bitrate_bps,
        "has_listened": heard is not None,
        "heard_frames": None if heard is None else heard.frames,
        "heard_errors": None if heard is None else heard.errors,
    }


def source_json(source: FlashSource) -> dict[str, Any]:
    manifest = source.manifest
    return {
        "name": source.name,
        "kind": "image" if manifest is None else "release",
        "is_manifest_verified": source.is_manifest_verified,
        "expires": None if manifest is None else utc_text(manifest.expires_s * 1_000_000_000),
        "images": [
            {
                "role": image.facts.role.name.lower(),
                "class_id": str(image.facts.hardware_class.class_id),
                "version": str(image.facts.version),
                "security_counter": image.facts.security_counter,
                "size_bytes": image.facts.size_bytes,
                "sha256": image.facts.digest.hex(),
            }
            for image in source.images
        ],
    }


def node_json(node: NodeDescription) -> dict[str, Any]:
    """What a node reports about itself."""
    return {
        "position": node.position,
        "role": node.role.name.lower(),
        "hwid": node.hwid,
        "serial": node.serial,
        "class_id": str(node.class_id),
        "version": None if node.running_slot is None else str(node.version),
        "image_sha256": None if node.image_sha256 is None else node.image_sha256.hex(),
        "state": node.state.name,
        "boot_reason": node.boot_reason.name,
        "slot_states": [state.name for state in node.slot_states],
        "active_slot": node.active_slot,
        "running_slot": node.running_slot,
        "security_counter": node.security_counter,
        "capabilities": [each.name for each in type(node.capabilities) if each in node.capabilities and each],
        "protocol_version": node.protocol_version,
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check.value,
        "verdict": finding.verdict.value,
        "position": finding.position,
        "detail": finding.detail,
    }


def _node_plan_json(node: NodePlan) -> dict[str, Any]:
    return {
        "position": node.position,
        "node": node_json(node.node),
        "action": node.action.value,
        "from_version": None if node.from_version is None else str(node.from_version),
        "to_version": None if node.to_version is None else str(node.to_version),
        "size_bytes": node.size_bytes,
        "expected_s": node.expected_s,
        "findings": [_finding_json(each) for each in node.findings],
    }


def plan_json(plan: FlashPlan) -> dict[str, Any]:
    """The plan, with every check."""
    return {
        "expected_s": plan.expected_s,
        "is_refused": bool(plan.refusals),
        "findings": [_finding_json(each) for each in plan.findings],
        "nodes": [_node_plan_json(each) for each in plan.nodes],
    }


def _node_result_json(report: NodeFlashReport, ceiling_bytes_per_s: float | None) -> dict[str, Any]:
    seconds = report.transfer_ns / 1e9
    rate = report.sent_bytes / seconds if report.sent_bytes and seconds else None
    failure = report.failure
    cause = None if failure is None else failure.cause
    return {
        "position": report.position,
        "role": report.plan.node.role.name.lower(),
        "hwid": report.plan.node.hwid,
        "state": report.status.value,
        "version": None if report.node is None or report.node.running_slot is None else str(report.node.version),
        "is_ok": failure is None,
        "failed_phase": None if report.failed_phase is None else report.failed_phase.value,
        "failure": None if failure is None else failure.detail,
        "next": None if cause is None else FAULTS[cause].advice,
        "resumed_from_bytes": report.resumed_from,
        "sent_bytes": report.sent_bytes,
        "transfer_s": round(seconds, 6),
        "stream": list(report.stream),
        "stream_s": round(report.stream_ns / 1e9, 6),
        "is_compressed": report.is_compressed,
        "rate_bytes_per_s": None if rate is None else round(rate, 1),
        "share_of_wire": None if rate is None or not ceiling_bytes_per_s else round(rate / ceiling_bytes_per_s, 4),
        "frames_repeated": report.frames_repeated,
        "interruptions": report.interruptions,
    }


def result_json(result: FlashResult, ceiling_bytes_per_s: float | None) -> dict[str, Any]:
    """The outcome, with every node and phase."""
    return {
        "outcome": result.outcome.value,
        "was_changed": result.was_changed,
        "failed_phase": None if result.failed_phase is None else result.failed_phase.value,
        "nodes": [_node_result_json(each, ceiling_bytes_per_s) for each in result.nodes],
        "phases": [
            {
                "phase": each.phase.value,
                "begin": utc_text(each.begin_ns),
                "seconds": round((each.end_ns - each.begin_ns) / 1e9, 6),
            }
            for each in result.phases
        ],
    }


def end_json(
    exit_code: ExitCode, fault: Fault | None, detail: str, advice: str | None, *, is_safe: bool
) -> dict[str, Any]:
    return {
        "exit_code": int(exit_code),
        "exit": exit_code.name,
        "fault": None if fault is None else fault.value,
        "detail": detail,
        "next": advice or (None if fault is None else FAULTS[fault].advice),
        "safe_to_run_again": is_safe,
    }


def early_end_json(exit_code: ExitCode | None, fault: Fault | None, detail: str) -> dict[str, Any]:
    """The end of a run that has no result: it was killed, or ended before the nodes were found."""
    return {
        "exit_code": None if exit_code is None else int(exit_code),
        "exit": None if exit_code is None else exit_code.name,
        "fault": None if fault is None else fault.value,
        "detail": detail,
        "next": "Run again to continue where it stopped." if fault is None else FAULTS[fault].advice,
        "safe_to_run_again": True,
        "outcome": UNFINISHED,
    }


def log_json(record: CanRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "file": str(record.path),
        "sha256": record.digest(),
        "frames": record.frames,
        "frames_missing": record.missing,
        "fault": record.fault,
    }
