"""`--wait`: look for the pack until it answers, instead of giving up on one that sleeps or has no supply yet."""

from __future__ import annotations

import errno
import threading
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from bmsota.cli.can_session import errno_of
from bmsota.cli.fault_table import FaultError, FlashFault
from bmsota.cli.faults import error_console, say
from bmsota.errors import TransferError
from bmsota.flashing import FlashingEngine, NodesDiscovered, node_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from bmsota.cli.can_session import CanSession, Interrupt
    from bmsota.flashing import FlashingProfile

__all__ = ["Wait", "kept_awake", "parse_wait", "wait_for_pack"]

Wait: TypeAlias = Annotated[
    str | None,
    typer.Option("--wait", metavar="SECONDS|forever", help="Wait so long for the pack to answer; Ctrl-C ends it."),
]

FOREVER = "forever"
_WAIT_S_MAX = 7 * 86_400

# A UDS node leaves its programming session 5 s behind the last request (S3, ISO 14229-2).
_LOOK_EVERY_S = 2.0


def parse_wait(text: str | None) -> float | None:
    """Seconds to wait for the pack: 0 without `--wait`, None for ever.

    Raises:
        FaultError: BAD_OPTION.
    """
    if text is None:
        return 0.0
    if text == FOREVER:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _WAIT_S_MAX:
        raise FaultError(FlashFault.BAD_OPTION, f"--wait: expected seconds or {FOREVER}, got {text!r}")
    return seconds


def wait_for_pack(
    session: CanSession,
    profile: FlashingProfile,
    interrupt: Interrupt,
    *,
    seconds: float | None,
    expected: Sequence[int] = (),
) -> None:
    """Look for nodes until some answer, all of *expected* do, and two looks agree; at most *seconds* (None: for ever).

    What comes then is the command's business: a pack that has not answered is told as without waiting. A bus without another device is
    no reason to stop, because a pack without supply does not acknowledge.

    Raises:
        KeyboardInterrupt: the user has had enough.
        TransferError: the adapter fails.
    """
    if seconds == 0:
        return
    begun_ns = session.clock()
    end_ns = None if seconds is None else begun_ns + int(seconds * 1e9)
    limit = "" if seconds is None else f" (at most {seconds:g} s)"
    console = error_console()
    say(f"waiting for the pack{limit}; Ctrl-C ends it", console=console)
    status = console.status("no node answers yet") if console.is_terminal else None
    before: set[int] | None = None
    with status or _nothing():
        while True:
            found = _look(session, profile, interrupt)
            waited_s = (session.clock() - begun_ns) / 1e9
            if found and found == before and found >= set(expected):
                break
            if end_ns is not None and session.clock() >= end_ns:
                return
            if status is not None:
                answer = f"{node_words(found)} answered" if found else "no node answers yet"
                status.update(f"{answer}, {waited_s:.0f} s{limit}")
            before = found
    say(f"{node_words(found)} answered after {waited_s:.0f} s", console=console)


@contextmanager
def kept_awake(session: CanSession, profile: FlashingProfile, interrupt: Interrupt) -> Iterator[None]:
    """While the user thinks about a question, go on looking: nodes that are held in their bootloader stay there.

    The bus belongs to a thread meanwhile. A failure of the adapter is told by the next use.
    """
    is_over = threading.Event()

    def look() -> None:
        with suppress(TransferError, KeyboardInterrupt):
            while not is_over.wait(_LOOK_EVERY_S):
                _look(session, profile, interrupt)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _nothing() -> AbstractContextManager[None]:
    return nullcontext()


def _look(session: CanSession, profile: FlashingProfile, interrupt: Interrupt) -> set[int]:
    """Who answers now."""
    from bmsota.adapters.slcan import FrameRefusedError  # noqa: PLC0415 - brings python-can

    engine = FlashingEngine(profile)
    engine.discover()
    found: set[int] = set()
    try:
        for event in session.run(engine, interrupt):
            if isinstance(event, NodesDiscovered):
                found = {node.position for node in event.nodes} | {result.position for result in event.refused}
    except TransferError as error:
        # Nothing acknowledges: slcan says so itself, socketcan's queue stays full.
        if not isinstance(error.__cause__, FrameRefusedError) and errno_of(error) != errno.ENOBUFS:
            raise
    if interrupt.is_wanted:
        raise KeyboardInterrupt
    return found
