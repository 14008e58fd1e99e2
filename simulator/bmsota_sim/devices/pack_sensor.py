"""The sensor in a pack's main line: current and state of charge, on the internal bus once a round of measurements.

It sends before the slaves (`devices.phase`), with the CRC and the alive counter of `PackSensor`. It cannot be flashed.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Protocol

from bmsota.master import SensorMessages
from bmsota_sim.devices.frame_faults import FrameFault, FrameFaultKind, new_history
from bmsota_sim.devices.phase import SENSOR_OFFSET_NS
from bmsota_sim.devices.slave import BOOT_TIME_NS

if TYPE_CHECKING:
    from bmsota.signals import Database
    from bmsota_sim.kernel import Kernel, Timer
    from bmsota_sim.links.canbus import CanBus

__all__ = ["MainLine", "PackSensor"]


class MainLine(Protocol):
    """What there is to measure."""

    def current_a(self) -> float: ...
    def soc_pct(self) -> float: ...


class PackSensor:
    """One sensor, switched off."""

    def __init__(
        self, *, kernel: Kernel, bus: CanBus, database: Database, name: str, line: MainLine, period_ns: int, seed: str
    ) -> None:
        self._kernel = kernel
        self._messages = SensorMessages(database)
        self._line = line
        self._period_ns = period_ns
        self._seed = seed
        self._port = bus.attach(lambda _frame, _now_ns: None, name=name, accepts=())
        self._timer: Timer | None = None
        self._alive = 0
        self._history = new_history()
        self._faults: list[FrameFault] = []

    def power_on(self) -> None:
        """Boot, then measure."""
        if self._timer is None:
            self._alive = 0
            self._history.clear()
            self._timer = self._kernel.call_in(BOOT_TIME_NS, self._booted)

    def power_off(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def disturb_frames(self, kind: FrameFaultKind, rounds: int) -> None:
        """Let its frame go wrong in the next *rounds* rounds."""
        random = Random(f"{self._seed}/{kind.value}")  # noqa: S311 - a replayable draw, not a secret
        self._faults.append(FrameFault(kind, rounds=rounds, random=random))

    @property
    def frame_faults(self) -> frozenset[str]:
        """The kinds of frame faults that have happened."""
        return frozenset(fault.kind.value for fault in self._faults if fault.happened)

    def _booted(self) -> None:
        period, now_ns = self._period_ns, self._kernel.now_ns
        self._timer = self._kernel.call_at(now_ns - now_ns % period + period + SENSOR_OFFSET_NS, self._measure)

    def _measure(self) -> None:
        self._timer = self._kernel.call_in(self._period_ns, self._measure)
        line = self._line
        frames = [self._messages.measurement(line.current_a(), line.soc_pct(), alive=self._alive)]
        self._alive += 1
        sent = frames
        for fault in self._faults:
            sent = fault.disturb(sent, self._history)
        self._history.append(frames)
        for frame in sent:
            self._port.send(frame)
