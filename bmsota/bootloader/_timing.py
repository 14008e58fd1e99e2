"""How long each side waits, with the reason for each figure. Times are integer nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

_US = 1_000
_MS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BootloaderTiming:
    """The client's timeouts and retries."""

    reply_timeout_ns: int = 50 * _MS
    """From the last frame handed to the driver to the answer: for adapters and foreign traffic. It doubles with every
    repetition. Longer operations announce themselves with Pending."""

    reply_timeout_ns_max: int = 400 * _MS
    """It doubles up to this: with five tries a silent node is noticed after 1.15 s."""

    report_timeout_ns: int = 200 * _MS
    """The same for the first report on blocks, before reports have been timed."""

    frame_timeout_ns: int = 1 * _MS
    """Added to the timeout for each data frame that may still wait in the adapter: a frame takes 0.23 ms at 500 kbit/s, 0.9 ms at
    125 kbit/s. A driver that gets rid of frames at once costs nothing by this; one with a deep queue is not taken for a
    silent node."""

    report_timeout_ns_min: int = 50 * _MS
    """Once reports have been timed, their timeout is three times what they took, but not less than this: what a desktop's
    scheduler and a USB adapter may take, and what 16 nodes need to answer one behind the other at 125 kbit/s."""

    report_tries: int = 8
    """How often a report is requested. A stream has hundreds of reports, so an unlucky row must be rarer than for a request: at
    20 % loss of question and report each that is 1 in 3500."""

    report_tries_quick: int = 3
    """This many of them one report's timeout apart; behind them it doubles with every repetition."""

    report_late_ns: int = 20 * _MS
    """Once one node of a broadcast has reported, the others are polled again after this: they report at the same time."""

    report_late_ns_min: int = 5 * _MS
    """Less, down to this, as far as the replies to the questions before came closer together: twice the longest time between
    two of them."""

    reply_tries: int = 5
    """A frame lost five times in a row is a broken connection, not a bad one: at 20 % loss of request and reply together
    that is 1 in 150 exchanges, and costs one interruption."""

    discover_timeout_ns: int = 100 * _MS
    discover_tries: int = 100
    """Together 10 s: longer than a node needs to restart and verify an image, shorter than a person waits."""

    interruptions_max: int = 8
    """How often the transfer may break off without getting further than ever before."""

    rounds_max: int = 64
    """How often a node may report missing frames without having got any further: one frame a round completes a block."""

    rounds_stuck: int = 20
    """After this many of them, and as many more, the pace becomes slower, whatever it was: frames that come very late, some behind
    the next block, are no loss that could be measured."""

    pending_max: int = 100
    """Pending replies to one request; a node that needs more is not working but looping."""

    access_waits_max: int = 10
    """How often a node may put off its challenge, or a part of it may be lost."""

    access_wait_ns_max: int = 30_000 * _MS
    """A node that wants a longer pause than this is sent a request again all the same: it has been attacked, or is out of order."""

    late_ns: int = 1_000 * _MS
    """How long a broadcast waits for nodes that have not been found when others are ready; they are served afterwards."""

    burst_frames: int = 65
    """Frames handed out at once: a block and its check. Lower it for adapters with a short queue."""

    burst_spacing_ns: int = 0
    """Pause between two bursts."""

    window_blocks_min: int = 4
    """Blocks under way in the beginning, if the node can hold that many. The window doubles with every report, up to what the
    node holds."""

    loss_pct_high: int = 12
    """From this share of missing frames on it is tried whether a slower pace helps (`_pace`): a bad wire loses some frames,
    a receiver or an adapter that is overrun loses many."""

    loss_pct_low: int = 4
    """From this share of missing frames on OpenBlock is sent once more: it is cheaper than what it costs to be missed."""

    spacing_ns_min: int = 100 * _US
    """No pause between frames is shorter: a frame of 8 bytes takes more than this even at 1 Mbit/s."""

    spacing_ns_max: int = 10 * _MS
    """Slower than this it is not the pace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTiming:
    """The node's habits."""

    session_timeout_ns: int = 60_000 * _MS
    """A flasher silent for so long is gone; the node goes back to its application. What is staged stays."""

    verify_ns: int = 150 * _MS
    """What checking digest and signature takes on a Cortex-M4 at 80 MHz for a small image; for simulations."""

    pending_threshold_ns: int = 15 * _MS
    """Operations longer than this are announced with Pending: less than any flasher's timeout."""

    boot_window_ns: int = 0
    """How long the node listens after a restart before its application starts, so that one that hangs has a way back over CAN. 0: the
    application starts at once, as suits a node that must measure again at once and has another way back (a debug port, a master
    that can hold its reset). Where there is none give 500 ms: a flasher that looks for the node every 100 ms needs two tries
    and the time to say EnterBootloader, on a bus that loses a frame."""

    restart_delay_ns: int = 20 * _MS
    """Between the result of Reset and the restart, so that the result leaves the transmit queue of a busy bus."""
