"""A log's frames decoded by DBC files, in columns.

Each data frame of a block is counted once: decoded wholly, a `Misfit` (decoded in part or not at all), of an unknown id, or left out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from bmsota.adapters.canlogs._transport import JoinedBlock, PacketJoiner
from bmsota.signals import MessageFinder, SignalColumns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from bmsota.adapters.canlogs._frames import LogFrame
    from bmsota.adapters.canlogs._log import CanLog
    from bmsota.signals import Database, LayoutNode, Message, OtherTransport, Signal, TransportFault

_EXTENDED_FLAG = 1 << 31


class Misfit(NamedTuple):
    """Why frames do not match their message."""

    message: Message
    reason: str
    """"4 of 8 bytes", "an undefined multiplexer value (Page)"."""
    is_decoded: bool
    """The signals that such a frame holds are decoded; false if it holds none."""


@dataclass(frozen=True, slots=True)
class DecodedMessage:
    """Frames of one message in a block that hold the same signals: all whole ones, or those of one shorter length."""

    message: Message
    can_id: int
    """Of the frames: another than the message's where J1939 or a mask found it."""
    times_s: NDArray[np.float64]
    """As the log's own tool shows them (`CanLog.time_base`); NaN if the log has none."""
    channels: tuple[str, ...]
    positions: NDArray[np.intp]
    """Where in the block each frame stood; rising. A message of several packets stands where its last one was."""
    columns: SignalColumns
    """Of frames that are shorter than their message, only the signals that lie in them wholly."""
    data: NDArray[np.uint8]
    """The bytes of each frame, one row each, no more than the message's length."""


@dataclass(frozen=True, slots=True)
class LogBlock:
    """One block of a log, decoded. Its frames are `complete`, those of `misfits` and of `unknown`, and `left_out`."""

    frames: int
    decoded: tuple[DecodedMessage, ...]
    complete: int
    """Frames that were decoded wholly."""
    misfits: dict[Misfit, int]
    """Why frames do not match their message -> how many."""
    unknown: dict[int, int]
    """CAN id (extended ones with bit 31 set) -> frames, for ids that no database has."""
    left_out: int
    """Frames of messages that were not asked for."""
    packets: int = 0
    """J1939 transport packets. They are frames of the log, but in none of the counts above."""
    joined: int = 0
    """Messages put together from packets. They are no frames of the log, but in the counts above."""
    transport_faults: Mapping[TransportFault, int] = field(default_factory=dict)
    """Why packets became no message -> how many times."""
    other_packets: Mapping[OtherTransport, int] = field(default_factory=dict)
    """Packets of a kind that is not put together. They are frames of the log, but in none of the counts above."""


def decode_log(
    log: CanLog,
    databases: Sequence[Database],
    *,
    only: frozenset[str] = frozenset(),
    j1939: bool = False,
    id_mask: int | None = None,
) -> Iterator[LogBlock]:
    """Decode *log* block by block. Which message a frame is, a `MessageFinder` says; J1939's transport packets are put together.

    Args:
        log: the open log.
        databases: what the ids mean; where several have an id, the first one counts.
        only: names of messages; if there are any, all others are left out.
        j1939: whether extended ids are J1939's, also where the DBC does not say so.
        id_mask: the bits of an id that count, for ids that are not in the DBC as a whole.

    Raises:
        SignalError: NumPy is missing. Never because of the log: see `CanLog.fault`.
    """
    finder = MessageFinder(databases, j1939=j1939, id_mask=id_mask)
    joiner = PacketJoiner(finder) if finder.has_j1939 else None
    for read in log.blocks():
        joined = JoinedBlock(read, 0, 0, Counter(), Counter()) if joiner is None else joiner.join(read)
        block = joined.frames
        groups: dict[int, list[int]] = {}
        for position, frame in enumerate(block):
            key = frame.can_id | _EXTENDED_FLAG if frame.is_extended_id else frame.can_id
            groups.setdefault(key, []).append(position)
        decoded: list[DecodedMessage] = []
        misfits: dict[Misfit, int] = {}
        unknown: dict[int, int] = {}
        complete = left_out = 0
        for key, positions in groups.items():
            message = finder.find(key & ~_EXTENDED_FLAG, is_extended_id=bool(key & _EXTENDED_FLAG))
            if message is None:
                unknown[key] = len(positions)
            elif only and message.name not in only:
                left_out += len(positions)
            else:
                counts = _decode(message, block, positions, decoded)
                for misfit, count in counts.items():
                    misfits[misfit] = misfits.get(misfit, 0) + count
                complete += len(positions) - sum(counts.values())
        counted = (complete, misfits, unknown, left_out, joined.packets, joined.joined, joined.faults, joined.others)
        yield LogBlock(len(read), tuple(decoded), *counted)
    if joiner is not None and (faults := joiner.end()):
        yield LogBlock(0, (), 0, {}, {}, 0, transport_faults=faults)


def _decode(
    message: Message, block: list[LogFrame], positions: list[int], decoded: list[DecodedMessage]
) -> dict[Misfit, int]:
    """Decode the frames at *positions* into *decoded*; how many do not match *message*, and why."""
    lengths: dict[int, list[int]] = {}
    for at in positions:
        lengths.setdefault(min(len(block[at].data), message.length), []).append(at)
    misfits: dict[Misfit, int] = {}
    for length, places in lengths.items():
        if length == message.length:
            found = _columns(message, block, places)
            if found.columns.undefined:
                names = ", ".join(_multiplexers(message.layout))
                misfit = Misfit(message, f"an undefined multiplexer value ({names})", is_decoded=True)
                misfits[misfit] = len(found.columns.undefined)
            decoded.append(found)
            continue
        held = _held(message, length)
        misfits[Misfit(message, f"{length} of {message.length} bytes", is_decoded=bool(held))] = len(places)
        if held:
            decoded.append(_columns(message, block, places, held))
    return misfits


def _columns(
    message: Message, block: list[LogFrame], positions: list[int], held: frozenset[str] | None = None
) -> DecodedMessage:
    """Decode frames of one length; with *held*, shorter ones, of which only these signals count."""
    import numpy as np  # noqa: PLC0415 - writing a log does not need it

    size = message.length
    frames = [block[at] for at in positions]
    data = np.frombuffer(b"".join(frame.data[:size].ljust(size, b"\0") for frame in frames), dtype=np.uint8)
    data = data.reshape(len(frames), size)
    columns = message.decode_batch(data, strict=False)
    if held is not None:
        names = [name for name in columns if name in held]
        rows = {name: columns.rows(name) for name in names if not columns.is_everywhere(name)}
        columns = SignalColumns(columns.length, {name: columns[name] for name in names}, rows)
    return DecodedMessage(
        message=message,
        can_id=frames[0].can_id,
        times_s=np.array([frame.time_s for frame in frames], dtype=np.float64),
        channels=tuple(frame.channel for frame in frames),
        positions=np.array(positions, dtype=np.intp),
        columns=columns,
        data=data[:, : len(frames[0].data)],
    )


def _held(message: Message, length: int) -> frozenset[str]:
    """The signals that lie wholly in the first *length* bytes of a frame, as do the multiplexers that choose them."""

    def fits(signal: Signal) -> bool:
        if signal.byte_order == "little":
            return signal.shift + signal.length_bits <= 8 * length
        return signal.shift >= 8 * (message.length - length)

    names: set[str] = set()

    def collect(node: LayoutNode) -> None:
        names.update(signal.name for signal in node.signals if fits(signal))
        for branch in node.branches:
            if fits(branch.multiplexer):
                for below in branch.nodes.values():
                    collect(below)

    collect(message.layout)
    return frozenset(names)


def _multiplexers(node: LayoutNode) -> list[str]:
    """The multiplexers of a message, outermost first."""
    names: dict[str, None] = {}
    for branch in node.branches:
        names[branch.multiplexer.name] = None
        for below in branch.nodes.values():
            names.update(dict.fromkeys(_multiplexers(below)))
    return list(names)
