"""The watch over local upgrades: what counts as one, what is told, and what a power cut leaves of both.

The power cuts are a loop over every flash operation: before, inside and after it.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from functools import cache, partial
from random import Random

import cbor2
import pytest
from bmsota_sim.devices.flash import FlashModel, PowerCut
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from described import describe

from bmsota.boot import BootReason, BootStore, SlotLayout, SlotState, for_hardware
from bmsota.errors import BmsotaError, LocalProtocolError
from bmsota.gbt32960 import LocalUpgradeOutcome
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image, verify_image
from bmsota.ota import (
    LOCAL_UPGRADES_MAX,
    LOCAL_UPGRADES_RECORD,
    LocalUpgradeDetector,
    NodeSnapshot,
    NodeUpgradeOutcome,
    OrderScope,
)

pytestmark = pytest.mark.slow

KEY = Ed25519PrivateKey.from_private_bytes(b"\x09" * 32)
MASTER_CLASS = HardwareClass.named("bmsota.example", "watch-master")
SECOND = 1_000_000_000
NOW = 1_790_000_000 * SECOND
OLD, NEW, NEWER, NONE = ImageVersion(2, 0), ImageVersion(2, 1, 0, 5), ImageVersion(2, 2), ImageVersion()
PHASES = ("before", "inside", "after")


@cache
def image(version: ImageVersion, counter: int = 1) -> bytes:
    return build_image(
        Random(str(version)).randbytes(700),
        version=version,
        security_counter=counter,
        hardware_class=MASTER_CLASS,
        role=ImageRole.MASTER,
        signing_key=KEY,
    )


class Unit:
    """A master's flash; `power_on` gives a fresh store and a watch on it."""

    def __init__(self, *, journal_size_bytes=2048, flash_size_bytes=16 * 1024, **options) -> None:
        self.flash = FlashModel(flash_size_bytes, erase_block_bytes=1024, seed="watch", **options)
        self.layout = SlotLayout.divide(self.flash, journal_size_bytes=journal_size_bytes)
        self._store().install_factory(image(OLD))
        self.power_on()

    def _store(self) -> BootStore:
        verify = partial(verify_image, public_keys=[KEY.public_key()])
        return BootStore(
            self.flash,
            self.layout,
            verify=for_hardware(verify, class_id=MASTER_CLASS.class_id, role=ImageRole.MASTER),
        )

    def power_on(self) -> LocalUpgradeDetector:
        self.flash.power_on()
        self.store = self._store()
        self.boot = self.store.boot()
        self.watch = LocalUpgradeDetector(self.store)
        return self.watch

    def see(self, *sights, at=NOW, order=None):
        return self.watch.nodes_seen(sights, at, order=order)

    def tell(self):
        """One login with a platform that answers."""
        self.watch.logged_in()
        told = self.watch.take()
        self.watch.acknowledged()
        return told

    def stage(self, version, *, good=True):
        """What a tool does to the master over CAN, up to the staged image; a bad one is refused."""
        data = image(version)
        if not good:
            data = data[:100] + bytes([data[100] ^ 1]) + data[101:]
        offset = self.store.begin_staging(len(data), hashlib.sha256(data).digest())
        self.store.write_staged(offset, data[offset:])
        self.store.finish_staging()

    def master(self):
        return NodeSnapshot.of_store(self.store, self.boot, position=0, hwid="M-1")


@pytest.fixture
def unit():
    made = Unit()
    made.see(node(0), node(1), node(2))
    return made


def node(position, version=OLD, **fields):
    return NodeSnapshot(position=position, hwid=f"HW-{position}", version=version, **fields)


def told(upgrades):
    return [(u.position, str(u.version_before), str(u.version_after), u.outcome.value) for u in upgrades]


def reach(*positions, order_id="o-1", concluded=False, stages=None):
    nodes = frozenset(positions)
    return OrderScope(
        order_id=order_id, runs=nodes, stages=nodes if stages is None else frozenset(stages), is_concluded=concluded
    )


# -- what is a local upgrade -------------------------------------------------------------------------------------------


def test_the_first_sight_of_a_node_is_no_upgrade():
    assert Unit().see(node(0), node(1, NEW)) == ()


def test_the_same_hardware_with_another_version_was_upgraded(unit):
    found = unit.see(node(0), node(1, NEW), node(2), at=NOW + 5 * SECOND)
    assert told(found) == [(1, "2.0.0", "2.1.0+5", "succeeded")]
    assert (found[0].hwid, found[0].at_s, found[0].detail) == ("HW-1", NOW // SECOND + 5, "")
    assert unit.watch.pending == found


def test_it_is_found_once(unit):
    unit.see(node(1, NEW))
    assert unit.see(node(1, NEW), at=NOW + SECOND) == ()
    unit.power_on()
    assert unit.see(node(1, NEW), at=NOW + 2 * SECOND) == ()
    assert len(unit.watch.pending) == 1


def test_back_and_forth_are_two(unit):
    unit.see(node(1, NEW))
    unit.see(node(1, OLD))
    assert told(unit.watch.pending) == [
        (1, "2.0.0", "2.1.0+5", "succeeded"),
        (1, "2.1.0+5", "2.0.0", "succeeded"),
    ]


def test_other_hardware_is_an_equipment_change_and_no_upgrade(unit):
    """And the part that comes is compared with itself from then on."""
    spare = replace(node(1, NEW), hwid="SPARE")
    assert unit.see(spare) == ()
    assert told(unit.see(replace(spare, version=NEWER))) == [(1, "2.1.0+5", "2.2.0", "succeeded")]


def test_who_does_not_answer_keeps_its_picture(unit):
    assert unit.see(node(0), node(2)) == ()
    assert told(unit.see(node(1, NEW))) == [(1, "2.0.0", "2.1.0+5", "succeeded")]


def test_an_image_on_trial_is_decided_later(unit):
    assert unit.see(node(1, NEW, is_in_test=True)) == ()
    assert unit.watch.awaits_confirmation
    assert told(unit.see(node(1, NEW))) == [(1, "2.0.0", "2.1.0+5", "succeeded")]
    assert not unit.watch.awaits_confirmation


def test_a_trial_that_was_not_confirmed_is_reverted(unit):
    """Also when the boot that took it back was not seen: the trial was."""
    unit.see(node(1, NEW, is_in_test=True))
    unit.power_on()
    found = unit.see(node(1))
    assert told(found) == [(1, "2.0.0", "2.0.0", "reverted")]
    assert found[0].detail == "2.1.0+5 ran in test and was not confirmed"
    assert unit.see(node(1)) == ()


def test_a_reverted_trial_that_nobody_saw_is_told_once(unit):
    reverted = node(1, reverted=frozenset({7}))
    assert [u.detail for u in unit.see(reverted)] == ["another image ran in test and was not confirmed"]
    assert unit.see(reverted) == ()
    unit.power_on()
    assert unit.see(node(1)) == ()
    assert told(unit.see(node(1, reverted=frozenset({9})))) == [(1, "2.0.0", "2.0.0", "reverted")]


def test_a_refused_image_is_a_failed_upgrade_told_once(unit):
    refused = node(1, refused=frozenset({1}))
    found = unit.see(refused)
    assert (told(found), found[0].detail) == ([(1, "2.0.0", "2.0.0", "failed")], "the node refused an image")
    assert unit.see(refused) == ()
    # The slot is written again, and refused again.
    unit.see(node(1))
    assert told(unit.see(refused)) == [(1, "2.0.0", "2.0.0", "failed")]


def test_a_node_without_an_image_has_failed_and_can_be_saved(unit):
    assert told(unit.see(node(1, NONE))) == [(1, "2.0.0", "0.0.0", "failed")]
    assert told(unit.see(node(1, NEW))) == [(1, "0.0.0", "2.1.0+5", "succeeded")]


def test_a_node_that_found_its_image_damaged_went_back(unit):
    unit.see(node(1, NEW))
    found = unit.see(node(1, OLD, has_fallen_back=True, refused=frozenset({1})))
    assert (told(found), found[0].detail) == (
        [(1, "2.1.0+5", "2.0.0", "reverted")],
        "the image was found damaged at boot",
    )
    assert unit.see(node(1, OLD, refused=frozenset({1}))) == ()


def test_new_hardware_on_trial_waits_for_its_version(unit):
    spare = replace(node(1, NEW, is_in_test=True), hwid="SPARE")
    assert unit.see(spare) == ()
    assert unit.see(replace(spare, version=OLD, is_in_test=False)) == ()
    assert told(unit.see(replace(spare, version=NEWER, is_in_test=False))) == [(1, "2.0.0", "2.2.0", "succeeded")]


def test_the_tool_is_named_where_somebody_knows_it(unit):
    assert unit.see(node(1, NEW, tool="bmsota 1.0"))[0].tool == "bmsota 1.0"
    unit.power_on()
    assert unit.watch.pending[0].tool == "bmsota 1.0"


# -- the master's own slots, on a real store ---------------------------------------------------------------------------


def test_the_master_itself_was_flashed():
    unit = Unit()
    assert unit.see(unit.master()) == ()
    unit.stage(NEW)
    unit.store.request_test()
    assert unit.see(unit.master()) == ()
    unit.power_on()
    assert unit.see(unit.master()) == ()
    unit.store.confirm()
    assert told(unit.see(unit.master())) == [(0, "2.0.0", "2.1.0+5", "succeeded")]


def test_the_master_fell_back_and_nobody_looked_for_two_boots():
    unit = Unit()
    unit.see(unit.master())
    unit.stage(NEW)
    unit.store.request_test()
    for _ in range(3):
        unit.power_on()
    assert told(unit.see(unit.master())) == [(0, "2.0.0", "2.0.0", "reverted")]
    unit.power_on()
    assert unit.see(unit.master()) == ()


def test_the_master_tries_the_same_image_twice():
    """Each try that was not confirmed is an upgrade of its own."""
    unit = Unit()
    unit.see(unit.master())
    unit.stage(NEW)
    for tries in (1, 2):
        unit.store.request_test()
        for _ in range(2):
            unit.power_on()
        assert told(unit.see(unit.master())) == [(0, "2.0.0", "2.0.0", "reverted")], tries


def test_the_master_refused_an_image():
    unit = Unit()
    unit.see(unit.master())
    with pytest.raises(BmsotaError, match="does not have the digest that was signed"):
        unit.stage(NEW, good=False)
    assert told(unit.see(unit.master())) == [(0, "2.0.0", "2.0.0", "failed")]
    unit.power_on()
    assert unit.see(unit.master()) == ()


@pytest.mark.parametrize(
    ("reason", "states", "expected"),
    [
        (BootReason.NORMAL, (SlotState.CONFIRMED, SlotState.STAGED), NodeSnapshot(position=3, hwid="S", version=NEW)),
        # It waits for its boot: what runs is confirmed.
        (
            BootReason.NORMAL,
            (SlotState.CONFIRMED, SlotState.TEST_REQUESTED),
            NodeSnapshot(position=3, hwid="S", version=NEW),
        ),
        (
            BootReason.TEST,
            (SlotState.CONFIRMED, SlotState.TEST),
            NodeSnapshot(position=3, hwid="S", version=NEW, is_in_test=True),
        ),
        (
            BootReason.REVERTED,
            (SlotState.CONFIRMED, SlotState.STAGED),
            NodeSnapshot(position=3, hwid="S", version=NEW, reverted=frozenset({77})),
        ),
        (
            BootReason.FALLBACK,
            (SlotState.BAD, SlotState.CONFIRMED),
            NodeSnapshot(position=3, hwid="S", version=NEW, has_fallen_back=True, refused=frozenset({0})),
        ),
    ],
)
def test_what_a_discovery_says(reason, states, expected):
    running = 1 if reason in {BootReason.TEST, BootReason.FALLBACK} else 0
    described = describe(
        3,
        hwid="S",
        version=NEW,
        boot_reason=reason,
        boot_id=77,
        slot_states=states,
        active_slot=0 if reason is BootReason.TEST else running,
        running_slot=running,
    )
    assert NodeSnapshot.of_discovery(described) == expected


def test_what_was_taken_back_and_still_runs_is_not_decided(unit):
    """Whoever took it back has not restarted the node: the next boot runs the old image, and that is the outcome."""
    described = describe(
        1,
        hwid=node(1).hwid,
        version=NEW,
        boot_reason=BootReason.TEST,
        slot_states=(SlotState.CONFIRMED, SlotState.STAGED),
        running_slot=1,
    )
    assert unit.see(NodeSnapshot.of_discovery(described)) == ()
    assert told(unit.see(node(1))) == [(1, "2.0.0", "2.0.0", "reverted")]


def test_the_master_that_was_taken_back_and_still_runs_is_not_decided():
    unit = Unit()
    unit.see(unit.master())
    unit.stage(NEW)
    unit.store.request_test()
    unit.power_on()
    unit.store.confirm(raise_counter=False)
    unit.store.revert()
    assert unit.see(unit.master()) == ()
    unit.power_on()
    assert told(unit.see(unit.master())) == [(0, "2.0.0", "2.0.0", "reverted")]


# -- beside an order ---------------------------------------------------------------------------------------------------


def test_what_an_order_changes_is_no_local_upgrade(unit):
    for version, options in ((OLD, {}), (NEW, {"is_in_test": True}), (NEW, {})):
        assert unit.see(node(0, version, **options), node(1, version, **options), order=reach(0, 1)) == ()
    assert unit.see(node(0, NEW), node(1, NEW), order=reach(0, 1, concluded=True)) == ()
    unit.power_on()
    assert unit.see(node(0, NEW), node(1, NEW)) == ()
    assert unit.watch.pending == ()


def test_an_order_that_was_rolled_back_is_none_either(unit):
    unit.see(node(1, NEW, is_in_test=True), order=reach(0, 1))
    back = node(1, reverted=frozenset({4}), refused=frozenset({1}))
    assert unit.see(back, order=reach(0, 1, concluded=True)) == ()
    assert unit.see(back) == ()


def test_a_slave_that_was_silent_when_its_order_ended_is_met_anew(unit):
    """What it runs afterwards may well be the order's work: the history must not call that a local upgrade."""
    unit.see(node(0, NEW), node(1, NEW, is_in_test=True), order=reach(0, 1))
    assert unit.see(node(0, NEW), order=reach(0, 1, concluded=True)) == ()
    unit.power_on()
    assert unit.see(node(0, NEW), node(1, NEW)) == ()
    assert unit.watch.pending == ()
    assert told(unit.see(node(1, NEWER))) == [(1, "2.1.0+5", "2.2.0", "succeeded")]


def test_a_slave_that_the_order_did_not_touch_is_compared(unit):
    assert told(unit.see(node(0, NEW), node(2, NEW), order=reach(0, 1))) == [(2, "2.0.0", "2.1.0+5", "succeeded")]


def test_a_local_upgrade_before_the_order_switches_is_seen(unit):
    """Accepted and downloading: nothing that runs is the order's work, but the master's other slot is."""
    order = reach(stages={0})
    assert unit.see(node(0, refused=frozenset({5})), order=order) == ()
    assert told(unit.see(node(0, NEW, refused=frozenset({5})), order=order)) == [(0, "2.0.0", "2.1.0+5", "succeeded")]


def test_a_local_upgrade_behind_the_outcome_of_an_order_is_seen(unit):
    """The report waits for the network, and somebody flashes on."""
    order = reach(0, 1, concluded=True)
    unit.see(node(0, NEW), node(1, NEW), order=order)
    unit.power_on()
    assert told(unit.see(node(0, NEW), node(1, NEWER), order=order)) == [(1, "2.1.0+5", "2.2.0", "succeeded")]


def test_the_next_order_is_another_one(unit):
    unit.see(node(1, NEW), order=reach(0, 1, concluded=True))
    assert unit.see(node(1, NEWER), order=reach(0, 1, order_id="o-2", concluded=True)) == ()
    # The same order again, signed anew after its end.
    assert unit.see(node(1, NEWER)) == ()
    assert unit.see(node(1, NEW), order=reach(0, 1, order_id="o-2", concluded=True)) == ()


def test_a_trial_that_an_order_left_behind_falls_back_later(unit):
    """A mixed pack: the order's report told what runs, and that it does not stay is news."""
    unit.see(node(1, NEW, is_in_test=True), order=reach(0, 1, concluded=True))
    assert told(unit.see(node(1, OLD, reverted=frozenset({6})))) == [(1, "2.0.0", "2.0.0", "reverted")]


# -- telling the platform ----------------------------------------------------------------------------------------------


def test_what_was_acknowledged_is_forgotten(unit):
    unit.see(node(1, NEW))
    assert told(unit.tell()) == [(1, "2.0.0", "2.1.0+5", "succeeded")]
    assert unit.tell() == ()
    unit.power_on()
    assert unit.tell() == ()


def test_one_frame_at_a_time(unit):
    unit.see(node(1, NEW))
    first = unit.watch.take()
    assert len(first) == 1
    unit.see(node(2, NEW))
    assert unit.watch.take() == ()
    unit.watch.acknowledged()
    assert told(unit.watch.take()) == [(2, "2.0.0", "2.1.0+5", "succeeded")]


def test_what_was_not_delivered_waits_for_the_next_login(unit):
    unit.see(node(1, NEW))
    assert unit.watch.take()
    unit.watch.undelivered()
    assert unit.watch.take() == ()
    unit.watch.logged_in()
    assert len(unit.watch.take()) == 1


def test_an_acknowledgement_of_nothing_changes_nothing(unit):
    unit.see(node(1, NEW))
    unit.watch.acknowledged()
    assert len(unit.watch.pending) == 1


def test_a_unit_that_stays_offline_keeps_the_newest():
    unit = Unit(journal_size_bytes=4096)
    unit.see(node(1))
    for number in range(LOCAL_UPGRADES_MAX + 3):
        unit.see(node(1, ImageVersion(3, 0, number)), at=NOW + number * SECOND)
    for _ in range(2):
        assert unit.watch.forgotten == 3
        kept = [upgrade.version_after.revision for upgrade in unit.watch.pending]
        assert kept == list(range(3, LOCAL_UPGRADES_MAX + 3))
        unit.power_on()
    assert len(unit.tell()) == LOCAL_UPGRADES_MAX


def test_a_full_journal_costs_the_oldest_and_not_the_picture(unit):
    unit.see(node(1, NEW), node(2, NEW))
    for size in range(2048, 0, -8):  # Somebody else's record takes what is left.
        try:
            unit.store.put_record("other", bytes(size))
            break
        except LocalProtocolError:
            continue
    unit.see(node(1, NEWER, tool="t" * 60), at=NOW + SECOND)
    assert unit.watch.forgotten > 0
    unit.power_on()
    assert unit.see(node(0), node(1, NEWER), node(2, NEW)) == ()


def test_a_journal_without_any_room_says_so(unit):
    unit.store.put_record("other", bytes(1700))
    with pytest.raises(LocalProtocolError, match="live records"):
        unit.see(*(node(position, NEW) for position in range(20)))


def test_the_record_of_another_firmware_is_begun_anew(unit):
    unit.store.put_record(LOCAL_UPGRADES_RECORD, cbor2.dumps([99, "whatever"]))
    watch = unit.power_on()
    assert (watch.pending, watch.forgotten) == ((), 0)
    assert unit.see(node(1, NEW)) == ()
    assert told(unit.see(node(1, NEWER))) == [(1, "2.1.0+5", "2.2.0", "succeeded")]


def test_nothing_is_written_while_nothing_changes(unit):
    before = unit.flash.operations
    unit.see(node(0), node(1), node(2), at=NOW + SECOND)
    unit.tell()
    assert unit.flash.operations == before


# -- power cuts --------------------------------------------------------------------------------------------------------

# (what the discovery sees, the order it sees it beside, whether the platform is told then)
STORY = (
    ((node(0), node(1), node(2)), None, False),
    ((node(0), node(1, NEW), node(2)), None, False),
    ((node(0), node(1, NEW), node(2, NEW, is_in_test=True)), None, True),
    ((node(0), node(1, NEW), node(2, reverted=frozenset({3}))), None, False),
    ((node(0, NEWER), node(1, NEWER), node(2)), reach(0, 1), True),
    ((node(0, NEWER), node(1, NEWER), node(2)), reach(0, 1, concluded=True), False),
    ((node(0, NEWER), node(1, OLD), node(2, refused=frozenset({1}))), None, True),
    ((node(0, NEWER), node(1, OLD), node(2)), None, True),
)
EXPECTED = [
    (1, "2.0.0", "2.1.0+5", "succeeded"),
    (2, "2.0.0", "2.0.0", "reverted"),
    (1, "2.2.0", "2.0.0", "succeeded"),
    (2, "2.0.0", "2.0.0", "failed"),
]


class Platform:
    """Keeps what it is told once, as the cloud does."""

    def __init__(self):
        self.history = []
        self.repeats = 0

    def hear(self, upgrades):
        for upgrade in upgrades:
            if upgrade in self.history:
                self.repeats += 1
            else:
                self.history.append(upgrade)


def play(unit, platform):
    """The whole story; behind each power cut the unit boots and comes to the same place again. How often it was cut."""
    cuts = 0
    for number, (sights, order, is_told) in enumerate(STORY):
        for attempt in range(4):
            assert attempt < 3, "the unit does not get on"
            try:
                # A cut inside the boot is one more boot.
                if attempt or number:
                    unit.power_on()
                unit.see(*sights, at=NOW + (10 * number + attempt) * SECOND, order=order)
                if is_told:
                    unit.watch.logged_in()
                    upgrades = unit.watch.take()
                    platform.hear(upgrades)
                    unit.watch.acknowledged()
                break
            except PowerCut:
                cuts += 1
    return cuts


@pytest.mark.parametrize("write_unit_bytes", [8, 32])
def test_power_may_fail_at_any_flash_operation(write_unit_bytes):
    """Nothing is lost, nothing is in the history twice, and only a cut inside the acknowledgement has it told twice."""
    fresh = Unit(write_unit_bytes=write_unit_bytes)
    undisturbed, platform = copy.deepcopy(fresh), Platform()
    first = undisturbed.flash.operations + 1
    assert play(undisturbed, platform) == 0
    assert (told(platform.history), platform.repeats) == (EXPECTED, 0)
    last = undisturbed.flash.operations
    assert last - first >= 10
    repeats = 0
    for operation in range(first, last + 1):
        for phase in PHASES:
            unit, platform = copy.deepcopy(fresh), Platform()
            unit.power_on()
            unit.flash.cut_at(operation, phase)
            where = f"cut {phase} operation {operation}"
            assert play(unit, platform) == 1, where
            assert told(platform.history) == EXPECTED, where
            repeats += platform.repeats
            # What was acknowledged for good is never told again.
            unit.power_on()
            assert unit.tell() == (), where
    assert repeats > 0, "no cut hit an acknowledgement"


def test_power_may_fail_twice():
    """Pairs of cuts, drawn from the seed; the second may hit the recovery from the first."""
    fresh = Unit()
    undisturbed = copy.deepcopy(fresh)
    first = undisturbed.flash.operations + 1
    play(undisturbed, Platform())
    last = undisturbed.flash.operations
    for seed in range(80):
        rng = Random(f"watch pairs {seed}")
        unit, platform = copy.deepcopy(fresh), Platform()
        unit.power_on()
        for operation in rng.sample(range(first, last + 1), 2):
            unit.flash.cut_at(operation, rng.choice(PHASES))
        play(unit, platform)
        assert told(platform.history) == EXPECTED, f"seed {seed}"
        unit.flash.clear_cuts()
        unit.power_on()
        assert unit.tell() == (), f"seed {seed}"


def test_outcomes_have_the_names_of_the_wire():
    assert [outcome.name for outcome in NodeUpgradeOutcome] == [outcome.name for outcome in LocalUpgradeOutcome]


def test_digests_leave_the_journal_room_for_an_order():
    """32 nodes with new builds again and again: the record stays within half of the smallest journal of a master."""
    unit = Unit(journal_size_bytes=16 * 1024, flash_size_bytes=64 * 1024)
    detector, store = unit.watch, unit.store
    seen = [NodeSnapshot(position=at, hwid=f"{at:024d}", version=NEW, image_sha256=bytes(32)) for at in range(32)]
    detector.nodes_seen(seen, NOW)
    for build in range(1, 5):
        found = detector.nodes_seen([replace(each, image_sha256=bytes([build]) * 32) for each in seen], NOW)
        assert len(found) == 32
    assert len(detector.pending) == LOCAL_UPGRADES_MAX
    assert len(store.get_record(LOCAL_UPGRADES_RECORD)) < 8192
    again = LocalUpgradeDetector(store).pending
    assert [each.sha256_after is not None for each in again] == [False] * 48 + [True] * 16
