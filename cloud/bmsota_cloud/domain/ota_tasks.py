"""OTA tasks, the upgrade of each of their vehicles, and the rules between them.

The statuses of a vehicle are the platform's own words, to the letter. Which may follow which is a table; nothing sets
a status but `advance`, and every step leaves a `Transition` with its time and reason::

    Unapproved --approval--> Approved --instruction sent--> To be downloaded --> Downloading --> Download Complete
                                                                                                      |
                     signed post-boot report, and nothing else:   Upgrade succeeded | Rolled back <---+

    beside them, from every open status: Upgrade failed, Rejected, Timed out, Cancelled

Who may set which status is a second table (`bmsota_cloud.services.transitions.STATUSES_OF`): an unsigned frame of the
cloud link leads to "Download Complete" at most, and takes no right from the operator.

A signed report is a fact about the pack, a time-out or a cancellation is only what the platform assumed: therefore a
report may still correct those ends. What a report has ended stays ended.

"Approved" lasts until the instruction was sent to the vehicle, so an operator sees at a glance which vehicles have not
been reached; from then on it is "To be downloaded" while the unit waits for a safe state, authenticates and confirms.

A person can end a vehicle at any open status, and retry one that did not succeed: a retry is another *attempt* within the
task, with an order and an order id of its own, so that a late report of an earlier attempt is never taken for the new one's.

What is done to all vehicles of a task goes in slices, one transaction each. The `TaskAct` says what is under way and how
far it is: whatever process finds one carries it on, and an order or a transition is made once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING

import cbor2

from bmsota_cloud.domain.errors import ConflictError
from bmsota_cloud.domain.evidence import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from bmsota_cloud.domain.projects import ApprovalWay

__all__ = [
    "APPROVAL_TRIES_MAX",
    "ATTEMPTS_MAX",
    "FAILED_STATUSES",
    "OPEN_STATUSES",
    "REPORT_TRANSITIONS",
    "TASK_VEHICLES_MAX",
    "TRANSITIONS",
    "ActKind",
    "ApprovalCode",
    "NodeVersion",
    "OrderReport",
    "OtaTask",
    "TaskAct",
    "TaskStatus",
    "Transition",
    "VehicleStatus",
    "VehicleUpgrade",
    "advance",
    "content_digest",
    "encode_vehicles",
    "is_before_the_switch",
    "last_message_at",
    "may_cancel",
    "may_end",
    "may_retry",
    "needs_instruction",
    "order_id_of",
    "retry",
    "task_key",
]

# Six digits and five tries: a guesser has one chance in 200,000 a code, and every new code is mailed to the auditor,
# who notices the attempt.
APPROVAL_TRIES_MAX = 5

# RFC 8949, 3.1: major type 4, for arrays of up to 23 items.
_CBOR_ARRAY = 0x80

# A vehicle that fails this often needs a technician; and an order id has a limited length.
ATTEMPTS_MAX = 99

# The list of a task is written in one transaction; a larger fleet is several tasks.
TASK_VEHICLES_MAX = 5000


class VehicleStatus(StrEnum):
    """How far the upgrade of one vehicle is. The values are shown as they stand."""

    UNAPPROVED = "Unapproved"
    APPROVED = "Approved"
    TO_BE_DOWNLOADED = "To be downloaded"
    DOWNLOADING = "Downloading"
    """Shown as a progress bar."""
    DOWNLOAD_COMPLETE = "Download Complete"
    SUCCEEDED = "Upgrade succeeded"
    FAILED = "Upgrade failed"
    ROLLED_BACK = "Rolled back"
    REJECTED = "Rejected"
    TIMED_OUT = "Timed out"
    CANCELLED = "Cancelled"


_V = VehicleStatus
_STOPS = frozenset({_V.FAILED, _V.REJECTED, _V.TIMED_OUT, _V.CANCELLED})
_NOTHING: frozenset[VehicleStatus] = frozenset()

TRANSITIONS: dict[VehicleStatus, frozenset[VehicleStatus]] = {
    _V.UNAPPROVED: frozenset({_V.APPROVED, _V.CANCELLED}),
    # A unit's next message may come when it is far ahead (frames are lost with a link), so steps may be skipped.
    _V.APPROVED: frozenset({_V.TO_BE_DOWNLOADED, _V.DOWNLOADING, _V.DOWNLOAD_COMPLETE}) | _STOPS,
    _V.TO_BE_DOWNLOADED: frozenset({_V.DOWNLOADING, _V.DOWNLOAD_COMPLETE}) | _STOPS,
    _V.DOWNLOADING: frozenset({_V.DOWNLOAD_COMPLETE}) | _STOPS,
    _V.DOWNLOAD_COMPLETE: _STOPS,
    _V.SUCCEEDED: _NOTHING,
    _V.FAILED: _NOTHING,
    _V.ROLLED_BACK: _NOTHING,
    _V.REJECTED: _NOTHING,
    _V.TIMED_OUT: _NOTHING,
    _V.CANCELLED: _NOTHING,
}
"""What may follow without a signed report."""

_REPORTABLE = frozenset({_V.SUCCEEDED, _V.ROLLED_BACK, _V.FAILED, _V.REJECTED})

REPORT_TRANSITIONS: dict[VehicleStatus, frozenset[VehicleStatus]] = {
    _V.UNAPPROVED: _NOTHING,
    _V.APPROVED: _REPORTABLE,
    _V.TO_BE_DOWNLOADED: _REPORTABLE,
    _V.DOWNLOADING: _REPORTABLE,
    _V.DOWNLOAD_COMPLETE: _REPORTABLE,
    _V.SUCCEEDED: _NOTHING,
    _V.FAILED: _REPORTABLE,
    _V.ROLLED_BACK: _NOTHING,
    _V.REJECTED: _REPORTABLE,
    _V.TIMED_OUT: _REPORTABLE,
    # A unit that learns of the cancellation reports that it did not upgrade, which "Cancelled" already says.
    _V.CANCELLED: frozenset({_V.SUCCEEDED, _V.ROLLED_BACK}),
}
"""What a signed report may lead to, unless a report has ended this vehicle already."""

OPEN_STATUSES = frozenset(
    {_V.UNAPPROVED, _V.APPROVED, _V.TO_BE_DOWNLOADED, _V.DOWNLOADING, _V.DOWNLOAD_COMPLETE},
)
"""A vehicle in one of these has an open task, and can't be part of another."""

FAILED_STATUSES = frozenset({_V.FAILED, _V.ROLLED_BACK, _V.REJECTED, _V.TIMED_OUT})
"""Ends that no person chose and that are not success: what "retry all failed" retries."""

_BEFORE_DOWNLOAD = frozenset({_V.APPROVED, _V.TO_BE_DOWNLOADED, _V.DOWNLOADING})


class TaskStatus(StrEnum):
    """The task as a whole."""

    UNAPPROVED = "Unapproved"
    APPROVED = "Approved"
    """The auditor's code was right; its vehicles are under way."""
    FINISHED = "Finished"
    """Every vehicle has come to an end, whichever."""
    CANCELLED = "Cancelled"
    """Before it was approved; or later, and no vehicle has come to another end: cancelled, or taken over by newer tasks. Such a
    task takes no retry, which would start it on an approval that was taken back. One that a cancellation came too late for is
    Finished, and so is one whose last vehicles were ended by force, one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtaTask:
    """An update of many vehicles to one software version."""

    id: int = 0
    project: str
    reason: str
    software_version: str
    creator: str
    auditor: str = ""
    """The only account that can enter the code; empty: every account that may start tasks in the project."""
    time_limit_s: int
    """A vehicle silent for longer after the approval is "Timed out"."""
    status: TaskStatus = TaskStatus.UNAPPROVED
    created_at: datetime
    approver: str = ""
    """The account that entered the code."""
    approved_at: datetime | None = None
    finished_at: datetime | None = None
    approval: ApprovalWay | None = None
    """In which way it was approved; None before."""
    code_mailbox: str = ""
    """Where the code went with which it was approved; empty before."""
    supersedes: bool = False
    """Whether its approval takes vehicles over from older tasks."""
    form_token: str = ""
    """Names the form it was created with, so that one sent twice makes one task; empty if it came by the API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeVersion:
    """What ran on one node, before or after."""

    position: int
    hwid: str
    version: str
    is_signed: bool = False
    """Whether a document with the unit's signature says so; else its identity frame alone."""
    image_sha256: str = ""
    """Of the image, hexadecimal; empty if it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleUpgrade:
    """One vehicle in one task."""

    task_id: int
    vin: str
    place: int
    """1..n in the order of the task's list."""
    release_id: int
    """Chosen by the vehicle's series and the task's software version."""
    status: VehicleStatus = VehicleStatus.UNAPPROVED
    source: Source = Source.OPERATOR
    """Who set that status."""
    stage: str = ""
    """What the unit said it is doing within the status, in words; for people only."""
    reason: str = ""
    """Why it ended, if it did not succeed."""
    progress_pct: int = 0
    sequence: int = 0
    """Of the newest order signed for it; 0 before the approval."""
    order_expires_at: datetime | None = None
    order_document: bytes = b""
    """The newest signed order as the unit fetches it."""
    instructed_at: datetime | None = None
    """When the instruction was last sent down."""
    instruction_count: int = 0
    confirmed_at: datetime | None = None
    """When the unit accepted the order."""
    images_fetched: tuple[str, ...] = ()
    """Digests of the images that the device API has served to their last byte, to the unit's own session."""
    fetched_at: datetime | None = None
    """When that was every image of the release; None while one is missing, or is being fetched again."""
    heard_at: datetime | None = None
    """When the unit was last heard of in this matter; the time limit counts from here."""
    ended_by_report: bool = False
    report_document: bytes = b""
    """The signed post-boot report that ended it, as evidence."""
    versions_before: tuple[NodeVersion, ...] = ()
    """At the approval."""
    versions_after: tuple[NodeVersion, ...] = ()
    """From the signed report."""
    attempt: int = 1
    """Rises with every retry."""

    @property
    def order_id(self) -> str:
        return order_id_of(self.task_id, self.place, self.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A vehicle entered a status."""

    task_id: int
    vin: str
    status: VehicleStatus
    at: datetime
    reason: str = ""
    source: Source = Source.OPERATOR
    """Who set it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalCode:
    """A code that was mailed to the auditor; only its HMAC is known here."""

    task_id: int
    code_hmac: bytes
    content_sha256: bytes
    """What the code approves. Another content needs another code."""
    issued_at: datetime
    expires_at: datetime
    tries: int = 0
    """Wrong ones so far."""
    is_void: bool = False
    recipient: str = ""
    """The mailbox it went to."""


class ActKind(StrEnum):
    """What is done to many vehicles of a task."""

    LIST = "list"
    """Enter the vehicles of a task that is created or edited, and mail its code."""
    APPROVE = "approve"
    CANCEL = "cancel"
    END = "end"
    """At any status, by force."""
    RETRY = "retry"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAct:
    """What is under way for a task, slice by slice; deleted when it is done. A task has one at most."""

    task_id: int
    kind: ActKind
    who: str
    reason: str
    begun_at: datetime
    statuses: tuple[str, ...] = ()
    """Only vehicles in one of these."""
    places: tuple[int, ...] = ()
    """Only these vehicles; empty: all."""
    place_done: int = 0
    """Vehicles up to this place have been looked at."""
    count: int = 0
    """Vehicles it has changed so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderReport:
    """A signed report for an order of this task, kept as evidence whatever it has led to."""

    task_id: int
    vin: str
    order_id: str
    received_at: datetime
    outcome: str
    """The report's own word: "succeeded", "rolled-back", "failed", "rejected"."""
    reason: str
    versions: tuple[NodeVersion, ...]
    is_late: bool
    """The order had ended, or another attempt had begun, before it came."""
    document: bytes


def task_key(task_id: int) -> str:
    """The task as orders and mails call it."""
    return f"OTA-{task_id}"


def order_id_of(task_id: int, place: int, attempt: int = 1) -> str:
    """The order of one vehicle: "OTA-7-3", and from the second attempt on "OTA-7-3-2".

    It stays the same when the order is signed again with a higher sequence.
    """
    return f"OTA-{task_id}-{place}" + (f"-{attempt}" if attempt > 1 else "")


def advance(
    upgrade: VehicleUpgrade,
    status: VehicleStatus,
    *,
    at: datetime,
    reason: str = "",
    by_report: bool = False,
    source: Source = Source.OPERATOR,
) -> tuple[VehicleUpgrade, Transition]:
    """The upgrade in its new status, and the transition to keep.

    Raises:
        ConflictError: the table does not allow this step; nothing may be changed.
    """
    if by_report:
        allowed = status in REPORT_TRANSITIONS[upgrade.status] and not upgrade.ended_by_report
    else:
        allowed = status in TRANSITIONS[upgrade.status]
    if not allowed:
        how = "by" if by_report else "without"
        raise ConflictError(
            "bad-transition",
            f"{upgrade.order_id} ({upgrade.vin}) cannot go from {upgrade.status!s} to {status!s} {how} a signed report",
        )
    moved = replace(
        upgrade,
        status=status,
        source=source,
        reason=reason,
        stage="",
        progress_pct=100 if status is VehicleStatus.DOWNLOAD_COMPLETE else upgrade.progress_pct,
        ended_by_report=by_report or upgrade.ended_by_report,
    )
    return moved, Transition(
        task_id=upgrade.task_id, vin=upgrade.vin, status=status, at=at, reason=reason, source=source
    )


def last_message_at(upgrade: VehicleUpgrade, transitions: Sequence[Transition]) -> datetime | None:
    """When the unit itself was last heard of in this attempt; None if it was not. The time limit begins without a message."""
    given = [transition.at for transition in transitions if transition.status is VehicleStatus.APPROVED]
    if upgrade.heard_at is None or not given or upgrade.heard_at <= given[-1]:
        return None
    return upgrade.heard_at


def may_cancel(upgrade: VehicleUpgrade) -> bool:
    """Whether the operator can still stop this vehicle.

    Once the release is downloaded it is too late: the unit switches by itself at its next power-on, whether or
    not it hears from us before.
    """
    return upgrade.status is _V.UNAPPROVED or is_before_the_switch(upgrade)


def may_end(upgrade: VehicleUpgrade) -> bool:
    """Whether a person can end this vehicle by force: at any open status."""
    return upgrade.status in OPEN_STATUSES


def may_retry(upgrade: VehicleUpgrade) -> bool:
    """Whether a person can have another attempt at this vehicle: at any status but before the approval and after success.

    At an open status it replaces a stuck attempt.
    """
    return upgrade.status not in {_V.UNAPPROVED, _V.SUCCEEDED} and upgrade.attempt < ATTEMPTS_MAX


def retry(upgrade: VehicleUpgrade, *, at: datetime, reason: str) -> tuple[VehicleUpgrade, Transition]:
    """The upgrade at the beginning of its next attempt, without an order yet, and the transition to keep.

    Raises:
        ConflictError: this vehicle can't be retried.
    """
    if not may_retry(upgrade):
        raise ConflictError(
            "cannot-retry", f"{upgrade.order_id} ({upgrade.vin}) is {upgrade.status!s}: nothing to retry"
        )
    moved = VehicleUpgrade(
        task_id=upgrade.task_id,
        vin=upgrade.vin,
        place=upgrade.place,
        release_id=upgrade.release_id,
        status=_V.APPROVED,
        sequence=upgrade.sequence,
        heard_at=at,
        versions_before=upgrade.versions_before,
        attempt=upgrade.attempt + 1,
    )
    return moved, Transition(task_id=upgrade.task_id, vin=upgrade.vin, status=_V.APPROVED, at=at, reason=reason)


def is_before_the_switch(upgrade: VehicleUpgrade) -> bool:
    """Whether an approved upgrade has not been downloaded yet, as far as that is known: the unit runs what it ran before.

    "Download Complete" is an unsigned word. It counts when the device API has served the images to the unit's session too:
    otherwise anyone who knows the VIN could keep the operator from cancelling it.
    """
    return upgrade.status in _BEFORE_DOWNLOAD or (upgrade.status is _V.DOWNLOAD_COMPLETE and upgrade.fetched_at is None)


def needs_instruction(upgrade: VehicleUpgrade) -> bool:
    """Whether the instruction is sent at (every) login: as long as the vehicle's order is open.

    Behind the download too: a unit that waits to switch, or has switched, only repeats where it stands, and one that has lost
    the order meanwhile (a false "no order" in an exchange, damaged records) would wait for ever.
    """
    return upgrade.status in _BEFORE_DOWNLOAD or upgrade.status is _V.DOWNLOAD_COMPLETE


def encode_vehicles(vehicles: Iterable[tuple[str, str, str]]) -> bytes:
    """The vehicles of a task for `content_digest`, each as (VIN, HWID, hexadecimal digest of its manifest).

    Apart from it, because five thousand take some milliseconds, which no transaction has to wait for.
    """
    return cbor2.dumps(sorted([vin, hwid, manifest_sha256] for vin, hwid, manifest_sha256 in vehicles), canonical=True)


def content_digest(task: OtaTask, encoded_vehicles: bytes, *, way: ApprovalWay, mailbox: str) -> bytes:
    """SHA-256 of everything an auditor approves.

    The words of the task, its vehicles (`encode_vehicles`), and who is asked: another mailbox or another way of approval
    needs another code.

    Canonical CBOR: any other spelling of the same content would make approvals fail, a looser one would let two
    contents share a digest.
    """
    words = [
        "bmsota-task-content-v2",
        task.id,
        task.project,
        task.reason,
        task.software_version,
        task.creator,
        task.auditor,
        task.time_limit_s,
        task.supersedes,
        str(way),
        mailbox,
    ]
    # One array: its head, its items, the last of which is the list of vehicles.
    head = bytes([_CBOR_ARRAY | len(words) + 1])
    encoded = b"".join(cbor2.dumps(word, canonical=True) for word in words)
    return sha256(head + encoded + encoded_vehicles).digest()
