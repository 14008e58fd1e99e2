"""A secret of the platform itself: drawn at its first use, kept in the store, the same for every process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bmsota_cloud.services.context import Context

__all__ = ["PlatformSecret"]

_SIZE_BYTES = 32


class PlatformSecret:
    """Call it for its value; not inside a transaction."""

    def __init__(self, context: Context, name: str) -> None:
        self._context = context
        self._name = name
        self._value: bytes | None = None

    def __call__(self) -> bytes:
        # Two threads may be here at once: neither must take away what the other one has found.
        value = self._value
        if value is None:
            with self._context.store.reading() as work:
                value = work.secret(self._name)
        if value is None:
            with self._context.store.transaction() as work:
                value = work.first_secret(self._name, self._context.draw(_SIZE_BYTES))
        self._value = value
        return value
