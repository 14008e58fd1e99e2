"""Virtual BMS units, fleets of them, and a virtual bench. Needs the extra `sim`: `pip install 'bmsota[sim]'`.

A fleet in virtual time, against a platform in this process:

    from bmsota_sim import SessionPlatform, packaged_scenario, parse_scenario, virtual_fleet

    platform = SessionPlatform()
    fleet = virtual_fleet(parse_scenario(packaged_scenario("reports")), 1, platform)
    fleet.run(600.0)

`bmsota_sim.bench` is the virtual bench; `bmsota_sim.demo`, which alone needs the extra `cloud`, is the demo.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bmsota._extras import needs_extra

if TYPE_CHECKING:
    from bmsota_sim.fleet import Fleet, virtual_fleet
    from bmsota_sim.kernel import Kernel
    from bmsota_sim.realtime import RealTimeDriver, TcpUplink
    from bmsota_sim.scenario import Scenario, packaged_scenario, parse_scenario
    from bmsota_sim.session_platform import SessionPlatform, VehicleTraffic
    from bmsota_sim.unit import PackView, Unit, UnitFigures
    from bmsota_sim.virtual import MemoryPlatform, MemoryUplink

__all__ = [
    "Fleet",
    "Kernel",
    "MemoryPlatform",
    "MemoryUplink",
    "PackView",
    "RealTimeDriver",
    "Scenario",
    "SessionPlatform",
    "TcpUplink",
    "Unit",
    "UnitFigures",
    "VehicleTraffic",
    "packaged_scenario",
    "parse_scenario",
    "virtual_fleet",
]

# Loaded at the first use of a name: the command line must be able to say which extra is missing.
_MODULES = {
    "fleet": ("Fleet", "virtual_fleet"),
    "kernel": ("Kernel",),
    "realtime": ("RealTimeDriver", "TcpUplink"),
    "scenario": ("Scenario", "packaged_scenario", "parse_scenario"),
    "session_platform": ("SessionPlatform", "VehicleTraffic"),
    "unit": ("PackView", "Unit", "UnitFigures"),
    "virtual": ("MemoryPlatform", "MemoryUplink"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needs_extra(__name__, "sim"):
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
