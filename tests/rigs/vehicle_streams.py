"""Streams of reports with the habits of real vehicles, drawn from a seed, and what a platform must know after each.

The habits: a last report behind the logout and with its second; temperatures before voltages; no motor body while parked;
placeholders; a report every 25 s; gaps of hours; backfill out of order, between reports in real time; repetitions, also as
backfill; 22, 144 or 300 cells, 300 of them in two frames; two subsystems in frames of their own; values and alarms in two
frames of one second; bodies of the maker; a date in 2099.

What must be known is kept by a model of its own: a dictionary of the last values in order of arrival. It knows neither
frames nor coverage.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from bmsota_cloud.domain.telemetry import StoredFrame, is_plausible_time

from bmsota.gbt32960 import (
    Alarms,
    Alarms2025,
    CellVoltages,
    CellVoltages2025,
    Command,
    DriveMotor,
    DriveMotor2025,
    DriveMotors,
    DriveMotors2025,
    Edition,
    Frame,
    PackTemperatures,
    PackVoltages,
    Position,
    Position2025,
    ProbeTemperatures,
    ProbeTemperatures2025,
    Report,
    Sentinel,
    SubsystemTemperatures,
    SubsystemVoltages,
    UserDefined,
    VehicleData,
    VehicleData2025,
    VehicleLogout,
    decode,
    encode,
)

START_S = int(datetime(2026, 11, 20, 22, 0, tzinfo=UTC).timestamp())
PERIOD_S = 25
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Sent:
    """One frame on its way up."""

    frame: bytes
    arrived_at_ns: int
    is_report: bool = True


@dataclass(slots=True)
class Newest:
    """What the newest state must be."""

    reported_at_s: int = 0
    is_time_plausible: bool = True
    soc_pct: float | None = None
    alarm_flags: int = 0
    has_motors: bool = False
    cells: dict[tuple[int, int], float | str] = field(default_factory=dict)
    """Subsystem and cell, both from 1."""
    probes: dict[int, list[float | str]] = field(default_factory=dict)
    users: dict[int, str] = field(default_factory=dict)
    """Maker's bodies by type, in hexadecimal digits."""


@dataclass(slots=True)
class VehicleStream:
    """What one vehicle sends, in the order of arrival."""

    vin: str
    edition: Edition
    sent: list[Sent] = field(default_factory=list)
    newest: Newest = field(default_factory=Newest)
    kept: set[tuple[int, bytes]] = field(default_factory=set)
    """Every report that must be in the history: its own time, and its data unit."""

    @property
    def stored(self) -> list[StoredFrame]:
        """The reports as a gateway hands them on, repetitions included."""
        return [stored_frame(each.frame, each.arrived_at_ns) for each in self.sent if each.is_report]

    @property
    def distinct(self) -> list[StoredFrame]:
        """The reports as a store keeps them: each once."""
        seen: set[tuple[int, bytes]] = set()
        found = []
        for frame in self.stored:
            key = (frame.reported_at_s, frame.clear[24:-1])
            if key not in seen:
                seen.add(key)
                found.append(frame)
        return found


def stored_frame(frame: bytes, arrived_at_ns: int) -> StoredFrame:
    """A report in the clear, with what a gateway knows of it."""
    decoded = decode(frame)
    assert isinstance(decoded.message, Report)
    reported_at_s = int(decoded.message.time.timestamp())
    return StoredFrame(
        vin=decoded.vin,
        frame=frame,
        clear=frame,
        reported_at_s=reported_at_s,
        arrived_at_ns=arrived_at_ns,
        is_backfill=decoded.command == Command.BACKFILL_REPORT,
        is_time_plausible=is_plausible_time(reported_at_s, arrived_at_ns),
    )


def vehicle_stream(seed: int, *, edition: Edition = Edition.GBT2016, reports: int = 60) -> VehicleStream:
    """The stream of one vehicle: about so many reports over some trips, with every habit somewhere."""
    return _Vehicle(seed, edition).drive(reports)


class _Vehicle:
    def __init__(self, seed: int, edition: Edition) -> None:
        self.random = random.Random(seed)
        self.edition = edition
        self.is_2025 = edition is Edition.GBT2025
        self.stream = VehicleStream(vin=f"LHABIT{seed % 10**11:011d}", edition=edition)
        self.now_s = START_S + self.random.randrange(3600)
        self.serial = 1
        # Each habit has its turn, whatever the seed: the number of cells goes round.
        self.cell_count = (22, 144, 300)[seed % 3]
        self.subsystems = (1, 2)[seed // 3 % 2]
        self.soc = self.random.randrange(40, 90)
        self.alarm_flags = 0
        self.is_driving = True

    # -- what is sent --------------------------------------------------------------------------------------------------

    def drive(self, reports: int) -> VehicleStream:
        trips = 3
        for trip in range(trips):
            self.is_driving = True
            backlog: list[tuple[int, list[tuple]]] = []
            for count in range(reports // trips):
                self.now_s += PERIOD_S
                self.change()
                groups = self.groups()
                if count % 7 == 5:
                    # Out of reach: collected, not sent yet.
                    backlog.append((self.now_s, groups))
                    continue
                for bodies in groups:
                    self.send(bodies)
                if count % 5 == 4 and backlog:
                    self.backfill(backlog)
                if count == 3 and trip == 1:
                    self.send_wrong_date()
            self.log_out()
            self.backfill(backlog)
            self.now_s += self.random.choice((3, 5, 9)) * 3600
        self.now_s += PERIOD_S
        for bodies in self.groups():
            self.send(bodies)
        return self.stream

    def send(self, bodies: tuple, *, at_s: int | None = None, command: int = Command.REALTIME_REPORT) -> bytes:
        at_s = self.now_s if at_s is None else at_s
        frame = encode(
            Frame(
                command=command,
                vin=self.stream.vin,
                message=Report(_EPOCH + timedelta(seconds=at_s), bodies),
                edition=self.edition,
            )
        )
        arrived_at_ns = self.now_s * _SECOND_NS + self.random.randrange(1, 900) * 1_000_000
        self.stream.sent.append(Sent(frame, arrived_at_ns))
        self.stream.kept.add((at_s, frame[24:-1]))
        if command == Command.REALTIME_REPORT:
            self.learn(bodies, at_s, arrived_at_ns)
            if self.random.random() < 0.1:
                # Not answered in time, so it comes again; sometimes as backfill.
                again = frame
                if self.random.random() < 0.5:
                    again = encode(replace(decode(frame), command=Command.BACKFILL_REPORT))
                self.stream.sent.append(Sent(again, arrived_at_ns + 1_000_000))
        return frame

    def backfill(self, backlog: list[tuple[int, list[tuple]]]) -> None:
        self.random.shuffle(backlog)
        while backlog:
            at_s, groups = backlog.pop()
            for bodies in groups:
                self.send(bodies, at_s=at_s, command=Command.BACKFILL_REPORT)

    def send_wrong_date(self) -> None:
        self.send(self.groups()[0], at_s=int(datetime(2099, 1, 1, tzinfo=UTC).timestamp()))

    def log_out(self) -> None:
        self.now_s += 6
        moment = _EPOCH + timedelta(seconds=self.now_s)
        logout = VehicleLogout(moment, self.serial)
        frame = encode(Frame(command=Command.VEHICLE_LOGOUT, vin=self.stream.vin, message=logout, edition=self.edition))
        self.stream.sent.append(Sent(frame, self.now_s * _SECOND_NS, is_report=False))
        self.serial += 1
        self.is_driving = False
        self.soc = min(100, self.soc + 2)
        for bodies in self.groups():
            self.send(bodies)

    def change(self) -> None:
        self.soc = max(5, self.soc - self.random.randrange(2))
        if self.random.random() < 0.15:
            self.alarm_flags ^= 1 << self.random.randrange(19)

    # -- bodies --------------------------------------------------------------------------------------------------------

    def groups(self) -> list[tuple]:
        """The bodies of this second, frame by frame."""
        first: list = [self.vehicle()]
        if self.is_driving:
            first.append(self.motors())
            first.append(self.position())
        cells = self.cells()
        frames: list[tuple] = []
        if self.random.random() < 0.3:
            frames.append((self.alarms(),))
        else:
            first.append(self.alarms())
        # Temperatures before voltages, as the real ones do.
        first.append(self.probes())
        first += cells[0]
        if self.random.random() < 0.25:
            first.append(UserDefined(self.random.choice((0x83, 0x90)), self.random.randbytes(5)))
        return [tuple(first), *(tuple(bodies) for bodies in cells[1:]), *frames]

    def vehicle(self):
        soc = Sentinel.INVALID if self.random.random() < 0.1 else self.soc
        common = {
            "vehicle_state": Sentinel.ABNORMAL if self.random.random() < 0.05 else 1 if self.is_driving else 2,
            "charging_state": 3 if self.is_driving else 4,
            "run_mode": 1,
            "speed_kmh": float(self.random.randrange(120)) if self.is_driving else 0.0,
            "odometer_km": 1234.5,
            "total_voltage_v": 350.0,
            "total_current_a": 12.0,
            "soc_pct": soc,
            "dcdc_state": 1,
            "gear": 14,
            "insulation_kohm": Sentinel.INVALID if self.random.random() < 0.1 else 5000,
        }
        return VehicleData2025(**common) if self.is_2025 else VehicleData(**common, accelerator_pct=0, brake_pct=101)

    def motors(self):
        common = {"number": 1, "state": 1, "controller_temperature_c": 40, "speed_rpm": 3000, "torque_nm": 12.0}
        if self.is_2025:
            return DriveMotors2025((DriveMotor2025(**common, motor_temperature_c=50),))
        more = {"motor_temperature_c": 50, "controller_voltage_v": 350.0, "controller_current_a": 10.0}
        return DriveMotors((DriveMotor(**common, **more),))

    def position(self):
        if self.is_2025:
            return Position2025(valid=True, coordinate_system=1, longitude_deg=121.5, latitude_deg=31.2)
        return Position(valid=True, longitude_deg=121.5, latitude_deg=31.2)

    def alarms(self):
        kind = Alarms2025 if self.is_2025 else Alarms
        faults = (0x11,) if self.alarm_flags & 1 else ()
        return kind(level_max=1 if self.alarm_flags else 0, flags=self.alarm_flags, ress_faults=faults)

    def volts(self, count: int) -> tuple:
        return tuple(
            Sentinel.ABNORMAL if self.random.random() < 0.01 else round(3.2 + self.random.randrange(400) / 1000, 3)
            for _ in range(count)
        )

    def cells(self) -> list[list]:
        """The bodies with cells, in as many frames as they need."""
        packs = [(number, self.volts(self.cell_count)) for number in range(1, self.subsystems + 1)]
        if self.is_2025:
            # 2025 splits nothing; two packs may come apart.
            return [[CellVoltages2025((PackVoltages(number, 350.0, 1.0, volts),))] for number, volts in packs]
        frames = []
        for number, volts in packs:
            for first in range(0, len(volts), 200):
                part = SubsystemVoltages(number, 350.0, 1.0, len(volts), first + 1, volts[first : first + 200])
                frames.append([CellVoltages((part,))])
        if self.random.random() < 0.2:
            # Several bodies of one kind in one frame.
            return [[body for frame in frames for body in frame]]
        return frames

    def probes(self):
        probes = tuple(self.random.randrange(-5, 40) for _ in range(8))
        if self.is_2025:
            return ProbeTemperatures2025((PackTemperatures(1, probes),))
        return ProbeTemperatures((SubsystemTemperatures(1, probes),))

    # -- the model -----------------------------------------------------------------------------------------------------

    def learn(self, bodies: tuple, at_s: int, arrived_at_ns: int) -> None:
        newest = self.stream.newest
        newest.reported_at_s, newest.is_time_plausible = at_s, is_plausible_time(at_s, arrived_at_ns)
        for body in bodies:
            match body:
                case VehicleData() | VehicleData2025():
                    newest.soc_pct = None if isinstance(body.soc_pct, Sentinel) else float(body.soc_pct)
                case Alarms() | Alarms2025():
                    newest.alarm_flags = body.flags
                case DriveMotors() | DriveMotors2025():
                    newest.has_motors = True
                case CellVoltages() | CellVoltages2025():
                    for item in body.subsystems if isinstance(body, CellVoltages) else body.packs:
                        first = item.first_cell if isinstance(body, CellVoltages) else 1
                        for place, volt in enumerate(item.cell_voltages_v, first):
                            newest.cells[item.number, place] = volt.value if isinstance(volt, Sentinel) else volt
                case ProbeTemperatures() | ProbeTemperatures2025():
                    for item in body.subsystems if isinstance(body, ProbeTemperatures) else body.packs:
                        newest.probes[item.number] = list(item.temperatures_c)
                case UserDefined():
                    newest.users[body.type_id] = body.data.hex()
