"""Runs, faults, location, configuration and equipment of a vehicle, as a browser shows them."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from bmsota.gbt32960 import (
    AlarmFlag,
    Alarms,
    BmsConfiguration,
    ConfigurationItem,
    Extremes,
    FaultChange,
    FaultChanges,
    FaultState,
    Position,
    VehicleData,
    beijing_time,
)

PARTS = ("basic", "real-time", "location", "configuration", "runs", "faults", "upgrades", "equipment", "export")
DRIVING, CHARGING, PARKED = (1, 3), (2, 1), (2, 3)


@pytest.fixture
def day(world, report):
    """Vehicle 1 has driven 20 minutes with faults, has stood, has charged half an hour, and charges."""
    world.register(1)
    world.identify(1)

    def send(what, minutes, *, amps, km, soc, more=()):
        for place in range(minutes * 2):
            data = VehicleData(what[0], what[1], 1, 36.0, km + place * 0.3, 350.0, amps, soc, 1, 14, 5000, 0, 0)
            there = Position(valid=True, longitude_deg=121.47 + km / 100 + place * 0.003, latitude_deg=31.23)
            bodies = (data, Extremes(1, 1, 3.689, 1, 2, 3.611, 1, 7, 29, 1, 1, 24))
            report(
                1, bodies=(*bodies, *((there,) if what is DRIVING else ()), *(more[place] if place < len(more) else ()))
            )
            world.wait(seconds=30)

    def told(state):
        return FaultChanges((FaultChange(beijing_time(world.now_ns), 2, 0x12, state, 3, "cell 7 <hot>"),))

    hot = Alarms(2, AlarmFlag.SOC_LOW, (0x11,))
    values = BmsConfiguration(7, (ConfigurationItem(0, 0x102, b"\x0e\x74"), ConfigurationItem(1, 3, b"")))
    other = BmsConfiguration(7, (ConfigurationItem(0, 0x102, b"\x0e\x75"),))
    send(
        DRIVING, 20, amps=60.0, km=100.0, soc=60, more=[(values,), (hot,), (hot, told(FaultState.ONSET)), (Alarms(0),)]
    )
    send(PARKED, 10, amps=0.0, km=112.0, soc=55, more=[(other,)])
    send(CHARGING, 30, amps=-20.0, km=112.0, soc=56)
    return world


def rows(page):
    return re.findall(r"<tr>(.*?)</tr>", page.split("<tbody>", 1)[1], re.DOTALL) if "<tbody>" in page else []


def test_every_part_leads_to_every_other(day, visit):
    vera = visit("vera")
    for part in PARTS:
        page = vera.see(f"/vehicles/{day.vin(1)}/{part}")
        menu = re.search(r'aria-label="Vehicle details">(.*?)</nav>', page, re.DOTALL)[1]
        assert re.findall(r'href="/vehicles/\w+/([a-z-]+)"', menu) == list(PARTS)
        assert re.findall(r'href="/vehicles/\w+/([a-z-]+)" aria-current="page"', menu) == [part]


def test_parts_of_a_vehicle_that_was_never_heard_of_are_empty_and_say_so(world, visit, words):
    vin = world.register(1)
    vera = visit("vera")
    for part, said in (
        ("basic", "The unit has not reported its nodes yet"),
        ("location", "This vehicle has not reported a position."),
        ("configuration", "The unit has not reported calibration values."),
        ("runs", "No runs."),
        ("faults", "No faults."),
        ("equipment", "No equipment changes."),
    ):
        assert said in words(vera.see(f"/vehicles/{vin}/{part}")), part


def test_the_running_history_has_what_people_look_for(day, visit, words):
    vera = visit("vera")
    page = vera.see(f"/vehicles/{day.vin(1)}/runs")
    charging, driving = map(words, rows(page))
    assert re.fullmatch(
        r"Charging open \S+ \S+ \+08:00 open 29 min 30 s 56 → 56 % 3\.44 kWh 129\.\d km 3\.611 – 3\.689 V 24 – 29 °C"
        r" -20\.0 A 60",
        charging,
    )
    assert re.fullmatch(
        r"Driving \S+ \S+ \+08:00 \S+ \S+ \+08:00 19 min 30 s 60 → 60 % 6\.83 kWh 11\.7 km 111\.7 km"
        r" 3\.611 – 3\.689 V 24 – 29 °C 60\.0 A 40",
        driving,
    )
    assert len(rows(vera.see(f"/vehicles/{day.vin(1)}/runs?kind=driving"))) == 1
    assert "No runs match." in words(vera.see(f"/vehicles/{day.vin(1)}/runs?until=2026-11-01"))
    day.wait(seconds=301)
    assert "open" not in words(rows(vera.see(f"/vehicles/{day.vin(1)}/runs"))[0])


def test_the_fault_history_has_open_ones_first(day, visit, words):
    vera = visit("vera")
    path = f"/vehicles/{day.vin(1)}/faults"
    shown = [words(row) for row in rows(vera.see(path))]
    assert [text[: len(start)] for text, start in zip(shown, FAULTS, strict=True)] == FAULTS
    assert "60 % 350.0 V 60.0 A 36.0 km/h 3611 – 3689 mV 24 – 29 °C" in shown[0]
    assert "1 min" in shown[1]
    for query, count in (("level=3", 1), ("state=no", 2), ("kind=fault+code", 1), ("sort=level", 3), ("sort=type", 3)):
        assert len(rows(vera.see(f"{path}?{query}"))) == count, query
    assert vera.get(f"{path}?kind=checkpoint").status_code == 422
    assert "cell 7 <hot>" not in vera.see(path)


FAULTS = ["Slave 2, fault 0x00000012 open cell 7 &lt;hot&gt; 3", "Energy storage fault 0x00000011 2", "SOC low 2"]


def test_location_and_configuration_show_what_was_told(day, visit, words):
    vera = visit("vera")
    location = vera.see(f"/vehicles/{day.vin(1)}/location")
    assert "31.230000" in words(location)
    assert 3 < len(rows(location)) < 40
    text = words(vera.see(f"/vehicles/{day.vin(1)}/configuration"))
    assert "Master 0x0102 0e75 7" in text
    assert "0e74 0e75 7" in text
    assert "Slave 1 0x0003 not known empty 7" in text


def test_equipment_and_basic_information(day, visit, words):
    facts = day.facts(1)
    day.services.equipment.identify(day.vin(1), [*facts[:2], replace(facts[2], hwid="S-NEW")], day.now)
    vera = visit("vera")
    assert "Slave 2 S-000001-2 S-NEW" in words(vera.see(f"/vehicles/{day.vin(1)}/equipment"))
    text = words(vera.see(f"/vehicles/{day.vin(1)}/basic"))
    assert "Project Harbour Series F7" in text
    assert "Odometer 129.7 km" in text


@pytest.mark.parametrize("part", ["runs", "faults", "location"])
def test_an_address_with_a_wrong_date_is_explained(part, day, visit, words):
    vera = visit("vera")
    for query in ("since=yesterday", "until=2026-13-01", "since=0001-01-01"):
        answer = vera.get(f"/vehicles/{day.vin(1)}/{part}?{query}")
        assert answer.status_code == 422
        assert "expected a date such as 2026-11-30, got" in words(answer.text)


def test_days_are_those_of_the_pages_zone(day, visit):
    """The 23rd at +08:00 begins at 16:00 UTC on the 22nd."""
    vera = visit("vera")
    local = day.now + timedelta(hours=8)
    today, tomorrow = f"{local:%Y-%m-%d}", f"{local + timedelta(days=1):%Y-%m-%d}"
    path = f"/vehicles/{day.vin(1)}/runs"
    assert len(rows(vera.see(f"{path}?since={today}&until={today}"))) == 2
    assert rows(vera.see(f"{path}?since={tomorrow}")) == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_part_fits_a_phone(scheme, day, tab, tmp_path):
    """No part is wider than the screen, whatever stands in it."""
    phone = tab("vera", f"/vehicles/{day.vin(1)}/basic", width=390, height=844, color_scheme=scheme)
    for part in PARTS:
        phone.goto(f"/vehicles/{day.vin(1)}/{part}")
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390, part
        phone.screenshot(path=tmp_path / f"{part}-{scheme}-390.png", full_page=True)
    desk = tab("vera", f"/vehicles/{day.vin(1)}/runs", color_scheme=scheme)
    for part in PARTS:
        desk.goto(f"/vehicles/{day.vin(1)}/{part}")
        assert desk.evaluate("document.documentElement.scrollWidth") <= 1280, part
        desk.screenshot(path=tmp_path / f"{part}-{scheme}-1280.png", full_page=True)
