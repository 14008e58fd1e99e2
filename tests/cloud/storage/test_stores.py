"""What every store must do: one contract, run against each way to have one."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from threading import Thread

import pytest
from bmsota_cloud.domain.accounts import Account, LoginSession, Role, Scope, ScopeKind
from bmsota_cloud.domain.audit import AuditEntry
from bmsota_cloud.domain.customers import Customer
from bmsota_cloud.domain.device import DeviceSession
from bmsota_cloud.domain.equipment import ChangeStatus, EquipmentChange
from bmsota_cloud.domain.errors import ConflictError
from bmsota_cloud.domain.exports import ExportFormat, ExportJob, ExportStatus
from bmsota_cloud.domain.histories import LocalUpgradeRow
from bmsota_cloud.domain.ota_tasks import (
    ActKind,
    ApprovalCode,
    NodeVersion,
    OrderReport,
    OtaTask,
    TaskAct,
    TaskStatus,
    Transition,
    VehicleStatus,
    VehicleUpgrade,
)
from bmsota_cloud.domain.outbox import Mail
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.presence import GatewayLease, LeaseCheck, Presence, VehicleConnection
from bmsota_cloud.domain.projects import ApprovalWay, Project
from bmsota_cloud.domain.refusals import Refusal, RefusalCause
from bmsota_cloud.domain.releases import Release
from bmsota_cloud.domain.tokens import ApiToken
from bmsota_cloud.domain.vehicles import NodeKind, Vehicle, VehicleFilter, VehicleNode
from bmsota_cloud.storage.base import TimesAllowed
from bmsota_cloud.storage.schema import PLATFORM
from bmsota_cloud.storage.sql import SqlStore, SqlTelemetryStore
from postgresql import some_database

ALLOWED = TimesAllowed(
    ahead_s=60, login_session_s=5, device_session_s=6, code_s=7, mail_retry_s=100, mail_claim_s=10, lease_s=30
)
NOW = datetime(2026, 11, 22, 8, 0, 0, 123456, tzinfo=UTC)
HERE = LeaseCheck(gateway_id="here", now=NOW)


def vehicle(number: int) -> Vehicle:
    return Vehicle(
        vin=f"V{number:016d}",
        series="F7",
        project="p",
        hwid=f"M{number}",
        device_public_key=b"k" * 32,
        registered_at=NOW,
    )


def mail(number: int = 0, **fields) -> Mail:
    asked = {"recipient": "a@b", "subject": f"s{number}", "body": "b", "task_id": None, "created_at": NOW}
    return Mail(**asked | {"next_try_at": NOW} | fields)


def field_upgrade(**fields) -> LocalUpgradeRow:
    asked = {
        "vin": vehicle(1).vin,
        "upgraded_at": NOW - timedelta(minutes=1),
        "reported_at": NOW,
        "position": 2,
        "hwid": "S2",
        "version_before": "2.0.0",
        "version_after": "2.1.0",
        "status": VehicleStatus.SUCCEEDED,
        "tool": "bmsota 1.0",
        "detail": "",
    }
    return LocalUpgradeRow(**asked | fields)


def release_of(series: str, at: datetime) -> Release:
    return Release(
        name="r",
        software_version="2.1.0",
        series=series,
        manifest_sha256="0" * 64,
        images=(),
        expires_at=at,
        uploaded_by="carol",
        uploaded_at=at,
    )


def task_of(number: int) -> OtaTask:
    return OtaTask(
        project="p",
        reason="r",
        software_version=f"2.{number}.0",
        creator="carol",
        auditor="alan",
        time_limit_s=60,
        created_at=NOW,
    )


def export_of(owner: str) -> ExportJob:
    return ExportJob(
        id=0,
        owner=owner,
        created_at=NOW,
        format=ExportFormat.PARQUET,
        project="p",
        series="",
        text="",
        is_online=None,
        since=NOW - timedelta(days=1),
        until=NOW,
        vehicles=2,
    )


def account(name: str) -> Account:
    return Account(name=name, email="a@b", role=Role.OPERATOR, password_hash="h", created_at=NOW)


class StoreContract:
    """Subclassed for every store; `store` is a fixture."""

    def test_exports_are_taken_kept_and_forgotten(self, store):
        later = NOW + timedelta(minutes=2)
        with store.transaction() as work:
            work.accounts.add(account("carol"))
            work.accounts.add(account("olaf"))
            first = work.exports.add(export_of("carol"), [vehicle(1).vin, vehicle(2).vin])
            second = work.exports.add(export_of("olaf"), [])
        with store.reading() as work:
            assert work.exports.get(first.id) == first
            assert work.exports.vins(first.id) == (vehicle(1).vin, vehicle(2).vin)
            assert (work.exports.unfinished("carol"), work.exports.files("carol")) == (1, 0)
            assert work.exports.page(PageRequest()).items == (second, first)
            assert work.exports.page(PageRequest(), owner="carol").items == (first,)
        with store.transaction() as work:
            taken = work.exports.take(NOW, by="one", until=later, claim_s=120)
            assert taken == work.exports.get(first.id)
            assert (taken.status, taken.attempts, taken.claimed_by) == (ExportStatus.RUNNING, 1, "one")
            assert work.exports.take(NOW, by="two", until=later, claim_s=120).id == second.id
            assert work.exports.take(NOW, by="three", until=later, claim_s=120) is None
            # Its own is taken again; an ended claim by anybody; one that reaches too far by anybody, too.
            assert work.exports.take(NOW, by="one", until=later, claim_s=120).attempts == 2
            assert work.exports.take(later, by="three", until=later, claim_s=120).id == first.id
            work.exports.save(replace(taken, status=ExportStatus.DONE, ended_at=NOW, claimed_until=None))
            assert work.exports.take(NOW, by="three", until=later, claim_s=60).id == second.id
        with store.transaction() as work:
            assert work.exports.files("carol") == 1
            assert work.exports.with_file() == {first.id, second.id}
            assert [job.id for job in work.exports.done_before(later)] == [first.id]
            assert work.exports.done_before(NOW) == ()
            assert work.exports.forget(later) == 0
            work.exports.save(replace(work.exports.get(first.id), status=ExportStatus.DELETED))
            assert work.exports.forget(later) == 1
            assert (work.exports.get(first.id), work.exports.vins(first.id)) == (None, ())

    def test_api_tokens(self, store):
        token = ApiToken(
            token_sha256=b"t" * 32,
            account_name="carol",
            name="ci",
            permissions=("ota.read", "vehicle.read"),
            created_at=NOW,
            expires_at=NOW + timedelta(days=1),
        )
        with store.transaction() as work:
            work.accounts.add(account("carol"))
            work.accounts.add_token(token)
            with pytest.raises(ConflictError):
                work.accounts.add_token(replace(token, token_sha256=b"u" * 32))
            work.accounts.save_token(used := replace(token, last_used_at=NOW, last_address="192.0.2.1"))
        with store.transaction() as work:
            assert work.accounts.token(token.token_sha256) == used
            assert work.accounts.tokens_of("carol") == (used,)
            work.accounts.delete_token(b"v" * 32)
            work.accounts.delete_tokens_of("olaf")
            assert work.accounts.tokens_of("carol") == (used,)
            work.accounts.delete_tokens_of("carol")
            assert work.accounts.token(token.token_sha256) is None

    def test_what_was_written_is_read_back_equal(self, store):
        with store.transaction() as work:
            work.vehicles.add(vehicle(1))
        with store.reading() as work:
            assert work.vehicles.get(vehicle(1).vin) == vehicle(1)
            assert work.vehicles.by_hwid("M1") == vehicle(1)
            assert work.vehicles.get("nobody") is None

    def test_times_that_a_wrong_clock_has_written_are_mended(self, store):
        far = NOW + timedelta(hours=2)
        with store.transaction() as work:
            work.accounts.add(Account(name="carol", email="c@d", role=Role.VIEWER, password_hash="x", created_at=NOW))
            for number, at in enumerate((NOW, far)):
                work.accounts.add_session(
                    LoginSession(
                        token_sha256=bytes([number]) * 32,
                        account_name="carol",
                        csrf_token="c",
                        created_at=at,
                        last_seen_at=at,
                        expires_at=at + timedelta(days=1),
                    )
                )
                work.outbox.add(mail(number, next_try_at=NOW + timedelta(seconds=150 + number * 20)))
                work.outbox.add(mail(number, created_at=at, next_try_at=at))
                work.presence.renew(
                    GatewayLease(id=f"g{number}", started_at=NOW, lease_until=at + timedelta(seconds=30))
                )
            assert work.times.mend(NOW, [], ALLOWED) == {"login sessions": 1, "mails": 2, "gateways": 1}
            assert work.times.mend(NOW, [], ALLOWED) == {}
            assert work.accounts.session(bytes(32)).expires_at == NOW + timedelta(days=1)
            assert work.accounts.session(bytes([1]) * 32).expires_at == NOW + timedelta(seconds=5)
            assert len(work.outbox.take(NOW, 9, by="a", until=far)) == 3
            assert work.times.mend(NOW, [(far, far)], ALLOWED) == {"mails": 4}
            assert len(work.outbox.take(NOW, 9, by="b", until=NOW)) == 4

    def test_the_scope_in_sql_is_the_scope_of_the_domain(self, store):
        """Every way to read vehicles and tasks for an account leaves out what `Scope` says is outside."""
        places = [(project, customer) for project in ("a", "b", "c") for customer in ("", "Port", "Rails")]
        made = [replace(vehicle(n), project=p, customer=c) for n, (p, c) in enumerate(places, 1)]
        with store.transaction() as work:
            for name in ("Port", "Rails"):
                work.customers.add(Customer(name=name, created_at=NOW, created_by="adam"))
            for item in made:
                work.vehicles.add(item)
                change = EquipmentChange(
                    vin=item.vin, position=1, old_hwid="A", new_hwid="B", changed_at=NOW, status=ChangeStatus.REPORTED
                )
                work.equipment.add(change)
            tasks = [work.ota_tasks.add(replace(task_of(n), project=project)) for n, project in enumerate("abc", 1)]
        scopes = [
            Scope(),
            Scope(kind=ScopeKind.PROJECTS),
            Scope(kind=ScopeKind.PROJECTS, projects=("a", "c")),
            Scope(kind=ScopeKind.CUSTOMER, customer="Port"),
            Scope(kind=ScopeKind.CUSTOMER),
        ]
        every = PageRequest(1, 100)
        with store.reading() as work:
            for scope in scopes:
                inside = [v for v in made if scope.has_vehicle(project=v.project, customer=v.customer)]
                vins = [item.vin for item in inside]
                page, count = work.vehicles.page(every, VehicleFilter(), HERE, scope)
                assert ([item.vin for item, _ in page.items], count.offline) == (vins, len(vins))
                assert [v.vin for v in made if work.vehicles.visible(v.vin, scope) is not None] == vins
                assert sorted(work.vehicles.visible_many([v.vin for v in made], scope)) == vins
                assert work.vehicles.projects(scope) == tuple(sorted({item.project for item in inside}))
                assert work.vehicles.series(scope) == tuple(sorted({item.series for item in inside}))
                assert work.vehicles.counts_by_project(scope) == Counter(item.project for item in inside)
                assert sorted(item.vin for item in work.equipment.page(every, scope).items) == vins
                assert (
                    sorted({item.vin for v in made for item in work.equipment.page(every, scope, vin=v.vin).items})
                    == vins
                )
                whole = [item.id for item in tasks if scope.has_project(item.project)]
                assert sorted(item.id for item in work.ota_tasks.page(every, scope).items) == whole
                assert [item.id for item in tasks if work.ota_tasks.visible(item.id, scope) is not None] == whole
            assert work.vehicles.counts_by_customer() == {"Port": 3, "Rails": 3}
        with store.transaction() as work:
            assert work.vehicles.assign([made[0].vin, made[1].vin, "NOSUCHVEHICLE0001"], "Rails") == 2
            assert work.vehicles.assign([made[2].vin], "") == 1
            assert work.vehicles.counts_by_customer() == {"Port": 2, "Rails": 4}
            assert work.vehicles.get(made[2].vin).customer == ""

    def test_a_failed_transaction_leaves_nothing(self, store):
        def fails():
            with store.transaction() as work:
                work.vehicles.add(vehicle(1))
                work.outbox.add(mail())
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fails()
        with store.reading() as work:
            assert work.vehicles.get(vehicle(1).vin) is None
            assert work.outbox.waiting() == 0

    def test_a_refused_row_does_not_spoil_the_transaction(self, store):
        with store.transaction() as work:
            work.vehicles.add(vehicle(1))
            with pytest.raises(ConflictError):
                work.vehicles.add(replace(vehicle(1), hwid="M2"))
            with pytest.raises(ConflictError):
                work.vehicles.add(replace(vehicle(2), hwid="M1"))
            work.vehicles.add(vehicle(3))
        with store.reading() as work:
            assert work.vehicles.page(PageRequest(), VehicleFilter(), HERE, Scope())[0].total == 2

    def test_saving_what_is_not_there_is_refused(self, store):
        with pytest.raises(ConflictError), store.transaction() as work:
            work.vehicles.save(vehicle(1))

    def test_times_come_back_in_utc_whatever_their_zone_was(self, store):
        beijing = NOW.astimezone(timezone(timedelta(hours=8)))
        with store.transaction() as work:
            work.vehicles.add(replace(vehicle(1), registered_at=beijing))
            found = work.vehicles.get(vehicle(1).vin)
        assert found.registered_at == NOW
        assert found.registered_at.utcoffset() == timedelta(0)

    def test_a_time_without_a_zone_is_a_bug(self, store):
        with pytest.raises(Exception, match="aware"), store.transaction() as work:
            work.vehicles.add(replace(vehicle(1), registered_at=datetime(2026, 1, 1)))  # noqa: DTZ001

    def test_vehicles_without_hwid_do_not_collide(self, store):
        plain = [replace(vehicle(number), hwid="", device_public_key=None) for number in (1, 2)]
        with store.transaction() as work:
            for each in plain:
                work.vehicles.add(each)
            assert work.vehicles.get(plain[1].vin) == plain[1]
            assert work.vehicles.by_hwid("") is None
            work.vehicles.save(replace(plain[0], hwid="M1"))
            with pytest.raises(ConflictError):
                work.vehicles.add(replace(vehicle(3), hwid="M1"))

    def test_refusals_add_up_and_the_oldest_go(self, store):
        def refusal(number, **fields):
            at = NOW + timedelta(seconds=number)
            asked = {
                "address": "a",
                "vin": f"V{number}",
                "cause": RefusalCause.ENCRYPTED,
                "first_at": at,
                "last_at": at,
            }
            return Refusal(**asked | {"count": 2, "head": b"h", "answered": None, "detail": "d"} | fields)

        def listed(work):
            page = work.refusals.page(PageRequest(1, 50), text="", cause=None, is_registered=None)
            return [(row.refusal.address, row.refusal.vin, row.refusal.count) for row in page.items]

        with store.transaction() as work:
            work.refusals.add([refusal(n) for n in range(4)], {RefusalCause.ENCRYPTED: 8})
            work.refusals.add([refusal(9, vin="V1", answered=7), refusal(10, address="b")], {RefusalCause.ENCRYPTED: 3})
            work.refusals.add([], {RefusalCause.OTHER: 1})
            (newest,) = work.refusals.of_vehicle("V1", 1)
        assert (newest.count, newest.answered) == (4, 7)
        assert (newest.first_at, newest.last_at) == (NOW + timedelta(seconds=1), NOW + timedelta(seconds=9))
        with store.transaction() as work:
            assert [key[1] for key in listed(work)] == ["V10", "V1", "V3", "V2", "V0"]
            work.refusals.trim(["a"], keep=10, keep_of_address=2)
            assert listed(work) == [("b", "V10", 2), ("a", "V1", 4), ("a", "V3", 2)]
            work.refusals.trim([], keep=2, keep_of_address=2)
            assert listed(work) == [("b", "V10", 2), ("a", "V1", 4)]
            assert work.refusals.totals() == {RefusalCause.ENCRYPTED: 11, RefusalCause.OTHER: 1}

    def test_numbers_rise_and_are_not_used_again(self, store):
        with store.transaction() as work:
            assert [work.outbox.add(mail(n)).id for n in range(3)] == [1, 2, 3]

    def test_mails_are_due_by_time_and_until_sent(self, store):
        with store.transaction() as work:
            late = work.outbox.add(mail(1, next_try_at=NOW + timedelta(minutes=1)))
            first = work.outbox.add(mail(2))
            gone = work.outbox.add(mail(3, sent_at=NOW))
            lost = work.outbox.add(mail(4, given_up=True))

            def take(now, limit):
                return [found.id for found in work.outbox.take(now, limit, by="me", until=now)]

            assert take(NOW, 10) == [first.id]
            assert take(NOW + timedelta(minutes=1), 10) == [first.id, late.id]
            assert take(NOW + timedelta(minutes=1), 1) == [first.id]
            assert gone.id != lost.id
            assert work.outbox.waiting() == 2

    def test_a_mail_is_one_process_s_until_its_claim_ends(self, store):
        soon, later = NOW + timedelta(minutes=1), NOW + timedelta(minutes=2)
        with store.transaction() as work:
            made = work.outbox.add(mail())
            (taken,) = work.outbox.take(NOW, 10, by="one", until=soon)
            assert taken == replace(made, claimed_by="one", claimed_until=soon)
            assert work.outbox.take(NOW, 10, by="two", until=soon) == ()
            # What it has not finished comes again to the same process.
            assert work.outbox.take(NOW, 10, by="one", until=soon) == (taken,)
            assert work.outbox.keep(made.id, by="one", until=later)
            assert work.outbox.take(soon, 10, by="two", until=later) == ()
            assert [found.id for found in work.outbox.take(later, 10, by="two", until=later)] == [made.id]
            assert not work.outbox.keep(made.id, by="one", until=later)

    def test_online_is_an_open_link_of_a_living_gateway(self, store):
        def link(vin, gateway_id, link_id=1, **fields):
            return Presence(vin=vin, gateway_id=gateway_id, link_id=link_id, since=NOW, login_serial=7, **fields)

        def online(now):
            with store.reading() as work:
                found = work.presence.connections(["A", "B", "C", "D"], replace(HERE, now=now))
                assert work.presence.count_online(replace(HERE, now=now)) == sum(c.is_online for c in found.values())
            return "".join(vin for vin in sorted(found) if found[vin].is_online)

        until = NOW + timedelta(seconds=30)
        with store.transaction() as work:
            work.presence.renew(GatewayLease(id="other", started_at=NOW, lease_until=until))
            work.presence.save([link("A", "here"), link("B", "other"), link("C", "dead")], [])
        assert online(NOW) == "AB"
        # One's own lease is not judged; the other's ends.
        assert online(until) == "A"
        with store.transaction() as work:
            work.presence.renew(GatewayLease(id="other", started_at=NOW, lease_until=until + timedelta(seconds=30)))
        assert online(until) == "AB"
        with store.transaction() as work:
            # An older link, and a link elsewhere, do not speak for the newest one.
            work.presence.save(
                [link("A", "here", 2)], [link("A", "here", 1, left_at=NOW), link("B", "here", 1, left_at=NOW)]
            )
            assert work.presence.open_links("here") == {"A": 2}
        assert online(NOW) == "AB"
        with store.transaction() as work:
            work.presence.save([], [link("A", "here", 2, left_at=NOW)])
            assert work.presence.connections(["A"], HERE)["A"].left_at == NOW
            work.presence.close_all("other", NOW)
        assert online(NOW) == ""
        with store.transaction() as work:
            assert work.presence.forget(until) == 0
            assert work.presence.forget(until + timedelta(minutes=1)) == 1

    def test_the_list_is_filtered_counted_and_cut_by_the_database(self, store):
        with store.transaction() as work:
            for number in range(1, 61):
                series, project = ("E7" if number % 3 == 0 else "F7"), ("p" if number <= 40 else "q")
                work.vehicles.add(replace(vehicle(number), series=series, project=project))
            opened = [
                Presence(vin=vehicle(number).vin, gateway_id="here", link_id=1, since=NOW, login_serial=number)
                for number in (3, 4, 55, 60)
            ]
            work.presence.save(opened, [])
            work.presence.save([], [replace(opened[1], left_at=NOW)])

        def ask(number=1, size=10, **asked):
            with store.reading() as work:
                page, count = work.vehicles.page(PageRequest(number, size), VehicleFilter(**asked), HERE, Scope())
            return [int(found.vin[1:]) for found, _ in page.items], page.total, (count.online, count.offline)

        assert ask() == (list(range(1, 11)), 60, (3, 57))
        assert ask(is_online=True) == ([3, 55, 60], 3, (3, 57))
        assert ask(2, 2, is_online=True) == ([60], 3, (3, 57))
        assert ask(6, 10, is_online=False) == ([52, 53, 54, 56, 57, 58, 59], 57, (3, 57))
        assert ask(series="E7", is_online=True) == ([3, 60], 2, (2, 18))
        assert ask(series="E7", project="p", is_online=True) == ([3], 1, (1, 12))
        assert ask(text="m4", size=3) == ([4, 40, 41], 11, (0, 11))
        assert ask(text="%") == ([], 0, (0, 0))
        assert ask(project="r", is_online=False) == ([], 0, (0, 0))
        with store.reading() as work:
            assert work.vehicles.series(Scope()) == ("E7", "F7")
            ((found, connection),) = work.vehicles.page(PageRequest(4, 1), VehicleFilter(), HERE, Scope())[0].items
        assert found.vin == vehicle(4).vin
        assert connection == VehicleConnection(is_online=False, since=NOW, left_at=NOW, login_serial=4)

    def test_what_a_task_is_planned_from(self, store):
        """The VINs of a choice are those of the list; what runs is counted; releases know their tasks, and a form its task."""
        with store.transaction() as work:
            work.customers.add(Customer(name="Port", created_at=NOW, created_by="adam"))
            for number in range(1, 8):
                owner = "Port" if number in (2, 5) else ""
                project = "q" if number == 7 else "p"
                work.vehicles.add(replace(vehicle(number), project=project, customer=owner))
                for position in range(2 if number < 7 else 0):
                    work.vehicles.save_node(
                        VehicleNode(
                            vin=vehicle(number).vin,
                            position=position,
                            kind=NodeKind.SLAVE if position else NodeKind.MASTER,
                            hwid=f"N{number}-{position}",
                            hardware_class="",
                            # The slaves run what the masters of others run.
                            version="2.1.0" if (number < 3) != bool(position) else "2.0.0",
                            security_counter=1,
                            serial="",
                            state="running",
                            updated_at=NOW,
                            image_sha256="ab" * 32 if number == 1 else "",
                        )
                    )
            work.presence.save(
                [Presence(vin=vehicle(3).vin, gateway_id="here", link_id=1, since=NOW, login_serial=1)], []
            )
            ids = [
                work.releases.add(replace(release_of(series, NOW), manifest_sha256=series * 32), b"", {}).id
                for series in ("F7", "E7", "F8")
            ]
            tasks = [
                work.ota_tasks.add(replace(task_of(number), project=project, form_token=token))
                for number, project, token in ((1, "p", "a" * 32), (2, "q", ""), (3, "p", ""))
            ]
            for place, (task, release_id) in enumerate(zip(tasks, (ids[0], ids[0], ids[1]), strict=True), 1):
                upgrades = [
                    VehicleUpgrade(task_id=task.id, vin=vehicle(number).vin, place=number, release_id=release_id)
                    for number in (place, place + 1)
                ]
                work.ota_tasks.add_upgrades(upgrades)
        everything, of_p = Scope(), Scope(kind=ScopeKind.PROJECTS, projects=("p",))
        with store.reading() as work:
            for asked, scope, expected in (
                (VehicleFilter(), everything, [1, 2, 3, 4, 5, 6, 7]),
                (VehicleFilter(), of_p, [1, 2, 3, 4, 5, 6]),
                (VehicleFilter(customer="Port"), everything, [2, 5]),
                (VehicleFilter(master_version="2.1.0"), everything, [1, 2]),
                (VehicleFilter(is_online=True), everything, [3]),
                (VehicleFilter(is_online=False, project="p"), everything, [1, 2, 4, 5, 6]),
                (VehicleFilter(text="%"), everything, []),
            ):
                vins = tuple(vehicle(number).vin for number in expected)
                assert work.vehicles.matching(asked, HERE, scope, 50) == vins, asked
                page, _ = work.vehicles.page(PageRequest(1, 50), asked, HERE, scope)
                assert tuple(item.vin for item, _ in page.items) == vins, asked
            assert len(work.vehicles.matching(VehicleFilter(), HERE, everything, 3)) == 3
            known = (("F7", "2.0.0", "", 4), ("F7", "2.1.0", "", 1), ("F7", "2.1.0", "ab" * 32, 1))
            assert sorted(work.vehicles.running(of_p)) == sorted(known)
            assert work.vehicles.running(everything, project="q") == (("F7", "", "", 1),)
            first, second, third = (task.id for task in tasks)
            assert work.releases.used_by(ids, everything) == {ids[0]: (second, first), ids[1]: (third,), ids[2]: ()}
            assert work.releases.used_by(ids, of_p) == {ids[0]: (first,), ids[1]: (third,), ids[2]: ()}
            assert [release.id for release in work.releases.of_series(["F7", "F8"])] == [ids[2], ids[0]]
            assert work.releases.all_series() == ("E7", "F7", "F8")
            assert work.releases.page(PageRequest(), series="E7").total == 1
            assert work.ota_tasks.by_form("a" * 32) == tasks[0]
            assert work.ota_tasks.by_form("b" * 32) is None
        with pytest.raises(ConflictError), store.transaction() as work:
            work.ota_tasks.add(replace(task_of(4), form_token="a" * 32))

    def test_a_challenge_is_spent_once_until_it_expires(self, store):
        with store.transaction() as work:
            assert work.device.spend_challenge(b"c" * 32, NOW + timedelta(minutes=1))
            assert not work.device.spend_challenge(b"c" * 32, NOW + timedelta(minutes=1))
            assert work.device.spend_challenge(b"d" * 32, NOW + timedelta(minutes=2))
            work.device.delete_before(NOW + timedelta(minutes=1))
            assert work.device.spend_challenge(b"c" * 32, NOW + timedelta(minutes=3))
            assert not work.device.spend_challenge(b"d" * 32, NOW + timedelta(minutes=3))

    def test_the_newest_addresses_of_an_account_are_known(self, store):
        with store.transaction() as work:
            for name in ("carol", "olaf"):
                work.accounts.add(
                    Account(name=name, email=f"{name}@example.org", role=Role.VIEWER, password_hash="h", created_at=NOW)
                )
            for number in range(5):
                at = NOW + timedelta(minutes=number)
                work.accounts.save_address("carol", bytes([number]) * 16, at, keep=3)
            work.accounts.save_address("carol", bytes([2]) * 16, NOW + timedelta(minutes=9), keep=2)
            work.accounts.save_address("olaf", bytes([0]) * 16, NOW, keep=3)
            known = [work.accounts.knows_address("carol", bytes([number]) * 16) for number in range(5)]
            assert known == [False, False, True, False, True]
            assert work.accounts.knows_address("olaf", bytes([0]) * 16)
            last = {"carol": NOW + timedelta(minutes=9), "olaf": NOW}
            assert work.accounts.last_logins(["carol", "olaf", "vera"]) == last
            asked = ({"text": "OLAF@"}, {"role": Role.VIEWER}, {"role": Role.AUDITOR}, {"text": "%"})
            assert [work.accounts.page(PageRequest(), **each).total for each in asked] == [1, 2, 0, 0]

    def test_the_audit_log_is_searched(self, store):
        with store.transaction() as work:
            for who, action, subject in (
                ("a", "task.end", "task 1"),
                ("b", "task.end", "task 12"),
                ("b", "tasks.x", "VIN"),
            ):
                work.audit.add(AuditEntry(at=NOW, who=who, action=action, subject=subject, outcome="done"))
            asked = (
                {"who": "b"},
                {"action": "task"},
                {"action": "task.end"},
                {"subject": "task 1"},
                {"text": "ASK 1"},
                {"text": "_"},
            )
            assert [work.audit.page(PageRequest(), **each).total for each in asked] == [2, 2, 2, 1, 2, 0]

    def test_counters_move_forward_are_bounded_and_go_when_they_are_empty(self, store):
        def save(work, key, minutes, *, now=NOW, keep=10, may_forget=True):
            free_at, now_s = NOW.timestamp() + 60 * minutes, now.timestamp()
            work.limits.save(key * 16, free_at, now_s, nonsense_from=now_s + 3600, keep=keep, may_forget=may_forget)

        def minutes(work):
            found = work.limits.get([key * 16 for key in (b"a", b"b", b"c", b"x")])
            return {key[:1]: int(level.free_at - NOW.timestamp()) // 60 for key, level in found.items()}

        with store.transaction() as work:
            for key, until in ((b"a", 5), (b"b", 7), (b"a", 9), (b"b", 6)):
                save(work, key, until)
            assert minutes(work) == {b"a": 9, b"b": 7}
            # What a clock that was ahead has written is replaced, also by less.
            save(work, b"c", 60)
            save(work, b"c", 3)
            assert minutes(work) == {b"a": 9, b"b": 7, b"c": 3}
            save(work, b"x", 8, keep=2)
            assert minutes(work) == {b"a": 9, b"x": 8}
            save(work, b"b", 20, now=NOW + timedelta(minutes=8))
            assert minutes(work) == {b"a": 9, b"b": 20}
            work.limits.delete(b"a" * 16)
            assert minutes(work) == {b"b": 20}

    def test_what_was_counted_in_the_future_is_counted_now(self, store):
        """Three hours ahead: until it is mended a fuller counter takes its place, an emptier one does not."""
        ahead, now = NOW.timestamp() + 3 * 3600, NOW.timestamp()
        options = {"nonsense_from": 1e12, "keep": 10, "may_forget": True}
        with store.transaction() as work:
            for key in (b"a", b"b", b"c"):
                work.limits.save(key * 16, ahead + 600, ahead, **options)
            work.limits.save(b"a" * 16, now + 500, now, **options)
            work.limits.save(b"b" * 16, now + 700, now, **options)
            assert work.times.mend(NOW, [], ALLOWED) == {"limits": 2}
            assert work.times.mend(NOW, [], ALLOWED) == {}
            found = work.limits.get([key * 16 for key in (b"a", b"b", b"c")])
        assert {key[:1]: level.free_at - now for key, level in found.items()} == {b"a": 600, b"b": 700, b"c": 600}

    def test_addresses_that_a_platform_has_logged_in_from_are_known_the_newest_of_them(self, store):
        with store.transaction() as work:
            for number in range(5):
                at = NOW + timedelta(minutes=number)
                work.limits.save_platform_address("UPPER", bytes([number]) * 16, at, keep=3)
            work.limits.save_platform_address("UPPER", bytes([2]) * 16, NOW + timedelta(minutes=9), keep=2)
            work.limits.save_platform_address("OTHER", bytes([0]) * 16, NOW, keep=3)
            known = [work.limits.knows_platform_address("UPPER", bytes([number]) * 16) for number in range(5)]
            assert known == [False, False, True, False, True]
            assert work.limits.knows_platform_address("OTHER", bytes([0]) * 16)
            assert work.times.mend(NOW - timedelta(hours=1), [], ALLOWED) == {"login addresses": 3}

    def test_the_first_secret_of_a_name_stays(self, store):
        with store.transaction() as work:
            assert work.first_secret("y", b"1") == b"1"
            assert work.first_secret("y", b"2") == b"1"

    def test_what_is_over_is_forgotten(self, store):
        with store.transaction() as work:
            work.vehicles.add(vehicle(1))
            session = DeviceSession(
                token_sha256=b"t" * 32,
                vin=vehicle(1).vin,
                hwid="M1",
                issued_at=NOW,
                expires_at=NOW + timedelta(hours=1),
            )
            work.device.add_session(session)
            work.device.delete_before(NOW)
            assert work.device.session(b"t" * 32) == session
            work.device.delete_before(NOW + timedelta(hours=1))
            assert work.device.session(b"t" * 32) is None

    def make_task(self, work, count=5):
        """A task of *count* vehicles, unapproved."""
        for number in range(1, count + 1):
            work.vehicles.add(vehicle(number))
        release = work.releases.add(release_of("F7", NOW), b"manifest", {})
        task = work.ota_tasks.add(task_of(1))
        vehicles = [(vehicle(number).vin, release.id) for number in range(count, 0, -1)]
        work.ota_tasks.add_unapproved(task.id, vehicles, NOW, first_place=1)
        return task

    def test_the_vehicles_of_a_task_are_added_at_once_and_equal_to_those_added_one_by_one(self, store):
        with store.transaction() as work:
            task = self.make_task(work)
            work.ota_tasks.add_unapproved(task.id + 1, [], NOW, first_place=1)
            found = work.ota_tasks.upgrades(task.id)
            vins = [item.vin for item in found]
            steps = work.ota_tasks.transitions(task.id, vins)
        assert found == tuple(
            VehicleUpgrade(task_id=task.id, vin=vehicle(6 - place).vin, place=place, release_id=1)
            for place in range(1, 6)
        )
        assert steps == {
            vin: (Transition(task_id=task.id, vin=vin, status=VehicleStatus.UNAPPROVED, at=NOW),) for vin in vins
        }

    def test_a_vehicle_twice_in_a_task_is_refused(self, store):
        with store.transaction() as work:
            task = self.make_task(work)
            again = VehicleUpgrade(task_id=task.id, vin=vehicle(1).vin, place=6, release_id=1)
            with pytest.raises(ConflictError):
                work.ota_tasks.add_upgrade(again)
            assert len(work.ota_tasks.upgrades(task.id)) == 5

    def test_many_vehicles_are_saved_at_once(self, store):
        with store.transaction() as work:
            task = self.make_task(work)
            before = work.ota_tasks.upgrades(task.id)
            after = [
                replace(item, status=VehicleStatus.APPROVED, order_document=b"\x00\xff", heard_at=NOW, attempt=2)
                for item in before[1:3]
            ]
            work.ota_tasks.save_upgrades(after)
            work.ota_tasks.save_upgrades([])
            assert work.ota_tasks.upgrades(task.id) == (before[0], *after, *before[3:])
            with pytest.raises(ConflictError):
                work.ota_tasks.save_upgrades([replace(before[0], place=9)])
            work.vehicles.save_sequences({vehicle(1).vin: 7, vehicle(3).vin: 8})
            work.vehicles.save_sequences({})
            found = work.vehicles.many([vehicle(number).vin for number in (3, 1, 2, 99)], lock=True)
            assert {vin: item.order_sequence for vin, item in found.items()} == {
                vehicle(1).vin: 7,
                vehicle(2).vin: 0,
                vehicle(3).vin: 8,
            }

    def test_slices_by_place_status_and_choice(self, store):
        with store.transaction() as work:
            task = self.make_task(work)
            tables = work.ota_tasks
            tables.save_upgrade(replace(tables.upgrade(task.id, 3), status=VehicleStatus.CANCELLED))
            waiting = [VehicleStatus.UNAPPROVED]

            def places(*asked, **options):
                return [item.place for item in tables.upgrades_after(task.id, *asked, **options)]

            assert places(0, 2) == [1, 2]
            assert places(2, 2, lock=True) == [3, 4]
            assert places(2, 2, statuses=waiting) == [4, 5]
            assert places(0, 2, places=[5, 3, 1]) == [1, 3]
            assert places(1, 9, places=[5, 3, 1], statuses=waiting) == [5]
            assert places(5, 9) == []
            assert tables.vins(task.id, [VehicleStatus.CANCELLED]) == (vehicle(3).vin,)
            assert tables.places(task.id, [vehicle(1).vin, vehicle(99).vin]) == {vehicle(1).vin: 5}
            page = tables.upgrades_page(task.id, PageRequest(1, 3), statuses=waiting)
            assert ([item.place for item in page.items], page.total) == ([1, 2, 4], 4)
            assert tables.content(task.id) == tuple(
                (vehicle(number).vin, f"M{number}", "0" * 64) for number in range(5, 0, -1)
            )

    def test_of_two_open_upgrades_the_one_under_way_is_the_vehicles(self, store):
        with store.transaction() as work:
            task = self.make_task(work, 1)
            waiting = work.ota_tasks.add(task_of(2))
            work.ota_tasks.add_unapproved(waiting.id, [(vehicle(1).vin, 1)], NOW, first_place=1)
            assert work.ota_tasks.open_upgrade(vehicle(1).vin).task_id == waiting.id
            first = work.ota_tasks.upgrade(task.id, 1)
            work.ota_tasks.save_upgrade(replace(first, status=VehicleStatus.APPROVED))
            assert work.ota_tasks.open_upgrade(vehicle(1).vin).task_id == task.id
            found = work.ota_tasks.open_upgrades([vehicle(1).vin, "nobody"], lock=True)
            assert {vin: [item.task_id for item in items] for vin, items in found.items()} == {
                vehicle(1).vin: [task.id, waiting.id]
            }

    def test_acts_of_tasks(self, store):
        act = TaskAct(
            task_id=1,
            kind=ActKind.RETRY,
            who="carol",
            reason="why",
            begun_at=NOW,
            statuses=("Timed out",),
            places=(1, 3),
        )
        with store.transaction() as work:
            task = self.make_task(work, 1)
            assert work.ota_tasks.act(task.id) is None
            work.ota_tasks.save_act(act)
            work.ota_tasks.save_act(replace(act, place_done=3, count=2))
            assert work.ota_tasks.act(task.id, lock=True) == replace(act, place_done=3, count=2)
            assert work.ota_tasks.acts() == (replace(act, place_done=3, count=2),)
            work.ota_tasks.delete_act(task.id)
            assert work.ota_tasks.acts() == ()

    def test_reports_are_kept_newest_first_to_go_last(self, store):
        def report(number, *versions):
            nodes = tuple(NodeVersion(position=n, hwid=f"H{n}", version=v) for n, v in enumerate(versions))
            return OrderReport(
                task_id=1,
                vin=vehicle(1).vin,
                order_id="OTA-1-1",
                received_at=NOW,
                outcome="failed",
                reason=str(number),
                versions=nodes,
                is_late=False,
                document=b"signed",
            )

        with store.transaction() as work:
            self.make_task(work, 2)
            for number in range(4):
                work.ota_tasks.add_report(report(number, f"2.{number}.0"), keep=3)
            vin, other = vehicle(1).vin, vehicle(2).vin
            found = work.ota_tasks.reports(1, [vin, other])
            assert found == {vin: tuple(report(number, f"2.{number}.0") for number in (1, 2, 3)), other: ()}
            assert work.ota_tasks.signed_versions([vin, other]) == {vin: report(3, "2.3.0").versions}

    def test_projects_and_their_codes(self, store):
        code = ApprovalCode(
            task_id=1, code_hmac=b"h" * 32, content_sha256=b"c" * 32, issued_at=NOW, expires_at=NOW, recipient="a@b"
        )
        with store.transaction() as work:
            self.make_task(work, 3)
            assert work.projects.get("p", lock=True) is None
            project = Project(
                name="p", audit_mailbox="a@b", approval=ApprovalWay.NAMED_AUDITOR, starters=("x", "y"), changed_at=NOW
            )
            work.projects.save(replace(project, audit_mailbox=""))
            work.projects.save(project)
            work.projects.save(Project(name="a"))
            assert work.projects.get("p") == project
            assert work.projects.all() == (Project(name="a"), project)
            assert work.vehicles.counts_by_project(Scope()) == {"p": 3}
            work.ota_tasks.save_code(code)
            assert work.ota_tasks.void_codes("other") == ()
            assert work.ota_tasks.code(1) == code
            assert work.ota_tasks.void_codes("p") == (1,)
            assert work.ota_tasks.void_codes("p") == ()
            assert work.ota_tasks.code(1).is_void
            work.ota_tasks.save(replace(work.ota_tasks.get(1), status=TaskStatus.APPROVED))
            work.ota_tasks.save_code(code)
            assert work.ota_tasks.void_codes("p") == ()

    def test_secrets_are_kept(self, store):
        with store.transaction() as work:
            assert work.secret("x") is None
            work.save_secret("x", b"1")
            work.save_secret("x", b"2")
            assert work.secret("x") == b"2"

    def test_a_reference_to_nothing_is_refused(self, store):
        with pytest.raises(ConflictError), store.transaction() as work:
            work.device.add_session(
                DeviceSession(token_sha256=b"t" * 32, vin="nobody", hwid="M", issued_at=NOW, expires_at=NOW)
            )

    def test_read_then_write_in_many_threads_loses_nothing(self, store):
        """Each adds one to a counter that it read in the same transaction."""
        with store.transaction() as work:
            work.vehicles.add(vehicle(1))

        def count():
            for _ in range(10):
                with store.transaction() as work:
                    found = work.vehicles.get(vehicle(1).vin, lock=True)
                    work.vehicles.save(replace(found, order_sequence=found.order_sequence + 1))

        threads = [Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with store.reading() as work:
            assert work.vehicles.get(vehicle(1).vin).order_sequence == 40

    def test_a_field_upgrade_is_kept_once(self, store):
        """The same words with the same time are the same upgrade, whenever and however they are told again."""
        with store.transaction() as work:
            work.vehicles.add(vehicle(1))
            work.vehicles.add(vehicle(2))
            assert work.histories.add(field_upgrade())
            assert not work.histories.add(field_upgrade())
            assert not work.histories.add(field_upgrade(reported_at=NOW + timedelta(hours=1), detail="other words"))
            # A refused row does not spoil the transaction, and everything else makes another upgrade of it.
            for other in (
                {"vin": vehicle(2).vin},
                {"upgraded_at": NOW - timedelta(seconds=59)},
                {"position": 3},
                {"hwid": "S3"},
                {"version_before": ""},
                {"version_after": "2.2.0"},
                {"status": VehicleStatus.ROLLED_BACK},
            ):
                assert work.histories.add(field_upgrade(**other)), other
        with store.reading() as work:
            page = work.histories.page(vehicle(1).vin, PageRequest())
            assert (page.total, len(page.items)) == (7, 7)
            assert work.histories.page("nobody", PageRequest()).items == ()

    def test_the_history_has_both_kinds_in_one_order(self, store):
        with store.transaction() as work:
            work.vehicles.add(vehicle(1))
            release = work.releases.add(release_of("F7", NOW), b"manifest", {})
            for number in (1, 2):
                task = work.ota_tasks.add(task_of(number))
                work.ota_tasks.add_upgrade(
                    VehicleUpgrade(
                        task_id=task.id,
                        vin=vehicle(1).vin,
                        place=1,
                        release_id=release.id,
                        status=VehicleStatus.SUCCEEDED,
                        versions_before=(
                            NodeVersion(position=0, hwid="M1", version="2.0.0"),
                            NodeVersion(position=1, hwid="OLD", version="2.0.0"),
                        ),
                        versions_after=(
                            NodeVersion(position=1, hwid="NEW", version="2.1.0"),
                            NodeVersion(position=2, hwid="S2", version="2.1.0"),
                        ),
                    )
                )
                for minutes in (number, 10 * number):
                    at = NOW + timedelta(minutes=minutes)
                    work.ota_tasks.add_transition(
                        Transition(task_id=task.id, vin=vehicle(1).vin, status=VehicleStatus.SUCCEEDED, at=at)
                    )
            # A unit whose clock is ahead: what it told cannot have been later than that.
            for minutes, told in ((15, 30), (60, 5)):
                work.histories.add(
                    field_upgrade(
                        upgraded_at=NOW + timedelta(minutes=minutes), reported_at=NOW + timedelta(minutes=told)
                    )
                )
            everything = work.histories.page(vehicle(1).vin, PageRequest())
            pages = [work.histories.page(vehicle(1).vin, PageRequest(number, 3)) for number in (1, 2)]
        assert [(e.source.value, e.at - NOW, e.task_id) for e in everything.items] == [
            ("OTA", timedelta(minutes=20), 2),
            ("CAN", timedelta(minutes=15), None),
            ("OTA", timedelta(minutes=10), 1),
            ("CAN", timedelta(minutes=5), None),
        ]
        assert pages[0].items + pages[1].items == everything.items
        assert [page.total for page in pages] == [4, 4]
        ordered, done = everything.items[:2]
        assert (ordered.software_version, ordered.status, ordered.reported_at) == (
            "2.2.0",
            VehicleStatus.SUCCEEDED,
            None,
        )
        # A node that was exchanged on the way has the name it ended with.
        assert [(n.position, n.hwid, n.version_before, n.version_after) for n in ordered.nodes] == [
            (0, "M1", "2.0.0", ""),
            (1, "NEW", "2.0.0", "2.1.0"),
            (2, "S2", "", "2.1.0"),
        ]
        assert (done.reported_at, done.tool, done.reason) == (NOW + timedelta(minutes=30), "bmsota 1.0", "")
        assert [(n.position, n.hwid, n.version_before, n.version_after) for n in done.nodes] == [
            (2, "S2", "2.0.0", "2.1.0")
        ]


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self):
        made = SqlStore()
        yield made
        made.close()


class TestFileStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        made = SqlStore(f"sqlite:///{tmp_path / 'p.sqlite'}")
        yield made
        made.close()

    def test_it_is_there_after_a_restart(self, tmp_path):
        url = f"sqlite:///{tmp_path / 'p.sqlite'}"
        first = SqlStore(url)
        with first.transaction() as work:
            work.vehicles.add(vehicle(1))
        first.close()
        second = SqlStore(url)
        with second.reading() as work:
            assert work.vehicles.get(vehicle(1).vin) == vehicle(1)
        second.close()

    def test_two_processes_lose_nothing_to_each_other(self, tmp_path):
        """Two stores on one file, as two processes have them: nothing but SQLite itself lines them up."""
        url = f"sqlite:///{tmp_path / 'p.sqlite'}"
        stores = [SqlStore(url), SqlStore(url)]
        with stores[0].transaction() as work:
            work.vehicles.add(vehicle(1))

        def count(store):
            for _ in range(20):
                with store.transaction() as work:
                    found = work.vehicles.get(vehicle(1).vin, lock=True)
                    work.vehicles.save(replace(found, order_sequence=found.order_sequence + 1))

        threads = [Thread(target=count, args=[store]) for store in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with stores[0].reading() as work:
            assert work.vehicles.get(vehicle(1).vin).order_sequence == 40
        for store in stores:
            store.close()

    def test_a_reader_sees_nothing_of_an_open_transaction_and_does_not_wait_for_it(self, store):
        with store.transaction() as work:
            work.vehicles.add(vehicle(1))
            with store.reading() as other:
                assert other.vehicles.get(vehicle(1).vin) is None


@pytest.fixture(scope="module")
def postgresql():
    """A store on a real PostgreSQL, made once; `TestPostgresqlStore.store` empties it."""
    with some_database() as url:
        made = SqlStore(url)
        yield made
        made.close()


@pytest.mark.slow
class TestPostgresqlStore(StoreContract):
    @pytest.fixture
    def store(self, postgresql):
        with postgresql._database.writing() as connection:
            # Emptying a table costs a file, so only those that have something; and that whose numbers a test looks at.
            used = ["mail"] + [
                table.name
                for table in PLATFORM.sorted_tables
                if connection.exec_driver_sql(f"SELECT EXISTS (SELECT 1 FROM {table.name})").scalar()
            ]
            connection.exec_driver_sql(f"TRUNCATE {', '.join(used)} RESTART IDENTITY CASCADE")
        return postgresql

    def test_two_processes_that_look_at_once_get_different_mails_and_neither_waits(self, store):
        until = NOW + timedelta(minutes=1)
        with store.transaction() as work:
            ids = [work.outbox.add(mail(number)).id for number in range(4)]
        with store.transaction() as one:
            mine = one.outbox.take(NOW, 2, by="one", until=until)
            with store.transaction() as two:
                theirs = two.outbox.take(NOW, 10, by="two", until=until)
        assert [each.id for each in (*mine, *theirs)] == ids

    def test_processes_that_start_at_once_do_not_migrate_at_once(self):
        """On an empty database; without a lock, both would create the same tables."""
        with some_database() as url, ThreadPoolExecutor(2) as starting:
            for started in starting.map(SqlStore, [url] * 2):
                started.close()


@pytest.mark.slow
def test_both_stores_may_share_one_database(tmp_path):
    url = f"sqlite:///{tmp_path / 'both.sqlite'}"
    store, telemetry = SqlStore(url), SqlTelemetryStore(url)
    with store.transaction() as work:
        work.vehicles.add(vehicle(1))
    assert telemetry.newest([vehicle(1).vin]) == {}
    store.close()
    telemetry.close()
