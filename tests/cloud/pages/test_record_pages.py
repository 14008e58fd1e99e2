"""The page on which the reports of a vehicle are browsed."""


def test_reports_newest_first_with_gaps(fleet, report, visit, words):
    vin = fleet.vin(1)
    fleet.wait(minutes=10)
    report(1, soc_pct=60)
    page = visit("vera").see(f"/vehicles/{vin}/export")
    text = words(page)
    assert "2 reports" in text
    assert "60 % 87.6 V 31.4 A 3.611 – 3.689 V 24 – 29 °C 42.5 km/h 12345.6 km none" in text
    assert text.index(" 60 %") < text.index("No reports for 10 min") < text.index(" 63 %")
    assert f'href="/vehicles/{vin}/export"' in visit("vera").see(f"/vehicles/{vin}/real-time")


def test_the_range_is_in_the_zone_of_the_pages(fleet, visit, words):
    """It is 16:00 at +08:00."""
    path = f"/vehicles/{fleet.vin(1)}/export"
    vera = visit("vera")
    assert "1 report" in words(vera.see(f"{path}?since=2026-11-22T16:00&until=2026-11-22T16:01"))
    page = vera.see(f"{path}?since=2026-11-22T16:00:01")
    assert "No reports in this time." in words(page)
    assert 'value="2026-11-22T16:00:01"' in page
    answer = vera.get(f"{path}?since=yesterday")
    assert answer.status_code == 422
    assert "since: expected a time as 2026-11-22T08:00 (+08:00), got &#39;yesterday&#39;" in answer.text


def test_a_vehicle_without_reports(fleet, visit, words):
    assert "No reports are stored." in words(visit("vera").see(f"/vehicles/{fleet.vin(4)}/export"))
