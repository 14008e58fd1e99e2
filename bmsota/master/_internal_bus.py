"""The internal bus from both ends: measurements and identity of the slaves by `dbc/bms_internal.dbc`.

`SlaveMessages` is what one slave sends, `SensorMessages` what the sensor in the main line does, `MeasurementTable` is what the master knows from it. Layouts are the DBC's; this
module knows only the names of messages and signals.

Protection. Where the DBC declares a CRC and an alive counter, a slave makes them and the table judges each frame before it looks
into it. The values of a frame that fails are not used; older ones stay until they are as old as those of a silent slave. Why frames
fail is told by `MeasurementTable.faults`. The identity pages have neither (their eight bytes are full): what they say only starts a
discovery, and the discovery decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError, SignalError
from bmsota.image import ImageVersion
from bmsota.master._slave_faults import SlaveFault, SlaveFaults
from bmsota.signals import E2EChecker, E2EStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota.signals import Database, Message


GROUP_SIZE = 4
"""Cells or probes in one message."""
SERIAL_PAGES = 4
SERIAL_CHARACTERS_PER_PAGE = 6
# Beyond this range, which is the signal's, a sensor is broken, and the wire says so.
CELL_VOLTAGE_RANGE_V = (0.0, 6.5533)
TEMPERATURE_RANGE_C = (-60.0, 200.0)
CURRENT_RANGE_A = (-3276.8, 3276.5)
SOC_RANGE_PCT = (0.0, 100.0)
SENSOR_MESSAGE = "PackSensor"
SENSOR_POSITION = 0
"""Where faults of the sensor's frames are told: it is nobody's slave."""
CELL_NAME, PROBE_NAME = "Cell_{:02d}", "Probe_{}"
_ABNORMAL = "Abnormal"
_INVALID = "Invalid"
# Three rounds of slaves that send every second; a master passes what its own slaves need.
SILENT_AFTER_NS = 3_000_000_000
_WORDS = {
    E2EStatus.ERROR: "wrong CRC",
    E2EStatus.REPEATED: "repeated",
    E2EStatus.WRONG_SEQUENCE: "out of sequence",
}

# A report carries at most 200 cells of a subsystem (GB/T 32960.3-2016, table B.6), and a master sends one subsystem.
CELLS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PackLayout:
    """How a pack's cells and probes are spread over its slaves: the first cells are those of the slave at position 1.

    Raises:
        ConfigurationError: no cells, or more than a report carries.
    """

    slave_count: int
    cells_per_slave: int
    probes_per_slave: int

    def __post_init__(self) -> None:
        if not 1 <= self.cell_count <= CELLS_MAX:
            raise ConfigurationError(f"pack: expected 1 to {CELLS_MAX} cells, got {self.cell_count}")

    @property
    def cell_count(self) -> int:
        return self.slave_count * self.cells_per_slave

    @property
    def probe_count(self) -> int:
        return self.slave_count * self.probes_per_slave

    @property
    def positions(self) -> range:
        """Where the slaves are, from 1."""
        return range(1, self.slave_count + 1)


def _name(position: int, message: str) -> str:
    return f"Slave{position:02d}_{message}"


class SlaveMessages:
    """The frames of one slave: the other end of `MeasurementTable`, for a slave's firmware or a stand-in for it."""

    def __init__(self, database: Database, position: int, layout: PackLayout) -> None:
        self._layout = layout
        cells, probes = layout.cells_per_slave, layout.probes_per_slave
        self._groups = [
            (_GroupMessage(database[_name(position, f"{kind}_{group + 1}")], pattern, group * GROUP_SIZE), is_cells)
            for kind, pattern, count, is_cells in (
                ("Cells", CELL_NAME, cells, True),
                ("Temperatures", PROBE_NAME, probes, False),
            )
            for group in range(-(-count // GROUP_SIZE))
        ]
        self._status = database[_name(position, "Status")]
        self._identity = database[_name(position, "Identity")]
        crc = _crc_of(self._status)
        idle: dict[str, int | float | str] = {signal.name: 0 for signal in self._status.signals if signal.name != crc}
        idle["State"] = "Measuring"
        self._idle = tuple(idle.items())
        counter = next(signal for signal in self._status.signals if signal.name == "AliveCounter")
        self._rounds = int(counter.maximum or counter.raw_maximum) + 1

    def measurements(
        self, cell_voltages_v: Sequence[float], temperatures_c: Sequence[float], *, alive: int
    ) -> list[CanFrame]:
        """One round: status, then all cells, then all probes.

        *alive* counts the rounds from 0 on; the frames carry as much of it as their alive counters hold, and the CRCs are made.
        """
        frames = [_status_frame(self._status, alive % self._rounds, self._idle)]
        for message, is_cells in self._groups:
            values, valid = (
                (cell_voltages_v, CELL_VOLTAGE_RANGE_V) if is_cells else (temperatures_c, TEMPERATURE_RANGE_C)
            )
            frames.append(message.frame(values, valid, alive))
        return frames

    def identity(self, *, hwid: str, version: ImageVersion, security_counter: int, transmission: int) -> list[CanFrame]:
        """Who the slave is; the pages of one transmission carry the same number."""
        padded = hwid.encode("ascii").ljust(SERIAL_PAGES * SERIAL_CHARACTERS_PER_PAGE, b"\0")
        pages: list[dict[str, int | float | str]] = [
            {
                "SoftwareMajor": version.major,
                "SoftwareMinor": version.minor,
                "SoftwareRevision": version.revision,
                "CellCount": self._layout.cells_per_slave,
                "ProbeCount": self._layout.probes_per_slave,
            },
            {"SoftwareBuild": version.build},
            {"HardwareClassCode": 0},
            {"SecurityCounter": security_counter},
        ]
        for page in range(SERIAL_PAGES):
            part = padded[page * SERIAL_CHARACTERS_PER_PAGE : (page + 1) * SERIAL_CHARACTERS_PER_PAGE]
            pages.append({f"Serial_{page + 1}": int.from_bytes(part, "big")})
        return [
            self._identity.frame({"Page": number, "Transmission": transmission & 0xFF, **page})
            for number, page in enumerate(pages)
        ]


@lru_cache(maxsize=1024)
def _status_frame(message: Message, alive: int, idle: tuple[tuple[str, int | float | str], ...]) -> CanFrame:
    """The status of a slave that has nothing to say; the same for all slaves at its position."""
    return message.frame({**dict(idle), "AliveCounter": alive})


class SensorMessages:
    """The frames of the sensor in the pack's main line: the other end of `MeasurementTable`."""

    def __init__(self, database: Database) -> None:
        """Raise `KeyError` if *database* has no `PackSensor`."""
        self._message = database[SENSOR_MESSAGE]
        seal = self._message.seal
        self._counter = None if seal is None or seal.counter is None else seal.counter.signal.name
        self._modulus = 1 if seal is None else seal.modulus

    def measurement(self, current_a: float, soc_pct: float, *, alive: int) -> CanFrame:
        """One round: the current, > 0 discharging, and the state of charge. *alive* counts the rounds from 0 on."""
        signals: dict[str, int | float | str] = {}
        if self._counter is not None:
            signals[self._counter] = alive % self._modulus
        for name, number, (lowest, highest) in (
            ("Current", current_a, CURRENT_RANGE_A),
            ("StateOfCharge", soc_pct, SOC_RANGE_PCT),
        ):
            value = round(float(number), 1)
            signals[name] = value if lowest <= value <= highest else _ABNORMAL
        return self._message.frame(signals)


def _crc_of(message: Message) -> str | None:
    return None if message.protection is None else message.protection.crc


class _GroupMessage:
    """One message of cells or probes; what does not change from frame to frame is found once."""

    __slots__ = ("_counter", "_decimals", "_message", "_modulus", "_names", "_places", "_plan")

    def __init__(self, message: Message, pattern: str, first: int) -> None:
        self._message = message
        seal = message.seal
        self._counter = None if seal is None or seal.counter is None else seal.counter.signal.name
        self._modulus = 1 if seal is None else seal.modulus
        self._decimals = _decimals(message)
        self._places = slice(first, first + GROUP_SIZE)
        self._names = tuple(pattern.format(index + 1) for index in range(first, first + GROUP_SIZE))
        self._plan = _plan_of(message, self._names)

    def frame(self, values: Sequence[float], valid: tuple[float, float], alive: int) -> CanFrame:
        lowest, highest = valid
        decimals, values = self._decimals, values[self._places]
        plan = self._plan
        if plan is not None:
            numbers = plan.numbers
            word = alive % self._modulus << plan.counter_shift
            for number, shift in zip(values, plan.shifts, strict=False):
                value = round(float(number), decimals)
                raw = numbers.get(value)
                if raw is None:
                    raw = self._number_of(value) if lowest <= value <= highest else plan.abnormal
                word |= raw << shift
            for shift in plan.shifts[len(values) :]:
                word |= plan.invalid << shift
            message = self._message
            assert message.seal is not None
            data = message.seal.protect(word.to_bytes(message.length, plan.order), None)
            return CanFrame(message.can_id, data, message.is_extended_id, message.is_fd)
        # Those that are not among the values are invalid.
        signals: dict[str, int | float | str] = dict.fromkeys(self._names, _INVALID)
        if self._counter is not None:
            signals[self._counter] = alive % self._modulus
        for name, number in zip(self._names, values, strict=False):
            value = round(float(number), decimals)
            # Not a number is in no range.
            signals[name] = value if lowest <= value <= highest else _ABNORMAL
        return self._message.frame(signals)

    def _number_of(self, value: float) -> int:
        """What the message makes of a value, found once for all messages that make the same of it."""
        assert self._plan is not None
        number = self._plan.numbers[value] = _wire_number(self._message, self._names, value)
        return number


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a frame of cells or probes is put together without its names, where all of them are alike."""

    order: Literal["little", "big"]
    shifts: tuple[int, ...]
    counter_shift: int
    abnormal: int
    invalid: int
    numbers: dict[float, int]
    """Value, rounded and in its range -> number of the wire; shared by all messages of such signals."""


_NUMBERS: dict[tuple[object, ...], dict[float, int]] = {}


def _plan_of(message: Message, names: tuple[str, ...]) -> _Plan | None:
    """The plan of a protected message with these signals beside counter and CRC; None: its frames are made by name."""
    seal = message.seal
    if seal is None or seal.counter is None or seal.crc is None or seal.nibble is not None:
        return None
    by_name = {each.name: each for each in message.signals}
    signals = [by_name[name] for name in names if name in by_name]
    own = {seal.counter.signal.name, seal.crc.signal.name}
    is_plain = (
        len(signals) == len(names)
        and len(message.signals) == len(names) + len(own)
        and not message.layout.branches
        and len(
            {
                (each.scale, each.offset, each.length_bits, each.byte_order, each.is_signed)
                for each in message.signals
                if each.name not in own
            }
        )
        == 1
        and seal.counter.signal.byte_order == signals[0].byte_order
        and not any(each.is_float for each in signals)
    )
    if not is_plain:
        return None
    first = signals[0]
    abnormal, invalid = (_wire_number(message, names, name) for name in (_ABNORMAL, _INVALID))
    kind = (
        first.scale,
        first.offset,
        first.length_bits,
        first.is_signed,
        first.minimum,
        first.maximum,
        abnormal,
        invalid,
    )
    return _Plan(
        first.byte_order,
        tuple(each.shift for each in signals),
        seal.counter.signal.shift,
        abnormal,
        invalid,
        _NUMBERS.setdefault(kind, {}),
    )


def _wire_number(message: Message, names: tuple[str, ...], value: float | str) -> int:
    seal = message.seal
    assert seal is not None
    assert seal.counter is not None
    data = message.encode({**dict.fromkeys(names, value), seal.counter.signal.name: 0})
    bits: int = (1 << message.signals[names[0]].length_bits) - 1
    return int(message.decode_raw(data)[names[0]]) & bits  # As the wire has a number below zero.


def _decimals(message: Message) -> int:
    """How many decimal places the steps of its last signal have, which is a cell or a probe."""
    return max(0, round(-math.log10(message.signals[-1].scale)))


@dataclass(slots=True)
class _Group:
    """Cells or probes that one message brings, and when it last did."""

    values: list[float | None]
    place: int
    names: tuple[str, ...]
    heard_ns: int = -1


class _Source:
    """One message of one slave, and how its frames have been so far."""

    __slots__ = ("checker", "group", "is_old", "last", "message", "position", "repeats", "seen_ns")

    def __init__(self, message: Message, position: int, group: _Group | None, *, is_old: bool) -> None:
        self.message = message
        self.position = position
        self.group = group
        """None: the status."""
        self.is_old = is_old
        """By the layout of slaves without protection."""
        self.checker = None if message.protection is None else E2EChecker(message)
        self.seen_ns = 0
        """When a frame last came, good or bad."""
        self.last: bytes | None = None
        """That frame, since the slave's start."""
        self.repeats = 0
        """How often in a row it came again after a silence."""

    def restart(self) -> None:
        """The counter begins anew."""
        if self.checker is not None:
            self.checker.reset()
        self.last, self.repeats = None, 0


_FAULT_OF = {
    E2EStatus.ERROR: SlaveFault.CORRUPTED,
    E2EStatus.REPEATED: SlaveFault.REPEATED,
    E2EStatus.WRONG_SEQUENCE: SlaveFault.OUT_OF_SEQUENCE,
}


class MeasurementTable:
    """What the master knows of its slaves, and since when."""

    def __init__(
        self,
        database: Database,
        layout: PackLayout,
        *,
        unprotected: Database | None = None,
        silent_after_ns: int = SILENT_AFTER_NS,
        has_pack_sensor: bool = False,
    ) -> None:
        """Begin knowing nothing.

        Args:
            database: the messages of the internal bus.
            layout: which slaves there are.
            unprotected: the messages of slaves from before message protection, under ids of their own. They are measured and told
                as a fault; those of a slave that sends protected frames as well are told and not used.
            has_pack_sensor: current and state of charge come by the message `PackSensor` of *database*.
            silent_after_ns: after this long without a frame a counter may continue anywhere, though not with the same frame again and
                again; after this long without a good protected frame a slave may send unprotected ones.
        """
        self._layout = layout
        self._silent_after_ns = silent_after_ns
        self.cell_voltages_v: list[float | None] = [None] * layout.cell_count
        self.temperatures_c: list[float | None] = [None] * layout.probe_count
        self.pack_sensor: list[float | None] = [None, None]
        """Current in A, > 0 discharging, and state of charge in %, as its sensor says; None where it has said nothing lately."""
        self.heard_ns: dict[int, int] = {}
        """When a slave last sent a status that may be used, by position."""
        self.faults = SlaveFaults()
        """Slaves whose frames fail."""
        self.hwids: dict[int, str] = {}
        """Who sends there, by position, as its identity pages say."""
        self.versions: dict[int, ImageVersion] = {}
        """What it runs, likewise."""
        self.pages = 0
        """Identity pages so far: as long as it is the same, nobody has said anything new."""
        self._serials: dict[tuple[int, int], list[int | None]] = {}
        self._releases: dict[int, tuple[int, ImageVersion]] = {}
        """The version without its build number, and of which transmission it is, by position."""
        self.malformed = 0
        """Frames that were too short for their message, or had a number that it does not define; their values are lost."""
        self._protected: dict[int, int] = {}
        """When a slave last sent a good protected frame since it started, by position."""
        self._groups: dict[tuple[int, str], _Group] = {}
        self._sources: dict[tuple[int, bool], _Source] = {}
        self._identities: dict[tuple[int, bool], tuple[Message, int]] = {}
        self._positions = (*((SENSOR_POSITION,) if has_pack_sensor else ()), *layout.positions)
        if has_pack_sensor:
            message = database[SENSOR_MESSAGE]
            group = _Group(self.pack_sensor, 0, ("Current", "StateOfCharge"))
            self._groups[SENSOR_POSITION, SENSOR_MESSAGE] = group
            source = _Source(message, SENSOR_POSITION, group, is_old=False)
            self._sources[message.can_id, message.is_extended_id] = source
        for position in layout.positions:
            self._add_groups(position)
            self._register(database, position, is_old=False)
            if unprotected is not None:
                self._register(unprotected, position, is_old=True)

    @property
    def accepts(self) -> frozenset[int]:
        """The CAN ids of the messages this table understands."""
        return frozenset(can_id for can_id, _ in (*self._sources, *self._identities))

    def _add_groups(self, position: int) -> None:
        layout = self._layout
        for kind, pattern, values, size in (
            ("Cells", CELL_NAME, self.cell_voltages_v, layout.cells_per_slave),
            ("Temperatures", PROBE_NAME, self.temperatures_c, layout.probes_per_slave),
        ):
            for group in range(-(-size // GROUP_SIZE)):
                first = group * GROUP_SIZE
                names = tuple(pattern.format(index + 1) for index in range(first, min(first + GROUP_SIZE, size)))
                self._groups[position, f"{kind}_{group + 1}"] = _Group(values, (position - 1) * size + first, names)

    def _register(self, database: Database, position: int, *, is_old: bool) -> None:
        names = ["Status", *(name for at, name in self._groups if at == position)]
        for name in names:
            message = database[_name(position, name)]
            source = _Source(message, position, self._groups.get((position, name)), is_old=is_old)
            self._sources.setdefault((message.can_id, message.is_extended_id), source)
        identity = database[_name(position, "Identity")]
        self._identities.setdefault((identity.can_id, identity.is_extended_id), (identity, position))

    def receive(self, frame: CanFrame, now_ns: int) -> bool:
        """Take a frame of a slave; False if it is none of these messages."""
        key = (frame.can_id, frame.is_extended_id)
        source = self._sources.get(key)
        try:
            if source is not None:
                if self._may_use(source, frame.data, now_ns):
                    self._take(source, frame.data, now_ns)
            elif key in self._identities:
                message, position = self._identities[key]
                self._take_identity(message, frame.data, position)
            else:
                return False
        except SignalError:
            self.malformed += 1
            if source is not None and source.checker is not None:
                self.faults.failed(source.position, SlaveFault.CORRUPTED, source.message.name, "too short", now_ns)
        return True

    def _may_use(self, source: _Source, data: bytes, now_ns: int) -> bool:
        """Judge the frame."""
        position, name, checker = source.position, source.message.name, source.checker
        if checker is None:
            if not source.is_old:
                return True
            self.faults.failed(position, SlaveFault.UNPROTECTED, name, "no CRC and no counter", now_ns)
            return position not in self._protected or now_ns - self._protected[position] > self._silent_after_ns
        was_silent = now_ns - source.seen_ns > self._silent_after_ns
        if was_silent:
            checker.reset()
        source.seen_ns = now_ns
        status = checker.check(data)
        if status.is_usable:
            if was_silent and self._is_frozen(source, data):
                # Once may be chance: the counter has gone round, and the values are what they were.
                if source.repeats > 1:
                    self.faults.failed(position, SlaveFault.REPEATED, name, _WORDS[E2EStatus.REPEATED], now_ns)
                return False
            source.last, source.repeats = data, 0
            self._protected[position] = now_ns
            self.faults.passed(position, name, now_ns)
            return True
        self.faults.failed(position, _FAULT_OF[status], name, _WORDS[status], now_ns)
        return False

    @staticmethod
    def _is_frozen(source: _Source, data: bytes) -> bool:
        """Whether the first frame after a silence is the one before it, counter and all; counts how often."""
        seal = source.message.seal
        if seal is None or seal.counter is None or data != source.last:
            return False
        source.repeats += 1
        return True

    def _take(self, source: _Source, data: bytes, now_ns: int) -> None:
        group = source.group
        if group is None:
            self.heard_ns[source.position] = now_ns
            return
        decoded = source.message.decode(data)
        for place, name in enumerate(group.names, start=group.place):
            value = decoded[name]
            group.values[place] = None if isinstance(value, str) else float(value)
        group.heard_ns = now_ns

    def forget_silent(self, since_ns: int) -> None:
        """Drop values that are older than *since_ns*: an old value must not look like a new one."""
        for group in self._groups.values():
            if group.heard_ns < since_ns:
                group.values[group.place : group.place + len(group.names)] = [None] * len(group.names)

    def unheard(self, since_ns: int) -> list[int]:
        """The slaves, and the sensor (0), of which a message is missing that may be used and came after *since_ns*."""
        found = {position for position in self._layout.positions if self.heard_ns.get(position, -1) <= since_ns}
        found |= {position for (position, _), group in self._groups.items() if group.heard_ns <= since_ns}
        return sorted(found)

    def silent(self, since_ns: int) -> list[int]:
        """The slaves, and the sensor (0), of which no message that may be used came after *since_ns*."""
        heard = {position for position in self._layout.positions if self.heard_ns.get(position, -1) > since_ns}
        heard |= {position for (position, _), group in self._groups.items() if group.heard_ns > since_ns}
        return [position for position in self._positions if position not in heard]

    def _restarted(self, position: int) -> None:
        """A slave has started: its counters begin anew, and it may run software from before message protection now."""
        self._protected.pop(position, None)
        for source in self._sources.values():
            if source.position == position:
                source.restart()

    def _take_identity(self, message: Message, data: bytes, position: int) -> None:
        self.pages += 1
        values = message.decode_raw(data)
        page, transmission = int(values["Page"]), int(values["Transmission"])
        if page == 0:
            # The first page: a slave sends its identity when it starts, before anything else.
            self._restarted(position)
            release = ImageVersion(
                int(values["SoftwareMajor"]), int(values["SoftwareMinor"]), int(values["SoftwareRevision"])
            )
            self._releases[position] = (transmission, release)
        elif page == 1 and position in self._releases and self._releases[position][0] == transmission:
            self.versions[position] = replace(self._releases[position][1], build=int(values["SoftwareBuild"]))
        number = page - (8 - SERIAL_PAGES)
        if number < 0:
            return
        # Only the newest transmission of a position is kept: at most one half-received identity each.
        key = (position, transmission)
        if key not in self._serials:
            for old in [entry for entry in self._serials if entry[0] == position]:
                del self._serials[old]
            self._serials[key] = [None] * SERIAL_PAGES
        parts = self._serials[key]
        parts[number] = int(values[f"Serial_{number + 1}"])
        known = [part for part in parts if part is not None]
        if len(known) == SERIAL_PAGES:
            serial = b"".join(part.to_bytes(SERIAL_CHARACTERS_PER_PAGE, "big") for part in known)
            self.hwids[position] = serial.rstrip(b"\0").decode("ascii", "replace")
