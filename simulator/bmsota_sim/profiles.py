"""What the vehicles of a series are made of.

A profile is data: how many slaves, what each slave measures, which cells, which hardware classes. F7 and E7 are the two
series with a 4G modem and positioning; a further series is one more entry here or in a scenario file.
"""

from __future__ import annotations

from dataclasses import dataclass

from bmsota.master import LFP_ALARM_LIMITS, AlarmLimits, PackLayout

__all__ = ["PROFILES", "SeriesProfile"]

VENDOR = "bmsota.example"


@dataclass(frozen=True, slots=True)
class SeriesProfile:
    """A series of vehicles: one master and equal slaves."""

    series: str
    slave_count: int
    cells_per_slave: int
    probes_per_slave: int
    chemistry: str
    """Name of a cell parameter set in `bmsota_sim.physics`."""
    capacity_ah: float
    has_positioning: bool = True
    vendor: str = VENDOR
    bootloader_dbc: str = "bms_bootloader"
    """Name of one of `dbc/bms_bootloader*.dbc`: which identifiers its bootloaders use, and which data frames."""
    data_bitrate_bps: int | None = None
    """Of its internal bus; None: classic CAN."""

    def __post_init__(self) -> None:
        _ = self.layout  # Refuses a pack that no report can carry.

    @property
    def layout(self) -> PackLayout:
        """How its cells and probes are spread over its slaves."""
        return PackLayout(
            slave_count=self.slave_count, cells_per_slave=self.cells_per_slave, probes_per_slave=self.probes_per_slave
        )

    @property
    def alarm_limits(self) -> AlarmLimits:
        """Those of its cells."""
        return LFP_ALARM_LIMITS if self.chemistry == "lfp" else AlarmLimits()

    @property
    def cell_count(self) -> int:
        return self.layout.cell_count

    @property
    def probe_count(self) -> int:
        return self.layout.probe_count

    @property
    def master_class_name(self) -> str:
        return f"{self.series}-master"

    @property
    def slave_class_name(self) -> str:
        return f"{self.series}-slave"


PROFILES = {
    profile.series: profile
    for profile in (
        SeriesProfile("F7", slave_count=8, cells_per_slave=12, probes_per_slave=4, chemistry="nmc", capacity_ah=150.0),
        SeriesProfile("E7", slave_count=3, cells_per_slave=12, probes_per_slave=4, chemistry="lfp", capacity_ah=100.0),
    )
}
