"""Exports: what is in the files, whose they are, and what happens when something goes wrong in the middle."""

import csv
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from bmsota_cloud.domain.accounts import Role, Scope, ScopeKind
from bmsota_cloud.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    StorageUnavailableError,
)
from bmsota_cloud.domain.exports import ExportFormat
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.vehicles import VehicleFilter
from bmsota_cloud.services import exports as exports_module
from bmsota_cloud.services import stored_frame

from bmsota.gbt32960 import (
    BmsConfiguration,
    CellVoltages,
    CellVoltages2025,
    Command,
    ConfigurationItem,
    Edition,
    Frame,
    PackVoltages,
    ProbeTemperatures,
    Report,
    Sentinel,
    SubsystemTemperatures,
    SubsystemVoltages,
    UserDefined,
    VehicleData,
    VehicleData2025,
    encode,
)

T0 = datetime(2026, 11, 22, 7, 0, tzinfo=UTC)
ALL = VehicleFilter()
CSV, PARQUET, XLSX = ExportFormat.CSV, ExportFormat.PARQUET, ExportFormat.XLSX


def vehicle_data(soc=50):
    return VehicleData(1, 3, 1, 42.5, 12345.6, 350.2, 31.4, soc, 1, 14, 5000, 0, 0)


def pack(cells=(3.611, 3.689), probes=(24, 25)):
    return (
        CellVoltages((SubsystemVoltages(1, 87.6, 31.4, len(cells), 1, cells),)),
        ProbeTemperatures((SubsystemTemperatures(1, probes),)),
    )


@pytest.fixture
def world(new_world, tmp_path):
    made = new_world(data_dir=tmp_path / "data")
    for number, project in ((1, "Harbour"), (2, "Harbour"), (9, "Airport")):
        made.register(number, project=project)
    return made


@pytest.fixture
def folder(world, tmp_path):
    return tmp_path / "data" / "exports"


def send(world, number, at_s, *bodies, edition=Edition.GBT2016, raw=None):
    message = Report(T0 + timedelta(seconds=at_s), bodies or (vehicle_data(), *pack()))
    raw = raw or encode(Frame(command=Command.REALTIME_REPORT, vin=world.vin(number), message=message, edition=edition))
    at = int(T0.timestamp()) + at_s
    world.services.ingest.accept(
        stored_frame(
            world.vin(number), raw, reported_at_s=at, arrived_at_ns=at * 10**9 + 250_000_000, is_backfill=False
        )
    )


def ask(world, kind=CSV, asked=ALL, by="carol", **options):
    options = {"since": T0, "until": T0 + timedelta(hours=1)} | options
    return world.services.exports.create(asked, kind=kind, by=world.people.get(by, by), now=world.now, **options)


def finish(world):
    while world.services.exports.run(world.now):
        pass


def job(world, number=1, by="carol"):
    return world.services.exports.get(number, by=world.people.get(by, by))


def path(world, number=1, by="carol"):
    return world.services.exports.file(number, by=world.people.get(by, by), now=world.now)[1]


def rows(world, number=1):
    with path(world, number).open(newline="") as file:
        return list(csv.DictReader(file))


def audit(world, action=""):
    page = world.services.audit.page(PageRequest(), by=world.people["adam"], action=action or "export")
    return [(line.who, line.action, line.subject, line.outcome) for line in reversed(page.items)]


# -- what is in the files ----------------------------------------------------------------------------------------------


def test_a_csv_file_has_every_value_and_both_times(world):
    send(world, 1, 0)
    made = ask(world)
    assert (made.status, made.vehicles) == ("waiting", 3)
    finish(world)
    assert (job(world).status, job(world).reports, job(world).vehicles_done) == ("done", 1, 3)
    (row,) = rows(world)
    assert (row["vin"], row["time_utc"], row["vehicle_time"], row["received_utc"]) == (
        world.vin(1),
        "2026-11-22T07:00:00Z",
        "2026-11-22T15:00:00+08:00",
        "2026-11-22T07:00:00.250Z",
    )
    assert (row["vehicle_data.soc_pct"], row["vehicle_data.odometer_km"], row["vehicle_data.total_voltage_v"]) == (
        "50",
        "12345.6",
        "350.2",
    )
    cells = [row[f"cell_voltages.1.cell_voltages_v.{number}"] for number in (1, 2)]
    assert cells == ["3.611", "3.689"]
    assert (row["is_backfill"], row["is_time_plausible"], row["fault"], row["other"]) == ("false", "true", "", "")
    assert job(world).size_bytes == path(world).stat().st_size


def test_a_parquet_file_has_lists_and_nulls(world):
    send(world, 1, 0, vehicle_data(soc=Sentinel.INVALID), *pack((3.6, Sentinel.ABNORMAL, Sentinel.ABNORMAL)))
    ask(world, PARQUET)
    finish(world)
    (row,) = pq.read_table(path(world)).to_pylist()
    assert (row["time_utc"], row["vehicle_time"]) == (T0, datetime(2026, 11, 22, 15, 0))  # noqa: DTZ001 - it names no zone
    assert row["vehicle_data.soc_pct"] is None
    assert row["cell_voltages.1.cell_voltages_v"] == [pytest.approx(3.6), None, None]
    assert row["marks"] == "vehicle_data.soc_pct invalid; cell_voltages.1.cell_voltages_v[2-3] abnormal"
    assert row["fault"] is None


@pytest.mark.parametrize("kind", [CSV, PARQUET])
def test_vehicles_of_different_kinds_are_under_the_columns_of_all(world, kind, monkeypatch):
    """Also if the second kind comes long after the first: here every report is a batch of its own."""
    monkeypatch.setattr(exports_module, "_BATCH_REPORTS", 1)
    wide = VehicleData2025(1, 3, 1, 42.5, 1.5, 350.2, 31.4, 51, 1, 14, 5000)
    send(world, 1, 0)
    send(world, 1, 30, vehicle_data(60))
    send(world, 2, 0, wide, CellVoltages2025((PackVoltages(1, 10.0, 0.0, (3.1, 3.2, 3.3)),)), edition=Edition.GBT2025)
    send(world, 9, 0)
    ask(world, kind)
    finish(world)
    assert (job(world).status, job(world).reason) == ("done", "")
    found = rows(world) if kind is CSV else pq.read_table(path(world)).to_pylist()
    assert [row["vin"] for row in found] == [world.vin(number) for number in (1, 1, 2, 9)]
    assert len({len(row) for row in found}) == 1
    missing = "" if kind is CSV else None
    soc = [row["vehicle_data.soc_pct"] for row in found]
    assert [str(value) for value in soc] == (
        ["50", "60", "51", "50"] if kind is CSV else ["50.0", "60.0", "51.0", "50.0"]
    )
    assert [row["vehicle_data.accelerator_pct"] == missing for row in found] == [False, False, True, False]


def test_kinds_that_are_mixed_in_one_batch_keep_their_order(world):
    for at_s in range(0, 600, 30):
        send(world, 1, at_s, *((vehicle_data(at_s // 30),) if at_s % 60 else (vehicle_data(at_s // 30), *pack())))
    for kind in (CSV, PARQUET):
        ask(world, kind)
    finish(world)
    assert [row["vehicle_data.soc_pct"] for row in rows(world, 1)] == [str(number) for number in range(20)]
    table = pq.read_table(path(world, 2)).to_pylist()
    assert [row["vehicle_data.soc_pct"] for row in table] == list(range(20))
    assert [row["cell_voltages.1.cell_voltages_v"] is None for row in table] == [
        bool(number % 2) for number in range(20)
    ]


def test_what_has_no_column_is_there_as_json(world):
    send(world, 1, 0, vehicle_data(), UserDefined(0x85, b"\x01\x02"), *pack())
    send(world, 1, 30, vehicle_data(51), BmsConfiguration(1, (ConfigurationItem(1, 7, b"\x01"),)))
    ask(world)
    finish(world)
    first, second = rows(world)
    assert [row["vehicle_data.soc_pct"] for row in (first, second)] == ["50", "51"]
    assert first["cell_voltages.1.cell_voltages_v.2"] == "3.689"
    # Bytes of the maker have a column.
    assert "1 2" in first.values()
    assert first["other"] == ""
    assert [item["parameter"] for item in json.loads(second["other"])["bms_configuration"]["items"]] == [7]


def test_a_faulty_report_is_a_row_that_says_why(world):
    good = encode(
        Frame(command=Command.REALTIME_REPORT, vin=world.vin(1), message=Report(T0, (vehicle_data(), *pack())))
    )
    cut = bytearray(good[:-5])
    cut[22:24] = (len(cut) - 24).to_bytes(2, "big")
    check = 0
    for octet in cut[2:]:
        check ^= octet
    send(world, 1, 0, raw=bytes(cut) + bytes([check]))
    ask(world)
    finish(world)
    (row,) = rows(world)
    assert row["vehicle_data.soc_pct"] == "50"
    assert row["fault"] != ""


def test_a_vehicle_that_lies_about_its_cells_does_not_spoil_the_file(world, monkeypatch):
    from bmsota_cloud import export_files

    monkeypatch.setattr(export_files, "COLUMNS_MAX", 60)
    send(world, 1, 0)
    send(world, 2, 0, vehicle_data(7), *pack((3.3,) * 180))
    ask(world)
    finish(world)
    first, second = rows(world)
    assert first["vehicle_data.soc_pct"] == "50"
    assert (second["vin"], second["vehicle_data.soc_pct"]) == (world.vin(2), "")
    assert second["fault"] == "its values are left out: the file has no room for more columns"


def test_an_xlsx_file(world):
    pytest.importorskip("xlsxwriter")
    import zipfile

    send(world, 1, 0)
    ask(world, XLSX)
    finish(world)
    with zipfile.ZipFile(path(world)) as book:
        assert book.testzip() is None
        sheet = book.read("xl/worksheets/sheet1.xml").decode()
    assert "time_utc" in sheet
    assert "3.689" in sheet
    assert "<f>" not in sheet


def test_too_much_for_xlsx_is_said_before_it_begins(world, monkeypatch):
    monkeypatch.setattr(exports_module, "XLSX_REPORTS_MAX", 2)
    for at_s in (0, 30, 60):
        send(world, 1, at_s)
    with pytest.raises(InvalidInputError, match="more than 2 reports, which an xlsx file cannot have: choose CSV"):
        ask(world, XLSX)
    monkeypatch.setattr(exports_module, "XLSX_VEHICLES_MAX", 2)
    with pytest.raises(InvalidInputError, match="3 vehicles; an xlsx file has at most 2"):
        ask(world, XLSX)


def test_an_empty_export_is_a_file_with_names(world):
    for kind in (CSV, PARQUET):
        ask(world, kind)
    finish(world)
    assert rows(world) == []
    table = pq.read_table(path(world, 2))
    assert (table.num_rows, table.column_names[0]) == (0, "vin")


def test_the_filter_is_that_of_the_list(world):
    for number in (1, 2, 9):
        send(world, number, 0)
    ask(world, asked=VehicleFilter(project="Airport"))
    ask(world, asked=VehicleFilter(text="0001"))
    finish(world)
    assert [row["vin"] for row in rows(world, 1)] == [world.vin(9)]
    assert [row["vin"] for row in rows(world, 2)] == [world.vin(1)]
    with pytest.raises(InvalidInputError, match="no vehicle passes the filter"):
        ask(world, asked=VehicleFilter(project="Moon"))


def test_the_range_is_by_the_vehicles_clock_and_its_end_is_not_in_it(world):
    for at_s in (0, 30, 60):
        send(world, 1, at_s)
    ask(world, since=T0 + timedelta(seconds=30), until=T0 + timedelta(seconds=60))
    finish(world)
    assert [row["time_utc"] for row in rows(world)] == ["2026-11-22T07:00:30Z"]


# -- whose it is -------------------------------------------------------------------------------------------------------


def make(world, name, role, **scope):
    made = world.services.accounts.create(
        name=name,
        email=f"{name}@example.org",
        role=role,
        password="correct horse battery",
        scope=Scope(**scope) if scope else None,
        now=world.now,
    )
    world.people[name] = made
    return made


@pytest.mark.parametrize("name", ["vera", "alan"])
def test_who_may_not_export_is_refused_and_written_down(world, name):
    with pytest.raises(NotAllowedError, match=r"lacks the permission vehicle\.export"):
        ask(world, by=name)
    assert audit(world) == [(name, "export.create", "export", "not-allowed")]


def test_an_account_exports_what_it_sees(world):
    make(world, "olga", Role.OPERATOR, kind=ScopeKind.PROJECTS, projects=("Harbour",))
    for number in (1, 9):
        send(world, number, 0)
    ask(world, by="olga")
    finish(world)
    assert job(world, by="olga").vehicles == 2
    assert {row["vin"] for row in csv.DictReader(path(world, by="olga").open())} == {world.vin(1)}


def test_another_one_s_export_is_not_there_but_for_who_manages_accounts(world):
    ask(world)
    finish(world)
    for act in (job, path):
        with pytest.raises(NotFoundError, match="no export 1"):
            act(world, by="olaf")
    assert path(world, by="adam").is_file()
    assert [found.id for found in world.services.exports.page(PageRequest(), by=world.people["adam"]).items] == [1]
    assert world.services.exports.page(PageRequest(), by=world.people["olaf"]).total == 0


def test_the_scope_holds_again_at_the_download(world):
    olga = make(world, "olga", Role.OPERATOR, kind=ScopeKind.PROJECTS, projects=("Harbour", "Airport"))
    ask(world, by=olga)
    finish(world)
    assert path(world, by=olga).is_file()
    smaller = Scope(kind=ScopeKind.PROJECTS, projects=("Harbour",))
    olga = world.services.accounts.change("olga", by=world.people["adam"], now=world.now, scope=smaller)
    with pytest.raises(NotFoundError, match="no vehicle TESTVEHICLE000009"):
        path(world, by=olga)
    olga = world.services.accounts.disable("olga", by=world.people["adam"], now=world.now)
    with pytest.raises(NotAllowedError, match="disabled"):
        path(world, by=olga)
    assert [outcome for _, action, _, outcome in audit(world) if action == "export.download"] == [
        "done",
        "no-such-vehicle",
        "not-allowed",
    ]


def test_who_loses_the_permission_before_it_begins_gets_no_file(world, folder):
    ask(world)
    world.services.accounts.change("carol", by=world.people["adam"], now=world.now, role=Role.VIEWER)
    finish(world)
    found = job(world, by="adam")
    assert (found.status, found.reason) == ("failed", "carol may not export any more")
    assert not folder.exists() or not list(folder.iterdir())


def test_an_account_has_three_at_once_and_twenty_files(world, monkeypatch):
    for _ in range(3):
        ask(world)
    with pytest.raises(ConflictError, match="3 of your exports are not finished"):
        ask(world)
    ask(world, by="olaf")
    finish(world)
    monkeypatch.setattr(exports_module, "EXPORT_FILES_MAX", 3)
    with pytest.raises(ConflictError, match="you have 3 files; delete one"):
        ask(world)


def test_every_act_is_in_the_audit_log(world, folder):
    ask(world)
    finish(world)
    path(world)
    world.services.exports.delete(1, by=world.people["carol"], now=world.now)
    assert audit(world) == [
        ("carol", "export.create", "export 1", "done"),
        ("platform", "export.finish", "export 1", "done"),
        ("carol", "export.download", "export 1", "done"),
        ("carol", "export.delete", "export 1", "done"),
    ]
    assert list(folder.iterdir()) == []
    with pytest.raises(NotFoundError, match="export 1 has no file: deleted by carol"):
        path(world)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(world, monkeypatch):
    """An export in the middle: two vehicles of three are written."""
    monkeypatch.setattr(exports_module, "_BATCH_REPORTS", 2)
    for number in (1, 2, 9):
        for at_s in (0, 30):
            send(world, number, at_s)
    ask(world, PARQUET)
    for _ in range(3):
        assert world.services.exports.run(world.now)
    assert (job(world).status, job(world).reports) == ("running", 4)
    return world


def test_a_file_has_its_name_when_it_is_whole(begun, folder):
    assert [each.name for each in folder.iterdir() if not each.name.startswith(".")] == []
    with pytest.raises(ConflictError, match="export 1 is not finished"):
        path(begun)
    finish(begun)
    assert [each.name for each in folder.iterdir()] == ["bmsota-export-1.parquet"]


def test_a_process_that_dies_in_the_middle_leaves_it_to_another(begun, folder, new_world, tmp_path):
    """After its claim has ended, and from the beginning."""
    other = new_world("other", people=False, data_dir=tmp_path / "data", gateway_id="other", gateway_name="other")
    other.clock.now = begun.now
    assert not other.services.exports.run(other.now)
    other.wait(seconds=exports_module.CLAIM_S + 1)
    finish(other)
    assert (job(begun).status, job(begun).reports, job(begun).attempts) == ("done", 6, 2)
    assert pq.read_table(path(begun)).num_rows == 6
    # The first one was only slow: it finds out, and leaves nothing.
    content = sha256(path(begun).read_bytes()).digest()
    finish(begun)
    assert sha256(path(begun).read_bytes()).digest() == content
    assert [each.name for each in folder.iterdir()] == ["bmsota-export-1.parquet"]


def test_a_claim_of_a_wrong_clock_is_none(begun, new_world, tmp_path):
    other = new_world("other", people=False, data_dir=tmp_path / "data", gateway_id="other", gateway_name="other")
    other.clock.now = begun.now - timedelta(days=1)
    finish(other)
    assert job(begun).status == "done"


def test_cancelled_in_the_middle(begun, folder):
    begun.services.exports.delete(1, by=begun.people["carol"], now=begun.now)
    finish(begun)
    assert (job(begun).status, job(begun).reason) == ("cancelled", "cancelled by carol")
    assert list(folder.iterdir()) == []


def test_cancelled_before_it_begins(world):
    ask(world)
    world.services.exports.delete(1, by=world.people["carol"], now=world.now)
    assert not world.services.exports.run(world.now)
    assert job(world).status == "cancelled"


@pytest.mark.parametrize("kind", [CSV, PARQUET])
def test_a_full_disk_fails_it_with_words_and_leaves_nothing(world, folder, kind):
    """/dev/full takes nothing."""
    send(world, 1, 0)
    ask(world, kind)
    assert world.services.exports.run(world.now)
    folder.mkdir()
    # The part file, under its own name, is the device; cleaned before, so made behind the cleaning.
    files = world.services.exports._context.exports
    clean = files.clean

    def clean_and_link(name):
        clean(name)
        for suffix in ("body", "part0"):
            (folder / f".{name}.local.{suffix}").symlink_to("/dev/full")

    files.clean = clean_and_link
    finish(world)
    assert (job(world).status, job(world).reason) == ("failed", "the platform's disk is full; nothing was kept")
    assert list(folder.iterdir()) == []


def test_an_export_leaves_room_for_reports(begun, folder, monkeypatch):
    monkeypatch.setattr(type(begun.services.exports._context.exports), "free_bytes", lambda self: 10_000)
    finish(begun)
    assert (job(begun).status, job(begun).reason) == ("failed", "the platform's disk is nearly full; nothing was kept")
    assert list(folder.iterdir()) == []


def test_a_file_that_would_be_too_large(new_world, tmp_path):
    world = new_world(data_dir=tmp_path / "small", settings={"export_size_bytes_max": 100})
    world.register(1)
    send(world, 1, 0)
    ask(world)
    finish(world)
    assert job(world).status == "failed"
    assert "the file would be larger than 0 MiB; ask for fewer vehicles" in job(world).reason


def test_a_telemetry_database_that_is_away_makes_it_begin_again(begun, monkeypatch):
    def away(self, vin, since_s, until_s):
        raise StorageUnavailableError("the database is away")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(type(begun.cloud.telemetry), "read", away)
        with pytest.raises(StorageUnavailableError):
            finish(begun)
        assert not begun.services.exports.run(begun.now)
    begun.wait(minutes=2)
    finish(begun)
    assert (job(begun).status, job(begun).reports, job(begun).attempts) == ("done", 6, 2)


def test_what_is_begun_again_and_again_is_given_up(world):
    ask(world)
    with world.cloud.store.transaction() as work:
        work.exports.save(replace(work.exports.get(1), attempts=5))
    finish(world)
    assert (job(world).status, job(world).reason) == ("failed", "it was begun 5 times and never finished")


def test_files_are_kept_for_a_week(world, folder):
    ask(world)
    finish(world)
    world.wait(days=7)
    assert world.services.exports.expire(world.now) == 0
    world.wait(seconds=1)
    assert world.services.exports.expire(world.now) == 1
    assert list(folder.iterdir()) == []
    assert (job(world).status, job(world).reason) == ("deleted", "kept for 7 days")
    assert audit(world)[-1] == ("platform", "export.expire", "export 1", "done")
    world.wait(days=91)
    world.services.exports.expire(world.now)
    with pytest.raises(NotFoundError, match="no export 1"):
        job(world)


def test_what_nobody_wants_any_more_is_removed(begun, folder):
    """Parts of an export that was cancelled while its process was gone, and a file without a row."""
    begun.services.exports._running = None
    Path(folder / "bmsota-export-77.csv").write_text("lost")
    Path(folder / "notes.txt").write_text("not ours")
    begun.services.exports.expire(begun.now)
    assert any(each.name.startswith(".bmsota-export-1.parquet.") for each in folder.iterdir())
    begun.services.exports.delete(1, by=begun.people["carol"], now=begun.now)
    begun.services.exports.expire(begun.now)
    assert [each.name for each in folder.iterdir()] == ["notes.txt"]


def test_a_platform_without_a_folder_says_so(new_world):
    world = new_world("memory")
    world.register(1)
    with pytest.raises(ConflictError, match="no data folder"):
        ask(world)
    assert not world.services.exports.run(world.now)


# -- the API -----------------------------------------------------------------------------------------------------------


def test_the_api_asks_fetches_a_part_and_deletes(world, open_client):
    send(world, 1, 0)
    client, bearer = open_client(world)
    carol = bearer("carol")
    body = {"format": "csv", "since": T0.isoformat(), "until": "2026-11-22T09:00:00Z", "project": "Harbour"}
    answer = client.post("/api/v1/exports", json=body, headers=carol)
    assert (answer.status_code, answer.json()["status"], answer.json()["vehicles"]) == (202, "waiting", 2)
    assert client.get("/api/v1/exports/1/file", headers=carol).status_code == 409
    finish(world)
    assert client.get("/api/v1/exports/1", headers=carol).json()["status"] == "done"
    whole = client.get("/api/v1/exports/1/file", headers=carol)
    assert whole.headers["content-disposition"] == 'attachment; filename="bmsota-export-1.csv"'
    part = client.get("/api/v1/exports/1/file", headers={**carol, "Range": "bytes=4-20"})
    assert (part.status_code, part.content) == (206, whole.content[4:21])
    assert client.get("/api/v1/exports", headers=carol).json()["total"] == 1
    assert client.delete("/api/v1/exports/1", headers=carol).json()["status"] == "deleted"
    assert client.get("/api/v1/exports/1/file", headers=carol).status_code == 404
    answer = client.post("/api/v1/exports", json=body | {"since": "2026-11-22T07:00:00"}, headers=carol)
    assert (answer.status_code, answer.json()["error"]) == (422, "bad-time")
