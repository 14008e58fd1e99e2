"""Physics: steps of 10,000 packs x 96 cells a CPU-second, beside a bare NumPy expression of the same arithmetic.

`bare` is what anybody would write: the same equations, one expression after another over whole arrays in float32, without a class, a
check or a block around them. It holds its own state, and a check before the measurement sees that both come to the same voltages.

`--quick`: 200 packs, to see that it runs; its figures are nobody's.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from bmsota_sim.physics import NMC, PackDesign, Packs

from benchmarks._figures import Figure, compare, print_figures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

# Without spread, so that the bare one has the same cells without a look inside.
DESIGN = PackDesign(
    cell_count=96, probe_count=32, chemistry=NMC, capacity_spread=0, resistance_spread=0, cooling_spread=0, soc_spread=0
)
DT_S = 1.0
CURRENT_A = 40.0
SOC = 0.9
SAME_V = 1e-4


class Bare:
    """The equations of `Packs` over the same packs."""

    def __init__(self, count: int) -> None:
        chemistry, capacity_ah = DESIGN.chemistry, DESIGN.capacity_ah
        shape = (count, DESIGN.cell_count)

        def column(value: float) -> Array:
            return np.full(shape, value, np.float32)

        self.soc_start, self.per_as = column(SOC), column(1 / (3600 * capacity_ah))
        self.resistance, self.cooling = column(1 / capacity_ah), column(DESIGN.cooling_w_per_k)
        self.cooled = np.expm1(-DT_S * self.cooling / np.float32(chemistry.heat_capacity_j_per_k_ah * capacity_ah))
        self.temperature = column(20.0)
        self.charge_as = np.zeros(count)
        self.rc, self.slow = np.zeros_like(self.temperature), np.zeros_like(self.temperature)
        self.ocv, self.factor = np.array(chemistry.ocv_v, np.float32), np.array(chemistry.r_over_soc, np.float32)
        self.r0, self.r1 = np.array(chemistry.r0_ohm_ah, np.float32), np.array(chemistry.r1_ohm_ah, np.float32)
        self.change = np.float32(np.expm1(-DT_S / chemistry.tau_s))
        self.slow_change = np.float32(np.expm1(-DT_S / chemistry.slow_tau_s))
        self.mean = np.float32(self.change * chemistry.tau_s / DT_S)
        self.slow_mean = np.float32(self.slow_change * chemistry.slow_tau_s / DT_S)
        self.share = np.float32(chemistry.slow_share)

    def step(self, current_a: Array) -> Array:
        self.charge_as += current_a * DT_S
        current = current_a.astype(np.float32)[:, None]
        soc = self.soc_start - self.charge_as.astype(np.float32)[:, None] * self.per_as
        place = np.clip(soc * np.float32(10), np.float32(-0.5), np.float32(10.5))
        index = np.clip(place.astype(np.intp), 0, 9)
        rest = place - index.astype(np.float32)
        ocv = self.ocv[index] + (self.ocv[1:] - self.ocv[:-1])[index] * rest
        factor = self.factor[index] + (self.factor[1:] - self.factor[:-1])[index] * rest
        amper_ohms = current * self.resistance * factor
        place = np.clip((self.temperature + np.float32(20)) * np.float32(0.05), np.float32(-0.5), np.float32(3.5))
        index = np.clip(place.astype(np.intp), 0, 2)
        rest = place - index.astype(np.float32)
        r0_v = amper_ohms * (self.r0[index] + (self.r0[1:] - self.r0[:-1])[index] * rest)
        rc_end = amper_ohms * (self.r1[index] + (self.r1[1:] - self.r1[:-1])[index] * rest)
        slow_end = rc_end * self.share
        gap, slow_gap = self.rc - rc_end, self.slow - slow_end
        self.rc = self.rc + gap * self.change
        self.slow = self.slow + slow_gap * self.slow_change
        volts: Array = ocv - r0_v - self.rc - self.slow
        heat = current * (r0_v + rc_end - gap * self.mean + slow_end - slow_gap * self.slow_mean)
        gap_c = self.temperature - np.float32(20) - heat / self.cooling
        self.temperature = self.temperature + gap_c * self.cooled
        return volts


def figures(*, is_quick: bool = False) -> list[Figure]:
    count = 200 if is_quick else 10_000
    packs = Packs(DESIGN, [f"VIN{number:014d}" for number in range(count)], seed=1, soc=SOC)
    bare, current = Bare(count), np.full(count, CURRENT_A)
    for _ in range(3):
        packs.step(current, DT_S)
        volts = bare.step(current)
    assert np.abs(volts - packs.cell_voltage_v).max() < SAME_V, "not the same arithmetic"
    direction = [1.0]

    def step_packs() -> int:
        direction[0] = -direction[0]
        packs.step(current * direction[0], DT_S)
        return count

    def step_bare() -> int:
        bare.step(current)
        return count

    # The bare one empties its packs: it goes on along its table, at the same cost.
    return compare({"physics": step_packs, "bare": step_bare}, {"physics": "bare"}, unit="pack steps/CPU-s")


if __name__ == "__main__":
    is_quick = "--quick" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--quick"]
    print_figures("physics", partial(figures, is_quick=is_quick))
