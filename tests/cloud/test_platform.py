"""The platform without its doors: two runs alike, memory and file alike, a restart."""

from dataclasses import replace
from hashlib import sha256

import pytest
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.platform import build_cloud

from bmsota.gbt32960 import UpgradeStateCode as Code

PASSWORD = "correct horse battery"


def run_through(world):
    """A task from creation to the report; everything that came out of the platform, as one digest."""
    task = world.approved(1, 2)
    wire = []
    for number in (1, 2):
        with world.cloud.store.reading() as work:
            wire.append(work.ota_tasks.upgrade(task.id, number).order_document)
    login = world.services.accounts.log_in(name="carol", password=PASSWORD, now=world.now)
    wire.append(login.token.encode())
    wire.append(world.services.device.challenge("M-000001", world.now).challenge)
    world.wait(seconds=5)
    world.tell(world.vin(1), Code.DOWNLOADING, progress_pct=10)
    world.services.upgrades.receive_report(world.vin(1), world.report(1, "OTA-1-1"), world.now)
    world.wait(days=4)
    world.services.upgrades.expire(world.now)
    wire.append(repr(world.detail(task)).encode())
    wire.append(repr(world.mails).encode())
    wire.append(repr(world.services.audit.page(PageRequest(1, 500), by=world.people["anna"])).encode())
    return sha256(b"".join(wire)).hexdigest()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(new_world):
    first, second, other = (run_through(new_world(seed)) for seed in ("a", "a", "b"))
    assert first == second
    assert first != other


def test_a_file_gives_the_same_bytes_as_memory(new_world, tmp_path):
    assert run_through(new_world("a", data_dir=tmp_path)) == run_through(new_world("a"))
    assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {"platform", "reports", "telemetry"}


@pytest.mark.slow
def test_a_task_survives_a_restart(new_world, tmp_path):
    """State from the database, the instruction is still pending, the code still works."""
    world = new_world("a", data_dir=tmp_path)
    world.register(1)
    world.identify(1)
    world.upload()
    task = world.create(1)
    code = world.newest_code()
    world.cloud.close()
    again = build_cloud(
        keys=world.services.ota_tasks._context.keys,
        settings=world.cloud.settings,
        data_dir=tmp_path,
        draw=world.draw,
        clock=world.clock,
    )
    try:
        again.services.ota_tasks.approve(task.id, code=code, by=world.people["alan"], now=world.now)
        assert again.services.upgrades.pending_instruction(world.vin(1)).order_id == "OTA-1-1"
    finally:
        again.close()
    assert replace(task) == task
