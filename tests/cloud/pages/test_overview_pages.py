"""The home page: counts, list and map show the same vehicles, filtered by the address, and the map is one that a browser draws."""

import re
from pathlib import Path

import pytest
from bmsota_cloud.domain.accounts import Role, Scope, ScopeKind
from bmsota_cloud.domain.vehicles import EquipmentData
from playwright.sync_api import expect

from bmsota.gbt32960 import Alarms, Position

AXE = Path(__file__).resolve().parents[3] / "cloud/frontend/node_modules/axe-core/axe.min.js"
SHANGHAI, BERLIN = (31.230416, 121.473701), (52.52, 13.405)


@pytest.fixture
def placed(fleet, report, make):
    """Of `fleet`, 1 and 2 stand in Shanghai on one spot, 2 with an alarm; 3 is where it was when it left, in Berlin."""
    world = fleet

    def at(latitude_deg, longitude_deg, *, valid=True, alarms=None):
        bodies = [body for body in make.bodies(alarms=alarms) if not isinstance(body, Position)]
        return (*bodies, Position(valid=valid, latitude_deg=latitude_deg, longitude_deg=longitude_deg))

    world.wait(seconds=10)
    report(1, bodies=at(*SHANGHAI))
    report(2, bodies=at(*SHANGHAI, alarms=Alarms(3)))
    report(3, bodies=at(*BERLIN))
    world.services.vehicles.set_equipment(
        world.vin(1), EquipmentData(plate="沪A12345", battery_number="BAT-77", city="Shanghai"), now=world.now
    )
    world.services.vehicles.set_equipment(world.vin(3), EquipmentData(city="Berlin"), now=world.now)
    return world


def marks_of(visitor, query="", **options):
    answer = visitor.get(f"/map/vehicles{query}", **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def hwids(html):
    return re.findall(r'<th scope="row"><a class="code" href="[^"]+">([^<]+)</a>', html)


def test_list_map_and_counts_are_of_the_same_filter(placed, visit, words):
    vera = visit("vera")
    page = vera.see("/")
    assert hwids(page) == ["M-000001", "M-000002", "M-000003", "M-000004"]
    assert "4 All 2 Online 2 Offline 1 With faults 0 Upgrading" in words(page)
    found = marks_of(vera)
    assert (found["total"], found["placed"], found["clusters"]) == (4, 3, None)
    assert [point[:7] for point in found["points"]] == [
        [placed.vin(1), "M-000001", *SHANGHAI, 1, 1, 0],
        [placed.vin(2), "M-000002", *SHANGHAI, 1, 1, 0],
        [placed.vin(3), "M-000003", *BERLIN, 1, 0, 0],
    ]
    for query, numbers in {
        "?state=online": [1, 2],
        "?state=offline": [3, 4],
        "?state=faults": [2],
        "?state=upgrading": [],
        "?city=Berlin": [3],
        "?q=bat-7": [1],
        "?q=沪A1": [1],
        "?q=M-000002": [2],
        "?project=Hills": [4],
        "?project=Hills&state=online": [],
        "?state=nonsense&sort=nonsense": [1, 2, 3, 4],
    }.items():
        assert hwids(vera.see(f"/{query}")) == [f"M-{number:06d}" for number in numbers], query
        on_map = [point[1] for point in marks_of(vera, query)["points"]]
        assert on_map == [f"M-{number:06d}" for number in numbers if number != 4], query


def test_counts_are_of_the_filter_and_not_of_the_state(placed, visit, words):
    page = words(visit("vera").see("/?city=Berlin&state=online"))
    assert "1 All 0 Online 1 Offline 0 With faults 0 Upgrading" in page
    assert "No vehicles match." in page


def test_the_list_is_sorted_by_what_the_address_says(placed, visit):
    vera = visit("vera")
    assert hwids(vera.see("/?sort=alarm"))[0] == "M-000002"
    assert hwids(vera.see("/?sort=plate"))[0] == "M-000001"
    assert hwids(vera.see("/?sort=last-seen"))[-1] == "M-000004"
    assert hwids(vera.see("/?sort=city"))[:2] == ["M-000003", "M-000001"]


def test_pages_of_the_list_keep_filter_and_sort(placed, visit):
    for number in range(10, 65):
        placed.register(number)
    page = visit("vera").see("/?project=Harbour&sort=hwid&page=2")
    assert len(hwids(page)) == 58 - 50
    assert 'href="/?project=Harbour&amp;sort=hwid"' in page
    assert hwids(visit("vera").see("/?page=99999999999999")) == hwids(visit("vera").see("/"))


def test_an_upgrade_under_way_is_counted_and_shown(placed, visit, words):
    placed.upload()
    task = placed.create(1)
    page = visit("vera")
    assert "0 Upgrading" in words(page.see("/"))
    placed.approve(task)
    assert hwids(page.see("/?state=upgrading")) == ["M-000001"]
    assert marks_of(page)["points"][0][6] == 1


def test_customers_and_projects_see_their_own_on_list_map_and_in_counts(placed, visit, words):
    services, adam, now = placed.services, placed.people["adam"], placed.now
    services.customers.create("Port", by=adam, now=now)
    services.customers.assign("Port", [placed.vin(3)], by=adam, now=now)
    for name, role, scope in (
        ("cleo", Role.CUSTOMER, Scope(kind=ScopeKind.CUSTOMER, customer="Port")),
        ("hugo", Role.VIEWER, Scope(kind=ScopeKind.PROJECTS, projects=("Hills",))),
    ):
        services.accounts.create(
            name=name,
            email=f"{name}@example.org",
            role=role,
            password="correct horse battery",
            scope=scope,
            now=now,
            by=adam,
        )
    cleo, hugo = visit("cleo"), visit("hugo")
    assert hwids(cleo.see("/")) == ["M-000003"]
    assert "1 All 0 Online 1 Offline 0 With faults" in words(cleo.see("/"))
    assert [point[1] for point in marks_of(cleo, "?grouped=yes&zoom=0")["clusters"][0][6]] == ["M-000003"]
    assert marks_of(cleo, "?project=Hills")["total"] == 0
    assert "Shanghai" not in cleo.see("/")
    assert (hwids(hugo.see("/")), marks_of(hugo)["total"], marks_of(hugo)["points"]) == (["M-000004"], 1, [])


def test_vehicles_are_grouped_by_a_grid_of_the_zoom(placed, visit):
    vera = visit("vera")
    far = marks_of(vera, "?grouped=yes&zoom=3")["clusters"]
    assert [(round(cluster[0]), cluster[2], cluster[3], cluster[4]) for cluster in far] == [
        (31, 2, 2, 1),
        (53, 1, 0, 0),
    ]
    assert marks_of(vera, "?grouped=yes&zoom=3&bounds=40,0,60,30")["clusters"][0][2] == 1
    over_the_date_line = marks_of(vera, "?grouped=yes&zoom=3&bounds=0,100,60,200")["clusters"]
    assert [cluster[2] for cluster in over_the_date_line] == [2]
    for wrong in ("1,2,3", "60,0,40,30", "nan,0,1,1", "0,0,91,0", "a,b,c,d"):
        answer = vera.get(f"/map/vehicles?bounds={wrong}")
        assert answer.status_code == 422
        assert "expected south,west,north,east" in answer.text


def test_many_marks_are_compressed_for_who_takes_it(placed, report, visit):
    for number in range(10, 80):
        placed.register(number)
        report(number)
    vera = visit("vera")
    plain = vera.get("/map/vehicles", headers={"accept-encoding": "identity"})
    packed = vera.get("/map/vehicles", headers={"accept-encoding": "gzip"})
    assert ("content-encoding" in plain.headers, packed.headers["content-encoding"]) == (False, "gzip")
    assert len(plain.json()["points"]) == 73
    assert plain.json() == packed.json()
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 2


def test_the_socket_brings_counts_and_list_of_its_own_filter(placed, visit):
    vera = visit("vera")
    with vera.live("/live/overview?state=faults") as socket:
        message = socket.receive_json()
    assert set(message["parts"]) == {"counters", "list"}
    assert hwids(message["parts"]["list"]) == ["M-000002"]


@pytest.mark.browser
def test_the_map_shows_the_list_and_a_pop_up_leads_to_a_vehicle(placed, tab):
    page = tab("vera", "/")
    section = page.locator("[data-map]")
    expect(section).to_have_attribute("data-marks", "3")
    expect(page.locator("[data-map-status]")).to_have_text("3 of 4 vehicles on the map; 1 has sent no position")
    page.get_by_role("link", name="2 Online").click()
    expect(section).to_have_attribute("data-marks", "2")
    expect(page).to_have_url(re.compile(r"/\?state=online$"))
    expect(page.locator("#list tbody tr")).to_have_count(2)
    box = page.locator(".map-canvas").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    popup = page.locator(".map-popup")
    expect(popup).to_contain_text("2 vehicles here")
    expect(popup.locator("li")).to_have_count(2)
    expect(popup).to_contain_text("SOC 63 %")
    page.get_by_label("Group vehicles").check()
    cluster = page.get_by_role("button", name="2 vehicles: 2 online, 1 with faults, 0 upgrading")
    expect(cluster).to_be_visible()
    cluster.press("Enter")
    popup.get_by_role("link", name="M-000002").click()
    expect(page).to_have_url(re.compile(rf"/vehicles/{placed.vin(2)}/real-time$"))


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_overview_is_accessible_and_fits(placed, tab, width, scheme):
    page = tab("vera", "/", width=width, color_scheme=scheme)
    expect(page.locator("[data-map]")).to_have_attribute("data-marks", "3")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # By its text: what the policy forbids to load may still be evaluated by the test.
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(
        "axe.run().then((found) => found.violations.map((each) => [each.id, each.nodes.map((n) => n.html)]))"
    )
    assert found == []


@pytest.mark.browser
def test_without_scripts_there_is_the_list_and_no_empty_map(placed, tab):
    page = tab("vera", "/?q=BAT-77", java_script_enabled=False)
    expect(page.locator("#list tbody tr")).to_have_count(1)
    expect(page.locator("[data-map]")).to_be_hidden()
    page.get_by_role("link", name="M-000001").click()
    expect(page).to_have_url(re.compile(rf"/vehicles/{placed.vin(1)}/real-time$"))
