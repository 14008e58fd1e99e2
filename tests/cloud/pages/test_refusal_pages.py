"""Heard but not admitted: the list, and what a vehicle's own page says."""

import re

import pytest
from bmsota_cloud.domain.refusals import RefusalCause
from playwright.sync_api import expect

STRANGER = "STRANGER000000001"


@pytest.fixture
def refused(fleet):
    """A stranger who tries three times, a registered vehicle with encrypted data, and a scanner."""
    say = fleet.services.refusals.record
    for _ in range(3):
        fleet.wait(seconds=60)
        say(
            RefusalCause.LOGIN_UNKNOWN_VIN,
            address="192.0.2.1",
            vin=STRANGER,
            head=b"##\x01\xfe" + STRANGER.encode(),
            answered=2,
            now=fleet.now,
        )
    say(RefusalCause.ENCRYPTED, address="2001:db8:1:2::/64", vin=fleet.vin(1), detail="no key", now=fleet.now)
    fleet.wait(seconds=1)
    say(RefusalCause.NOT_A_FRAME, address="198.51.100.3", head=b"GET /<script>alert(1)</script>", now=fleet.now)
    fleet.services.refusals.flush()
    return fleet


def test_the_list_says_who_why_what_was_answered_and_what_to_do(refused, visit, words):
    text = words(visit("carol").see("/refusals"))
    assert (
        f"{STRANGER} not registered · Register {STRANGER} 192.0.2.1 The vehicle is not registered. Register this VIN if the vehicle is yours; "
        "it logs in at its next try. First bytes 23 23 01 fe 53 54 52 41 4e 47 45 52 30 30 30 30 30 30 30 30 31 error 0x02 3"
    ) in text
    assert "none 198.51.100.3 The bytes are not GB/T 32960." in text
    assert "not answered" in text
    assert text.index("198.51.100.3") < text.index("192.0.2.1")
    assert "5 refusals in all" in text


@pytest.mark.slow
def test_the_list_filters(refused, visit):
    carol = visit("carol")

    def shown(query):
        return re.findall(r'data-label="Address" class="code">([^<]+)<', carol.see(f"/refusals?{query}"))

    assert shown("registered=yes") == ["2001:db8:1:2::/64"]
    assert shown("registered=no") == ["198.51.100.3", "192.0.2.1"]
    assert shown("cause=not-a-frame") == ["198.51.100.3"]
    assert shown("q=stranger") == ["192.0.2.1"]
    assert "Nothing matches." in carol.see("/refusals?q=nobody")
    assert carol.get("/refusals?cause=nonsense").status_code == 422


def test_a_stranger_that_is_ours_is_registered_from_the_list(refused, visit, fleet):
    """Only where the claim can be a VIN at all, and only for those who may."""
    say = fleet.services.refusals.record
    say(RefusalCause.LOGIN_UNKNOWN_VIN, address="192.0.2.9", vin='"><b>&vin=1', now=fleet.now)
    fleet.services.refusals.flush()
    page = visit("carol").see("/refusals?registered=no")
    assert re.findall(r'href="(/vehicles/register[^"]*)"', page) == [f"/vehicles/register?vin={STRANGER}"]
    assert "/vehicles/register" not in visit("alan").see("/refusals?registered=no")
    answer = visit("carol").post("/vehicles/register", vin=STRANGER, project="Harbour", series="T1")
    assert answer.status_code == 303
    assert "/vehicles/register" not in visit("carol").see(f"/refusals?q={STRANGER}")


def test_an_empty_list_says_so(fleet, visit):
    assert "Nothing was refused." in visit("adam").see("/refusals")


def test_who_may_not_read_it_is_not_led_there(refused, visit):
    assert 'href="/refusals"' not in visit("vera").see("/vehicles")
    assert 'href="/manage"' not in visit("vera").see("/vehicles")
    assert 'href="/refusals"' in visit("alan").see("/manage/audit")


def test_a_vehicle_shows_its_own_refusals_to_everybody(refused, visit, words):
    vera = visit("vera")
    text = words(vera.see(f"/vehicles/{refused.vin(1)}/real-time"))
    assert "Refused at the gateway The data unit is encrypted, and no key fits." in text
    assert "from 2001:db8:1:2::/64 · not answered" in text
    assert "Refused at the gateway" not in vera.see(f"/vehicles/{refused.vin(2)}/real-time")


def test_a_plain_terminal_is_said_to_be_one(fleet, visit, words):
    vin = fleet.vin(9)
    fleet.services.vehicles.register(vin=vin, series="F7", project="Harbour", now=fleet.now)
    vera = visit("vera")
    text = words(vera.see(f"/vehicles/{vin}/real-time"))
    assert "Monitored only: registered without a device key, so it cannot be upgraded over the air." in text
    assert "Master HWID" not in text
    assert "Monitored only" not in vera.see(f"/vehicles/{fleet.vin(1)}/real-time")
    assert f"{vin} Offline never connected F7 Harbour – – – –" in words(vera.see("/vehicles"))


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_list_fits_the_window_and_filters_itself(refused, tab, width):
    page = tab("carol", "/refusals", width=width, height=800)
    expect(page.locator("tbody tr")).to_have_count(3)
    page.get_by_text("First bytes").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Nor in its own frame: the times stand in the last column.
    assert page.evaluate("(f => f.scrollWidth <= f.clientWidth)(document.querySelector('#list .scroll'))") is True
    page.evaluate("window.isSamePage = true")
    page.get_by_label("Registered").select_option("yes")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert page.evaluate("window.isSamePage") is True
    page.goto(f"/vehicles/{refused.vin(1)}/real-time")
    expect(page.get_by_role("heading", name="Refused at the gateway")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
