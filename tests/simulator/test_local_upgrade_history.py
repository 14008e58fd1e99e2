"""A local upgrade, end to end in virtual time: flashed over CAN while the unit is offline, in the platform's history after.

Unit and tool are the simulator's, the platform is the reference cloud with its gateway, services and store.
"""

from __future__ import annotations

import hashlib
import re
from functools import partial

import pytest
from bmsota_cloud.clock import utc_time
from bmsota_cloud.domain.accounts import Role
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.platform import build_cloud
from bmsota_cloud.services import PlatformKeys, PlatformSettings
from bmsota_sim.devices.flash import CutPhase
from bmsota_sim.kernel import SECOND
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from long_run import phases_at

from bmsota.image import ImageVersion
from bmsota.node import FlashJob

NEW = ImageVersion(2, 1)
PASSWORD = "correct horse battery"


class CloudPlatform:
    """The reference cloud as the unit's uplink sees it; it knows the vehicle and has people."""

    url = "http://cloud.example"

    def __init__(self, kernel, identity, *, parts):
        self._kernel = kernel
        self._draws = 0
        self.vin = identity.vin
        self.mails = []
        keys = PlatformKeys(
            order_signing_key=parts.ORDER_KEY,
            manifest_public_keys=(parts.MANIFEST_KEY.public_key(),),
            image_public_keys=(parts.IMAGE_KEY.public_key(),),
        )
        self.cloud = build_cloud(
            keys=keys,
            settings=PlatformSettings(device_url=self.url, password_memory_kib=64, password_passes=1, password_lanes=1),
            draw=self._draw,
            clock=lambda: self.now,
        )
        accounts = self.cloud.services.accounts
        self.people = {
            name: accounts.create(name=name, email=f"{name}@b.example", role=role, password=PASSWORD, now=self.now)
            for name, role in (("carol", Role.OPERATOR), ("alan", Role.AUDITOR), ("vera", Role.VIEWER))
        }
        self.cloud.services.vehicles.register(
            vin=identity.vin,
            series="T1",
            project="p",
            hwid=identity.master_hwid,
            device_public_key=identity.device_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw),
            now=self.now,
        )

    @property
    def now(self):
        return utc_time(self._kernel.now_ns)

    def _draw(self, size):
        self._draws += 1
        return hashlib.shake_256(f"draw {self._draws}".encode()).digest(size)

    # -- MemoryPlatform

    def open_link(self, wake):
        return self.cloud.open_link(wake)

    def respond(self, request):
        return self.cloud.device_respond(request, self.now)

    # -- people

    def history(self):
        page = self.cloud.services.histories.page(self.vin, PageRequest(), by=self.people["vera"])
        return [
            (
                entry.source.value,
                str(entry.status),
                [(node.position, node.version_before, node.version_after) for node in entry.nodes],
            )
            for entry in page.items
        ]

    def order(self, release):
        """A release is uploaded, a task created, and approved with the mailed code."""
        services = self.cloud.services
        services.releases.upload(
            manifest=release.manifest, images=[release.master, release.slave], by=self.people["carol"], now=self.now
        )
        task = services.ota_tasks.create(
            project="p",
            reason="r",
            software_version=release.version,
            vins=[self.vin],
            auditor="alan",
            by=self.people["carol"],
            now=self.now,
        )
        services.outbox.drain(self.now, self.mails.append)
        code = re.search(r"Approval code: (\d{6})", self.mails[-1].body)[1]
        services.ota_tasks.approve(task.id, code=code, by=self.people["alan"], now=self.now)

    def logins(self):
        presence = self.cloud.services.presence
        with self.cloud.store.reading() as work:
            return work.presence.connections([self.vin], presence.lease_check)[self.vin].login_serial


@pytest.fixture
def bench(unit_bench):
    return new_bench(unit_bench)


@pytest.fixture
def new(unit_bench):
    return unit_bench.release("2.1.0", 2)


def new_bench(unit_bench):
    bench = unit_bench.Bench(platform=partial(CloudPlatform, parts=unit_bench))
    bench.settle()
    bench.run(2)
    return bench


def ok(results):
    assert all(result.ok for result in results.values()), results


def install(flasher, positions, release, version=NEW):
    """Flash, activate, confirm, as `bmsota flash` does."""
    ok(flasher.do("flash", [FlashJob(p, release.slave if p else release.master) for p in positions]))
    ok(flasher.do("activate", positions))
    flasher.do("discover", positions)
    ok(flasher.do("confirm", [(position, version) for position in positions], raise_counter=True))


def flash_while_offline(bench, release):
    """A workshop without network: one slave and the master are flashed over CAN."""
    bench.unit.set_coverage(covered=False)
    bench.run(1)
    install(bench.flasher(), (1, 0), release)
    # The tool is unplugged, and the master looks at its nodes.
    bench.run(15)


def log_in_again(bench):
    serial = bench.platform.logins()
    bench.unit.set_coverage(covered=False)
    bench.run(5)
    bench.unit.set_coverage(covered=True)
    bench.wait(lambda: bench.platform.logins() > serial and bench.unit.master.is_logged_in, "login")
    bench.run(5)


def history_of(bench):
    platform = bench.platform
    return platform.cloud.services.histories.page(platform.vin, PageRequest(), by=platform.people["vera"]).items


def told_by(bench):
    return [note.what for note in bench.trace.notes if note.what.startswith("tells")]


FIELD = [
    ("CAN", "Upgrade succeeded", [(1, "2.0.0", "2.1.0")]),
    ("CAN", "Upgrade succeeded", [(0, "2.0.0", "2.1.0")]),
]


@pytest.mark.slow
def test_a_local_upgrade_is_told_at_the_next_login_and_only_there(bench, new):
    flash_while_offline(bench, new)
    assert bench.versions() == ("2.1.0", "2.1.0", "2.0.0")
    assert bench.platform.history() == []

    log_in_again(bench)
    assert bench.platform.history() == FIELD
    page = bench.platform.cloud.services.histories.page(
        bench.platform.vin, PageRequest(), by=bench.platform.people["vera"]
    )
    hwids = [entry.nodes[0].hwid for entry in page.items]
    assert hwids == [bench.identity.slave_hwids[0], bench.identity.master_hwid]
    assert all(entry.at < entry.reported_at for entry in page.items)
    assert told_by(bench) == ["tells 2 local upgrades"]

    # Not at the second login, and not by the next life of the master.
    log_in_again(bench)
    bench.unit.cycle_power(SECOND)
    bench.run(2)
    bench.settle()
    bench.run(5)
    assert told_by(bench) == ["tells 2 local upgrades"]
    assert bench.platform.history() == FIELD
    # Each was named by the signed identity report before, once.
    assert bench.platform.cloud.services.counters["local_upgrade_repeated"] == 2


@pytest.mark.slow
def test_what_an_order_does_beside_it_stands_as_ota(bench, new, unit_bench):
    """The order brings the slave that was left behind along, and all of them further."""
    flash_while_offline(bench, new)
    log_in_again(bench)
    bench.platform.order(unit_bench.release("2.2.0", 3))
    bench.wait(
        lambda: len(bench.platform.history()) == 3 and bench.platform.history()[0][1] == "Upgrade succeeded", "OTA"
    )
    bench.settle()
    bench.unit.cycle_power(SECOND)
    bench.run(2)
    bench.settle()
    bench.run(5)
    ota = ("OTA", "Upgrade succeeded", [(0, "2.1.0", "2.2.0"), (1, "2.1.0", "2.2.0"), (2, "2.0.0", "2.2.0")])
    assert bench.platform.history() == [ota, *FIELD]


def test_a_local_upgrade_that_does_not_stay_is_told_as_rolled_back(bench, new):
    """The tool leaves before it confirms."""
    bench.unit.set_coverage(covered=False)
    flasher = bench.flasher()
    ok(flasher.do("flash", [FlashJob(2, new.slave)]))
    ok(flasher.do("activate", (2,)))
    bench.run(15)
    assert bench.versions()[2] == "2.1.0"
    bench.unit.cycle_power(SECOND)
    bench.run(5)
    log_in_again(bench)
    assert bench.platform.history() == [("CAN", "Rolled back", [(2, "2.0.0", "2.0.0")])]


def test_an_exchanged_slave_is_no_local_upgrade(bench, unit_bench):
    """It comes with another version than the rest has: equipment, told by the identity."""
    bench.unit._factory.slave = unit_bench.release("2.1.0", 2).slave
    bench.unit.replace_slave(2, "S-FROM-THE-SHELF", SECOND)
    bench.run(5)
    log_in_again(bench)
    assert bench.versions() == ("2.0.0", "2.0.0", "2.1.0")
    services, vera = bench.platform.cloud.services, bench.platform.people["vera"]
    changes = services.equipment.page(PageRequest(), by=vera).items
    assert [(change.position, change.new_hwid) for change in changes] == [(2, "S-FROM-THE-SHELF")]
    assert bench.platform.history() == []


@pytest.mark.slow
def test_the_power_may_fail_at_any_flash_operation_of_the_masters_record(unit_bench, new):
    """From the tool's last word to the acknowledgement: whatever is cut, the history has each upgrade once."""

    def play(number=0, phase=None):
        """The story, cut at the operation with this number behind the tool's last word; the bench, and how many there were."""
        bench = new_bench(unit_bench)
        flash = bench.flashes["master"]
        bench.unit.set_coverage(covered=False)
        bench.run(1)
        install(bench.flasher(), (1, 0), new)
        before = flash.operations
        if phase is not None:
            flash.cut_at(before + number, phase)
        bench.run(15)
        log_in_again(bench)
        bench.run(60)
        return bench, flash.operations - before

    bench, count = play()
    assert bench.platform.history() == FIELD
    # Found, the identity report's number, acknowledged by signature, acknowledged: each kept twice, among others.
    assert count >= 8
    for number in range(1, count + 1):
        for phase in phases_at(number, [*CutPhase]):
            bench, _ = play(number, phase)
            where = f"cut {phase.value} operation {number}: {bench.story()}"
            assert any("power cut" in note.what for note in bench.trace.notes), where
            assert bench.platform.history() == FIELD, where
            # Told again at most once, when the acknowledgement was not written down, and then known by the platform.
            assert len(told_by(bench)) in {1, 2}, where
            assert bench.platform.cloud.services.counters["local_upgrade_repeated"] in {2, 4}, where
            assert all(entry.is_confirmed for entry in history_of(bench)), where
