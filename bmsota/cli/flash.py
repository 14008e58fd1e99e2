"""`bmsota flash`: put a release, or one image, on the nodes of a pack through a CAN adapter.

Look for nodes, make a plan, ask, flash all nodes, restart them into the new image, read the versions back, confirm. What is
decided is `bmsota.flashing`'s business (`make_plan`, `PackFlash`); here it is shown, logged and reported.
"""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from bmsota.can_timing import ceiling_bytes_per_s
from bmsota.cli.canbus import (
    LISTEN_S,
    PATIENCE_S,
    CanSession,
    Interrupt,
    bus_choice,
    fault_of_transfer,
    make_profile,
)
from bmsota.cli.faults import error_console, say, say_again, say_fault, stop, stop_with
from bmsota.cli.flashreport import (
    REPORT_FORMAT,
    RunFiles,
    adapter_json,
    end_json,
    log_json,
    plan_json,
    result_json,
    source_json,
    tool_json,
    utc_text,
)
from bmsota.cli.flashtext import (
    counted,
    findings_text,
    nodes_text,
    plan_lines,
    question,
    rate_sentence,
    report_line,
)
from bmsota.cli.screen import confirm, forgiving_output
from bmsota.errors import ConfigurationError, LocalProtocolError, TransferError
from bmsota.flashing import (
    FAULTS,
    RUNS_NEW,
    Check,
    ExitCode,
    FaultError,
    FlashFault,
    FlashingEngine,
    FlashOutcome,
    FlashPhase,
    FramesRepeated,
    NodeDone,
    PackFlash,
    PhaseBegun,
    PlanMade,
    PlanRequest,
    Targets,
    TransferBegun,
    TransferBroken,
    TransferProgressed,
    make_plan,
    node_words,
)
from bmsota.node import POSITION_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.progress import TaskID

    from bmsota.adapters.canrecord import CanRecord
    from bmsota.canframe import CanFrame
    from bmsota.cli.canbus import BusChoice
    from bmsota.flashing import Fault, FlashEvent, FlashingProfile, FlashPlan, FlashResult, FlashSource
    from bmsota.image import PublicKey

__all__ = ["command", "parse_checks", "parse_positions", "parse_targets", "wire_ceiling"]

_RANGE = re.compile(r"(\d{1,3})(?:-(\d{1,3}))?")


def wire_ceiling(choice: BusChoice, ids: int) -> float | None:
    """What the wire can carry, bytes/s; None without a bit rate."""
    if not choice.bitrate_bps:
        return None
    return ceiling_bytes_per_s(choice.bitrate_bps, extended=ids == 29, data_bitrate_bps=choice.data_bitrate_bps)


# ---- what the user writes


def parse_positions(texts: Iterable[str], option: str) -> tuple[int, ...]:
    """Positions as "0", "1-4" or "1,3".

    Raises:
        FaultError: BAD_TARGET.
    """
    positions: set[int] = set()
    for text in ",".join(texts).split(","):
        match = _RANGE.fullmatch(text.strip())
        first = int(match[1]) if match else POSITION_MAX + 1
        last = int(match[2]) if match and match[2] else first
        if not first <= last <= POSITION_MAX:
            word = "one word or " if option == "--to" else ""
            raise FaultError(
                FlashFault.BAD_TARGET, f"expected {word}positions 0 to {POSITION_MAX}, got {text!r} ({option})"
            )
        positions.update(range(first, last + 1))
    return tuple(sorted(positions))


def parse_targets(texts: Sequence[str]) -> tuple[Targets, tuple[int, ...]]:
    """`--to`: a word, or positions.

    Raises:
        FaultError: BAD_TARGET.
    """
    words = {each.value: each for each in Targets if each is not Targets.DEFAULT}
    if not texts:
        return Targets.DEFAULT, ()
    if len(texts) == 1 and texts[0] in words:
        return words[texts[0]], ()
    return Targets.DEFAULT, parse_positions(texts, "--to")


def parse_checks(texts: Iterable[str]) -> frozenset[Check]:
    """`--force`.

    Raises:
        FaultError: UNKNOWN_CHECK.
    """
    known = {check.value: check for check in Check}
    checks: set[Check] = set()
    for text in texts:
        if text not in known:
            raise FaultError(FlashFault.UNKNOWN_CHECK, f"expected one of {', '.join(known)}, got {text!r} (--force)")
        checks.add(known[text])
    return frozenset(checks)


def parse_hwids(texts: Iterable[str]) -> dict[int, str]:
    """`--hwid POSITION=HWID`.

    Raises:
        FaultError: BAD_TARGET.
    """
    hwids: dict[int, str] = {}
    for text in texts:
        position, sign, hwid = text.partition("=")
        if not sign or not hwid:
            raise FaultError(FlashFault.BAD_TARGET, f"expected POSITION=HWID, got {text!r} (--hwid)")
        hwids |= dict.fromkeys(parse_positions([position], "--hwid"), hwid)
    return hwids


# ---- the screen


class _Screen:
    """Bars on a terminal, one line an event of note elsewhere."""

    def __init__(self, ceiling_bytes_per_s: float | None) -> None:
        self._console = error_console()
        self._ceiling = ceiling_bytes_per_s
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[int, TaskID] = {}
        self._begun: dict[int, tuple[int, int]] = {}
        self._repeated: dict[int, int] = {}

    @contextmanager
    def bars(self) -> Iterator[None]:
        """Show bars inside."""
        with self._progress:
            yield

    def show(self, event: FlashEvent, now_ns: int) -> None:
        """What has happened."""
        match event:
            case PhaseBegun(phase) if phase not in {FlashPhase.DECIDE, FlashPhase.OVER}:
                self._console.print(f"{phase.value} ...", markup=False, highlight=False)
            case TransferBegun(position, offset, size_bytes):
                self._task(position, size_bytes)
                self._begun.setdefault(position, (now_ns, offset))
                self._progress.update(self._tasks[position], completed=offset)
            case TransferProgressed(position, next_offset, size_bytes):
                begun_ns, offset = self._begun.get(position, (now_ns, 0))
                rate = rate_sentence(next_offset - offset, (now_ns - begun_ns) / 1e9, self._ceiling)
                repeated = self._repeated.get(position, 0)
                more = f", {counted(repeated, 'frame')} repeated" if repeated else ""
                self._progress.update(self._task(position, size_bytes), completed=next_offset, rate=rate + more)
            case FramesRepeated(position, frames):
                self._repeated[position] = self._repeated.get(position, 0) + frames
            case TransferBroken(position, detail):
                text = f"node {position}: broke off, goes on by itself: {detail}"
                self._console.print(text, markup=False, highlight=False)
            case NodeDone(result) if not result.ok:
                self._console.print(
                    f"node {result.position}: {result.detail}", style="red", markup=False, highlight=False
                )
            case _:
                pass

    def _task(self, position: int, size_bytes: int) -> TaskID:
        if position not in self._tasks:
            self._tasks[position] = self._progress.add_task(f"node {position}", total=size_bytes, rate="")
        return self._tasks[position]


# ---- the run


class _Stoppable:
    """A field upgrade that is stopped when the user presses Ctrl-C."""

    def __init__(self, machine: PackFlash, interrupt: Interrupt) -> None:
        self._machine = machine
        self._interrupt = interrupt

    @property
    def finished(self) -> bool:
        return self._machine.finished

    def receive_frame(self, frame: CanFrame, now_ns: int) -> None:
        self._machine.receive_frame(frame, now_ns)

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        if self._interrupt.is_wanted:
            self._machine.stop(now_ns)
        return self._machine.frames_to_send(now_ns)

    def next_event(self) -> FlashEvent | None:
        return self._machine.next_event()

    def next_timeout(self) -> int | None:
        return self._machine.next_timeout()

    def handle_timeout(self, now_ns: int) -> None:
        self._machine.handle_timeout(now_ns)


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


@dataclass(slots=True)
class _Run:
    """One run: what was asked for, and what it leaves behind."""

    source: FlashSource
    request: PlanRequest
    choice: BusChoice
    ceiling: float | None
    ids: int
    profile: FlashingProfile
    is_plan_only: bool
    is_agreed: bool
    arguments: list[str]
    reserve: Callable[[int], RunFiles]
    files: RunFiles | None = None
    record: CanRecord | None = None
    begun_ns: int = 0
    session: CanSession | None = None
    plan: FlashPlan | None = None
    lost: FaultError | None = None
    wire: _Wire = field(default_factory=_Wire)
    interrupt: Interrupt = field(default_factory=Interrupt)

    def run(self, listen_s: float) -> ExitCode:
        """Do it; the exit code.

        Raises:
            FaultError: the bus cannot be used, or files cannot be written; nothing was begun.
        """
        with CanSession.open(self.choice, listen_s=listen_s, make_record=self._open_files) as session, self.interrupt:
            self.session = session
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
                self.lost = fault_of_transfer(error, was_changed=bool(machine.result and machine.result.was_changed))
            except KeyboardInterrupt:
                machine.stop(session.clock())
                machine.abandon(session.clock())
            if not machine.finished:
                machine.stop(session.clock())  # --plan: nothing was begun.
            if self.lost is None and self.plan is not None and not self.plan.nodes:
                self.lost = FaultError(*session.nobody())
            ended_ns = session.clock()
        result = machine.result
        assert result is not None
        return self._end(result, ended_ns)

    def _open_files(self) -> CanRecord | None:
        from bmsota.adapters.canrecord import CanRecord  # noqa: PLC0415 - brings python-can
        from bmsota.adapters.clock import steady_clock  # noqa: PLC0415

        self.begun_ns = steady_clock()()
        files = self.files = self.reserve(self.begun_ns)
        if files.log is not None:
            try:
                self.record = CanRecord(files.log)
            except OSError as error:
                raise FaultError(
                    FlashFault.REPORT_NOT_WRITABLE,
                    f"expected to write it, got: {error.strerror or error} ({files.log})",
                ) from error
            except ConfigurationError as error:
                raise FaultError(FlashFault.BAD_OPTION, f"{error} (--log)") from error
        return self.record

    def _drive(self, machine: PackFlash, session: CanSession) -> None:
        from bmsota.adapters.pythoncan import drive  # noqa: PLC0415 - brings python-can

        screen = _Screen(self.ceiling)
        events: Iterator[FlashEvent] = drive(_Stoppable(machine, self.interrupt), session.bus, session.clock)
        for event in events:
            screen.show(event, session.clock())
            if isinstance(event, PlanMade):
                self.plan = event.plan
                self._show_plan(event.plan)
                if self.is_plan_only:
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
            return  # Nobody has answered: that is what will be said.
        for line in plan_lines(plan, self.ceiling):
            typer.echo(line)

    def _decide(self, machine: PackFlash, session: CanSession) -> None:
        if not self.is_agreed:
            assert machine.plan is not None
            try:
                with self.interrupt.asking():
                    self.is_agreed = confirm(question(machine.plan))
            except typer.Abort:  # What a Ctrl-C in a question becomes.
                machine.stop(session.clock())
                return
        if self.is_agreed:
            machine.proceed(session.clock())
        else:
            machine.decline(session.clock())

    # ---- the end

    def _end(self, result: FlashResult, ended_ns: int) -> ExitCode:
        if self.record is not None:
            self.record.close()
        exit_code, fault, detail = self._verdict(result)
        is_safe = result.safe_to_run_again and (fault is None or FAULTS[fault].safe_to_run_again)
        self._tell(result, exit_code, fault, detail, is_safe=is_safe)
        self._write_report(result, ended_ns, end_json(exit_code, fault, detail, is_safe=is_safe))
        return exit_code

    def _verdict(self, result: FlashResult) -> tuple[ExitCode, Fault | None, str]:
        """Exit code, fault and detail."""
        plan = self.plan
        if self.lost is not None:
            return FAULTS[self.lost.fault].exit_code, self.lost.fault, self.lost.detail
        if plan is not None and plan.refusals:
            first = plan.refusals[0]
            told = [
                f"{check.value}: {findings_text(each for each in plan.refusals if each.check is check)}"
                for check in dict.fromkeys(each.check for each in plan.refusals)
            ]
            return ExitCode.REFUSED, first.check, "; ".join(told)
        if self.is_plan_only and plan is not None and not self.interrupt.is_wanted:
            return ExitCode.DONE, None, ""
        match result.outcome:
            case FlashOutcome.DONE | FlashOutcome.NOTHING_TO_DO:
                return ExitCode.DONE, None, ""
            case FlashOutcome.DECLINED:
                return ExitCode.REFUSED, FlashFault.DECLINED, "expected yes, got no"
            case FlashOutcome.INTERRUPTED:
                phase = result.failed_phase.value if result.failed_phase is not None else "nothing"
                return ExitCode.INTERRUPTED, FlashFault.INTERRUPTED, f"stopped by Ctrl-C while {phase}"
        causes = _causes(result)
        if result.outcome is FlashOutcome.MIXED:
            return ExitCode.MIXED, FlashFault.PACK_MIXED, _mixture(result)
        cause = next(iter(causes))
        return ExitCode.FAILED, cause, causes[cause]

    def _tell(
        self, result: FlashResult, exit_code: ExitCode, fault: Fault | None, detail: str, *, is_safe: bool
    ) -> None:
        plan = self.plan
        if plan is not None and plan.nodes and plan.refusals and exit_code is ExitCode.REFUSED:
            for check in dict.fromkeys(each.check for each in plan.refusals):
                say_fault(check, findings_text(each for each in plan.refusals if each.check is check))
        elif fault is not None:
            say_fault(fault, detail)
            for cause, told in _causes(result).items():
                if cause is not fault:
                    say_fault(cause, told)
        elif result.outcome is FlashOutcome.NOTHING_TO_DO:
            typer.echo("nothing to do: every target runs it already")
        elif self.is_plan_only:
            typer.echo("nothing was written: this was only the plan")
        elif exit_code is ExitCode.DONE:
            count = len(result.nodes)
            typer.echo(f"done: {counted(count, 'node')} {'runs' if count == 1 else 'run'} {self.source.name}")
        for report in result.nodes:
            typer.echo(report_line(report, self.ceiling))
        if rate := rate_sentence(self.wire.sent_bytes, self.wire.seconds, self.ceiling):
            typer.echo(f"while flashing, the wire carried {rate} (pauses to erase, program and verify included)")
        if exit_code is not ExitCode.DONE:
            say_again(was_changed=result.was_changed, is_safe=is_safe)

    def _write_report(self, result: FlashResult, ended_ns: int, end: dict[str, Any]) -> None:
        assert self.session is not None
        assert self.files is not None
        session, record, plan = self.session, self.record, self.plan
        content = {
            "format": REPORT_FORMAT,
            "tool": tool_json(self.arguments),
            "begun": utc_text(self.begun_ns),
            "ended": utc_text(ended_ns),
            **end,
            "is_plan_only": self.is_plan_only,
            "adapter": adapter_json(self.choice, session.heard, has_listened=session.has_listened),
            "profile": self.profile.name,
            "ids": self.ids,
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
            say_fault(FlashFault.LOG_BROKEN_OFF, f"expected to write it, got: {record.fault} ({record.path})")
        try:
            self.files.write(content)
        except OSError as error:
            place = self.files.report
            say_fault(FlashFault.REPORT_LOST, f"expected to write it, got: {error.strerror or error} ({place})")
            import json  # noqa: PLC0415 - only here

            typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
            return
        log = "" if record is None else f", CAN log: {record.path}"
        say(f"report: {self.files.report}{log}")


def _causes(result: FlashResult) -> dict[Fault, str]:
    """What the nodes failed of, each with its nodes."""
    told: dict[Fault, list[tuple[int, str]]] = {}
    for report in result.nodes:
        failure = report.failure
        if failure is not None and failure.cause is not None:
            told.setdefault(failure.cause, []).append((report.position, failure.detail.partition(": ")[2]))
    return {cause: nodes_text(each) for cause, each in told.items()}


def _mixture(result: FlashResult) -> str:
    """Who runs the new version and who does not."""
    sides: dict[bool, list[int]] = {True: [], False: []}
    for report in result.nodes:
        sides[report.status in RUNS_NEW].append(report.position)
    others = f" and not on {node_words(sides[False])}" if sides[False] else ""
    return f"expected one version, got the new one on {node_words(sides[True])}{others}"


# ---- the command


def command(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(metavar="RELEASE_OR_IMAGE", help="A release's manifest (.manifest.cose) or one signed image."),
    ],
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="TARGET", help="master, slaves, all, or positions such as 0 or 1-4,7."),
    ] = None,
    is_plan_only: Annotated[
        bool, typer.Option("--plan", help="Only look for nodes and say what would happen; write nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[
        list[str] | None,
        typer.Option("--force", metavar="CHECK", help="Go on although this check refuses. May be repeated."),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option("--expect", metavar="POSITIONS", help="Nodes that must answer, such as 0-8."),
    ] = None,
    hwid: Annotated[
        list[str] | None,
        typer.Option("--hwid", metavar="POSITION=HWID", help="Which hardware must be there. May be repeated."),
    ] = None,
    profile: Annotated[str, typer.Option("--profile", metavar="bootloader|uds", help="The protocol.")] = "bootloader",
    ids: Annotated[int, typer.Option("--ids", metavar="11|29", help="Bits of the CAN identifiers.")] = 11,
    access_key: Annotated[
        str | None,
        typer.Option(
            "--access-key", metavar="PEM", envvar="BMSOTA_ACCESS_KEY", help="Private key for nodes that are locked."
        ),
    ] = None,
    image_key: Annotated[
        list[str] | None,
        typer.Option(
            "--image-key", metavar="PEM", envvar="BMSOTA_IMAGE_KEY", help="Public key the images must be signed with."
        ),
    ] = None,
    manifest_key: Annotated[
        list[str] | None,
        typer.Option(
            "--manifest-key",
            metavar="PEM",
            envvar="BMSOTA_MANIFEST_KEY",
            help="Public key the manifest must be signed with.",
        ),
    ] = None,
    report: Annotated[str | None, typer.Option("--report", metavar="FILE", help="The JSON report.")] = None,
    report_dir: Annotated[
        str,
        typer.Option(
            "--report-dir",
            metavar="DIR",
            envvar="BMSOTA_REPORT_DIR",
            help="Where report and log go; made if it is not there.",
        ),
    ] = ".",
    log: Annotated[
        str | None, typer.Option("--log", metavar="FILE", help="The CAN log: .log (candump), .blf, .asc or .trc.")
    ] = None,
    no_log: Annotated[bool, typer.Option("--no-log", help="No CAN log.")] = False,
    no_listen: Annotated[
        bool, typer.Option("--no-listen", help="Do not listen to the bus before the first word.")
    ] = False,
    listen_s: Annotated[
        float, typer.Option("--listen", min=0.01, max=60.0, metavar="SECONDS", help="How long to listen.")
    ] = LISTEN_S,
    no_broadcast: Annotated[
        bool, typer.Option("--no-broadcast", help="One node after another, also those that could get it together.")
    ] = False,
    no_compress: Annotated[
        bool, typer.Option("--no-compress", help="Send the image as it is, also to nodes that could unpack it.")
    ] = False,
    patience_s: Annotated[
        float, typer.Option("--patience", min=0.1, metavar="SECONDS", help="How long a node may be silent.")
    ] = PATIENCE_S,
) -> None:
    """Flash a release, or one image, onto the nodes of a pack.

    First everything is sent and verified on every node, then the nodes restart into it, are read back and confirmed, the
    master last. When one fails before that, all go back. Nodes that run the version already are left alone.

    Exit code: 0 done; 1 failed, every node runs what it ran before; 2 called wrongly; 3 refused by the plan, nothing was
    written; 4 adapter or bus unusable, nothing was written; 5 some nodes done and some not; 130 interrupted.
    """
    forgiving_output()
    try:
        if not (is_plan_only or yes or sys.stdin.isatty()):
            stop(FlashFault.NOT_CONFIRMED, "expected --yes, or a terminal to ask on, got neither")
        run = _make_run(
            ctx,
            source,
            request=_request(to, expect, hwid, force, has_access_key=access_key is not None),
            keys=(image_key or (), manifest_key or ()),
            is_plan_only=is_plan_only,
            is_agreed=yes,
            ids=ids,
            profile=partial(
                make_profile,
                profile,
                ids,
                patience_s=patience_s,
                access_key=access_key,
                may_broadcast=not no_broadcast,
                may_compress=not no_compress,
            ),
            reserve=partial(RunFiles.reserve, folder=report_dir, report=report, log=log, has_log=not no_log),
        )
        exit_code = run.run(0.0 if no_listen else listen_s)
    except FaultError as error:
        stop_with(error)
    except KeyboardInterrupt:
        stop(FlashFault.INTERRUPTED, "stopped by Ctrl-C before anything was begun")
    if exit_code is not ExitCode.DONE:
        raise typer.Exit(int(exit_code))


def _request(
    to: list[str] | None,
    expect: list[str] | None,
    hwid: list[str] | None,
    force: list[str] | None,
    *,
    has_access_key: bool,
) -> Callable[[int, tuple[PublicKey, ...], float | None], PlanRequest]:
    targets, positions = parse_targets(to or ())
    return lambda now_s, image_keys, rate: PlanRequest(
        now_s=now_s,
        targets=targets,
        positions=positions,
        expected=parse_positions(expect, "--expect") if expect else (),
        hwids=parse_hwids(hwid or ()),
        forced=parse_checks(force or ()),
        has_access_key=has_access_key,
        image_keys=image_keys,
        rate_bytes_per_s=rate,
    )


def _make_run(
    ctx: typer.Context,
    path: str,
    *,
    request: Callable[[int, tuple[PublicKey, ...], float | None], PlanRequest],
    keys: tuple[Sequence[str], Sequence[str]],
    is_plan_only: bool,
    is_agreed: bool,
    profile: Callable[[BusChoice], FlashingProfile],
    ids: int,
    reserve: Callable[[int], RunFiles],
) -> _Run:
    from bmsota.adapters.clock import steady_clock  # noqa: PLC0415
    from bmsota.adapters.releases import load_image_keys, load_manifest_keys, load_source  # noqa: PLC0415

    image_keys, manifest_keys = load_image_keys(keys[0]), load_manifest_keys(keys[1])
    choice = bus_choice(ctx)
    ceiling = wire_ceiling(choice, ids)
    wanted = request(steady_clock()() // 1_000_000_000, image_keys, ceiling)
    return _Run(
        source=load_source(path, manifest_keys),
        request=wanted,
        choice=choice,
        ceiling=ceiling,
        ids=ids,
        profile=profile(choice),
        is_plan_only=is_plan_only,
        is_agreed=is_agreed,
        arguments=sys.argv[1:],
        reserve=reserve,
    )
