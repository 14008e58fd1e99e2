"""The messages of the cloud link: what the data unit of a frame says.

2016 tables 6 to 8, 20 to 22, B.9 to B.17; 2025 tables 31, B.3 and B.4 for activation and keys.

Values only: which byte stands where is in `_tables`, which message belongs to which command in `_codec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from bmsota.gbt32960._enums import ActivationResult, ActivationStatus, Encryption, ParameterId, Sentinel, UpgradeLayout
from bmsota.gbt32960._extension import (
    BlockReply,
    BlockRequest,
    LocalUpgrades,
    SignedReport,
    UnitIdentity,
    UpgradeState,
)
from bmsota.gbt32960._value import Value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from bmsota.gbt32960._bodies import Body, Signature

BodyT = TypeVar("BodyT", bound="Body")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class VehicleLogin(Value):
    """0x01 vehicle login (table 6)."""

    time: datetime
    serial: int
    """1 to 65531, one more at each login, from 1 again each day."""
    iccid: str
    subsystem_codes: tuple[str, ...] = ()
    subsystem_count: int | None = None
    """How many subsystems there are. Needed only where their codes are not sent; otherwise taken from the codes."""
    code_length: int | None = None
    """Bytes of each code on the wire. Taken from the longest code if not given; 0 where no codes are sent."""

    def __post_init__(self) -> None:
        # What the wire carries is filled in, so that a login equals its own round trip.
        if self.subsystem_count is None:
            object.__setattr__(self, "subsystem_count", len(self.subsystem_codes))
        if self.code_length is None:
            longest = max((len(code) for code in self.subsystem_codes), default=0)
            object.__setattr__(self, "code_length", longest)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class VehicleLogin2025(Value):
    """0x01 vehicle login, 2025. A vehicle whose batteries are swapped logs in again after each swap."""

    time: datetime
    serial: int
    """1 to 65531, one more at each login, from 1 again each day."""
    iccid: str
    pack_codes: tuple[tuple[str, ...], ...] = ()
    """For each BMS the codes of its packs (GB/T 34014, 24 characters), in their order. A BMS may have none."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Report(Value):
    """0x02 real-time report and 0x03 backfill report (table 7); the command of the frame tells them apart."""

    time: datetime
    """When the values were collected."""
    bodies: tuple[Body, ...]

    def get(self, body_class: type[BodyT]) -> BodyT | None:
        """The first body of exactly this class; None if the report has none. `bodies` has all, of which a class may have several."""
        for body in self.bodies:
            if type(body) is body_class:
                return body
        return None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class VehicleLogout(Value):
    """0x04 vehicle logout (table 20)."""

    time: datetime
    serial: int
    """That of the login."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PlatformLogin(Value):
    """0x05 platform login (table 21)."""

    time: datetime
    serial: int
    user: str
    password: str
    cipher: int = 1
    """As `Encryption`."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PlatformLogout(Value):
    """0x06 platform logout (table 22)."""

    time: datetime
    serial: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Heartbeat(Value):
    """0x07 heartbeat: an empty data unit."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TimeSync(Value):
    """0x08 terminal time synchronisation: an empty data unit. The reply is a `TimeReply` with the platform's time."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Activation(Value):
    """0x09 activation, 2025 table B.3: the terminal's security chip introduces its public key."""

    time: datetime
    chip_id: str
    """Up to 16 characters, padded with blanks on the wire."""
    public_key: bytes
    """In whatever form the two parties agree on: the public text names none."""
    vin: str
    signature: Signature
    """Stands here without the marker 0xFF that it has in a report."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ActivationReply(Value):
    """0x0A reply to the activation, 2025 table B.4. A command of its own, from the platform."""

    status: ActivationStatus | int
    result: ActivationResult | int = ActivationResult.OK


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class KeyExchange(Value):
    """0x0B exchange of the data unit's key, 2025 table 31; both ways. It has no time of its own."""

    key_type: Encryption | int
    """What the key is for: `Encryption.RSA` to `Encryption.SM4`."""
    key: bytes
    """How it is wrapped is not in the public text; here it is bytes."""
    valid_from: datetime
    valid_until: datetime


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TimeReply(Value):
    """A reply that carries a time and nothing else (6.3.2, and 2025 everywhere)."""

    time: datetime


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EmptyReply(Value):
    """A reply without a data unit, as many platforms send."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EchoReply(Value):
    """A reply that repeats the request with a new time, as annex B of 2016 wants it (B.3.3.2)."""

    time: datetime
    rest: bytes
    """The data unit behind the time, as it came."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ParameterQuery(Value):
    """0x80 query of parameters, the command (table B.9)."""

    time: datetime
    parameter_ids: tuple[int, ...] | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Parameter(Value):
    """One item of `ParameterValues` (table B.12)."""

    parameter_id: int
    value: int | str | bytes | Sentinel
    """bytes where the size of the parameter is not known: it then holds everything up to the end of the data unit."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ParameterValues(Value):
    """0x80 reply to a query (table B.10) and 0x81 setting of parameters (table B.11)."""

    time: datetime
    parameters: tuple[Parameter, ...] | Sentinel
    count: int | None = None
    """How many items the sender announces. Differs from the items here only behind one of unknown size."""

    def __post_init__(self) -> None:
        if self.count is None and not isinstance(self.parameters, Sentinel):
            object.__setattr__(self, "count", len(self.parameters))

    @classmethod
    def build(cls, time: datetime, values: Mapping[int, int | str | Sentinel]) -> ParameterValues:
        """Make the list from a mapping; the lengths that the two platform names need are put in front of them."""
        items: list[Parameter] = []
        for parameter_id, value in values.items():
            if parameter_id in _LENGTH_OF and isinstance(value, str):
                items.append(Parameter(_LENGTH_OF[parameter_id], len(value.encode("gb18030", "surrogateescape"))))
            items.append(Parameter(parameter_id, value))
        return cls(time, tuple(items))


_LENGTH_OF: dict[int, ParameterId] = {
    ParameterId.PLATFORM_NAME: ParameterId.PLATFORM_NAME_LENGTH,
    ParameterId.PUBLIC_PLATFORM_NAME: ParameterId.PUBLIC_PLATFORM_NAME_LENGTH,
}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RemoteUpgrade(Value):
    """Parameters of control 0x01, remote upgrade (tables B.15 and B.16).

    The standard has no size, digest, signature, progress or result here: it is an invitation to come and fetch. What is
    then installed is decided by the signed documents of `bmsota.ota`.
    """

    url: str = ""
    apn: str = ""
    user: str = ""
    password: str = ""
    address: str = ""
    port: int | str | None = None
    """A string where the text on the wire is no plain decimal number; kept as it came."""
    maker_code: str = ""
    hardware_version: str = ""
    firmware_version: str = ""
    connect_limit_min: int | str | None = None
    layout: UpgradeLayout = UpgradeLayout.B15_TEXT


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TerminalAlarm(Value):
    """Parameters of control 0x06, alarm (table B.17)."""

    level: int
    """0 none to 3 (2025: 4) highest, 0xFF invalid."""
    text: str = ""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Control(Value):
    """0x82 terminal control (table B.14)."""

    time: datetime
    control_id: int
    parameters: RemoteUpgrade | TerminalAlarm | bytes = b""
    """bytes for controls without a layout, and for an upgrade string that follows none of the known layouts."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RawMessage(Value):
    """A data unit kept as bytes: enciphered, or of an unknown or foreign command."""

    data: bytes
    is_plain: bool = False
    """In a frame whose encryption is set: whether these bytes are the plain text, not the ciphertext."""


Message = (
    VehicleLogin
    | VehicleLogin2025
    | Report
    | VehicleLogout
    | PlatformLogin
    | PlatformLogout
    | Heartbeat
    | TimeSync
    | Activation
    | ActivationReply
    | KeyExchange
    | TimeReply
    | EmptyReply
    | EchoReply
    | ParameterQuery
    | ParameterValues
    | Control
    | UnitIdentity
    | UpgradeState
    | SignedReport
    | LocalUpgrades
    | BlockRequest
    | BlockReply
    | RawMessage
)
"""Any data unit."""
