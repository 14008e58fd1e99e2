"""Vehicles at fleet fidelity: columns over all units that are due, instead of a bus and its nodes for each.

`quantise` takes physics to the integers that the internal bus carries, `ReportColumns` those to frames, `ColumnFleet` lets vehicles
live and report. All follow the rule of
docs/decisions/0033-two-fidelities.md: a full unit in the same state sends the same bytes.
"""

from __future__ import annotations

from bmsota_sim.columns.fleet import ColumnFleet, ColumnUnit, FleetCounts
from bmsota_sim.columns.quantise import cells_on_bus, probes_on_bus
from bmsota_sim.columns.reports import ReportColumns, VehicleRows

__all__ = ["ColumnFleet", "ColumnUnit", "FleetCounts", "ReportColumns", "VehicleRows", "cells_on_bus", "probes_on_bus"]
