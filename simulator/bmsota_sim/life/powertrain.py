"""What driving takes from a pack: from a speed and its change to electric power, in columns.

Longitudinal dynamics of a car on a level road: rolling resistance, air, inertia; a drive with one efficiency, and
recuperation up to a limit. The rest of what braking sets free goes into the brakes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Powertrain"]

GRAVITY_M_PER_S2 = 9.80665
AIR_KG_PER_M3 = 1.204
"""At 20 degC and 1,013 hPa."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Powertrain:
    """A compact electric car, as of a typical data sheet; all are settings."""

    mass_kg: float = 1_650.0
    rotating_share: float = 0.05
    """What wheels and motor add to the mass that is accelerated."""
    drag_area_m2: float = 0.62
    """Drag coefficient times frontal area."""
    rolling: float = 0.0095
    """Rolling resistance by weight."""
    efficiency: float = 0.87
    """From pack to wheel, and back."""
    recuperation_max_w: float = 50_000.0
    """Electric power into the pack while braking, at most."""
    power_max_w: float = 100_000.0
    """Electric power out of the pack for driving, at most."""
    auxiliary_w: float = 350.0
    """What the electronics take while the vehicle is switched on."""

    def __post_init__(self) -> None:
        for name in ("mass_kg", "drag_area_m2", "rolling", "power_max_w"):
            if not getattr(self, name) > 0:
                raise ValueError(f"expected {name} above 0, got {getattr(self, name)} (powertrain)")
        if not 0 < self.efficiency <= 1:
            raise ValueError(f"expected an efficiency above 0 and up to 1, got {self.efficiency} (powertrain)")
        if min(self.rotating_share, self.recuperation_max_w, self.auxiliary_w) < 0:
            raise ValueError("expected rotating_share, recuperation_max_w and auxiliary_w of 0 or more (powertrain)")

    def power_w(self, speed_kmh: npt.ArrayLike, acceleration_m_per_s2: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Electric power taken from the pack; below 0 where recuperation charges it.

        Args:
            speed_kmh: of each vehicle.
            acceleration_m_per_s2: of each vehicle; below 0 brakes.
        """
        speed = np.asarray(speed_kmh, np.float64) / 3.6
        force_n = (
            (speed > 0) * (self.rolling * self.mass_kg * GRAVITY_M_PER_S2)
            + 0.5 * AIR_KG_PER_M3 * self.drag_area_m2 * speed * speed
            + self.mass_kg * (1 + self.rotating_share) * np.asarray(acceleration_m_per_s2, np.float64)
        )
        wheel_w = force_n * speed
        electric_w = np.where(wheel_w >= 0, wheel_w / self.efficiency, wheel_w * self.efficiency)
        drive_w: npt.NDArray[np.float64] = np.minimum(
            np.maximum(electric_w, -self.recuperation_max_w), self.power_max_w
        )
        return drive_w + self.auxiliary_w
