"""How the terminals of a series report beside what the standard asks for: the habits of real vehicles, as data of a profile.

Seen in exports of real vehicles (and allowed by GB/T 32960.3-2016, 7.2.1, which fixes no order of the bodies): temperatures before
voltages, no motor body while the vehicle is off, placeholders where nothing is measured, a last report behind the logout, hours without a sign
of life. A full unit and one of columns have them alike: both let their bodies go through `ReportHabits.shaped` and what they send through
`BehindLogout.sent`.

Left out: bodies with wrong lengths and other broken frames. A platform must refuse those; these it must keep.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from operator import xor
from typing import TYPE_CHECKING, Any, Final

from bmsota.errors import ConfigurationError
from bmsota.gbt32960 import (
    Alarms,
    Alarms2025,
    CellVoltages,
    CellVoltages2025,
    Command,
    DriveMotors,
    DriveMotors2025,
    Extremes,
    Position,
    Position2025,
    ProbeTemperatures,
    ProbeTemperatures2025,
    Sentinel,
    VehicleData,
    VehicleData2025,
    VehicleState,
    beijing_time,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota.gbt32960 import Body

__all__ = ["BODY_KINDS", "NO_HABITS", "BehindLogout", "ReportHabits"]

BODY_KINDS: Final = {
    "vehicle": (VehicleData, VehicleData2025),
    "motors": (DriveMotors, DriveMotors2025),
    "position": (Position, Position2025),
    "extremes": (Extremes,),
    "alarms": (Alarms, Alarms2025),
    "voltages": (CellVoltages, CellVoltages2025),
    "temperatures": (ProbeTemperatures, ProbeTemperatures2025),
}
"""The bodies of a report, by a name that both editions share."""
_KIND_OF: Final = {body: kind for kind, bodies in BODY_KINDS.items() for body in bodies}

_HEADER_SIZE_BYTES: Final = 24
_TIME: Final = slice(24, 30)
_IS_COMMAND: Final = 0xFE


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportHabits:
    """What the terminals of a series do with their reports. The defaults are those of `bmsota.master`.

    Raises:
        ConfigurationError: an unknown body, one that is named twice, or hours that are no span.
    """

    body_order: tuple[str, ...] = ()
    """Names of `BODY_KINDS`; bodies that are not among them follow in their own order. Empty: by their types."""
    motors_only_when_started: bool = False
    """While the vehicle is off, its reports have no body of motors."""
    unwired_cells: tuple[int, ...] = ()
    """Numbers of cells, from 1 on, whose place in a report is "abnormal", whatever they have."""
    unwired_probes: tuple[int, ...] = ()
    """Likewise, "invalid"."""
    parked_current_a: float | Sentinel | None = None
    """What stands in the place of the pack's current while the vehicle is off; None: the current."""
    parked_insulation_kohm: int | Sentinel | None = None
    reports_behind_logout: bool = False
    """Its last report is sent once more behind the logout, with the time of then."""
    silent_h: tuple[float, float] | None = None
    """Once a day a unit whose vehicle is parked is switched off for a time between these, in hours, drawn for each unit and day."""

    def __post_init__(self) -> None:
        for kind in self.body_order:
            if kind not in BODY_KINDS:
                raise ConfigurationError(f"body_order: expected {', '.join(BODY_KINDS)}, got {kind!r} (habits)")
            if self.body_order.count(kind) > 1:
                raise ConfigurationError(f"body_order: {kind!r} is named twice (habits)")
        if self.silent_h is not None and not 0 < self.silent_h[0] <= self.silent_h[1] <= 24:
            low, high = self.silent_h
            raise ConfigurationError(
                f"silent_h: expected hours between 0 and 24, lowest first, got {low}, {high} (habits)"
            )

    @property
    def shapes(self) -> bool:
        """Whether a report is another one than without habits."""
        return self != ReportHabits(reports_behind_logout=self.reports_behind_logout, silent_h=self.silent_h)

    def shaped(self, bodies: Sequence[Body]) -> tuple[Body, ...]:
        """The *bodies* of a master's report, as these terminals send them."""
        if not self.shapes:
            return tuple(bodies)
        is_off = any(
            isinstance(body, VehicleData | VehicleData2025) and body.vehicle_state == VehicleState.OFF
            for body in bodies
        )
        kept = [
            self._placed(body, is_off=is_off)
            for body in bodies
            if not (is_off and self.motors_only_when_started and _KIND_OF.get(type(body)) == "motors")
        ]
        if self.body_order:
            rank = {kind: place for place, kind in enumerate(self.body_order)}
            kept.sort(key=lambda body: rank.get(_KIND_OF.get(type(body), ""), len(rank)))
        return tuple(kept)

    def _placed(self, body: Body, *, is_off: bool) -> Body:
        """*body* with its placeholders."""
        current = self.parked_current_a if is_off else None
        match body:
            case VehicleData() | VehicleData2025():
                insulation = self.parked_insulation_kohm if is_off else None
                return replace(
                    body,
                    total_current_a=body.total_current_a if current is None else current,
                    insulation_kohm=body.insulation_kohm if insulation is None else insulation,
                )
            case CellVoltages(subsystems=(one,)):
                cells = _unwired(one.cell_voltages_v, self.unwired_cells, Sentinel.ABNORMAL)
                amperes = one.current_a if current is None else current
                return CellVoltages((replace(one, current_a=amperes, cell_voltages_v=cells),))
            case CellVoltages2025(packs=(pack,)):
                cells = _unwired(pack.cell_voltages_v, self.unwired_cells, Sentinel.ABNORMAL)
                amperes = pack.current_a if current is None else current
                return CellVoltages2025((replace(pack, current_a=amperes, cell_voltages_v=cells),))
            case ProbeTemperatures(subsystems=(one,)):
                probes = _unwired(one.temperatures_c, self.unwired_probes, Sentinel.INVALID)
                return ProbeTemperatures((replace(one, temperatures_c=probes),))
            case ProbeTemperatures2025(packs=(pack,)):
                probes = _unwired(pack.temperatures_c, self.unwired_probes, Sentinel.INVALID)
                return ProbeTemperatures2025((replace(pack, temperatures_c=probes),))
        return body


NO_HABITS: Final = ReportHabits()


def _unwired(values: Any, numbers: tuple[int, ...], placeholder: Sentinel) -> Any:
    """*values* of a body, or its sentinel, with *placeholder* at those *numbers*."""
    if isinstance(values, Sentinel):
        return values
    return tuple(placeholder if number in numbers else value for number, value in enumerate(values, start=1))


class BehindLogout:
    """Keeps a terminal's last report 0x02, and sends it once more behind a logout."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = b""

    def sent(self, data: bytes, now_ns: int) -> bytes:
        """What goes out in place of *data*, whole frames of the terminal."""
        at = 0
        while at + _HEADER_SIZE_BYTES < len(data):
            end = at + _HEADER_SIZE_BYTES + int.from_bytes(data[at + 22 : at + 24]) + 1
            command, flag = data[at + 2], data[at + 3]
            if flag == _IS_COMMAND and command == Command.REALTIME_REPORT:
                self._last = data[at:end]
            elif flag == _IS_COMMAND and command == Command.VEHICLE_LOGOUT and self._last:
                last, self._last = bytearray(self._last), b""
                time = beijing_time(now_ns)
                last[_TIME] = bytes((time.year - 2000, time.month, time.day, time.hour, time.minute, time.second))
                last[-1] = reduce(xor, last[2:-1])
                return data[:end] + bytes(last) + data[end:]
            at = end
        return data
