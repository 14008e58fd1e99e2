"""The verbs of a timeline: what can happen to a unit, or to the platform."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from bmsota_sim.run.base import EVERYONE, NS_PER_S, Section
from bmsota_sim.run.quantities import Celsius, Duration, PositiveDuration, Share, SignedDuration
from bmsota_sim.run.who import GROUP_NAME, Who

__all__ = ["FOR_ALL", "NO_FAULTS", "VERBS", "BaseEntry", "Entry", "Verb"]

Slave = Annotated[int, Field(ge=1)]


class BaseEntry(Section):
    """Something that happens at a time, to whom it happens."""

    at_s: Duration = Field(alias="at")
    name: Annotated[str, Field(pattern=f"^{GROUP_NAME}$")] | None = None
    """By which expectations and `those of` refer to it."""
    who: Who = EVERYONE

    lasts: ClassVar[str | None] = None
    """Name of the field that says how long it lasts."""
    topic: ClassVar[str] = ""
    """Entries of one topic exclude each other on the same unit at the same time; default: the verb."""
    is_armed: ClassVar[bool] = False
    """It waits from `at` on for an upgrade to reach it."""

    @property
    def at_ns(self) -> int:
        return round(self.at_s * NS_PER_S)

    @property
    def end_ns(self) -> int | None:
        """When it is over; None for what has no length."""
        length = None if self.lasts is None else getattr(self, self.lasts)
        return None if length is None else self.at_ns + round(length * NS_PER_S)

    @property
    def end_s(self) -> float:
        """When it is over; `at_s` for what has no length."""
        length = None if self.lasts is None else getattr(self, self.lasts)
        return self.at_s + (length or 0.0)

    @property
    def purpose(self) -> str:
        """For what its share is drawn. Not its place in the file: an entry more changes no other's."""
        return f"{self.do} {self.at_ns}"  # type: ignore[attr-defined]

    @property
    def key(self) -> tuple[object, ...]:
        """Two entries with the same key exclude each other."""
        parts = (getattr(self, name, None) for name in ("slave", "cell", "probe"))
        return (self.topic or self.do, *parts)  # type: ignore[attr-defined]


class _Lasting(BaseEntry):
    for_s: PositiveDuration = Field(alias="for")
    lasts: ClassVar[str | None] = "for_s"


class _Open(BaseEntry):
    for_s: PositiveDuration | None = Field(default=None, alias="for")
    """Default: to the end of the run, or of the time with faults."""
    lasts: ClassVar[str | None] = "for_s"


class Offline(_Lasting):
    """No mobile network. Reports are stored and sent afterwards."""

    do: Literal["offline"]


class PlatformOutage(_Lasting):
    """The run lets no unit reach the platform: links are reset, connects refused."""

    do: Literal["platform_outage"]


class Storm(BaseEntry):
    """All links drop in the same instant, and every unit comes back at once."""

    do: Literal["storm"]


class Restart(BaseEntry):
    """The unit loses its supply and gets it back."""

    do: Literal["restart"]
    off_s: PositiveDuration = Field(default=3.0, alias="off")
    lasts: ClassVar[str | None] = "off_s"


class ClockSkew(_Open):
    """The unit's clock runs fast, or slow where it is negative."""

    do: Literal["clock_skew"]
    ppm: Annotated[float, Field(ge=-100_000, le=100_000)]


class ClockJump(BaseEntry):
    """The unit's clock jumps."""

    do: Literal["clock_jump"]
    by_s: SignedDuration = Field(alias="by")


class PositionFrozen(_Open):
    """Every report has the same position, though the vehicle moves."""

    do: Literal["position_frozen"]
    topic: ClassVar[str] = "position"


class PositionJump(_Open):
    """The reported position is off by this distance."""

    do: Literal["position_jump"]
    by_km: Annotated[float, Field(gt=0, le=20_000)]
    topic: ClassVar[str] = "position"


class DuplicateFrames(_Lasting):
    """Reports are sent twice."""

    do: Literal["duplicate_frames"]
    share: Share = 1.0


class OutOfOrder(_Lasting):
    """A report is sent after the one that follows it."""

    do: Literal["out_of_order"]
    share: Share = 1.0


class CellFailure(_Open):
    """A cell opens, is shorted, or loses most of its capacity."""

    do: Literal["cell_failure"]
    slave: Slave
    cell: Annotated[int, Field(ge=1)]
    mode: Literal["open", "short", "weak"] = "weak"


class ThermalEvent(_Open):
    """The cells of a slave heat up from within."""

    do: Literal["thermal_event"]
    slave: Slave
    rise_c_per_min: Annotated[float, Field(gt=0, le=600)] = 10.0
    to_c: Celsius = Field(default=90.0, alias="to")


class SensorBroken(_Open):
    """A temperature probe is cut, shorted, or keeps its last value."""

    do: Literal["sensor_broken"]
    slave: Slave
    probe: Annotated[int, Field(ge=1)]
    mode: Literal["open", "short", "stuck"] = "open"


class SlaveSilent(_Open):
    """A slave sends nothing on the internal bus."""

    do: Literal["slave_silent"]
    slave: Slave
    topic: ClassVar[str] = "slave"


class SlaveSwap(BaseEntry):
    """A workshop replaces a slave by one with another hardware id, while the vehicle is off."""

    do: Literal["slave_swap"]
    slave: Slave
    off_s: PositiveDuration = Field(default=3.0, alias="off")
    lasts: ClassVar[str | None] = "off_s"
    topic: ClassVar[str] = "slave"


class _FrameDisturbed(BaseEntry):
    slave: Slave
    rounds: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    topic: ClassVar[str] = "frame"


class FrameCorrupted(_FrameDisturbed):
    """A bit of one of a slave's frames is wrong, round after round."""

    do: Literal["frame_corrupted"]


class FrameFrozen(_FrameDisturbed):
    """A slave sends one of its frames unchanged, round after round."""

    do: Literal["frame_frozen"]


class FrameReplayed(_FrameDisturbed):
    """An old frame follows each of a slave's."""

    do: Literal["frame_replayed"]


class Driving(_Lasting):
    """The vehicle is driven."""

    do: Literal["driving"]
    topic: ClassVar[str] = "motion"


class Charging(_Lasting):
    """The vehicle stands and is charged."""

    do: Literal["charging"]
    power_kw: Annotated[float, Field(gt=0, le=1000)] = 7.0
    topic: ClassVar[str] = "motion"


class DownloadCutEntry(BaseEntry):
    """The mobile link breaks once, when this many bytes of image data have been downloaded."""

    do: Literal["download_cut"]
    after_bytes: Annotated[int, Field(ge=1)]
    is_armed: ClassVar[bool] = True


class CorruptByteEntry(BaseEntry):
    """One byte of the image data arrives wrong, once."""

    do: Literal["corrupt_byte"]
    at_byte: Annotated[int, Field(ge=0)]
    is_armed: ClassVar[bool] = True


class SlavePowerCutEntry(BaseEntry):
    """A slave loses its supply when this share of its new image is programmed, and gets it back."""

    do: Literal["slave_power_cut"]
    slave: Slave
    at_progress: Share = 0.5
    off_s: PositiveDuration = Field(default=2.0, alias="off")
    is_armed: ClassVar[bool] = True


class SelfTestFailsEntry(BaseEntry):
    """The new image runs but does not pass its self-test."""

    do: Literal["self_test_fails"]
    reason: Annotated[str, Field(min_length=1, max_length=200)] = "self-test failed"
    is_armed: ClassVar[bool] = True


Verb: TypeAlias = (
    Offline | PlatformOutage | Storm | Restart | ClockSkew | ClockJump | PositionFrozen | PositionJump | DuplicateFrames | OutOfOrder
    | CellFailure | ThermalEvent | SensorBroken | SlaveSilent | SlaveSwap | FrameCorrupted | FrameFrozen | FrameReplayed
    | Driving | Charging | DownloadCutEntry | CorruptByteEntry | SlavePowerCutEntry | SelfTestFailsEntry
)  # fmt: skip
Entry = Annotated[Verb, Field(discriminator="do")]
VERBS: dict[str, type[BaseEntry]] = {kind.model_fields["do"].annotation.__args__[0]: kind for kind in Verb.__args__}
"""The verbs of a timeline."""
FOR_ALL = frozenset({"platform_outage", "storm"})
"""Verbs without `who`: they meet the platform, or all units unless they say otherwise."""
# What a vehicle does every day is no fault.
NO_FAULTS = frozenset({"driving", "charging"})
