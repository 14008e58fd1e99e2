"""What documents and images have in common on their way through the network: limits, deadlines, waits, redirects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from bmsota.ota._device_api import origin_of

if TYPE_CHECKING:
    from collections.abc import Collection


SECOND: Final = 1_000_000_000

# RFC 9110 leaves the number to the client; the old recommendation was five, and an honest server needs one or two.
REDIRECTS_MAX: Final = 5
# Longer addresses are refused by common servers and proxies.
LOCATION_LENGTH_MAX: Final = 2048

STATUS_REDIRECT: Final = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadOptions:
    """Limits of what a unit fetches, documents and images. The defaults suit a unit on a 4G modem."""

    head_timeout_s: int = 30
    """From request to status line: a modem that wakes up takes ten seconds."""
    stall_timeout_s: int = 20
    """Without a single byte."""
    rate_window_s: int = 30
    rate_min_bytes_per_s: int = 64
    """Over a window. A bad GPRS link gives ten times this; who sends slower holds us up on purpose."""
    slow_attempts_max: int = 3
    """Slow attempts in a row until the download fails."""
    retry_wait_s: int = 1
    """After an attempt that made progress; doubled with each that made none."""
    retry_wait_s_max: int = 60
    retry_after_s_max: int = 3600
    """A server may ask for a longer wait; after this one we try all the same."""
    idle_attempts_max: int = 8
    """Attempts in a row without a new byte: about three minutes of waiting. Bytes that had come before are not new."""
    attempts_max: int = 2000
    """All attempts: a 200 kB image in pieces of 100 bytes."""
    block_refusals_max: int = 3
    """How often one block may arrive wrong: by chance it is wrong once, twice through a broken proxy."""
    redirect_origins: frozenset[str] = field(default_factory=frozenset)
    """Origins ("https://host" or "https://host:port") a redirect may lead to, such as a CDN's. Always allowed: the one it
    comes from. The session's token goes to none of these."""
    origin: str = ""
    """Origin of the base URL, if known; redirects that name it in full are then no foreign ones. `Updater` knows it."""
    retry_jitter: float = 0.0
    """0..1, drawn once a unit: waits are longer by this part, so that a fleet does not come back as one."""

    def wait_ns(self, wait_ns: int, retry_after_s: int | None = None) -> int:
        """How long to wait instead of *wait_ns*: as long as the server asks for, within limits, and the unit's jitter."""
        wait_ns = max(wait_ns, min(retry_after_s or 0, self.retry_after_s_max) * SECOND)
        return wait_ns + int(wait_ns * self.retry_jitter)


class ResponseWatchdog:
    """The deadlines of one response after the other: none at all, no byte for some time, too few bytes over some time."""

    def __init__(self, options: DownloadOptions) -> None:
        self._options = options
        self._waits_for_head = False
        self._stall_ns = 0
        self._window_end_ns = 0
        self._window_bytes = 0
        self.deadline_ns: int | None = None
        """When `judge` wants to be called; None while no response is expected."""
        self.is_slow = False
        """What `judge` found was slowness."""
        self.is_steady = False
        """A whole window of this response was fast enough."""

    def request_sent(self, now_ns: int) -> None:
        """A response is expected from now on."""
        self._waits_for_head = True
        self.is_slow = self.is_steady = False
        self.deadline_ns = now_ns + self._options.head_timeout_s * SECOND

    def head_received(self, now_ns: int) -> None:
        """The body is expected from now on."""
        self._waits_for_head = False
        self._window_bytes = 0
        self._window_end_ns = now_ns + self._options.rate_window_s * SECOND
        self._expect_bytes(now_ns)

    def bytes_received(self, count: int, now_ns: int) -> None:
        """So many bytes of the body have come."""
        self._window_bytes += count
        if count:
            self._expect_bytes(now_ns)

    def stop(self) -> None:
        """Nothing more is expected."""
        self.deadline_ns = None

    def judge(self, now_ns: int) -> str:
        """Why the response is to be given up at *now_ns*; empty if it is not, and before the deadline."""
        options = self._options
        if self.deadline_ns is None or now_ns < self.deadline_ns:
            return ""
        if self._waits_for_head:
            return f"no response within {options.head_timeout_s} s"
        if now_ns >= self._window_end_ns:
            if self._window_bytes < options.rate_min_bytes_per_s * options.rate_window_s:
                self.is_slow = True
                return (
                    f"slow-retrieval: expected {options.rate_min_bytes_per_s} bytes/s, got {self._window_bytes} bytes in"
                    f" {options.rate_window_s} s"
                )
            self.is_steady = True
            self._window_bytes = 0
            self._window_end_ns = now_ns + options.rate_window_s * SECOND
        if now_ns >= self._stall_ns:
            return f"no data for {options.stall_timeout_s} s"
        self.deadline_ns = min(self._stall_ns, self._window_end_ns)
        return ""

    def _expect_bytes(self, now_ns: int) -> None:
        self._stall_ns = now_ns + self._options.stall_timeout_s * SECOND
        self.deadline_ns = min(self._stall_ns, self._window_end_ns)


def normal_origins(urls: Collection[str]) -> frozenset[str]:
    """The origins of *urls*, each written as `origin_of` does.

    Raises:
        ValueError: one of them has no http or https origin.
    """
    return frozenset(origin_of(url) for url in urls)


def redirect_target(
    location: str | None, *, came_from: tuple[str, str], options: DownloadOptions
) -> tuple[str, str] | None:
    """Origin and path of a redirect's target; None when we do not go there. The origin is "" at home.

    Args:
        location: the header of the response.
        came_from: origin and path of the request that was redirected.
        options: which origins are allowed.
    """
    origin, path = came_from
    if not location or len(location) > LOCATION_LENGTH_MAX or not location.isascii() or not location.isprintable():
        return None
    try:
        parts = urlsplit(location)
        if parts.scheme or parts.netloc:
            # Without a scheme ("//host/...") there is no origin: that is refused.
            found = origin_of(location)
            if options.origin and found == origin_of(options.origin):
                origin = ""
            elif "@" in parts.netloc or found not in normal_origins(options.redirect_origins):
                return None
            else:
                origin = f"{parts.scheme}://{parts.netloc}".lower()
            path = parts.path or "/"
        else:
            path = urlsplit(urljoin(path, location)).path
    except ValueError:
        return None
    if not path.startswith("/") or " " in path:
        return None
    return origin, f"{path}?{parts.query}" if parts.query else path
