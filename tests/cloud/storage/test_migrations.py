"""The migrations lead to the schema the code uses, and back."""

from datetime import UTC, datetime

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from bmsota_cloud.domain.accounts import Scope
from bmsota_cloud.domain.equipment import ChangeStatus, EquipmentChange
from bmsota_cloud.domain.errors import ConflictError
from bmsota_cloud.domain.ota_tasks import VehicleStatus
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.projects import ApprovalWay
from bmsota_cloud.storage import schema
from bmsota_cloud.storage.migrate import migrate
from bmsota_cloud.storage.sql import SqlStore, SqlWork
from bmsota_cloud.storage.sql._engine import MEMORY, SqlDatabase
from new_databases import dump, migrate_by_copy
from postgresql import some_database
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import IntegrityError

from bmsota.errors import ConfigurationError


@pytest.mark.parametrize(("history", "metadata"), [("platform", schema.PLATFORM), ("telemetry", schema.TELEMETRY)])
def test_migrations_and_schema_agree(history, metadata):
    with create_engine("sqlite://").connect() as connection, connection.begin():
        migrate(connection, history)
        context = MigrationContext.configure(
            connection, opts={"version_table": f"alembic_version_{history}", "compare_type": False}
        )
        assert compare_metadata(context, metadata) == []
        columns = {
            table: [(c["name"], c["nullable"]) for c in inspect(connection).get_columns(table)]
            for table in metadata.tables
        }
    assert columns == {
        name: [(column.name, column.nullable) for column in table.columns] for name, table in metadata.tables.items()
    }


@pytest.mark.parametrize("history", ["platform", "telemetry"])
def test_the_copy_that_other_tests_start_with_is_what_the_migrations_leave(history):
    dumps = []
    for make in (migrate, migrate_by_copy):
        with create_engine("sqlite://").connect() as connection, connection.begin():
            make(connection, history)
            # Alembic makes the indexes of a copied table again in any order.
            dumps.append(sorted(dump(connection)))
    assert dumps[0] == dumps[1]
    assert f"alembic_version_{history}" in "".join(dumps[1])


def test_the_engine_of_a_store_in_memory_is_lent_again_and_is_empty():
    """Or every test compiles all its queries again."""
    engines = []
    for _ in range(2):
        database = SqlDatabase(MEMORY, history="platform", synchronous="OFF", busy_timeout_s=4.5)
        engines.append(database._engine)
        with database.writing() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM secret").scalar_one() == 0
            connection.exec_driver_sql("INSERT INTO secret (name, value) VALUES ('n', x'00')")
        database.close()
        assert database._engine is not engines[-1]
    assert engines[0] is engines[1]


def test_what_an_older_platform_has_kept_is_there_after_the_upgrade():
    with create_engine("sqlite://").connect() as connection, connection.begin():
        migrate(connection, "platform", revision="platform_0001")
        columns = "vin, series, project, hwid, device_public_key, registered_at, order_sequence, report_counter, report_sha256"
        values = "'V1', 'F7', 'p', 'M1', x'00', '2026-11-22 08:00:00.000000', 3, 2, x''"
        connection.exec_driver_sql(f"INSERT INTO vehicle ({columns}) VALUES ({values})")
        migrate(connection, "platform")
        assert connection.exec_driver_sql("SELECT vin, order_sequence FROM vehicle").all() == [("V1", 3)]
        assert connection.exec_driver_sql("SELECT count(*) FROM field_upgrade").scalar() == 0


def test_a_local_upgrade_that_an_older_platform_has_kept_is_in_the_history():
    """Table and column keep the names of their first version, whatever the code calls them."""
    with create_engine("sqlite://").connect() as connection, connection.begin():
        migrate(connection, "platform", revision="platform_0002")
        vehicle = "vin, series, project, hwid, device_public_key, registered_at, order_sequence, report_counter, report_sha256"
        connection.exec_driver_sql(
            f"INSERT INTO vehicle ({vehicle}) VALUES ('V1', 'F7', 'p', 'M1', x'00', '2026-11-22 08:00:00.000000', 0, 0, x'')"
        )
        upgrade = "vin, upgraded_at, told_at, position, hwid, version_before, version_after, status, tool, detail"
        connection.exec_driver_sql(
            f"INSERT INTO field_upgrade ({upgrade}) VALUES ('V1', '2026-11-22 08:00:00.000000',"
            " '2026-11-22 09:00:00.000000', 2, 'S2', '2.0.0', '2.1.0', 'SUCCEEDED', 'bmsota', '')"
        )
        migrate(connection, "platform")
        (entry,) = SqlWork(connection).histories.page("V1", PageRequest()).items
    assert (entry.at.hour, entry.reported_at.hour, entry.status, entry.tool) == (
        8,
        9,
        VehicleStatus.SUCCEEDED,
        "bmsota",
    )


def test_who_set_a_status_is_derived_for_what_an_older_platform_has_kept():
    """An end by report is signed, the operator's and the platform's own are theirs, the rest was a word of the link."""
    with create_engine("sqlite://").connect() as connection, connection.begin():
        migrate(connection, "platform", revision="platform_0002")
        for status in VehicleStatus:
            connection.exec_driver_sql(
                f"INSERT INTO transition (task_id, vin, status, at, reason)"
                f" VALUES (1, 'V1', '{status.name}', '2026-11-22 08:00:00.000000', '')"
            )
        connection.exec_driver_sql(
            "INSERT INTO equipment_change (vin, position, old_hwid, new_hwid, changed_at)"
            " VALUES ('V1', 2, 'A', 'B', '2026-11-22 08:00:00.000000')"
        )
        migrate(connection, "platform")
        work = SqlWork(connection)
        found = {str(item.status): item.source.name for item in work.ota_tasks.transitions(1, ["V1"])["V1"]}
        (change,) = work.equipment.page(PageRequest(), Scope(), vin="V1").items
    assert found == {
        "Unapproved": "OPERATOR",
        "Approved": "OPERATOR",
        "To be downloaded": "UNSIGNED",
        "Downloading": "UNSIGNED",
        "Download Complete": "UNSIGNED",
        "Upgrade succeeded": "SIGNED",
        "Upgrade failed": "UNSIGNED",
        "Rolled back": "SIGNED",
        "Rejected": "UNSIGNED",
        "Timed out": "PLATFORM",
        "Cancelled": "OPERATOR",
    }
    assert (change.status.name, change.decided_at) == ("EARLIER", None)


def test_an_older_platforms_projects_stay_strict_and_its_signed_reports_count():
    """What only the named auditor could approve stays so; what a vehicle runs is known from the report that is kept."""
    with create_engine("sqlite://").connect() as connection, connection.begin():
        migrate(connection, "platform", revision="platform_0002")
        at = "'2026-11-22 08:00:00.000000'"
        vehicle = "vin, series, project, hwid, device_public_key, registered_at, order_sequence, report_counter, report_sha256"
        for vin, project in (("V1", "Harbour"), ("V2", "Harbour"), ("V3", "Hills")):
            connection.exec_driver_sql(
                f"INSERT INTO vehicle ({vehicle}) VALUES ('{vin}', 'F7', '{project}', 'M{vin}', x'00', {at}, 0, 0, x'')"
            )
        connection.exec_driver_sql(
            "INSERT INTO release (id, name, software_version, series, manifest_sha256, manifest, images, expires_at,"
            f" uploaded_by, uploaded_at) VALUES (1, 'r', '2.1.0', 'F7', 'ab', x'00', '[]', {at}, 'carol', {at})"
        )
        for number, approved_at in ((1, at), (2, "NULL")):
            connection.exec_driver_sql(
                "INSERT INTO ota_task (id, project, reason, software_version, creator, auditor, time_limit_s, status,"
                f" created_at, approver, approved_at) VALUES ({number}, 'Harbour', 'r', '2.1.0', 'carol', 'alan', 60,"
                f" 'UNAPPROVED', {at}, '', {approved_at})"
            )
        columns = (
            "task_id, place, vin, release_id, status, stage, reason, progress_pct, sequence, order_document,"
            " instruction_count, heard_at, ended_by_report, report_document, versions_before, versions_after"
        )
        versions = '[{"position": 0, "hwid": "MV1", "version": "2.1.0"}]'
        for place, status, ended in ((1, "ROLLED_BACK", 1), (2, "TIMED_OUT", 0)):
            connection.exec_driver_sql(
                f"INSERT INTO vehicle_upgrade ({columns}) VALUES (1, {place}, 'V{place}', 1, '{status}', '', 'why', 0,"
                f" 1, x'00', 1, {at}, {ended}, x'01', '[]', '{versions}')"
            )
        migrate(connection, "platform")
        work = SqlWork(connection)
        assert [(project.name, str(project.approval)) for project in work.projects.all()] == [
            ("Harbour", "named auditor"),
            ("Hills", "named auditor"),
        ]
        assert [work.ota_tasks.get(number).approval for number in (1, 2)] == [ApprovalWay.NAMED_AUDITOR, None]
        (report,) = work.ota_tasks.reports(1, ["V1", "V2"])["V1"]
        assert (report.order_id, report.outcome, report.reason, report.document, report.is_late) == (
            "OTA-1-1",
            "rolled-back",
            "why",
            b"\x01",
            False,
        )
        assert [node.version for node in work.ota_tasks.signed_versions(["V1", "V2"])["V1"]] == ["2.1.0"]
        assert [upgrade.attempt for upgrade in work.ota_tasks.upgrades(1)] == [1, 1]


def test_vehicles_that_others_refer_to_survive_the_change_of_their_table(tmp_path):
    """On a file with foreign keys enforced, as the platform opens it."""
    url = f"sqlite:///{tmp_path / 'platform.sqlite'}"
    with create_engine(url).connect() as connection, connection.begin():
        migrate(connection, "platform", revision="platform_0002")
        columns = "vin, series, project, hwid, device_public_key, registered_at, order_sequence, report_counter, report_sha256"
        values = "'V1', 'F7', 'p', 'M1', x'00', '2026-11-22 08:00:00.000000', 3, 2, x''"
        connection.exec_driver_sql(f"INSERT INTO vehicle ({columns}) VALUES ({values})")
        connection.exec_driver_sql(
            "INSERT INTO equipment_change (vin, position, old_hwid, new_hwid, changed_at)"
            " VALUES ('V1', 1, 'a', 'b', '2026-11-22 08:00:00.000000')"
        )
    store = SqlStore(url)
    with store.transaction() as work:
        assert work.vehicles.get("V1").hwid == "M1"
        assert work.equipment.page(PageRequest(), Scope(), vin="V1").total == 1
        with pytest.raises(ConflictError):
            work.equipment.add(
                EquipmentChange(
                    vin="nobody",
                    position=1,
                    old_hwid="a",
                    new_hwid="b",
                    changed_at=datetime(2026, 1, 1, tzinfo=UTC),
                    status=ChangeStatus.REPORTED,
                )
            )
    store.close()


def test_rows_that_refer_to_nothing_stop_a_migration(tmp_path):
    url = f"sqlite:///{tmp_path / 'platform.sqlite'}"
    with create_engine(url).connect() as connection, connection.begin():
        migrate(connection, "platform", revision="platform_0002")
        connection.exec_driver_sql(
            "INSERT INTO equipment_change (vin, position, old_hwid, new_hwid, changed_at)"
            " VALUES ('nobody', 1, 'a', 'b', '2026-11-22 08:00:00.000000')"
        )
    with pytest.raises(ConfigurationError, match="nothing was changed"):
        SqlStore(url)
    with create_engine(url).connect() as connection:
        assert (
            connection.exec_driver_sql("SELECT version_num FROM alembic_version_platform").scalar() == "platform_0002"
        )


def test_an_older_platform_does_not_get_terminals_that_it_cannot_keep():
    with create_engine("sqlite://").connect() as connection, connection.begin():
        migrate(connection, "platform")
        columns = "vin, series, project, registered_at, order_sequence, report_counter, report_sha256"
        connection.exec_driver_sql(
            f"INSERT INTO vehicle ({columns}) VALUES ('V1', 'F7', 'p', '2026-11-22 08:00:00.000000', 0, 0, x'')"
        )
        with pytest.raises(RuntimeError, match="1 vehicles are registered without a device key"):
            migrate(connection, "platform", revision="base")


@pytest.mark.slow
@pytest.mark.parametrize("history", ["platform", "telemetry"])
def test_down_leads_back_to_nothing_and_up_again(history):
    with create_engine("sqlite://").connect() as connection, connection.begin():
        migrate(connection, history)
        migrate(connection, history, revision="base")
        assert inspect(connection).get_table_names() == [f"alembic_version_{history}"]
        migrate(connection, history)
        migrate(connection, history)


def test_a_vehicle_that_an_older_platform_has_heard_of_is_still_known():
    """When it was last seen; values come again with its next report."""
    with create_engine("sqlite://").connect() as connection, connection.begin():
        migrate(connection, "telemetry", revision="telemetry_0001")
        connection.exec_driver_sql(
            "INSERT INTO vehicle_state VALUES"
            " ('V1', 1, '2026-11-22 08:00:00.000000', '2026-11-22 07:59:58.000000', 3, 55.0, 1.0, '{\"vehicle\": {}}')"
        )
        connection.exec_driver_sql(
            "INSERT INTO report VALUES (1, 'V1', '2026-11-22 07:59:58.000000', '2026-11-22 08:00:00.000000', 0, '{}')"
        )
        migrate(connection, "telemetry")
        seen = connection.exec_driver_sql("SELECT vin, last_seen_at_ns, reported_at_s FROM newest_state").all()
        assert seen == [("V1", 1_795_334_400 * 10**9, None)]


_EVENTS = ", ".join(f"('V1', 5, 'alarm', 'SOC_LOW', '{value}', '{{}}')" for value in (1, 0))


def _check_events(connection):
    migrate(connection, "telemetry", revision="telemetry_0002")
    connection.exec_driver_sql(f"INSERT INTO vehicle_event (vin, at_s, kind, subject, value, detail) VALUES {_EVENTS}")
    migrate(connection, "telemetry")
    every = "SELECT vin, at_s, sequence, kind, subject, value, detail FROM vehicle_event ORDER BY sequence, value"
    old = [("V1", 5, 0, "alarm", "SOC_LOW", value, "{}") for value in "01"]
    assert connection.exec_driver_sql(every).all() == old
    # The number belongs to the key, and it has to be said.
    connection.exec_driver_sql(
        "INSERT INTO vehicle_event (vin, at_s, sequence, kind, subject, value, detail)"
        " VALUES ('V1', 5, 1, 'alarm', 'SOC_LOW', '1', '{}')"
    )
    assert connection.exec_driver_sql(every).all() == [*old, ("V1", 5, 1, "alarm", "SOC_LOW", "1", "{}")]
    with pytest.raises(IntegrityError), connection.begin_nested():
        connection.exec_driver_sql(
            f"INSERT INTO vehicle_event (vin, at_s, kind, subject, value, detail) VALUES {_EVENTS}"
        )


def test_events_that_an_older_version_has_kept_stay():
    with create_engine("sqlite://").connect() as connection, connection.begin():
        _check_events(connection)


def test_events_that_an_older_version_has_kept_stay_on_postgresql():
    with some_database() as url:
        engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as connection, connection.begin():
            _check_events(connection)
        engine.dispose()


@pytest.mark.parametrize("history", ["platform", "telemetry"])
def test_on_postgresql_too(history):
    with some_database() as url:
        engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as connection, connection.begin():
            migrate(connection, history)
            migrate(connection, history, revision="base")
            assert inspect(connection).get_table_names() == [f"alembic_version_{history}"]
            migrate(connection, history)
        engine.dispose()


def test_an_older_platform_shows_nothing_to_who_must_not_see_everything():
    """Up: who is there sees everything. Down: limited and disabled accounts lose password and sessions, customers' ones go."""
    at = "'2026-11-22 08:00:00.000000'"
    with create_engine("sqlite://").connect() as connection, connection.begin():
        migrate(connection, "platform", revision="platform_0011")
        connection.exec_driver_sql(
            f"INSERT INTO account (name, email, role, password_hash, created_at) VALUES ('vera', 'v', 'VIEWER', 'h', {at})"
        )
        migrate(connection, "platform")
        account = SqlWork(connection).accounts.get("vera")
        assert (account.scope, account.disabled_at) == (Scope(), None)
        connection.exec_driver_sql(f"INSERT INTO customer VALUES ('Port', {at}, 'adam')")
        for name, role, sees, customer, disabled_at in (
            ("olga", "OPERATOR", "PROJECTS", "NULL", "NULL"),
            ("cleo", "CUSTOMER", "CUSTOMER", "'Port'", "NULL"),
            ("dora", "VIEWER", "EVERYTHING", "NULL", at),
        ):
            connection.exec_driver_sql(
                "INSERT INTO account (name, email, role, password_hash, created_at, sees, projects, customer, disabled_at)"
                f" VALUES ('{name}', 'e', '{role}', 'h', {at}, '{sees}', '[]', {customer}, {disabled_at})"
            )
        for number, name in enumerate(("vera", "olga", "cleo", "dora")):
            connection.exec_driver_sql(
                "INSERT INTO login_session (token_sha256, account_name, csrf_token, created_at, last_seen_at, expires_at)"
                f" VALUES (x'0{number}', '{name}', 'c', {at}, {at}, {at})"
            )
            connection.exec_driver_sql(f"INSERT INTO login_address VALUES ('{name}', x'0{number}', {at})")
        migrate(connection, "platform", revision="platform_0011", down=True)
        assert connection.exec_driver_sql("SELECT name, password_hash FROM account ORDER BY name").all() == [
            ("dora", "!"),
            ("olga", "!"),
            ("vera", "h"),
        ]
        assert connection.exec_driver_sql("SELECT account_name FROM login_session").all() == [("vera",)]
        migrate(connection, "platform")
