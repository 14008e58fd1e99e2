"""The bench's inside: buses, master, slaves and the seats of the adapters, in the kernel's time and without I/O.

The driver of the kernel decides the time: the real clock on a bench that people use, virtual time in tests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from bmsota.adapters.files import packaged_database
from bmsota.bootloader import BootloaderWire
from bmsota.errors import LocalProtocolError
from bmsota.image import HardwareClass, load_public_key
from bmsota.node import NodeMode
from bmsota_sim.bench._options import BenchProtocol, BenchTopology
from bmsota_sim.devices import master as whole_master
from bmsota_sim.devices import slave as slaves
from bmsota_sim.devices.bootloader_node import NodeProtocols
from bmsota_sim.devices.plain_master import PlainMaster
from bmsota_sim.devices.slave import Slave
from bmsota_sim.identity import unit_identity
from bmsota_sim.kernel import MS
from bmsota_sim.links.canbus import CanBus
from bmsota_sim.profiles import PROFILES, SERIES
from bmsota_sim.samples import sample_file
from bmsota_sim.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bmsota.canframe import CanFrame
    from bmsota_sim.bench._options import BenchOptions
    from bmsota_sim.kernel import Kernel
    from bmsota_sim.links.canbus import BusFaults, Port
    from bmsota_sim.trace import Note


FACTORY_VERSION = "2.0.0"
# Each slave sends a round ten times a second: about a tenth of a 500 kbit/s bus with eight slaves.
MEASURE_PERIOD_NS = 100 * MS


def _protocols(options: BenchOptions) -> NodeProtocols:
    uds = None
    if options.protocol is not BenchProtocol.BOOTLOADER:
        from bmsota.uds import UDS_11BIT, UDS_29BIT  # noqa: PLC0415 - a bench without UDS does without its libraries

        uds = UDS_11BIT if options.ids == 11 else UDS_29BIT
    return NodeProtocols(
        has_bootloader=options.protocol is not BenchProtocol.UDS,
        uds=uds,
        access_keys=options.access_keys,
        seed=f"{options.seed}",
        boot_window_ns=options.boot_window_ns,
    )


class _Cells:
    """What a slave's front end reads on a bench: cells at rest, with the noise of a converter."""

    def __init__(self, seed: str, cells: int, probes: int) -> None:
        self._random = Random(seed)  # noqa: S311 - a replayable draw, not a secret
        self._voltages = [3.65 + self._random.uniform(-0.02, 0.02) for _ in range(cells)]
        self._temperatures = [25.0 + self._random.uniform(-1.0, 1.0) for _ in range(probes)]

    def cell_voltages_v(self) -> Sequence[float]:
        return [voltage + self._random.uniform(-0.0005, 0.0005) for voltage in self._voltages]

    def temperatures_c(self) -> Sequence[float]:
        return self._temperatures


class _BenchTrace(Trace):
    """A trace that hands every note over at once."""

    def __init__(self, noted: Callable[[Note], object]) -> None:
        super().__init__()
        self._noted = noted

    def note(self, at_ns: int, who: str, what: str) -> None:
        super().note(at_ns, who, what)
        self._noted(self.notes[-1])


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node as a table shows it."""

    position: int
    role: str
    hwid: str
    hardware_class: str
    version: str
    """Empty without power or image."""
    state: str
    """"off", "booting", or the bootloader's word in small letters."""
    boot_reason: str
    stored_bytes: int
    size_bytes: int
    """Of the image that is being received; 0: none since the boot."""
    operations: int
    """Flash operations since the bench began."""


class AdapterSeat:
    """One adapter's place on its bus, with the time it takes to hand a frame to its host."""

    def __init__(self, world: BenchWorld, bus: CanBus, name: str, turnaround_ns: int, *, echoes: bool) -> None:
        self._kernel = world.kernel
        self._turnaround_ns = turnaround_ns
        self.name = name
        self.receive: Callable[[CanFrame, int], object] = lambda _frame, _now_ns: None
        """Gets (frame, now_ns) for every frame the host is to read."""
        self.port: Port = bus.attach(self._hear, name=name, echoes=echoes)

    def send(self, frame: CanFrame) -> bool:
        """Put the host's *frame* on the bus; False if it cannot be sent now, or never on this bus."""
        try:
            return self.port.send(frame)
        except LocalProtocolError:
            return False

    def _hear(self, frame: CanFrame, now_ns: int) -> None:
        if self._turnaround_ns:
            self._kernel.call_in(self._turnaround_ns, self._hand_over, frame)
        else:
            self.receive(frame, now_ns)

    def _hand_over(self, frame: CanFrame) -> None:
        self.receive(frame, self._kernel.now_ns)


class BenchWorld:
    """Everything behind the adapters."""

    def __init__(
        self, kernel: Kernel, options: BenchOptions, noted: Callable[[Note], object] = lambda _note: None
    ) -> None:
        """Build it, switched off; *noted* gets every note at once.

        Raises:
            ConfigurationError: a packaged file is missing.
        """
        self.kernel = kernel
        self.options = options
        self.start_ns = kernel.now_ns
        self.trace = _BenchTrace(noted)
        fd = options.data_bitrate_bps is not None
        self.dbc_name = "bms_bootloader" + "_fd" * fd + "_29bit" * (options.ids == 29)
        self.wire = BootloaderWire(packaged_database(self.dbc_name))
        self.bus = self._new_bus("internal")
        self.diagnosis = self._new_bus("diagnosis") if options.topology is BenchTopology.GATEWAY else None
        profile = replace(PROFILES[options.series], slave_count=options.slave_count)
        identity = unit_identity(options.seed, options.series, 1, options.slave_count)
        internal = packaged_database("bms_internal")
        keys = (load_public_key(sample_file("keys/image.SAMPLE.public.pem")), *options.image_keys)
        protocols = _protocols(options)
        times_ns = (options.flash_erase_ns, options.flash_program_ns)
        self._class_names: dict[int, str] = {}
        self.master = PlainMaster(
            kernel=kernel,
            bus=self.bus,
            wire=self.wire,
            trace=self.trace,
            name="master",
            hwid=identity.master_hwid,
            hardware_class=self._hardware_class(0, "master"),
            image_keys=keys,
            factory_image=self._factory_image(0, "master"),
            seed=f"{options.seed}",
            diagnosis_bus=self.diagnosis,
            flash_times_ns=times_ns,
            flash_size_bytes=max(whole_master.FLASH_SIZE_BYTES, self._flash_size(whole_master.JOURNAL_SIZE_BYTES)),
            protocols=protocols,
        )
        self.slaves = [
            Slave(
                kernel=kernel,
                bus=self.bus,
                wire=self.wire,
                database=internal,
                trace=self.trace,
                name=f"slave {position}",
                position=position,
                hwid=hwid,
                hardware_class=self._hardware_class(position, "slave"),
                profile=profile,
                image_keys=keys,
                factory_image=self._factory_image(position, "slave"),
                sensors=_Cells(f"{options.seed}/{position}", profile.cells_per_slave, profile.probes_per_slave),
                measure_period_ns=MEASURE_PERIOD_NS if options.traffic else None,
                seed=f"{options.seed}/{position}",
                flash_times_ns=times_ns,
                flash_size_bytes=max(slaves.FLASH_SIZE_BYTES, self._flash_size(slaves.JOURNAL_SIZE_BYTES)),
                protocols=protocols,
            )
            for position, hwid in enumerate(identity.slave_hwids, start=1)
        ]
        self.nodes: list[PlainMaster | Slave] = [self.master, *self.slaves]
        self.seats = [
            AdapterSeat(
                self, self.diagnosis or self.bus, f"adapter {number}", options.turnaround_ns, echoes=options.echo
            )
            for number in range(1, options.adapters + 1)
        ]
        self.set_faults(options.faults)

    def _new_bus(self, name: str) -> CanBus:
        options = self.options
        return CanBus(
            self.kernel,
            bitrate_bps=options.bitrate_bps,
            data_bitrate_bps=options.data_bitrate_bps,
            seed=options.seed,
            name=name,
        )

    def _series_at(self, position: int) -> str:
        if position not in self.options.wrong_class:
            return self.options.series
        return next(series for series in SERIES if series != self.options.series)

    def _hardware_class(self, position: int, role: str) -> HardwareClass:
        name = self._class_names[position] = f"{self._series_at(position)}-{role}"
        return HardwareClass.named(PROFILES[self.options.series].vendor, name)

    def _factory_image(self, position: int, role: str) -> bytes:
        return sample_file(f"{self._series_at(position)}-{role}-{FACTORY_VERSION}.bin")

    def _flash_size(self, journal_size_bytes: int) -> int:
        """So much that a slot has the room that was asked for."""
        return 2 * self.options.slot_kib * 1024 + 2 * journal_size_bytes

    # -- power and faults ------------------------------------------------------------------------------------------------

    def power_on(self) -> None:
        """Switch everything on that is there."""
        for node in self.nodes:
            if node.position not in self.options.absent:
                node.power_on()

    @property
    def faults(self) -> BusFaults:
        """As set last."""
        return self.seats[0].port.faults

    def set_faults(self, faults: BusFaults) -> None:
        """From now on these, on every bus; bus-off of the adapters alone."""
        for bus in (self.bus, self.diagnosis):
            if bus is not None:
                bus.faults = replace(faults, bus_off=0.0)
        for seat in self.seats:
            seat.port.faults = faults

    # -- what people see -------------------------------------------------------------------------------------------------

    def rows(self) -> list[NodeRow]:
        """Every node as it is now."""
        return [self._row(device) for device in self.nodes]

    def _row(self, device: PlainMaster | Slave) -> NodeRow:
        node = device.node
        state = "off" if not node.is_powered else "booting" if node.state is None else node.state.name.lower()
        stored, size = node.progress or (0, 0)
        return NodeRow(
            position=device.position,
            role="slave" if device.position else "master",
            hwid=device.hwid,
            hardware_class=self._class_names[device.position],
            version="" if node.version is None else str(node.version),
            state=state,
            boot_reason="" if node.boot_result is None else node.boot_result.reason.name.lower(),
            stored_bytes=stored,
            size_bytes=size,
            operations=node.flash.operations,
        )

    @property
    def is_at_rest(self) -> bool:
        """Whether no node is being flashed."""
        return all(device.node.state in {None, NodeMode.APPLICATION} for device in self.nodes)
