"""`bmsota flash`: put a release, or one image, on the nodes of a pack through a CAN adapter.

Discover nodes, make a plan, ask for confirmation, flash all nodes, restart them into the new image, read the versions back,
confirm. The decisions are made in `bmsota.flashing` (`make_plan`, `PackFlash`); here they are shown, logged and reported.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from bmsota._words import counted
from bmsota.adapters.clock import steady_clock
from bmsota.cli.bus_options import bus_choice, make_profile, wire_ceiling
from bmsota.cli.can_session import CanSession, Interrupt, fault_of_transfer
from bmsota.cli.fault_table import FAULTS, ExitCode, FaultError, FlashFault
from bmsota.cli.faults import end_with, say, say_again, say_fault, stop, stopping_at_faults
from bmsota.cli.flash_options import FlashOptions
from bmsota.cli.flash_output import (
    nodes_text,
    plan_lines,
    question,
    rate_sentence,
    refusal_texts,
    report_line,
    stream_lines,
)
from bmsota.cli.flash_report import (
    REPORT_FORMAT,
    RunFiles,
    adapter_json,
    early_end_json,
    end_json,
    log_json,
    plan_json,
    result_json,
    source_json,
    tool_json,
    utc_text,
)
from bmsota.cli.flash_screen import FlashScreen
from bmsota.cli.options import takes
from bmsota.cli.selection import (
    parse_checks,
    parse_class_names,
    parse_hwids,
    parse_positions,
    parse_targets,
)
from bmsota.cli.terminal import confirm, lost_output, tell, terminal_width, unfailing_output
from bmsota.cli.waiting import kept_awake, parse_wait, wait_for_pack
from bmsota.errors import ConfigurationError, LocalProtocolError, TransferError
from bmsota.flashing import (
    RUNS_NEW,
    FlashingEngine,
    FlashOutcome,
    FlashPhase,
    PackFlash,
    PhaseBegun,
    PlanMade,
    PlanRequest,
    make_plan,
    node_words,
)
from bmsota.node import NodeMode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota.adapters.canrecord import CanRecord
    from bmsota.cli.bus_options import BusChoice
    from bmsota.cli.fault_table import Fault
    from bmsota.flashing import FlashEvent, FlashingProfile, FlashPlan, FlashResult

__all__ = ["command"]

_NOTHING_DONE = frozenset({FlashOutcome.NOTHING_TO_DO, FlashOutcome.REFUSED, FlashOutcome.DECLINED})
"""Outcomes before anything was begun."""


# ---- the run


@dataclass(slots=True)
class _Wire:
    """What the wire carried while images were sent: data bytes of all our frames, commands too."""

    sent_bytes: int = 0
    seconds: float = 0.0
    _begin: tuple[int, int] | None = None

    def begin(self, sent_bytes: int, now_ns: int) -> None:
        self._begin = (sent_bytes, now_ns)

    def end(self, sent_bytes: int, now_ns: int) -> None:
        if self._begin is not None:
            self.sent_bytes += sent_bytes - self._begin[0]
            self.seconds += (now_ns - self._begin[1]) / 1e9
            self._begin = None

    def as_json(self, ceiling_bytes_per_s: float | None) -> dict[str, Any] | None:
        if not self.seconds:
            return None
        rate = self.sent_bytes / self.seconds
        return {
            "sent_bytes": self.sent_bytes,
            "seconds": round(self.seconds, 6),
            "rate_bytes_per_s": round(rate, 1),
            "share_of_wire": None if ceiling_bytes_per_s is None else round(rate / ceiling_bytes_per_s, 4),
        }


@dataclass(frozen=True, slots=True)
class _End:
    """How a run ended."""

    exit_code: ExitCode
    fault: Fault | None = None
    detail: str = ""
    advice: str | None = None
    """What to do, if the table is too general."""


class _Run:
    """One run: what it was started with, and what it leaves behind."""

    def __init__(self, options: FlashOptions, choice: BusChoice, interrupt: Interrupt) -> None:
        """Read every file.

        Raises:
            FaultError: an option does not fit.
            SourceError: a file cannot be used.
        """
        from bmsota.adapters.releases import load_image_keys, load_manifest_keys, load_source  # noqa: PLC0415 - reads files

        self.options = options
        self.choice = choice
        self.ceiling = wire_ceiling(choice, options.ids)
        targets, positions = parse_targets(options.to or ())
        self.request = PlanRequest(
            now_s=steady_clock()() // 1_000_000_000,
            targets=targets,
            positions=positions,
            expected=parse_positions(options.expect, "--expect") if options.expect else (),
            hwids=parse_hwids(options.hwid or ()),
            forced=parse_checks(options.force or ()),
            has_access_key=options.access_key is not None,
            image_keys=load_image_keys(options.image_key or ()),
            rate_bytes_per_s=self.ceiling,
            class_names=parse_class_names(options.class_name or ()),
        )
        self.wait_s = parse_wait(options.wait)
        self.source = load_source(options.source, load_manifest_keys(options.manifest_key or ()))
        self.profile = make_profile(
            options,
            choice,
            access_key=options.access_key,
            broadcast=not options.no_broadcast,
            compress=not options.no_compress,
        )
        self.interrupt = interrupt
        self.is_agreed = options.yes
        self.begun_ns = 0
        self.files: RunFiles | None = None
        self.record: CanRecord | None = None
        self.session: CanSession | None = None
        self.plan: FlashPlan | None = None
        self.lost: FaultError | None = None
        self.wire = _Wire()

    def run(self) -> ExitCode:
        """Do it; the exit code. However it ends, the log is closed and the report says how.

        Raises:
            FaultError: the bus cannot be used, or files cannot be written; nothing was begun.
            KeyboardInterrupt: it was ended before anything was begun.
        """
        try:
            result, ended_ns = self._flash()
        except (FaultError, KeyboardInterrupt) as error:
            with self.interrupt.held():
                self._write_early_report(error)
            raise
        finally:
            if self.record is not None:
                self.record.close()
        with self.interrupt.held():
            return self._end(result, ended_ns)

    def _flash(self) -> tuple[FlashResult, int]:
        with (
            CanSession.open(self.choice, self.options, make_record=self._open_files) as session,
            self.interrupt.orderly(),
        ):
            self.session = session
            try:
                wait_for_pack(
                    session,
                    self._holding_profile(),
                    self.interrupt,
                    seconds=self.wait_s,
                    expected=self.request.named_positions,
                )
            except TransferError as error:
                raise fault_of_transfer(error, self.choice, was_changed=False) from error
            try:
                machine = PackFlash(
                    FlashingEngine(self.profile),
                    partial(make_plan, source=self.source, request=self.request),
                    expected=self.request.named_positions,
                )
            except LocalProtocolError as error:  # UDS has fewer positions than `--to` knows.
                raise FaultError(FlashFault.BAD_TARGET, str(error)) from error
            try:
                self._drive(machine, session)
            except TransferError as error:
                machine.abandon(session.clock())
                was_changed = bool(machine.result and machine.result.was_changed)
                self.lost = fault_of_transfer(error, self.choice, was_changed=was_changed)
            except KeyboardInterrupt:
                machine.stop(session.clock())
                machine.abandon(session.clock())
            if not machine.finished:
                machine.stop(session.clock())  # --plan: nothing was begun.
            if self.lost is None and self.plan is not None and not self.plan.nodes:
                self.lost = session.no_answer()
            ended_ns = session.clock()
            self._let_go(machine, session)
        result = machine.result
        assert result is not None
        return result, ended_ns

    @property
    def _holds_nodes(self) -> bool:
        """Whether `--wait` holds nodes in their bootloader."""
        return self.wait_s != 0 and not self.options.is_plan_only

    def _holding_profile(self) -> FlashingProfile:
        """For looks before the flash; later ones must let the new image start."""
        return make_profile(self.options, self.choice, holds_nodes=self._holds_nodes)

    def _let_go(self, machine: PackFlash, session: CanSession) -> None:
        """Nodes that `--wait` has held in their bootloader start their applications, if nothing has come of it."""
        result = machine.result
        if not self._holds_nodes or self.lost is not None or result is None or result.outcome not in _NOTHING_DONE:
            return
        held = [
            node.position
            for each in (result.plan.nodes if result.plan is not None else ())
            if (node := each.node).state is NodeMode.BOOTLOADER and node.running_slot is not None
        ]
        if held:
            engine = FlashingEngine(self.profile)
            engine.leave(held)
            # A node that does not hear it leaves by itself after a minute; a bus that is gone is not this run's end.
            with suppress(TransferError):
                deque(session.run(engine, self.interrupt), maxlen=0)

    def _open_files(self) -> CanRecord | None:
        from bmsota.adapters.canrecord import CanRecord  # noqa: PLC0415 - brings python-can

        self.begun_ns = steady_clock()()
        files = self.files = RunFiles.reserve(self.begun_ns, self.options)
        if files.log is not None:
            try:
                self.record = CanRecord(files.log)
            except OSError as error:
                raise FaultError(FlashFault.REPORT_NOT_WRITABLE, f"{files.log}: {error.strerror or error}") from error
            except ConfigurationError as error:
                raise FaultError(FlashFault.BAD_OPTION, f"--log: {error}") from error
        return self.record

    def _drive(self, machine: PackFlash, session: CanSession) -> None:
        from bmsota.adapters.pythoncan import drive  # noqa: PLC0415 - brings python-can

        def stop() -> None:
            if self.interrupt.is_wanted:
                machine.stop(session.clock())

        may_broadcast = not self.options.no_broadcast and self.options.profile == "bootloader"
        screen = FlashScreen(self.ceiling, may_broadcast=may_broadcast)
        events: Iterator[FlashEvent] = drive(machine, session.bus, session.clock, stop=stop)
        for event in events:
            screen.show(event, session.clock())
            if isinstance(event, PlanMade):
                self.plan = event.plan
                self._show_plan(event.plan)
                if self.options.is_plan_only:
                    return
                if not machine.finished:
                    self._decide(machine, session)
                if not machine.finished:
                    with screen.bars():
                        for later in events:
                            if isinstance(later, PhaseBegun):
                                self._watch_wire(later.phase, session)
                            screen.show(later, session.clock())

    def _watch_wire(self, phase: FlashPhase, session: CanSession) -> None:
        now_ns = session.clock()
        self.wire.end(session.bus.sent_bytes, now_ns)
        if phase is FlashPhase.STAGE:
            self.wire.begin(session.bus.sent_bytes, now_ns)

    def _show_plan(self, plan: FlashPlan) -> None:
        if not plan.nodes:
            return  # No node answered: the fault at the end says so.
        # In one piece: a reader that wants the first line only does not end the run.
        tell("\n".join(plan_lines(plan, self.ceiling, width=terminal_width())))

    def _decide(self, machine: PackFlash, session: CanSession) -> None:
        if not self.is_agreed:
            assert machine.plan is not None
            try:
                with (
                    kept_awake(session, self._holding_profile(), self.interrupt)
                    if self._holds_nodes
                    else nullcontext(),
                    self.interrupt.asking(),
                ):
                    self.is_agreed = confirm(question(machine.plan))
            except typer.Abort:  # A Ctrl-C instead of an answer.
                machine.stop(session.clock())
                return
        if self.is_agreed:
            machine.proceed(session.clock())
        else:
            machine.decline(session.clock())

    # ---- the end

    def _end(self, result: FlashResult, ended_ns: int) -> ExitCode:
        end = self._verdict(result)
        is_safe = result.safe_to_run_again and (end.fault is None or FAULTS[end.fault].safe_to_run_again)
        self._say_end(result, end, is_safe=is_safe)
        self._write_report(
            result, ended_ns, end_json(end.exit_code, end.fault, end.detail, end.advice, is_safe=is_safe)
        )
        return end.exit_code

    def _verdict(self, result: FlashResult) -> _End:
        plan = self.plan
        if self.lost is not None:
            lost = self.lost
            return _End(FAULTS[lost.fault].exit_code, lost.fault, lost.detail, lost.advice)
        if plan is not None and plan.refusals:
            details = [f"{check.value}: {text}" for check, text in refusal_texts(plan).items()]
            return _End(ExitCode.REFUSED, plan.refusals[0].check, "; ".join(details))
        if self.options.is_plan_only and plan is not None and not self.interrupt.is_wanted:
            return _End(ExitCode.DONE)
        match result.outcome:
            case FlashOutcome.DONE | FlashOutcome.NOTHING_TO_DO:
                return _End(ExitCode.DONE)
            case FlashOutcome.DECLINED:
                return _End(ExitCode.REFUSED, FlashFault.DECLINED, "answered with no")
            case FlashOutcome.INTERRUPTED:
                phase = "" if result.failed_phase is None else f" while {result.failed_phase.value}"
                return _End(ExitCode.INTERRUPTED, FlashFault.INTERRUPTED, f"{self.interrupt.reason}{phase}")
            case FlashOutcome.MIXED:
                return _End(ExitCode.MIXED, FlashFault.PACK_MIXED, _mixture(result))
        cause, detail = next(iter(_causes(result).items()))
        return _End(ExitCode.FAILED, cause, detail)

    def _say_end(self, result: FlashResult, end: _End, *, is_safe: bool) -> None:
        plan = self.plan
        if plan is not None and plan.nodes and plan.refusals and end.exit_code is ExitCode.REFUSED:
            for check, text in refusal_texts(plan).items():
                say_fault(check, text)
        elif end.fault is not None:
            say_fault(end.fault, end.detail, advice=end.advice)
            for cause, text in _causes(result).items():
                if cause is not end.fault:
                    say_fault(cause, text)
        elif result.outcome is FlashOutcome.NOTHING_TO_DO:
            tell("nothing to do: every target is up to date")
        elif self.options.is_plan_only:
            tell("plan only: nothing was written")
        elif end.exit_code is ExitCode.DONE:
            count = len(result.nodes)
            tell(f"done: {counted(count, 'node')} {'runs' if count == 1 else 'run'} {self.source.name}")
        for report in result.nodes:
            tell(report_line(report, self.ceiling))
        for line in stream_lines(result.nodes, self.ceiling):
            tell(line)
        if rate := rate_sentence(self.wire.sent_bytes, self.wire.seconds, self.ceiling):
            tell(f"average while flashing: {rate} (including erasing, programming and verifying)")
        if (error := lost_output()) is not None:
            say(f"the output cannot be written ({error.strerror or error}); the report has it all")
        if end.exit_code is not ExitCode.DONE:
            say_again(was_changed=result.was_changed, is_safe=is_safe)

    def _write_early_report(self, error: FaultError | KeyboardInterrupt) -> None:
        """Of a run that ends before it has a result."""
        if self.files is None and self.options.report is not None:
            # The bus could not be opened. Whoever has named a report waits for one.
            with suppress(FaultError):
                self.begun_ns = steady_clock()()
                self.files = RunFiles.reserve(self.begun_ns, self.options)
        if self.files is None:
            return
        if isinstance(error, FaultError):
            end = early_end_json(FAULTS[error.fault].exit_code, error.fault, error.detail)
        else:
            end = early_end_json(ExitCode.INTERRUPTED, FlashFault.INTERRUPTED, self.interrupt.reason)
        content = {
            "format": REPORT_FORMAT,
            "tool": tool_json(sys.argv[1:]),
            "begun": utc_text(self.begun_ns),
            "ended": utc_text(steady_clock()()),
            **end,
            "is_plan_only": self.options.is_plan_only,
        }
        try:
            self.files.write(content)
        except OSError as failure:
            say_fault(FlashFault.REPORT_NOT_SAVED, f"{self.files.report}: {failure.strerror or failure}")

    def _write_report(self, result: FlashResult, ended_ns: int, end: dict[str, Any]) -> None:
        assert self.session is not None
        assert self.files is not None
        session, record, plan = self.session, self.record, self.plan
        content = {
            "format": REPORT_FORMAT,
            "tool": tool_json(sys.argv[1:]),
            "begun": utc_text(self.begun_ns),
            "ended": utc_text(ended_ns),
            **end,
            "is_plan_only": self.options.is_plan_only,
            "adapter": adapter_json(self.choice, session.heard),
            "profile": self.profile.name,
            "ids": self.options.ids,
            "ceiling_bytes_per_s": None if self.ceiling is None else round(self.ceiling, 1),
            "source": source_json(self.source),
            "forced": [str(each) for each in plan.forced] if plan is not None else [],
            "plan": None if plan is None else plan_json(plan),
            **result_json(result, self.ceiling),
            "wire": self.wire.as_json(self.ceiling),
            "frames_sent": session.bus.sent,
            "frames_received": session.bus.received,
            "log": log_json(record),
        }
        if record is not None and record.fault is not None:
            say_fault(FlashFault.LOG_INCOMPLETE, f"{record.path}: {record.fault}")
        try:
            self.files.write(content)
        except OSError as error:
            say_fault(FlashFault.REPORT_NOT_SAVED, f"{self.files.report}: {error.strerror or error}")
            typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
            return
        log = "" if record is None else f", CAN log: {record.path}"
        say(f"report: {self.files.report}{log}")


def _causes(result: FlashResult) -> dict[Fault, str]:
    """Why nodes failed, each cause with its nodes."""
    details: dict[Fault, list[tuple[int, str]]] = {}
    for report in result.nodes:
        failure = report.failure
        if failure is not None and failure.cause is not None:
            details.setdefault(failure.cause, []).append((report.position, failure.detail.partition(": ")[2]))
    return {cause: nodes_text(each) for cause, each in details.items()}


def _mixture(result: FlashResult) -> str:
    """Which nodes run the new version and which do not."""
    sides: dict[bool, list[int]] = {True: [], False: []}
    for report in result.nodes:
        sides[report.status in RUNS_NEW].append(report.position)
    others = f", not on {node_words(sides[False])}" if sides[False] else ""
    return f"the new version is on {node_words(sides[True])}{others}"


# ---- the command


@takes(FlashOptions)
def command(ctx: typer.Context, options: FlashOptions) -> None:
    """Flash a release, or one image, onto the nodes of a pack.

    Every image is sent and verified first. Then the nodes restart into it, are read back and confirm it, the master last. If
    one fails before that, all revert. Nodes that already run the version are left alone.

    Exit code: 0 success; 1 failed, every node runs what it ran before; 2 usage error; 3 refused by the plan, nothing was
    written; 4 adapter or bus unusable, nothing was written; 5 some nodes updated and some not; 130 interrupted.
    """
    interrupt = Interrupt()
    unfailing_output(interrupt.request)
    with interrupt:
        try:
            with stopping_at_faults():
                run = _Run(options, bus_choice(ctx), interrupt)
                # Behind the files: who misspelt one would pass --yes first, and learn of it then.
                if not (options.is_plan_only or options.yes or sys.stdin.isatty()):
                    stop(FlashFault.NOT_CONFIRMED, "not a terminal: pass --yes to confirm")
                exit_code = run.run()
        except KeyboardInterrupt:
            stop(FlashFault.INTERRUPTED, f"{interrupt.reason} before anything was begun")
    end_with(exit_code)
