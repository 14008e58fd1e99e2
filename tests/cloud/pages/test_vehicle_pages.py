"""The vehicle list and the real-time values, as a browser without JavaScript shows them."""

import re
from dataclasses import replace

import pytest
from bmsota_cloud.domain.accounts import Role, Scope, ScopeKind
from bmsota_cloud.domain.errors import InvalidInputError

from bmsota.gbt32960 import Alarms, LocalUpgradeOutcome, Position, Sentinel


def vins(page):
    return re.findall(r'href="/vehicles/(\w+)/real-time"', page)


# -- the list ----------------------------------------------------------------------------------------------------------


def test_the_list_shows_what_a_person_looks_for(fleet, visit, words):
    page = visit("vera").see("/vehicles")
    assert vins(page) == [fleet.vin(number) for number in (1, 2, 3, 4)]
    text = words(page)
    assert "TESTVEHICLE000001 Online 0 s ago F7 Harbour 63 % 2.0.0 2 × 2.0.0 M-000001" in text
    assert "TESTVEHICLE000003 Offline 3 h ago F7 Harbour 20 % 2.0.0 2 × 2.0.0 M-000003" in text
    assert "TESTVEHICLE000004 Offline never connected E7 Hills – – – M-000004" in text
    assert "4 vehicles" in text


FILTERED = {
    "project=Hills": [4],
    "series=F7": [1, 2, 3],
    "online=yes": [1, 2],
    "online=no": [3, 4],
    "online=no&series=F7": [3],
    "project=Harbour&online=yes&q=000002": [2],
    "q=m-000003": [3],
    "q=e7": [4],
    "project=&series=&online=&q=": [1, 2, 3, 4],
    "project=Hills&online=yes": [],
    "series=G9": [],
}


def test_the_filters_stand_in_the_address(fleet, visit):
    vera = visit("vera")
    for query, numbers in FILTERED.items():
        assert vins(vera.see(f"/vehicles?{query}")) == [fleet.vin(number) for number in numbers], query


def test_the_form_shows_the_filters_that_are_set(fleet, visit):
    page = visit("vera").see("/vehicles?project=Hills&series=E7&online=no&q=%22M%22")
    for shown in (
        '<option value="Hills" selected>',
        '<option value="E7" selected>',
        '<option value="no" selected>',
        'value="&#34;M&#34;"',
    ):
        assert shown in page


def test_a_list_without_a_match_says_so(fleet, visit, words):
    assert 'No vehicles match. <a href="/vehicles">' in visit("vera").see("/vehicles?q=nothing")


def test_an_empty_platform_says_so(visit):
    assert "No vehicles are registered yet." in visit("vera").see("/vehicles")


def test_a_mixed_pack_stands_out(world, visit, words):
    world.register(1)
    facts = world.facts(1)
    world.services.equipment.identify(world.vin(1), [*facts[:2], replace(facts[2], version="2.1.0")], world.now)
    assert "2 × 2.0.0 / 2.1.0 mixed" in words(visit("vera").see("/vehicles"))


@pytest.mark.slow
def test_pages_of_the_list_keep_the_filters(world, visit, words):
    for number in range(1, 121):
        world.register(number, project="A + B" if number <= 110 else "C")
    vera = visit("vera")
    page = vera.see("/vehicles?project=A+%2B+B&page=2")
    assert vins(page) == [world.vin(number) for number in range(51, 101)]
    assert "51–100 of 110 vehicles" in words(page)
    assert 'rel="prev" href="/vehicles?project=A+%2B+B"' in page
    assert 'rel="next" href="/vehicles?project=A+%2B+B&amp;page=3"' in page
    assert len(vins(vera.see("/vehicles?project=A+%2B+B&series=F7&page=3"))) == 10
    assert "Page 9 is empty; there are 3" in words(vera.see("/vehicles?page=9"))


def test_the_connection_is_looked_for_in_the_whole_fleet_and_counted(world, visit, words):
    for number in range(1, 131):
        world.register(number, series="F7" if number <= 125 else "E7")
    for number in (1, 99, 129):
        world.services.ingest.log_in(world.vin(number), serial=1, now=world.now)
    vera = visit("vera")
    page = vera.see("/vehicles?online=yes")
    assert vins(page) == [world.vin(number) for number in (1, 99, 129)]
    assert "3 online, 127 offline" in words(page)
    page = vera.see("/vehicles?online=no&series=E7")
    assert vins(page) == [world.vin(number) for number in (126, 127, 128, 130)]
    assert "1 online, 4 offline" in words(page)


def test_an_address_that_can_not_be_right_is_explained(visit):
    vera = visit("vera")
    for query in ("page=0", "page=x", "online=perhaps"):
        answer = vera.get(f"/vehicles?{query}")
        assert answer.status_code == 422, query
        assert "Invalid request" in answer.text


def test_a_script_gets_the_list_alone(fleet, visit):
    vera = visit("vera")
    whole = vera.get("/vehicles?series=F7")
    part = vera.get("/vehicles?series=F7", headers={"X-Partial": "list"})
    assert part.text.startswith('<section id="list"')
    assert part.text.endswith("</section>")
    assert part.text in whole.text
    assert part.headers["vary"] == "X-Partial"


# -- one vehicle -------------------------------------------------------------------------------------------------------


def test_a_vehicle_leads_to_its_real_time_values(fleet, visit):
    vin = fleet.vin(1)
    assert visit("vera").get(f"/vehicles/{vin}").headers["location"] == f"/vehicles/{vin}/real-time"


@pytest.mark.slow
def test_all_newest_values_are_there(fleet, visit, words):
    text = words(visit("vera").see(f"/vehicles/{fleet.vin(1)}/real-time"))
    for shown in (
        "State of charge 63 %",
        "Pack voltage 87.6 V",
        "Pack current 31.4 A discharging",
        "Cell spread 78 mV 3.611 V – 3.689 V",
        "Temperature 24 °C – 29 °C spread 5 K",
        "Speed 42.5 km/h",
        "Alarms No alarm",
        "Lowest 3.611 V cell 5 Highest 3.689 V cell 17 Spread 78 mV",
        "Charging not charging",
        "Gear D",
        "Odometer 12 345.6 km",
        "Insulation 5 000 kΩ",
        "Brake pressed",
        "Latitude 31.230416° N",
        "Longitude 121.473701° E",
        "Motor 1 consuming , 5 200 rpm , 118.5 N·m",
        "Last received 0 s ago · 2026-11-22 16:00:00 +08:00",
        "Slave 2 S-000001-2 2.0.0 2 serial S-000001-2 running",
        "No equipment changes.",
    ):
        assert shown in text


def test_the_heat_map_has_every_cell_and_frames_the_extremes(fleet, visit):
    page = visit("vera").see(f"/vehicles/{fleet.vin(1)}/real-time")
    cells = re.findall(r'<li data-k="cell_1_(\d+)" data-heat="(\d+)"([^>]*)>.*?data-t>([\d.]+)<', page)
    assert [int(number) for number, *_ in cells] == list(range(1, 25))
    assert all(0 <= int(heat) < 12 for _, heat, *_ in cells)
    framed = {number: (heat, text) for number, heat, more, text in cells if "data-edge" in more}
    assert framed == {"5": ("0", "3.611"), "17": ("11", "3.689")}
    assert 'data-edge="max" title="cell 17: 3.689 V, highest"' in page
    assert page.count('data-k="probe_1_') == 8


def test_cells_stand_with_the_slave_that_measures_them(fleet, visit, words):
    text = words(visit("vera").see(f"/vehicles/{fleet.vin(1)}/real-time"))
    assert "Slave 1 S-000001-1 1 3.6" in text
    assert "Slave 2 S-000001-2 13 3.6" in text


def test_a_vehicle_that_went_offline_keeps_its_values_and_says_how_old_they_are(fleet, visit, words):
    page = visit("vera").see(f"/vehicles/{fleet.vin(3)}/real-time")
    assert '<div id="live_values" data-online="no">' in page
    text = words(page)
    assert "This vehicle is offline. These are its last values, last received 3 h ago ; they are not live." in text
    assert "State of charge 20 %" in text
    assert "2026-11-22 13:00:00 +08:00" in text


def test_a_vehicle_that_was_never_heard_of(fleet, visit, words):
    text = words(visit("vera").see(f"/vehicles/{fleet.vin(4)}/real-time"))
    assert "This vehicle has never connected." in text
    assert "The unit has not reported its nodes yet." in text
    assert "State of charge" not in text


def test_a_reserved_alarm_bit_of_2016_has_no_name_of_2025(fleet, report, visit, words):
    report(1, alarms=Alarms(1, 1 << 4 | 1 << 19))
    text = words(visit("vera").see(f"/vehicles/{fleet.vin(1)}/real-time"))
    assert "SOC low Reserved bit 19" in text
    assert "over speed" not in text


def test_alarms_have_words(fleet, report, visit, words, two_alarms):
    report(1, alarms=two_alarms)
    page = visit("vera").see(f"/vehicles/{fleet.vin(1)}/real-time")
    assert 'class="card alarms" data-level="2"' in page
    assert "Alarms Level 2: driving is limited SOC low Cell under voltage Energy storage faults: 0x00001234" in words(
        page
    )


def test_an_exchanged_slave_is_told(fleet, visit, words):
    facts = fleet.facts(1)
    fleet.services.equipment.identify(fleet.vin(1), [*facts[:2], replace(facts[2], hwid="S-NEW")], fleet.now)
    text = words(visit("vera").see(f"/vehicles/{fleet.vin(1)}/real-time"))
    assert "Equipment changes Slave 2 S-000001-2 → S-NEW 2026-11-22 16:00:00 +08:00" in text


def test_a_lost_fix_is_said(fleet, report, visit, words):
    report(1, bodies=(Position(valid=False, longitude_deg=-70.5, latitude_deg=Sentinel.INVALID),))
    text = words(visit("vera").see(f"/vehicles/{fleet.vin(1)}/real-time"))
    assert "Latitude invalid Longitude 70.500000° W Fix none; this is the last known position" in text


def test_the_upgrades_of_a_vehicle_lead_to_their_tasks(fleet, visit, words):
    fleet.upload()
    task = fleet.create(1)
    page = visit("vera").see(f"/vehicles/{fleet.vin(1)}/real-time")
    assert f'<a href="/ota/tasks/{task.id}">OTA-{task.id}</a>' in page


def test_field_upgrades_stand_beside_the_tasks(fleet, visit, words, tell_field_upgrade):
    """On the vehicle's page, and on the page of its own that both lead to."""
    fleet.upload()
    task = fleet.create(1)
    fleet.wait(minutes=5)
    tell_field_upgrade(1, position=2, tool="bmsota 1.0")
    tell_field_upgrade(1, position=0, outcome=LocalUpgradeOutcome.FAILED, detail="the node refused an image")
    vera = visit("vera")
    page = vera.see(f"/vehicles/{fleet.vin(1)}/real-time")
    text = words(page)
    assert (
        "Upgrades CAN unknown tool Upgrade failed Master 2.0.0 → 2.1.0 2026-11-22 16:05:00 +08:00 "
        "· reported, not confirmed · the node refused an image "
        "CAN bmsota 1.0 Upgrade succeeded Slave 2 2.0.0 → 2.1.0 2026-11-22 16:05:00 +08:00 "
        f"· reported, not confirmed OTA OTA-{task.id} 2.1.0 Unapproved" in text
    )
    assert f'href="/vehicles/{fleet.vin(1)}/upgrades">Show as a table</a>' in page
    table = vera.see(f"/vehicles/{fleet.vin(1)}/upgrades")
    assert "CAN bmsota 1.0 Upgrade succeeded Slave 2 2.0.0 → 2.1.0 HW-2 2026-11-22 16:05:00 +08:00" in words(table)
    assert f'<a href="/ota/tasks/{task.id}">OTA-{task.id}</a>' in table
    assert "3 upgrades" in words(table)


def test_what_is_confirmed_and_what_is_only_reported_are_told_apart(fleet, visit, words, bearer, client):
    """Nodes, an exchange, and what was unusual on the link; on the page and in REST."""
    vin = fleet.vin(1)
    vera = visit("vera")
    path = f"/vehicles/{vin}/real-time"
    assert "Slave 1 S-000001-1 2.0.0 2 serial S-000001-1 running not confirmed reported 2026-11-22" in words(
        vera.see(path)
    )
    fleet.confirm(1)
    assert "Slave 1 S-000001-1 2.0.0 2 serial S-000001-1 running signed 2026-11-22" in words(vera.see(path))
    assert "not confirmed" not in vera.see(path)
    facts = fleet.facts(1)
    fleet.wait(minutes=1)
    fleet.services.equipment.identify(vin, [*facts[:2], replace(facts[2], hwid="S-EVIL")], fleet.now)
    for _ in range(3):
        fleet.services.link_watch.taken_over(
            vin, old_address="203.0.113.1:1", new_address="198.51.100.1:1", now=fleet.now
        )
    fleet.services.link_watch.flush()
    text = words(vera.see(path))
    assert "Slave 2, as reported S-EVIL 2.0.0 2 serial S-000001-2 running not confirmed reported 2026-11-22" in text
    assert "S-000001-2 → S-EVIL 2026-11-22 16:01:00 +08:00 · reported, not confirmed" in text
    assert "Another link took over the vehicle while the first was open (3 times)" in text
    assert "198.51.100.1" not in text, "addresses are for the audit log"
    told = client.get(f"/api/v1/vehicles/{vin}", headers=bearer("vera")).json()
    assert [(n["position"], n["hwid"], n["confirmed_at"] is not None) for n in told["nodes"]] == [
        (0, "M-000001", True),
        (1, "S-000001-1", True),
        (2, "S-000001-2", True),
    ]
    assert [(n["position"], n["hwid"], n["confirmed_at"]) for n in told["reported_nodes"]] == [(2, "S-EVIL", None)]
    assert [(n["kind"], n["count"]) for n in told["link_notes"]] == [("taken-over", 3)]
    assert [c["status"] for c in told["equipment_changes"]] == ["reported, not confirmed"]


def test_a_mixed_pack_and_the_bytes_of_its_nodes_stand_on_the_page(fleet, visit, words, client, bearer):
    """By the unit's signed word, on the page and in the REST API, until it says otherwise."""
    path, vin = f"/vehicles/{fleet.vin(1)}/real-time", fleet.vin(1)
    facts = [replace(fact, image_sha256=f"{fact.position:02x}" * 32, slot_size_kib=512) for fact in fleet.facts(1)]
    said = "master runs 2.0.0, slaves 1, 2 run 2.1.0"
    fleet.confirm(1, facts=facts, mixed_pack=said)
    vera = visit("vera")
    assert f"Mixed pack {said}. Its nodes run images that do not belong together" in words(vera.see(path))
    assert "Slave 1 S-000001-1 2.0.0 01010101 2 serial" in words(vera.see(path))
    told = client.get(f"/api/v1/vehicles/{vin}", headers=bearer("vera")).json()
    assert told["mixed_pack"] == said
    assert [(n["image_sha256"], n["slot_size_kib"]) for n in told["nodes"]] == [
        (f"{position:02x}" * 32, 512) for position in range(3)
    ]
    fleet.confirm(1, facts=facts)
    assert "Mixed pack" not in vera.see(path)
    assert client.get(f"/api/v1/vehicles/{vin}", headers=bearer("vera")).json()["mixed_pack"] == ""


@pytest.mark.slow
def test_a_long_history_has_pages(fleet, visit, words, tell_field_upgrade):
    for number in range(53):
        fleet.wait(minutes=1)
        tell_field_upgrade(1, position=1 + number % 2)
    vera = visit("vera")
    path = f"/vehicles/{fleet.vin(1)}"
    text = words(vera.see(f"{path}/real-time"))
    assert "All 53 upgrades" in text
    assert text.count("CAN unknown tool") == 10
    first, second = (vera.see(f"{path}/upgrades{query}") for query in ("", "?page=2"))
    assert words(first).count("CAN unknown tool") == 50
    assert f'<a rel="next" href="{path}/upgrades?page=2">' in first
    assert words(second).count("CAN unknown tool") == 3
    assert "This page is empty." in words(vera.see(f"{path}/upgrades?page=9"))


def test_a_customer_s_pages_lead_to_nothing_that_is_not_for_customers(fleet, visit):
    """No link to tasks and projects, neither in the menu nor in the history of the vehicle, whose upgrade is there."""
    adam, now = fleet.people["adam"], fleet.now
    fleet.upload()
    fleet.create(1)
    fleet.services.customers.create("Port", by=adam, now=now)
    fleet.services.customers.assign("Port", [fleet.vin(1)], by=adam, now=now)
    scope = Scope(kind=ScopeKind.CUSTOMER, customer="Port")
    fleet.services.accounts.create(
        name="cleo", email="c@example.org", role=Role.CUSTOMER, password="correct horse battery", scope=scope, now=now
    )
    cleo, vera = visit("cleo"), visit("vera")
    for path in ("/vehicles", f"/vehicles/{fleet.vin(1)}/real-time", f"/vehicles/{fleet.vin(1)}/upgrades"):
        links = set(re.findall(r'href="([^"]+)"', cleo.see(path)))
        assert not [link for link in links if link.startswith(("/ota", "/projects", "/refusals"))]
        assert "/ota/tasks" in re.findall(r'href="([^"]+)"', vera.see(path))
    assert "OTA-1" in cleo.see(f"/vehicles/{fleet.vin(1)}/upgrades")


def test_a_vehicle_without_upgrades_says_so(fleet, visit, words):
    vera = visit("vera")
    assert "Upgrades No upgrades." in words(vera.see(f"/vehicles/{fleet.vin(1)}/real-time"))
    assert "No upgrades. 0 upgrades" in words(vera.see(f"/vehicles/{fleet.vin(1)}/upgrades"))
    answer = vera.get("/vehicles/TESTVEHICLE999999/upgrades")
    assert answer.status_code == 404


def test_words_of_a_unit_stay_text(fleet, visit, tell_field_upgrade):
    tell_field_upgrade(1, tool="<script>alert(1)</script>", detail="<b>bold</b>")
    for page in ("real-time", "upgrades"):
        text = visit("vera").see(f"/vehicles/{fleet.vin(1)}/{page}")
        assert "<script>alert" not in text
        assert "<b>bold" not in text
        assert "&lt;script&gt;alert" in text


def test_what_people_type_stays_text(world, visit):
    with pytest.raises(InvalidInputError):
        world.register(1, project="<script>alert(1)</script>")
    for query in (
        "q=<script>alert(1)</script>",
        "series=<script>alert(1)</script>",
        "project=<script>alert(1)</script>",
    ):
        assert "<script>alert" not in visit("vera").see(f"/vehicles?{query}")


def test_an_unknown_vehicle_is_explained(fleet, visit):
    vera = visit("vera")
    for vin in ("TESTVEHICLE999999", "<script>alert(1)<script>"):
        answer = vera.get(f"/vehicles/{vin}/real-time")
        assert answer.status_code == 404
        assert "Not found" in answer.text
        assert "<script>alert" not in answer.text


# -- registering a terminal ------------------------------------------------------------------------------------------------

TERMINAL = "LPLAIN00000000001"


def test_a_plain_terminal_is_registered_by_the_form(fleet, visit, words):
    carol = visit("carol")
    assert 'href="/vehicles/register"' in carol.see("/vehicles")
    page = carol.see(f"/vehicles/register?vin={TERMINAL}")
    assert f'value="{TERMINAL}"' in page
    assert "never upgraded over the air" in words(page)
    fields = {"vin": f" {TERMINAL.lower()} ", "project": "Harbour", "series": "T1", "hwid": ""}
    answer = carol.post("/vehicles/register", **fields)
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        f"/vehicles?q={TERMINAL}&registered={TERMINAL}",
    )
    text = words(carol.see(answer.headers["location"]))
    assert f"{TERMINAL} was registered." in text
    with fleet.cloud.store.reading() as work:
        vehicle = work.vehicles.get(TERMINAL)
    assert (vehicle.project, vehicle.series, vehicle.hwid, vehicle.is_upgradable) == ("Harbour", "T1", "", False)


def test_a_registration_that_is_refused_stays_typed(fleet, visit, words):
    carol = visit("carol")
    fields = {"vin": "TOO-SHORT", "project": "Harbour", "series": "<T1>", "hwid": ""}
    answer = carol.post("/vehicles/register", **fields)
    assert (answer.status_code, "17 capitals or digits" in words(answer.text)) == (422, True)
    assert 'value="TOO-SHORT"' in answer.text
    assert 'value="&lt;T1&gt;"' in answer.text
    answer = carol.post("/vehicles/register", **fields | {"vin": fleet.vin(1), "series": "T1"})
    assert (answer.status_code, "already registered" in answer.text) == (409, True)


def test_who_may_not_register_sees_no_form_and_registers_nothing(fleet, visit):
    for name in ("vera", "alan"):
        visitor = visit(name)
        assert "/vehicles/register" not in visitor.see("/vehicles")
        assert visitor.get("/vehicles/register").status_code == 403
        fields = {"vin": TERMINAL, "project": "Harbour", "series": "T1"}
        assert visitor.post("/vehicles/register", **fields).status_code == 403
    with fleet.cloud.store.reading() as work:
        assert work.vehicles.get(TERMINAL) is None
