"""How an order ends when the two ends do not agree: restored backups, counters that begin anew, orders not believed, kill -9."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest
from bmsota_cloud.domain.evidence import Source
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.services import ReportVerdict

from bmsota.errors import TrustError
from bmsota.image import HardwareClass
from bmsota.ota import SEQUENCE_AHEAD_MAX, DeviceTrust, HttpRequest, Outcome, device_api, verify_receipt


class Unit:
    """The unit of vehicle 1 at the device API: its session, and its real trust."""

    def __init__(self, world, keys):
        self.tokens = count(1)
        self.token = ""
        self.trust = DeviceTrust(
            vin=world.vin(1),
            hwid="M-000001",
            hardware_classes={0: HardwareClass.named("tests.example", "F7-master")},
            image_keys=keys.image_public_keys,
            manifest_keys=keys.manifest_public_keys,
            order_keys=[keys.order_signing_key.public_key()],
        )

    def ask(self, world, request, token=None):
        return world.cloud.device_respond(device_api.authorised(request, token or self.token), world.now)

    def open_session(self, world):
        self.token = world.session_of(1, f"unit-{next(self.tokens)}")

    def fetch(self, world):
        """The order, as bytes."""
        self.open_session(world)
        return self.read(self.ask(world, device_api.order_request(self.token)))

    @staticmethod
    def read(answer):
        return device_api.parse_document(answer.status, answer.body)

    def accept(self, world, document):
        return self.trust.accept_order(document, world.now_ns)

    def refuse(self, world, document, reason, sequence=None):
        """What the platform gives instead."""
        request = device_api.refusal_request(
            self.token,
            order_sha256=sha256(document).digest(),
            sequence=self.trust.state.sequence if sequence is None else sequence,
            reason=reason,
        )
        return self.read(self.ask(world, request))

    def deliver(self, world, document):
        """The platform's receipt for *document*, as the unit believes it."""
        self.open_session(world)
        answer = self.ask(world, device_api.report_request(self.token, document))
        receipt = device_api.parse_receipt(answer.status, answer.body)
        return self.trust.check_receipt(receipt, document)


@pytest.fixture
def unit(world, sample_keys):
    return Unit(world, sample_keys)


def send(world, document):
    return world.services.upgrades.receive_report(world.vin(1), document, world.now)


def seen(world, task):
    return world.detail(task).upgrades.items[0]


def vehicle_of(world):
    with world.cloud.store.reading() as work:
        return work.vehicles.get(world.vin(1))


def newest_note(world):
    return world.services.audit.page(PageRequest(1, 1), by=world.people["anna"]).items[0]


# -- a platform that was restored from a backup -----------------------------------------------------------------------------


@pytest.fixture
def restored(new_world, sample_keys, tmp_path):
    """A platform, restored to the state before its unit accepted three more orders; and that unit."""
    lost = new_world("lost", data_dir=tmp_path / "lost")
    task = lost.approved(1)
    unit = Unit(lost, sample_keys)
    unit.accept(lost, unit.fetch(lost))
    (tmp_path / "backup").mkdir()
    with (
        closing(sqlite3.connect(tmp_path / "lost" / "platform.sqlite")) as live,
        closing(sqlite3.connect(tmp_path / "backup" / "platform.sqlite")) as copy,
    ):
        live.backup(copy)
    for _ in range(3):
        lost.services.ota_tasks.retry(
            task.id, vins=[lost.vin(1)], reason="again", by=lost.people["carol"], now=lost.now
        )
        unit.accept(lost, unit.fetch(lost))
    assert unit.trust.state.sequence == 4
    world = new_world("restored", data_dir=tmp_path / "backup", people=False)
    world.people = lost.people
    world.clock.now = lost.now
    world.report_counters = lost.report_counters
    world.identity_counters = lost.identity_counters
    return world, unit, task


@pytest.mark.slow
def test_p24_an_order_below_what_the_unit_has_seen_is_signed_again_for_the_same_approval(restored):
    """The unit says in its session which number it is at: no order is lost, nobody has to approve again."""
    world, unit, task = restored
    document = unit.fetch(world)
    with pytest.raises(TrustError, match="replay: expected an order after 4, got 1") as refusal:
        unit.accept(world, document)
    again = unit.refuse(world, document, str(refusal.value))
    order = unit.accept(world, again)
    assert (order.order_id, order.sequence) == ("OTA-1-1", 5)
    assert unit.fetch(world) == again
    assert str(seen(world, task).status) == "To be downloaded"
    assert (newest_note(world).action, newest_note(world).outcome) == ("device.refuse_order", "signed-again")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["report", "identity"])
def test_p24_the_sequence_is_learnt_from_what_the_unit_signs(restored, kind):
    """The order that the restored platform still has is signed again before it is given out."""
    world, unit, _ = restored
    document = world.report(1, "OTA-7-1", sequence=4) if kind == "report" else world.identity(1, sequence=4)
    assert send(world, document) is not ReportVerdict.REFUSED
    assert vehicle_of(world).order_sequence == 4
    order = unit.accept(world, unit.fetch(world))
    assert (order.order_id, order.sequence) == ("OTA-1-1", 5)


@pytest.mark.slow
def test_p24_a_report_for_an_order_that_the_platform_has_never_heard_of_ends(restored):
    """P8: it is no end of anything here, but what it says of the nodes is true, and the unit need not send it for ever."""
    world, unit, task = restored
    document = world.report(1, "OTA-7-1", outcome=Outcome.ROLLED_BACK, reason="self-test", versions=["2.0.5"] * 3)
    assert send(world, document) is ReportVerdict.UNKNOWN_ORDER
    note = newest_note(world)
    assert (note.action, note.outcome) == ("report.receive", "unknown-order")
    assert note.detail == f"{world.vin(1)} has no order OTA-7-1: rolled-back self-test"
    nodes = world.services.vehicles.detail(world.vin(1), by=world.people["vera"]).nodes
    assert {(node.version, node.is_confirmed) for node in nodes} == {("2.0.5", True)}
    assert str(seen(world, task).status) == "To be downloaded"
    again = world.report(1, "OTA-7-1", outcome=Outcome.ROLLED_BACK, reason="self-test")
    receipt = unit.deliver(world, again)
    assert (receipt.reason, receipt.detail) == ("unknown-order", f"{world.vin(1)} has no order OTA-7-1")


@pytest.mark.parametrize(("order_id", "number"), [("OTA-1-2", 1), ("nonsense", 1), ("OTA-999999999-1", 1)])
def test_p8_a_report_for_another_vehicles_order_or_none_ends_nothing(world, order_id, number):
    task = world.approved(1, 2)
    assert send(world, world.report(number, order_id)) is ReportVerdict.UNKNOWN_ORDER
    assert world.detail(task).counts == {"Approved": 2}
    assert world.services.counters["report_unknown_order"] == 1


@pytest.mark.parametrize(
    ("claimed", "learnt"),
    [(1 + SEQUENCE_AHEAD_MAX, True), (2 + SEQUENCE_AHEAD_MAX, False), (2**63 - 1, False), (1, False)],
)
def test_s15_a_unit_that_lies_about_its_sequence_does_not_end_the_numbers(world, claimed, learnt):
    """What no unit accepts at once, no unit has seen."""
    world.approved(1)
    assert vehicle_of(world).order_sequence == 1
    assert send(world, world.identity(1, sequence=claimed)) is ReportVerdict.ACCEPTED
    assert vehicle_of(world).order_sequence == (claimed if learnt else 1)


# -- an order that the unit does not believe --------------------------------------------------------------------------------


def test_an_order_that_the_unit_does_not_believe_ends_as_rejected_with_the_reason(world, unit):
    """Said in a session that the unit's key opened, about the very bytes that the platform gave."""
    task = world.approved(1)
    document = unit.fetch(world)
    assert unit.refuse(world, document, "wrong-hardware: expected an order for M-7, got one for M-000001") is None
    upgrade = seen(world, task)
    assert (str(upgrade.status), upgrade.source) == ("Rejected", Source.DEVICE_API)
    assert upgrade.reason == "wrong-hardware: expected an order for M-7, got one for M-000001"
    assert unit.fetch(world) is None


def test_an_order_that_was_changed_on_its_way_ends_nothing(world, unit):
    """The unit refused something else than it was given; the page says so, and the right order is still there."""
    task = world.approved(1)
    document = unit.fetch(world)
    assert unit.refuse(world, document[:-1], "malformed-document: x") is None
    upgrade = seen(world, task)
    assert str(upgrade.status) == "To be downloaded"
    assert upgrade.stage == "refused an order that the platform has not given: malformed-document: x"
    assert unit.fetch(world) == document


def test_an_order_that_is_refused_after_it_was_signed_again_is_rejected(world, unit):
    """A unit that says "replay" to everything ends, and not in a loop."""
    task = world.approved(1)
    document = unit.fetch(world)
    again = unit.refuse(world, document, "replay: x", sequence=9)
    assert unit.refuse(world, again, "replay: x", sequence=9) is None
    assert (str(seen(world, task).status), seen(world, task).reason) == ("Rejected", "replay: x")


def test_s15_a_refusal_far_ahead_is_no_reason_to_sign_again(world, unit):
    task = world.approved(1)
    assert unit.refuse(world, unit.fetch(world), "replay: x", sequence=2**63 - 1) is None
    assert str(seen(world, task).status) == "Rejected"
    assert vehicle_of(world).order_sequence == 1


def test_an_order_whose_release_is_about_to_expire_is_rejected_and_not_given_again(world, unit, release_files):
    """It cannot be signed again; the same one would be refused again."""
    world.register(1)
    world.identify(1)
    world.confirm(1)
    world.upload(release_files(expires=world.now.replace(hour=8, minute=30)))
    task = world.approve(world.create(1))
    assert unit.refuse(world, unit.fetch(world), "replay: x", sequence=1) is None
    assert str(seen(world, task).status) == "Rejected"


def test_a_refusal_needs_a_session_and_an_order(world, unit):
    task = world.approved(1)
    document = unit.fetch(world)
    request = device_api.refusal_request("x", order_sha256=sha256(document).digest(), sequence=0, reason="r")
    assert unit.ask(world, request, "another-token").status == 401
    assert str(seen(world, task).status) == "To be downloaded"
    world.services.ota_tasks.cancel(task.id, by=world.people["carol"], now=world.now)
    assert unit.refuse(world, document, "replay: x") is None
    assert str(seen(world, task).status) == "Cancelled"


# -- receipts ---------------------------------------------------------------------------------------------------------------


def test_p8_a_report_over_the_device_api_is_answered_with_a_signed_receipt(world, unit, sample_keys):
    task = world.approved(1)
    document = world.report(1, "OTA-1-1")
    receipt = unit.deliver(world, document)
    assert (receipt.reason, receipt.detail, receipt.counter) == ("", "", 1)
    assert receipt.time_s == int(world.now.timestamp())
    assert str(seen(world, task).status) == "Upgrade succeeded"
    # Again, because the answer was lost: as the first time.
    assert unit.deliver(world, document).reason == ""
    assert send(world, document) is ReportVerdict.REPEATED
    assert world.path(task)[-1] == "Upgrade succeeded"
    assert world.path(task).count("Upgrade succeeded") == 1
    # And it is worth nothing for another report.
    answer = unit.ask(world, device_api.report_request(unit.token, document))
    with pytest.raises(TrustError, match="wrong-document"):
        unit.trust.check_receipt(answer.body, world.report(1, "OTA-1-1"))
    with pytest.raises(TrustError, match="arbitrary-software"):
        verify_receipt(answer.body, sample_keys.manifest_public_keys)


def test_s32_a_unit_whose_counter_begins_anew_learns_from_the_receipt_and_old_reports_stay_replays(world, unit):
    """Erased flash, or another master with another key: the platform's number never falls."""
    task = world.approved(1)
    old = [world.report(1, "OTA-1-1", outcome=Outcome.FAILED, reason=f"{n}", counter=n) for n in (41, 42)]
    assert [send(world, document) for document in old] == [ReportVerdict.ACCEPTED, ReportVerdict.REPEATED]
    retried = {"vins": [world.vin(1)], "reason": "again", "by": world.people["carol"], "now": world.now}
    world.services.ota_tasks.retry(task.id, **retried)
    document = world.report(1, "OTA-1-1-2", counter=1)
    assert send(world, document) is ReportVerdict.REFUSED
    receipt = unit.deliver(world, document)
    assert (receipt.reason, receipt.counter) == ("replay", 42)
    assert str(seen(world, task).status) == "Approved"
    assert unit.deliver(world, world.report(1, "OTA-1-1-2", counter=receipt.counter + 1)).reason == ""
    assert str(seen(world, task).status) == "Upgrade succeeded"
    for replayed in (*old, document):
        assert send(world, replayed) is ReportVerdict.REFUSED
        assert unit.deliver(world, replayed).reason == "replay"
    assert vehicle_of(world).report_counter == 43


def test_s32_the_receipt_of_an_identity_report_names_the_identity_counter(world, unit):
    world.approved(1)
    assert world.confirm(1, counter=77) is ReportVerdict.ACCEPTED
    receipt = unit.deliver(world, world.identity(1, counter=3))
    assert (receipt.reason, receipt.counter) == ("replay", 77)


def test_s32_a_replaced_unit_with_another_key_is_accepted_and_no_report_of_the_old_one_is(world, unit):
    """Also when the old unit comes back later: what it had signed before stays a replay."""
    task = world.approved(1)
    old = world.report(1, "OTA-1-1", counter=9)
    assert (
        send(world, world.report(1, "OTA-1-1", counter=10, outcome=Outcome.FAILED, reason="x"))
        is ReportVerdict.ACCEPTED
    )
    carol, now = world.people["carol"], world.now
    world.services.ota_tasks.retry(task.id, vins=[world.vin(1)], reason="again", by=carol, now=now)
    token = unit.fetch(world) and unit.token
    new_key = world.device_key(world.vin(2))
    new, known = (key.public_key().public_bytes_raw() for key in (new_key, world.device_key(world.vin(1))))
    world.services.vehicles.replace_unit(vin=world.vin(1), hwid="M-000001", device_public_key=new, now=now, by=carol)
    assert unit.ask(world, device_api.order_request(token)).status == 401
    assert send(world, world.report(1, "OTA-1-1-2", counter=11)) is ReportVerdict.REFUSED
    first = world.report(1, "OTA-1-1-2", counter=1, key=new_key)
    receipt = unit.deliver(world, first)
    assert (receipt.reason, receipt.counter) == ("replay", 10)
    assert send(world, world.report(1, "OTA-1-1-2", counter=11, key=new_key)) is ReportVerdict.ACCEPTED
    assert str(seen(world, task).status) == "Upgrade succeeded"
    world.services.vehicles.replace_unit(vin=world.vin(1), hwid="M-000001", device_public_key=known, now=now, by=carol)
    assert send(world, old) is ReportVerdict.REFUSED
    entries = world.services.audit.page(PageRequest(1, 9), by=world.people["anna"]).items
    assert ("vehicle.replace_unit", "carol") in {(entry.action, entry.who) for entry in entries}


@pytest.mark.parametrize(
    ("document", "reason"),
    [(b"x", "malformed-document"), (b"\xd2" + bytes(3000), "malformed-document"), (bytes(15000), "endless-data")],
)
def test_what_is_no_report_gets_a_receipt_that_says_so(world, unit, document, reason):
    world.approved(1)
    assert unit.deliver(world, document).reason == reason


def test_a_report_needs_a_session_and_has_a_largest_size(world, unit):
    world.approved(1)
    assert unit.ask(world, device_api.report_request("x", b"y"), "another-token").status == 401
    assert unit.ask(world, HttpRequest("POST", device_api.REPORTS_PATH, {}, bytes(40 * 1024 + 1)), "x").status == 413


# -- kill -9 of the platform between "report taken" and "state saved" -------------------------------------------------------

KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from contextlib import contextmanager
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from conftest import make_world
    world = make_world(data_dir=Path(sys.argv[2]))
    task = world.approved(1)
    document = world.report(1, "OTA-1-1")
    Path(sys.argv[2], "report").write_bytes(document)
    store = world.cloud.store
    real = store.transaction

    @contextmanager
    def transaction():
        with real() as work:
            yield work
            if sys.argv[3] == "before":
                os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    store.transaction = transaction
    world.services.upgrades.receive_report(world.vin(1), document, world.now)
    """
)


@pytest.mark.slow
@pytest.mark.parametrize(("when", "answer"), [("before", ReportVerdict.ACCEPTED), ("after", ReportVerdict.REPEATED)])
def test_p23_a_platform_killed_while_it_takes_a_report_loses_nothing_and_counts_nothing_twice(
    new_world, sample_keys, tmp_path, when, answer
):
    """The unit got no answer and sends the report again: before the commit nothing had happened, behind it everything."""
    folder = Path(__file__).parent.parent
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(tmp_path), when],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ},
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    document = (tmp_path / "report").read_bytes()
    world = new_world("second", data_dir=tmp_path, people=False)
    with world.cloud.store.reading() as work:
        (upgrade,) = work.ota_tasks.upgrades(1)
        assert (str(upgrade.status), upgrade.ended_by_report) == (
            ("Approved", False) if when == "before" else ("Upgrade succeeded", True)
        )
    for verdict in (answer, ReportVerdict.REPEATED):
        assert send(world, document) is verdict
    with world.cloud.store.reading() as work:
        (upgrade,) = work.ota_tasks.upgrades(1)
        assert (str(upgrade.status), upgrade.report_document) == ("Upgrade succeeded", document)
        transitions = [str(step.status) for step in work.ota_tasks.transitions(1, [world.vin(1)])[world.vin(1)]]
        assert transitions.count("Upgrade succeeded") == 1
        assert len(work.ota_tasks.reports(1, [world.vin(1)])[world.vin(1)]) == 1
        assert str(work.ota_tasks.get(1).status) == "Finished"


# -- the same end twice, and one id for two orders


def reports_of(world):
    with world.cloud.store.reading() as work:
        return work.ota_tasks.reports(1, [world.vin(1)])[world.vin(1)]


def test_a_report_made_again_under_another_counter_is_the_same_one(world):
    """A unit whose journal is worn could not record that it was acknowledged, and reports once more behind a power-on."""
    task = world.approved(1)
    first = world.report(1, "OTA-1-1", sequence=1)
    assert send(world, first) is ReportVerdict.ACCEPTED
    path, noted = world.path(task), newest_note(world)
    again = world.report(1, "OTA-1-1", sequence=1)
    assert again != first
    for _ in range(2):
        assert send(world, again) is ReportVerdict.REPEATED
    assert world.path(task) == path
    assert newest_note(world) == noted
    assert len(reports_of(world)) == 1
    # Other words about the same order are kept, and end nothing more.
    other = world.report(
        1, "OTA-1-1", outcome=Outcome.FAILED, reason="slave 2 does not answer", versions=["2.1.0", "2.1.0"]
    )
    assert send(world, other) is ReportVerdict.REPEATED
    assert world.path(task) == path
    assert len(reports_of(world)) == 2


def test_p24_an_order_id_given_again_after_a_restored_backup_is_told_apart_by_its_release(world):
    """The platform that was restored gives task number 1 once more; the unit still has to report on the one that was lost."""
    task = world.approved(1)
    lost = world.report(1, "OTA-1-1", outcome=Outcome.FAILED, reason="too late", sequence=1, manifest_sha256=b"L" * 32)
    assert send(world, lost) is ReportVerdict.UNKNOWN_ORDER
    assert world.path(task) == ["Unapproved", "Approved"], "this order has not ended"
    assert reports_of(world) == ()
    release_id = world.upgrade(task).release_id
    with world.cloud.store.reading() as work:
        meant = bytes.fromhex(work.releases.get(release_id).manifest_sha256)
    assert send(world, world.report(1, "OTA-1-1", manifest_sha256=meant, sequence=9)) is ReportVerdict.ACCEPTED
    assert world.path(task)[-1] == "Upgrade succeeded", "signed again under a higher sequence it is the same order"
