"""Download one image of a release over HTTP (RFC 9110), block by block, over any number of broken connections.

The machine asks for bytes, is told what came, and says which blocks are good; it opens no connection::

    READY --next_request()--> WAITING_HEAD --receive_head()--> RECEIVING --response_ended()--> READY
      ^                            |                              |
      |     time out, cut, slow, 5xx, Retry-After                 |        COMPLETED  every block verified
      +---- RETRY_WAIT <-----------+------------------------------+        FAILED     see the event's error

The driver's whole duty: send what `next_request()` gives; feed head, body and end of the answer; call `handle_timeout()` at
`next_timeout()`; take the events; close the connection when `wants_abort` is true or another request is given.

Strategy: the manifest has a digest of every block, and that digest decides, never the server. So a resumed download cannot
splice bytes of another file (If-Range is sent, but a server may ignore it), a server without ranges costs traffic and not
correctness (its answer from the beginning is skipped up to what is missing), a flipped bit costs one block, and more bytes
than the signed size are not read. A block that was begun is kept over a cut, so even 100 bytes a connection arrive in the end.

Every way to go on for ever has its bound: attempts, attempts without progress, slow attempts, refusals of one block,
redirects. What the table of faults (docs/trust.md, "Faults of the network") says is tested line by line.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from bmsota.errors import LocalProtocolError, TransferError
from bmsota.ota._device_api import image_etag, image_path
from bmsota.ota._http import HttpRequest, find_header, retry_after_s

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from bmsota.ota._manifest import ReleaseImage


_S: Final = 1_000_000_000

# RFC 9110 leaves the number to the client; the old recommendation was five, and an honest server needs one or two.
REDIRECTS_MAX: Final = 5
# Longer addresses are refused by common servers and proxies.
LOCATION_LENGTH_MAX: Final = 2048
# After this many ranges answered wrongly we no longer ask for ranges.
RANGE_FAULTS_MAX: Final = 2

_STATUS_RETRY: Final = (408, 425, 429, 500, 502, 503, 504)
_STATUS_MISSING: Final = (404, 410)
_STATUS_REDIRECT: Final = (301, 302, 303, 307, 308)
_STATUS_UNAUTHORISED: Final = (401, 403)

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_UNSATISFIED_RANGE: Final = re.compile(r"bytes \*/(\d{1,19})", re.ASCII)
_NUMBER: Final = re.compile(r"\d{1,19}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadOptions:
    """Limits of a download. The defaults suit a unit on a 4G modem."""

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
    """Attempts in a row without a new byte: about three minutes of waiting."""
    attempts_max: int = 2000
    """All attempts: a 200 kB image in pieces of 100 bytes."""
    block_refusals_max: int = 3
    """How often one block may arrive wrong: by chance it is wrong once, twice through a broken proxy."""
    redirect_origins: frozenset[str] = field(default_factory=frozenset)
    """Origins ("https://host" or "https://host:port") a redirect may lead to. Always allowed: the one it comes from."""
    origin: str = ""
    """Origin of the base URL, if known; redirects that name it in full are then no foreign ones."""
    retry_jitter: float = 0.0
    """0..1, drawn once a unit: waits are longer by this part, so that a fleet does not come back as one."""


class DownloadState(StrEnum):
    """Where the machine stands, see the diagram above."""

    READY = "ready"
    WAITING_HEAD = "waiting for head"
    RECEIVING = "receiving"
    RETRY_WAIT = "waiting to retry"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class BlockVerified:
    """A block has the digest the manifest says. Blocks come in any order, each once."""

    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class BlockRefused:
    """A block arrived with other bytes; it will be fetched again alone."""

    index: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """The server continues where we asked it to."""

    offset: int


@dataclass(frozen=True, slots=True)
class RestartedFromZero:
    """The server sends, or will be asked to send, from the beginning. Verified blocks are kept."""

    reason: str


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """One request came to nothing more; the next is due at *retry_at_ns*."""

    reason: str
    retry_at_ns: int


@dataclass(frozen=True, slots=True)
class DownloadCompleted:
    """Every block is verified."""


@dataclass(frozen=True, slots=True)
class DownloadFailed:
    """The machine has given up. What was verified stays good for another `Download`."""

    error: TransferError
    status: int | None = None
    """The HTTP status that ended it, if one did; 401 asks for a new session."""


DownloadEvent = (
    BlockVerified | BlockRefused | Resumed | RestartedFromZero | AttemptFailed | DownloadCompleted | DownloadFailed
)


class Download:
    """The download of one image."""

    def __init__(
        self,
        image: ReleaseImage,
        *,
        have: Collection[int] = (),
        etag: str | None = None,
        path: str | None = None,
        options: DownloadOptions | None = None,
    ) -> None:
        """Begin, or go on with, a download.

        Args:
            image: the manifest's entry.
            have: indices of the blocks that are stored and verified; they are not fetched again.
            etag: the entity tag of the server's file, when an earlier download learned another than the API's own.
            path: where the image is, below the base URL; default: the device API's path.
            options: limits.

        Raises:
            LocalProtocolError: *have* names a block the image does not have.
        """
        count = len(image.block_sha256)
        if any(not 0 <= index < count for index in have):
            raise LocalProtocolError(f"download: expected block indices 0..{count - 1}, got {max(have)}")
        self._image = image
        self._options = options if options is not None else DownloadOptions()
        self._path = path if path is not None else image_path(image.sha256)
        self._etag = etag if etag is not None else image_etag(image.sha256)
        self._missing = set(range(count)) - set(have)
        self._progress_bytes = image.size_bytes - sum(image.block_size(index) for index in self._missing)
        self._refusals: dict[int, int] = {}
        self._events: deque[DownloadEvent] = deque()
        self._state = DownloadState.READY
        self._wants_abort = False

        # The block begun but not complete, kept over cuts.
        self._partial = bytearray()
        self._partial_index = -1

        # The exchange under way: what was asked for, and which bytes of the file the answer brings.
        self._range: tuple[int, int] | None = None
        self._position = 0
        self._stream_end = 0
        self._target: tuple[str, str] | None = None
        self._redirects = 0

        self._whole_next = False
        self._range_faults = 0
        self._attempts = 0
        self._idle_attempts = 0
        self._slow_attempts = 0
        self._has_progressed = False
        self._deadline_ns: int | None = None
        self._stall_ns = 0
        self._window_end_ns = 0
        self._window_bytes = 0

        if not self._missing:
            self._complete()

    # -- outputs ---------------------------------------------------------------------------------------------------

    @property
    def image(self) -> ReleaseImage:
        """What is downloaded."""
        return self._image

    @property
    def state(self) -> DownloadState:
        """Where the machine stands."""
        return self._state

    @property
    def finished(self) -> bool:
        """Completed or failed: nothing more will happen."""
        return self._state in (DownloadState.COMPLETED, DownloadState.FAILED)

    @property
    def wants_abort(self) -> bool:
        """Nothing more of the open answer is wanted; the driver closes the connection."""
        return self._wants_abort

    @property
    def etag(self) -> str:
        """The entity tag the next range is bound to; worth storing when the server has its own."""
        return self._etag

    @property
    def progress_bytes(self) -> int:
        """Verified bytes, those of earlier downloads included. Never goes back."""
        return self._progress_bytes

    def next_event(self) -> DownloadEvent | None:
        """What happened, oldest first; None when that was all."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> int | None:
        """When `handle_timeout` must be called, at the latest; None when only the server or the driver can act."""
        return self._deadline_ns

    def next_request(self, now_ns: int) -> HttpRequest | None:
        """The request to send now, or None. If an answer is still open, its connection is closed first."""
        self._wake(now_ns)
        if self._state is not DownloadState.READY:
            return None
        self._wants_abort = False
        origin, path = self._target if self._target is not None else ("", self._path)
        headers = {"Accept": "application/octet-stream", "Accept-Encoding": "identity"}
        self._range = self._next_range()
        if self._range is not None:
            first, last = self._range
            headers["Range"] = f"bytes={first}-{last}"
            headers["If-Range"] = self._etag
        self._state = DownloadState.WAITING_HEAD
        self._has_progressed = False
        self._deadline_ns = now_ns + self._options.head_timeout_s * _S
        return HttpRequest("GET", path, headers, origin=origin)

    # -- inputs ----------------------------------------------------------------------------------------------------

    def receive_head(self, status: int, headers: Mapping[str, str], now_ns: int) -> None:
        """Status and headers of the answer to the last request.

        Raises:
            LocalProtocolError: no request is waiting for an answer.
        """
        if self._wants_abort:
            return
        if self._state is not DownloadState.WAITING_HEAD:
            raise LocalProtocolError(f"download: no request is waiting for a response ({self._state})")
        if status == 206 and self._range is not None:
            self._receive_partial(headers, now_ns)
        elif status == 200:
            self._receive_whole(headers, now_ns)
        elif status in _STATUS_REDIRECT:
            self._follow(status, find_header(headers, "Location"))
        elif status == 416 and self._range is not None:
            self._range_unsatisfied(find_header(headers, "Content-Range"))
        elif status in (206, 416):
            self._end_attempt(f"expected 200 to a request without a range, got {status}", now_ns)
        elif status in _STATUS_RETRY:
            wait_s = retry_after_s(headers, now_ns)
            self._end_attempt(f"expected 200 or 206, got {status}", now_ns, wait_s=wait_s)
        elif status in _STATUS_MISSING:
            self._fail(f"missing: the server does not have the image, got {status}", permanent=True, status=status)
        elif status in _STATUS_UNAUTHORISED:
            self._fail(f"unauthorised: the server wants a new session, got {status}", permanent=False, status=status)
        else:
            self._fail(f"expected 200 or 206, got {status}", permanent=True, status=status)

    def receive_body(self, data: bytes, now_ns: int) -> None:
        """Some bytes of the answer's body.

        Raises:
            LocalProtocolError: no answer is open.
        """
        if self._wants_abort:
            return
        if self._state is not DownloadState.RECEIVING:
            raise LocalProtocolError(f"download: no response is being received ({self._state})")
        self._window_bytes += len(data)
        self._take(data)
        if self.finished:
            return
        if self._is_rest_unwanted():
            self._become_ready(aborts=True)
        elif data and not self._is_too_slow(now_ns):
            self._expect_bytes(now_ns)

    def response_ended(self, now_ns: int, error: str | None = None) -> None:
        """The answer is over: complete as the connection sees it, or cut, and *error* says why."""
        if self._state is DownloadState.WAITING_HEAD:
            self._end_attempt(error or "the connection closed before the response", now_ns)
        elif self._state is DownloadState.RECEIVING:
            if error is None and self._position >= self._stream_end:
                self._become_ready(aborts=False)
            else:
                self._end_attempt(
                    error or f"expected bytes up to {self._stream_end}, got the end at {self._position}", now_ns
                )
        self._wants_abort = False

    def handle_timeout(self, now_ns: int) -> None:
        """Do what is due at *now_ns*; before `next_timeout()` nothing is."""
        if self._deadline_ns is None or now_ns < self._deadline_ns:
            return
        if self._state is DownloadState.RETRY_WAIT:
            self._wake(now_ns)
        elif self._state is DownloadState.WAITING_HEAD:
            self._end_attempt(f"no response within {self._options.head_timeout_s} s", now_ns)
        elif self._state is DownloadState.RECEIVING:
            if self._is_too_slow(now_ns):
                return
            self._deadline_ns = min(self._stall_ns, self._window_end_ns)
            if now_ns >= self._stall_ns:
                self._end_attempt(f"no data for {self._options.stall_timeout_s} s", now_ns)

    # -- heads -----------------------------------------------------------------------------------------------------

    def _receive_partial(self, headers: Mapping[str, str], now_ns: int) -> None:
        assert self._range is not None
        first, last = self._range
        if self._is_encoded(headers):
            return
        text = find_header(headers, "Content-Range") or "nothing"
        match = _CONTENT_RANGE.fullmatch(text.strip())
        size = self._image.size_bytes
        if (
            match is None
            or int(match[1]) != first
            or not first <= int(match[2]) <= last
            or match[3] not in ("*", str(size))
        ):
            self._range_faults += 1
            self._restart(f"expected Content-Range bytes {first}-{last}/{size}, got {text[:60]}")
            return
        etag = _strong(find_header(headers, "ETag"))
        if etag is not None and etag != self._etag:
            # The server has another file under this path, or names the same one otherwise, and does not know If-Range.
            self._etag = etag
            self._restart("the server has another file (entity tag)")
            return
        if first:
            self._events.append(Resumed(first))
        self._begin_body(first, int(match[2]) + 1, now_ns)

    def _receive_whole(self, headers: Mapping[str, str], now_ns: int) -> None:
        if self._is_encoded(headers):
            return
        if (find_header(headers, "Content-Type") or "").lower().startswith("text/html"):
            self._fail("the server sent a web page, not an image (a captive portal?)", permanent=False, status=200)
            return
        length = (find_header(headers, "Content-Length") or "").strip()
        # A longer file, or one of unknown length, is read up to the signed size; the digests decide. A shorter one
        # cannot be right.
        if _NUMBER.fullmatch(length) and int(length) < self._image.size_bytes:
            self._fail(f"expected {self._image.size_bytes} bytes of image, got {length}", permanent=True, status=200)
            return
        self._etag = _strong(find_header(headers, "ETag")) or self._etag
        if self._range is not None:
            self._events.append(RestartedFromZero(f"expected 206 for a range from {self._range[0]}, got 200"))
        self._drop_partial()
        self._begin_body(0, self._image.size_bytes, now_ns)

    def _begin_body(self, position: int, stream_end: int, now_ns: int) -> None:
        self._whole_next = False
        self._position = position
        self._stream_end = stream_end
        self._state = DownloadState.RECEIVING
        self._target = None
        self._redirects = 0
        self._window_bytes = 0
        self._window_end_ns = now_ns + self._options.rate_window_s * _S
        self._expect_bytes(now_ns)

    def _is_encoded(self, headers: Mapping[str, str]) -> bool:
        """Refuse an encoded body: offsets and digests are of the plain bytes, and a small body may unpack without end."""
        encoding = (find_header(headers, "Content-Encoding") or "identity").strip().lower()
        if encoding == "identity":
            return False
        self._fail(f"expected identity encoding, got {encoding[:40]}", permanent=True)
        return True

    def _follow(self, status: int, location: str | None) -> None:
        self._redirects += 1
        if self._redirects > REDIRECTS_MAX:
            self._fail(f"more than {REDIRECTS_MAX} redirects", permanent=True, status=status)
            return
        target = self._resolve(location or "")
        if target is None:
            self._fail(
                f"redirected to an origin that is not allowed: {(location or 'none')[:80]}",
                permanent=True,
                status=status,
            )
            return
        self._target = target
        self._become_ready(aborts=True)

    def _resolve(self, location: str) -> tuple[str, str] | None:
        """Origin and path of a redirect's target; None when we do not go there."""
        origin, path = self._target if self._target is not None else ("", self._path)
        if not location or len(location) > LOCATION_LENGTH_MAX or not location.isascii() or not location.isprintable():
            return None
        try:
            parts = urlsplit(location)
        except ValueError:
            return None
        if parts.scheme or parts.netloc:
            # Without a scheme ("//host/...") the origin reads "://host" and is in no list.
            origin = f"{parts.scheme}://{parts.netloc}".lower()
            if origin == self._options.origin.lower():
                origin = ""
            elif origin not in self._options.redirect_origins:
                return None
            path = parts.path or "/"
        else:
            path = urlsplit(urljoin(path, location)).path
        if not path.startswith("/") or " " in path:
            return None
        return origin, f"{path}?{parts.query}" if parts.query else path

    def _range_unsatisfied(self, content_range: str | None) -> None:
        match = _UNSATISFIED_RANGE.fullmatch((content_range or "").strip())
        if match is not None and int(match[1]) != self._image.size_bytes:
            self._fail(f"expected {self._image.size_bytes} bytes of image, got {match[1]}", permanent=True, status=416)
        else:
            self._range_faults += 1
            self._restart("expected 206, got 416 for a range inside the image")

    # -- bodies ----------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        view = memoryview(data)[: self._stream_end - self._position]
        while view and not self.finished:
            index = self._position // self._image.block_size_bytes
            start = index * self._image.block_size_bytes
            end = start + self._image.block_size(index)
            piece = view[: end - self._position]
            if index in self._missing and self._wants(index, self._position - start):
                self._partial += piece
                self._has_progressed = True
                if len(self._partial) == end - start:
                    self._finish_block(index)
            self._position += len(piece)
            view = view[len(piece) :]

    def _wants(self, index: int, offset: int) -> bool:
        """Whether bytes at *offset* of block *index* go on with what we have of it."""
        if offset == 0 and self._partial_index != index:
            self._partial_index = index
            self._partial.clear()
        return self._partial_index == index and len(self._partial) == offset

    def _finish_block(self, index: int) -> None:
        data = bytes(self._partial)
        self._drop_partial()
        if hashlib.sha256(data).digest() == self._image.block_sha256[index]:
            self._missing.remove(index)
            self._progress_bytes += len(data)
            self._events.append(BlockVerified(index, data))
            if not self._missing:
                self._complete()
            return
        self._events.append(BlockRefused(index))
        refusals = self._refusals[index] = self._refusals.get(index, 0) + 1
        if refusals >= self._options.block_refusals_max:
            self._fail(f"corrupted-data: block {index} did not have its signed digest {refusals} times",
                       permanent=True)  # fmt: skip
        elif refusals > 1 and self._range is not None:
            # Twice wrong, and as a range: perhaps only the server's ranges are wrong.
            self._whole_next = True

    def _is_rest_unwanted(self) -> bool:
        """Whether nothing is missing between here and the end of this answer."""
        size = self._image.block_size_bytes
        if self._position >= self._stream_end:
            return True
        return not any(index in self._missing for index in range(self._position // size, -(-self._stream_end // size)))

    def _next_range(self) -> tuple[int, int] | None:
        """First and last byte of the next gap, or None: the whole file, without a range."""
        if self._whole_next or self._range_faults >= RANGE_FAULTS_MAX:
            self._drop_partial()
            return None
        image = self._image
        begins = self._partial_index if self._partial else min(self._missing)
        ends = begins
        # A block that arrived wrong is fetched alone, so that it costs one block whatever happens next.
        while ends + 1 in self._missing and not (self._refusals.get(begins) or self._refusals.get(ends + 1)):
            ends += 1
        first = begins * image.block_size_bytes + len(self._partial)
        last = ends * image.block_size_bytes + image.block_size(ends) - 1
        return None if (first, last) == (0, image.size_bytes - 1) else (first, last)

    def _drop_partial(self) -> None:
        self._partial.clear()
        self._partial_index = -1

    def _expect_bytes(self, now_ns: int) -> None:
        self._stall_ns = now_ns + self._options.stall_timeout_s * _S
        self._deadline_ns = min(self._stall_ns, self._window_end_ns)

    # -- ends of an attempt ----------------------------------------------------------------------------------------

    def _is_too_slow(self, now_ns: int) -> bool:
        """Judge the rate at the end of a window; when it is too low the attempt is over."""
        if now_ns < self._window_end_ns:
            return False
        options = self._options
        if self._window_bytes >= options.rate_min_bytes_per_s * options.rate_window_s:
            self._slow_attempts = 0
            self._window_bytes = 0
            self._window_end_ns = now_ns + options.rate_window_s * _S
            return False
        self._slow_attempts += 1
        problem = (
            f"slow-retrieval: expected {options.rate_min_bytes_per_s} bytes/s, got {self._window_bytes} bytes in"
            f" {options.rate_window_s} s"
        )
        if self._slow_attempts >= options.slow_attempts_max:
            self._fail(problem, permanent=False)
        else:
            self._end_attempt(problem, now_ns)
        return True

    def _restart(self, reason: str) -> None:
        """Ask for the whole file next."""
        self._events.append(RestartedFromZero(reason))
        self._whole_next = True
        self._become_ready(aborts=True)

    def _become_ready(self, *, aborts: bool) -> None:
        """The next request follows at once; with *aborts*, what is left of the answer is not wanted."""
        self._attempts += 1
        if self._attempts >= self._options.attempts_max:
            self._fail(f"the image did not arrive in {self._options.attempts_max} attempts", permanent=False)
            return
        self._state = DownloadState.READY
        self._wants_abort = aborts
        self._deadline_ns = None

    def _end_attempt(self, reason: str, now_ns: int, *, wait_s: int | None = None) -> None:
        """Wait, then ask for what is missing."""
        options = self._options
        self._target = None
        self._redirects = 0
        self._attempts += 1
        self._idle_attempts = 0 if self._has_progressed else self._idle_attempts + 1
        if self._idle_attempts >= options.idle_attempts_max or self._attempts >= options.attempts_max:
            self._fail(f"gave up after {self._attempts} attempts: {reason}", permanent=False)
            return
        wait_ns = min(options.retry_wait_s << min(self._idle_attempts, 16), options.retry_wait_s_max) * _S
        if wait_s is not None:
            wait_ns = max(wait_ns, min(wait_s, options.retry_after_s_max) * _S)
        wait_ns += int(wait_ns * options.retry_jitter)
        self._state = DownloadState.RETRY_WAIT
        self._wants_abort = True
        self._deadline_ns = now_ns + wait_ns
        self._events.append(AttemptFailed(reason, self._deadline_ns))

    def _wake(self, now_ns: int) -> None:
        if self._state is DownloadState.RETRY_WAIT and self._deadline_ns is not None and now_ns >= self._deadline_ns:
            self._state = DownloadState.READY
            self._deadline_ns = None

    def _complete(self) -> None:
        self._state = DownloadState.COMPLETED
        self._wants_abort = True
        self._deadline_ns = None
        self._events.append(DownloadCompleted())

    def _fail(self, problem: str, *, permanent: bool, status: int | None = None) -> None:
        self._state = DownloadState.FAILED
        self._wants_abort = True
        self._deadline_ns = None
        error = TransferError(f"image {self._image.sha256.hex()[:16]}: {problem}", permanent=permanent)
        self._events.append(DownloadFailed(error, status))


def _strong(etag: str | None) -> str | None:
    """A strong entity tag (RFC 9110, section 8.8.3); a weak one cannot bind ranges."""
    if etag is None or len(etag) > 256 or not (etag.startswith('"') and etag.endswith('"') and len(etag) > 1):
        return None
    return etag if etag.isascii() and etag.isprintable() else None
