"""What the vehicles of a series are made of.

A profile is data: how many slaves, what each slave measures, which cells, which hardware classes, how its terminals report. F7 and E7 are
the two series with a 4G modem and positioning. A variant of a series has its hardware, images and releases, and another pack.
"""

from __future__ import annotations

from dataclasses import dataclass

from bmsota.gbt32960 import Sentinel
from bmsota.master import LFP_ALARM_LIMITS, AlarmLimits, PackLayout
from bmsota_sim.habits import NO_HABITS, ReportHabits

__all__ = ["PROFILES", "SERIES", "SeriesProfile"]

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
    variant: str = ""
    """Which of its series: another pack with the same hardware. Empty: the series itself."""
    habits: ReportHabits = NO_HABITS
    """How its terminals report."""

    def __post_init__(self) -> None:
        _ = self.layout  # Refuses a pack that no report can carry.

    @property
    def name(self) -> str:
        """What a scenario calls it."""
        return f"{self.series}-{self.variant}" if self.variant else self.series

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
    profile.name: profile
    for profile in (
        SeriesProfile("F7", slave_count=8, cells_per_slave=12, probes_per_slave=4, chemistry="nmc", capacity_ah=150.0),
        SeriesProfile("E7", slave_count=3, cells_per_slave=12, probes_per_slave=4, chemistry="lfp", capacity_ah=100.0),
        # Reports as long as those of two real vehicles in a public export: 464 bytes, 478 with a motor; and 166.
        SeriesProfile(
            "F7",
            slave_count=12,
            cells_per_slave=12,
            probes_per_slave=6,
            chemistry="nmc",
            capacity_ah=150.0,
            variant="144",
            habits=ReportHabits(
                body_order=("vehicle", "motors", "position", "extremes", "alarms", "temperatures", "voltages"),
                motors_only_when_started=True,
                reports_behind_logout=True,
                silent_h=(0.1, 2.0),
            ),
        ),
        SeriesProfile(
            "E7",
            slave_count=1,
            cells_per_slave=22,
            probes_per_slave=4,
            chemistry="lfp",
            capacity_ah=200.0,
            variant="22",
            habits=ReportHabits(
                body_order=("alarms", "vehicle", "extremes", "position", "motors"),
                unwired_cells=(21, 22),
                unwired_probes=(4,),
                parked_current_a=-1000.0,
                parked_insulation_kohm=Sentinel.ABNORMAL,
                silent_h=(1.0, 7.3),
            ),
        ),
    )
}
SERIES = {name: profile for name, profile in PROFILES.items() if not profile.variant}
"""Those of which there are sample images."""
