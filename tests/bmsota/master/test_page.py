"""docs/master.md, run as a reader would: its master on a python-can bus with real slaves' frames, and the whole platform.

The page's code drives the master. Stand-ins for hardware: the slaves and the flash memories are the simulator's, in real
time behind a virtual adapter. The platform is the embedded cloud with its gateway, device API and mail.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from contextlib import asynccontextmanager
from pathlib import Path

import can
import httpx
import pytest
from bmsota_cloud.domain.accounts import Role
from bmsota_cloud.services import PlatformKeys
from bmsota_cloud.wiring import RunningCloud, ServeOptions, wall_clock
from bmsota_sim.devices.flash import FlashModel
from bmsota_sim.devices.slave import Slave
from bmsota_sim.identity import unit_identity
from bmsota_sim.links.canbus import CanBus
from bmsota_sim.operator import OPEN_STATUSES, Operator
from bmsota_sim.profiles import PROFILES
from bmsota_sim.realtime import RealTimeDriver
from bmsota_sim.samples import sample_file, sample_key, sample_names
from bmsota_sim.trace import Trace
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bmsota.adapters.pythoncan import from_message, to_message
from bmsota.bootloader import BootloaderWire
from bmsota.image import HardwareClass
from bmsota.master import MasterReadings, UnitKeys
from bmsota.ota import UpdaterState

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[3] / "docs" / "master.md"
PROFILE = PROFILES["E7"]
IDENTITY = unit_identity(1, "E7", 1, PROFILE.slave_count)
IMAGE_KEYS = (sample_key("image").public_key(),)
MANIFEST_KEYS = (sample_key("manifest").public_key(),)
ORDER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PASSWORD = "a password of a test"
READINGS = MasterReadings(ignition_on=True, speed_kmh=0.0, is_charging=False, current_a=0.4, soc_pct=61.0)
MS = 1_000_000
# Nothing here decides by it: a bound for a run that hangs.
HANG_S = 120.0


def page_code():
    """The page's code blocks, in order, as one module's."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    names = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


class Cells:
    """What one slave's front end measures: constant, and different in every cell."""

    def __init__(self, position):
        self.position = position

    def cell_voltages_v(self):
        return [3.2 + 0.1 * self.position + 0.001 * cell for cell in range(PROFILE.cells_per_slave)]

    def temperatures_c(self):
        return [20.0 + self.position + probe for probe in range(PROFILE.probes_per_slave)]


class Pack:
    """The slaves on their bus, in real time, and the adapter's other end: what python-can sends is on that bus."""

    def __init__(self, page, configuration, adapter):
        self.driver = RealTimeDriver()
        kernel = self.driver.kernel
        bus = CanBus(kernel, name="pack", seed=1)
        wire = BootloaderWire(page["loads"](page["packaged_dbc"]("bms_bootloader")))
        self.slaves = [
            Slave(
                kernel=kernel,
                bus=bus,
                wire=wire,
                database=configuration.database,
                trace=Trace(),
                name=f"slave {position}",
                position=position,
                hwid=hwid,
                hardware_class=configuration.slave_class,
                profile=PROFILE,
                image_keys=IMAGE_KEYS,
                factory_image=sample_file("E7-slave-2.0.0.bin"),
                sensors=Cells(position),
                measure_period_ns=1000 * MS,
                seed="1",
                flash_times_ns=(MS, 10_000),
            )
            for position, hwid in enumerate(IDENTITY.slave_hwids, start=1)
        ]
        self.port = bus.attach(lambda frame, _now_ns: adapter.send(to_message(frame)), name="adapter")
        for slave in self.slaves:
            slave.power_on()

    def versions(self):
        return [str(slave.version) for slave in self.slaves]

    def hear(self, message):
        self.driver.deliver(self.port.send, from_message(message))


@asynccontextmanager
async def pack_on(page, configuration, channel):
    """The pack at the other end of a python-can bus."""
    adapter = can.Bus(interface="virtual", channel=channel)
    pack = Pack(page, configuration, adapter)
    notifier = can.Notifier(adapter, [pack.hear], timeout=0.05, loop=asyncio.get_running_loop())
    running = asyncio.create_task(pack.driver.run(lambda: False, until_ns=2**62))
    try:
        yield pack
    finally:
        running.cancel()
        notifier.stop()
        adapter.shutdown()


async def until(condition, what):
    """Until *condition*; it may be a coroutine function."""
    async with asyncio.timeout(HANG_S) as limit:
        while True:
            result = condition()
            result = await result if asyncio.iscoroutine(result) else result
            if result:
                return result
            assert not limit.expired(), what
            await asyncio.sleep(0.05)


class People:
    """Who is at the platform: they register the vehicle, release the software, and start the task."""

    def __init__(self, running, client):
        self.running, self.client = running, client
        self.operator, self.auditor = Operator(client), Operator(client)

    async def begin(self):
        cloud = self.running.cloud
        for name, role in (("operator", Role.OPERATOR), ("auditor", Role.AUDITOR)):
            await asyncio.to_thread(
                cloud.services.accounts.create,
                name=name,
                email=f"{name}@bmsota.example",
                role=role,
                password=PASSWORD,
                now=wall_clock(),
            )
        await self.operator.log_in("operator", PASSWORD)
        await self.auditor.log_in("auditor", PASSWORD)
        await self.operator.register_vehicle(
            vin=IDENTITY.vin,
            series="E7",
            project="page",
            hwid=IDENTITY.master_hwid,
            device_public_key=IDENTITY.device_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw),
        )

    async def start_task(self):
        images = [sample_file(name) for name in sample_names() if re.fullmatch(r"E7-(master|slave)-2.1.0.bin", name)]
        await self.operator.upload_release(sample_file("E7-2.1.0.manifest.cose"), images)
        task_id = await self.operator.create_task(
            project="page", reason="a test", software_version="2.1.0", vins=[IDENTITY.vin], auditor="auditor"
        )
        sink = self.running.mail_sink
        mail = await until(lambda: sink.mails and sink.mails[-1], "the auditor's mail")
        body = mail.message.get_body(("plain",)).get_content()
        await self.auditor.approve(task_id, re.search(r"Approval code: (\d{6})", body).group(1))
        return task_id

    async def outcome(self, task_id):
        (row,) = await self.operator.upgrades(task_id)
        return None if row.status in OPEN_STATUSES else row

    async def newest_report(self):
        answer = await self.operator._call("GET", f"/vehicles/{IDENTITY.vin}/reports", params={"size": 1})
        return answer["items"][0]["values"] if answer["items"] else None


@pytest.fixture(scope="module")
def page():
    return page_code()


def test_the_page_s_master_reports_its_cells_and_is_upgraded_with_its_slaves(page, tmp_path):
    """Its reports hold what the slaves measured; an order brings it and its slaves from 2.0.0 to 2.1.0."""
    asyncio.run(play(page, tmp_path))


async def play(page, folder):
    keys = UnitKeys(image_keys=IMAGE_KEYS, manifest_keys=MANIFEST_KEYS, order_keys=(ORDER_KEY.public_key(),))
    configuration = page["configure"](IDENTITY.vin, IDENTITY.iccid, IDENTITY.master_hwid, IDENTITY.device_key, keys)
    assert configuration.slave_class == HardwareClass.named(PROFILE.vendor, PROFILE.slave_class_name)
    flash, image_flash = FlashModel(192 * 1024, seed="internal"), FlashModel(128 * 1024, erase_block_bytes=4096)
    page["boot_store"](configuration, flash).install_factory(sample_file("E7-master-2.0.0.bin"))
    platform_keys = PlatformKeys(
        order_signing_key=ORDER_KEY, manifest_public_keys=MANIFEST_KEYS, image_public_keys=IMAGE_KEYS
    )
    running = await RunningCloud.start(ServeOptions(keys=platform_keys, data_dir=folder))
    configuration = dataclasses.replace(configuration, origins=(running.http_url,))
    bus = can.Bus(interface="virtual", channel=str(folder))
    lives = []
    parts = {
        "flash": flash,
        "image_flash": image_flash,
        "read": lambda: READINGS,
        "bus": bus,
        "gateway": (running.host, running.gateway_port),
        "report_period_s": 0.5,
        "on_power": lives.append,
    }
    try:
        async with (
            pack_on(page, configuration, str(folder)) as pack,
            httpx.AsyncClient(base_url=running.http_url) as client,
        ):
            people = People(running, client)
            await people.begin()

            master = asyncio.create_task(page["run_master"](configuration, **parts))
            await until(lambda: lives and lives[-1].master.slave_versions == ("2.0.0",) * 3, "discovery")
            await check_cells(people, pack)

            task_id = await people.start_task()
            await until(lambda: lives[-1].master.upgrade_state is UpdaterState.DOWNLOAD_COMPLETE, "download")
            assert pack.versions() == ["2.0.0"] * 3
            lives[-1].step(lives[-1].master.shut_down)  # The driver leaves ...
            last_login = await asyncio.wait_for(master, HANG_S)
            assert last_login[0] == 1
            master = asyncio.create_task(
                page["run_master"](configuration, last_login=last_login, **parts)
            )  # ... and returns.
            row = await until(lambda: people.outcome(task_id), "outcome")
            assert (row.status, row.reason) == ("Upgrade succeeded", "")
            assert row.after == ((0, "2.1.0"), (1, "2.1.0"), (2, "2.1.0"), (3, "2.1.0"))
            assert pack.versions() == ["2.1.0"] * 3
            await check_cells(people, pack)
            lives[-1].step(lives[-1].master.shut_down)
            # The old image may log in, or not, before it resets into the new one.
            assert (await asyncio.wait_for(master, HANG_S))[0] in {2, 3}
            assert str(page["boot_store"](configuration, flash).boot().facts.version) == "2.1.0"
    finally:
        bus.shutdown()
        await running.stop()


async def check_cells(people, pack):
    """The platform's newest report says of every cell and probe what its slave measures.

    Until the slaves' first round after a power-on the cells are "invalid": such a report is passed over.
    """
    cells = [round(value, 3) for slave in pack.slaves for value in slave._sensors.cell_voltages_v()]
    probes = [round(value) for slave in pack.slaves for value in slave._sensors.temperatures_c()]

    async def reported():
        values = await people.newest_report()
        (pack_part,) = values["cell_voltages"]["subsystems"] if values else ({},)
        return values if pack_part.get("cell_voltages_v") == cells else None

    values = await until(reported, "a report with every cell")
    assert values["probe_temperatures"]["subsystems"][0]["temperatures_c"] == probes
    assert values["vehicle"]["total_voltage_v"] == round(sum(cells), 1)
    assert values["extremes"]["cell_voltage_max_v"] == max(cells)
    assert values["vehicle"]["soc_pct"] == 61
