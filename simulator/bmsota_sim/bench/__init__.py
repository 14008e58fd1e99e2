"""The virtual bench: adapters that any CAN tool can open, and behind them a paced bus with a master and slaves.

`bmsota-sim bench` on the command line; `Bench` in Python, for tests and for systems without pseudo terminals.
docs/bench.md is the guide.
"""

from __future__ import annotations

from bmsota_sim.bench._bench import Bench
from bmsota_sim.bench._commands import BenchCommands
from bmsota_sim.bench._options import SLAVES_MAX, BenchOptions, BenchProtocol, BenchTopology
from bmsota_sim.bench._world import AdapterSeat, BenchWorld, NodeRow

__all__ = [
    "SLAVES_MAX",
    "AdapterSeat",
    "Bench",
    "BenchCommands",
    "BenchOptions",
    "BenchProtocol",
    "BenchTopology",
    "BenchWorld",
    "NodeRow",
]
