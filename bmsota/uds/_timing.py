"""How long each side waits, with the reason for each figure. Times are integer nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

_MS = 1_000_000
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class UdsTiming:
    """The tester's timeouts and retries."""

    p2_ns: int = 50 * _MS
    """P2server_max until the node has named its own (ISO 14229-2, table 4)."""

    p2_star_ns: int = 5 * _SECOND
    """P2*server_max until the node has named its own: how long it may think behind each "response pending"."""

    margin_ns: int = 200 * _MS
    """On top of P2 and P2*: the way there and back, adapters, foreign traffic."""

    frame_ns: int = 1 * _MS
    """On top for each frame of the request, which may still wait in the adapter: a frame takes 0.23 ms at 500 kbit/s and
    0.9 ms at 125 kbit/s."""

    request_tries: int = 5
    """How often a request is sent before its silence counts as an interruption."""

    discover_timeout_ns: int = 100 * _MS
    discover_tries: int = 100
    """Together 10 s: longer than a node needs to restart and verify an image, shorter than a person waits."""

    discover_rounds: int = 4
    """How often discovery asks whether a node is there, and then who it is."""

    pending_max: int = 100
    """"Response pending" to one request; a node that needs more is not working but looping."""

    busy_tries: int = 50
    busy_pause_ns: int = 100 * _MS
    """Between two tries of a request that was answered "busy, repeat request"."""

    access_tries: int = 30
    access_pause_ns: int = 1 * _SECOND
    """Between two seeds asked for while the node says that its delay has not expired; together longer than the usual 10 s."""

    interruptions_max: int = 8
    """How often a transfer may break off without getting further than ever before."""

    tester_present_ns: int = 2 * _SECOND
    """S3client: between two TesterPresent (ISO 14229-2, table 5). Some nodes renew their session by these alone."""

    restart_wait_ns: int = 1 * _SECOND
    """How long a node that does not tell its boots apart is left alone behind a reset."""

    block_bytes_min: int = 56
    """A bus that loses frames gets shorter blocks, halved down to this: nine frames."""

    blocks_until_longer: int = 8
    """After this many blocks without a loss, the next ones are twice as long again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UdsServerTiming:
    """The node's habits."""

    p2_ns: int = 50 * _MS
    """P2server_max, named in the answer to DiagnosticSessionControl."""

    p2_star_ns: int = 5 * _SECOND

    pending_margin_ns: int = 20 * _MS
    """"Response pending" leaves so long before P2 ends: an answer that is ready by then needs none."""

    s3_ns: int = 5 * _SECOND
    """S3server: without a request for so long the node goes back to its default session. What is staged stays."""

    verify_ns: int = 150 * _MS
    """What checking digest and signature takes on a Cortex-M4 at 80 MHz for a small image; for simulations."""

    boot_window_ns: int = 0
    """How long the node listens after a restart before its application starts; a programming session opened meanwhile holds it. 0: the
    application starts at once. Where an application that hangs has no other way back give 500 ms, as for the bootloader."""

    restart_delay_ns: int = 20 * _MS
    """Between the answer to ECUReset and the restart, so that the answer leaves the transmit queue of a busy bus."""

    access_attempts_max: int = 3
    """Wrong keys in a row before the node wants a pause."""

    access_delay_ns: int = 10 * _SECOND
    """That pause."""

    access_boot_delay_ns: int = 0
    """From power-up to the first seed. Nodes whose keys can be guessed want some, or a restart would begin the count anew."""
