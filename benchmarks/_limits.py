"""What other ways of flashing could reach on the same wire at best: computed, for comparison with what we measure.

Every frame of an exchange is charged with expected stuffing, the receiver's answers included, and nothing else is on the
bus; the receiver's flash costs nothing. *turnaround_s* is lost wherever one side must wait for the other before it may go on.
Shapes of the exchanges are those of the projects' own sources (OpenBLT `xcploader.c`, foxBMS 2 `foxbms-bootloader.dbc`,
Katapult `protocol.md`) and of ISO 15765-2 and ISO 14229-1.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from bmsota.can_timing import FD_SIZES, wire_seconds
from bmsota.canframe import CanFrame

__all__ = ["comparison"]

# A kind of frame costs the same whatever its id: expected stuffing knows only lengths.
_CAN_ID = 0x7E0


@dataclass(frozen=True)
class _Exchange:
    """One unit of a transfer: what it brings, what it costs, how often one side waits for the other."""

    payload_bytes: int
    frames: Counter[int]  # data bytes of a frame -> how many of them
    waits: int


def comparison(
    bitrate_bps: int, data_bitrate_bps: int | None, extended: bool, *, turnaround_s: float = 0
) -> list[tuple[str, float]]:
    """(name, payload bytes per second) of the wire itself and of each protocol on it, the wire first.

    Args:
        bitrate_bps: of the bus, or of the arbitration phase.
        data_bitrate_bps: of the data phase: CAN FD frames of up to 64 bytes. None: classic frames of up to 8.
        extended: identifiers of 29 bits, else of 11.
        turnaround_s: lost at every wait.
    """
    fd = data_bitrate_bps is not None

    def seconds(size_bytes: int) -> float:
        frame = CanFrame(_CAN_ID, bytes(size_bytes), is_extended_id=extended, is_fd=fd)
        return wire_seconds(frame, bitrate_bps, data_bitrate_bps)

    full = 64 if fd else 8
    rates = [("ceiling", full / seconds(full))]
    for name, exchange in _exchanges(full).items():
        cost_s = sum(count * seconds(_legal(size, full)) for size, count in exchange.frames.items())
        rates.append((name, exchange.payload_bytes / (cost_s + exchange.waits * turnaround_s)))
    return rates


def _exchanges(full: int) -> dict[str, _Exchange]:
    """The protocols on frames of *full* bytes; those made for classic CAN only where that is 8."""
    found = {f"UDS 0x{block:X}": _uds(block, full) for block in (0x82, 0x202, 0xFFF)}
    found["XCP PROGRAM_MAX"] = _xcp_program_max(full)
    found["XCP block mode"] = _xcp_block_mode(full)
    found["stop-and-wait"] = _Exchange(full, Counter([full, 8]), waits=1)
    if full == 8:
        found["foxBMS 2"] = _foxbms2()
        found["Katapult"] = _katapult()
    return found


def _legal(size_bytes: int, full: int) -> int:
    """The length the frame has on the wire."""
    return size_bytes if full == 8 else next(legal for legal in FD_SIZES if legal >= size_bytes)


def _uds(block_bytes: int, full: int) -> _Exchange:
    """TransferData (ISO 14229-1, 0x36) over ISO-TP with block size 0 and no separation time.

    *block_bytes* is maxNumberOfBlockLength, service id and block counter included. The block is longer than a frame, so it is
    a first frame, one flow control, consecutive frames; then the positive response. Classic frames are padded to 8 bytes.
    """
    # ISO 15765-2: two bytes of protocol in a first frame, one in a consecutive frame.
    left = block_bytes - (full - 2)
    whole, rest = divmod(left, full - 1)
    frames = Counter({full: 1 + whole})
    frames[8] += 2  # flow control and response
    if rest:
        frames[8 if full == 8 else rest + 1] += 1
    return _Exchange(block_bytes - 2, frames, waits=2)


def _xcp_program_max(full: int, chunk_bytes: int = 256) -> _Exchange:
    """OpenBLT's host: SET_MTA for every 256 bytes, then PROGRAM_MAX and one PROGRAM for the rest, each answered by one byte."""
    whole, rest = divmod(chunk_bytes, full - 1)
    frames = Counter({full: whole})
    frames[8] += 1
    answered = whole + 1
    if rest:
        frames[rest + 2] += 1
        answered += 1
    frames[1] += answered
    return _Exchange(chunk_bytes, frames, waits=answered)


def _xcp_block_mode(full: int, block_bytes: int = 255) -> _Exchange:
    """PROGRAM and PROGRAM_NEXT with command and count in front, one answer for the largest block the protocol has."""
    frames = Counter({full: -(-block_bytes // (full - 2))})
    frames[1] += 1
    return _Exchange(block_bytes, frames, waits=1)


def _foxbms2(loops: int = 1024) -> _Exchange:
    """A frame with the loop number before every frame of data, one answer every 1024 loops."""
    return _Exchange(8 * loops, Counter({8: 2 * loops + 1}), waits=1)


def _katapult(block_bytes: int = 64) -> _Exchange:
    """Stop and wait in framed commands, cut into CAN frames: start, command, length, address, block, CRC, end; 16 bytes back."""
    command_bytes = 2 + 1 + 1 + 4 + block_bytes + 2 + 2
    whole, rest = divmod(command_bytes, 8)
    return _Exchange(block_bytes, Counter({8: whole + 2, rest: 1}), waits=1)
