"""What is told of a vehicle before its approval."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from bmsota_cloud.domain.ota_tasks import NodeVersion, VehicleStatus, VehicleUpgrade
from bmsota_cloud.domain.releases import Release, ReleasedImage
from bmsota_cloud.domain.vehicle_checks import RemarkKind, check_vehicle
from bmsota_cloud.domain.vehicles import NodeKind, Vehicle, VehicleNode

NOW = datetime(2026, 11, 22, tzinfo=UTC)
CAR = Vehicle(vin="V" * 17, series="F7", project="p", hwid="M", device_public_key=b"k" * 32, registered_at=NOW)


def image(kind, hardware_class, version="2.1.0", counter=3):
    return ReleasedImage(
        kind=kind, hardware_class=hardware_class, version=version, security_counter=counter, size_bytes=9, sha256="ab"
    )


RELEASE = Release(
    id=1,
    name="F7-2.1.0",
    software_version="2.1.0",
    series="F7",
    manifest_sha256="cd",
    images=(image("master", "m"), image("slave", "s")),
    expires_at=NOW,
    uploaded_by="carol",
    uploaded_at=NOW,
)


def node(position, version="2.0.0", **fields):
    kind = NodeKind.SLAVE if position else NodeKind.MASTER
    asked = {"hwid": f"H{position}", "hardware_class": "s" if position else "m", "security_counter": 2, "serial": ""}
    asked |= {"vin": CAR.vin, "state": "running", "updated_at": NOW}
    return VehicleNode(position=position, kind=kind, version=version, **asked | fields)


def signed(*nodes):
    return tuple(
        NodeVersion(position=item.position, hwid=item.hwid, version=item.version, image_sha256=item.image_sha256)
        for item in nodes
    )


def kinds(check):
    return [remark.kind for remark in check.remarks]


def test_a_vehicle_that_needs_the_release_has_no_remark():
    check = check_vehicle(CAR, RELEASE, [node(0), node(1)], ())
    assert kinds(check) == []
    assert [(n.position, n.version, n.target_version, n.is_signed) for n in check.nodes] == [
        (0, "2.0.0", "2.1.0", False),
        (1, "2.0.0", "2.1.0", False),
    ]


def test_what_already_runs_counts_only_by_a_signed_report_of_this_very_pack():
    nodes = [node(0, "2.1.0"), node(1, "2.1.0")]
    check = check_vehicle(CAR, RELEASE, nodes, signed(*nodes))
    assert kinds(check) == [RemarkKind.ALREADY_RUNS]
    assert check.already_runs
    assert check.remarks[0].text == "already runs 2.1.0, by its signed report"
    exchanged = [nodes[0], replace(nodes[1], hwid="OTHER")]
    absent = [nodes[0], replace(nodes[1], state="absent")]
    for known, report in (
        (nodes, ()),
        (nodes, signed(nodes[0])),
        (nodes, signed(nodes[0], node(1, "2.0.0"))),
        (nodes, signed(*nodes, node(2, "2.1.0"))),
        (exchanged, signed(*nodes)),
        (absent, signed(*nodes)),
    ):
        check = check_vehicle(CAR, RELEASE, known, report)
        assert kinds(check) == [RemarkKind.SAID_TO_RUN]
        assert not check.already_runs
    mixed = [nodes[0], node(1)]
    assert kinds(check_vehicle(CAR, RELEASE, mixed, signed(*mixed))) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"version": "2.1.1"}, "slave 1: 2.1.1 is newer than 2.1.0"),
        ({"version": "2.1.0+7"}, "slave 1: 2.1.0+7 is newer than 2.1.0"),
        ({"version": "2.10.0"}, "slave 1: 2.10.0 is newer than 2.1.0"),
        (
            {"version": "2.0.0", "security_counter": 4},
            "slave 1: security counter 4 is above 3, the unit will refuse the image",
        ),
    ],
)
def test_a_downgrade_is_told(fields, words):
    check = check_vehicle(CAR, RELEASE, [node(0), node(1, **fields)], ())
    assert [(remark.kind, remark.text) for remark in check.remarks] == [(RemarkKind.DOWNGRADE, words)]


def test_what_is_said_of_many_nodes_is_said_once():
    nodes = [node(0), *(node(number, "3.0.0") for number in range(1, 32))]
    check = check_vehicle(CAR, RELEASE, nodes, ())
    assert [remark.text for remark in check.remarks] == [
        "slave 1, slave 2, slave 3 and 28 more: 3.0.0 is newer than 2.1.0"
    ]


def test_a_version_that_is_none_is_no_downgrade():
    assert kinds(check_vehicle(CAR, RELEASE, [node(0, ""), node(1, "unknown")], ())) == []


def test_a_wrong_class_is_told():
    check = check_vehicle(CAR, RELEASE, [node(0), node(1, hardware_class="x")], ())
    assert [remark.text for remark in check.remarks] == ["slave 1: release F7-2.1.0 has no image for hardware class x"]
    assert check.nodes[1].target_version == ""
    master_only = replace(RELEASE, images=RELEASE.images[:1])
    check = check_vehicle(CAR, master_only, [node(0), node(1)], ())
    assert [remark.text for remark in check.remarks] == ["slave 1: release F7-2.1.0 has no image for a slave"]
    # A class that is not known is no wrong class.
    assert kinds(check_vehicle(CAR, RELEASE, [node(0, hardware_class="")], ())) == []


def test_no_key_and_never_heard_and_busy_are_told():
    other = VehicleUpgrade(task_id=4, vin=CAR.vin, place=1, release_id=1, status=VehicleStatus.DOWNLOADING)
    waiting = replace(other, task_id=5, status=VehicleStatus.UNAPPROVED)
    check = check_vehicle(replace(CAR, device_public_key=None), RELEASE, [], (), [other, waiting])
    assert [(remark.kind.value, remark.text) for remark in check.remarks] == [
        ("no-key", "registered without a device key: it can be monitored, not upgraded"),
        ("never-heard", "has never reported its nodes: what it runs is not known"),
        ("busy", "is part of OTA-4 (Downloading)"),
        ("busy", "is part of OTA-5, which waits for its approval"),
    ]


def test_another_build_of_the_version_does_not_already_run_it():
    """By digest, where a signed document has said it; it will be flashed."""
    nodes = [node(0, "2.1.0", image_sha256="ab"), node(1, "2.1.0", image_sha256="ab")]
    assert check_vehicle(CAR, RELEASE, nodes, signed(*nodes)).already_runs
    nodes = [nodes[0], replace(nodes[1], image_sha256="ef" * 32)]
    check = check_vehicle(CAR, RELEASE, nodes, signed(*nodes))
    assert not check.already_runs
    (remark,) = check.remarks
    assert (remark.kind, remark.text) == (
        RemarkKind.OTHER_BUILD,
        "slave 1: runs another build of 2.1.0 (efefefefefefefef); it will be flashed",
    )


@pytest.mark.parametrize(
    ("slot_size_kib", "size_bytes", "fits"),
    [(0, 10**9, True), (65535, 10**9, True), (64, 64 * 1024, True), (64, 65 * 1024 - 1, True), (64, 65 * 1024, False)],
)
def test_an_image_too_large_for_its_slot_is_told_before_the_approval(slot_size_kib, size_bytes, fits):
    """As the node decides it: what it says is rounded down to whole KiB."""
    release = replace(RELEASE, images=(image("master", "m"), replace(image("slave", "s"), size_bytes=size_bytes)))
    check = check_vehicle(CAR, release, [node(0), node(1, slot_size_kib=slot_size_kib)], ())
    words = f"slave 1: the image of {size_bytes} bytes does not fit the slot of {slot_size_kib} KiB, the unit will refuse the order"
    assert [(remark.kind, remark.text) for remark in check.remarks] == ([] if fits else [(RemarkKind.TOO_LARGE, words)])


def test_a_mixed_pack_is_told_by_the_units_word_or_by_what_was_confirmed():
    said = replace(CAR, mixed_pack="master runs 2.0.0, slave 1 runs 2.1.0")
    (remark,) = check_vehicle(said, RELEASE, [node(0), node(1, "2.1.0")], ()).remarks
    assert (remark.kind, remark.text) == (RemarkKind.MIXED_PACK, f"mixed pack: {said.mixed_pack}")
    nodes = [node(0), node(1, confirmed_at=NOW), node(2, "1.9.0", confirmed_at=NOW)]
    (remark,) = check_vehicle(CAR, RELEASE, nodes, ()).remarks
    assert remark.text == "mixed pack: slave 1: 2.0.0, slave 2: 1.9.0"
    assert kinds(check_vehicle(CAR, RELEASE, [*nodes[:2], replace(nodes[2], confirmed_at=None)], ())) == []
