"""Battery physics in columns: `Packs` of a `PackDesign`, cells of a `Chemistry`. Knows no device and no protocol."""

from __future__ import annotations

from bmsota_sim.physics.chemistry import LFP, NMC, Chemistry
from bmsota_sim.physics.packs import PackDesign, Packs

__all__ = ["LFP", "NMC", "Chemistry", "PackDesign", "Packs"]
