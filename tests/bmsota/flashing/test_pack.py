"""A pack flashed over CAN, in virtual time: all or nothing, whatever step fails, and the next run does what is missing."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bmsota.boot import SlotState
from bmsota.errors import LocalProtocolError
from bmsota.flashing import (
    Check,
    FlashFinished,
    FlashOutcome,
    FlashPhase,
    PhaseBegun,
    PlanMade,
    TargetStatus,
    target_status,
)
from bmsota.node import FailureCause, NodeCommand, NodeMode

pytestmark = pytest.mark.slow

WRITING_COMMANDS = 4 * 10
"""Of one undisturbed upgrade of four nodes: more than there are, so that the last cases cut nothing."""


def phases(events):
    return [event.phase for event in events if isinstance(event, PhaseBegun)]


def upgrade(pack, source=None, **options):
    """Flash the pack; the result."""
    machine = pack.upgrade(source, **options)
    events = pack.run(machine)
    assert isinstance(events[-1], FlashFinished)
    assert events[-1].result is machine.result
    return machine.result


def truth(pack, rig):
    """(version, whether it is in test, counter) of every node, by the nodes' own stores."""
    return {
        position: (node.version, node.store.is_test_pending, node.store.security_counter)
        for position, node in pack.nodes.items()
    }


def test_a_whole_release_leaves_first_master_last_counters_behind_the_last_confirmation(pack, rig):
    machine = pack.upgrade()
    events = pack.run(machine)
    assert phases(events) == [
        FlashPhase.DISCOVER,
        FlashPhase.DECIDE,
        FlashPhase.LOOK_AGAIN,
        FlashPhase.STAGE,
        FlashPhase.ACTIVATE,
        FlashPhase.READ_BACK,
        FlashPhase.CONFIRM,
        FlashPhase.RAISE_COUNTERS,
        FlashPhase.LOOK,
        FlashPhase.OVER,
    ]
    result = machine.result
    assert (result.outcome, result.was_changed, result.failed_phase) == (FlashOutcome.DONE, True, None)
    assert truth(pack, rig) == dict.fromkeys(range(4), (rig.NEW, False, 2))
    assert [report.position for report in result.nodes] == [1, 2, 3, 0]
    assert {report.status for report in result.nodes} == {TargetStatus.NEW}
    order = [
        (request.command, request.node, request.raise_counter)
        for request in pack.requests
        if request.command
        in {NodeCommand.FINISH_TRANSFER, NodeCommand.ACTIVATE_TEST, NodeCommand.RESET, NodeCommand.CONFIRM}
    ]
    leaves_first = (1, 2, 3, 0)
    staged = [(NodeCommand.FINISH_TRANSFER, position, 0) for position in leaves_first]
    booted = [
        (command, position, 0)
        for position in leaves_first
        for command in (NodeCommand.ACTIVATE_TEST, NodeCommand.RESET)
    ]
    confirmed = [(NodeCommand.CONFIRM, position, raised) for raised in (0, 1) for position in leaves_first]
    assert order == [*staged, *booted, *confirmed]


def test_every_phase_has_its_time_and_every_node_its_figures(pack, rig):
    result = upgrade(pack)
    times = result.phases
    assert [time.phase for time in times][-1] is FlashPhase.LOOK
    assert all(one.end_ns == other.begin_ns for one, other in itertools.pairwise(times))
    assert times[-1].end_ns == pack.now_ns
    for report in result.nodes:
        assert (report.resumed_from, report.sent_bytes) == (0, report.plan.size_bytes)
        assert report.transfer_ns > report.sent_bytes / 8 * 200_000
        assert (report.frames_repeated, report.interruptions, report.failure) == (0, 0, None)


def test_a_pack_that_is_up_to_date_is_left_alone(rig):
    pack = rig.Pack(*(rig.Node(position, rig.NEW) for position in range(3)))
    result = upgrade(pack)
    assert (result.outcome, result.was_changed, result.nodes) == (FlashOutcome.NOTHING_TO_DO, False, ())
    assert {request.command for request in pack.requests} == {NodeCommand.DISCOVER}
    assert pack.data_frames == 0


def test_only_the_node_that_lags_behind_is_flashed(rig):
    """A slave that was replaced: the others, the master too, are neither written nor restarted."""
    pack = rig.Pack(rig.Node(0, rig.NEW), rig.Node(1, rig.NEW), rig.Node(2))
    result = upgrade(pack)
    assert result.outcome is FlashOutcome.DONE
    assert pack.versions == dict.fromkeys(range(3), rig.NEW)
    assert {node for command, node in pack.commands()} == {2}


def test_a_node_with_an_impossible_identity_is_named_and_nothing_is_begun(pack, rig):
    """Left out, it would be forgotten, and the pack left mixed without a word."""
    node = pack.nodes[2]
    identity = node.target._identity
    node.target._identity = SimpleNamespace(
        **{name: getattr(identity, name) for name in ("position", "role", "serial", "hardware_class")}, hwid="S\xff"
    )
    result = upgrade(pack)
    assert (result.outcome, result.was_changed) == (FlashOutcome.REFUSED, False)
    (refusal,) = [each for each in result.plan.refusals if each.position == 2]
    assert str(refusal).startswith("node-present: node 2: impossible identity: hwid: expected 1 to 24 printable ASCII")


def test_another_build_of_the_version_is_flashed(rig):
    """Every node runs 2.1.0, one of them with other bytes: only that one is flashed."""
    pack = rig.Pack(rig.Node(0, rig.NEW), rig.Node(1, rig.NEW), rig.Node(2))
    store = pack.nodes[2].store
    other = rig.make_image(version=rig.NEW, size=2999)
    offset = store.begin_staging(len(other), hashlib.sha256(other).digest())
    store.write_staged(offset, other[offset:])
    store.finish_staging()
    store.request_test()
    pack.nodes[2].restart()
    pack.nodes[2].store.confirm()
    assert pack.versions == dict.fromkeys(range(3), rig.NEW)
    result = upgrade(pack)
    assert result.outcome is FlashOutcome.DONE
    assert {node for command, node in pack.commands()} == {2}
    store = pack.nodes[2].store
    assert store.read_slot(store.active_slot) == rig.make_image(version=rig.NEW)
    assert upgrade(pack).outcome is FlashOutcome.NOTHING_TO_DO


def test_what_the_plan_refuses_is_not_begun(pack, rig):
    before = {position: node.flash.operations for position, node in pack.nodes.items()}
    result = upgrade(pack, rig.release(rig.ImageVersion(1, 9), counter=5))
    assert (result.outcome, result.was_changed) == (FlashOutcome.REFUSED, False)
    assert {each.check for each in result.plan.refusals} == {Check.VERSION_DOWNGRADE}
    assert {request.command for request in pack.requests} == {NodeCommand.DISCOVER}
    assert {position: node.flash.operations for position, node in pack.nodes.items()} == before


def test_what_is_declined_is_not_begun(pack, rig):
    machine = pack.upgrade()
    events = pack.run(machine, decide=lambda machine, now_ns: machine.decline(now_ns))
    assert machine.result.outcome is FlashOutcome.DECLINED
    assert not machine.result.was_changed
    assert [event for event in events if isinstance(event, PlanMade)] == [PlanMade(machine.plan)]
    assert {request.command for request in pack.requests} == {NodeCommand.DISCOVER}


def test_decisions_without_a_plan_that_waits_are_refused(pack):
    machine = pack.upgrade()
    for decision in (machine.proceed, machine.decline):
        with pytest.raises(LocalProtocolError, match="no plan waits for a decision; the phase is DISCOVER"):
            decision(pack.now_ns)
    pack.run(machine)
    for decision in (machine.proceed, machine.decline):
        with pytest.raises(LocalProtocolError, match="the phase is OVER"):
            decision(pack.now_ns)


@pytest.mark.parametrize(
    ("change", "cause", "detail"),
    [
        ({"hwid": "HW-9"}, FailureCause.WRONG_NODE, "expected hardware id HW-1 as in the plan, got HW-9"),
        ({"is_dead": True}, FailureCause.NODE_SILENT, "node 1 does not answer any more"),
        ({"version": "2.0.7"}, FailureCause.WRONG_VERSION, "expected version 2.0.0 as in the plan, got 2.0.7"),
    ],
)
def test_a_node_that_is_another_one_after_the_decision_is_not_written(pack, rig, change, cause, detail):
    """Whoever is asked may think for an hour; who is there then is looked at once more."""

    def decide(machine, now_ns):
        if "version" in change:
            pack.nodes[1] = rig.Node(1, rig.ImageVersion.parse(change["version"]))
        for name in change.keys() - {"version"}:
            setattr(pack.nodes[1], name, change[name])
        pack.nodes[1].restart()
        machine.proceed(now_ns)

    machine = pack.upgrade()
    before = {position: node.flash.operations for position, node in pack.nodes.items()}
    pack.run(machine, decide=decide)
    result = machine.result
    assert (result.outcome, result.was_changed, result.failed_phase) == (
        FlashOutcome.FAILED,
        False,
        FlashPhase.LOOK_AGAIN,
    )
    (failure,) = [report.failure for report in result.nodes if report.failure is not None]
    assert (failure.position, failure.cause) == (1, cause)
    assert failure.detail == f"{cause.value}: {detail}"
    assert {request.command for request in pack.requests} == {NodeCommand.DISCOVER}
    del before[1]
    assert {position: pack.nodes[position].flash.operations for position in before} == before


class Nth:
    """Does something when the n-th command that changes a node is given, repetitions not counted."""

    def __init__(self, n, act):
        self.left = n
        self.act = act
        self.seen = None
        self.happened = None

    def __call__(self, request):
        key = (request.command, request.node, request.tag)
        if request.command is NodeCommand.DISCOVER or key == self.seen:
            return
        self.seen = key
        self.left -= 1
        if self.left == 0:
            self.happened = request
            self.act(request)


def struck_position(request):
    """Whom the command is for; of a broadcast's, one of them."""
    return request.node if request.node <= 31 else 1


def check_report_is_true(pack, result):
    """What the report says of each node is what the node's own store says."""
    for report in result.nodes:
        node = pack.nodes[report.position]
        if node.is_dead or node.is_mute:
            assert report.status is TargetStatus.SILENT
            continue
        runs_new = node.version == report.plan.to_version
        new = {TargetStatus.NEW, TargetStatus.NEW_CONFIRMED, TargetStatus.NEW_TEST, TargetStatus.NEW_REVERTED}
        assert (report.status in new) == runs_new
        assert (report.status is TargetStatus.NEW_TEST) == node.store.is_test_pending
        is_taken_back = node.boot.slot != node.store.active_slot and not node.store.is_test_pending
        assert (report.status is TargetStatus.NEW_REVERTED) == is_taken_back


@pytest.mark.parametrize("kind", ["dead", "mute"])
@pytest.mark.parametrize("n", range(1, WRITING_COMMANDS))
def test_a_node_dies_at_the_nth_command(n, kind, rig):
    """The others run one version, the report is true, and the second run ends what the first began."""
    pack = rig.Pack(*(rig.Node(position) for position in range(3)))

    def strike(request):
        setattr(pack.nodes[struck_position(request)], f"is_{kind}", True)

    pack.on_request = Nth(n, strike)
    result = upgrade(pack)
    struck = pack.on_request.happened
    if struck is None:
        assert result.outcome is FlashOutcome.DONE
        return
    check_report_is_true(pack, result)
    victim = struck_position(struck)
    report = next(each for each in result.nodes if each.position == victim)
    assert report.failure is not None
    assert report.failure.cause in {FailureCause.NODE_SILENT, FailureCause.NO_PROGRESS}
    assert result.failed_phase is not None
    assert result.safe_to_run_again
    others = {node.version for node in pack.nodes.values() if node.position != victim}
    assert len(others) == 1
    raising = result.failed_phase is FlashPhase.RAISE_COUNTERS
    assert others == {rig.NEW if raising else rig.OLD}
    assert result.outcome is (FlashOutcome.MIXED if raising else FlashOutcome.FAILED)
    for node in pack.nodes.values():
        assert node.is_dead or node.target.state is NodeMode.APPLICATION or node.position == victim
    # The supply comes back: as after any power cut, the node boots.
    node = pack.nodes[victim]
    node.is_dead = node.is_mute = False
    node.restart()
    pack.on_request = lambda request: None
    frames_of_first = pack.data_frames
    again = upgrade(pack)
    assert again.outcome in {FlashOutcome.DONE, FlashOutcome.NOTHING_TO_DO}
    assert truth(pack, rig) == dict.fromkeys(range(3), (rig.NEW, False, 2))
    assert frames_of_first or pack.data_frames or raising


@pytest.mark.parametrize("n", range(1, WRITING_COMMANDS))
def test_a_node_loses_power_for_a_moment_at_the_nth_command(n, rig):
    """It boots again at once. During the transfer that is overcome; in test it falls back, and the pack with it."""
    pack = rig.Pack(*(rig.Node(position) for position in range(3)))
    pack.on_request = Nth(n, lambda request: pack.nodes[struck_position(request)].restart())
    result = upgrade(pack)
    check_report_is_true(pack, result)
    assert len(set(pack.versions.values())) == 1
    assert result.outcome is (FlashOutcome.DONE if rig.NEW in pack.versions.values() else FlashOutcome.FAILED)
    pack.on_request = lambda request: None
    assert upgrade(pack).outcome in {FlashOutcome.DONE, FlashOutcome.NOTHING_TO_DO}
    assert truth(pack, rig) == dict.fromkeys(range(3), (rig.NEW, False, 2))


@pytest.mark.parametrize("n", range(1, WRITING_COMMANDS))
def test_stopped_at_the_nth_command_the_next_run_does_the_rest(n, rig):
    """Ctrl-C at every command: nothing but looking and letting go comes behind it, and no byte is sent twice."""
    pack = rig.Pack(*(rig.Node(position) for position in range(3)))
    machine = pack.upgrade()
    stopped_at = []

    def stop(request):
        stopped_at.append(len(pack.requests))
        machine.stop(pack.now_ns)

    pack.on_request = Nth(n, stop)
    pack.run(machine)
    result = machine.result
    if not stopped_at:
        assert result.outcome is FlashOutcome.DONE
        return
    assert result.outcome is FlashOutcome.INTERRUPTED
    assert result.failed_phase is not None
    check_report_is_true(pack, result)
    # What was handed to the driver before is on its way; nothing else that writes is.
    behind = {request.command for request in pack.requests[stopped_at[0] :]}
    on_its_way = {
        NodeCommand.ENTER_BOOTLOADER,
        NodeCommand.BEGIN_TRANSFER,
        NodeCommand.OPEN_BLOCK,
        NodeCommand.CHECK_BLOCK,
        NodeCommand.FINISH_TRANSFER,
    }
    assert behind <= {NodeCommand.DISCOVER, NodeCommand.LEAVE_BOOTLOADER, *on_its_way}
    for node in pack.nodes.values():
        assert node.target.state is NodeMode.APPLICATION
    first = {report.position: report for report in result.nodes}
    pack.on_request = lambda request: None
    again = upgrade(pack)
    # Nothing to do: the last frame that was on its way was the last one that was needed.
    assert again.outcome in {FlashOutcome.DONE, FlashOutcome.NOTHING_TO_DO}
    assert truth(pack, rig) == dict.fromkeys(range(3), (rig.NEW, False, 2))
    for report in again.nodes:
        # A block under way when it was stopped may have arrived without our hearing of it: then even less is sent.
        assert report.sent_bytes + first[report.position].sent_bytes <= first[report.position].plan.size_bytes
        assert report.sent_bytes + report.resumed_from in {0, len(report.plan.image or b"")}


@pytest.mark.parametrize("n", range(1, 8))
def test_stopped_at_the_nth_command_of_the_way_back_the_next_run_knows_who_is_still_to_restart(n, rig):
    """Taken back and not restarted, a node still runs the new image, and will not after its next restart: not done."""
    pack = rig.Pack(*(rig.Node(position) for position in range(3)))
    machine = pack.upgrade()
    stop = Nth(n, lambda request: machine.stop(pack.now_ns))

    def on_request(request):
        if request.command is NodeCommand.CONFIRM and request.node == 0:
            pack.nodes[0].is_mute = True
        if machine.phase is FlashPhase.REVERT:
            pack.nodes[0].is_mute = False
            stop(request)

    pack.on_request = on_request
    pack.run(machine)
    check_report_is_true(pack, machine.result)
    for node in pack.nodes.values():
        node.is_mute = False
    pack.on_request = lambda request: None
    assert upgrade(pack).outcome is FlashOutcome.DONE
    for node in pack.nodes.values():
        node.restart()
    assert truth(pack, rig) == dict.fromkeys(range(3), (rig.NEW, False, 2))


@pytest.mark.parametrize("counter", [1, 2])
def test_whoever_has_confirmed_goes_back_when_the_master_does_not_also_if_no_counter_rises(counter, pack, rig):
    """With a release of the same security counter, a confirmed slave looks done for good; it is not, as long as one fails."""

    def die(request):
        if request.command is NodeCommand.CONFIRM and request.node == 0:
            pack.nodes[0].is_dead = True

    pack.on_request = die
    result = upgrade(pack, rig.release(counter=counter))
    assert (result.outcome, result.failed_phase) == (FlashOutcome.FAILED, FlashPhase.CONFIRM)
    assert {pack.nodes[position].version for position in (1, 2, 3)} == {rig.OLD}


def test_a_pack_that_has_confirmed_does_not_go_back_because_a_node_is_silent_when_counters_are_raised(pack, rig):
    """An earlier run stopped before the counters: there is nothing of this run to go back from."""
    machine = pack.upgrade()
    pack.on_request = lambda _: machine.stop(pack.now_ns) if machine.phase is FlashPhase.RAISE_COUNTERS else None
    pack.run(machine)
    assert {report.status for report in machine.result.nodes} <= {TargetStatus.NEW_CONFIRMED, TargetStatus.NEW}
    again = pack.upgrade()

    def fall_silent(_request):
        pack.nodes[2].is_dead = again.phase in {FlashPhase.READ_BACK, FlashPhase.LOOK_BACK}

    pack.on_request = fall_silent
    pack.run(again)
    assert again.result.failed_phase is FlashPhase.READ_BACK
    assert NodeCommand.REVERT not in {command for command, _ in pack.commands()}
    pack.nodes[2].is_dead = False
    pack.on_request = lambda request: None
    assert upgrade(pack).outcome is FlashOutcome.DONE
    assert truth(pack, rig) == dict.fromkeys(range(4), (rig.NEW, False, 2))


def test_a_second_stop_changes_nothing(pack):
    machine = pack.upgrade()
    machine.stop(pack.now_ns)
    assert machine.result.outcome is FlashOutcome.INTERRUPTED
    assert not machine.result.was_changed
    result = machine.result
    machine.stop(pack.now_ns)
    machine.abandon(pack.now_ns)
    assert machine.result is result
    assert machine.frames_to_send(pack.now_ns) == []


def test_without_a_bus_it_ends_with_what_is_known(pack):
    """The adapter is unplugged in mid-flash: no node is asked any more, what it had taken is counted."""
    machine = pack.upgrade()
    pack.on_request = Nth(5, lambda request: machine.abandon(pack.now_ns))
    pack.run(machine)
    result = machine.result
    assert (result.outcome, result.failed_phase) == (FlashOutcome.FAILED, FlashPhase.STAGE)
    assert {report.status for report in result.nodes} == {TargetStatus.NOT_ASKED}
    assert result.was_changed
    pack.on_request = lambda request: None
    assert upgrade(pack).outcome is FlashOutcome.DONE


def test_a_master_that_keeps_the_slaves_from_answering_goes_back_first_and_they_follow(pack, rig):
    """The new master does not pass the slaves' frames on: with the old one back, the slaves are taken back too."""
    master, slaves = pack.nodes[0], [pack.nodes[position] for position in (1, 2, 3)]
    boots = master.restart

    def restart():
        boots()
        for slave in slaves:
            slave.is_mute = master.version == rig.NEW

    master.restart = restart
    result = upgrade(pack)
    assert result.failed_phase is FlashPhase.READ_BACK
    assert result.outcome is FlashOutcome.FAILED
    assert pack.versions == dict.fromkeys(range(4), rig.OLD)
    assert {report.status for report in result.nodes} == {TargetStatus.OLD_STAGED}


def test_the_way_back_is_the_master_first(pack):
    """Its new image may be what keeps the slaves silent, so it is not the last to go."""

    def fall_back(request):
        if request.command is NodeCommand.RESET and request.node == 0:
            pack.on_request = lambda request: None
            pack.nodes[2].restart()

    pack.on_request = fall_back
    result = upgrade(pack)
    assert result.failed_phase is FlashPhase.READ_BACK
    assert [position for command, position in pack.commands() if command is NodeCommand.REVERT] == [0, 3, 1]


@pytest.mark.parametrize(
    ("raises_counter", "deaf", "look"),
    [(0, FlashPhase.CONFIRM, FlashPhase.LOOK_BACK), (1, FlashPhase.RAISE_COUNTERS, FlashPhase.LOOK)],
)
def test_a_last_confirmation_that_was_only_not_heard_is_taken_for_what_it_is(raises_counter, deaf, look, rig):
    """The master confirms and its answers are lost: everybody has confirmed, so the pack goes forward, not back."""
    pack = rig.Pack(*(rig.Node(position) for position in range(2)))

    def deafen(request):
        if request.command is NodeCommand.CONFIRM and request.node == 0 and request.raise_counter == raises_counter:
            pack.nodes[0].is_mute = True

    def hear_again(phase):
        pack.nodes[0].is_mute = phase is deaf and pack.nodes[0].is_mute

    pack.on_request = deafen
    machine = pack.upgrade()
    ask = machine.next_event

    def next_event():
        event = ask()
        if isinstance(event, PhaseBegun):
            hear_again(event.phase)
        return event

    machine.next_event = next_event
    events = pack.run(machine)
    assert look in phases(events)
    assert machine.result.outcome is FlashOutcome.DONE
    assert machine.result.failed_phase is None
    assert {report.failure for report in machine.result.nodes} == {None}
    assert truth(pack, rig) == dict.fromkeys(range(2), (rig.NEW, False, 2))


def test_an_image_on_trial_of_somebody_else_is_taken_back_only_when_forced(pack, rig):
    other = rig.ImageVersion(2, 0, 5)
    source = rig.FlashSource.of_image("other", rig.make_image(rig.ImageRole.SLAVE, other))
    machine = pack.upgrade(source)
    # Stopped before the confirmation: the slaves run it in test.
    pack.on_request = lambda _: machine.stop(pack.now_ns) if machine.phase is FlashPhase.READ_BACK else None
    pack.run(machine)
    pack.on_request = lambda request: None
    for node in (pack.nodes[1], pack.nodes[2], pack.nodes[3]):
        assert node.version == other
        assert node.store.is_test_pending
    result = upgrade(pack)
    assert result.outcome is FlashOutcome.REFUSED
    assert [(each.check, each.position) for each in result.plan.refusals] == [
        (Check.TEST_PENDING, position) for position in (1, 2, 3)
    ]
    result = upgrade(pack, forced=frozenset({Check.TEST_PENDING}))
    assert result.outcome is FlashOutcome.DONE
    assert result.phases[3].phase is FlashPhase.REVERT_FIRST
    assert truth(pack, rig) == dict.fromkeys(range(4), (rig.NEW, False, 2))


def test_the_same_version_again_when_forced(rig):
    pack = rig.Pack(rig.Node(0, rig.NEW), rig.Node(1, rig.NEW))
    slots = {position: node.boot.slot for position, node in pack.nodes.items()}
    result = upgrade(pack, forced=frozenset({Check.SAME_VERSION}))
    assert result.outcome is FlashOutcome.DONE
    assert all(node.boot.slot != slots[position] for position, node in pack.nodes.items())
    assert {report.sent_bytes for report in result.nodes} == {
        len(rig.make_image()),
        len(rig.make_image(rig.ImageRole(0))),
    }


def test_the_same_version_again_that_does_not_start_is_not_taken_for_done(rig):
    """Only the slot tells the new copy from the old one."""
    pack = rig.Pack(rig.Node(0, rig.NEW), rig.Node(1, rig.NEW))

    def fall_back(request):
        if request.command is NodeCommand.RESET and request.node == 0:
            pack.nodes[1].restart()

    pack.on_request = fall_back
    result = upgrade(pack, forced=frozenset({Check.SAME_VERSION}))
    assert result.outcome is FlashOutcome.FAILED
    assert result.failed_phase is FlashPhase.READ_BACK
    assert {report.status for report in result.nodes} == {TargetStatus.OLD_STAGED}


def test_every_standing_has_its_signs(pack, rig):
    """From what a node says of itself to the word in the report."""
    machine = pack.upgrade()
    pack.run(machine, decide=lambda machine, now_ns: machine.decline(now_ns))
    plan = machine.plan.targets[0]
    node = plan.node
    spare = 1 - node.running_slot

    def with_slots(state, **changes):
        states = list(node.slot_states)
        states[spare] = state
        return replace(node, slot_states=tuple(states), **changes)

    taken_back = {"version": rig.NEW, "running_slot": spare}
    new = {**taken_back, "active_slot": spare}
    assert target_status(None, plan) is TargetStatus.SILENT
    assert target_status(replace(node, running_slot=None), plan) is TargetStatus.NO_IMAGE
    assert target_status(with_slots(SlotState.EMPTY), plan) is TargetStatus.OLD
    assert target_status(with_slots(SlotState.BAD), plan) is TargetStatus.OLD
    assert target_status(with_slots(SlotState.STAGING), plan) is TargetStatus.OLD_PARTLY_STAGED
    assert target_status(with_slots(SlotState.STAGED), plan) is TargetStatus.OLD_STAGED
    assert target_status(with_slots(SlotState.TEST_REQUESTED), plan) is TargetStatus.OLD_PENDING
    assert target_status(with_slots(SlotState.TEST, **taken_back), plan) is TargetStatus.NEW_TEST
    assert target_status(with_slots(SlotState.STAGED, **taken_back), plan) is TargetStatus.NEW_REVERTED
    assert target_status(with_slots(SlotState.CONFIRMED, **new), plan) is TargetStatus.NEW_CONFIRMED
    assert target_status(with_slots(SlotState.CONFIRMED, **new, security_counter=2), plan) is TargetStatus.NEW
