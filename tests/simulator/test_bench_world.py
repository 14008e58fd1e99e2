"""The bench without a clock: what is on it, its commands, its flash file; a flasher in the kernel's time."""

from __future__ import annotations

import lzma
import re
from pathlib import Path

import cbor2
import pytest
from bmsota_sim.bench import BenchCommands, BenchOptions, BenchProtocol, BenchTopology, BenchWorld
from bmsota_sim.bench._flashfile import load_flashes, save_flashes
from bmsota_sim.kernel import MS, SECOND, Kernel
from bmsota_sim.links.canbus import BusFaults
from bmsota_sim.samples import sample_file
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError
from bmsota.flashing import BootloaderProfile, UdsProfile
from bmsota.image import ImageVersion
from bmsota.node import FlashJob, NodeMode
from bmsota.uds import UDS_11BIT, UDS_29BIT, ed25519_access_key

START = 1_790_000_000 * SECOND
NEW = ImageVersion(2, 1, 0)
MASTER, SLAVE = (sample_file(f"F7-{role}-2.1.0.bin") for role in ("master", "slave"))


class Desk:
    """A world in virtual time, with its commands, and a flasher where its adapters are."""

    def __init__(self, unit_bench, *, profile=None, **options):
        options.setdefault("slaves", 2)
        self.kernel = Kernel(START)
        self.notes = []
        self.world = BenchWorld(self.kernel, BenchOptions(**options), self.notes.append)
        self.commands = BenchCommands(self.world)
        self.flasher = unit_bench.Flasher(self.kernel, self.world.diagnosis or self.world.bus, self.world.wire, profile)
        self.unit_bench = unit_bench
        self.world.power_on()
        self.run(1)

    def run(self, seconds):
        self.kernel.run_until(self.kernel.now_ns + round(seconds * SECOND))

    def another_flasher(self, profile):
        return self.unit_bench.Flasher(self.kernel, self.world.diagnosis or self.world.bus, self.world.wire, profile)

    def install(self, positions):
        """Flash, activate, read the version back, confirm."""
        jobs = [FlashJob(position, SLAVE if position else MASTER) for position in positions]
        for operation in (("flash", jobs), ("activate", positions)):
            results = self.flasher.do(*operation)
            assert sorted(results) == sorted(positions)
            assert all(result.ok for result in results.values()), results
        found = self.flasher.do("discover", positions)
        assert {position: found[position].version for position in positions} == dict.fromkeys(positions, NEW)
        results = self.flasher.do("confirm", [(position, NEW) for position in positions], raise_counter=True)
        assert all(result.ok for result in results.values()), results

    def say(self, line):
        return self.commands.do(line)[-1]

    def versions(self):
        return [row.version for row in self.world.rows()]


@pytest.fixture
def desk(unit_bench):
    return lambda **options: Desk(unit_bench, **options)


# --- What is on the bench ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("topology", list(BenchTopology))
def test_master_and_slaves_are_flashed(desk, topology):
    bench = desk(topology=topology)
    assert sorted(bench.flasher.do("discover", range(3))) == [0, 1, 2]
    bench.install((1, 2, 0))
    assert bench.versions() == ["2.1.0"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("topology", list(BenchTopology))
@pytest.mark.parametrize(("ids", "data_bitrate_bps"), [(29, None), (11, 2_000_000), (29, 5_000_000)])
def test_the_same_with_long_identifiers_and_can_fd(desk, topology, ids, data_bitrate_bps):
    bench = desk(topology=topology, ids=ids, data_bitrate_bps=data_bitrate_bps)
    bench.install((1, 2, 0))
    data = [frame for frame in bench.flasher.heard if frame.can_id < 0x700 and not frame.is_extended_id]
    assert bool(data) is (topology is BenchTopology.DIRECT), "measurements stay inside"
    replies = [frame for frame in bench.flasher.heard if frame not in data]
    assert replies
    assert all(frame.is_extended_id is (ids == 29) for frame in replies)


@pytest.mark.slow
@pytest.mark.parametrize("topology", list(BenchTopology))
@pytest.mark.parametrize(("ids", "addressing"), [(11, UDS_11BIT), (29, UDS_29BIT)])
def test_uds_testers_flash_it_too(desk, topology, ids, addressing):
    bench = desk(topology=topology, ids=ids, protocol=BenchProtocol.UDS, profile=UdsProfile(addressing))
    assert sorted(bench.flasher.do("discover", range(3))) == [0, 1, 2]
    bench.install((1, 2, 0))
    bench.run(10)
    assert bench.versions() == ["2.1.0"] * 3
    assert bench.world.rows()[1].state == "application", "the session has ended by itself"
    bootloader = bench.another_flasher(BootloaderProfile(bench.world.wire))
    assert bootloader.do("discover", ()) == {}, "and the bootloader's language is not spoken"


@pytest.mark.slow
def test_a_power_cut_while_uds_flashes(desk):
    bench = desk(protocol=BenchProtocol.UDS, profile=UdsProfile(UDS_11BIT))
    bench.say("cut 1 at-progress 0.5 off 200")
    first = bench.flasher.do("flash", [FlashJob(1, SLAVE)])[1]
    assert any("power cut" in note.what for note in bench.notes)
    assert first.ok or first.safe_to_run_again
    bench.install((1,))


@pytest.mark.slow
def test_of_two_protocols_one_at_a_time(desk):
    """Who has entered the bootloader has it; afterwards the other may."""
    bench = desk(protocol=BenchProtocol.BOTH)
    tester = bench.another_flasher(UdsProfile(UDS_11BIT))
    assert sorted(tester.do("discover", range(3))) == [0, 1, 2]
    assert bench.flasher.do("flash", [FlashJob(1, SLAVE)])[1].ok
    assert bench.world.rows()[1].state == "bootloader"
    assert sorted(tester.do("discover", (0, 2))) == [0, 2], "slave 1 does not hear UDS in its bootloader"
    bench.run(70)  # A minute of silence ends its session.
    assert sorted(tester.do("discover", range(3))) == [0, 1, 2]
    tester.begin("flash", [FlashJob(2, SLAVE)])
    while bench.world.rows()[2].state != "receiving":
        bench.run(0.01)
    refused = bench.flasher.do("restart", (2,))[2]
    assert (refused.ok, "IN_USE" in refused.detail) == (False, True)
    while not tester.engine.is_idle:
        bench.run(0.1)
    assert tester.events[-1].results[0].ok
    assert tester.do("activate", (2,))[2].ok
    assert bench.flasher.do("discover", (2,))[2].version == NEW


@pytest.mark.parametrize("protocol", [BenchProtocol.BOOTLOADER, BenchProtocol.UDS])
def test_locked_nodes_want_a_key(desk, protocol):
    private = Ed25519PrivateKey.from_private_bytes(bytes(32))
    bench = desk(protocol=protocol, access_keys=(private.public_key(),))
    uds = protocol is BenchProtocol.UDS
    without = UdsProfile(UDS_11BIT) if uds else BootloaderProfile(bench.world.wire)
    refused = bench.another_flasher(without).do("flash", [FlashJob(1, SLAVE)])[1]
    assert not refused.ok
    key = ed25519_access_key(private) if uds else private.sign
    bench.flasher = bench.another_flasher(
        UdsProfile(UDS_11BIT, access_key=key) if uds else BootloaderProfile(bench.world.wire, access_key=key)
    )
    bench.install((1,))


def test_the_adapters_hear_traffic_inside_and_none_outside(desk):
    assert desk().world.seats[0].port.received > 50
    assert desk(topology=BenchTopology.GATEWAY).world.seats[0].port.received == 0
    assert desk(traffic=False).world.seats[0].port.received < 30, "only the identities of the boot"


@pytest.mark.slow
def test_the_master_answers_where_it_was_asked_whatever_it_hears_inside_meanwhile(desk):
    """An answer waits for the flash; slaves that are asked through the gateway talk on the other bus in between."""
    bench = desk(topology=BenchTopology.GATEWAY)
    inside = set()
    bench.world.bus.observe(lambda frame, _now_ns: inside.add(frame.can_id))
    bench.flasher.begin("flash", [FlashJob(0, MASTER)])
    other = bench.another_flasher(BootloaderProfile(bench.world.wire))
    while not bench.flasher.engine.is_idle:
        assert sorted(other.do("discover", (1, 2))) == [0, 1, 2]
    assert bench.flasher.events[-1].results[0].ok
    reply_id = bench.world.wire.reply_id
    assert inside >= {reply_id + 1, reply_id + 2}
    assert reply_id not in inside


def test_an_adapter_hears_what_its_neighbour_sends(desk):
    bench = desk(adapters=2, traffic=False, turnaround_ns=5 * MS)
    heard = []
    bench.world.seats[1].receive = lambda frame, now_ns: heard.append((frame.can_id, now_ns))
    sent_ns = bench.kernel.now_ns
    assert bench.world.seats[0].send(CanFrame(0x555, b"12345678"))
    bench.run(0.1)
    assert [can_id for can_id, _ in heard] == [0x555]
    assert 5 * MS < heard[0][1] - sent_ns < 6 * MS, "the frame's time and the turnaround"


def test_an_adapter_echoes_if_it_is_told_to(desk):
    for echo in (False, True):
        bench = desk(echo=echo, traffic=False)
        heard = []
        bench.world.seats[0].receive = lambda frame, _now, heard=heard: heard.append(frame.can_id)
        bench.world.seats[0].send(CanFrame(0x555, b""))
        bench.run(0.1)
        assert heard == [0x555] * echo


def test_a_frame_that_the_bus_cannot_carry_is_not_taken(desk):
    assert desk().world.seats[0].send(CanFrame(0x555, bytes(64), is_fd=True)) is False


def test_an_absent_node_is_silent_until_it_gets_power(desk):
    bench = desk(absent=frozenset({2}))
    assert bench.world.rows()[2].state == "off"
    assert sorted(bench.flasher.do("discover", (0, 1))) == [0, 1]
    assert bench.say("power 2 on") == "ok: slave 2 is on"
    bench.run(1)
    assert sorted(bench.flasher.do("discover", (0, 1, 2))) == [0, 1, 2]


def test_a_node_of_another_class_refuses_the_image(desk):
    bench = desk(wrong_class=frozenset({1}))
    assert bench.world.rows()[1].hardware_class == "E7-slave"
    results = bench.flasher.do("flash", [FlashJob(1, SLAVE), FlashJob(2, SLAVE)])
    assert (results[1].ok, results[2].ok) == (False, True)


def test_a_slot_can_be_made_larger(desk):
    assert desk().world.slaves[0].node.new_store().slot_size_bytes == 16 * 1024
    bench = desk(slot_kib=300)
    assert bench.world.slaves[0].node.new_store().slot_size_bytes >= 300 * 1024
    assert bench.world.master.node.new_store().slot_size_bytes >= 300 * 1024


@pytest.mark.slow
def test_two_benches_of_one_seed_are_the_same_and_of_two_are_not(desk):
    def story(seed):
        bench = desk(seed=seed, faults=BusFaults(loss=0.02, reordering=0.02))
        bench.flasher.do("flash", [FlashJob(1, SLAVE)])
        return [(frame.can_id, frame.data) for frame in bench.flasher.heard]

    assert story(1) == story(1)
    assert story(1) != story(2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"series": "Z9"}, "series: expected one of F7, E7, got 'Z9'"),
        ({"slaves": 0}, "slaves: expected 1 to 16, got 0"),
        ({"slaves": 17}, "slaves: expected 1 to 16, got 17"),
        ({"adapters": 0}, "adapters: expected 1 to 16, got 0"),
        ({"bitrate_bps": 123}, "bit rate: expected one of .*, got 123"),
        ({"data_bitrate_bps": 123}, "data bit rate: expected one of .*, got 123"),
        ({"slaves": 8, "protocol": BenchProtocol.BOTH}, "slaves: expected at most 7 with UDS and 11-bit ids, got 8"),
        ({"ids": 12}, "ids: expected 11 or 29, got 12"),
        ({"boot_window_ns": 11_000_000_000}, "boot window: expected 0 to 10 s, got 11 s"),
        ({"turnaround_ns": -1}, "turnaround: expected 0 to 10 s, got -1e-09 s"),
        ({"flash_erase_ns": -1}, "flash erase: expected 0 to 10 s, got -1e-09 s"),
        ({"flash_program_ns": -1}, "flash program: expected 0 to 10 s, got -1e-09 s"),
        ({"slot_kib": -1}, "slot: expected 0 to 4096 KiB, got -1"),
        ({"slaves": 2, "absent": frozenset({3})}, "absent: expected a position from 0 .* to 2, got 3"),
        ({"slaves": 2, "wrong_class": frozenset({-1})}, "wrong class: expected a position from 0 .* to 2, got -1"),
    ],
)
def test_a_wrong_option_is_refused(options, said):
    with pytest.raises(ConfigurationError, match=said):
        BenchOptions(**options)


# --- Commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", ["at-operation 3", "at-progress 0.4"])
@pytest.mark.parametrize("position", [0, 1])
def test_a_cut_in_the_middle_of_a_flash_costs_nothing_but_time(desk, position, how):
    """The bootloader's client may ride it out; whether it does or not, the node boots the old image and takes the new."""
    bench = desk()
    assert bench.say(f"cut {position} {how} off 200").startswith("ok: ")
    image = SLAVE if position else MASTER
    first = bench.flasher.do("flash", [FlashJob(position, image)])[position]
    assert any("power cut" in note.what for note in bench.notes)
    bench.run(1)
    assert bench.versions()[position] == "2.0.0"
    if not first.ok:
        assert first.safe_to_run_again
        assert bench.flasher.do("flash", [FlashJob(position, image)])[position].ok
    assert bench.flasher.do("activate", (position,))[position].ok
    bench.run(1)
    assert bench.versions()[position] == "2.1.0"


def test_a_cut_now_takes_the_supply_for_so_long(desk):
    bench = desk()
    assert bench.say("cut 1 off 500") == "ok: slave 1 has lost its supply for 500 ms"
    assert bench.world.rows()[1].state == "off"
    bench.run(0.49)
    assert bench.world.rows()[1].state == "off"
    bench.run(0.02)
    assert bench.world.rows()[1].state == "booting"
    bench.run(0.1)
    assert bench.world.rows()[1].state == "application"
    bench.say("power 2 off")
    assert bench.say("cut 2") == "error: slave 2 is off; switch it on first"


def test_a_later_cut_takes_the_place_of_an_earlier_one(desk):
    bench = desk()
    bench.say("cut 1 at-operation 2")
    bench.say("cut 1 at-progress 1.0 off 100")
    bench.flasher.do("flash", [FlashJob(1, SLAVE)])
    cuts = [note for note in bench.notes if "power cut" in note.what]
    assert len(cuts) == 1


def test_power_is_switched(desk):
    bench = desk()
    assert bench.say("power 0 off") == "ok: master is off"
    assert bench.world.rows()[0].state == "off"
    assert bench.say("power 0 on") == "ok: master is on"
    bench.run(1)
    assert bench.versions()[0] == "2.0.0"


@pytest.mark.slow
def test_faults_are_changed_while_it_runs(desk):
    bench = desk(faults=BusFaults(duplication=0.1))
    assert bench.say("loss 0.25") == "ok: loss 0.25"
    assert bench.say("bus-off 0.5") == "ok: bus-off 0.5"
    assert bench.world.faults == BusFaults(loss=0.25, duplication=0.1, bus_off=0.5)
    assert bench.world.bus.faults == BusFaults(loss=0.25, duplication=0.1), "bus-off of the adapters alone"
    assert bench.say("loss 0.95").startswith("error: expected chances")
    assert bench.say("faults off") == "ok: all faults off"
    assert bench.world.faults == bench.world.bus.faults == BusFaults()


def test_bus_off_silences_the_adapters_or_a_node(desk):
    bench = desk(adapters=2)
    assert bench.say("busoff") == "ok: the adapters off the bus for 200 ms"
    assert [seat.port.is_bus_off for seat in bench.world.seats] == [True, True]
    assert bench.world.seats[0].send(CanFrame(1, b"")) is False
    bench.run(0.25)
    assert bench.world.seats[0].send(CanFrame(1, b"")) is True
    assert bench.say("busoff 1 for 5000") == "ok: slave 1 off the bus for 5000 ms"
    assert sorted(bench.flasher.do("discover", (0, 2))) == [0, 2]
    bench.run(5)
    assert bench.say("busoff for 50") == "ok: the adapters off the bus for 50 ms"
    assert sorted(bench.flasher.do("discover", (0, 1, 2))) == [0, 1, 2]


def test_status_has_a_line_for_each_node(desk):
    bench = desk()
    lines = bench.commands.do("status")
    assert lines[1].startswith("node 1: slave S0001")
    assert lines[1].endswith("F7-slave 2.0.0 application 0/0 bytes")
    assert lines[-2].startswith("adapter 1: 0 sent, ")
    assert lines[-1].startswith("ok: 3 nodes, ")


def test_help_and_quit(desk):
    bench = desk()
    assert any(line.startswith("cut POSITION") for line in bench.commands.do("help"))
    assert not bench.commands.has_quit
    assert bench.say("quit") == "ok: the bench ends"
    assert bench.commands.has_quit


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "missing: a command"),
        ("explode", "no command 'explode'; there are cut, power, .*"),
        ("cut", "missing: a position"),
        ("cut 3", "expected a position .* from 0 to 2, got '3'"),
        ("cut x", "got 'x'"),
        ("cut 1 at-operation", "missing: a number of flash operations"),
        ("cut 1 at-operation 0", "from 1 to 1000000, got '0'"),
        ("cut 1 at-progress 1.5", "expected a share from 0 to 1, got '1.5'"),
        ("cut 1 at-progress nan", "got 'nan'"),
        ("cut 1 off", "missing: milliseconds"),
        ("cut 1 off -5", "got '-5'"),
        ("cut 1 soon", "unexpected 'soon' at the end"),
        ("power 1", "missing: on or off"),
        ("power 1 up", "expected on or off, got 'up'"),
        ("loss", "missing: a chance"),
        ("loss much", "expected a chance from 0 to 1, got 'much'"),
        ("faults on", "expected off, got 'on'"),
        ("busoff 9", "from 0 to 2, got '9'"),
        ("busoff 1 for 0", "from 1 to .*, got '0'"),
        ("status all", "unexpected 'all' at the end"),
        ("quit now", "unexpected 'now' at the end"),
    ],
)
def test_a_wrong_command_is_one_clear_line_and_does_nothing(desk, line, said):
    bench = desk()
    before = bench.world.rows()
    (answer,) = bench.commands.do(line)
    assert answer.startswith("error: ")
    assert re.search(said, answer), answer
    assert bench.world.rows() == before
    assert not bench.commands.has_quit


# --- The flash file ---------------------------------------------------------------------------------------------------


def test_a_bench_goes_on_with_the_flashes_of_the_last_one(desk, tmp_path, unit_bench):
    path = tmp_path / "flash"
    bench = desk()
    assert load_flashes(bench.world, path) is False
    bench.flasher.do("flash", [FlashJob(1, SLAVE)])
    bench.flasher.do("activate", (1,))
    bench.flasher.do("discover", (1,))
    bench.flasher.do("confirm", [(1, NEW)], raise_counter=True)
    # And half an image on the other slave, which a second run must complete.
    bench.flasher.begin("flash", [FlashJob(2, SLAVE)])
    while bench.world.rows()[2].stored_bytes < len(SLAVE) // 2:
        bench.run(0.001)
    save_flashes(bench.world, path)

    kernel = Kernel(START)
    world = BenchWorld(kernel, BenchOptions(slaves=2))
    assert load_flashes(world, path) is True
    world.power_on()
    kernel.run_until(START + SECOND)
    assert [row.version for row in world.rows()] == ["2.0.0", "2.1.0", "2.0.0"]
    flasher = unit_bench.Flasher(kernel, world.bus, world.wire)
    assert flasher.do("flash", [FlashJob(2, SLAVE)])[2].ok
    begun = [event for event in flasher.events if type(event).__name__ == "TransferBegun"]
    assert begun[0].offset > 0, "it goes on where the power went"


def test_a_flash_file_of_another_bench_is_refused(desk, tmp_path):
    path = tmp_path / "flash"
    save_flashes(desk().world, path)
    for options in ({"slaves": 3}, {"seed": 2}, {"slot_kib": 100}):
        with pytest.raises(ConfigurationError, match="another bench"):
            load_flashes(desk(**options).world, path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not the flash file of a bench"),
        (b"\x00garbage", "is not the flash file of a bench"),
        (b"\xa0", "is not the flash file of a bench"),
        (b"\xa3\x66format\x61x\x67version\x01\x65nodes\x80", "expected bmsota bench flash, got x"),
    ],
)
def test_a_file_that_is_no_flash_file_is_refused(desk, tmp_path, data, said):
    path = tmp_path / "flash"
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=said):
        load_flashes(desk().world, path)
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_flashes(desk().world, tmp_path)


def test_a_flash_file_of_an_older_version_is_read(tmp_path):
    """Written by commit 231c49c, see tests/data/records/README.md."""
    data = Path(__file__).parents[1] / "data" / "records" / "flashes.cbor.xz"
    path = tmp_path / "flash"
    path.write_bytes(cbor2.loads(lzma.decompress(data.read_bytes()))["bench"])
    kernel = Kernel(START)
    world = BenchWorld(kernel, BenchOptions(slaves=1, slot_kib=32))
    assert load_flashes(world, path) is True
    world.power_on()
    kernel.run_until(START + SECOND)
    assert [row.version for row in world.rows()] == ["2.0.0", "2.0.0"]


def test_what_a_later_version_adds_to_a_flash_file_is_kept(desk, tmp_path):
    """A field of the file; one of a node is read over."""
    path = tmp_path / "flash"
    world = desk().world
    save_flashes(world, path)
    kept = cbor2.loads(path.read_bytes())
    kept["nodes"] = [[*node, "later"] for node in kept["nodes"]]
    path.write_bytes(cbor2.dumps({**kept, "later": 1}))
    assert load_flashes(desk().world, path) is True
    save_flashes(world, path)
    assert cbor2.loads(path.read_bytes())["later"] == 1


def test_a_flash_file_of_a_newer_version_is_refused_and_left_alone(desk, tmp_path):
    path = tmp_path / "flash"
    world = desk().world
    save_flashes(world, path)
    newer = cbor2.dumps({**cbor2.loads(path.read_bytes()), "version": 2})
    path.write_bytes(newer)
    for use in (load_flashes, save_flashes):
        with pytest.raises(ConfigurationError, match=r"layout 2 is newer than this version reads \(1\)"):
            use(world, path)
    assert path.read_bytes() == newer
    fields = cbor2.loads(newer)
    del fields["nodes"]
    path.write_bytes(cbor2.dumps({**fields, "version": 1}))
    with pytest.raises(ConfigurationError, match="is damaged"):
        load_flashes(world, path)


def test_the_rows_show_a_transfer(desk):
    bench = desk()
    bench.flasher.begin("flash", [FlashJob(1, SLAVE)])
    while (row := bench.world.rows()[1]).stored_bytes == 0:
        bench.run(0.001)
    assert row.state == NodeMode.RECEIVING.name.lower()
    assert 0 < row.stored_bytes < row.size_bytes == len(SLAVE)
    assert not bench.world.is_at_rest
    bench.run(2)
    assert bench.world.rows()[1].stored_bytes == len(SLAVE)


@pytest.mark.parametrize("protocol", list(BenchProtocol))
def test_a_slave_whose_application_hangs_is_flashed_in_its_boot_window(desk, protocol):
    """Its key is turned while the flasher looks for it; without a window nothing comes from it."""
    profile = UdsProfile(UDS_11BIT) if protocol is BenchProtocol.UDS else None
    bench = desk(protocol=protocol, profile=profile, slaves=1, boot_window_ns=SECOND // 2)
    slave = bench.world.slaves[0]
    slave.node.application_hangs = True
    assert 1 not in bench.flasher.do("discover", ())
    bench.kernel.call_in(SECOND, slave.power_off)
    bench.kernel.call_in(2 * SECOND, slave.power_on)
    results = bench.flasher.do("flash", [FlashJob(1, SLAVE)])
    assert results[1].ok, results
    slave.node.application_hangs = False
    bench.flasher.do("activate", [1])
    assert bench.flasher.do("confirm", [(1, NEW)], raise_counter=True)[1].ok
    assert slave.version == NEW
