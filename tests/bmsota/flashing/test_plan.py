"""The plan: what each node needs, and every check with its name."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.boot import SlotState
from bmsota.errors import ImageError, LocalProtocolError
from bmsota.flashing import (
    NOT_OVERRIDABLE,
    OVERRIDABLE,
    Action,
    Check,
    FlashSource,
    PlanRequest,
    Targets,
    Verdict,
    make_plan,
)
from bmsota.image import HardwareClass, ImageRole
from bmsota.node import Capability


@pytest.fixture
def described(pack):
    """What the nodes of an old pack say of themselves."""
    return list(pack.describe().values())


@pytest.fixture
def planned(described, rig):
    """Makes a plan for the old pack, or for *nodes*."""

    def plan(source=None, *, nodes=None, **request):
        wanted = PlanRequest(**{"now_s": rig.NOW_S, "rate_bytes_per_s": 1000.0, **request})
        return make_plan(described if nodes is None else nodes, source or rig.release(), wanted)

    return plan


def refused(plan):
    return {(each.check, each.position) for each in plan.refusals}


def actions(plan):
    return {node.position: node.action for node in plan.nodes}


def test_of_a_release_everybody_gets_his_own_image(planned, rig):
    plan = planned()
    assert plan.refusals == ()
    assert actions(plan) == dict.fromkeys(range(4), Action.FLASH)
    assert [node.position for node in plan.targets] == [1, 2, 3, 0]
    for node in plan.nodes:
        assert (node.from_version, node.to_version) == (rig.OLD, rig.NEW)
        assert node.image == rig.make_image(node.node.role)
        assert node.size_bytes == len(node.image)
        assert node.expected_s == pytest.approx(len(node.image) / 1000 + 1)
        assert {Check.ROLE, Check.HARDWARE_CLASS, Check.SECURITY_COUNTER, Check.VERSION_DOWNGRADE} <= set(node.passed)
    # The three slaves get their image at once.
    sent_bytes = sum(len(image) for image in {node.image for node in plan.nodes})
    assert plan.expected_s == pytest.approx(sent_bytes / 1000 + len(plan.nodes))
    assert not plan.is_nothing_to_do


def test_without_a_rate_no_seconds_are_promised(planned):
    plan = planned(rate_bytes_per_s=None)
    assert plan.expected_s is None
    assert {node.expected_s for node in plan.nodes} == {None}


def test_a_broadcast_is_counted_once(planned, described, rig):
    capable = [replace(node, capabilities=Capability.BROADCAST) for node in described]
    plan = planned(nodes=capable)
    images = sum(len(rig.make_image(role)) for role in ImageRole)
    assert plan.expected_s == pytest.approx(images / 1000 + 4)


def test_it_always_says_that_nobody_knows_whether_the_vehicle_stands(planned):
    (finding,) = [each for each in planned().findings if each.check is Check.VEHICLE_STATE]
    assert finding.verdict is Verdict.UNKNOWN
    assert "make sure it is at rest" in finding.detail


@pytest.mark.parametrize(
    ("targets", "positions"),
    [(Targets.ALL, [0, 1, 2, 3]), (Targets.MASTER, [0]), (Targets.SLAVES, [1, 2, 3]), (Targets.DEFAULT, [0, 1, 2, 3])],
)
def test_targets_by_name(planned, targets, positions):
    plan = planned(targets=targets)
    assert sorted(node.position for node in plan.targets) == positions


def test_one_image_is_by_default_for_every_node_of_its_role(planned, rig):
    plan = planned(FlashSource.of_image("slave.bin", rig.make_image()))
    assert [node.position for node in plan.targets] == [1, 2, 3]
    assert plan.refusals == ()


def test_one_image_for_all_is_for_all_of_its_role(planned, rig):
    plan = planned(FlashSource.of_image("slave.bin", rig.make_image()), targets=Targets.ALL)
    assert [node.position for node in plan.targets] == [1, 2, 3]


def test_what_is_no_image_makes_no_source(rig):
    with pytest.raises(ImageError):
        FlashSource.of_image("nonsense", b"nonsense")
    manifest = rig.release().manifest
    with pytest.raises(LocalProtocolError, match=r"release T-2\.1\.0: the manifest does not list image [0-9a-f]{64}"):
        FlashSource.of_release(manifest, [rig.make_image(version=rig.OLD)], is_verified=True)


class TestWhatANodeNeeds:
    """Also after a run that stopped somewhere."""

    def needs(self, planned, described, **changes):
        nodes = [
            replace(described[1], **{"image_sha256": None, **changes}),
            *(replace(node) for node in described if node.position != 1),
        ]
        return next(node for node in planned(nodes=nodes).nodes if node.position == 1)

    def test_another_build_of_the_version_is_flashed(self, planned, described, rig):
        """What counts are the bytes: the digest of the release's image is on the node, or it is flashed."""
        same = hashlib.sha256(rig.make_image()).digest()
        node = self.needs(planned, described, version=rig.NEW, security_counter=2, image_sha256=same)
        assert node.action is Action.NONE
        node = self.needs(planned, described, version=rig.NEW, security_counter=2, image_sha256=b"x" * 32)
        assert node.action is Action.FLASH
        assert [each for each in node.findings if each.check is Check.SAME_VERSION] == []

    def test_an_image_on_trial_is_confirmed(self, planned, described, rig):
        trial = (SlotState.CONFIRMED, SlotState.TEST)
        node = self.needs(planned, described, version=rig.NEW, running_slot=1, slot_states=trial)
        assert (node.action, node.image, node.expected_s) == (Action.CONFIRM, None, None)

    def test_a_counter_left_behind_is_raised(self, planned, described, rig):
        node = self.needs(planned, described, version=rig.NEW)
        assert node.action is Action.RAISE_COUNTER

    def test_who_is_done_is_left_alone(self, planned, described, rig):
        node = self.needs(planned, described, version=rig.NEW, security_counter=2)
        assert node.action is Action.NONE

    def test_a_node_without_an_image_is_flashed(self, planned, described, rig):
        node = self.needs(planned, described, version=rig.ImageVersion(), running_slot=None)
        assert (node.action, node.from_version) == (Action.FLASH, None)

    def test_somebody_elses_trial_is_taken_back_first_if_forced(self, planned, described, rig):
        trial = {
            "slot_states": (SlotState.TEST, SlotState.CONFIRMED),
            "running_slot": 0,
            "version": rig.ImageVersion(2, 0, 9),
        }
        nodes = [replace(described[0]), replace(described[1], **trial)]
        plan = planned(nodes=nodes)
        assert refused(plan) == {(Check.TEST_PENDING, 1)}
        plan = planned(nodes=nodes, forced=frozenset({Check.TEST_PENDING}))
        assert refused(plan) == set()
        assert [node.must_revert for node in plan.nodes] == [False, True]


class TestChecks:
    """Each refuses with its name; forcing is noted where it helps, and explained where it does not."""

    def provoke(self, check, described, rig):
        """(source, nodes, request) that this check refuses, and nothing else."""
        slave = FlashSource.of_image("slave", rig.make_image())
        old = rig.ImageVersion(1, 9)
        match check:
            case Check.NODE_PRESENT:
                return None, described, {"expected": (7,)}
            case Check.HARDWARE_CLASS:
                other = HardwareClass.named("bmsota.example", "other")
                return None, [*described[:3], replace(described[3], class_id=other.class_id)], {}
            case Check.ROLE:
                return slave, described, {"positions": (0, 1, 2, 3)}
            case Check.HWID:
                return None, described, {"hwids": {2: "HW-9"}}
            case Check.ACCESS_KEY:
                locked = replace(described[2], capabilities=Capability.SECURITY_ACCESS)
                return None, [*described[:2], locked, described[3]], {"has_access_key": False}
            case Check.VERSION_DOWNGRADE:
                return rig.release(old, counter=5), described, {}
            case Check.SECURITY_COUNTER:
                return None, [replace(node, security_counter=9) for node in described], {}
            case Check.IMAGE_SIZE:
                large = FlashSource.of_image("large", rig.make_image(size=1900))
                return large, [replace(node, slot_size_kib=1) for node in described], {}
            case Check.IMAGE_SIGNATURE:
                other = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
                return None, described, {"image_keys": (other.public_key(),)}
            case Check.MANIFEST_EXPIRY:
                return rig.release(expires_s=rig.NOW_S), described, {}
            case Check.MIXED_PACK:
                return slave, described, {"positions": (2,)}
            case Check.TEST_PENDING:
                trial = (SlotState.TEST, SlotState.CONFIRMED)
                return None, [*described[:3], replace(described[3], slot_states=trial, running_slot=0)], {}
            case _:
                raise AssertionError(check)

    @pytest.mark.parametrize("check", [*OVERRIDABLE, *NOT_OVERRIDABLE])
    def test_each(self, check, planned, described, rig):
        if check in {Check.SAME_VERSION, Check.VEHICLE_STATE, Check.MANIFEST_SIGNATURE}:
            return  # The first two refuse nothing, the third is refused where the file is read.
        source, nodes, request = self.provoke(check, described, rig)
        plan = planned(source, nodes=nodes, **request)
        assert {each.check for each in plan.refusals} == {check}
        assert all(str(each).startswith(f"{check.value}: ") for each in plan.refusals)
        forced = planned(source, nodes=nodes, **request, forced=frozenset({check}))
        if check in OVERRIDABLE:
            assert forced.refusals == ()
            assert {each.check for each in forced.forced} == {check}
        else:
            assert {each.check for each in forced.refusals} == {check}
            assert all(NOT_OVERRIDABLE[check] in each.detail for each in forced.refusals)
        # Forcing something else changes nothing.
        other = frozenset(OVERRIDABLE) - {check}
        assert {each.check for each in planned(source, nodes=nodes, **request, forced=other).refusals} >= {check}

    def test_every_check_says_whether_it_can_be_forced(self):
        assert OVERRIDABLE.keys() | NOT_OVERRIDABLE.keys() == set(Check)
        assert not OVERRIDABLE.keys() & NOT_OVERRIDABLE.keys()

    def test_a_named_node_that_does_not_answer(self, planned):
        assert refused(planned(positions=(1, 2, 3, 9))) >= {(Check.NODE_PRESENT, 9)}

    @pytest.mark.parametrize("missing", [ImageRole.MASTER, ImageRole.SLAVE])
    def test_a_role_of_the_release_that_nobody_has(self, missing, planned, described):
        plan = planned(nodes=[node for node in described if node.role is not missing])
        (refusal,) = plan.refusals
        assert str(refusal) == f"node-present: no {missing.name.lower()} answered"

    def test_nobody_at_all_cannot_be_forced(self, planned):
        plan = planned(nodes=[], forced=frozenset(OVERRIDABLE))
        assert [str(each) for each in plan.refusals] == ["node-present: no node answered"]

    def test_a_signature_by_the_key_that_was_given(self, planned, rig):
        plan = planned(image_keys=(rig.KEY.public_key(),))
        assert plan.refusals == ()
        assert Verdict.PASSED in {each.verdict for each in plan.findings if each.check is Check.IMAGE_SIGNATURE}

    def test_what_is_not_checked_is_said(self, planned, rig):
        unknown = {
            each.check for each in planned(rig.release(is_verified=False)).findings if each.verdict is Verdict.UNKNOWN
        }
        assert unknown == {Check.MANIFEST_SIGNATURE, Check.IMAGE_SIGNATURE, Check.VEHICLE_STATE}

    def test_a_locked_node_wants_an_access_key(self, planned, described):
        """Only of a node that is locked, that gets something, and where it is known whether there is a key."""
        locked = [replace(node, capabilities=Capability.SECURITY_ACCESS) for node in described]

        def found(**options):
            return [each for each in planned(**options).all_findings if each.check is Check.ACCESS_KEY]

        refused = found(nodes=locked, has_access_key=False, positions=(1,))
        assert [(each.verdict, each.position) for each in refused] == [(Verdict.REFUSED, 1)]
        assert refused[0].detail == "the node is locked and no access key was given"
        assert {each.verdict for each in found(nodes=locked, has_access_key=True)} == {Verdict.PASSED}
        forced = found(nodes=locked, has_access_key=False, forced=frozenset({Check.ACCESS_KEY}))
        assert {each.verdict for each in forced} == {Verdict.FORCED}
        assert found(nodes=locked) == []
        assert found(has_access_key=False) == []
        assert found(nodes=[replace(node, is_unlocked=True) for node in locked], has_access_key=False) == []


class TestMixedPack:
    """A pack of versions that were not released together."""

    def why(self, plan):
        return [each.detail for each in plan.refusals if each.check is Check.MIXED_PACK]

    def test_one_slave_of_several(self, planned, rig):
        plan = planned(FlashSource.of_image("slave", rig.make_image()), positions=(2,))
        (reason,) = self.why(plan)
        assert reason == ("nodes 1, 3 are left out and run 2.0.0, not 2.1.0")

    def test_a_slave_that_catches_up_mixes_nothing(self, planned, described, rig):
        nodes = [
            replace(node, image_sha256=None, version=rig.NEW, security_counter=2) if node.position in {1, 3} else node
            for node in described
        ]
        assert self.why(planned(FlashSource.of_image("slave", rig.make_image()), nodes=nodes, positions=(2,))) == []

    def test_a_master_that_needs_newer_slaves(self, planned, rig):
        master = rig.make_image(ImageRole.MASTER, needs=rig.NEW)
        plan = planned(FlashSource.of_image("master", master))
        (reason,) = self.why(plan)
        assert reason.startswith("the master image 2.1.0 requires slaves at 2.1.0 or newer, node 1 would run 2.0.0; ")

    def test_slaves_of_a_release_without_its_master(self, planned):
        (reason,) = self.why(planned(targets=Targets.SLAVES))
        assert reason == "node 0 is left out and runs 2.0.0, not 2.1.0"

    def test_where_nothing_is_flashed_nothing_is_mixed(self, planned, described, rig):
        nodes = [
            replace(node, image_sha256=None, version=rig.NEW, security_counter=2) if node.position else node
            for node in described
        ]
        plan = planned(nodes=nodes, targets=Targets.SLAVES)
        assert plan.is_nothing_to_do
        assert plan.refusals == ()
