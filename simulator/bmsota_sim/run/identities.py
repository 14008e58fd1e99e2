"""Who a unit is: VIN, ICCID, hardware ids and device key, all by its group and its number in the group.

Positions 6 to 8 and 11 of the VIN are a code for the group's name, the last six its number. So two groups of one profile have no VIN in
common, and a further group or unit changes no other's. VIN and ICCID are the same for every seed: they can be registered once.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from bmsota.errors import ConfigurationError
from bmsota_sim.identity import VirtualUnitIdentity, device_secret, vin_with_check_digit
from bmsota_sim.profiles import PROFILES
from bmsota_sim.streams import stream_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota_sim.run.model import FleetScenario
    from bmsota_sim.run.selection import UnitId

__all__ = ["check_group_codes", "group_code", "identity", "slave_hwid"]

# Those of a VIN: no I, O, Q.
_LETTERS = "0123456789ABCDEFGHJKLMNPRSTUVWXYZ"
_GENERATIONS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@cache
def group_code(group: str) -> str:
    """Four characters that stand for the group's name."""
    number = int.from_bytes(stream_bytes(0, group, "group code")[:8])
    code = ""
    for _ in range(4):
        number, digit = divmod(number, len(_LETTERS))
        code += _LETTERS[digit]
    return code


def check_group_codes(scenario: FleetScenario) -> Iterator[str]:
    """Groups whose code is that of an earlier one: one pair of names in a million."""
    seen: dict[str, str] = {}
    for group in scenario.groups:
        earlier = seen.setdefault(group_code(group), group)
        if earlier != group:
            yield f"the groups {earlier!r} and {group!r} would share their VINs; rename one"


def slave_hwid(seed: int, unit: UnitId, position: int, *, generation: int = 0) -> str:
    """16 characters; a replaced slave is the next *generation* at the same position.

    Raises:
        ConfigurationError: a unit has at most 35 replacements at a position.
    """
    if not 0 <= generation < len(_GENERATIONS):
        raise ConfigurationError(f"{unit}: expected at most {len(_GENERATIONS) - 1} replacements of slave {position}")
    drawn = stream_bytes(seed, f"{unit}/{position}", f"slave hwid {generation}").hex()[:2].upper()
    return f"S{group_code(unit.group)}{unit.number:06d}{position:02d}{_GENERATIONS[generation]}{drawn}"


def identity(scenario: FleetScenario, seed: int, unit: UnitId) -> VirtualUnitIdentity:
    """Who *unit* is in the run with *seed*."""
    profile = PROFILES[scenario.groups[unit.group].profile]
    code = group_code(unit.group)
    its_vin = vin_with_check_digit(f"LBM{profile.series:0>2}{code[:3]}0R{code[3]}{unit.number:06d}")
    return VirtualUnitIdentity(
        number=unit.number,
        vin=its_vin,
        iccid=f"898600{int.from_bytes(stream_bytes(0, unit.group, 'iccid')[:8]) % 10**8:08d}{unit.number:06d}",
        master_hwid=f"M{code}{unit.number:06d}{stream_bytes(seed, str(unit), 'master hwid').hex()[:5].upper()}",
        slave_hwids=tuple(slave_hwid(seed, unit, position) for position in range(1, profile.slave_count + 1)),
        device_secret=device_secret(seed, str(unit)),
    )
