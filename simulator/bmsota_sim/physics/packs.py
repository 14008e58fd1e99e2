"""Packs of cells in series: one equivalent-circuit model over a whole fleet, in columns.

Each cell is an open-circuit voltage (by its state of charge), a series resistance R0, a fast RC pair and a slow one; it heats by the
losses in all and cools towards its surroundings. Resistances depend on temperature and state of charge. Packs of one design are the rows of the arrays, cells the columns.

Sign: `current_a` above 0 discharges, everywhere in this project.

Strategy. Between two calls the current is constant, and for that the RC pairs and the temperature have exact solutions
(exponentials), so any step is stable and as right as the assumption: one second driving, thirty parked. A step goes through blocks of rows
whose columns stay in the processor's cache, and writes into the same arrays again and again: what it has not to allocate is half of its time. Charge is counted
per pack in float64 because small steps of a float32 sum would be lost; everything else is float32. Each pack's spread is
drawn from (seed, VIN) alone, so a pack behaves the same in whatever company.

The model knows no device: no contactor, no limit, no sensor. The voltage of a cell that is driven beyond 0 or 100 % goes
on along its table for another 5 %; to see that is the BMS's business.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from bmsota_sim.physics.chemistry import NMC, Chemistry

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Column = npt.NDArray[np.float32]
    Rows = npt.NDArray[np.intp]

__all__ = ["PackDesign", "Packs"]

# A pack needs cells for 1,500 V at most and a fleet must fit into memory; beyond this a design is a slip of the pen.
CELLS_MAX = 1024
# What a step can move a state of charge by, for the limits of current: 1 C into a pack, three times that out of it.
CHARGE_C_RATE = 1.0
_SLOPE_OVER = np.float32(0.002)
# Rows that are stepped together.
BLOCK_ROWS = 512
# How many lengths of step are remembered: one second, half a minute.
_COOLED_MAX = 2
_YEAR_S = 365 * 86_400.0
_CYCLE_POWER = 0.83
_KELVIN = 273.15
_REFERENCE_K = 298.15
_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackDesign:
    """What all packs of a series have in common."""

    cell_count: int
    """Cells in series; parallel ones count as one."""
    probe_count: int
    """Temperature probes, spread evenly over the cells."""
    capacity_ah: float = 150.0
    chemistry: Chemistry = NMC
    cooling_w_per_k: float = 0.5
    """From one cell to its surroundings."""
    bleed_ohm: float = 33.0
    """Resistor that balancing puts across a cell."""
    capacity_spread: float = 0.01
    resistance_spread: float = 0.04
    cooling_spread: float = 0.08
    soc_spread: float = 0.006
    """Standard deviations over the cells of a pack, relative to the mean; of the state of charge absolute."""

    def __post_init__(self) -> None:
        if not 0 < self.cell_count <= CELLS_MAX or not 0 < self.probe_count <= self.cell_count:
            got = f"{self.cell_count} cells and {self.probe_count} probes"
            raise ValueError(f"expected 1 to {CELLS_MAX} cells and no more probes than cells, got {got} (pack design)")
        if min(self.capacity_ah, self.cooling_w_per_k, self.bleed_ohm) <= 0:
            raise ValueError("expected capacity, cooling and bleed resistance above 0, got less (pack design)")


class Packs:
    """The packs of many vehicles of one design. Columns are numpy arrays; `step` changes them in place."""

    def __init__(
        self,
        design: PackDesign,
        vins: Sequence[str],
        *,
        seed: int | str,
        soc: float | Sequence[float] | None = None,
        temperature_c: float | Sequence[float] = 20.0,
    ) -> None:
        """Packs at rest.

        Args:
            design: what the packs have in common.
            vins: one pack each, in the order of the rows.
            seed: of the run.
            soc: state of charge at the start, for all or for each; None draws each between 0.4 and 0.9.
            temperature_c: temperature at the start, for all or for each.
        """
        if len(set(vins)) != len(vins):
            raise ValueError("expected each VIN once, got one again (packs)")
        self.design = design
        self.vins = tuple(vins)
        self.row = {vin: index for index, vin in enumerate(vins)}
        """VIN -> row of every column."""
        count, cells, chemistry = len(vins), design.cell_count, design.chemistry
        shape = (count, cells)
        spread = [_draw(seed, vin, design) for vin in vins]
        drawn = np.array([each.soc for each in spread], np.float32)
        start = drawn if soc is None else np.broadcast_to(np.asarray(soc, np.float32), (count,))
        self._soc_start = start[:, None] + _stack([each.soc_offset for each in spread], shape)
        capacity_as = 3600 * design.capacity_ah * _stack([each.capacity for each in spread], shape)
        self._soc_per_as = (1 / capacity_as).astype(np.float32)
        self._resistance = _stack([each.resistance for each in spread], shape) / np.float32(design.capacity_ah)
        cooling = np.float32(design.cooling_w_per_k) * _stack([each.cooling for each in spread], shape)
        self._per_cooling = 1 / cooling
        self._cooling_rate = cooling / np.float32(chemistry.heat_capacity_j_per_k_ah * design.capacity_ah)
        self._ocv = _Table(0.0, 1 / (len(chemistry.ocv_v) - 1), chemistry.ocv_v, chemistry.r_over_soc)
        self._ohms = _Table(
            chemistry.r_temperature_c_min, chemistry.r_temperature_step_c, chemistry.r0_ohm_ah, chemistry.r1_ohm_ah
        )
        self._short_heat_w: dict[tuple[int, int], np.float32] = {}
        self._shorted: dict[tuple[int, int], float] = {}
        """Cells with a short inside, by row and cell, and its resistance."""
        self._opened: set[tuple[int, int]] = set()
        self._heated: dict[int, tuple[slice, float, float]] = {}
        """Cells that heat up from within, by row: which, degrees a second, up to."""
        self._cooled: dict[float, Column] = {}
        """By the length of a step."""
        self._bled_as: npt.NDArray[np.float64] | None = None
        """By cell; None until something is bled."""
        self._slow_v: Column = np.zeros(shape, np.float32)
        self._through_as = np.zeros(count)
        self._aged_s = np.zeros(count)
        """Time as if it had been at 25 degC and half full."""
        self._loss = np.zeros(count)
        rows = min(count, BLOCK_ROWS)
        self._scratch = [np.empty((rows, cells), np.float32) for _ in range(6)]
        self._index = np.empty((rows, cells), np.intp)
        self._worst: tuple[Column, Column] | None = None
        """The highest `_resistance` and `_soc_per_as` of each pack's cells, as long as none changes."""
        self._charge_as = np.zeros(count)
        self.steps = np.zeros(count, np.int64)
        """How often each pack was stepped: what is computed from one stays until that changes."""
        self._resistance_grows_cold = all(
            points[place] >= points[place + 1]
            for points in (chemistry.r0_ohm_ah, chemistry.r1_ohm_ah)
            for place in range(len(points) - 1)
        )
        self._slope_max = np.float32((len(chemistry.ocv_v) - 1) * max(np.diff(chemistry.ocv_v)))
        """Volts per unit of the state of charge, where the open-circuit voltage is steepest."""
        ends = self._ocv(np.array([-1.0, 2.0], np.float32))[1]
        self._factor_max = np.float32(max(*chemistry.r_over_soc, *ends.tolist()))
        self._rc_v: Column = np.zeros(shape, np.float32)
        self.probe_cells = np.linspace(0, cells - 1, design.probe_count).round().astype(np.intp)
        """Which cell each probe sits on."""

        self.current_a: Column = np.zeros(count, np.float32)
        """Of the last step; above 0 discharges."""
        self.cell_temperature_c: Column = np.broadcast_to(np.asarray(temperature_c, np.float32), (count,))[
            :, None
        ] + np.zeros(shape, np.float32)
        self.cell_soc: Column = self._soc_start.copy()
        """0 to 1; beyond, if a pack is driven there."""
        self.cell_ocv_v: Column = self._ocv(self.cell_soc)[0]
        self.cell_voltage_v: Column = self.cell_ocv_v.copy()

    # -- what happens to single cells

    def change_cell(self, row: int, cell: int, *, capacity: float = 1.0, resistance: float = 1.0) -> None:
        """Let a cell have this share of its capacity and so many times its resistance from now on; its state of charge stays."""
        taken_as = np.float32(self._charge_as[row] + (0.0 if self._bled_as is None else self._bled_as[row, cell]))
        self._worst = None
        self._soc_per_as[row, cell] /= np.float32(capacity)
        self._resistance[row, cell] *= np.float32(resistance)
        self._soc_start[row, cell] = self.cell_soc[row, cell] + taken_as * self._soc_per_as[row, cell]

    def short_cell(self, row: int, cell: int, ohm: float | None) -> None:
        """Let a cell discharge itself through *ohm* inside, and heat up by that; None: the short is gone."""
        if ohm is None:
            self._shorted.pop((row, cell), None)
        else:
            self._shorted[row, cell] = ohm

    def open_cell(self, row: int, cell: int, *, is_open: bool) -> None:
        """Break the circuit at a cell, or close it again: no current flows through its pack."""
        if is_open:
            self._opened.add((row, cell))
        else:
            self._opened.discard((row, cell))

    def heat_cells(self, row: int, cells: slice, rise_c_per_s: float, to_c: float) -> None:
        """Let cells heat up from within by so much, until they are as hot as *to_c*, where they stay; 0: they cool."""
        if rise_c_per_s:
            self._heated[row] = (cells, rise_c_per_s, to_c)
        else:
            self._heated.pop(row, None)

    @property
    def pack_voltage_v(self) -> Column:
        """Sum of the cells of each pack."""
        total: Column = self.cell_voltage_v.sum(axis=1)
        return total

    @property
    def soc(self) -> Column:
        """What can still be taken from each pack: the state of charge of its emptiest cell."""
        lowest: Column = self.cell_soc.min(axis=1)
        return lowest

    @property
    def probe_temperature_c(self) -> Column:
        """(packs, probes)."""
        return self.cell_temperature_c[:, self.probe_cells]

    @property
    def charge_ah(self) -> npt.NDArray[np.float64]:
        """Charge taken from each pack since the start; negative if more went in."""
        return self._charge_as / 3600

    @property
    def restless(self) -> frozenset[int]:
        """Rows in which something goes on by itself: a short, a break, heat from within."""
        if not (self._shorted or self._opened or self._heated):
            return _NONE
        return frozenset((*(row for row, _ in self._shorted), *(row for row, _ in self._opened), *self._heated))

    def current_limits_a(
        self,
        cell_v_min: float,
        cell_v_max: float,
        dt_s: float,
        *,
        rows: Rows | None = None,
        wanted_a: npt.NDArray[np.float64] | None = None,
    ) -> tuple[Column, Column]:
        """What each pack can take and give for *dt_s* without a cell leaving its voltages.

        Args:
            cell_v_min: the lowest voltage of a cell.
            cell_v_max: the highest.
            dt_s: how long.
            rows: of these packs alone.
            wanted_a: what each of them is to give, below 0 to take. The limits of a pack that surely bears it are infinite: that is
                found out much faster.

        Returns:
            (charge, discharge), both 0 or more, in amperes for each pack. A cell that is beyond a limit already at rest
            makes it 0.
        """
        every = np.arange(len(self.vins)) if rows is None else rows
        charge, discharge = np.full(len(every), np.inf, np.float32), np.full(len(every), np.inf, np.float32)
        close = np.arange(len(every))
        if wanted_a is not None:
            close = np.flatnonzero(~self._bear(every, wanted_a, cell_v_min, cell_v_max, dt_s))
        if len(close):
            charge[close], discharge[close] = self._limits_a(every[close], cell_v_min, cell_v_max, dt_s)
        for row, _ in self._opened:
            charge[every == row] = discharge[every == row] = 0.0
        return np.maximum(charge, 0), np.maximum(discharge, 0)

    def _bear(
        self, rows: Rows, wanted_a: npt.NDArray[np.float64], cell_v_min: float, cell_v_max: float, dt_s: float
    ) -> npt.NDArray[np.bool_]:
        """Whether each pack surely bears a current: by the worst of its cells in everything."""
        if not self._resistance_grows_cold:
            return np.zeros(len(rows), np.bool_)
        change, slow_change = self._changes(dt_s)
        rest_v = self._rest_v(rows, change, slow_change)
        r0, r1 = self._ohms(self.cell_temperature_c[rows].min(axis=1))
        ohms = r0 + r1 * (change + np.float32(self.design.chemistry.slow_share) * slow_change)
        if self._worst is None:
            self._worst = self._resistance.max(axis=1), self._soc_per_as.max(axis=1)
        resistance_max, soc_per_as_max = self._worst
        ohms *= self._factor_max * resistance_max[rows]
        ohms += self._slope_max * np.float32(dt_s) * soc_per_as_max[rows]
        discharge = (rest_v.min(axis=1) - np.float32(cell_v_min)) / ohms
        charge = (np.float32(cell_v_max) - rest_v.max(axis=1)) / ohms
        # Float32 rounds by far less than this.
        borne: npt.NDArray[np.bool_] = (wanted_a <= 0.99 * discharge) & (-wanted_a <= 0.99 * charge)
        borne &= (discharge > 0) & (charge > 0)
        return borne

    def _changes(self, dt_s: float) -> tuple[np.float32, np.float32]:
        """Which share of its way each RC pair goes in a step."""
        chemistry = self.design.chemistry
        return np.float32(-_expm1(-dt_s / chemistry.tau_s)), np.float32(-_expm1(-dt_s / chemistry.slow_tau_s))

    def _rest_v(self, rows: Rows, change: np.float32, slow_change: np.float32) -> Column:
        """The voltages of cells at the end of a step without current."""
        rest: Column = self.cell_ocv_v[rows] - self._rc_v[rows] * (1 - change)
        rest -= self._slow_v[rows] * (1 - slow_change)
        return rest

    def _limits_a(self, rows: Rows, cell_v_min: float, cell_v_max: float, dt_s: float) -> tuple[Column, Column]:
        soc = self.cell_soc[rows]
        r0, r1 = self._ohms(self.cell_temperature_c[rows])
        change, slow_change = self._changes(dt_s)
        slow_share = np.float32(self.design.chemistry.slow_share)
        ohms = self._resistance[rows] * (r0 + r1 * (change + slow_share * slow_change))
        # By the higher of the resistances at both ends of what a step can move.
        factor = self._ocv(soc)[1]
        ohms *= np.maximum(factor, self._ocv(soc - np.float32(3 * CHARGE_C_RATE * dt_s / 3600))[1])
        rest_v = self._rest_v(rows, change, slow_change)
        # The open-circuit voltage moves with the charge: by the steeper of the lines at both ends of what a step can move.
        moved = self._soc_per_as[rows] * np.float32(dt_s)
        reach = np.float32(CHARGE_C_RATE * dt_s / 3600)
        slope = self._ocv_slope(soc)
        charge_ohms = ohms + np.maximum(slope, self._ocv_slope(soc + reach)) * moved
        discharge_ohms = ohms + np.maximum(slope, self._ocv_slope(soc - 3 * reach)) * moved
        charge: Column = ((np.float32(cell_v_max) - rest_v) / charge_ohms).min(axis=1)
        discharge: Column = ((rest_v - np.float32(cell_v_min)) / discharge_ohms).min(axis=1)
        return charge, discharge

    def _ocv_slope(self, soc: Column) -> Column:
        """Volts per unit of the state of charge."""
        near = np.clip(soc, 0, 1)
        slope: Column = (self._ocv(near + _SLOPE_OVER)[0] - self._ocv(near - _SLOPE_OVER)[0]) / (2 * _SLOPE_OVER)
        return slope

    def step(
        self,
        current_a: npt.ArrayLike,
        dt_s: float,
        *,
        ambient_c: npt.ArrayLike = 20.0,
        balancing: npt.NDArray[np.bool_] | None = None,
        rows: Rows | None = None,
        has_faults: bool = True,
    ) -> None:
        """Let *dt_s* seconds pass.

        Args:
            current_a: one current for each pack (or one for all), constant over the step; above 0 discharges.
            dt_s: any time above 0.
            ambient_c: what the cells cool towards, for each pack or for all.
            balancing: (packs, cells), True where a cell's bleed resistor is on.
            rows: for these packs alone, each once; the columns above are theirs.
            has_faults: whether shorts, breaks and heat from within are there already.

        Raises:
            ValueError: *dt_s* is not above 0, or a column has the wrong shape.
        """
        if not dt_s > 0:
            raise ValueError(f"expected a step above 0 s, got {dt_s} (packs)")
        count = len(self.vins) if rows is None else len(rows)
        at: Rows | slice = slice(None) if rows is None else rows
        amperes = self._column(current_a, count, "current_a")
        ambient = self._column(ambient_c, count, "ambient_c")[:, None]
        faulty = self.restless if has_faults else frozenset()
        places = {row: row if rows is None else int(place) for row in faulty for place in _place_of(row, rows)}
        for row, _ in self._opened:
            if row in places:
                amperes[places[row]] = 0.0
        self.current_a[at] = amperes
        current = amperes[:, None]
        bled = self._bled_current(balancing, at, places, count)
        if bled is not None:
            if self._bled_as is None:
                self._bled_as = np.zeros(self.cell_soc.shape)
            self._bled_as[at] += bled.astype(np.float64) * dt_s
            current = current + bled
        self._charge_as[at] += amperes.astype(np.float64) * dt_s
        self._count_age(at, amperes, dt_s)
        self.steps[at] += 1
        heated = {row: self._heated[row] for row in places if row in self._heated}
        before_c = {row: self.cell_temperature_c[row, cells].copy() for row, (cells, _, _) in heated.items()}
        for first in range(0, count, BLOCK_ROWS):
            block = slice(first, min(first + BLOCK_ROWS, count))
            self._step_block(block if rows is None else rows[block], first, current[block], ambient[block], dt_s)
        for row, (cells, rise_c_per_s, to_c) in heated.items():
            risen = np.minimum(before_c[row] + np.float32(rise_c_per_s * dt_s), np.float32(to_c))
            self.cell_temperature_c[row, cells] = np.maximum(self.cell_temperature_c[row, cells], risen)

    def _bled_current(
        self, balancing: npt.NDArray[np.bool_] | None, at: Rows | slice, places: dict[int, int], count: int
    ) -> Column | None:
        """What leaves single cells: through their bleed resistors, and through shorts, which heat them."""
        bled: Column | None = None
        shape = (count, self.design.cell_count)
        if balancing is not None:
            if balancing.shape != shape:
                raise ValueError(f"expected balancing of shape {shape}, got {balancing.shape} (packs)")
            bled = np.where(balancing, self.cell_voltage_v[at] / np.float32(self.design.bleed_ohm), np.float32(0))
        self._short_heat_w = {}
        for (row, cell), ohm in self._shorted.items():
            if row not in places:
                continue
            bled = np.zeros(shape, np.float32) if bled is None else bled
            # What the open-circuit voltage drives through the short and the cell, until there is nothing left.
            inside = self._resistance[row, cell] * self._ohms(self.cell_temperature_c[row, cell])[0]
            leak_a = self.cell_ocv_v[row, cell] / (ohm + inside) if self.cell_soc[row, cell] > 0 else 0.0
            bled[places[row], cell] += leak_a
            self._short_heat_w[places[row], cell] = np.float32(leak_a**2 * ohm)
        return bled

    def _cooled_of(self, rows: Rows | slice, dt_s: float) -> Column:
        """Which share of its way to the surroundings each cell goes in a step. Most steps are as long as one before."""
        cooled = self._cooled.get(dt_s)
        if cooled is None:
            if len(self._cooled) >= _COOLED_MAX:
                alone: Column = np.expm1(np.float32(-dt_s) * self._cooling_rate[rows])
                return alone
            cooled = self._cooled[dt_s] = np.expm1(np.float32(-dt_s) * self._cooling_rate)
        return cooled[rows]

    def _step_block(self, rows: Rows | slice, first: int, current: Column, ambient: Column, dt_s: float) -> None:
        """One step of some rows. *current* is (rows, 1), or (rows, cells) where cells are bled; *first* is the place of the first."""
        chemistry = self.design.chemistry
        count = len(current)
        place, amper_ohms, r0_v, rc_end, work, heat = (each[:count] for each in self._scratch)
        index = self._index[:count]
        # Of a slice, views, and the step goes in place; of single rows, copies, which are put back.
        states = (
            self.cell_soc,
            self.cell_ocv_v,
            self._rc_v,
            self._slow_v,
            self.cell_temperature_c,
            self.cell_voltage_v,
        )
        own = [each[rows] for each in states]
        soc, ocv, rc, slow, temperature, volts = own
        charge_as = self._charge_as[rows][:, None]
        if self._bled_as is not None:
            charge_as = charge_as + self._bled_as[rows]
        np.multiply(self._soc_per_as[rows], charge_as.astype(np.float32), out=soc)
        np.subtract(self._soc_start[rows], soc, out=soc)

        self._ocv.place(soc, place, index)
        self._ocv.look_up(0, place, index, ocv, work)
        self._ocv.look_up(1, place, index, amper_ohms, work)
        amper_ohms *= self._resistance[rows]
        amper_ohms *= current
        self._ohms.place(temperature, place, index)
        self._ohms.look_up(0, place, index, r0_v, work)
        self._ohms.look_up(1, place, index, rc_end, work)
        r0_v *= amper_ohms
        rc_end *= amper_ohms  # Where the RC pair goes in the end.

        np.copyto(heat, r0_v)
        for pair_v, tau_s, share in ((rc, chemistry.tau_s, 1.0), (slow, chemistry.slow_tau_s, chemistry.slow_share)):
            # What is still missing shrinks by exp(-dt / tau): expm1 keeps the digits of a step that is short against tau.
            change = _expm1(-dt_s / tau_s)
            if share != 1.0:
                rc_end *= np.float32(share)
            gap = np.subtract(pair_v, rc_end, out=place)
            # The mean over the step, so that the heat of a long step is the heat of many short ones.
            heat += rc_end
            heat -= np.multiply(gap, np.float32(change * tau_s / dt_s), out=work)
            np.add(pair_v, np.multiply(gap, np.float32(change), out=work), out=pair_v)
        np.subtract(ocv, r0_v, out=volts)
        volts -= rc
        volts -= slow

        heat *= current
        for (at, cell), watts in self._short_heat_w.items():
            if first <= at < first + count:
                heat[at - first, cell] += watts
        heat *= self._per_cooling[rows]
        gap = np.subtract(temperature, heat, out=work)  # To where heating and cooling are equal.
        gap -= ambient
        gap *= self._cooled_of(rows, dt_s)
        temperature += gap
        if not isinstance(rows, slice):
            for whole, part in zip(states, own, strict=True):
                whole[rows] = part

    # -- age

    def _count_age(self, at: Rows | slice, amperes: Column, dt_s: float) -> None:
        chemistry = self.design.chemistry
        self._through_as[at] += np.abs(amperes, dtype=np.float64) * dt_s
        kelvin = self.cell_temperature_c[at, 0].astype(np.float64) + _KELVIN
        faster = np.exp(chemistry.calendar_activation_k * (1 / _REFERENCE_K - 1 / kelvin))
        share = np.minimum(np.maximum(self.cell_soc[at, 0].astype(np.float64), 0.0), 1.0)
        self._aged_s[at] += dt_s * faster * (0.6 + 0.8 * share)

    @property
    def capacity_loss(self) -> npt.NDArray[np.float64]:
        """Share of its capacity that each pack has lost by its age, as of the last `age`."""
        return self._loss.copy()

    def age(self) -> None:
        """Let capacities and resistances follow what was stored and cycled since the packs were new. Once a day is often enough."""
        chemistry = self.design.chemistry
        cycles = self._through_as / (2 * 3600 * self.design.capacity_ah)
        loss = chemistry.calendar_loss * np.sqrt(self._aged_s / _YEAR_S)
        loss += chemistry.cycle_loss * (cycles / 1000) ** _CYCLE_POWER
        loss = np.minimum(loss, 0.8)
        capacity = ((1 - loss) / (1 - self._loss)).astype(np.float32)[:, None]
        grown = (1 + chemistry.resistance_growth * loss) / (1 + chemistry.resistance_growth * self._loss)
        taken_as = self._charge_as[:, None] + (0.0 if self._bled_as is None else self._bled_as)
        self._worst = None
        self._soc_per_as /= capacity
        self._resistance *= grown.astype(np.float32)[:, None]
        self._soc_start = self.cell_soc + taken_as.astype(np.float32) * self._soc_per_as
        self._loss = loss

    @staticmethod
    def _column(values: npt.ArrayLike, count: int, name: str) -> Column:
        column = np.asarray(values, np.float32)
        if column.shape not in ((), (count,)):
            raise ValueError(f"expected one number or {count}, got shape {column.shape} ({name})")
        return column.copy() if column.shape else np.full(count, column)


class _Table:
    """Functions of the same argument by equally spaced points, straight in between and a little way beyond the ends."""

    # How many intervals beyond the ends the line continues before it stays level: far enough that a cell driven below 0 or
    # above 100 % shows it, and not so far that a resistance becomes negative in the heat.
    _LIMIT = 0.5

    def __init__(self, first: float, step: float, *functions: Sequence[float]) -> None:
        self._lines = []
        for points in functions:
            slope = np.diff(np.array(points, np.float64))
            slope = np.append(slope, slope[-1])  # The last line goes on behind the last point.
            base = np.array(points, np.float64) - slope * np.arange(len(points))
            base[-1] = base[-2]
            self._lines.append((base.astype(np.float32), slope.astype(np.float32)))
        self._lowest, self._highest = np.float32(-self._LIMIT), np.float32(len(functions[0]) - 1 + self._LIMIT)
        self._first = np.float32(first)
        self._per_step = np.float32(1 / step)

    def __call__(self, at: Column) -> list[Column]:
        place = np.clip((at - self._first) * self._per_step, self._lowest, self._highest)
        index = place.astype(np.intp)
        return [base[index] + slope[index] * place for base, slope in self._lines]

    def place(self, at: Column, place: Column, index: npt.NDArray[np.intp]) -> None:
        """Where *at* is in the table: into *place*, and the line it is on into *index*."""
        np.subtract(at, self._first, out=place)
        place *= self._per_step
        np.maximum(place, self._lowest, out=place)
        np.minimum(place, self._highest, out=place)
        np.copyto(index, place, casting="unsafe")  # Towards zero: what is below the first point is on the first line.

    def look_up(self, number: int, place: Column, index: npt.NDArray[np.intp], into: Column, work: Column) -> None:
        """The function of that *number* at a place, into *into*; *work* is overwritten."""
        base, slope = self._lines[number]
        np.take(slope, index, out=work, mode="clip")
        np.take(base, index, out=into, mode="clip")
        work *= place
        into += work


@lru_cache(maxsize=16)
def _expm1(exponent: float) -> float:
    return float(np.expm1(exponent))


def _place_of(row: int, rows: Rows | None) -> Sequence[int]:
    """Where *row* is among *rows*; nothing if it is not."""
    return (row,) if rows is None else np.flatnonzero(rows == row).tolist()


@dataclass(frozen=True, slots=True)
class _Spread:
    """How the cells of one pack differ from the design, and where its charge starts."""

    soc: float
    soc_offset: npt.NDArray[np.float64]
    capacity: npt.NDArray[np.float64]
    resistance: npt.NDArray[np.float64]
    cooling: npt.NDArray[np.float64]


def _draw(seed: int | str, vin: str, design: PackDesign) -> _Spread:
    digest = hashlib.sha256(f"pack/{seed}/{vin}".encode()).digest()
    draw = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
    cells = design.cell_count

    def around_one(spread: float) -> npt.NDArray[np.float64]:
        # Beyond three deviations a cell would have been sorted out at the factory.
        return 1 + spread * np.clip(draw.standard_normal(cells), -3, 3)

    soc = float(draw.uniform(0.4, 0.9))
    return _Spread(
        soc,
        design.soc_spread * np.clip(draw.standard_normal(cells), -3, 3),
        around_one(design.capacity_spread),
        around_one(design.resistance_spread),
        around_one(design.cooling_spread),
    )


def _stack(rows: list[npt.NDArray[np.float64]], shape: tuple[int, int]) -> Column:
    return np.array(rows, np.float32).reshape(shape)
