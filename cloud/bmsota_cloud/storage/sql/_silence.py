"""How long a PostgreSQL server that says nothing is waited for.

A server whose processes stand still (stopped, paused with their machine, waiting for a disk that hangs) keeps its connections: the
system below it goes on acknowledging what we send, so no limit of TCP notices, and the server cannot keep a time limit of its own.
psycopg by itself waits for ever.

Strategy. A long silence alone proves nothing, because a large statement takes its time. So whoever has waited for some seconds asks for
another connection: a server that lives answers that at once, if only with a refusal. If it does not, the server is away, for all who
wait and not only for him. Until it answers again, one at a time asks, with pauses, and everybody else is refused without waiting. A statement has a
limit by the server (`STATEMENT_TIMEOUT_S`); a single process of the server that stands still is given up a little later.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import psycopg

from bmsota_cloud.domain.errors import StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

__all__ = ["STATEMENT_TIMEOUT_S", "ServerWatch"]

STATEMENT_TIMEOUT_S: Final = 60
"""No statement of ours takes as long, on a fleet's tables and a busy disk; migrations have no limit."""
_SILENCE_S: Final = 5.0
_GIVEN_UP_S: Final = STATEMENT_TIMEOUT_S + 5.0
# While the server is known to be away; less than a page may take, and libpq's shortest.
_TRIAL_TIMEOUT_S: Final = 2
_PAUSE_S: Final = 2.0
# Others that wait are given up with the first, but not a statement that has only just been sent: the server may have come back.
_MOMENT_S: Final = 0.5
_AWAY: Final = "the database does not answer; try again in a few seconds"


class ServerWatch:
    """What is known of one server; shared by all threads."""

    def __init__(self) -> None:
        self.is_silent = False
        """The server did not answer when it was last asked."""
        self._asking = Lock()
        self._answered_s = self._unanswered_s = 0.0
        self._parameters: Mapping[str, Any] = {}

    def connect(self, arguments: tuple[Any, ...], parameters: dict[str, Any]) -> psycopg.Connection[Any]:
        """A connection that does not wait for ever, made with what psycopg's own `connect` takes."""
        self._parameters = {name: value for name, value in parameters.items() if name != "context"}
        if self.is_silent:
            # It has just been asked. The pool tries again by itself when it finds a connection broken.
            raise psycopg.errors.ConnectionTimeout(_AWAY)
        try:
            connection = _WatchedConnection.connect(*arguments, **parameters)
        except psycopg.errors.ConnectionTimeout:
            self._unanswered_s = time.monotonic()
            self.is_silent = True
            raise
        connection.bmsota_watch = self
        return connection

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Before a transaction.

        Raises:
            StorageUnavailableError: the server is away.
        """
        if self.is_silent:
            # A pause between two trials: those who ask one after the other in one thread do not all wait.
            is_due = time.monotonic() - self._unanswered_s >= _PAUSE_S
            if is_due and self._asking.acquire(blocking=False):
                try:
                    self.is_silent = not self._answers(_TRIAL_TIMEOUT_S)
                finally:
                    self._asking.release()
            if self.is_silent:
                raise StorageUnavailableError(_AWAY, code="storage-away")
        yield

    def waiting(self, since_s: float) -> bool:
        """Whether one who has heard nothing since then, on the monotonic clock, goes on waiting."""
        now_s = time.monotonic()
        if now_s - since_s < _MOMENT_S:
            return True
        is_due = now_s - max(since_s, self._answered_s) >= _SILENCE_S
        if is_due and not self.is_silent and self._asking.acquire(blocking=False):
            try:
                # Another may have asked between these two lines.
                if not self.is_silent:
                    self.is_silent = not self._answers(max(_TRIAL_TIMEOUT_S, round(_SILENCE_S)))
            finally:
                self._asking.release()
        return not self.is_silent and now_s - since_s < _GIVEN_UP_S

    def _answers(self, timeout_s: int) -> bool:
        try:
            psycopg.Connection.connect(**{**self._parameters, "connect_timeout": timeout_s}).close()
        except psycopg.errors.ConnectionTimeout:
            self._unanswered_s = time.monotonic()
            return False
        except psycopg.Error:
            pass  # Too many connections, a wrong password, nobody there: whoever waits will hear the same.
        self._answered_s = time.monotonic()
        return True


class _WatchedConnection(psycopg.Connection[Any]):
    bmsota_watch: ServerWatch | None = None

    def wait(self, gen: Generator[Any, Any, Any], *arguments: Any, **options: Any) -> Any:
        watch = self.bmsota_watch
        return super().wait(gen if watch is None else _watched(gen, watch, self._given_up), *arguments, **options)

    def _given_up(self) -> psycopg.OperationalError:
        # What the server does with the transaction is not known any more, and nobody may use the connection again.
        self.pgconn.finish()
        return psycopg.OperationalError("the server has not answered for too long")


def _watched(
    steps: Generator[Any, Any, Any], watch: ServerWatch, given_up: Callable[[], Exception]
) -> Generator[Any, Any, Any]:
    """*steps* of psycopg, which are sent 0 whenever nothing has come for a moment."""
    since_s = 0.0
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if ready:
                since_s = 0.0
            elif not since_s:
                since_s = time.monotonic()
            elif not watch.waiting(since_s):
                raise given_up()
            wanted = steps.send(ready)
    except StopIteration as end:
        return end.value
