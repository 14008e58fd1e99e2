"""A whole unit on each of the four wires: upgraded by the cloud, and flashed from outside, directly or through the master."""

from __future__ import annotations

import pytest
from bmsota_sim.devices.bootloader_node import data_keys

from bmsota.bootloader._offer import OFFER_BYTES
from bmsota.errors import ConfigurationError
from bmsota.image import ImageVersion
from bmsota.node import FlashJob
from bmsota.ota import Outcome

pytestmark = pytest.mark.slow

DBCS = ("bms_bootloader", "bms_bootloader_29bit", "bms_bootloader_fd", "bms_bootloader_fd_29bit")
NEW = ImageVersion(2, 1, 0)


@pytest.fixture
def new(unit_bench):
    return unit_bench.release("2.1.0", 2, slave_size=9000)


def ok(results):
    assert all(result.ok for result in results.values()), results
    return sorted(results)


def data_frames(wire, frames):
    """Those of the bootloader; all of them are of the wire's own kind."""
    found = [frame for frame in frames if wire.data_id <= frame.can_id < wire.data_id + 64]
    assert {(frame.is_extended_id, frame.is_fd) for frame in found} == {(wire.is_extended_id, wire.is_fd)}
    return found


@pytest.mark.parametrize("dbc", DBCS)
def test_the_cloud_upgrades_it_and_equal_slaves_get_their_image_at_once(unit_bench, new, dbc):
    bench = unit_bench.Bench(dbc=dbc)
    bench.settle()
    heard = []
    bench.unit.bus.observe(lambda frame, _now_ns: heard.append(frame))
    report = bench.upgrade(new)
    assert report.outcome is Outcome.SUCCEEDED
    assert bench.versions() == ("2.1.0",) * 3
    wire = bench.wire
    whole, offer = -(-len(new.slave) // wire.data_bytes), -(-OFFER_BYTES // wire.data_bytes)
    assert len(data_frames(wire, heard)) == whole + offer  # Each once for all slaves.


@pytest.mark.parametrize("topology", ["direct", "gateway"])
@pytest.mark.parametrize("dbc", DBCS)
def test_a_flasher_installs_a_release_on_it(unit_bench, new, dbc, topology):
    bench = unit_bench.Bench(dbc=dbc, has_diagnosis=topology == "gateway")
    bench.settle()
    bench.run(2)
    flasher = bench.flasher()
    assert sorted(flasher.do("discover", (0, 1, 2))) == [0, 1, 2]
    jobs = [FlashJob(1, new.slave), FlashJob(2, new.slave), FlashJob(0, new.master)]
    assert ok(flasher.do("flash", jobs)) == [0, 1, 2]
    # The acceptance filters are open for data while the bootloaders have their session, and for nothing else's sake.
    keys = data_keys(bench.wire)
    nodes = [bench.unit.master.node, *(slave.node for slave in bench.unit.slaves)]
    assert all(keys <= port._accepts for node in nodes for port in node.ports)
    assert ok(flasher.do("leave", (1,))) == [1]
    assert [bool(keys & port._accepts) for slave in bench.unit.slaves for port in slave.node.ports] == [False, True]
    assert ok(flasher.do("activate", (1, 2, 0))) == [0, 1, 2]
    assert ok(flasher.do("confirm", [(position, NEW) for position in (1, 2, 0)], raise_counter=True)) == [0, 1, 2]
    assert bench.versions() == ("2.1.0",) * 3
    assert not any(keys & port._accepts for slave in bench.unit.slaves for port in slave.node.ports)
    assert {frame.is_extended_id for frame in flasher.heard if bench.wire.parse(frame)} == {"29bit" in dbc}


def test_without_a_data_bit_rate_there_is_no_fd_bootloader(unit_bench):
    with pytest.raises(ConfigurationError, match="CAN FD needs a data bit rate"):
        unit_bench.Bench(dbc="bms_bootloader_fd", fd_bitrate_bps=None)
