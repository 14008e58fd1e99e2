"""`bmsota nodes`, `bmsota verify` and `bmsota reset`: who is on the bus, does it run what it should, restart it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from bmsota.boot import SlotState
from bmsota.cli.canbus import (
    LISTEN_S,
    PATIENCE_S,
    CanSession,
    Interrupt,
    bus_choice,
    fault_of_transfer,
    make_profile,
)
from bmsota.cli.faults import say, say_again, say_fault, stop, stop_with
from bmsota.cli.flash import parse_checks, parse_positions, parse_targets, wire_ceiling
from bmsota.cli.flashreport import node_json
from bmsota.cli.flashtext import counted, node_lines, nodes_text
from bmsota.cli.screen import confirm, forgiving_output
from bmsota.errors import LocalProtocolError, TransferError
from bmsota.flashing import (
    FAULTS,
    Action,
    Check,
    ExitCode,
    FaultError,
    FlashFault,
    FlashingEngine,
    NodeResult,
    NodesDiscovered,
    OperationFinished,
    PlanRequest,
    make_plan,
    node_words,
)
from bmsota.node import ImageStatus, image_status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bmsota.flashing import FlashPlan, NodePlan
    from bmsota.node import NodeDescription

__all__ = ["nodes_command", "reset_command", "verify_command"]

_Profile = Annotated[str, typer.Option("--profile", metavar="bootloader|uds", help="The protocol.")]
_Ids = Annotated[int, typer.Option("--ids", metavar="11|29", help="Bits of the CAN identifiers.")]
_Json = Annotated[bool, typer.Option("--json", help="As JSON, for tools.")]
_Expect = Annotated[
    list[str] | None, typer.Option("--expect", metavar="POSITIONS", help="Nodes that must answer, such as 0-8.")
]
_NoListen = Annotated[bool, typer.Option("--no-listen", help="Do not listen to the bus before the first word.")]
_Patience = Annotated[
    float, typer.Option("--patience", min=0.1, metavar="SECONDS", help="How long a node may be silent.")
]
_Listen = Annotated[float, typer.Option("--listen", min=0.01, max=60.0, metavar="SECONDS", help="How long to listen.")]


class _Talk:
    """A session with an engine: operations one after another, each to its end."""

    def __init__(self, session: CanSession, engine: FlashingEngine, interrupt: Interrupt) -> None:
        self.session = session
        self._engine = engine
        self._interrupt = interrupt
        self.was_changed = False

    def _finish(self) -> None:
        if self._interrupt.is_wanted:
            raise KeyboardInterrupt

    def confirm(self, question: str) -> bool:
        """Ask the user."""
        try:
            with self._interrupt.asking():
                return confirm(question)
        except typer.Abort as error:  # What a Ctrl-C in a question becomes.
            raise KeyboardInterrupt from error

    def discover(self, positions: Sequence[int]) -> tuple[NodeDescription, ...]:
        """Everybody on the bus; *positions* are asked by name."""
        self._engine.discover(positions)
        found: tuple[NodeDescription, ...] = ()
        for event in self.session.run(self._engine, self._interrupt):
            if isinstance(event, NodesDiscovered):
                found = event.nodes
        self._finish()
        return found

    def restart(self, positions: Sequence[int]) -> tuple[NodeResult, ...]:
        """Restart each."""
        self.was_changed = True
        self._engine.restart(positions)
        results: tuple[NodeResult, ...] = ()
        for event in self.session.run(self._engine, self._interrupt):
            if isinstance(event, OperationFinished):
                results = event.results
        self._finish()
        return results


def _talk(
    ctx: typer.Context,
    *,
    profile: str,
    ids: int,
    no_listen: bool,
    listen_s: float,
    patience_s: float,
    do: Callable[[_Talk], ExitCode],
) -> None:
    """Open the bus, do it, and turn whatever happens into one message and an exit code."""
    forgiving_output()
    interrupt = Interrupt()
    talk: _Talk | None = None
    try:
        choice = bus_choice(ctx)
        engine = FlashingEngine(make_profile(profile, ids, choice, patience_s=patience_s))
        with (
            CanSession.open(choice, listen_s=0.0 if no_listen else listen_s, make_record=lambda: None) as session,
            interrupt,
        ):
            talk = _Talk(session, engine, interrupt)
            exit_code = do(talk)
    except FaultError as error:
        stop_with(error)
    except LocalProtocolError as error:  # UDS has fewer positions than the command line knows.
        stop(FlashFault.BAD_TARGET, str(error))
    except TransferError as error:
        fault = fault_of_transfer(error, was_changed=talk is not None and talk.was_changed)
        if talk is None or not talk.was_changed:
            stop_with(fault)
        say_fault(fault.fault, fault.detail)
        say_again(was_changed=True)
        exit_code = FAULTS[fault.fault].exit_code
    except KeyboardInterrupt:
        say_fault(FlashFault.INTERRUPTED, "stopped by Ctrl-C")
        say_again(was_changed=talk is not None and talk.was_changed)
        exit_code = ExitCode.INTERRUPTED
    if exit_code is not ExitCode.DONE:
        raise typer.Exit(int(exit_code))


def _missing(found: Sequence[NodeDescription], expected: Sequence[int]) -> list[int]:
    there = {node.position for node in found}
    return [position for position in expected if position not in there]


def _nobody(talk: _Talk) -> ExitCode:
    fault, detail = talk.session.nobody()
    say_fault(fault, detail)
    say_again(was_changed=False)
    return FAULTS[fault].exit_code


def nodes_command(
    ctx: typer.Context,
    expect: _Expect = None,
    as_json: _Json = False,
    profile: _Profile = "bootloader",
    ids: _Ids = 11,
    no_listen: _NoListen = False,
    listen_s: _Listen = LISTEN_S,
    patience_s: _Patience = PATIENCE_S,
) -> None:
    """List the nodes on the bus: role, hardware, what runs, what is stored, what they can do. Changes nothing.

    The slot marked * runs. Exit code: 0 somebody answered; 1 nobody did, or not all that were expected; 2 called wrongly;
    4 adapter or bus unusable; 130 interrupted.
    """

    def do(talk: _Talk) -> ExitCode:
        expected = parse_positions(expect, "--expect") if expect else ()
        found = talk.discover(expected)
        if as_json:
            typer.echo(json.dumps([node_json(node) for node in found], indent=1, ensure_ascii=False))
        if not found:
            return _nobody(talk)
        if not as_json:
            for line in node_lines(found):
                typer.echo(line)
        if missing := _missing(found, expected):
            say_fault(Check.NODE_PRESENT, f"expected {node_words(missing)} to answer, got nothing")
            say_again(was_changed=False)
            return ExitCode.FAILED
        return ExitCode.DONE

    _talk(
        ctx,
        profile=profile,
        ids=ids,
        no_listen=no_listen,
        listen_s=listen_s,
        patience_s=patience_s,
        do=do,
    )


# ---- verify


def verify_command(
    ctx: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[RELEASE_OR_IMAGE]", help="What the nodes should run. Without: whether the pack is in order."
        ),
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="TARGET", help="master, slaves, all, or positions such as 0 or 1-4,7."),
    ] = None,
    expect: _Expect = None,
    manifest_key: Annotated[
        list[str] | None,
        typer.Option(
            "--manifest-key",
            metavar="PEM",
            envvar="BMSOTA_MANIFEST_KEY",
            help="Public key the manifest must be signed with.",
        ),
    ] = None,
    as_json: _Json = False,
    profile: _Profile = "bootloader",
    ids: _Ids = 11,
    no_listen: _NoListen = False,
    listen_s: _Listen = LISTEN_S,
    patience_s: _Patience = PATIENCE_S,
) -> None:
    """Compare what runs and what is stored on the nodes with a release or an image. Changes nothing.

    Compared are role, hardware class, version, confirmation and security counter: nodes do not tell a digest.

    Exit code: 0 equal; 1 something differs or does not answer; 2 called wrongly; 4 adapter or bus unusable; 130 interrupted.
    """

    def do(talk: _Talk) -> ExitCode:
        from bmsota.adapters.releases import load_manifest_keys, load_source  # noqa: PLC0415 - reads files

        targets, positions = parse_targets(to or ())
        expected = parse_positions(expect, "--expect") if expect else ()
        request = PlanRequest(
            now_s=talk.session.clock() // 1_000_000_000,
            targets=targets,
            positions=positions,
            expected=expected,
            rate_bytes_per_s=wire_ceiling(talk.session.choice, ids),
        )
        wanted = None if source is None else load_source(source, load_manifest_keys(manifest_key or ()))
        found = talk.discover(request.named_positions)
        if not found:
            return _nobody(talk)
        lines: list[tuple[NodeDescription | None, bool, str]]
        if wanted is None:
            lines = [(node, *_state(node)) for node in found]
            lines += [(None, False, problem) for problem in _disorder(found)]
            missing = _missing(found, request.named_positions)
            lines += [(None, False, f"node {position} does not answer") for position in missing]
        else:
            plan = make_plan(found, wanted, request)
            lines = [(each.node, *_compared(each)) for each in plan.nodes if each.action is not Action.LEFT_OUT]
            lines += [(None, False, problem) for problem in _absent(plan)]
        return _show(lines, as_json=as_json, name=None if wanted is None else wanted.name)

    _talk(
        ctx,
        profile=profile,
        ids=ids,
        no_listen=no_listen,
        listen_s=listen_s,
        patience_s=patience_s,
        do=do,
    )


def _show(lines: Sequence[tuple[NodeDescription | None, bool, str]], *, as_json: bool, name: str | None) -> ExitCode:
    is_equal = all(is_good for _, is_good, _ in lines)
    if as_json:
        content = {
            "source": name,
            "is_equal": is_equal,
            "nodes": [
                {"node": None if node is None else node_json(node), "is_equal": is_good, "detail": text}
                for node, is_good, text in lines
            ],
        }
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        for node, is_good, text in lines:
            who = "pack" if node is None else f"node {node.position} ({node.role.name.lower()})"
            good, bad = ("in order", "DISORDER") if name is None else ("equal  ", "DIFFERS")
            typer.echo(f"{good if is_good else bad}  {who}: {text}")
    if is_equal:
        return ExitCode.DONE
    bad_nodes = [(node.position, text) for node, is_good, text in lines if node is not None and not is_good]
    problems = [text for node, is_good, text in lines if node is None and not is_good]
    say_fault(FlashFault.DIFFERS, "; ".join([*([nodes_text(bad_nodes)] if bad_nodes else []), *problems]))
    say_again(was_changed=False)
    return ExitCode.FAILED


def _spare(node: NodeDescription) -> str:
    """What lies in the slot that does not run."""
    if node.running_slot is None:
        return ""
    return {
        SlotState.STAGED: "; another image is stored and verified beside it",
        SlotState.STAGING: "; a part of another image is stored beside it",
        SlotState.TEST_REQUESTED: "; another image is tried at its next restart",
    }.get(node.slot_states[1 - node.running_slot], "")


def _state(node: NodeDescription) -> tuple[bool, str]:
    """Whether one node is in order by itself, and what it runs."""
    if node.running_slot is None:
        return False, "no image runs"
    if image_status(node) is ImageStatus.TEST:
        return False, f"runs {node.version} on trial, not confirmed{_spare(node)}"
    if image_status(node) is ImageStatus.REVERTED:
        return False, f"runs {node.version}, which has been taken back: its next restart runs another image"
    is_good = node.slot_states[1 - node.running_slot] is not SlotState.TEST_REQUESTED
    return is_good, f"runs {node.version}, confirmed, counter {node.security_counter}{_spare(node)}"


def _disorder(found: Sequence[NodeDescription]) -> list[str]:
    """Nodes of one kind that run different versions."""
    kinds: dict[object, dict[str, list[int]]] = {}
    for node in found:
        kinds.setdefault((node.role, node.class_id), {}).setdefault(str(node.version), []).append(node.position)
    return [
        "nodes of one kind run different versions: "
        + ", ".join(
            f"{version} on {', '.join(str(each) for each in positions)}" for version, positions in versions.items()
        )
        for versions in kinds.values()
        if len(versions) > 1
    ]


def _compared(plan: NodePlan) -> tuple[bool, str]:
    """Whether one node runs what it should, and what it runs."""
    node = plan.node
    kind = [each for each in plan.refusals if each.check in {Check.ROLE, Check.HARDWARE_CLASS}]
    if kind:
        return False, "; ".join(f"{each.check.value}: {each.detail}" for each in kind)
    _, runs = _state(node)
    match plan.action:
        case Action.NONE:
            return _state(node)
        case Action.CONFIRM:
            return False, runs
        case Action.RAISE_COUNTER:
            return False, f"{runs}; expected a counter of {plan.security_counter}"
    return False, f"expected {plan.to_version}, {runs}"


def _absent(plan: FlashPlan) -> list[str]:
    problems = [each for each in plan.findings if each.check is Check.NODE_PRESENT and each.detail]
    return [each.detail if each.position is None else f"node {each.position} does not answer" for each in problems]


# ---- reset


def reset_command(
    ctx: typer.Context,
    positions: Annotated[
        list[str] | None, typer.Argument(metavar="[POSITION]...", help="Which nodes, such as 1-4. Without: all.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[
        list[str] | None,
        typer.Option("--force", metavar="CHECK", help="test-pending: also nodes whose image on trial is lost by it."),
    ] = None,
    profile: _Profile = "bootloader",
    ids: _Ids = 11,
    no_listen: _NoListen = False,
    listen_s: _Listen = LISTEN_S,
    patience_s: _Patience = PATIENCE_S,
) -> None:
    """Restart nodes and see that they come back.

    Locked nodes do it without an access key. A node that waits in its bootloader runs its application again. A node with an image on trial loses it by a restart; that
    is refused unless forced.

    Exit code: 0 all came back; 1 one did not; 2 called wrongly; 3 refused, nothing was restarted; 4 adapter or bus unusable;
    130 interrupted.
    """

    def do(talk: _Talk) -> ExitCode:
        found = talk.discover(wanted)
        if not found:
            return _nobody(talk)
        if missing := _missing(found, wanted):
            stop(Check.NODE_PRESENT, f"expected {node_words(missing)} to answer, got nothing")
        chosen = [node for node in found if not wanted or node.position in wanted]
        on_trial = [node for node in chosen if image_status(node) is ImageStatus.TEST]
        if on_trial and Check.TEST_PENDING not in forced:
            names = ", ".join(f"node {node.position} ({node.version})" for node in on_trial)
            stop(Check.TEST_PENDING, f"expected no image on trial, got {names}: a restart takes it back")
        say("the bus does not tell whether the vehicle drives or charges: it must stand, and no charger be plugged in")
        if not yes and not talk.confirm(f"restart {counted(len(chosen), 'node')}?"):
            stop(FlashFault.DECLINED, "expected yes, got no")
        # Leaves first: the master is what passes their answers on.
        order = sorted(chosen, key=lambda node: (node.role.value == 0, node.position))
        results = talk.restart([node.position for node in order])
        after = {node.position: node for node in talk.discover([node.position for node in order])}
        return _came_back(results, after)

    try:
        wanted = parse_positions(positions, "POSITION") if positions else ()
        forced = parse_checks(force or ())
    except FaultError as error:
        stop_with(error)
    if not yes and not sys.stdin.isatty():
        stop(FlashFault.NOT_CONFIRMED, "expected --yes, or a terminal to ask on, got neither")
    _talk(
        ctx,
        profile=profile,
        ids=ids,
        no_listen=no_listen,
        listen_s=listen_s,
        patience_s=patience_s,
        do=do,
    )


def _came_back(results: Sequence[NodeResult], after: dict[int, NodeDescription]) -> ExitCode:
    exit_code = ExitCode.DONE
    for result in results:
        node = after.get(result.position)
        if result.ok and node is not None:
            typer.echo(f"node {result.position} ({node.role.name.lower()}): restarted, {_state(node)[1]}")
            continue
        exit_code = ExitCode.FAILED
        detail = result.detail.partition(": ")[2] or "did not answer after its restart"
        if result.cause is not None:
            say_fault(result.cause, f"node {result.position}: {detail}")
        else:
            say_fault(Check.NODE_PRESENT, f"node {result.position}: {detail}")
    if exit_code is not ExitCode.DONE:
        say_again(was_changed=True)
    return exit_code
