"""Live updates for open pages, inside one process.

Topics are "vehicle:<vin>" and "task:<id>"; a message is a dictionary of plain values, ready for JSON. A subscriber that
does not keep up loses the oldest messages and can see it (`dropped`): a page then asks for a whole snapshot.
With more than one web process this class is the place for LISTEN/NOTIFY or NATS.
"""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota_cloud.domain.telemetry import JsonValue

__all__ = ["LIVE_QUEUE_MAX", "LiveFeed", "Subscription"]

# At 50 vehicles reporting progress once a second, a page has two seconds to catch up before it loses anything.
LIVE_QUEUE_MAX = 100


class Subscription:
    """One listener of one topic."""

    def __init__(self, feed: LiveFeed, topic: str, wake: Callable[[], None] | None) -> None:
        self.topic = topic
        self.dropped = 0
        """How many messages were lost because the listener was slow."""
        self._feed = feed
        self._wake = wake
        self._messages: deque[dict[str, JsonValue]] = deque()
        self._lock = Lock()

    def take(self) -> dict[str, JsonValue] | None:
        """The oldest message, or None."""
        with self._lock:
            return self._messages.popleft() if self._messages else None

    def close(self) -> None:
        """Stop listening; safe to call twice."""
        self._feed._remove(self)  # noqa: SLF001 - the two classes are one thing

    def _put(self, message: dict[str, JsonValue]) -> None:
        with self._lock:
            if len(self._messages) >= LIVE_QUEUE_MAX:
                self._messages.popleft()
                self.dropped += 1
            self._messages.append(message)
        if self._wake is not None:
            self._wake()


class LiveFeed:
    """Publish and subscribe; safe from any thread."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._lock = Lock()

    def subscribe(self, topic: str, *, wake: Callable[[], None] | None = None) -> Subscription:
        """Listen to *topic*.

        *wake* is called after every message, in the publisher's thread: it must return at once, as
        `lambda: loop.call_soon_threadsafe(event.set)` does.
        """
        subscription = Subscription(self, topic, wake)
        with self._lock:
            self._subscriptions.setdefault(topic, []).append(subscription)
        return subscription

    def publish(self, topic: str, message: dict[str, JsonValue]) -> None:
        with self._lock:
            listeners = list(self._subscriptions.get(topic, ()))
        for subscription in listeners:
            subscription._put(message)  # noqa: SLF001 - the two classes are one thing

    def is_heard(self, topic: str) -> bool:
        """Whether there is a listener, so that no message is prepared for nothing."""
        with self._lock:
            return topic in self._subscriptions

    def _remove(self, subscription: Subscription) -> None:
        with self._lock:
            left = [item for item in self._subscriptions.get(subscription.topic, ()) if item is not subscription]
            if left:
                self._subscriptions[subscription.topic] = left
            else:
                self._subscriptions.pop(subscription.topic, None)
