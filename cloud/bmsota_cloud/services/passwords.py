"""Hashing and checking passwords: argon2id, at most two at a time, never inside a transaction.

One check takes 64 MiB and 0.15 s of a core. Two at once leave the rest of the platform its core; a few more may wait for
them, and what comes beyond is refused at once: threads that wait are threads that serve nobody. Strangers never take the
last places, so whoever has logged in from this browser or address before gets through a flood of them.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from bmsota_cloud.domain.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota_cloud.services.context import Context

__all__ = ["PASSWORD_LENGTH_MAX", "PASSWORD_LENGTH_MIN", "Passwords"]

PASSWORD_LENGTH_MIN = 12
# Longer ones would only be a way to keep argon2 busy.
PASSWORD_LENGTH_MAX = 256

_AT_ONCE_MAX = 2
# Under way and waiting, all together and strangers: six wait for 0.5 s at the most.
_ADMITTED_MAX = 8
_STRANGERS_MAX = 6
# By then everything that was admitted is done.
_RETRY_AFTER_S = 2


class Passwords:
    """The hasher of one process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        settings = context.settings
        self._hasher = PasswordHasher(
            time_cost=settings.password_passes,
            memory_cost=settings.password_memory_kib,
            parallelism=settings.password_lanes,
        )
        self._running = BoundedSemaphore(_AT_ONCE_MAX)
        self._admitted = BoundedSemaphore(_ADMITTED_MAX)
        self._strangers = BoundedSemaphore(_STRANGERS_MAX)
        # Checked when the name is unknown, so that the time of an answer does not reveal which names exist.
        self._dummy_hash = self.hash("no such account")

    def hash(self, password: str) -> str:
        """argon2id in its own text form.

        Raises:
            OverloadedError: too many are under way.
        """
        with self._place(is_known=True):
            return self._hasher.hash(password, salt=self._context.draw(16))

    def verify(self, password_hash: str | None, password: str, *, is_known: bool) -> bool:
        """Whether it is the password of this hash; with None it takes as long and never is.

        Raises:
            OverloadedError: too many are under way; with *is_known* a few more may.
        """
        with self._place(is_known=is_known):
            try:
                self._hasher.verify(password_hash or self._dummy_hash, password[: PASSWORD_LENGTH_MAX + 1])
            except (VerificationError, InvalidHashError):
                return False
            return password_hash is not None

    @contextmanager
    def _place(self, *, is_known: bool) -> Iterator[None]:
        with ExitStack() as places:
            for semaphore in (self._admitted,) if is_known else (self._strangers, self._admitted):
                if not semaphore.acquire(blocking=False):
                    self._context.counters.add("password_check_refused")
                    raise OverloadedError(
                        "busy",
                        "the platform is busy with other logins; try again in a moment",
                        retry_after_s=_RETRY_AFTER_S,
                    )
                places.callback(semaphore.release)
            with self._running:
                yield
