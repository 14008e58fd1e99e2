"""J1939 transport packets of a log, replaced by the messages they carry."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from bmsota.signals import OtherTransport, TransportReassembler

if TYPE_CHECKING:
    from bmsota.adapters.canlogs._frames import LogFrame
    from bmsota.signals import MessageFinder, TransportFault


class JoinedBlock(NamedTuple):
    """The frames of a block, its packets replaced."""

    frames: list[LogFrame]
    """With a message of up to 1785 bytes where its last packet stood."""
    packets: int
    joined: int
    faults: Counter[TransportFault]
    others: Counter[OtherTransport]
    """Packets of a kind that is not put together; they are not in `packets`."""


class PacketJoiner:
    """Puts the packets of a whole log together, block by block. Each channel is a bus of its own."""

    def __init__(self, finder: MessageFinder) -> None:
        self._finder = finder
        self._buses: dict[str, TransportReassembler] = {}
        self._told: Counter[TransportFault] = Counter()

    def join(self, block: list[LogFrame]) -> JoinedBlock:
        """Take the next frames of the log. A packet that the DBC has as a message of its own stays as well."""
        frames: list[LogFrame] = []
        packets = joined = 0
        others: Counter[OtherTransport] = Counter()
        for frame in block:
            if not frame.is_extended_id or not TransportReassembler.is_packet(frame.can_id):
                other = OtherTransport.of(frame.can_id, len(frame.data)) if frame.is_extended_id else None
                if other is not None and self._finder.find(frame.can_id, is_extended_id=True) is None:
                    others[other] += 1
                else:
                    frames.append(frame)
                continue
            if self._finder.find(frame.can_id, is_extended_id=True) is None:
                packets += 1
            else:
                frames.append(frame)
            bus = self._buses.setdefault(frame.channel, TransportReassembler())
            # A log without times has no pauses either.
            now_ns = 0 if math.isnan(frame.time_s) else round(frame.time_s * 1e9)
            message = bus.receive(frame.can_id, frame.data, now_ns)
            if message is not None:
                joined += 1
                frames.append(frame._replace(can_id=message.can_id, data=message.data))
        return JoinedBlock(frames, packets, joined, self._faults(), others)

    def end(self) -> Counter[TransportFault]:
        """The log ends: what is not complete."""
        for bus in self._buses.values():
            bus.finish()
        return self._faults()

    def _faults(self) -> Counter[TransportFault]:
        """Those since the last time."""
        total = sum((bus.faults for bus in self._buses.values()), Counter())
        new, self._told = total - self._told, total
        return new
