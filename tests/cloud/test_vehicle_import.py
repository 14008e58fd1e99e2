"""`bmsota-cloud vehicle import`: all lines are looked at first, and what is wrong is said with its place."""

import base64
from dataclasses import replace

import pytest
from bmsota_cloud.cli import app
from bmsota_cloud.domain.accounts import Role, ScopeKind
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, NotAllowedError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.services import VehicleEntry
from bmsota_cloud.storage.sql import SqlStore
from bmsota_cloud.vehicle_file import load_vehicles, parse_vehicles
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

from bmsota.errors import ConfigurationError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
HEX, B64 = KEY.hex(), base64.b64encode(KEY).decode()
ONE, TWO, THREE = (f"TESTVEHICLE{number:06d}" for number in (1, 2, 3))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def with_file(content, *words):
        (tmp_path / "f.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        return CliRunner().invoke(app, ["vehicle", "import", "f.csv", "--data", "d", *words])

    return with_file


@pytest.fixture
def stored(tmp_path):
    def read():
        store = SqlStore(f"sqlite:///{tmp_path / 'd' / 'platform.sqlite'}")
        with store.reading() as work:
            found = {vin: work.vehicles.get(vin) for vin in (ONE, TWO, THREE)}
        store.close()
        return {vin: (v.series, v.project, v.hwid, v.device_public_key) for vin, v in found.items() if v}

    return read


def test_a_file_of_our_own_columns(run, stored):
    lines = f"vin,series,project,hwid,device_public_key\n{ONE},F7,Harbour,M1,{B64}\n{TWO},E7,Bridge,,\n"
    result = run(lines)
    assert (result.exit_code, result.output) == (0, "registered 2 vehicles\n")
    assert stored() == {ONE: ("F7", "Harbour", "M1", KEY), TWO: ("E7", "Bridge", "", None)}
    again = run(lines + f"{THREE},F7,Harbour,M3,{HEX}\n")
    assert (again.exit_code, again.output) == (0, "registered 1 vehicles, 2 were registered already\n")
    assert stored()[THREE] == ("F7", "Harbour", "M3", KEY)


def test_what_the_simulator_lists_and_what_spreadsheets_make_of_it(run, stored):
    """A mark before the first line, semicolons, other columns, an empty line, spaces, lines that end with CR LF."""
    lines = f"unit;vin;profile;city;master_hwid;public_key\r\na/1; {ONE};F7;Shanghai;M1;{HEX}\r\n\r\na/2;{TWO};E7;;M2;{HEX}\r\n"
    assert run(b"\xef\xbb\xbf" + lines.encode(), "--project", "Harbour").output == "registered 2 vehicles\n"
    assert stored() == {ONE: ("F7", "Harbour", "M1", KEY), TWO: ("E7", "Harbour", "M2", KEY)}


HEAD = "vin,series,project,hwid,device_public_key\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "f.csv:1: expected the columns vin, series and project, got an empty line"),
        ("vin,series\n", "project is missing; or name the project of all with --project"),
        ("series,project\n", "vin is missing\n"),
        (b"vin\xff\n", "f.csv: expected UTF-8, got the byte 0xff"),
        (HEAD + f"{ONE},F7,H,M1,{B64},x\n", "f.csv:2: expected 5 values, got 6"),
        (HEAD + f"{ONE},F7,H,M1,nokey!\n", "f.csv:2: device_public_key: expected base64, or 64 hexadecimal digits"),
        (HEAD + f"{ONE},F7,H,M1,AAAA\n", "f.csv:2: device public key: expected 32 bytes of Ed25519, got 3 bytes"),
        (HEAD + f"{ONE},F7,H,M1,{B64}\nshort,F7,H,M2,\n", "f.csv:3: VIN: expected 17 capitals or digits, got 'short'"),
        (HEAD + f"{ONE},F7,H,M1,{B64}\n{ONE},F7,H,M2,{B64}\n", f"f.csv:3: VIN {ONE} stands at f.csv:2 too"),
        (HEAD + f"{ONE},F7,H,M1,{B64}\n{TWO},F7,H,M1,{B64}\n", "f.csv:3: HWID M1 stands at f.csv:2 too"),
        (HEAD + f"{TWO},F7,H,M9,{B64}\n{ONE},F7,H,M2,\n", f"f.csv:2: HWID M9 is registered already, in {THREE}"),
        (HEAD + f"{THREE},F7,H,M8,{B64}\n", f"f.csv:2: VIN {THREE} is registered already, with another HWID: M9"),
        (HEAD + f"{THREE},F7,H,M9,\n", f"VIN {THREE} is registered already, with another device key\n"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_nothing_is_registered(run, stored, content, says):
    assert run(HEAD + f"{THREE},F7,H,M9,{B64}\n").exit_code == 0
    before = stored()
    result = run(content)
    assert result.exit_code == 1
    assert says in result.stderr
    assert all(line.startswith("bmsota-cloud: ") for line in result.stderr.splitlines())
    assert stored() == before


def test_ten_thousand_faults_are_twenty_lines(world):
    entries = [VehicleEntry(place=f"x:{n}", vin="no", series="F7", project="H") for n in range(10_000)]
    with pytest.raises(InvalidInputError) as caught:
        world.services.vehicle_import.run(entries, now=world.now)
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[-2:]) == (22, ["and 9,980 more", "nothing was registered"])


def test_only_who_may_register_may_import_and_each_vehicle_is_in_the_audit_log(world):
    entries = [VehicleEntry(place=f"x:{n}", vin=world.vin(n), series="F7", project="H") for n in (1, 2)]
    by_role = {account.role: account for account in world.people.values()}
    with pytest.raises(NotAllowedError):
        world.services.vehicle_import.run(entries, now=world.now, by=by_role[Role.VIEWER])
    seen = []
    world.services.vehicle_import.run(entries, now=world.now, by=by_role[Role.ADMINISTRATOR], progress=seen.append)
    assert seen == [1, 2]
    with world.cloud.store.reading() as work:
        found = [entry.subject for entry in work.audit.page(PageRequest()).items if entry.action == "vehicle.register"]
    assert sorted(found) == [f"vehicle {world.vin(1)}", f"vehicle {world.vin(2)}"]


def test_somebody_who_registers_meanwhile_is_not_overwritten(world):
    entries = [VehicleEntry(place=f"x:{n}", vin=world.vin(n), series="F7", project="H") for n in (1, 2)]
    with pytest.raises(ConflictError, match="already registered"):
        world.services.vehicle_import.run(entries, now=world.now, progress=lambda _done: world.register(2))
    with world.cloud.store.reading() as work:
        assert work.vehicles.get(world.vin(2)).project == "Harbour"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match=r"cannot read .*: No such file"):
        load_vehicles(tmp_path / "no.csv")


def test_a_vehicle_for_a_project_out_of_scope_stops_all_of_them(world):
    """An operator of one project names another one in the second line: nothing is registered, and nobody learns whether there is one."""
    operator = replace(
        next(account for account in world.people.values() if account.role is Role.OPERATOR),
        sees=ScopeKind.PROJECTS,
        projects=("Harbour",),
    )
    entries = [
        VehicleEntry(place="x:1", vin=world.vin(1), series="F7", project="Harbour"),
        VehicleEntry(place="x:2", vin=world.vin(2), series="F7", project="Bridge"),
    ]
    with pytest.raises(InvalidInputError, match="x:2: no project Bridge"):
        world.services.vehicle_import.run(entries, now=world.now, by=operator)
    with world.cloud.store.reading() as work:
        assert work.vehicles.get(world.vin(1)) is None
    world.register(2, project="Bridge")
    entries[1] = replace(entries[1], project="Harbour")
    with pytest.raises(InvalidInputError, match=f"x:2: VIN {world.vin(2)} is registered already\nnothing"):
        world.services.vehicle_import.run(entries, now=world.now, by=operator)


def test_a_file_that_is_no_csv_or_too_long_for_one_request_is_refused():
    def parse(text):
        return parse_vehicles(text.encode(), name="f.csv", project="H", count_max=2)

    head = "vin,series\n"
    with pytest.raises(InvalidInputError, match=r"f\.csv:2: expected lines of up to 20,000 characters, got 200,000"):
        parse(head + "x" * 200_000)
    with pytest.raises(InvalidInputError, match=r"f\.csv: expected at most 2 vehicles, got 3; divide the file"):
        parse(head + "a,F7\nb,F7\n\nc,F7\n")
    assert [entry.place for entry in parse(head + "a,F7\n\nc,F7\n")] == ["f.csv:2", "f.csv:4"]


def test_equipment_data_of_a_file_is_registered_and_later_replaced(world, client, bearer):
    def send(text):
        files = {"file": ("fleet.csv", text)}
        answer = client.post(
            "/api/v1/vehicles/import", data={"project": "Harbour"}, files=files, headers=bearer("carol")
        )
        return answer.json()

    def known(vin):
        found = client.get(f"/api/v1/vehicles/{vin}", headers=bearer("vera")).json()
        return [found[name] for name in ("battery_number", "frame_number", "model", "plate", "city")]

    head = "vin,series,battery_number,frame_number,vehicle_model,plate,city\n"
    assert send(f"{head}{ONE},F7,B-1,FR-1,K9,沪A 1,上海\n{TWO},F7\n") == {"registered": 2, "present": 0, "changed": 0}
    assert (known(ONE), known(TWO)) == (["B-1", "FR-1", "K9", "沪A 1", "上海"], [""] * 5)
    assert send(f"{head}{ONE},F7,,,,沪A 2,\n{TWO},F7,,,,,\n") == {"registered": 0, "present": 1, "changed": 1}
    assert known(ONE) == ["B-1", "FR-1", "K9", "沪A 2", "上海"]
    refused = send(f"{head}{ONE},F7,,,,{'x' * 65},\n{TWO},F7,,,,沪A 3,\n")
    assert "fleet.csv:2: plate: expected up to 64 printable characters" in refused["detail"]
    assert known(TWO)[3] == ""
    entry = client.get("/api/v1/audit?action=vehicle.equipment", headers=bearer("alan")).json()["items"][0]
    assert (entry["who"], entry["detail"]) == ("carol", "plate: 沪A 1 -> 沪A 2")


def test_equipment_data_is_replaced_over_rest_within_the_scope(world, client, bearer):
    vin = world.register(1)
    body = {"plate": " HH-AB 1 ", "city": "Hamburg"}
    answer = client.put(f"/api/v1/vehicles/{vin}/equipment", json=body, headers=bearer("carol")).json()
    assert (answer["plate"], answer["city"], answer["model"]) == ("HH-AB 1", "Hamburg", "")
    for wrong in ("a\u202eb\n", "x" * 65):
        answer = client.put(f"/api/v1/vehicles/{vin}/equipment", json={"plate": wrong}, headers=bearer("carol"))
        assert (answer.status_code, answer.json()["error"]) == (422, "bad-plate")
    answer = client.put(f"/api/v1/vehicles/{vin}/equipment", json=body, headers=bearer("vera"))
    assert answer.status_code == 403
    found = client.get("/api/v1/vehicles?text=hh-ab", headers=bearer("vera")).json()
    assert [item["vin"] for item in found["items"]] == [vin]


def test_a_file_by_the_api(world, client, bearer):
    """As the page does; a refusal is a line of the audit log, with the address it came from."""

    def send(name, text, **fields):
        files = {"file": ("fleet.csv", text)}
        return client.post("/api/v1/vehicles/import", data=fields, files=files, headers=bearer(name))

    lines = f"vin,series\n{ONE},F7\n{TWO},F7\n"
    assert send("carol", lines).json()["detail"].endswith("or name the project of all in the field project")
    answer = send("carol", lines, project="Harbour")
    assert (answer.status_code, answer.json()) == (200, {"registered": 2, "present": 0, "changed": 0})
    assert send("carol", lines, project="Harbour").json() == {"registered": 0, "present": 2, "changed": 0}
    answer = send("carol", lines, project="Hills")
    assert (answer.status_code, answer.json()["error"]) == (422, "bad-import")
    assert send("vera", lines, project="Harbour").status_code == 403
    found = client.get("/api/v1/audit?action=vehicle.import&who=carol", headers=bearer("alan")).json()["items"]
    assert [(line["outcome"], line["address"]) for line in found] == [("bad-import", "testclient")]
    named = client.get("/api/v1/accounts?text=CAR&role=operator", headers=bearer("adam")).json()["items"]
    assert [account["name"] for account in named] == ["carol"]
