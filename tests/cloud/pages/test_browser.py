"""A few visits with a real browser: what only scripts, sockets and the Content-Security-Policy can break.

The fixture `tab` fails a test whose page asked anybody else than our server, broke the policy or threw an error.
"""

import re

import pytest
from playwright.sync_api import expect

from bmsota.gbt32960 import UpgradeStateCode

pytestmark = pytest.mark.browser


def hide(page, *, hidden):
    """A browser without a window has no tabs to switch; say the same as one that has."""
    page.evaluate(
        """(hidden) => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_logging_in_and_out(fleet, tab):
    page = tab("", "/vehicles?online=yes")
    page.get_by_label("Name").fill("carol")
    page.get_by_label("Password").fill("not hers at all")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert").first).to_contain_text("Wrong name or password.")
    expect(page.get_by_label("Name")).to_have_value("carol")
    page.get_by_label("Password").fill("correct horse battery")
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(re.compile(r"/vehicles\?online=yes$"))
    expect(page.locator("tbody tr")).to_have_count(2)
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(re.compile(r"/login$"))


def test_the_list_filters_itself_and_the_back_button_works(fleet, tab):
    page = tab("vera", "/vehicles")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(4)
    page.evaluate("window.isSamePage = true")
    page.get_by_label("Connection").select_option("no")
    expect(rows).to_have_count(2)
    page.get_by_label("VIN, HWID or series").fill("e7")
    expect(rows).to_have_count(1)
    expect(page).to_have_url(re.compile(r"/vehicles\?q=e7&online=no$"))
    page.go_back()
    expect(rows).to_have_count(2)
    expect(page.get_by_label("VIN, HWID or series")).to_have_value("")
    expect(page.get_by_label("Connection")).to_have_value("no")
    page.go_back()
    expect(rows).to_have_count(4)
    assert page.evaluate("window.isSamePage") is True
    page.goto("/vehicles?series=E7")
    expect(page.get_by_label("Series", exact=True)).to_have_value("E7")
    expect(rows).to_have_count(1)


def test_without_scripts_the_list_filters_all_the_same(fleet, tab):
    page = tab("vera", "/vehicles", java_script_enabled=False)
    page.get_by_label("Project").select_option("Hills")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name=fleet.vin(4)).click()
    expect(page.get_by_text("This vehicle has never connected.")).to_be_visible()


def test_values_change_live_and_turn_grey_when_the_vehicle_leaves(fleet, report, make, tab):
    page = tab("vera", f"/vehicles/{fleet.vin(1)}/real-time")
    figure = page.locator('.figures [data-k="soc"]')
    expect(figure).to_have_text("63 %")
    page.evaluate("window.isSamePage = true")
    fleet.wait(seconds=10)
    report(1, soc_pct=41, cells=make.cells(low=(9, 3.555)))
    expect(figure).to_have_text("41 %")
    expect(page.locator('[data-k="soc_bar"]')).to_have_js_property("value", 41)
    expect(page.locator('[data-k="cell_1_9"]')).to_have_attribute("title", "cell 9: 3.555 V, lowest")
    expect(page.locator('.figures [data-k="cell_spread"]')).to_have_text("134 mV")
    coloured = page.locator('[data-k="cell_1_17"]').evaluate("cell => getComputedStyle(cell).backgroundColor")
    assert coloured == "rgb(246, 170, 92)"
    fleet.services.ingest.link_lost(fleet.vin(1), fleet.now)
    expect(page.get_by_text("This vehicle is offline. These are its last values")).to_be_visible()
    expect(page.locator("#live_head .online")).to_have_text("Offline")
    expect(figure).to_have_text("41 %")
    assert "grayscale" in page.locator(".values").evaluate("values => getComputedStyle(values).filter")
    # Another sign than the lost server: that banner stays away.
    expect(page.locator("#lost")).to_be_hidden()
    fleet.services.ingest.log_in(fleet.vin(1), serial=2, now=fleet.now)
    expect(page.locator("#live_head .online")).to_have_text("Online")
    assert page.evaluate("window.isSamePage") is True


def test_the_age_of_the_values_counts_on(fleet, tab):
    page = tab("vera", f"/vehicles/{fleet.vin(1)}/real-time")
    ago = page.locator('[data-k="seen_ago"]')
    # The platform's clock stands still in this test; the page counts by itself from the time the server told.
    expect(ago).to_have_text(re.compile(r"^[1-9] s ago$"))


def test_progress_moves_without_a_reload(fleet, tab):
    fleet.upload()
    task = fleet.create(1, 2)
    page = tab("alan", f"/ota/tasks/{task.id}")
    page.evaluate("window.isSamePage = true")
    row = page.locator("#upgrade-1")
    expect(row.locator(".upgrade-state")).to_have_text("Unapproved")
    code = page.get_by_label("Code from the mail")
    code.fill("123")
    fleet.services.ota_tasks.send_new_code(task.id, by=fleet.people["carol"], now=fleet.now)
    expect(page.get_by_text("is waiting to be sent.")).to_be_visible()
    code.fill(fleet.newest_code())
    expect(page.get_by_text("A six-digit code was mailed to")).to_be_visible()
    assert page.evaluate("window.isSamePage") is True
    page.get_by_role("button", name="Start Upgrade").click()
    expect(row.locator(".upgrade-state")).to_have_text("Approved")
    page.evaluate("window.isSamePage = true")
    row.get_by_text("Node by node").click()

    def tell(state, **options):
        assert fleet.tell(fleet.vin(1), state, order_id=f"OTA-{task.id}-1", **options)

    for progress_pct in (7, 55, 98):
        tell(UpgradeStateCode.DOWNLOADING, progress_pct=progress_pct)
        expect(row.locator("output")).to_have_text(f"{progress_pct} %")
        expect(row.get_by_role("progressbar")).to_have_js_property("value", progress_pct)
    tell(UpgradeStateCode.DOWNLOAD_COMPLETE)
    expect(row.locator(".upgrade-state .status")).to_have_text("Download Complete")
    fleet.services.upgrades.receive_report(fleet.vin(1), fleet.report(1, f"OTA-{task.id}-1"), fleet.now)
    expect(row.locator(".upgrade-state .status")).to_have_text("Upgrade succeeded")
    expect(row.locator(".steps li")).to_have_count(5)
    # What the person has opened stays open, and nothing was loaded again.
    expect(row.get_by_role("cell", name="2.1.0").first).to_be_visible()
    assert page.evaluate("window.isSamePage") is True


def test_half_a_code_survives_everything_that_happens_meanwhile(fleet, tab):
    fleet.upload()
    task = fleet.create(1)
    page = tab("alan", f"/ota/tasks/{task.id}")
    code = page.get_by_label("Code from the mail")
    code.fill("123")
    code.evaluate("field => field.setSelectionRange(1, 2)")
    fleet.newest_code()  # The mail is sent: the text around the field changes.
    expect(page.get_by_text("A six-digit code was mailed to")).to_be_visible()
    expect(code).to_be_focused()
    expect(code).to_have_value("123")
    assert code.evaluate("field => [field.selectionStart, field.selectionEnd]") == [1, 2]


def test_a_wrong_code_stays_to_be_corrected(fleet, tab):
    fleet.upload()
    task = fleet.create(1)
    page = tab("alan", f"/ota/tasks/{task.id}")
    wrong = "123456" if fleet.newest_code() != "123456" else "123457"
    page.get_by_label("Code from the mail").fill(wrong)
    page.get_by_role("button", name="Start Upgrade").click()
    expect(page.get_by_text("wrong code; 4 tries left")).to_be_visible()
    fleet.wait(seconds=5)
    fleet.services.ota_tasks.send_new_code(task.id, by=fleet.people["carol"], now=fleet.now)
    expect(page.get_by_text("is waiting to be sent.")).to_be_visible()
    expect(page.get_by_label("Code from the mail")).to_have_value(wrong)


def test_a_lost_server_is_told_and_found_again(fleet, report, server, tab):
    page = tab("vera", f"/vehicles/{fleet.vin(1)}/real-time")
    page.evaluate("window.isSamePage = true")
    figure = page.locator('.figures [data-k="soc"]')
    expect(figure).to_have_text("63 %")
    server.stop()
    expect(page.locator("#lost")).to_be_visible()
    expect(page.locator("#lost")).to_contain_text("The values shown are not live")
    report(1, soc_pct=12)
    server.restart()
    expect(page.locator("#lost")).to_be_hidden()
    expect(figure).to_have_text("12 %")
    assert page.evaluate("window.isSamePage") is True


def test_a_hidden_tab_lets_go(fleet, report, tab):
    page = tab("vera", f"/vehicles/{fleet.vin(1)}/real-time")
    figure = page.locator('.figures [data-k="soc"]')
    topic = f"vehicle:{fleet.vin(1)}"
    page.wait_for_function("() => performance.getEntriesByType('resource').length > 0")
    report(1, soc_pct=40)
    expect(figure).to_have_text("40 %")
    hide(page, hidden=True)
    deadline = 2400  # 2 min: a watchdog, not a verdict.
    while fleet.services.live.is_heard(topic) and deadline:
        page.wait_for_timeout(50)
        deadline -= 1
    assert not fleet.services.live.is_heard(topic)
    expect(page.locator("#lost")).to_be_hidden()
    report(1, soc_pct=39)
    hide(page, hidden=False)
    expect(figure).to_have_text("39 %")


def test_who_is_logged_out_elsewhere_is_asked_to_log_in(fleet, tab):
    page = tab("vera", f"/vehicles/{fleet.vin(1)}/real-time")
    # Hidden first: a tab that is looked at may notice by itself and be on its way to the login already.
    hide(page, hidden=True)
    with fleet.cloud.store.transaction() as work:
        work.accounts.delete_sessions_of("vera")
    hide(page, hidden=False)
    expect(page).to_have_url(re.compile(r"/login\?next="))


def test_a_field_upgrade_comes_without_a_reload(fleet, tab, tell_field_upgrade):
    page = tab("vera", f"/vehicles/{fleet.vin(1)}/real-time")
    expect(page.get_by_text("No upgrades.")).to_be_visible()
    page.evaluate("window.isSamePage = true")
    tell_field_upgrade(1, position=2, tool="bmsota 1.0")
    expect(page.get_by_text("Slave 2 2.0.0 → 2.1.0")).to_be_visible()
    expect(page.get_by_text("No upgrades.")).to_have_count(0)
    assert page.evaluate("window.isSamePage") is True


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_runs_out_of_the_window(fleet, tab, tell_field_upgrade, width):
    fleet.upload()
    task = fleet.create(1, 2, 3, reason="a reason of one word: " + "x" * 120)
    tell_field_upgrade(1, position=0, tool="a field tool with a long name " * 2, detail="no image is left that can run")
    tell_field_upgrade(1, position=2, version_after=(255, 255, 65535, 2**32 - 1), hwid="H" * 24)
    page = tab("alan", "/vehicles", width=width, height=800)
    vehicle = f"/vehicles/{fleet.vin(1)}"
    for path in ("/vehicles", f"{vehicle}/real-time", f"{vehicle}/upgrades", "/ota/tasks", f"/ota/tasks/{task.id}"):
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        clipped = page.evaluate(
            """[...document.querySelectorAll(".grid li, .status, button, .figures dd > span, .menu a")]
                .filter((element) => element.scrollWidth > element.clientWidth + 1)
                .filter((element) => getComputedStyle(element).display !== "inline")
                .map((element) => element.textContent)"""
        )
        assert clipped == [], path


@pytest.mark.parametrize("width", [1280, 390])
def test_what_is_folded_fits_the_window_when_it_is_opened(fleet, tab, width):
    """The forms that end and retry a vehicle, what runs on its nodes, and the settings of a project."""
    fleet.services.projects.configure(
        "Harbour", audit_mailbox="a-mailbox-with-a-long-name@audits.example.org", by=None, now=fleet.now
    )
    fleet.upload()
    for node, version in ((2, "2.1.0"), (3, "3.0.0")):
        fleet.identify(node, version=version)
    running = fleet.create(1, auditor="")
    fleet.approve(running, by=fleet.people["olaf"])
    waiting = fleet.create(2, 3, auditor="")
    page = tab("carol", "/ota/tasks", width=width, height=800)
    admin = tab("adam", "/projects", width=width, height=800)
    for visitor, path in ((page, f"/ota/tasks/{running.id}"), (page, f"/ota/tasks/{waiting.id}"), (admin, "/projects")):
        visitor.goto(path)
        expect(visitor.get_by_role("heading", level=1)).to_be_visible()
        visitor.evaluate("document.querySelectorAll('main details').forEach((part) => { part.open = true; })")
        assert visitor.evaluate("document.documentElement.scrollWidth") <= width, path


def test_a_vehicle_is_ended_by_the_button_beside_retry(fleet, tab):
    fleet.upload()
    task = fleet.create(1, 2)
    fleet.approve(task)
    page = tab("carol", f"/ota/tasks/{task.id}")
    row = page.locator("#upgrade-1")
    row.get_by_text("End or retry").click()
    row.get_by_label("Why").fill("scrapped")
    # What is typed survives what happens meanwhile to this vehicle and to others.
    for place in (1, 2):
        assert fleet.tell(fleet.vin(place), UpgradeStateCode.DOWNLOADING, order_id=f"OTA-1-{place}", progress_pct=7)
    expect(row.locator("output")).to_have_text("7 %")
    expect(row.get_by_label("Why")).to_have_value("scrapped")
    row.get_by_role("button", name="End by force").click()
    expect(page.get_by_text("1 vehicle was ended.")).to_be_visible()
    expect(row.locator(".upgrade-state")).to_contain_text("ended by carol: scrapped")
    page.get_by_role("link", name="Downloading (1)").click()
    expect(page.locator(".upgrade")).to_have_count(1)


def test_on_a_phone_the_menu_is_one_line(fleet, tab):
    page = tab("carol", "/refusals", width=390, height=800)
    boxes = page.locator(".menu a").evaluate_all("all => all.map((a) => [a.offsetTop, a.getClientRects()[0].height])")
    assert len(boxes) == 6
    assert len({tuple(box) for box in boxes}) == 1
    assert boxes[0][1] < 45
    # What does not fit is reached by scrolling the menu, never the page.
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("link", name="Projects").click()
    expect(page).to_have_url(re.compile("/projects$"))


def test_a_double_click_submits_one_task(fleet, tab):
    fleet.upload()
    page = tab("carol", "/ota/tasks/new?project=Harbour&version=2.1.0&reason=cells")
    page.get_by_label("Auditor").fill("alan")
    # Enter previews; it does not submit.
    page.get_by_label("Auditor").press("Enter")
    expect(page.get_by_text("3 of 3 vehicles will be in the task")).to_be_visible()
    page.get_by_label("By VIN").check()
    expect(page.get_by_label("Series", exact=True)).to_be_hidden()
    page.get_by_label("VINs, separated by").fill(f"{fleet.vin(1)} {fleet.vin(4)}")
    page.get_by_role("button", name="Preview", exact=True).last.click()
    expect(page.get_by_text("1 of 2 vehicles will be in the task")).to_be_visible()
    page.get_by_role("button", name="Submit Application").dblclick()
    expect(page).to_have_url(re.compile(r"/ota/tasks\?new=1$"))
    expect(page.locator("tr.is-new")).to_contain_text("OTA-1")
    page.reload()
    expect(page.locator("tbody tr")).to_have_count(1)
