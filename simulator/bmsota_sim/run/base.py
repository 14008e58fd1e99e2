"""What every part of a scenario is made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from bmsota_sim.run.places import did_you_mean, shown
from bmsota_sim.run.who import WhoPart

__all__ = ["EVERYONE", "NS_PER_S", "RESERVED_NAMES", "UNIT_COUNT_MAX", "Percent", "Section", "one_of"]

# A typing slip must not allocate a million units.
UNIT_COUNT_MAX = 100_000
NS_PER_S = 1_000_000_000
EVERYONE = (WhoPart(),)
RESERVED_NAMES = frozenset({"all", "end", "faults_off"})
"""Words of the language, which name no group and no entry."""


class Section(BaseModel):
    # No infinity: every time and rate is rounded to integers. Strict: `true` is no number, and "5" none either.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def one_of(known: tuple[str, ...], noun: str) -> Any:
    """One of *known*, with a hint where it is another word."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"no {noun} {shown(value)}{did_you_mean(value if isinstance(value, str) else '', known)}")
        return value

    return BeforeValidator(check), WithJsonSchema({"enum": list(known)})


Percent = Annotated[float, Field(ge=0, le=100)]
