"""The internal bus from both ends: measurements and identity of the slaves by `dbc/bms_internal.dbc`.

`SlaveMessages` is what one slave sends, `MeasurementTable` is what the master knows from it. Layouts are the DBC's; this
module knows only the names of messages and signals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bmsota.errors import ConfigurationError, SignalError
from bmsota.image import ImageVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bmsota.canframe import CanFrame
    from bmsota.signals import Database, Message


GROUP_SIZE = 4
"""Cells or probes in one message."""
SERIAL_PAGES = 4
SERIAL_CHARACTERS_PER_PAGE = 6
# A sensor reads to 0.1 mV and 0.1 degree; beyond the signal's range it is broken, and the wire says so.
CELL_VOLTAGE_RANGE_V = (0.0, 6.5533)
TEMPERATURE_RANGE_C = (-60.0, 200.0)
_ABNORMAL = "Abnormal"
_INVALID = "Invalid"

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
        self._cells = [
            (database[_name(position, f"Cells_{group + 1}")], group * GROUP_SIZE)
            for group in range(-(-cells // GROUP_SIZE))
        ]
        self._temperatures = [
            (database[_name(position, f"Temperatures_{group + 1}")], group * GROUP_SIZE)
            for group in range(-(-probes // GROUP_SIZE))
        ]
        self._status = database[_name(position, "Status")]
        self._identity = database[_name(position, "Identity")]

    def measurements(
        self, cell_voltages_v: Sequence[float], temperatures_c: Sequence[float], *, alive: int
    ) -> list[CanFrame]:
        """One round: status, then all cells, then all probes."""
        status: dict[str, int | float | str] = dict.fromkeys((signal.name for signal in self._status.signals), 0)
        status |= {"AliveCounter": alive & 0xFF, "State": "Measuring"}
        frames = [self._status.frame(status)]
        frames += [
            _group_frame(message, "Cell_{:02d}", first, cell_voltages_v, CELL_VOLTAGE_RANGE_V, 4)
            for message, first in self._cells
        ]
        frames += [
            _group_frame(message, "Probe_{}", first, temperatures_c, TEMPERATURE_RANGE_C, 1)
            for message, first in self._temperatures
        ]
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


def _group_frame(
    message: Message, pattern: str, first: int, values: Sequence[float], valid: tuple[float, float], decimals: int
) -> CanFrame:
    lowest, highest = valid
    signals: dict[str, int | float | str] = {}
    for index in range(first, first + GROUP_SIZE):
        value: float | str = _INVALID
        if index < len(values):
            value = round(float(values[index]), decimals)
            # Not a number is in no range.
            value = value if lowest <= value <= highest else _ABNORMAL
        signals[pattern.format(index + 1)] = value
    return message.frame(signals)


class MeasurementTable:
    """What the master knows of its slaves, and since when."""

    def __init__(self, database: Database, layout: PackLayout) -> None:
        self._layout = layout
        self.cell_voltages_v: list[float | None] = [None] * layout.cell_count
        self.temperatures_c: list[float | None] = [None] * layout.probe_count
        self.heard_ns: dict[int, int] = {}
        """When a slave last sent its status, by position."""
        self.hwids: dict[int, str] = {}
        """Who sends there, by position, as its identity pages say."""
        self.versions: dict[int, ImageVersion] = {}
        """What it runs, likewise."""
        self._serials: dict[tuple[int, int], list[int | None]] = {}
        self._releases: dict[int, tuple[int, ImageVersion]] = {}
        """The version without its build number, and of which transmission it is, by position."""
        self.malformed = 0
        """Frames that were too short for their message, or had a number that it does not define; their values are lost."""
        self._handlers: dict[tuple[int, bool], Callable[[bytes, int], None]] = {}
        for position in layout.positions:
            self._register(database, position)

    @property
    def accepts(self) -> frozenset[int]:
        """The CAN ids of the messages this table understands."""
        return frozenset(can_id for can_id, _ in self._handlers)

    def _register(self, database: Database, position: int) -> None:
        layout = self._layout

        def listen(name: str, handle: Callable[[Message, bytes, int], None]) -> None:
            message = database[_name(position, name)]
            key = (message.can_id, message.is_extended_id)
            self._handlers[key] = lambda data, now_ns: handle(message, data, now_ns)

        def status(_message: Message, _data: bytes, now_ns: int) -> None:
            self.heard_ns[position] = now_ns

        listen("Status", status)
        for group in range(-(-layout.cells_per_slave // GROUP_SIZE)):
            first = group * GROUP_SIZE
            count = min(GROUP_SIZE, layout.cells_per_slave - first)
            place = (position - 1) * layout.cells_per_slave + first
            listen(f"Cells_{group + 1}", _store(self.cell_voltages_v, place, count))
        for group in range(-(-layout.probes_per_slave // GROUP_SIZE)):
            first = group * GROUP_SIZE
            count = min(GROUP_SIZE, layout.probes_per_slave - first)
            place = (position - 1) * layout.probes_per_slave + first
            listen(f"Temperatures_{group + 1}", _store(self.temperatures_c, place, count))
        listen("Identity", lambda message, data, _now_ns: self._take_identity(message, data, position))

    def receive(self, frame: CanFrame, now_ns: int) -> bool:
        """Take a frame of a slave; False if it is none of these messages."""
        handler = self._handlers.get((frame.can_id, frame.is_extended_id))
        if handler is None:
            return False
        try:
            handler(frame.data, now_ns)
        except SignalError:
            self.malformed += 1
        return True

    def forget_silent(self, since_ns: int) -> None:
        """Drop the values of slaves not heard of since *since_ns*: an old value must not look like a new one."""
        cells, probes = self._layout.cells_per_slave, self._layout.probes_per_slave
        for position in self._layout.positions:
            if self.heard_ns.get(position, -1) < since_ns:
                self.cell_voltages_v[(position - 1) * cells : position * cells] = [None] * cells
                self.temperatures_c[(position - 1) * probes : position * probes] = [None] * probes

    def _take_identity(self, message: Message, data: bytes, position: int) -> None:
        values = message.decode_raw(data)
        page, transmission = int(values["Page"]), int(values["Transmission"])
        if page == 0:
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


def _store(values: list[float | None], place: int, count: int) -> Callable[[Message, bytes, int], None]:
    """A handler that puts the *count* first signals of a message to *values*[*place*:]."""

    def handle(message: Message, data: bytes, _now_ns: int) -> None:
        decoded = list(message.decode(data).values())[:count]
        values[place : place + count] = [None if isinstance(value, str) else float(value) for value in decoded]

    return handle
