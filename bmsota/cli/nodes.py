"""`bmsota nodes`, `bmsota verify` and `bmsota reset`: list the nodes of a pack, compare what they run, restart them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from bmsota._words import counted
from bmsota.adapters.clock import steady_clock
from bmsota.boot import SlotState
from bmsota.cli.bus_options import BusOptions, bus_choice, make_profile
from bmsota.cli.can_session import CanSession, Interrupt, fault_of_transfer
from bmsota.cli.fault_table import FAULTS, ExitCode, FlashFault
from bmsota.cli.faults import end_with_output, say, say_again, say_fault, stop, stopping_at_faults
from bmsota.cli.flash_output import IMAGE_DIGITS, node_lines, nodes_text
from bmsota.cli.flash_report import node_json
from bmsota.cli.options import takes
from bmsota.cli.selection import (
    AsJson,
    ClassName,
    Expect,
    ManifestKey,
    To,
    Yes,
    parse_checks,
    parse_class_names,
    parse_positions,
    parse_targets,
)
from bmsota.cli.terminal import confirm, tell, terminal_width, unfailing_output
from bmsota.cli.waiting import Wait, parse_wait, wait_for_pack
from bmsota.errors import LocalProtocolError, TransferError
from bmsota.flashing import (
    Action,
    Check,
    FlashingEngine,
    NodesDiscovered,
    OperationFinished,
    PlanRequest,
    make_plan,
    node_words,
)
from bmsota.node import FailureCause, ImageStatus, NodeResult, image_status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bmsota.flashing import Finding, FlashPlan, NodePlan
    from bmsota.node import NodeDescription

__all__ = ["nodes_command", "reset_command", "verify_command"]

# Flashing has more to say about a missing node; these commands have not.
_CHECK_NODE = "Check the node's supply and wiring."
_COMPARE_WITH_ITS_OWN = "Compare with the release for this hardware, or select other nodes with `--to`."
_MAKE_ALIKE = (
    "Do not drive or charge until `bmsota flash` has brought the same release to all nodes; "
    "it must be at least as new as what any of them runs."
)


class _Nodes:
    """The nodes on an open bus: operations one after another, each to its end."""

    def __init__(self, session: CanSession, engine: FlashingEngine, interrupt: Interrupt) -> None:
        self.session = session
        self._engine = engine
        self._interrupt = interrupt
        self.was_changed = False
        self.refused: tuple[NodeResult, ...] = ()
        """Nodes that said of themselves what none can be, at the last discovery."""

    @property
    def refused_positions(self) -> frozenset[int]:
        return frozenset(each.position for each in self.refused)

    def _finish(self) -> None:
        if self._interrupt.is_wanted:
            raise KeyboardInterrupt

    def confirm(self, question: str) -> bool:
        """Ask the user."""
        try:
            with self._interrupt.asking():
                return confirm(question)
        except typer.Abort as error:  # A Ctrl-C instead of an answer.
            raise KeyboardInterrupt from error

    def discover(self, positions: Sequence[int]) -> tuple[NodeDescription, ...]:
        """Every node that answers; *positions* are requested one by one."""
        self._engine.discover(positions)
        found: tuple[NodeDescription, ...] = ()
        for event in self.session.run(self._engine, self._interrupt):
            if isinstance(event, NodesDiscovered):
                found = event.nodes
                self.refused = event.refused
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

    def no_answer(self) -> ExitCode:
        """Say that no node has answered, and what that may mean."""
        error = self.session.no_answer()
        say_fault(error.fault, error.detail, advice=error.advice)
        say_again(was_changed=False)
        return FAULTS[error.fault].exit_code


def _with_nodes(
    ctx: typer.Context,
    options: BusOptions,
    do: Callable[[_Nodes], ExitCode],
    *,
    wait: str | None = None,
    expected: Sequence[int] = (),
) -> None:
    """Open the bus, *wait* for the pack, *do* it, and turn every failure into one message and an exit code."""
    interrupt = Interrupt()
    unfailing_output()
    nodes: _Nodes | None = None
    with interrupt:
        try:
            with stopping_at_faults():
                choice = bus_choice(ctx)
                profile = make_profile(options, choice)
                wait_s = parse_wait(wait)
                with CanSession.open(choice, options) as session, interrupt.orderly():
                    nodes = _Nodes(session, FlashingEngine(profile), interrupt)
                    wait_for_pack(session, profile, interrupt, seconds=wait_s, expected=expected)
                    exit_code = do(nodes)
        except LocalProtocolError as error:  # UDS has fewer positions than the command line knows.
            stop(FlashFault.BAD_TARGET, str(error))
        except TransferError as error:
            was_changed = nodes is not None and nodes.was_changed
            fault = fault_of_transfer(error, choice, was_changed=was_changed)
            say_fault(fault.fault, fault.detail, advice=fault.advice)
            say_again(was_changed=was_changed)
            exit_code = FAULTS[fault.fault].exit_code
        except KeyboardInterrupt:
            say_fault(FlashFault.INTERRUPTED, interrupt.reason)
            say_again(was_changed=nodes is not None and nodes.was_changed)
            exit_code = ExitCode.INTERRUPTED
    end_with_output(exit_code)


def _missing(found: Sequence[NodeDescription], expected: Sequence[int]) -> list[int]:
    there = {node.position for node in found}
    return [position for position in expected if position not in there]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesOptions(BusOptions):
    """The options of `bmsota nodes`."""

    expect: Expect = None
    wait: Wait = None
    class_name: ClassName = None
    as_json: AsJson = False


@takes(NodesOptions)
def nodes_command(ctx: typer.Context, options: NodesOptions) -> None:
    """List the nodes on the bus: role, hardware, running version, slots, features. Changes nothing.

    The slot marked * runs. Exit code: 0 success; 1 no node answered, or an expected one did not; 2 usage error;
    4 adapter or bus unusable; 130 interrupted.
    """
    with stopping_at_faults():
        expected = parse_positions(options.expect, "--expect") if options.expect else ()
        names = parse_class_names(options.class_name or ())

    def do(nodes: _Nodes) -> ExitCode:
        found = nodes.discover(expected)
        if options.as_json:
            rows = [node_json(node) | {"class_name": names.get(node.class_id)} for node in found]
            typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        if not found and not nodes.refused:
            return nodes.no_answer()
        if not options.as_json and found:
            tell("\n".join(node_lines(found, names, width=terminal_width())))
        if nodes.refused:
            say_fault(FailureCause.BAD_IDENTITY, _refusals(nodes.refused))
        missing = _missing(found, [position for position in expected if position not in nodes.refused_positions])
        if missing:
            say_fault(Check.NODE_PRESENT, f"{node_words(missing)} did not answer", advice=_CHECK_NODE)
        if missing or nodes.refused:
            say_again(was_changed=False)
            return ExitCode.FAILED
        return ExitCode.DONE

    _with_nodes(ctx, options, do, wait=options.wait, expected=expected)


# ---- verify


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions(BusOptions):
    """The options of `bmsota verify`."""

    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[RELEASE_OR_IMAGE]", help="What the nodes should run. Without it, check the pack for consistency."
        ),
    ] = None
    to: To = None
    expect: Expect = None
    wait: Wait = None
    manifest_key: ManifestKey = None
    class_name: ClassName = None
    as_json: AsJson = False


@takes(VerifyOptions)
def verify_command(ctx: typer.Context, options: VerifyOptions) -> None:
    """Compare what the nodes run with a release or an image. Changes nothing.

    Role, hardware class, version, digest, confirmation and security counter are compared; nodes with older firmware do
    not report the digest of their image, and are compared without.

    Exit code: 0 equal; 1 something differs or does not answer; 2 usage error; 4 adapter or bus unusable; 130 interrupted.
    """
    from bmsota.adapters.releases import load_manifest_keys, load_source  # noqa: PLC0415 - reads files

    with stopping_at_faults():
        targets, positions = parse_targets(options.to or ())
        request = PlanRequest(
            now_s=steady_clock()() // 1_000_000_000,
            targets=targets,
            positions=positions,
            expected=parse_positions(options.expect, "--expect") if options.expect else (),
            class_names=parse_class_names(options.class_name or ()),
        )
        keys = load_manifest_keys(options.manifest_key or ())
        wanted = None if options.source is None else load_source(options.source, keys)

    cures: dict[str, str] = {}

    def look(nodes: _Nodes) -> _Lines | None:
        found = nodes.discover(request.named_positions)
        if not found and not nodes.refused:
            return None
        lines: _Lines
        if wanted is None:
            lines = [(node, *_state(node)) for node in found]
            disorder = _disorder(found)
            cures.update(dict.fromkeys(disorder, _MAKE_ALIKE))
            lines += [(None, False, problem) for problem in disorder]
            absent = [f"node {position} did not answer" for position in _missing(found, request.named_positions)]
        else:
            plan = make_plan(found, wanted, request)
            compared = [each for each in plan.nodes if each.action is not Action.LEFT_OUT]
            lines = [(each.node, *_compared(each)) for each in compared]
            cures.update({_compared(each)[1]: _COMPARE_WITH_ITS_OWN for each in compared if _other_kind(each)})
            absent = _absent(plan)
        cures.update(dict.fromkeys(absent, _CHECK_NODE))
        lines += [(None, False, problem) for problem in absent]
        return lines + [(None, False, f"node {each.position}: {each.detail}") for each in nodes.refused]

    def do(nodes: _Nodes) -> ExitCode:
        lines = look(nodes)
        if lines is not None and not all(is_good for node, is_good, _ in lines if node is not None or wanted is None):
            # A reply that was altered on its way, as by a gateway, looks like another version. A node that is not there was waited for.
            lines = look(nodes)
        if lines is None:
            return nodes.no_answer()
        return _show(lines, cures, as_json=options.as_json, name=None if wanted is None else wanted.name)

    _with_nodes(ctx, options, do, wait=options.wait, expected=request.named_positions)


_Lines: TypeAlias = "list[tuple[NodeDescription | None, bool, str]]"
"""What is said of each node, and whether it is as it should be; what is said of the pack has no node."""


def _is_equal(lines: _Lines) -> bool:
    return all(is_good for _, is_good, _ in lines)


def _show(lines: _Lines, cures: Mapping[str, str], *, as_json: bool, name: str | None) -> ExitCode:
    """Print *lines*. *cures*: problem -> what to do about it, where flashing the release that was named is not it."""
    is_equal = _is_equal(lines)
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
            good, bad = ("ok     ", "PROBLEM") if name is None else ("equal  ", "DIFFERS")
            tell(f"{good if is_good else bad}  {who}: {text}")
    if is_equal:
        return ExitCode.DONE
    bad_nodes = [(node.position, text) for node, is_good, text in lines if node is not None and not is_good]
    problems = [text for node, is_good, text in lines if node is None and not is_good]
    texts = [text for _, text in bad_nodes] + problems
    advice = [cures[text] for text in texts if text in cures]
    if not cures.keys() >= set(texts):
        advice.append(FAULTS[FlashFault.DIFFERS].advice)
    say_fault(
        FlashFault.DIFFERS,
        "; ".join([*([nodes_text(bad_nodes)] if bad_nodes else []), *problems]),
        advice=" ".join(dict.fromkeys(advice)),
    )
    say_again(was_changed=False)
    return ExitCode.FAILED


def _spare(node: NodeDescription) -> str:
    """What is in the slot that does not run."""
    if node.running_slot is None:
        return ""
    return {
        SlotState.STAGED: "; another image is stored and verified",
        SlotState.STAGING: "; a part of another image is stored",
        SlotState.TEST_REQUESTED: "; another image is pending and starts at the next restart",
    }.get(node.slot_states[1 - node.running_slot], "")


def _state(node: NodeDescription) -> tuple[bool, str]:
    """Whether one node is consistent by itself, and what it runs."""
    if node.running_slot is None:
        return False, "runs no image"
    if image_status(node) is ImageStatus.TEST:
        return False, f"runs {node.version} in test, not confirmed{_spare(node)}"
    if image_status(node) is ImageStatus.REVERTED:
        return False, f"runs {node.version}, which is reverted: the next restart runs another image"
    is_good = node.slot_states[1 - node.running_slot] is not SlotState.TEST_REQUESTED
    return is_good, f"runs {node.version}, confirmed, counter {node.security_counter}{_spare(node)}"


def _disorder(found: Sequence[NodeDescription]) -> list[str]:
    """Nodes of one kind that run different versions, or different builds of one."""
    kinds: dict[object, dict[str, list[int]]] = {}
    for node in found:
        builds = {each.image_sha256 for each in found if each.version == node.version and _kind(each) == _kind(node)}
        image = str(node.version)
        if len(builds - {None}) > 1:
            image += " (not known)" if node.image_sha256 is None else f" ({node.image_sha256.hex()[:IMAGE_DIGITS]})"
        kinds.setdefault(_kind(node), {}).setdefault(image, []).append(node.position)
    return [
        "nodes of one kind run different versions: "
        + ", ".join(
            f"{version} on {', '.join(str(each) for each in positions)}" for version, positions in versions.items()
        )
        for versions in kinds.values()
        if len(versions) > 1
    ]


def _kind(node: NodeDescription) -> object:
    return node.role, node.class_id


def _refusals(refused: Sequence[NodeResult]) -> str:
    return "; ".join(f"node {each.position}: {each.detail}" for each in refused)


def _compared(plan: NodePlan) -> tuple[bool, str]:
    """Whether one node runs what it should, and what it runs."""
    node = plan.node
    if kind := _other_kind(plan):
        return False, "; ".join(f"{each.check.value}: {each.detail}" for each in kind)
    _, runs = _state(node)
    match plan.action:
        case Action.NONE:
            return _state(node)
        case Action.CONFIRM:
            return False, runs
        case Action.RAISE_COUNTER:
            return False, f"{runs}; expected a counter of {plan.security_counter}"
    if node.running_slot is not None and node.version == plan.to_version and node.image_sha256 is not None:
        return (
            False,
            f"expected another build of {plan.to_version}, {runs}, image {node.image_sha256.hex()[:IMAGE_DIGITS]}",
        )
    return False, f"expected {plan.to_version}, {runs}"


def _other_kind(plan: NodePlan) -> list[Finding]:
    """Why the image is none for this node at all."""
    return [each for each in plan.refusals if each.check in {Check.ROLE, Check.HARDWARE_CLASS}]


def _absent(plan: FlashPlan) -> list[str]:
    problems = [each for each in plan.findings if each.check is Check.NODE_PRESENT and each.detail]
    return [each.detail if each.position is None else f"node {each.position} did not answer" for each in problems]


# ---- reset


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetOptions(BusOptions):
    """The options of `bmsota reset`."""

    positions: Annotated[
        list[str] | None, typer.Argument(metavar="[POSITION]...", help="Nodes to restart, such as 1-4. Default: all.")
    ] = None
    yes: Yes = False
    force: Annotated[
        list[str] | None,
        typer.Option(
            "--force", metavar="CHECK", help="test-pending: restart also nodes whose image in test is reverted by it."
        ),
    ] = None


@takes(ResetOptions)
def reset_command(ctx: typer.Context, options: ResetOptions) -> None:
    """Restart nodes and check that they come back.

    Locked nodes need no access key for this. A node that is in its bootloader starts its application. A restart reverts an
    image in test; that is refused unless forced.

    Exit code: 0 all came back; 1 a node did not; 2 usage error; 3 refused, nothing was restarted; 4 adapter or bus unusable;
    130 interrupted.
    """
    with stopping_at_faults():
        wanted = parse_positions(options.positions, "POSITION") if options.positions else ()
        forced = parse_checks(options.force or (), among=[Check.TEST_PENDING])
    if not options.yes and not sys.stdin.isatty():
        stop(FlashFault.NOT_CONFIRMED, "not a terminal: pass --yes to confirm", advice="Run again with `--yes`.")

    def do(nodes: _Nodes) -> ExitCode:
        found = nodes.discover(wanted)
        if not found:
            return nodes.no_answer()
        if missing := _missing(found, wanted):
            stop(Check.NODE_PRESENT, f"{node_words(missing)} did not answer", advice=_CHECK_NODE)
        chosen = [node for node in found if not wanted or node.position in wanted]
        in_test = [node for node in chosen if image_status(node) is ImageStatus.TEST]
        if in_test and Check.TEST_PENDING not in forced:
            names = ", ".join(f"node {node.position} ({node.version})" for node in in_test)
            stop(
                Check.TEST_PENDING,
                f"{names}: the image is in test, a restart reverts it",
                advice="Another upgrade is in progress; wait for it. With `--force test-pending`, the image is reverted.",
            )
        say(
            "the bus does not tell whether the vehicle drives or charges; make sure it is at rest and no charger is connected"
        )
        if not options.yes and not nodes.confirm(f"restart {counted(len(chosen), 'node')}?"):
            stop(FlashFault.DECLINED, "answered with no")
        # Slaves first: the master passes their answers on.
        order = sorted(chosen, key=lambda node: (node.role.value == 0, node.position))
        results = nodes.restart([node.position for node in order])
        after = {node.position: node for node in nodes.discover([node.position for node in order])}
        return _came_back(results, after)

    _with_nodes(ctx, options, do)


def _came_back(results: Sequence[NodeResult], after: dict[int, NodeDescription]) -> ExitCode:
    exit_code = ExitCode.DONE
    for result in results:
        node = after.get(result.position)
        if result.ok and node is not None:
            tell(f"node {result.position} ({node.role.name.lower()}): restarted, {_state(node)[1]}")
            continue
        exit_code = ExitCode.FAILED
        detail = result.detail.partition(": ")[2] or "did not answer after its restart"
        if result.cause is not None:
            say_fault(result.cause, f"node {result.position}: {detail}")
        else:
            say_fault(Check.NODE_PRESENT, f"node {result.position}: {detail}", advice=_CHECK_NODE)
    if exit_code is not ExitCode.DONE:
        say_again(was_changed=True)
    return exit_code
