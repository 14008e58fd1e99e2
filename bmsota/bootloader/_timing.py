"""How long each side waits, with the reason for each figure. Times are integer nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BootloaderTiming", "TargetTiming"]

_MS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BootloaderTiming:
    """The client's patience."""

    reply_timeout_ns: int = 200 * _MS
    """From the last frame handed to the driver to the answer. 65 frames take 15 ms at 500 kbit/s and 60 ms at 125 kbit/s;
    the rest is for adapters and foreign traffic. Longer operations announce themselves with Pending."""

    reply_tries: int = 5
    """A frame lost five times in a row is a broken connection, not a bad one: at 20 % loss of request and reply together
    that is 1 in 150 exchanges, and costs one interruption."""

    discover_timeout_ns: int = 100 * _MS
    discover_tries: int = 100
    """Together 10 s: longer than a node needs to restart and verify an image, shorter than a person's patience."""

    interruptions_max: int = 8
    """How often the transfer may break off without getting further than ever before."""

    rounds_max: int = 64
    """How often missing frames of one block are sent again: one frame a round still completes a block."""

    pending_max: int = 100
    """Pending replies to one request; a node that goes on longer is not working but looping."""

    burst_frames: int = 65
    """Frames handed out at once: a block and its check. Lower it for adapters with a short queue."""

    burst_spacing_ns: int = 0
    """Pause between two bursts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTiming:
    """The node's habits."""

    session_timeout_ns: int = 60_000 * _MS
    """A flasher silent for so long is gone; the node goes back to its application. What is staged stays."""

    verify_ns: int = 150 * _MS
    """What checking digest and signature takes on a Cortex-M4 at 80 MHz for a small image; for simulations."""

    pending_threshold_ns: int = 50 * _MS
    """Operations longer than this are announced with Pending."""

    restart_delay_ns: int = 20 * _MS
    """Between the result of Reset and the restart, so that the result leaves the transmit queue of a busy bus."""
