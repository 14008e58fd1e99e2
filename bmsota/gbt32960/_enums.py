"""The code tables of GB/T 32960.3: commands, reply flags, states, alarm bits.

2016 tables 3, 4, 5, 9, 11, 18, B.12 and B.15; 2025 where it differs. Every wire code that has a name in the text has a
member here. Codes without a name stay plain integers in the messages, so that nothing is lost on the way through.
"""

from __future__ import annotations

from enum import Enum, IntEnum, IntFlag
from typing import Final


class Edition(Enum):
    """An edition of the standard. Its value is the two start bytes, which decide how everything behind them is read."""

    GBT2016 = b"##"
    GBT2025 = b"$$"


class Sentinel(Enum):
    """What stands in place of a number the terminal could not measure. Survives decode and encode unchanged.

    Deliberately no number: arithmetic on a value that is not there must fail, not give 6553.5 V.
    """

    ABNORMAL = "abnormal"
    """0xFE, 0xFFFE or 0xFFFFFFFE: the sensor reports a fault."""
    INVALID = "invalid"
    """0xFF, 0xFFFF or 0xFFFFFFFF: there is no value."""


class Command(IntEnum):
    """Command identifiers (2016 tables 3 and B.2; 2025 table B.2) and those of our extension (docs/protocol.md)."""

    VEHICLE_LOGIN = 0x01
    REALTIME_REPORT = 0x02
    BACKFILL_REPORT = 0x03
    VEHICLE_LOGOUT = 0x04
    PLATFORM_LOGIN = 0x05
    PLATFORM_LOGOUT = 0x06
    HEARTBEAT = 0x07
    TIME_SYNC = 0x08
    ACTIVATION = 0x09
    """2025 only."""
    ACTIVATION_REPLY = 0x0A
    """2025 only."""
    KEY_EXCHANGE = 0x0B
    """2025 only."""
    QUERY_PARAMETERS = 0x80
    SET_PARAMETERS = 0x81
    CONTROL = 0x82
    UNIT_IDENTITY = 0xC0
    """Our extension: identity and versions of master and slaves."""
    UPGRADE_STATE = 0xC1
    """Our extension: where an upgrade stands."""
    SIGNED_REPORT = 0xC2
    """Our extension: the signed post-boot report."""
    LOCAL_UPGRADES = 0xC3
    """Our extension: what was upgraded over CAN, without us."""
    DOWNLOAD_BLOCK = 0xC4
    """Our extension: a piece of a file, for a unit without HTTP."""


class ReplyFlag(IntEnum):
    """Reply flags (2016 table 4; 0x04 to 0x07 are of 2025)."""

    SUCCESS = 0x01
    ERROR = 0x02
    VIN_DUPLICATED = 0x03
    VIN_UNKNOWN = 0x04
    SIGNATURE_WRONG = 0x05
    STRUCTURE_WRONG = 0x06
    DECRYPTION_FAILED = 0x07
    COMMAND = 0xFE
    """Not a reply: the sender asks for something."""


class Encryption(IntEnum):
    """Encryption of the data unit (2016 table 5; 0x04 and 0x05 are of 2025)."""

    NONE = 0x01
    RSA = 0x02
    AES = 0x03
    SM2 = 0x04
    SM4 = 0x05
    ABNORMAL = 0xFE
    INVALID = 0xFF


class VehicleState(IntEnum):
    """Table 9."""

    STARTED = 1
    OFF = 2
    OTHER = 3


class ChargingState(IntEnum):
    """Table 9."""

    PARKED_CHARGING = 1
    DRIVING_CHARGING = 2
    NOT_CHARGING = 3
    COMPLETE = 4


class RunMode(IntEnum):
    """Table 9."""

    ELECTRIC = 1
    HYBRID = 2
    FUEL = 3


class DcdcState(IntEnum):
    """Table 9, and the high-voltage DC/DC of table 12."""

    WORKING = 1
    OPEN = 2


class MotorState(IntEnum):
    """Table 11."""

    CONSUMING = 1
    GENERATING = 2
    OFF = 3
    READY = 4


class EngineState(IntEnum):
    """Table 13."""

    STARTED = 1
    OFF = 2


BRAKE_PRESSED: Final = 101
"""`VehicleData.brake_pct` when the pedal is pressed and the terminal does not know how far (table B.4, raw 0x65)."""


class GearPosition(IntEnum):
    """Bits 3 to 0 of the gear byte (table A.1)."""

    NEUTRAL = 0
    GEAR_1 = 1
    GEAR_2 = 2
    GEAR_3 = 3
    GEAR_4 = 4
    GEAR_5 = 5
    GEAR_6 = 6
    GEAR_7 = 7
    GEAR_8 = 8
    GEAR_9 = 9
    GEAR_10 = 10
    GEAR_11 = 11
    GEAR_12 = 12
    REVERSE = 13
    DRIVE = 14
    PARK = 15


class Gear(int):
    """The gear byte (table A.1): a position, and whether there is driving and braking force. An integer, so it compares."""

    __slots__ = ()

    @classmethod
    def of(cls, position: GearPosition, *, is_driving: bool = False, is_braking: bool = False) -> Gear:
        """Make the byte from its parts; the reserved bits are zero."""
        return cls(position | (is_driving << 5) | (is_braking << 4))

    @property
    def position(self) -> GearPosition:
        return GearPosition(self & 0x0F)

    @property
    def is_braking(self) -> bool:
        """Bit 4: braking force."""
        return bool(self & 0x10)

    @property
    def is_driving(self) -> bool:
        """Bit 5: driving force."""
        return bool(self & 0x20)

    @property
    def is_invalid(self) -> bool:
        """Bit 7. Reserved in 2016; in 2025 it says that the gear is not valid."""
        return bool(self & 0x80)


class AlarmFlag(IntFlag):
    """The general alarm flags (table 18). A bit stays set until the alarm is cleared. Bits 19 to 27 are of 2025."""

    TEMPERATURE_DIFFERENCE = 1 << 0
    BATTERY_TEMPERATURE_HIGH = 1 << 1
    STORAGE_OVER_VOLTAGE = 1 << 2
    STORAGE_UNDER_VOLTAGE = 1 << 3
    SOC_LOW = 1 << 4
    CELL_OVER_VOLTAGE = 1 << 5
    """2025: of the smallest parallel unit."""
    CELL_UNDER_VOLTAGE = 1 << 6
    """2025: of the smallest parallel unit."""
    SOC_HIGH = 1 << 7
    SOC_JUMP = 1 << 8
    STORAGE_MISMATCH = 1 << 9
    CELL_CONSISTENCY_POOR = 1 << 10
    INSULATION = 1 << 11
    DCDC_TEMPERATURE = 1 << 12
    BRAKE_SYSTEM = 1 << 13
    DCDC_STATE = 1 << 14
    MOTOR_CONTROLLER_TEMPERATURE = 1 << 15
    HIGH_VOLTAGE_INTERLOCK = 1 << 16
    MOTOR_TEMPERATURE = 1 << 17
    STORAGE_OVER_CHARGE = 1 << 18
    MOTOR_OVER_SPEED = 1 << 19
    MOTOR_OVER_CURRENT = 1 << 20
    SUPERCAPACITOR_TEMPERATURE = 1 << 21
    SUPERCAPACITOR_OVER_VOLTAGE = 1 << 22
    THERMAL_EVENT = 1 << 23
    HYDROGEN_LEAK = 1 << 24
    HYDROGEN_PRESSURE = 1 << 25
    HYDROGEN_TEMPERATURE = 1 << 26
    FUEL_CELL_STACK_TEMPERATURE = 1 << 27


class CoordinateSystem(IntEnum):
    """2025, position: what the coordinates mean. The 2016 edition does not say."""

    WGS84 = 1
    GCJ02 = 2
    OTHER = 3


class SignatureAlgorithm(IntEnum):
    """2025 table 8: how a signature was made."""

    SM2 = 1
    RSA = 2
    ECC = 3


class ActivationStatus(IntEnum):
    """2025 table B.4: whether the activation succeeded."""

    SUCCEEDED = 1
    FAILED = 2


class ActivationResult(IntEnum):
    """2025 table B.4: why."""

    OK = 0
    CHIP_ALREADY_ACTIVE = 1
    VIN_DUPLICATED = 2


class ControlId(IntEnum):
    """Terminal control commands (2016 table B.15, 2025 table B.11)."""

    REMOTE_UPGRADE = 0x01
    POWER_OFF = 0x02
    RESET = 0x03
    RESTORE_FACTORY_SETTINGS = 0x04
    DROP_LINK = 0x05
    ALARM = 0x06
    OPEN_SAMPLED_MONITORING = 0x07


class ParameterId(IntEnum):
    """Terminal parameters (2016 table B.12, 2025 table B.8)."""

    LOCAL_STORAGE_PERIOD_MS = 0x01
    REPORT_PERIOD_S = 0x02
    ALARM_REPORT_PERIOD = 0x03
    """Milliseconds in 2016, seconds in 2025."""
    PLATFORM_NAME_LENGTH = 0x04
    PLATFORM_NAME = 0x05
    """Has no length of its own: 0x04 must come earlier in the same list."""
    PLATFORM_PORT = 0x06
    HARDWARE_VERSION = 0x07
    FIRMWARE_VERSION = 0x08
    HEARTBEAT_PERIOD_S = 0x09
    TERMINAL_REPLY_TIMEOUT_S = 0x0A
    PLATFORM_REPLY_TIMEOUT_S = 0x0B
    LOGIN_WAIT_MIN = 0x0C
    PUBLIC_PLATFORM_NAME_LENGTH = 0x0D
    PUBLIC_PLATFORM_NAME = 0x0E
    """Has no length of its own: 0x0D must come earlier in the same list."""
    PUBLIC_PLATFORM_PORT = 0x0F
    SAMPLED_MONITORING = 0x10
    """1 on, 2 off."""


class UpgradeLayout(Enum):
    """Which of the field orders of the remote-upgrade string is meant; the standard gives two, the field adds one."""

    B15_TEXT = "b15-text"
    """The order of the 2016 text's table B.15: the URL is first. Numbers as decimal text. Our default."""
    B16_TEXT = "b16-text"
    """The order of table B.16: the URL is ninth. Numbers as decimal text."""
    B16_BINARY = "b16-binary"
    """The order of table B.16; address, port and time limit as 6, 2 and 2 raw bytes between the separators."""


class NodeRole(IntEnum):
    """Extension: what a node is in its unit."""

    MASTER = 0
    SLAVE = 1


class NodeState(IntEnum):
    """Extension: what a node is doing."""

    RUNNING = 0
    BOOTLOADER = 1
    ABSENT = 2


class FaultState(IntEnum):
    """Extension: what happened to a fault."""

    CLEARED = 0
    ONSET = 1


class LocalUpgradeOutcome(IntEnum):
    """Extension: how an upgrade over CAN ended."""

    SUCCEEDED = 1
    FAILED = 2
    REVERTED = 3
    """The node went back to the image it had before."""


class UpgradeStateCode(IntEnum):
    """Extension: where an upgrade stands."""

    INSTRUCTED = 1
    WAITING_SAFE_STATE = 2
    AUTHENTICATING = 3
    DOWNLOADING = 4
    DOWNLOAD_COMPLETE = 5
    SWITCHING = 6
    FLASHING_SLAVES = 7
    SELF_TEST = 8
    SUCCEEDED = 9
    FAILED = 10
    ROLLED_BACK = 11
    REJECTED = 12
    CANCELLED = 13
