"""The table of statuses, alone."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from bmsota_cloud.domain.errors import ConflictError
from bmsota_cloud.domain.ota_tasks import (
    ATTEMPTS_MAX,
    OPEN_STATUSES,
    REPORT_TRANSITIONS,
    TRANSITIONS,
    OtaTask,
    VehicleStatus,
    VehicleUpgrade,
    advance,
    content_digest,
    encode_vehicles,
    may_cancel,
    may_end,
    may_retry,
    needs_instruction,
    retry,
)
from bmsota_cloud.domain.projects import ApprovalWay

NOW = datetime(2026, 11, 22, tzinfo=UTC)
ORDER = list(VehicleStatus)


def upgrade(status: VehicleStatus, **fields) -> VehicleUpgrade:
    return VehicleUpgrade(task_id=7, vin="V" * 17, place=1, release_id=1, status=status, **fields)


def test_the_words_are_the_platforms_own_to_the_letter():
    assert [str(status) for status in VehicleStatus] == [
        "Unapproved",
        "Approved",
        "To be downloaded",
        "Downloading",
        "Download Complete",
        "Upgrade succeeded",
        "Upgrade failed",
        "Rolled back",
        "Rejected",
        "Timed out",
        "Cancelled",
    ]


def test_both_tables_speak_of_every_status():
    assert set(TRANSITIONS) == set(REPORT_TRANSITIONS) == set(VehicleStatus)


@pytest.mark.parametrize("source", ORDER)
@pytest.mark.parametrize("target", ORDER)
def test_no_step_outside_the_table_is_taken(source, target):
    """Whatever is asked: either the table allows it, or nothing is returned."""
    if target in TRANSITIONS[source]:
        moved, transition = advance(upgrade(source), target, at=NOW, reason="why")
        assert (moved.status, transition.status, transition.at, transition.reason) == (target, target, NOW, "why")
    else:
        with pytest.raises(ConflictError):
            advance(upgrade(source), target, at=NOW)


def test_open_statuses_never_go_back():
    chain = [status for status in ORDER if status in OPEN_STATUSES]
    for place, status in enumerate(chain):
        assert not TRANSITIONS[status] & set(chain[: place + 1])


def test_success_and_roll_back_come_from_a_signed_report_only():
    for targets in TRANSITIONS.values():
        assert not targets & {VehicleStatus.SUCCEEDED, VehicleStatus.ROLLED_BACK}


@pytest.mark.parametrize("source", ORDER)
@pytest.mark.parametrize("target", ORDER)
def test_a_report_moves_by_its_own_table_and_once(source, target):
    if target not in REPORT_TRANSITIONS[source]:
        with pytest.raises(ConflictError):
            advance(upgrade(source), target, at=NOW, by_report=True)
        return
    moved, _ = advance(upgrade(source), target, at=NOW, by_report=True)
    assert moved.ended_by_report
    for again in ORDER:
        with pytest.raises(ConflictError):
            advance(moved, again, at=NOW, by_report=True)


def test_a_complete_download_shows_all_of_the_bar():
    moved, _ = advance(upgrade(VehicleStatus.DOWNLOADING, progress_pct=62), VehicleStatus.DOWNLOAD_COMPLETE, at=NOW)
    assert moved.progress_pct == 100


def test_what_can_be_cancelled_and_what_is_told_at_login():
    """ "Download Complete" is an unsigned word: it counts when the device API has served the images too."""
    assert [s for s in ORDER if may_cancel(upgrade(s, fetched_at=NOW))] == ORDER[:4]
    # A unit that has lost its order behind the download is told again.
    assert [s for s in ORDER if needs_instruction(upgrade(s, fetched_at=NOW))] == ORDER[1:5]
    assert [s for s in ORDER if may_cancel(upgrade(s))] == ORDER[:5]
    assert [s for s in ORDER if needs_instruction(upgrade(s))] == ORDER[1:5]


def test_the_digest_of_a_task_changes_with_everything_that_is_approved():
    task = OtaTask(
        id=3,
        project="p",
        reason="r",
        software_version="2.1.0",
        creator="c",
        auditor="a",
        time_limit_s=60,
        created_at=NOW,
    )
    one, two = ("A" * 17, "M1", "aa"), ("B" * 17, "M2", "aa")

    def digest(task=task, vehicles=(one, two), way=ApprovalWay.AUDIT_MAILBOX, mailbox="box@example.org"):
        return content_digest(task, encode_vehicles(vehicles), way=way, mailbox=mailbox)

    assert digest(vehicles=(two, one)) == digest()
    others = [
        digest(replace(task, id=4)),
        digest(replace(task, project="q")),
        digest(replace(task, reason="s")),
        digest(replace(task, software_version="2.1.1")),
        digest(replace(task, creator="d")),
        digest(replace(task, auditor="b")),
        digest(replace(task, time_limit_s=61)),
        digest(replace(task, supersedes=True)),
        digest(vehicles=[one]),
        digest(vehicles=[one, ("B" * 17, "M2", "ab")]),
        digest(vehicles=[one, ("B" * 17, "M3", "aa")]),
        digest(way=ApprovalWay.NAMED_AUDITOR),
        digest(mailbox="other@example.org"),
    ]
    assert len({digest(), *others}) == len(others) + 1


@pytest.mark.parametrize("status", ORDER)
def test_a_retry_begins_again_with_an_order_of_its_own(status):
    old = upgrade(
        status,
        reason="why",
        stage="downloading",
        progress_pct=43,
        sequence=5,
        order_document=b"signed",
        confirmed_at=NOW,
        ended_by_report=True,
        report_document=b"report",
    )
    if status in {VehicleStatus.UNAPPROVED, VehicleStatus.SUCCEEDED}:
        assert not may_retry(old)
        with pytest.raises(ConflictError, match="nothing to retry"):
            retry(old, at=NOW, reason="again")
        return
    moved, transition = retry(old, at=NOW, reason="again")
    assert moved == upgrade(VehicleStatus.APPROVED, sequence=5, heard_at=NOW, attempt=2)
    assert (old.order_id, moved.order_id) == ("OTA-7-1", "OTA-7-1-2")
    assert (transition.status, transition.reason) == (VehicleStatus.APPROVED, "again")


def test_attempts_have_an_end():
    assert may_retry(upgrade(VehicleStatus.FAILED, attempt=ATTEMPTS_MAX - 1))
    assert not may_retry(upgrade(VehicleStatus.FAILED, attempt=ATTEMPTS_MAX))


def test_a_person_can_end_a_vehicle_at_every_open_status():
    for status in ORDER:
        assert may_end(upgrade(status)) == (status in OPEN_STATUSES)
        if status in OPEN_STATUSES:
            assert advance(upgrade(status), VehicleStatus.CANCELLED, at=NOW)[0].status is VehicleStatus.CANCELLED
