import pytest
from bmsota.gbt32960 import UpgradeStateCode as U, Alarms, AlarmFlag
from bmsota.ota.report import Outcome

D = "/tmp/bm/shots/"


def big(world, report, make):
    import dataclasses
    from cloud.services import NodeFact

    for n in range(1, 13):
        vin = world.register(n, series="F7" if n < 8 else "E7", project="Harbour" if n < 10 else "Hills")
        world.services.vehicles.identify(
            vin, world.facts(n, slaves=8 if n < 8 else 3, series="F7" if n < 8 else "E7"), world.now
        )
        if n != 12:
            world.services.ingest.log_in(vin, serial=1, now=world.now)
            cells = make.cells(96 if n < 8 else 36)
            report(n, cells=cells, soc_pct=90 - n * 5, probes=[24 + (k * 5) % 6 for k in range(32 if n < 8 else 12)])
    world.wait(minutes=3)
    for n in (3, 11):
        world.services.ingest.link_lost(world.vin(n), world.now)
    f = list(world.facts(1, slaves=8))
    f[4] = dataclasses.replace(f[4], hwid="S-000001-4B", serial="serial S-000001-4B")
    world.services.vehicles.identify(world.vin(1), f, world.now)


@pytest.mark.parametrize("w,scheme", [(1280, "light"), (390, "light"), (1280, "dark")])
def test_shots(world, report, make, tab, w, scheme):
    big(world, report, make)
    world.upload()
    t = world.create(*range(1, 8))
    o = world.create(9, project="Harbour", software_version="2.1.0") if False else None
    h = 800 if w == 390 else 900
    tag = f"{w}-{scheme}"
    p = tab("", "/login", width=w, height=h, color_scheme=scheme)
    p.screenshot(path=f"{D}login-{tag}.png")
    p = tab("alan", f"/ota/tasks/{t.id}", width=w, height=h, color_scheme=scheme)
    world.services.outbox.drain(world.now, world.mails.append)
    p.wait_for_timeout(400)
    p.screenshot(path=f"{D}task-unapproved-{tag}.png", full_page=True)
    world.approve(t)
    world.wait(seconds=20)
    for n in range(1, 8):
        ins = world.services.upgrades.pending_instruction(world.vin(n))
        if n != 3:
            world.services.upgrades.instruction_sent(ins, world.now)
    world.wait(seconds=12)
    world.tell(world.vin(1), U.WAITING_SAFE_STATE, order_id=f"OTA-{t.id}-1", reason="vehicle is driving")
    for n, pct in ((2, 43), (4, 88), (5, 100), (6, 100), (7, 100)):
        world.tell(world.vin(n), U.DOWNLOADING, order_id=f"OTA-{t.id}-{n}", progress_pct=pct)
    world.wait(seconds=31)
    for n in (5, 6, 7):
        world.tell(world.vin(n), U.DOWNLOAD_COMPLETE, order_id=f"OTA-{t.id}-{n}")
    world.wait(seconds=31)
    world.tell(world.vin(5), U.FLASHING_SLAVES, order_id=f"OTA-{t.id}-5", reason="3 of 8")
    v = world.services.upgrades.report_received(
        world.vin(6), world.report(6, f"OTA-{t.id}-6", versions=["2.1.0"] * 9), world.now
    )
    print(v)
    v = world.services.upgrades.report_received(
        world.vin(7),
        world.report(
            7,
            f"OTA-{t.id}-7",
            versions=["2.0.0"] * 9,
            outcome=Outcome.ROLLED_BACK,
            reason="self-test: cell 17 voltage not plausible",
        ),
        world.now,
    )
    print(v)
    p.wait_for_timeout(1500)
    p.screenshot(path=f"{D}task-{tag}.png", full_page=True)
    p.goto("/ota/tasks")
    p.screenshot(path=f"{D}tasks-{tag}.png", full_page=True)
    p.goto("/vehicles")
    p.screenshot(path=f"{D}vehicles-{tag}.png", full_page=True)
    p.goto(f"/vehicles/{world.vin(1)}/real-time")
    p.wait_for_timeout(400)
    p.screenshot(path=f"{D}vehicle-{tag}.png", full_page=True)
    p.goto(f"/vehicles/{world.vin(3)}/real-time")
    p.wait_for_timeout(400)
    p.screenshot(path=f"{D}vehicle-offline-{tag}.png", full_page=True)
    report(2, alarms=Alarms(2, AlarmFlag.CELL_UNDER_VOLTAGE | AlarmFlag.SOC_LOW, ress_faults=(0x1234,)))
    p.goto(f"/vehicles/{world.vin(2)}/real-time")
    p.wait_for_timeout(400)
    p.screenshot(path=f"{D}vehicle-alarm-{tag}.png")
