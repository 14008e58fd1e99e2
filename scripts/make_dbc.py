"""Write dbc/bms_internal.dbc, dbc/bms_internal_unprotected.dbc and dbc/bms_vehicle.dbc.

`python scripts/make_dbc.py` writes them, `--check` only says whether they are as this script would write them (exit
code 1 if not). The internal bus repeats the same messages for sixteen slave positions, too many to type or
review by hand; the tables below are the single definition of both buses, and the DBC files are committed because CAN
tools read those. `scripts/make_dbc_pages.py` makes the pages from them.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SLAVE_POSITIONS = range(1, 17)
CELL_GROUPS = range(1, 9)  # 4 cells each: up to 32 cells a slave.
TEMPERATURE_GROUPS = range(1, 3)  # 4 probes each: up to 8 probes a slave.
SERIAL_PAGES = range(1, 5)  # 6 characters each: up to 24.


@dataclass(frozen=True)
class Row:
    """One signal: bits, and what it means."""

    name: str
    start_bit: int
    length_bits: int
    comment: str
    scale: float = 1
    offset: float = 0
    minimum: float = 0
    maximum: float = 0
    unit: str = ""
    signed: bool = False
    big_endian: bool = False
    mux: str = ""
    choices: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One message."""

    name: str
    can_id: int
    sender: str
    receivers: str
    cycle_ms: int  # 0: sent when asked or when something changes.
    comment: str
    rows: tuple[Row, ...]
    length: int = 8
    is_protected: bool = False


def flag(name: str, bit: int, comment: str) -> Row:
    return Row(name, bit, 1, comment, maximum=1, choices={0: "No", 1: "Yes"})


# The top of a range marks what is no measurement, as in GB/T 32960.3, so that a bad sensor reaches the platform as such.
VOLTAGE_MARKS = {0xFFFE: "Abnormal", 0xFFFF: "Invalid"}
TEMPERATURE_MARKS = {0x7FFE: "Abnormal", 0x7FFF: "Invalid"}
BYTE_MARKS = {0xFE: "Abnormal", 0xFF: "Invalid"}


# The measurements of slaves leave room for a CRC and a counter, where AUTOSAR's E2E profile 1 has them. A cell has 13 bits of 1 mV.
CELL_MARKS = {0x1FFE: "Abnormal", 0x1FFF: "Invalid"}
PROBE_MARKS = {0x7FE: "Abnormal", 0x7FF: "Invalid"}
PROTECTION_ROWS = (
    Row("Crc", 0, 8, "CRC-8 over data id and the other seven bytes, as E2E profile 1 makes it.", maximum=255),
    Row("AliveCounter", 8, 4, "Rises by one with every round, from 14 to 0.", maximum=14),
)


def cell_voltage(name: str, start_bit: int, comment: str) -> Row:
    return Row(name, start_bit, 16, comment, 0.0001, 0, 0, 6.5533, "V", choices=VOLTAGE_MARKS)


def temperature(name: str, start_bit: int, comment: str) -> Row:
    return Row(name, start_bit, 16, comment, 0.1, 0, -60, 200, "degC", signed=True, choices=TEMPERATURE_MARKS)


NO_CELL = "Invalid if there is no such cell."
NO_PROBE = "Invalid if there is no such probe."


def protected_cell(name: str, index: int) -> Row:
    return Row(name, 12 + 13 * index, 13, NO_CELL, 0.001, 0, 0, 6.553, "V", choices=CELL_MARKS)


def protected_probe(name: str, index: int) -> Row:
    return Row(name, 16 + 12 * index, 12, NO_PROBE, 0.1, 0, -60, 200, "degC", signed=True, choices=PROBE_MARKS)


PACK_SENSOR = Table(
    "PackSensor",
    0x120,
    "Sensor",
    "Master",
    100,
    "What the sensor in the pack's main line measures, once a measurement round, before the slaves.",
    (
        *PROTECTION_ROWS,
        Row(
            "Current", 16, 16, "Above 0: the pack is discharged.", 0.1, 0, -3276.8, 3276.5, "A", signed=True,
            choices=TEMPERATURE_MARKS,
        ),
        Row(
            "StateOfCharge", 32, 16, "By the charge that has flowed; of the emptiest cell.", 0.1, 0, 0, 100, "%",
            choices=VOLTAGE_MARKS,
        ),
    ),
    is_protected=True,
)  # fmt: skip


def internal(*, is_protected: bool = True) -> list[Table]:
    """The internal bus; as it was before message protection if not *is_protected*."""
    slaves = ",".join(f"Slave{position:02d}" for position in SLAVE_POSITIONS)
    tables = [
        Table(
            "MasterCommand",
            0x100,
            "Master",
            slaves,
            100,
            "What the master wants of every slave. A slave that misses ten of them in a row stops balancing.",
            (
                Row("CycleCounter", 0, 8, "Rises by one with every command and wraps to 0.", maximum=255),
                Row(
                    "Mode",
                    8,
                    4,
                    "What the slaves do. Upgrade: no measuring, ready for the bootloader.",
                    maximum=15,
                    choices={0: "Sleep", 1: "Measure", 2: "SelfTest", 3: "Upgrade"},
                ),
                flag("BalancingPermitted", 12, "Slaves may discharge cells that are above BalancingVoltage."),
                flag("IdentityRequest", 13, "The slaves that IdentityPosition names send their identity once."),
                Row("IdentityPosition", 16, 5, "Whose identity is requested; 0 means every slave.", maximum=16),
                cell_voltage("BalancingVoltage", 32, "Cells above this voltage are balanced."),
            ),
        ),
    ]
    if is_protected:
        tables.append(PACK_SENSOR)
    for position in SLAVE_POSITIONS:
        slave = f"Slave{position:02d}"
        tables += slave_tables(slave, position, is_protected=is_protected)
    return sorted(tables, key=lambda table: table.can_id)


def slave_tables(slave: str, position: int, *, is_protected: bool) -> list[Table]:
    # A layout never changes under its id: a master that knows only the other one must not take new bytes for old values.
    status, cells, temperatures = (0x140, 0x400, 0x500) if is_protected else (0x120, 0x200, 0x300)
    tables = [
        Table(
            f"{slave}_Status",
            status + position,
            slave,
            "Master",
            100,
            f"State and faults of slave {position}. It is the last message of a measurement round: when it arrives, cells"
            " and temperatures of the round are complete.",
            (
                *(
                    PROTECTION_ROWS
                    if is_protected
                    else (Row("AliveCounter", 0, 8, "Rises by one with every round and wraps to 0.", maximum=255),)
                ),
                Row(
                    "State",
                    12 if is_protected else 8,
                    4,
                    "What the slave is doing.",
                    maximum=15,
                    choices={
                        0: "Starting",
                        1: "Measuring",
                        2: "Balancing",
                        3: "SelfTest",
                        4: "Upgrade",
                        5: "Fault",
                        6: "Sleeping",
                    },
                ),
                flag(
                    "BalancingPermitted",
                    27 if is_protected else 12,
                    "The slave has permission of the master and is not too hot.",
                ),
                flag("CellOvervoltage", 16, "A cell is above its safety limit."),
                flag("CellUndervoltage", 17, "A cell is below its safety limit."),
                flag("Overtemperature", 18, "A probe is above its safety limit."),
                flag("Undertemperature", 19, "A probe is below its safety limit."),
                flag("CellWireOpen", 20, "The wire of a cell is open; the cell reads Abnormal."),
                flag("ProbeFault", 21, "A probe is open or shorted; it reads Abnormal."),
                flag("SupplyFault", 22, "The slave's own supply is out of its range."),
                flag("MemoryFault", 23, "Program or calibration memory fails its check."),
                flag("BalancingFault", 24, "A balancing resistor does not switch, or switches unasked."),
                flag("CommandMissing", 25, "Ten commands of the master in a row were not received."),
                flag("SelfTestFailed", 26, "The last self-test failed."),
                Row("BalancingCells", 32, 32, "Bit n is set while cell n + 1 is being discharged.", maximum=0xFFFFFFFF),
            ),
            is_protected=is_protected,
        ),
        Table(
            f"{slave}_Identity",
            0x380 + position,
            slave,
            "Master",
            0,
            f"Who slave {position} is: eight pages, sent after start and when requested. Pages belong together if"
            " Transmission is the same.",
            (
                Row(
                    "Page",
                    0,
                    8,
                    "Which part of the identity this frame carries.",
                    mux="M",
                    maximum=7,
                    choices={
                        0: "Software",
                        1: "Build",
                        2: "Hardware",
                        3: "Security",
                        **{page + 3: f"Serial_{page}" for page in SERIAL_PAGES},
                    },
                ),
                Row("Transmission", 8, 8, "The same in all pages of one answer, different in the next.", maximum=255),
                Row("SoftwareMajor", 16, 8, "First part of the software version.", mux="m0", maximum=255),
                Row("SoftwareMinor", 24, 8, "Second part of the software version.", mux="m0", maximum=255),
                Row("SoftwareRevision", 32, 16, "Third part of the software version.", mux="m0", maximum=65535),
                Row("CellCount", 48, 8, "How many cells the slave measures.", mux="m0", maximum=32),
                Row("ProbeCount", 56, 8, "How many temperature probes the slave measures.", mux="m0", maximum=8),
                Row("SoftwareBuild", 16, 32, "Build number of the software.", mux="m1", maximum=0xFFFFFFFF),
                Row(
                    "HardwareClassCode",
                    16,
                    32,
                    "The first four bytes of the hardware class (a UUID), most significant first.",
                    mux="m2",
                    maximum=0xFFFFFFFF,
                ),
                Row(
                    "SecurityCounter",
                    16,
                    32,
                    "The security counter of the running image.",
                    mux="m3",
                    maximum=0xFFFFFFFF,
                ),
                *(
                    Row(
                        f"Serial_{page}",
                        23,
                        48,
                        f"Characters {6 * page - 5} to {6 * page} of the hardware serial in ASCII, first character first, 0 after the end.",
                        mux=f"m{page + 3}",
                        maximum=0xFFFFFFFFFFFF,
                        big_endian=True,
                    )
                    for page in SERIAL_PAGES
                ),
            ),
        ),
    ]
    for group in CELL_GROUPS:
        first = 4 * group - 3
        tables.append(
            Table(
                f"{slave}_Cells_{group}",
                cells + 0x20 * (group - 1) + position,
                slave,
                "Master",
                100,
                f"Voltages of cells {first} to {first + 3} of slave {position}. Sent if the slave has any of these cells.",
                (PROTECTION_ROWS if is_protected else ())
                + tuple(
                    protected_cell(f"Cell_{first + index:02d}", index)
                    if is_protected
                    else cell_voltage(f"Cell_{first + index:02d}", 16 * index, NO_CELL)
                    for index in range(4)
                ),
                is_protected=is_protected,
            )
        )
    for group in TEMPERATURE_GROUPS:
        first = 4 * group - 3
        tables.append(
            Table(
                f"{slave}_Temperatures_{group}",
                temperatures + 0x20 * (group - 1) + position,
                slave,
                "Master",
                100,
                f"Temperatures of probes {first} to {first + 3} of slave {position}. Sent if the slave has any of these probes.",
                (PROTECTION_ROWS if is_protected else ())
                + tuple(
                    protected_probe(f"Probe_{first + index}", index)
                    if is_protected
                    else temperature(f"Probe_{first + index}", 16 * index, NO_PROBE)
                    for index in range(4)
                ),
                is_protected=is_protected,
            )
        )
    return tables


UPGRADE_STATES = {
    0: "None", 1: "Instructed", 2: "WaitingSafeState", 3: "Authenticating", 4: "Downloading", 5: "DownloadComplete",
    6: "Switching", 7: "FlashingSlaves", 8: "SelfTest", 9: "Succeeded", 10: "Failed", 11: "RolledBack", 12: "Rejected",
    13: "Cancelled",
}  # fmt: skip


def vehicle() -> list[Table]:
    return [
        Table(
            "PackState", 0x180, "Pack", "Vehicle", 100, "The pack as a whole.",
            (
                Row("PackVoltage", 0, 16, "Sum of all cells.", 0.1, 0, 0, 6553.3, "V", choices=VOLTAGE_MARKS),
                Row("PackCurrent", 16, 16, "Above 0: the pack is discharged.", 0.1, 0, -3276.8, 3276.5, "A", signed=True,
                    choices=TEMPERATURE_MARKS),
                Row("Soc", 32, 10, "State of charge.", 0.1, 0, 0, 100, "%", choices={1022: "Abnormal", 1023: "Invalid"}),
                Row("State", 44, 4, "What the pack is doing.", maximum=15,
                    choices={0: "Sleeping", 1: "Standby", 2: "Discharging", 3: "Charging", 4: "Charged", 5: "Upgrade", 6: "Fault"}),
                Row("AlarmLevel", 48, 2, "The highest level of the alarms that are present.", maximum=3,
                    choices={0: "None", 1: "First", 2: "Second", 3: "Third"}),
                flag("ContactorsClosed", 50, "Main contactors are closed."),
                flag("DrivePermitted", 51, "The vehicle may draw current."),
                flag("ChargePermitted", 52, "The vehicle may charge the pack."),
                Row("AliveCounter", 56, 8, "Rises by one with every frame and wraps to 0.", maximum=255),
            ),
        ),
        Table(
            "PackLimits", 0x181, "Pack", "Vehicle", 100, "What the pack allows for the next second.",
            (
                Row("DischargeCurrentMax", 0, 16, "Largest discharge current.", 0.1, 0, 0, 6553.3, "A", choices=VOLTAGE_MARKS),
                Row("ChargeCurrentMax", 16, 16, "Largest charge current, as a positive number.", 0.1, 0, 0, 6553.3, "A", choices=VOLTAGE_MARKS),
                Row("ChargeVoltageMax", 32, 16, "Voltage at which charging must stop rising.", 0.1, 0, 0, 6553.3, "V", choices=VOLTAGE_MARKS),
                Row("DischargeVoltageMin", 48, 16, "Voltage below which discharging must end.", 0.1, 0, 0, 6553.3, "V", choices=VOLTAGE_MARKS),
            ),
        ),
        Table(
            "PackVoltages", 0x182, "Pack", "Vehicle", 100, "Highest and lowest cell.",
            (
                cell_voltage("CellVoltageMax", 0, "Voltage of the highest cell."),
                cell_voltage("CellVoltageMin", 16, "Voltage of the lowest cell."),
                Row("CellVoltageMaxNumber", 32, 16, "Number of the highest cell, counted from 1 over the pack.", maximum=65533, choices=VOLTAGE_MARKS),
                Row("CellVoltageMinNumber", 48, 16, "Number of the lowest cell, counted from 1 over the pack.", maximum=65533, choices=VOLTAGE_MARKS),
            ),
        ),
        Table(
            "PackTemperatures", 0x183, "Pack", "Vehicle", 1000, "Hottest and coldest probe, insulation, health.",
            (
                Row("TemperatureMax", 0, 8, "Temperature of the hottest probe.", 1, -40, -40, 210, "degC", choices=BYTE_MARKS),
                Row("TemperatureMin", 8, 8, "Temperature of the coldest probe.", 1, -40, -40, 210, "degC", choices=BYTE_MARKS),
                Row("TemperatureMaxProbe", 16, 8, "Number of the hottest probe, counted from 1 over the pack.", maximum=253, choices=BYTE_MARKS),
                Row("TemperatureMinProbe", 24, 8, "Number of the coldest probe, counted from 1 over the pack.", maximum=253, choices=BYTE_MARKS),
                Row("Insulation", 32, 16, "Insulation resistance.", 1, 0, 0, 60000, "kOhm", choices=VOLTAGE_MARKS),
                Row("Soh", 48, 8, "State of health.", 0.5, 0, 0, 100, "%", choices=BYTE_MARKS),
            ),
        ),
        Table(
            "PackUpgrade", 0x184, "Pack", "Vehicle", 1000, "Whether the pack is being updated, and that the vehicle must wait.",
            (
                Row("UpgradeState", 0, 8, "How far the update is; the numbers of docs/protocol.md.", maximum=13, choices=UPGRADE_STATES),
                Row("UpgradeProgress", 8, 8, "Progress of this state.", 1, 0, 0, 100, "%", choices=BYTE_MARKS),
                flag("DriveInhibited", 16, "The vehicle must not be driven now."),
                flag("ChargeInhibited", 17, "The vehicle must not charge now."),
            ),
        ),
        Table(
            "VehicleMotion", 0x200, "Vehicle", "Pack", 100, "How the vehicle moves.",
            (
                Row("Speed", 0, 16, "Speed over ground.", 0.1, 0, 0, 6553.3, "km/h", choices=VOLTAGE_MARKS),
                Row("Odometer", 16, 32, "Distance driven in all.", 0.1, 0, 0, 429496729.3, "km",
                    choices={0xFFFFFFFE: "Abnormal", 0xFFFFFFFF: "Invalid"}),
                Row("Gear", 48, 4, "Gear that is engaged.", maximum=15, choices={0: "Neutral", 13: "Reverse", 14: "Drive", 15: "Park"}),
                flag("DriveForce", 52, "The drive pulls."),
                flag("BrakeForce", 53, "The brake acts."),
                Row("AliveCounter", 56, 8, "Rises by one with every frame and wraps to 0.", maximum=255),
            ),
        ),
        Table(
            "VehiclePower", 0x201, "Vehicle", "Pack", 100, "Ignition, pedals and the charging plug.",
            (
                Row("Ignition", 0, 2, "Position of the ignition.", maximum=3, choices={0: "Off", 1: "Accessory", 2: "On", 3: "Ready"}),
                Row("ChargePlug", 2, 2, "What the charging inlet sees.", maximum=3, choices={0: "Unplugged", 1: "Plugged", 2: "Locked", 3: "Faulty"}),
                flag("ChargeRequest", 4, "The charger offers energy and waits for permission."),
                flag("DcDcRunning", 5, "The DC/DC converter supplies the 12 V net."),
                flag("ContactorsRequest", 6, "The vehicle asks for closed main contactors."),
                Row("Accelerator", 8, 8, "Travel of the accelerator pedal.", 1, 0, 0, 100, "%", choices=BYTE_MARKS),
                Row("Brake", 16, 8, "Travel of the brake pedal.", 1, 0, 0, 100, "%", choices=BYTE_MARKS),
                Row("AmbientTemperature", 24, 8, "Temperature outside.", 1, -40, -40, 210, "degC", choices=BYTE_MARKS),
                Row("SupplyVoltage", 32, 8, "Voltage of the 12 V net.", 0.1, 0, 0, 25, "V", choices=BYTE_MARKS),
            ),
        ),
        Table(
            "VehicleCharger", 0x202, "Vehicle", "Pack", 100, "What the charger delivers and could deliver.",
            (
                Row("ChargerVoltage", 0, 16, "Voltage at the charger's output.", 0.1, 0, 0, 6553.3, "V", choices=VOLTAGE_MARKS),
                Row("ChargerCurrent", 16, 16, "Current the charger delivers, as a positive number.", 0.1, 0, 0, 6553.3, "A", choices=VOLTAGE_MARKS),
                Row("ChargerCurrentMax", 32, 16, "Largest current the charger can deliver.", 0.1, 0, 0, 6553.3, "A", choices=VOLTAGE_MARKS),
                Row("ChargerKind", 48, 4, "Alternating current through the on-board charger, or direct current.", maximum=15,
                    choices={0: "None", 1: "Ac", 2: "Dc"}),
            ),
        ),
        *(
            Table(
                f"DriveMotor_{motor}", 0x210 + motor, "Vehicle", "Pack", 100, f"Drive motor {motor} and its controller.",
                (
                    Row("State", 0, 3, "What the motor is doing.", maximum=7,
                        choices={0: "Absent", 1: "Consuming", 2: "Generating", 3: "Off", 4: "Ready", 6: "Abnormal", 7: "Invalid"}),
                    Row("Speed", 8, 16, "Speed of the motor.", 1, 0, -20000, 32765, "1/min", signed=True, choices=TEMPERATURE_MARKS),
                    Row("Torque", 24, 16, "Torque of the motor; below 0 when generating.", 0.1, 0, -2000, 3276.5, "Nm", signed=True,
                        choices=TEMPERATURE_MARKS),
                    Row("MotorTemperature", 40, 8, "Temperature of the motor.", 1, -40, -40, 210, "degC", choices=BYTE_MARKS),
                    Row("ControllerTemperature", 48, 8, "Temperature of the controller.", 1, -40, -40, 210, "degC", choices=BYTE_MARKS),
                ),
            )
            for motor in (1, 2)
        ),
    ]  # fmt: skip


# --- Writing DBC ------------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    return repr(int(value)) if float(value).is_integer() else repr(value)


# The attributes of docs/signals.md. The data id is the CAN id; two frames in a row may be lost.
E2E_DEFINITIONS = [
    'BA_DEF_ BO_ "E2EProfile" ENUM "None","P01","P02","P05","J1850","CUSTOM";',
    'BA_DEF_ BO_ "E2EDataId" INT 0 65535;',
    'BA_DEF_ BO_ "E2ECrcSignal" STRING;',
    'BA_DEF_ BO_ "E2ECounterSignal" STRING;',
    'BA_DEF_DEF_ "E2EProfile" "None";',
    'BA_DEF_DEF_ "E2EDataId" 0;',
    'BA_DEF_DEF_ "E2ECrcSignal" "";',
    'BA_DEF_DEF_ "E2ECounterSignal" "";',
]


def dbc_text(tables: list[Table], *, nodes: list[str], version: str, comment: str) -> str:
    lines = [f'VERSION "{version}"', "", "NS_ :", "", "BS_:", "", f"BU_: {' '.join(nodes)}", ""]
    for table in tables:
        lines.append(f"BO_ {table.can_id} {table.name}: {table.length} {table.sender}")
        for row in table.rows:
            mux = f" {row.mux}" if row.mux else ""
            order = "0" if row.big_endian else "1"
            sign = "-" if row.signed else "+"
            lines.append(
                f" SG_ {row.name}{mux} : {row.start_bit}|{row.length_bits}@{order}{sign}"
                f" ({number(row.scale)},{number(row.offset)}) [{number(row.minimum)}|{number(row.maximum)}]"
                f' "{row.unit}" {table.receivers}'
            )
        lines.append("")
    lines.append(f'CM_ "{comment}";')
    for table in tables:
        lines.append(f'CM_ BO_ {table.can_id} "{table.comment}";')
        lines += [f'CM_ SG_ {table.can_id} {row.name} "{row.comment}";' for row in table.rows]
    lines.append('BA_DEF_ BO_ "GenMsgCycleTime" INT 0 65535;')
    lines.append('BA_DEF_DEF_ "GenMsgCycleTime" 0;')
    if any(table.is_protected for table in tables):
        lines += E2E_DEFINITIONS
    lines += [f'BA_ "GenMsgCycleTime" BO_ {table.can_id} {table.cycle_ms};' for table in tables if table.cycle_ms]
    for table in tables:
        if table.is_protected:
            values = {
                "E2EProfile": "1",
                "E2EDataId": f"{table.can_id}",
                "E2ECrcSignal": '"Crc"',
                "E2ECounterSignal": '"AliveCounter"',
            }
            lines += [f'BA_ "{name}" BO_ {table.can_id} {value};' for name, value in values.items()]
    for table in tables:
        for row in table.rows:
            if row.choices:
                pairs = " ".join(f'{raw} "{name}"' for raw, name in sorted(row.choices.items()))
                lines.append(f"VAL_ {table.can_id} {row.name} {pairs} ;")
    return "\n".join(lines) + "\n"


SENSOR_NODE = "Sensor"
INTERNAL_NODES = ["Master", *(f"Slave{position:02d}" for position in SLAVE_POSITIONS)]


def internal_text() -> str:
    return dbc_text(
        internal(), nodes=[*INTERNAL_NODES, SENSOR_NODE], version="2.1",
        comment="Internal bus of a battery pack: master and slaves. 500 kbit/s, 11-bit ids 0x100 to 0x5FF; the bootloader"
        " of bms_bootloader.dbc has 0x700 to 0x77F. Made by scripts/make_dbc.py.",
    )  # fmt: skip


def unprotected_text() -> str:
    return dbc_text(
        internal(is_protected=False), nodes=INTERNAL_NODES, version="1.0",
        comment="Internal bus of slaves without message protection, as bms_internal.dbc was before it. Other ids, so that both"
        " kinds of slaves may be in one pack. Made by scripts/make_dbc.py.",
    )  # fmt: skip


def vehicle_text() -> str:
    return dbc_text(
        vehicle(), nodes=["Pack", "Vehicle"], version="1.0",
        comment="Bus between battery pack and vehicle. 500 kbit/s, 11-bit ids. Made by scripts/make_dbc.py.",
    )  # fmt: skip


def outputs() -> dict[Path, str]:
    """Every file this script is responsible for, and what must be in it."""
    texts = {
        "bms_internal": internal_text(),
        "bms_internal_unprotected": unprotected_text(),
        "bms_vehicle": vehicle_text(),
    }
    return {ROOT / "dbc" / f"{name}.dbc": text for name, text in texts.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if a file is out of date")
    is_check = parser.parse_args(arguments).check
    stale = {
        path: text for path, text in outputs().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        print(f"{'out of date' if is_check else 'written'}: {path.relative_to(ROOT)}")
        if not is_check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if is_check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
