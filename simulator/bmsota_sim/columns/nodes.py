"""What a unit of a series says of its nodes after a boot: taken from one full unit that boots once, with another's hardware ids.

A full unit finds its slaves over the internal bus and tells the platform who they are, in the clear (0xC0) and signed (0xC2). A unit
of columns has no bus. All units of a series say the same but for hardware ids, signature, counter and time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final

from bmsota.gbt32960 import Command, ExtensionReceived, SignedReport, UnitIdentity, beijing_time
from bmsota.ota import verify_identity
from bmsota_sim import defaults
from bmsota_sim.devices.master import BOOT_TIME_NS
from bmsota_sim.devices.phase import discovery_begins
from bmsota_sim.devices.unit import FullUnit
from bmsota_sim.devices.vehicle import VirtualVehicle
from bmsota_sim.fleet import pack_design
from bmsota_sim.identity import unit_identity
from bmsota_sim.kernel import MS, SECOND, Kernel
from bmsota_sim.links.uplink import Modem
from bmsota_sim.physics import Packs
from bmsota_sim.profiles import PROFILES
from bmsota_sim.session_platform import SessionPlatform
from bmsota_sim.trace import Trace
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink

if TYPE_CHECKING:
    from bmsota.gbt32960 import NodeIdentity, PlatformEvent
    from bmsota.ota import IdentifiedNode
    from bmsota_sim.identity import VirtualUnitIdentity

__all__ = ["SLAVE_BOOT_NS", "SeriesNodes", "series_nodes"]

SLAVE_BOOT_NS: Final = 200 * MS
"""`MasterConfiguration.slave_boot_ns`: so long after its own boot a master asks its slaves who they are."""
_QUIET_NS: Final = 60 * SECOND
_WAIT_NS: Final = 2 * SECOND


@dataclass(frozen=True, slots=True)
class SeriesNodes:
    """The nodes of one unit of a series, master first, and how long they take to answer."""

    plain: tuple[NodeIdentity, ...]
    signed: tuple[IdentifiedNode, ...]
    duration_ns: int
    """From a master's question to all answers, on a quiet bus."""

    def discovered_ns(self, boot_ns: int) -> int:
        """When a master that has booted at *boot_ns* knows its slaves."""
        return discovery_begins(boot_ns + SLAVE_BOOT_NS) + self.duration_ns

    def identity(self, unit: VirtualUnitIdentity, now_ns: int) -> UnitIdentity:
        """What *unit* says in the clear."""
        hwids = (unit.master_hwid, *unit.slave_hwids)
        nodes = tuple(replace(node, hwid=hwid, serial=hwid) for node, hwid in zip(self.plain, hwids, strict=True))
        return UnitIdentity(beijing_time(now_ns), nodes)

    def identified(self, unit: VirtualUnitIdentity) -> tuple[IdentifiedNode, ...]:
        """What *unit* signs."""
        hwids = (unit.master_hwid, *unit.slave_hwids)
        return tuple(replace(node, hwid=hwid, serial=hwid) for node, hwid in zip(self.signed, hwids, strict=True))


@cache
def series_nodes(name: str) -> SeriesNodes:
    """Those of a new unit of the profile *name*, with the sample images."""
    profile = PROFILES[name]
    series = profile.series
    identity = unit_identity(0, series, 1, profile.slave_count)
    heard: list[tuple[int, PlatformEvent]] = []
    kernel = Kernel(VIRTUAL_START_NS)
    platform = SessionPlatform(received=lambda event, now_ns: heard.append((now_ns, event)))
    unit = FullUnit(
        kernel=kernel,
        internal_dbc=defaults.database("bms_internal"),
        bootloader_dbc=defaults.database(profile.bootloader_dbc),
        data_bitrate_bps=profile.data_bitrate_bps,
        modem=Modem(kernel, MemoryUplink(kernel, platform, delay_ns=0), rate_bytes_per_s=SECOND),
        vehicle=VirtualVehicle(longitude_deg=0.0, latitude_deg=0.0, heading_rad=0.0, odometer_km=0.0),
        trace=Trace(),
        identity=identity,
        profile=profile,
        keys=defaults.unit_keys(),
        factory=defaults.factory_images(series),
        packs=Packs(pack_design(profile), [identity.vin], seed=0, soc=0.5),
        seed=0,
        report_period_ns=_QUIET_NS,
        heartbeat_period_ns=_QUIET_NS,
        measure_period_ns=_QUIET_NS,
    )
    unit.switch_on()
    kernel.run_until(kernel.now_ns + _WAIT_NS)
    told = {
        event.frame.command: (at, event.frame.message) for at, event in heard if isinstance(event, ExtensionReceived)
    }
    discovered_ns, plain = told[Command.UNIT_IDENTITY]
    _, signed = told[Command.SIGNED_REPORT]
    assert isinstance(plain, UnitIdentity)
    assert isinstance(signed, SignedReport)
    return SeriesNodes(
        plain=plain.nodes,
        signed=verify_identity(signed.document, [identity.device_key.public_key()]).nodes,
        duration_ns=discovered_ns - discovery_begins(VIRTUAL_START_NS + BOOT_TIME_NS + SLAVE_BOOT_NS),
    )
