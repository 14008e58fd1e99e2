"""Cell chemistries: what a cell's voltage and resistance depend on.

Open-circuit voltages at state of charge 0, 10, ... 100 % and 25 degC are those of published parameter sets: the LG M50 of
Chen 2020 for NMC, the A123 cell of Prada 2013 for LFP. Resistances over temperature are the zero-current averages of the
100 Ah equivalent-circuit example of PyBaMM, taken per ampere hour: R0 and R1 both fall by a factor of six from -20 to
40 degC, and their time constant stays near 30 s. How resistance rises towards both ends of the state of charge, the slow RC pair (diffusion)
and the rates of ageing are round numbers of ours, of the size that the public pulse tests and ageing studies show; the forms of ageing are those
of NREL's BLAST-Lite: the root of time for the calendar, the power 0.83 of full cycles.

Left out on purpose: hysteresis, the heat of reaction (entropy).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LFP", "NMC", "Chemistry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chemistry:
    """Properties of a cell that do not depend on its size."""

    name: str
    ocv_v: tuple[float, ...]
    """Open-circuit voltage at equally spaced states of charge, from 0 to 1."""
    r0_ohm_ah: tuple[float, ...]
    """Series resistance times capacity, at equally spaced temperatures from `r_temperature_c_min` on."""
    r1_ohm_ah: tuple[float, ...]
    """Resistance of the RC pair times capacity, at the same temperatures."""
    r_temperature_c_min: float = -20.0
    r_temperature_step_c: float = 20.0
    tau_s: float = 30.0
    """Time constant of the RC pair."""
    r_over_soc: tuple[float, ...] = (1.8, 1.3, 1.1, 1.03, 1.0, 1.0, 1.0, 1.0, 1.02, 1.06, 1.15)
    """Factor of all resistances, at the states of charge of `ocv_v`."""
    slow_share: float = 0.6
    """Resistance of the slow RC pair, by that of the other."""
    slow_tau_s: float = 600.0
    calendar_loss: float = 0.02
    """Share of the capacity that is lost in the first year at 25 degC and half full."""
    calendar_activation_k: float = 4_800.0
    """By Arrhenius: how much faster it goes in the heat (40 kJ/mol)."""
    cycle_loss: float = 0.08
    """Share of the capacity that is lost in the first thousand full cycles."""
    resistance_growth: float = 2.0
    """By how much more than the capacity falls the resistance grows."""
    heat_capacity_j_per_k_ah: float = 19.0
    """Heat capacity per ampere hour: about 1000 J/(kg K) at 19 g/Ah."""
    cell_v_min: float = 2.8
    cell_v_max: float = 4.2
    """Between which voltages a BMS keeps its cells."""


NMC = Chemistry(
    name="NMC",
    ocv_v=(2.500, 3.296, 3.485, 3.581, 3.667, 3.751, 3.841, 3.948, 4.042, 4.097, 4.200),
    r0_ohm_ah=(0.185, 0.092, 0.050, 0.030),
    r1_ohm_ah=(0.277, 0.138, 0.076, 0.045),
)

LFP = Chemistry(
    name="LFP",
    ocv_v=(2.000, 2.978, 3.168, 3.206, 3.252, 3.266, 3.269, 3.274, 3.310, 3.314, 3.600),
    r0_ohm_ah=(0.185, 0.092, 0.050, 0.030),
    r1_ohm_ah=(0.277, 0.138, 0.076, 0.045),
    heat_capacity_j_per_k_ah=25.0,
    calendar_loss=0.015,
    cycle_loss=0.05,
    cell_v_min=2.5,
    cell_v_max=3.65,
)
