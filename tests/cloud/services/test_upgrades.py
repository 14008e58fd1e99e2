"""What vehicles say of their upgrades, and what is believed."""

from dataclasses import replace

import pytest
from bmsota_cloud.domain.equipment import ChangeStatus
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.services import ReportVerdict

from bmsota.gbt32960 import UpgradeStateCode as Code
from bmsota.ota import Outcome


def send(world, number, order_id="OTA-1-1", **options):
    return world.services.upgrades.receive_report(
        world.vin(number), world.report(number, order_id, **options), world.now
    )


def view(world, task, place=1):
    return world.detail(task).upgrades.items[place - 1]


# --- the instruction


def test_the_instruction_is_repeated_at_every_login_while_the_order_is_open(world):
    """Behind the download too: a unit that has lost its order must not wait for ever. A signed report ends it."""
    world.register(1)
    world.upload()
    upgrades, vin = world.services.upgrades, world.vin(1)
    assert upgrades.pending_instruction(vin) is None
    task = world.create(1)
    assert upgrades.pending_instruction(vin) is None
    world.approve(task)
    instruction = upgrades.pending_instruction(vin)
    assert (instruction.order_id, instruction.url) == ("OTA-1-1", "http://cloud.example:8080")
    upgrades.instruction_sent(instruction, world.now)
    assert world.path(task) == ["Unapproved", "Approved", "To be downloaded"]
    world.wait(hours=1)
    assert upgrades.pending_instruction(vin) == instruction
    upgrades.instruction_sent(instruction, world.now)
    assert world.path(task) == ["Unapproved", "Approved", "To be downloaded"]
    assert (view(world, task).instruction_count, view(world, task).instructed_at) == (2, world.now)
    world.tell(vin, Code.DOWNLOADING, progress_pct=10)
    assert upgrades.pending_instruction(vin) == instruction
    world.tell(vin, Code.DOWNLOAD_COMPLETE)
    assert upgrades.pending_instruction(vin) == instruction
    world.fetch(1)
    assert upgrades.pending_instruction(vin) == instruction
    assert not view(world, task).can_be_cancelled, "it may switch by itself from here on"
    upgrades.instruction_sent(instruction, world.now)
    assert view(world, task).instruction_count == 3
    assert str(view(world, task).status) == "Download Complete"
    send(world, 1)
    assert upgrades.pending_instruction(vin) is None
    upgrades.instruction_sent(instruction, world.now)
    assert view(world, task).instruction_count == 3


# --- states


def test_the_states_lead_through_the_words_with_a_time_for_each(world):
    task = world.approved(1)
    vin = world.vin(1)
    story = [
        (Code.INSTRUCTED, None, "To be downloaded", "instruction received"),
        (Code.WAITING_SAFE_STATE, None, "To be downloaded", "waiting for a safe state"),
        (Code.AUTHENTICATING, None, "To be downloaded", "authenticating"),
        (Code.DOWNLOADING, 0, "Downloading", "downloading"),
        (Code.DOWNLOADING, 55, "Downloading", "downloading"),
        (Code.DOWNLOAD_COMPLETE, 100, "Download Complete", "waiting for the next power-on"),
        (Code.SWITCHING, 0, "Download Complete", "switching"),
        (Code.FLASHING_SLAVES, 40, "Download Complete", "flashing slaves"),
        (Code.SELF_TEST, None, "Download Complete", "self-test"),
        (Code.SUCCEEDED, None, "Download Complete", "reported success; waiting for the signed report"),
    ]
    for state, progress, status, stage in story:
        world.wait(seconds=10)
        assert world.tell(vin, state, order_id="OTA-1-1", progress_pct=progress)
        seen = view(world, task)
        assert (str(seen.status), seen.stage, seen.heard_at) == (status, stage, world.now)
        if state is Code.DOWNLOADING:
            assert seen.progress_pct == progress
    assert view(world, task).progress_pct == 100
    transitions = view(world, task).transitions
    assert [str(t.status) for t in transitions] == [
        "Unapproved",
        "Approved",
        "To be downloaded",
        "Downloading",
        "Download Complete",
    ]
    assert [t.at for t in transitions] == sorted(t.at for t in transitions)


@pytest.mark.parametrize("late", [Code.INSTRUCTED, Code.WAITING_SAFE_STATE, Code.AUTHENTICATING, Code.DOWNLOADING])
def test_states_do_not_go_back(world, late):
    task = world.approved(1)
    world.tell(world.vin(1), Code.DOWNLOAD_COMPLETE)
    assert world.tell(world.vin(1), late, progress_pct=5)
    assert (str(view(world, task).status), view(world, task).progress_pct) == ("Download Complete", 100)
    assert world.services.counters["upgrade_state_stale"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("state", [Code.SUCCEEDED, Code.ROLLED_BACK])
def test_an_unsigned_word_ends_nothing_well(world, state):
    task = world.approved(1)
    world.tell(world.vin(1), Code.DOWNLOAD_COMPLETE)
    world.tell(world.vin(1), state)
    assert str(view(world, task).status) == "Download Complete"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (Code.FAILED, "reported a failure; waiting for the signed report: flash worn out"),
        (Code.REJECTED, "reported that it rejected the order; not signed: flash worn out"),
        (Code.CANCELLED, "reported that the order was withdrawn; not signed: flash worn out"),
    ],
)
def test_a_unit_that_gives_up_is_heard_and_nothing_ends(world, state, words):
    """Anyone who knows the VIN can say so."""
    task = world.approved(1)
    assert world.tell(world.vin(1), state, reason="flash worn out")
    seen = view(world, task)
    assert (str(seen.status), seen.stage, seen.reason, seen.can_be_cancelled) == ("Approved", words, "", True)
    assert str(world.detail(task).task.status) == "Approved"


def test_a_state_after_the_end_is_counted(world):
    task = world.approved(1)
    send(world, 1)
    assert not world.tell(world.vin(1), Code.DOWNLOADING, order_id="OTA-1-1", progress_pct=1)
    assert str(view(world, task).status) == "Upgrade succeeded"
    assert world.services.counters["upgrade_state_after_end"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("order_id", ["OTA-1-2", "OTA-9-1", "OTA-1-1-1", "../1", "OTA-1-99999999999"])
def test_a_state_about_another_order_moves_nothing(world, order_id):
    task = world.approved(1, 2)
    assert not world.tell(world.vin(1), Code.DOWNLOAD_COMPLETE, order_id=order_id)
    assert world.detail(task).counts == {"Approved": 2}
    assert world.services.counters["upgrade_state_unknown"] == 1


def test_an_unknown_state_is_counted_and_left_aside(world):
    task = world.approved(1)
    assert not world.tell(world.vin(1), 77)
    assert str(view(world, task).status) == "Approved"


def test_a_state_before_the_approval_moves_nothing(world):
    world.register(1)
    world.upload()
    task = world.create(1)
    assert not world.tell(world.vin(1), Code.DOWNLOADING, progress_pct=50)
    assert world.path(task) == ["Unapproved"]


# --- the signed report


def test_only_the_report_makes_success(world):
    task = world.approved(1)
    world.tell(world.vin(1), Code.DOWNLOAD_COMPLETE)
    assert send(world, 1) is ReportVerdict.ACCEPTED
    seen = view(world, task)
    assert (str(seen.status), seen.reason, seen.ended_by_report) == ("Upgrade succeeded", "", True)
    assert [(n.position, n.version) for n in seen.versions_before] == [(0, "2.0.0"), (1, "2.0.0"), (2, "2.0.0")]
    assert [(n.position, n.version) for n in seen.versions_after] == [(0, "2.1.0"), (1, "2.1.0"), (2, "2.1.0")]
    nodes = world.services.vehicles.detail(world.vin(1), by=world.people["vera"]).nodes
    assert [node.version for node in nodes] == ["2.1.0"] * 3
    assert str(world.detail(task).task.status) == "Finished"
    assert world.detail(task).task.finished_at == world.now


def test_a_report_may_come_when_every_frame_before_was_lost(world):
    task = world.approved(1)
    assert send(world, 1) is ReportVerdict.ACCEPTED
    assert world.path(task) == ["Unapproved", "Approved", "Upgrade succeeded"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outcome", "status"),
    [(Outcome.ROLLED_BACK, "Rolled back"), (Outcome.FAILED, "Upgrade failed"), (Outcome.REJECTED, "Rejected")],
)
def test_other_outcomes_keep_their_reason(world, outcome, status):
    task = world.approved(1)
    versions = ["2.0.0"] * 3
    assert send(world, 1, outcome=outcome, reason="self-test: cell 7", versions=versions) is ReportVerdict.ACCEPTED
    assert (str(view(world, task).status), view(world, task).reason) == (status, "self-test: cell 7")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("versions", "words"),
    [
        (["2.0.0", "2.1.0", "2.1.0"], "master runs 2.0.0, expected 2.1.0"),
        (["2.1.0", "2.1.0", "2.0.0"], "slave 2 runs 2.0.0, expected 2.1.0"),
        (["2.1.0", "2.2.0", "2.1.0"], "slave 1 runs 2.2.0, expected 2.1.0"),
        (["2.1.0", "2.1.0"], "slave 2 is missing from it"),
        (["2.1.0"], "slave 1 is missing from it; slave 2 is missing from it"),
    ],
)
def test_a_report_of_success_with_another_node_is_no_success(world, versions, words):
    """Design decision 8: a mixed pack is never left unreported."""
    task = world.approved(1)
    assert send(world, 1, versions=versions) is ReportVerdict.ACCEPTED
    assert str(view(world, task).status) == "Upgrade failed"
    assert words in view(world, task).reason


def images_of(world):
    (release,) = world.services.releases.page(PageRequest(), by=world.people["anna"]).items
    return {image.kind: bytes.fromhex(image.sha256) for image in release.images}


def test_a_report_of_success_with_another_build_of_the_version_is_no_success(world):
    """Same version, other bytes: what counts are the digests, where the report has them."""
    task = world.approved(1)
    images = images_of(world)
    digests = [images["master"], images["slave"], b"x" * 32]
    assert send(world, 1, digests=digests) is ReportVerdict.ACCEPTED
    assert str(view(world, task).status) == "Upgrade failed"
    assert view(world, task).reason == (
        "the report says succeeded, but slave 2 runs another build of 2.1.0: expected image"
        f" {images['slave'].hex()[:16]}, got {'78' * 8}"
    )


def test_a_report_with_the_release_s_digests_is_a_success_and_they_are_kept(world):
    """Also of a pack in which an older slave cannot say its own."""
    task = world.approved(1)
    images = images_of(world)
    send(world, 1, digests=[images["master"], images["slave"], None])
    assert str(view(world, task).status) == "Upgrade succeeded"
    nodes = world.services.vehicles.detail(world.vin(1), by=world.people["anna"]).nodes
    assert [node.image_sha256 for node in nodes] == [images["master"].hex(), images["slave"].hex(), ""]
    assert [version.image_sha256 for version in view(world, task).versions_after] == [
        node.image_sha256 for node in nodes
    ]


def test_a_mixed_pack_is_kept_told_and_over_with_the_next_signed_word(world):
    """By the post-boot report and by identity reports; the audit log hears of each, and of the end."""
    task = world.approved(1)
    words = "master runs 2.0.0, slaves 1, 2 run 2.1.0"
    send(world, 1, outcome=Outcome.FAILED, reason=f"mixed pack: {words}", mixed_pack=words)
    vin, by = world.vin(1), world.people["anna"]
    assert world.services.vehicles.detail(vin, by=by).vehicle.mixed_pack == words
    world.confirm(1, mixed_pack=words)
    assert world.services.vehicles.detail(vin, by=by).vehicle.mixed_pack == words
    world.confirm(1)
    assert world.services.vehicles.detail(vin, by=by).vehicle.mixed_pack == ""
    entries = world.services.audit.page(PageRequest(1, 500), by=world.people["anna"]).items
    said = [(entry.outcome, entry.detail) for entry in reversed(entries) if entry.action == "vehicle.mixed_pack"]
    assert said == [("mixed", words), ("mixed", words), ("over", f"no longer mixed; was: {words}")]
    assert str(view(world, task).status) == "Upgrade failed"


def test_a_success_with_a_mixed_pack_is_none(world):
    task = world.approved(1)
    send(world, 1, mixed_pack="slave 1 runs 2.1.0, slave 2 runs 2.0.0")
    assert view(world, task).reason.endswith("the pack is mixed: slave 1 runs 2.1.0, slave 2 runs 2.0.0")


def test_a_pack_that_grew_must_run_the_version_too(world):
    task = world.approved(1)
    send(world, 1, versions=["2.1.0", "2.1.0", "2.1.0", "2.0.0"])
    assert "slave 3 runs 2.0.0" in view(world, task).reason


def test_the_same_report_again_is_answered_and_changes_nothing(world):
    task = world.approved(1)
    document = world.report(1, "OTA-1-1")
    assert world.services.upgrades.receive_report(world.vin(1), document, world.now) is ReportVerdict.ACCEPTED
    before = world.detail(task)
    world.wait(minutes=5)
    assert world.services.upgrades.receive_report(world.vin(1), document, world.now) is ReportVerdict.REPEATED
    assert world.detail(task) == before


def test_a_later_report_about_an_ended_order_changes_nothing(world):
    task = world.approved(1)
    send(world, 1)
    before = world.detail(task)
    rolled = {"outcome": Outcome.ROLLED_BACK, "reason": "late", "versions": ["2.0.0"] * 3}
    assert send(world, 1, **rolled) is ReportVerdict.REPEATED
    after = world.detail(task)
    # But it is kept: a unit that signs two ends of one order is worth a look.
    assert [(r.outcome, r.is_late) for r in after.upgrades.items[0].reports] == [
        ("succeeded", False),
        ("rolled-back", True),
    ]
    assert without_reports(after) == without_reports(before)


def without_reports(detail):
    items = tuple(replace(view, reports=()) for view in detail.upgrades.items)
    return replace(detail, upgrades=replace(detail.upgrades, items=items))


def test_all_vehicles_of_a_task_time_out_in_slices(world, monkeypatch):
    """Approved at once, silent at once: no transaction ends more than a slice of them."""
    from bmsota_cloud.services import upgrades as module

    monkeypatch.setattr(module, "SLICE_VEHICLES", 2)
    monkeypatch.setattr(module, "_EXPIRE_MAX", 4)
    task = world.approved(1, 2, 3, 4, 5)
    world.wait(days=4)
    begun, transaction = [], world.cloud.store.transaction
    monkeypatch.setattr(world.cloud.store, "transaction", lambda: (begun.append(1), transaction())[1])
    assert world.services.upgrades.expire(world.now) == 4
    assert len(begun) == 1 + 2
    assert world.detail(task).counts == {"Approved": 1, "Timed out": 4}
    assert world.services.upgrades.expire(world.now) == 1
    assert world.services.upgrades.expire(world.now) == 0
    assert str(world.detail(task).task.status) == "Finished"
    assert world.detail(task).upgrades.items[4].reason == "no message for 345600 s; the limit is 259200 s"


@pytest.mark.slow
def test_of_the_reports_of_a_vehicle_the_newest_are_kept(world):
    """A unit that repeats itself under new counters fills no disk."""
    task = world.approved(1)
    for number in range(25):
        send(world, 1, outcome=Outcome.FAILED, reason=f"try {number}")
    assert [report.reason for report in world.detail(task).upgrades.items[0].reports] == [
        f"try {number}" for number in range(5, 25)
    ]


@pytest.mark.parametrize(
    ("options", "attack"),
    [
        ({"key": "another"}, "arbitrary-software"),
        ({"vin": "TESTVEHICLE000002"}, "wrong-vehicle"),
    ],
)
def test_a_report_that_can_not_be_believed_changes_nothing_and_is_logged(world, options, attack):
    task = world.approved(1, 2)
    if options.get("key"):
        options = {"key": world.device_key(world.vin(2))}
    assert send(world, 1, **{"order_id": "OTA-1-1"} | options) is ReportVerdict.REFUSED
    assert world.detail(task).counts == {"Approved": 2}
    newest = world.services.audit.page(PageRequest(), by=world.people["anna"]).items[0]
    assert (newest.who, newest.action, newest.outcome) == (f"vehicle {world.vin(1)}", "report.receive", attack)
    assert world.services.counters["report_refused"] == 1


@pytest.mark.slow
def test_an_old_report_is_a_replay(world):
    """Success reported, then rolled back, then the old success again."""
    task = world.approved(1)
    old = world.report(1, "OTA-1-1")
    assert send(world, 1, outcome=Outcome.ROLLED_BACK, reason="r", versions=["2.0.0"] * 3) is ReportVerdict.ACCEPTED
    assert world.services.upgrades.receive_report(world.vin(1), old, world.now) is ReportVerdict.REFUSED
    assert str(view(world, task).status) == "Rolled back"


@pytest.mark.parametrize("document", [b"", b"\x00" * 100, b"\xd2\x84" + b"\x40" * 50, b"x" * 20000])
def test_garbage_is_refused(world, document):
    world.approved(1)
    assert world.services.upgrades.receive_report(world.vin(1), document, world.now) is ReportVerdict.REFUSED


def test_a_report_of_an_unknown_vehicle_is_refused(world):
    assert world.services.upgrades.receive_report("NOSUCHVEHICLE0001", b"x", world.now) is ReportVerdict.REFUSED


def test_no_report_before_the_approval(world):
    world.register(1)
    world.upload()
    task = world.create(1)
    assert send(world, 1) is ReportVerdict.UNKNOWN_ORDER
    assert world.path(task) == ["Unapproved"]


def test_a_slave_exchanged_during_the_upgrade_is_judged_by_its_version(world):
    """The identity frame names another HWID at position 2, the signed report the old one: the frame was wrong."""
    task = world.approved(1)
    facts = world.facts(1)
    world.services.equipment.identify(world.vin(1), [*facts[:2], *[_other(facts[2])]], world.now)
    assert send(world, 1) is ReportVerdict.ACCEPTED
    assert str(view(world, task).status) == "Upgrade succeeded"
    (change,) = world.services.equipment.page(PageRequest(), by=world.people["vera"]).items
    assert (change.old_hwid, change.new_hwid, change.status) == (facts[2].hwid, "S-NEW", ChangeStatus.REFUTED)


def _other(fact):
    from dataclasses import replace

    return replace(fact, hwid="S-NEW")


# --- time


def test_a_silent_vehicle_times_out(world):
    task = world.approved(1, 2, time_limit_s=3600)
    world.wait(minutes=30)
    world.tell(world.vin(2), Code.WAITING_SAFE_STATE)
    world.wait(minutes=30)
    assert world.services.upgrades.expire(world.now) == 0
    world.wait(seconds=1)
    assert world.services.upgrades.expire(world.now) == 1
    assert world.detail(task).counts == {"To be downloaded": 1, "Timed out": 1}
    assert view(world, task).reason == "no message for 3601 s; the limit is 3600 s"
    world.wait(hours=2)
    assert world.services.upgrades.expire(world.now) == 1
    assert str(world.detail(task).task.status) == "Finished"
    assert world.services.upgrades.expire(world.now) == 0


def test_an_unapproved_task_does_not_time_out(world):
    world.register(1)
    world.upload()
    world.create(1, time_limit_s=60)
    world.wait(days=30)
    assert world.services.upgrades.expire(world.now) == 0


def test_each_task_has_its_own_limit(world):
    for number in (1, 2):
        world.register(number)
    world.upload()
    short = world.approve(world.create(1, time_limit_s=600))
    long = world.approve(world.create(2, time_limit_s=6000))
    world.wait(seconds=700)
    assert world.services.upgrades.expire(world.now) == 1
    assert world.path(short)[-1] == "Timed out"
    assert world.path(long)[-1] == "Approved"


def test_the_truth_comes_through_after_a_time_out(world):
    """A time-out is what the platform assumed; a signed report is what is."""
    task = world.approved(1, time_limit_s=60)
    world.wait(seconds=61)
    world.services.upgrades.expire(world.now)
    assert send(world, 1) is ReportVerdict.ACCEPTED
    assert world.path(task) == ["Unapproved", "Approved", "Timed out", "Upgrade succeeded"]


def test_a_cancelled_vehicle_that_did_not_upgrade_stays_cancelled(world):
    task = world.approved(1)
    world.services.ota_tasks.cancel(task.id, by=world.people["carol"], now=world.now)
    failed = {"outcome": Outcome.FAILED, "reason": "the order was cancelled", "versions": ["2.0.0"] * 3}
    assert send(world, 1, **failed) is ReportVerdict.ACCEPTED
    assert str(view(world, task).status) == "Cancelled"
    assert view(world, task).ended_by_report


def test_a_cancelled_vehicle_that_upgraded_all_the_same_is_shown_as_it_is(world):
    task = world.approved(1)
    world.services.ota_tasks.cancel(task.id, by=world.people["carol"], now=world.now)
    assert send(world, 1) is ReportVerdict.ACCEPTED
    assert world.path(task)[-2:] == ["Cancelled", "Upgrade succeeded"]
