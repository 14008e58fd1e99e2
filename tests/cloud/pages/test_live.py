"""The WebSocket of an open page: who may listen, what comes first, what comes then."""

import asyncio
import re
import threading
from types import SimpleNamespace

import pytest
from bmsota_cloud.domain.accounts import Scope, ScopeKind
from bmsota_cloud.pages import live as live_module
from bmsota_cloud.services import live as feed_module
from starlette.websockets import WebSocketDisconnect

from bmsota.gbt32960 import UpgradeStateCode


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    """Nobody looks at these pages; messages need not be as far apart as for an eye."""
    monkeypatch.setattr(live_module, "_PAUSE_S", 0.01)


def close_code(socket):
    with pytest.raises(WebSocketDisconnect) as closed:
        socket.receive_json()
    return closed.value.code


@pytest.fixture
def vin(fleet):
    return fleet.vin(1)


@pytest.fixture
def task(fleet):
    fleet.upload()
    made = fleet.create(1, 2)
    fleet.approve(made)
    return made


# -- who may listen ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/live/overview", "/live/vehicles/TESTVEHICLE000001", "/live/ota/tasks/1"])
def test_a_stranger_hears_nothing(fleet, stranger, path):
    with stranger.live(path) as socket:
        assert close_code(socket) == 4401


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_a_page_of_another_site_hears_nothing(fleet, visit, vin, headers):
    """A browser would send our cookie along."""
    with visit("vera").live(f"/live/vehicles/{vin}", **headers) as socket:
        assert close_code(socket) == 4403


def test_our_own_page_may_listen(fleet, visit, vin):
    with visit("vera").live(f"/live/vehicles/{vin}", Origin="http://cloud.example:8080") as socket:
        assert socket.receive_json()["kind"] == "parts"


@pytest.mark.parametrize("path", ["/live/vehicles/TESTVEHICLE999999", "/live/ota/tasks/99"])
def test_of_nothing_there_is_nothing_to_hear(visit, path):
    with visit("vera").live(path) as socket:
        assert close_code(socket) == 4404


def test_who_is_logged_out_hears_no_more(fleet, visit, vin, monkeypatch):
    monkeypatch.setattr(live_module, "_TICK_S", 0.05)
    monkeypatch.setattr(live_module, "_SNAPSHOT_EVERY_TICKS", 1000)
    vera = visit("vera")
    csrf = vera.csrf()
    with vera.live(f"/live/vehicles/{vin}") as socket:
        assert socket.receive_json()["kind"] == "parts"
        assert socket.receive_json()["kind"] == "tick"
        vera.post("/logout", csrf=csrf)
        # Ticks that were on their way already may still arrive.
        messages = (socket.receive() for _ in range(100))
        assert next(message["code"] for message in messages if message["type"] == "websocket.close") == 4401


def busy_until_closed(fleet, vin, socket):
    """Something changes whenever the page has been told of the last change; the code it is closed with."""
    for _ in range(300):
        fleet.services.live.publish(f"vehicle:{vin}", {"kind": "nodes"})
        message = socket.receive()
        if message["type"] == "websocket.close":
            return message["code"]
    raise AssertionError("the page went on")


def test_who_is_logged_out_hears_no_more_of_a_busy_vehicle(fleet, visit, vin, monkeypatch):
    """Who looks is asked again also while there is always something to tell."""
    monkeypatch.setattr(live_module, "_TICK_S", 0.2)
    vera = visit("vera")
    csrf = vera.csrf()
    with vera.live(f"/live/vehicles/{vin}") as socket:
        assert socket.receive_json()["kind"] == "parts"
        vera.post("/logout", csrf=csrf)
        assert busy_until_closed(fleet, vin, socket) == 4401


def test_a_page_ends_when_its_account_does_not_see_the_vehicle_any_more(fleet, visit, vin, monkeypatch):
    monkeypatch.setattr(live_module, "_TICK_S", 0.2)
    with visit("vera").live(f"/live/vehicles/{vin}") as socket:
        assert socket.receive_json()["kind"] == "parts"
        elsewhere = Scope(kind=ScopeKind.PROJECTS, projects=("Elsewhere",))
        fleet.services.accounts.change("vera", scope=elsewhere, by=fleet.people["adam"], now=fleet.now)
        assert busy_until_closed(fleet, vin, socket) == 4404


def test_nothing_is_kept_for_a_page_that_has_gone(fleet, visit, vin):
    vera = visit("vera")
    with vera.live(f"/live/vehicles/{vin}") as socket:
        socket.receive_json()
        assert fleet.services.live.is_heard(f"vehicle:{vin}")
    assert not fleet.services.live.is_heard(f"vehicle:{vin}")


def test_a_page_that_speaks_is_closed(fleet, visit, vin):
    with visit("vera").live(f"/live/vehicles/{vin}") as socket:
        socket.receive_json()
        socket.send_text("hello")
        # The server leaves; the test's end would hang if it did not.


# -- a vehicle ---------------------------------------------------------------------------------------------------------


def test_first_the_whole_then_what_changed(fleet, visit, report, vin, make):
    vera = visit("vera")
    page = vera.see(f"/vehicles/{vin}/real-time")
    with vera.live(f"/live/vehicles/{vin}") as socket:
        first = socket.receive_json()
        assert first["kind"] == "parts"
        assert first["now"] == "2026-11-22T08:00:00+00:00"
        assert set(first["parts"]) == {"live_head", "live_values", "live_nodes", "live_history"}
        for part in first["parts"].values():
            assert part in page
        fleet.wait(seconds=10)
        report(1, soc_pct=62, cells=make.cells(high=(17, 3.700)))
        patch = socket.receive_json()
    assert patch["kind"] == "patch"
    assert patch["texts"]["soc"] == "62 %"
    assert patch["texts"]["cell_1_17"] == "3.700"
    assert patch["texts"]["cell_spread"] == "89 mV"
    assert patch["texts"]["seen"] == "2026-11-22 16:00:10 +08:00"
    assert patch["attributes"]["seen_ago"] == {"data-since": "2026-11-22T08:00:10+00:00"}
    assert patch["attributes"]["soc_bar"] == {"value": "62"}
    assert "voltage" not in patch["texts"]
    # Every key stands in the page that is to be changed.
    assert {*patch["texts"], *patch["attributes"]} <= set(re.findall(r'data-k="([^"]+)"', page))


def test_going_offline_comes_as_a_whole(fleet, visit, vin):
    with visit("vera").live(f"/live/vehicles/{vin}") as socket:
        socket.receive_json()
        fleet.services.ingest.link_lost(vin, fleet.now)
        message = socket.receive_json()
    assert message["kind"] == "parts"
    assert 'data-online="no"' in message["parts"]["live_values"]
    assert "This vehicle is offline." in message["parts"]["live_values"]


def test_a_new_alarm_comes_as_a_whole(fleet, visit, report, vin, two_alarms):
    with visit("vera").live(f"/live/vehicles/{vin}") as socket:
        socket.receive_json()
        report(1, alarms=two_alarms)
        assert "SOC low" in socket.receive_json()["parts"]["live_values"]


def test_new_nodes_come_as_a_whole(fleet, visit, vin):
    with visit("vera").live(f"/live/vehicles/{vin}") as socket:
        socket.receive_json()
        fleet.identify(1, version="2.1.0")
        assert "<b>2.1.0</b>" in socket.receive_json()["parts"]["live_nodes"]


def test_other_vehicles_are_not_heard(fleet, visit, report, vin):
    with visit("vera").live(f"/live/vehicles/{vin}") as socket:
        socket.receive_json()
        report(2, soc_pct=1)
        report(1, soc_pct=2)
        assert socket.receive_json()["texts"]["soc"] == "2 %"


@pytest.mark.slow
def test_who_lost_messages_gets_the_whole_again(fleet, visit, report, vin, monkeypatch):
    monkeypatch.setattr(feed_module, "LIVE_QUEUE_MAX", 2)
    all_reported = threading.Event()

    async def pause(_seconds):
        await asyncio.to_thread(all_reported.wait, 120)

    monkeypatch.setattr(live_module, "asyncio", SimpleNamespace(**(vars(asyncio) | {"sleep": pause})))
    with visit("vera").live(f"/live/vehicles/{vin}") as socket:
        socket.receive_json()
        for soc_pct in range(40, 50):
            report(1, soc_pct=soc_pct)
        all_reported.set()
        message = socket.receive_json()
    assert message["kind"] == "parts"
    assert ">49 %<" in message["parts"]["live_values"]


def test_a_quiet_page_is_told_that_we_live_and_heals_by_itself(fleet, visit, vin, monkeypatch):
    monkeypatch.setattr(live_module, "_TICK_S", 0.02)
    monkeypatch.setattr(live_module, "_PAUSE_S", 0)
    with visit("vera").live(f"/live/vehicles/{vin}") as socket:
        kinds = [socket.receive_json()["kind"] for _ in range(5)]
    assert kinds == ["parts", "tick", "tick", "parts", "tick"]


# -- a task ------------------------------------------------------------------------------------------------------------


def test_progress_comes_as_a_patch_and_a_status_as_a_whole(fleet, visit, task):
    def tell(place, state, **options):
        assert fleet.tell(fleet.vin(place), state, order_id=f"OTA-{task.id}-{place}", **options)

    with visit("vera").live(f"/live/ota/tasks/{task.id}") as socket:
        first = socket.receive_json()
        assert set(first["parts"]) == {"live_head", "live_approval", "live_vehicles"}
        tell(1, UpgradeStateCode.DOWNLOADING, progress_pct=10)
        whole = socket.receive_json()
        assert 'data-k="bar_1" max="100" value="10"' in whole["parts"]["live_vehicles"]
        assert "<b>1</b> <span" in whole["parts"]["live_head"]
        tell(1, UpgradeStateCode.DOWNLOADING, progress_pct=55, reason="block 12 fetched again")
        patch = socket.receive_json()
        assert patch["kind"] == "patch"
        assert patch["attributes"] == {"bar_1": {"value": "55"}}
        assert patch["texts"] == {
            "progress_1": "55 %",
            "stage_1": "downloading: block 12 fetched again",
            "reason_1": "",
        }
        fleet.services.upgrades.receive_report(fleet.vin(1), fleet.report(1, f"OTA-{task.id}-1"), fleet.now)
        assert "Upgrade succeeded" in socket.receive_json()["parts"]["live_vehicles"]


@pytest.mark.slow
def test_vehicles_on_another_page_of_the_list_count(world, visit):
    for number in range(1, 61):
        world.register(number)
    world.upload()
    task = world.create(*range(1, 61))
    world.approve(task)
    with visit("vera").live(f"/live/ota/tasks/{task.id}?page=2") as socket:
        first = socket.receive_json()["parts"]
        assert first["live_vehicles"].count('class="upgrade"') == 10
        for progress_pct in (1, 2):
            world.tell(
                world.vin(1), UpgradeStateCode.DOWNLOADING, order_id=f"OTA-{task.id}-1", progress_pct=progress_pct
            )
            message = socket.receive_json()
            if progress_pct == 1:
                assert "59" in message["parts"]["live_head"]
            else:
                assert message == {"kind": "patch", "texts": {}, "attributes": {}, "now": message["now"]}


def test_the_form_of_the_auditor_keeps_its_token(fleet, visit):
    fleet.upload()
    task = fleet.create(1)
    alan = visit("alan")
    csrf = alan.csrf()
    with alan.live(f"/live/ota/tasks/{task.id}") as socket:
        part = socket.receive_json()["parts"]["live_approval"]
    assert f'name="csrf" value="{csrf}"' in part
    assert "/approve" in part
