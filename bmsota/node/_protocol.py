"""The one surface of everything that takes CAN frames and time.

The driver's loop: put `frames_to_send` on the bus, wait until `next_timeout`, give what came to `receive_frame`, call
`handle_timeout`, take the events; a machine with an end says when it is `finished`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from bmsota.canframe import CanFrame


EventT_co = TypeVar("EventT_co", covariant=True)


class CanProtocol(Protocol[EventT_co]):
    """CAN frames and time in; CAN frames, events and deadlines out. Times are nanoseconds since the Unix epoch."""

    def receive_frame(self, frame: CanFrame, now_ns: int, /) -> object:
        """Take a frame from the bus."""

    def frames_to_send(self, now_ns: int, /) -> list[CanFrame]:
        """What to put on the bus now, in this order."""
        ...

    def next_event(self) -> EventT_co | None:
        """The oldest event not yet taken; None: there is none."""
        ...

    def next_timeout(self) -> int | None:
        """When `frames_to_send` and `handle_timeout` want to be called at the latest; None: only after a frame."""
        ...

    def handle_timeout(self, now_ns: int, /) -> object:
        """Act on the time; no effect before `next_timeout`."""


class FinishingCanProtocol(CanProtocol[EventT_co], Protocol[EventT_co]):
    """One that has an end."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to do, successfully or not."""
        ...
