"""Who may say what: every status of a vehicle against every source, and a stranger who knows the VIN (decision 18)."""

from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from itertools import product

import pytest
from bmsota_cloud.domain.equipment import ChangeStatus
from bmsota_cloud.domain.errors import ConflictError
from bmsota_cloud.domain.evidence import Source
from bmsota_cloud.domain.ota_tasks import OPEN_STATUSES, REPORT_TRANSITIONS, TRANSITIONS, VehicleStatus
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.pages.history_view import node_changes
from bmsota_cloud.services import ReportVerdict
from bmsota_cloud.services.equipment import REPORTED_CHANGES_MAX
from bmsota_cloud.services.histories import UNCONFIRMED_MAX
from bmsota_cloud.services.transitions import STATUSES_OF, move

from bmsota.gbt32960 import LocalUpgrade, LocalUpgradeOutcome, beijing_time
from bmsota.gbt32960 import UpgradeStateCode as Code
from bmsota.image import ImageVersion
from bmsota.ota import HttpRequest, NodeUpgradeOutcome, Outcome, ReportedUpgrade, device_api

V = VehicleStatus
ENDS = frozenset(VehicleStatus) - OPEN_STATUSES


def put(world, task, status, **fields):
    """The one vehicle of *task* in this status, whatever led there."""
    with world.cloud.store.transaction() as work:
        upgrade = replace(work.ota_tasks.upgrade(task.id, 1), status=status, **fields)
        work.ota_tasks.save_upgrade(upgrade)
    return upgrade


def seen(world, task):
    return world.detail(task).upgrades.items[0]


def status_of(world, task):
    return seen(world, task).status


# -- the table


def test_no_unsigned_word_is_an_end_and_only_a_signature_is_a_success():
    assert STATUSES_OF.keys() == set(Source)
    assert not STATUSES_OF[Source.UNSIGNED] & ENDS
    assert [source for source in Source if V.SUCCEEDED in STATUSES_OF[source]] == [Source.SIGNED]
    assert [source for source in Source if V.ROLLED_BACK in STATUSES_OF[source]] == [Source.SIGNED]
    assert [source for source in Source if V.TIMED_OUT in STATUSES_OF[source]] == [Source.PLATFORM]
    assert frozenset().union(*STATUSES_OF.values()) == set(VehicleStatus)


@pytest.mark.slow
def test_every_status_to_every_status_by_every_source(world):
    """What the two tables do not both allow is refused, and nothing is changed."""
    task = world.approved(1)
    known = replace(world.upgrade(task), source=Source.PLATFORM)
    with world.cloud.store.transaction() as work:
        for before, after, source in product(VehicleStatus, VehicleStatus, Source):
            upgrade = replace(known, status=before)
            work.ota_tasks.save_upgrade(upgrade)
            steps = REPORT_TRANSITIONS if source is Source.SIGNED else TRANSITIONS
            is_allowed = after in STATUSES_OF[source] and after in steps[before]
            try:
                move(work, upgrade, after, now=world.now, source=source)
            except ConflictError:
                assert not is_allowed, (before, after, source)
                assert work.ota_tasks.upgrade(task.id, 1) == upgrade
            else:
                assert is_allowed, (before, after, source)
                moved = work.ota_tasks.upgrade(task.id, 1)
                assert (moved.status, moved.source) == (after, source)


@pytest.mark.parametrize("status", VehicleStatus)
def test_an_unsigned_state_in_every_status(world, status):
    """No code of the cloud link, in no status, ends a vehicle, opens one again, or takes the operator's or the unit's right."""
    task = world.approved(1)
    for code in [*Code, 0, 77]:
        before = put(world, task, status, fetched_at=None)
        world.tell(world.vin(1), code, order_id="OTA-1-1", progress_pct=100, reason="r")
        after = world.upgrade(task)
        if status in OPEN_STATUSES - {V.UNAPPROVED}:
            assert after.status in STATUSES_OF[Source.UNSIGNED] | {status}
            assert seen(world, task).can_be_cancelled
            assert world.services.upgrades.pending_instruction(world.vin(1)) is not None
        else:
            assert after == before


# -- a stranger with a VIN


def unit_asks(world, request, token="unit-token"):
    return world.cloud.device_respond(device_api.authorised(request, token), world.now)


@pytest.mark.parametrize("code", [Code.FAILED, Code.REJECTED, Code.CANCELLED, Code.DOWNLOAD_COMPLETE, Code.SUCCEEDED])
def test_a_stranger_ends_no_upgrade(world, code):
    """The unit still gets its order, downloads, and its report ends it."""
    task = world.approved(1)
    for order_id in ("", "OTA-1-1"):
        world.tell(world.vin(1), code, order_id=order_id)
    world.session_of(1, "unit-token")
    assert unit_asks(world, device_api.order_request("unit-token")).status == 200
    assert (
        unit_asks(world, device_api.confirm_request("unit-token", "OTA-1-1", decision="accepted", reason="")).status
        == 200
    )
    world.fetch(1)
    document = world.report(1, "OTA-1-1")
    assert world.services.upgrades.receive_report(world.vin(1), document, world.now) is ReportVerdict.ACCEPTED
    assert (status_of(world, task), seen(world, task).source) == (V.SUCCEEDED, Source.SIGNED)


def test_a_vehicle_that_is_only_said_to_have_downloaded_can_be_cancelled(world):
    task = world.approved(1)
    world.tell(world.vin(1), Code.DOWNLOAD_COMPLETE)
    assert world.services.ota_tasks.cancel(task.id, by=world.people["carol"], now=world.now) == ()
    assert (status_of(world, task), seen(world, task).source) == (V.CANCELLED, Source.OPERATOR)


def test_an_order_that_expires_is_signed_again_whatever_a_stranger_says(world):
    task = world.approved(1)
    world.tell(world.vin(1), Code.DOWNLOAD_COMPLETE)
    world.wait(days=2, hours=23)
    world.tell(world.vin(1), Code.DOWNLOAD_COMPLETE)
    world.wait(days=2, hours=23)
    world.tell(world.vin(1), Code.DOWNLOAD_COMPLETE)
    world.wait(days=2)
    world.session_of(1, "unit-token")
    assert unit_asks(world, device_api.order_request("unit-token")).status == 200
    assert world.upgrade(task).sequence == 2


def test_a_slave_that_a_stranger_invents_is_not_missing_from_the_report(world):
    """Nor does a hardware class that it lies about make the release the wrong one."""
    task = world.approved(1)
    facts = world.facts(1)
    lies = [replace(fact, hardware_class="00000000-0000-0000-0000-000000000000", version="9.9.9") for fact in facts]
    extra = replace(facts[1], position=9, hwid="S-NONE")
    world.services.equipment.identify(world.vin(1), [*lies, extra], world.now)
    world.services.upgrades.receive_report(world.vin(1), world.report(1, "OTA-1-1"), world.now)
    assert (status_of(world, task), seen(world, task).reason) == (V.SUCCEEDED, "")
    nodes = world.services.vehicles.detail(world.vin(1), by=world.people["vera"]).nodes
    assert [(node.position, node.version, node.is_confirmed) for node in nodes] == [
        (position, "2.1.0", True) for position in range(3)
    ]


def test_versions_before_are_signed_ones(world):
    """Approved on an unsigned word alone; the unit's signature comes before it begins."""
    world.register(1)
    world.identify(1, version="1.0.0")
    world.upload()
    task = world.approve(world.create(1))
    assert {(v.version, v.is_signed) for v in seen(world, task).versions_before} == {("1.0.0", False)}
    world.confirm(1)
    assert {(v.version, v.is_signed) for v in seen(world, task).versions_before} == {("2.0.0", True)}
    world.identify(1, version="3.0.0")
    assert {(v.version, v.is_signed) for v in seen(world, task).versions_before} == {("2.0.0", True)}


# -- the download, as the device API sees it


def get(world, files, index, token="unit-token", **headers):
    path = device_api.image_path(sha256(files.images[index]).digest())
    return unit_asks(world, HttpRequest("GET", path, headers), token)


def test_what_the_device_api_has_served_decides_when_it_is_too_late(world, release_files):
    files = release_files()
    task = world.approved(1)
    world.session_of(1, "unit-token")
    size = len(files.images[0])
    assert get(world, files, 0, Range="bytes=0-99").status == 206
    assert (status_of(world, task), seen(world, task).source) == (V.DOWNLOADING, Source.DEVICE_API)
    world.tell(world.vin(1), Code.DOWNLOAD_COMPLETE)
    for index, headers, is_too_late in (
        (0, {"Range": f"bytes={size - 2}-{size - 2}"}, False),
        (0, {"Range": "bytes=100-"}, False),
        (1, {}, True),
        (1, {"Range": "bytes=0-5"}, False),
        (1, {"Range": "bytes=-1"}, True),
        (0, {"Range": "bytes=999999999-"}, True),
    ):
        get(world, files, index, **headers)
        assert seen(world, task).can_be_cancelled is not is_too_late, (index, headers)
        assert world.services.upgrades.pending_instruction(world.vin(1)) is not None
    assert world.upgrade(task).fetched_at == world.now


def test_a_download_is_being_heard_of_and_costs_few_writes(world, release_files):
    files = release_files()
    task = world.approved(1, time_limit_s=3600)
    token = world.session_of(1, "unit-token")
    for _ in range(10):
        world.wait(seconds=59)
        get(world, files, 0, token, Range="bytes=0-9")
    assert world.now - seen(world, task).heard_at < timedelta(seconds=119)


# -- identity reports


def verdict(world, number, **options):
    return world.confirm(number, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": "another"}, "arbitrary-software"),
        ({"named_vin": "TESTVEHICLE000002"}, "wrong-vehicle"),
        ({"counter": 0}, None),
    ],
)
def test_an_identity_report_that_can_not_be_believed_changes_nothing(world, options, words):
    world.register(1)
    world.register(2)
    world.confirm(1, version="1.0.0")
    if options.get("key"):
        options = {"key": world.device_key(world.vin(2))}
    if words is None:
        options, words = {"counter": 1}, "replay"
    world.wait(hours=2)
    assert verdict(world, 1, **options, version="9.0.0") is ReportVerdict.REFUSED
    assert verdict(world, 1, **options, version="9.0.1") is ReportVerdict.REFUSED
    nodes = world.services.vehicles.detail(world.vin(1), by=world.people["vera"]).nodes
    assert {node.version for node in nodes} == {"1.0.0"}
    world.services.link_watch.flush()
    newest = world.services.audit.page(PageRequest(), by=world.people["anna"]).items[0]
    assert (newest.subject, newest.outcome, newest.count) == (f"vehicle {world.vin(1)}", "refused-document", 2)
    assert words in newest.detail
    assert world.services.counters["identity_refused"] == 2


def test_the_same_identity_report_again_is_answered_and_changes_nothing(world):
    world.register(1)
    document = world.identity(1)
    receive = world.services.upgrades.receive_report
    assert receive(world.vin(1), document, world.now) is ReportVerdict.ACCEPTED
    world.wait(hours=1)
    assert receive(world.vin(1), document, world.now) is ReportVerdict.REPEATED
    assert receive("NOSUCHVEHICLE0001", document, world.now) is ReportVerdict.REFUSED


def test_the_two_counters_do_not_disturb_each_other(world):
    """A post-boot report waits for its answer while identity reports go past it."""
    task = world.approved(1)
    report = world.report(1, "OTA-1-1")
    for _ in range(5):
        assert verdict(world, 1) is ReportVerdict.ACCEPTED
    assert world.services.upgrades.receive_report(world.vin(1), report, world.now) is ReportVerdict.ACCEPTED
    assert status_of(world, task) is V.SUCCEEDED


def test_a_local_upgrade_is_confirmed_by_the_identity_report(world):
    """Told before, or heard of for the first time; a repetition confirms nothing twice."""
    vin = world.register(1)
    at_s = int(world.now.timestamp())
    upgrade = ReportedUpgrade(
        at_s=at_s,
        position=2,
        hwid="S-000001-2",
        version_before=ImageVersion(2),
        version_after=ImageVersion(2, 1),
        outcome=NodeUpgradeOutcome.SUCCEEDED,
    )

    def history():
        items = world.services.histories.page(vin, PageRequest(), by=world.people["vera"]).items
        return [(entry.nodes[0].version_after, entry.tool, entry.is_confirmed) for entry in items]

    world.services.histories.receive(vin, [local(upgrade, tool="bmsota")], world.now)
    assert history() == [("2.1.0", "bmsota", False)]
    world.wait(minutes=1)
    verdict(world, 1, upgrades=(upgrade,))
    assert history() == [("2.1.0", "bmsota", True)]
    other = replace(upgrade, at_s=at_s + 30, version_after=ImageVersion(2, 2))
    verdict(world, 1, upgrades=(upgrade, other))
    assert history() == [("2.2.0", "", True), ("2.1.0", "bmsota", True)]
    # What comes unsigned afterwards is the same upgrade. It names the tool once, where nothing was named, and takes nothing away.
    told = [local(upgrade, tool="x"), local(other, tool="y")]
    assert [world.services.histories.receive(vin, told, world.now) for _ in range(2)] == [1, 0]
    assert world.services.histories.receive(vin, [local(other, tool="z")], world.now) == 0
    assert history() == [("2.2.0", "y", True), ("2.1.0", "bmsota", True)]


def test_another_build_shows_in_the_history_by_its_digests(world):
    """The same version before and after; the frame has no digest, the signed report has."""
    vin = world.register(1)
    upgrade = ReportedUpgrade(
        at_s=int(world.now.timestamp()),
        position=2,
        hwid="S-000001-2",
        version_before=ImageVersion(2),
        version_after=ImageVersion(2),
        outcome=NodeUpgradeOutcome.SUCCEEDED,
        sha256_before=b"a" * 32,
        sha256_after=b"b" * 32,
    )
    world.services.histories.receive(vin, [local(upgrade)], world.now)
    verdict(world, 1, upgrades=(upgrade,))
    (entry,) = world.services.histories.page(vin, PageRequest(), by=world.people["vera"]).items
    (step,) = entry.nodes
    assert (step.image_before, step.image_after, step.is_other_build) == ("61" * 32, "62" * 32, True)
    (change,) = node_changes(entry)
    assert (change.before, change.after) == ("2.0.0 (61616161)", "2.0.0 (62626262)")


def test_slot_sizes_come_with_the_identity_and_stay_with_the_hardware(world):
    vin = world.register(1)
    facts = [replace(fact, slot_size_kib=512) for fact in world.facts(1)]
    verdict(world, 1, facts=facts)
    nodes = world.services.vehicles.detail(vin, by=world.people["vera"]).nodes
    assert {node.slot_size_kib for node in nodes} == {512}


def local(upgrade, *, tool=""):
    def numbers(version):
        return (version.major, version.minor, version.revision, version.build)

    return LocalUpgrade(
        upgraded_at=beijing_time(upgrade.at_s * 1_000_000_000),
        position=upgrade.position,
        hwid=upgrade.hwid,
        version_before=numbers(upgrade.version_before),
        version_after=numbers(upgrade.version_after),
        outcome=LocalUpgradeOutcome[upgrade.outcome.name],
        tool=tool,
        detail="",
    )


@pytest.mark.slow
def test_unsigned_local_upgrades_fill_no_history(world):
    """Beyond what a unit keeps they are refused; the signature still gets through."""
    vin = world.register(1)
    made = [
        ReportedUpgrade(
            at_s=int(world.now.timestamp()) + number,
            position=1,
            hwid="S",
            version_before=ImageVersion(1),
            version_after=ImageVersion(2),
            outcome=NodeUpgradeOutcome.SUCCEEDED,
        )
        for number in range(UNCONFIRMED_MAX + 64)
    ]
    for start in range(0, UNCONFIRMED_MAX, 64):
        assert world.services.histories.receive(vin, [local(u) for u in made[start : start + 64]], world.now) == 64
    for _ in range(3):
        with pytest.raises(ConflictError):
            world.services.histories.receive(vin, [local(u) for u in made[UNCONFIRMED_MAX:]], world.now)
    verdict(world, 1, upgrades=tuple(made[UNCONFIRMED_MAX:]))
    page = world.services.histories.page(vin, PageRequest(1, 1), by=world.people["vera"])
    assert page.total == UNCONFIRMED_MAX + 64
    world.services.link_watch.flush()
    lines = world.services.audit.page(PageRequest(1, 500), by=world.people["anna"], subject=f"vehicle {vin}").items
    assert [line.count for line in lines if line.outcome == "too-many-local-upgrades"] == [3]


def test_a_rolled_back_order_is_what_the_report_says_beside_unsigned_success(world):
    task = world.approved(1)
    world.tell(world.vin(1), Code.SUCCEEDED)
    document = world.report(1, "OTA-1-1", outcome=Outcome.ROLLED_BACK, reason="r", versions=["2.0.0"] * 3)
    world.services.upgrades.receive_report(world.vin(1), document, world.now)
    assert status_of(world, task) is V.ROLLED_BACK


# -- equipment


def changes_of(world, number=1):
    items = world.services.equipment.page(PageRequest(1, 500), by=world.people["vera"], vin=world.vin(number)).items
    return [(c.position, c.old_hwid, c.new_hwid, c.status) for c in items]


def detail(world, number=1):
    return world.services.vehicles.detail(world.vin(number), by=world.people["vera"])


def with_slave(world, hwid, *, number=1, position=2, **changes):
    return [replace(f, hwid=hwid, **changes) if f.position == position else f for f in world.facts(number)]


def test_a_reported_exchange_is_confirmed_by_the_signature(world):
    vin = world.register(1)
    world.identify(1)
    world.confirm(1)
    assert changes_of(world) == []
    world.wait(hours=1)
    world.services.equipment.identify(vin, with_slave(world, "S-NEW"), world.now)
    assert changes_of(world) == [(2, "S-000001-2", "S-NEW", ChangeStatus.REPORTED)]
    assert [node.hwid for node in detail(world).nodes] == ["M-000001", "S-000001-1", "S-000001-2"]
    assert {position: node.hwid for position, node in detail(world).reported.items()} == {2: "S-NEW"}
    world.wait(minutes=1)
    world.confirm(1, facts=with_slave(world, "S-NEW"))
    assert changes_of(world) == [(2, "S-000001-2", "S-NEW", ChangeStatus.CONFIRMED)]
    assert [node.hwid for node in detail(world).nodes] == ["M-000001", "S-000001-1", "S-NEW"]
    assert detail(world).reported == {}


def test_an_exchange_that_the_signature_knows_nothing_of_is_refuted(world):
    vin = world.register(1)
    world.confirm(1)
    world.services.equipment.identify(vin, with_slave(world, "S-EVIL"), world.now)
    world.wait(minutes=1)
    world.confirm(1)
    assert changes_of(world) == [(2, "S-000001-2", "S-EVIL", ChangeStatus.REFUTED)]
    assert detail(world).reported == {}


def test_an_exchange_by_signature_alone_is_confirmed_at_once(world):
    world.register(1)
    world.confirm(1)
    world.confirm(1, facts=with_slave(world, "S-NEW"))
    world.confirm(1, slaves=3)
    assert changes_of(world) == [
        (3, "", "S-000001-3", ChangeStatus.CONFIRMED),
        (2, "S-NEW", "S-000001-2", ChangeStatus.CONFIRMED),
        (2, "S-000001-2", "S-NEW", ChangeStatus.CONFIRMED),
    ]


def test_the_first_signature_forgets_what_a_stranger_invented(world):
    """Told first: another slave at 2, one too many at 9."""
    vin = world.register(1)
    facts = with_slave(world, "S-EVIL")
    world.services.equipment.identify(vin, [*facts, replace(facts[1], position=9, hwid="S-NONE")], world.now)
    world.wait(minutes=1)
    world.services.equipment.identify(vin, world.facts(1), world.now)
    world.wait(minutes=1)
    world.confirm(1)
    assert [(n.position, n.hwid, n.is_confirmed) for n in detail(world).nodes] == [
        (0, "M-000001", True),
        (1, "S-000001-1", True),
        (2, "S-000001-2", True),
    ]


def test_a_confirmed_slave_that_does_not_answer_is_absent_and_a_stranger_makes_none_absent(world):
    vin = world.register(1)
    world.confirm(1)
    facts = world.facts(1)
    world.services.equipment.identify(vin, [*facts[:2], replace(facts[2], state="absent")], world.now)
    assert [node.state for node in detail(world).nodes] == ["running"] * 3
    assert detail(world).reported[2].state == "absent"
    world.wait(minutes=1)
    world.confirm(1, facts=facts[:2])
    assert [node.state for node in detail(world).nodes] == ["running", "running", "absent"]
    assert changes_of(world) == []


@pytest.mark.slow
def test_a_flood_of_identities_fills_no_record(world):
    """Made-up slaves without end: a day's record of a vehicle ends at 32, and one that repeats itself at one."""
    vin = world.register(1)
    world.register(2)
    world.confirm(1)
    for number in range(60):
        world.services.equipment.identify(vin, with_slave(world, f"S-EVIL-{number}"), world.now)
    assert len(changes_of(world)) == REPORTED_CHANGES_MAX
    for _ in range(3):
        world.wait(days=2)
        world.services.equipment.identify(vin, with_slave(world, "S-EVIL-1"), world.now)
    assert len(changes_of(world)) == REPORTED_CHANGES_MAX
    # A vehicle that has never signed: its nodes move with every word.
    for number in range(60):
        world.services.equipment.identify(world.vin(2), with_slave(world, f"S-EVIL-{number}", number=2), world.now)
    assert len(changes_of(world, 2)) == REPORTED_CHANGES_MAX


def test_what_a_post_boot_report_does_not_name_is_not_confirmed_by_it(world):
    """Serial number and class come from the identity report; what only the frame says of them is no fact."""
    world.register(1)
    world.services.equipment.identify(world.vin(1), [replace(f, serial="LIE") for f in world.facts(1)], world.now)
    world.upload()
    world.approve(world.create(1))
    world.services.upgrades.receive_report(world.vin(1), world.report(1, "OTA-1-1"), world.now)
    assert [(n.serial, n.hardware_class, n.is_confirmed) for n in detail(world).nodes] == [("", "", True)] * 3
    world.confirm(1, version="2.1.0")
    assert [n.serial for n in detail(world).nodes] == [f"serial {f.hwid}" for f in world.facts(1)]
