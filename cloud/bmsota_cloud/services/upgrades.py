"""What units report of their upgrades, and the time limit: instructions, states, signed reports, time-outs.

A state frame (UpgradeState) is unsigned, and anyone who knows the VIN can send one. It moves the word and the bar that
people see, up to "Download Complete"; it finishes, fails, rejects and cancels nothing (`transitions.STATUSES_OF`, design
decision 18). Success and the other ends come from the signed post-boot report, and success only if every node of the pack is
in it with the version of the release (design decision 8).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING

from bmsota.errors import TrustError
from bmsota.gbt32960 import UpgradeStateCode
from bmsota.ota import (
    DocumentKind,
    DocumentReceipt,
    Outcome,
    PostBootReport,
    document_kind,
    sign_receipt,
    verify_report,
)
from bmsota_cloud.domain.errors import NotFoundError
from bmsota_cloud.domain.evidence import Source
from bmsota_cloud.domain.ota_tasks import (
    OPEN_STATUSES,
    REPORT_TRANSITIONS,
    TRANSITIONS,
    NodeVersion,
    OrderReport,
    OtaTask,
    VehicleStatus,
    VehicleUpgrade,
    needs_instruction,
    order_id_of,
)
from bmsota_cloud.domain.vehicles import NodeKind, node_name
from bmsota_cloud.services.audit import note
from bmsota_cloud.services.equipment import NodeFact, confirm_nodes, hex_digest, note_mixed_pack
from bmsota_cloud.services.task_acts import SLICE_VEHICLES
from bmsota_cloud.services.transitions import finish_if_done, move, publish_task, publish_upgrade, step
from bmsota_cloud.services.unit_documents import verified_document, with_sequence

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota_cloud.domain.releases import Release
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.services.equipment import EquipmentService
    from bmsota_cloud.storage.base import Work

__all__ = ["Instruction", "ReportVerdict", "UpgradeService"]

# Task, place, and from the second attempt on its number (`order_id_of`).
_ORDER_ID = re.compile(r"OTA-(\d{1,9})-(\d{1,9})(?:-(\d{1,2}))?", re.ASCII)

# Where each state of the unit may move the status, and how it is shown. None: the status stays, the text changes.
_STATES: dict[int, tuple[VehicleStatus | None, str]] = {
    UpgradeStateCode.INSTRUCTED: (VehicleStatus.TO_BE_DOWNLOADED, "instruction received"),
    UpgradeStateCode.WAITING_SAFE_STATE: (VehicleStatus.TO_BE_DOWNLOADED, "waiting for a safe state"),
    UpgradeStateCode.AUTHENTICATING: (VehicleStatus.TO_BE_DOWNLOADED, "authenticating"),
    UpgradeStateCode.DOWNLOADING: (VehicleStatus.DOWNLOADING, "downloading"),
    UpgradeStateCode.DOWNLOAD_COMPLETE: (VehicleStatus.DOWNLOAD_COMPLETE, "waiting for the next power-on"),
    UpgradeStateCode.SWITCHING: (VehicleStatus.DOWNLOAD_COMPLETE, "switching"),
    UpgradeStateCode.FLASHING_SLAVES: (VehicleStatus.DOWNLOAD_COMPLETE, "flashing slaves"),
    UpgradeStateCode.SELF_TEST: (VehicleStatus.DOWNLOAD_COMPLETE, "self-test"),
    # Only a text until the signed report says the same.
    UpgradeStateCode.SUCCEEDED: (None, "reported success; waiting for the signed report"),
    UpgradeStateCode.ROLLED_BACK: (None, "reported a rollback; waiting for the signed report"),
    UpgradeStateCode.FAILED: (None, "reported a failure; waiting for the signed report"),
    # A unit that does not believe the order itself has none to report on: the next instruction starts anew.
    UpgradeStateCode.REJECTED: (None, "reported that it rejected the order; not signed"),
    UpgradeStateCode.CANCELLED: (None, "reported that the order was withdrawn; not signed"),
}

_OUTCOMES: dict[str, VehicleStatus] = {
    "succeeded": VehicleStatus.SUCCEEDED,
    "rolled-back": VehicleStatus.ROLLED_BACK,
    "failed": VehicleStatus.FAILED,
    # The unit's trust checks refused the order; the reason begins with the name of the attack.
    "rejected": VehicleStatus.REJECTED,
}

_REASON_LENGTH_MAX = 300
# What a receipt carries of the same.
_DETAIL_LENGTH_MAX = 256
# Signed reports kept for each vehicle of a task. One attempt needs one; more is a unit that repeats itself under new counters.
_REPORTS_MAX = 20
# Vehicles ended by one call of `expire`, slice by slice; the rest comes with the next, some seconds later.
_EXPIRE_MAX = 10 * SLICE_VEHICLES


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What a vehicle's link has to send: fetch your order."""

    order_id: str
    vin: str
    url: str
    """Base URL of the device API."""
    software_version: str
    time_limit_s: int


class ReportVerdict(StrEnum):
    """What became of a signed report."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"
    """Known already: answered like the first time, and nothing has changed."""
    UNKNOWN_ORDER = "unknown-order"
    """Trusted, but for no order of this platform, as after it was restored from a backup. What the report says of the nodes is
    taken over, and the unit need not send it again."""
    REFUSED = "refused"
    """Not trusted."""


@dataclass(frozen=True, slots=True)
class _Answer:
    verdict: ReportVerdict
    reason: str = ""
    """Why it was refused: the name of an attack."""
    detail: str = ""


class UpgradeService:
    """One method per thing that happens."""

    def __init__(self, context: Context, equipment: EquipmentService) -> None:
        self._context = context
        self._equipment = equipment

    # -- down ----------------------------------------------------------------------------------------------------------

    def pending_instruction(self, vin: str) -> Instruction | None:
        """What to send to this vehicle now that it is online, if anything."""
        with self._context.store.reading() as work:
            upgrade = work.ota_tasks.open_upgrade(vin)
            if upgrade is None or not needs_instruction(upgrade):
                return None
            task = work.ota_tasks.get(upgrade.task_id)
        assert task is not None  # a foreign key
        return Instruction(
            order_id=upgrade.order_id,
            vin=vin,
            url=self._context.settings.device_url.rstrip("/"),
            software_version=task.software_version,
            time_limit_s=task.time_limit_s,
        )

    def instruction_sent(self, instruction: Instruction, now: datetime) -> None:
        """The instruction is on its way down the vehicle's link."""
        with self._context.store.transaction() as work:
            upgrade = self._find(work, instruction.order_id, instruction.vin)
            if upgrade is None or not needs_instruction(upgrade):
                return
            upgrade = replace(upgrade, instructed_at=now, instruction_count=upgrade.instruction_count + 1)
            if upgrade.status is VehicleStatus.APPROVED:
                upgrade = move(work, upgrade, VehicleStatus.TO_BE_DOWNLOADED, now=now, source=Source.PLATFORM)
            else:
                work.ota_tasks.save_upgrade(upgrade)
        publish_upgrade(self._context, upgrade, now)

    # -- up ------------------------------------------------------------------------------------------------------------

    def receive_state(
        self, vin: str, *, order_id: str, state: int, progress_pct: int | None, reason: str, now: datetime
    ) -> bool:
        """An UpgradeState frame, which is not signed. Whether it was about an open upgrade of this vehicle.

        A state that would lead back is counted, and only its words are shown: frames may be late, statuses don't go back.
        """
        counters = self._context.counters
        known = _STATES.get(state)
        with self._context.store.transaction() as work:
            # A unit has no order yet while it waits and authenticates; then the open one is meant.
            upgrade = self._find(work, order_id, vin) if order_id else work.ota_tasks.open_upgrade(vin)
            if upgrade is None or known is None:
                counters.add("upgrade_state_unknown")
                return False
            if upgrade.status not in OPEN_STATUSES or upgrade.status is VehicleStatus.UNAPPROVED:
                counters.add("upgrade_state_after_end")
                return False
            status, words = known
            upgrade = replace(upgrade, heard_at=now)
            if status is None or status is upgrade.status:
                pass
            elif status in TRANSITIONS[upgrade.status]:
                upgrade = move(work, upgrade, status, now=now, source=Source.UNSIGNED)
            else:
                counters.add("upgrade_state_stale")
            stage = words + (f": {_short(reason)}" if reason else "")
            upgrade = replace(upgrade, stage=stage)
            if upgrade.status is VehicleStatus.DOWNLOADING and progress_pct is not None:
                upgrade = replace(upgrade, progress_pct=min(100, max(0, progress_pct)))
            work.ota_tasks.save_upgrade(upgrade)
        publish_upgrade(self._context, upgrade, now)
        return True

    def receive_report(self, vin: str, document: bytes, now: datetime) -> ReportVerdict:
        """A signed document of the unit: a post-boot report, or an identity report (its content type tells).

        Only a post-boot report that is trusted ends the vehicle's upgrade.
        """
        return self._receive(vin, document, now).verdict

    def deliver(self, vin: str, document: bytes, now: datetime) -> bytes:
        """As `receive_report`, over the device API: the signed receipt, which ends the unit's waiting in either case.

        Raises:
            NotFoundError: there is no such vehicle.
        """
        answer = self._receive(vin, document, now)
        with self._context.store.reading() as work:
            vehicle = work.vehicles.get(vin)
        if vehicle is None:
            raise NotFoundError("no-such-vehicle", f"no vehicle {vin}")
        is_identity = _kind_of(document) is DocumentKind.IDENTITY
        receipt = DocumentReceipt(
            vin=vin,
            hwid=vehicle.hwid,
            document_sha256=sha256(document).digest(),
            reason=answer.reason,
            detail=_printable(answer.detail),
            counter=vehicle.identity_counter if is_identity else vehicle.report_counter,
            time_s=int(now.timestamp()),
        )
        return sign_receipt(receipt, self._context.keys.order_signing_key)

    def _receive(self, vin: str, document: bytes, now: datetime) -> _Answer:
        if _kind_of(document) is DocumentKind.IDENTITY:
            return self._receive_identity(vin, document, now)
        upgrade: VehicleUpgrade | None = None
        with self._context.store.transaction() as work:
            vehicle = work.vehicles.get(vin, lock=True)
            if vehicle is None:
                self._context.counters.add("report_refused")
                return _Answer(ReportVerdict.REFUSED, "unknown-vehicle", f"{vin} is not registered")
            digest = sha256(document).digest()
            if digest == vehicle.report_sha256:
                self._context.counters.add("report_repeated")
                return _Answer(ReportVerdict.REPEATED)
            try:
                report = verified_document(
                    vehicle, document, verify_report, last_counter=vehicle.report_counter, what="report"
                )
            except TrustError as refusal:
                self._context.counters.add("report_refused")
                note(
                    work,
                    who=f"vehicle {vin}",
                    action="report.receive",
                    subject=f"vehicle {vin}",
                    outcome=refusal.attack,
                    now=now,
                    detail=str(refusal),
                )
                return _Answer(ReportVerdict.REFUSED, refusal.attack, str(refusal))
            vehicle = replace(vehicle, report_counter=report.counter, report_sha256=digest)
            work.vehicles.save(with_sequence(vehicle, report.sequence))
            upgrade = self._find(work, report.order_id, vin, any_attempt=True)
            if (
                upgrade is None
                or upgrade.status is VehicleStatus.UNAPPROVED
                or not _is_of_release(work, upgrade, report)
            ):
                return self._receive_of_unknown_order(work, report, now)
            is_earlier = report.order_id != upgrade.order_id
            if upgrade.ended_by_report and not is_earlier and _says_the_same(work, upgrade, report):
                # The unit could not record that it was acknowledged, and has made the report again under another counter.
                _confirm(work, report, now)
                self._context.counters.add("report_repeated")
                return _Answer(ReportVerdict.REPEATED)
            work.ota_tasks.add_report(
                OrderReport(
                    task_id=upgrade.task_id,
                    vin=vin,
                    order_id=report.order_id,
                    received_at=now,
                    outcome=report.outcome.value,
                    reason=_short(report.reason),
                    versions=_versions(report),
                    is_late=is_earlier or upgrade.status not in OPEN_STATUSES,
                    document=document,
                ),
                keep=_REPORTS_MAX,
            )
            if is_earlier and report.outcome is not Outcome.SUCCEEDED:
                # How an attempt ended that a person has replaced: a fact about the pack, and no end of the new attempt.
                _confirm(work, report, now)
                note(
                    work,
                    who=f"vehicle {vin}",
                    action="report.receive",
                    subject=f"task {upgrade.task_id}",
                    outcome="late",
                    now=now,
                    detail=f"{report.order_id}: {report.outcome.value}; {upgrade.order_id} goes on",
                )
                return _Answer(ReportVerdict.ACCEPTED)
            if upgrade.ended_by_report:
                # The order had ended before; what this one says of the nodes is newer.
                _confirm(work, report, now)
                self._context.counters.add("report_repeated")
                return _Answer(ReportVerdict.REPEATED)
            upgrade = self._conclude(work, upgrade, report, document, now)
            note(
                work,
                who=f"vehicle {vin}",
                action="report.receive",
                subject=f"task {upgrade.task_id}",
                outcome="done",
                now=now,
                detail=f"{report.order_id}: {report.outcome.value}, now {upgrade.status!s} {upgrade.reason}",
            )
        publish_upgrade(self._context, upgrade, now)
        publish_task(self._context, upgrade.task_id)
        self._context.live.publish(f"vehicle:{vin}", {"kind": "identity", "changes": 0})
        return _Answer(ReportVerdict.ACCEPTED)

    def _receive_of_unknown_order(self, work: Work, report: PostBootReport, now: datetime) -> _Answer:
        """A fact about the pack, and the end of no upgrade here: to refuse it would make the unit send it for ever."""
        self._context.counters.add("report_unknown_order")
        _confirm(work, report, now)
        detail = f"{report.vin} has no order {report.order_id}"
        note(
            work,
            who=f"vehicle {report.vin}",
            action="report.receive",
            subject=f"vehicle {report.vin}",
            outcome="unknown-order",
            now=now,
            detail=f"{detail}: {report.outcome.value} {_short(report.reason)}".strip(),
        )
        return _Answer(ReportVerdict.UNKNOWN_ORDER, "unknown-order", detail)

    def _receive_identity(self, vin: str, document: bytes, now: datetime) -> _Answer:
        counters = self._context.counters
        with self._context.store.transaction() as work:
            vehicle = work.vehicles.get(vin, lock=True)
            if vehicle is None:
                counters.add("identity_refused")
                return _Answer(ReportVerdict.REFUSED, "unknown-vehicle", f"{vin} is not registered")
            if sha256(document).digest() == vehicle.identity_sha256:
                counters.add("identity_repeated")
                return _Answer(ReportVerdict.REPEATED)
            try:
                _, changes = self._equipment.confirm(work, vehicle, document, now)
            except TrustError as refusal:
                counters.add("identity_refused")
                self._equipment.refused(vin, refusal, now)
                return _Answer(ReportVerdict.REFUSED, refusal.attack, str(refusal))
        self._context.live.publish(f"vehicle:{vin}", {"kind": "identity", "changes": len(changes)})
        return _Answer(ReportVerdict.ACCEPTED)

    def _conclude(
        self, work: Work, upgrade: VehicleUpgrade, report: PostBootReport, document: bytes, now: datetime
    ) -> VehicleUpgrade:
        # Only what a signature has said before counts: otherwise a stranger's frame could add a slave that is missing.
        before = work.vehicles.nodes([upgrade.vin])[upgrade.vin]
        positions = [node.position for node in before if node.is_confirmed and node.state != "absent"]
        _confirm(work, report, now)
        upgrade = replace(upgrade, heard_at=now, report_document=document, versions_after=_versions(report))
        status = _OUTCOMES[report.outcome.value]
        reason = _short(report.reason)
        if report.outcome is Outcome.SUCCEEDED:
            release = work.releases.get(upgrade.release_id)
            assert release is not None  # a foreign key
            # The classes of the nodes are known from the identity report; a post-boot report does not repeat them.
            classes = {
                node.position: (node.hwid, node.hardware_class)
                for node in work.vehicles.nodes([upgrade.vin])[upgrade.vin]
            }
            problems = _problems(report, release, positions, classes)
            if report.mixed_pack:
                problems.append(f"the pack is mixed: {report.mixed_pack}")
            if problems:
                status = VehicleStatus.FAILED
                reason = _short("the report says succeeded, but " + "; ".join(problems))
        if status in REPORT_TRANSITIONS[upgrade.status]:
            return move(work, upgrade, status, now=now, reason=reason, source=Source.SIGNED)
        # A cancelled vehicle reports that it did not upgrade: that is kept as evidence, the status says it already.
        upgrade = replace(upgrade, ended_by_report=True)
        work.ota_tasks.save_upgrade(upgrade)
        return upgrade

    # -- time ----------------------------------------------------------------------------------------------------------

    def expire(self, now: datetime) -> int:
        """End the vehicles that were silent for too long as "Timed out"; how many. Also forgets sessions that are over.

        Call it every few seconds.
        """
        with self._context.store.transaction() as work:
            work.device.delete_before(now)
        count = 0
        while count < _EXPIRE_MAX:
            moved = self._expire_slice(now)
            for upgrade in moved:
                publish_upgrade(self._context, upgrade, now)
            for task_id in dict.fromkeys(upgrade.task_id for upgrade in moved):
                publish_task(self._context, task_id)
            count += len(moved)
            if len(moved) < SLICE_VEHICLES:
                break
        return count

    def _expire_slice(self, now: datetime) -> list[VehicleUpgrade]:
        """One transaction: a task whose vehicles were all approved at once has them all silent at once."""
        with self._context.store.transaction() as work:
            silent = work.ota_tasks.silent_upgrades(now, SLICE_VEHICLES)
            tasks = {task_id: work.ota_tasks.get(task_id) for task_id in sorted({item.task_id for item in silent})}
            steps = [
                step(
                    item,
                    VehicleStatus.TIMED_OUT,
                    now=now,
                    reason=_silent(tasks[item.task_id], item, now),
                    source=Source.PLATFORM,
                )
                for item in silent
            ]
            work.ota_tasks.save_upgrades([upgrade for upgrade, _ in steps])
            work.ota_tasks.add_transitions([transition for _, transition in steps])
            for task_id in tasks:
                finish_if_done(work, task_id, now)
        return [upgrade for upgrade, _ in steps]

    @staticmethod
    def _find(work: Work, order_id: str, vin: str, *, any_attempt: bool = False) -> VehicleUpgrade | None:
        """The upgrade of this vehicle that the order belongs to; with *any_attempt* also by the order of an earlier one."""
        match = _ORDER_ID.fullmatch(order_id)
        if match is None:
            return None
        upgrade = work.ota_tasks.upgrade(int(match[1]), int(match[2]), lock=True)
        attempt = int(match[3] or 1)
        if upgrade is None or upgrade.vin != vin or order_id != order_id_of(upgrade.task_id, upgrade.place, attempt):
            return None
        return upgrade if attempt == upgrade.attempt or (any_attempt and attempt < upgrade.attempt) else None


def _kind_of(document: bytes) -> DocumentKind:
    try:
        return document_kind(document)
    except TrustError:
        # Refused in the words of a post-boot report.
        return DocumentKind.REPORT


def _printable(text: str) -> str:
    """*text* as a receipt can carry it; part of it comes from the unit."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_DETAIL_LENGTH_MAX]


def _confirm(work: Work, report: PostBootReport, now: datetime) -> None:
    """Take over what the report says of the nodes, whatever it says of the order."""
    facts = [
        NodeFact(
            position=node.position,
            hwid=node.hwid,
            version=str(node.version),
            security_counter=node.security_counter,
            image_sha256=hex_digest(node.image_sha256),
        )
        for node in report.nodes
    ]
    confirm_nodes(work, report.vin, facts, now)
    vehicle = work.vehicles.get(report.vin, lock=True)
    assert vehicle is not None  # a foreign key
    note_mixed_pack(work, vehicle, report.mixed_pack, now)
    work.vehicles.save(replace(vehicle, confirmed_at=now, mixed_pack=report.mixed_pack))


def _is_of_release(work: Work, upgrade: VehicleUpgrade, report: PostBootReport) -> bool:
    """Whether the report is about this order, as far as it says: its id may have been given to another order before.

    Numbers of tasks come again when the platform is restored from a backup; which manifest an order names does not change when
    it is signed again.
    """
    release = work.releases.get(upgrade.release_id)
    assert release is not None  # a foreign key
    return report.manifest_sha256 is None or report.manifest_sha256.hex() == release.manifest_sha256


def _says_the_same(work: Work, upgrade: VehicleUpgrade, report: PostBootReport) -> bool:
    """Whether an earlier report of this order says the same of it and of the nodes."""
    known = work.ota_tasks.reports(upgrade.task_id, [upgrade.vin])[upgrade.vin]
    said = (report.order_id, report.outcome.value, _short(report.reason), _versions(report))
    return any((each.order_id, each.outcome, each.reason, each.versions) == said for each in known)


def _versions(report: PostBootReport) -> tuple[NodeVersion, ...]:
    return tuple(
        NodeVersion(
            position=node.position,
            hwid=node.hwid,
            version=str(node.version),
            is_signed=True,
            image_sha256=hex_digest(node.image_sha256),
        )
        for node in report.nodes
    )


def _problems(
    report: PostBootReport, release: Release, positions: list[int], classes: dict[int, tuple[str, str]]
) -> list[str]:
    """Why a report of success is none: a node that is missing, or does not run the release's image.

    Of a node that cannot say its digest the version decides.
    """
    problems: list[str] = []
    reported = {node.position for node in report.nodes}
    problems.extend(f"{node_name(position)} is missing from it" for position in positions if position not in reported)
    for node in report.nodes:
        kind = NodeKind.MASTER if node.position == 0 else NodeKind.SLAVE
        hwid, hardware_class = classes.get(node.position, ("", ""))
        wanted = release.images_for(kind, hardware_class if hwid == node.hwid else "")
        same = [image.sha256 for image in wanted if image.version == str(node.version)]
        if not same:
            expected = " or ".join(sorted({image.version for image in wanted})) or "a version of this release"
            problems.append(f"{node_name(node.position)} runs {node.version}, expected {expected}")
        elif node.image_sha256 is not None and node.image_sha256.hex() not in same:
            found = node.image_sha256.hex()[:16]
            problems.append(
                f"{node_name(node.position)} runs another build of {node.version}: expected image"
                f" {' or '.join(digest[:16] for digest in same)}, got {found}"
            )
    return problems


def _silent(task: OtaTask | None, upgrade: VehicleUpgrade, now: datetime) -> str:
    assert task is not None  # a foreign key
    assert upgrade.heard_at is not None  # it is set by the approval, and only later ones are looked for
    silent_s = int((now - upgrade.heard_at).total_seconds())
    return f"no message for {silent_s} s; the limit is {task.time_limit_s} s"


def _short(text: str) -> str:
    return text if len(text) <= _REASON_LENGTH_MAX else text[: _REASON_LENGTH_MAX - 1] + "…"
