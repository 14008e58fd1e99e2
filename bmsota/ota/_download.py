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
redirects. Progress is a byte more than ever before: bytes that are thrown away and fetched again are none. No answer of the
server ends the download at once, because the next one may be right (a proxy, a CDN that has not got the image yet); only a
block that comes wrong in the same way each time does. What the table of faults (docs/trust.md, "Faults of the network") says is tested line by line.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from bmsota.errors import LocalProtocolError, TransferError
from bmsota.ota._device_api import image_etag, image_path
from bmsota.ota._http import HttpRequest, find_header, is_unavailable, retry_after_s
from bmsota.ota._transfer import (
    REDIRECTS_MAX,
    SECOND,
    STATUS_REDIRECT,
    DownloadOptions,
    ResponseWatchdog,
    redirect_target,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from bmsota.ota._manifest import ReleaseImage


# After this many ranges answered wrongly we no longer ask for ranges.
RANGE_FAULTS_MAX: Final = 2

_STATUS_MISSING: Final = (404, 410)
_STATUS_UNAUTHORISED: Final = (401, 403)

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_UNSATISFIED_RANGE: Final = re.compile(r"bytes \*/(\d{1,19})", re.ASCII)
_NUMBER: Final = re.compile(r"\d{1,19}", re.ASCII)


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
    is_refusal: bool = False
    """The server was there and answered with something else than the image, to the last attempt. Not so when it could not be
    reached, was too slow or said that it is unavailable."""
    retry_after_s: int | None = None
    """How long the server asked to be left alone, if it did."""


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
        self._refusals: dict[int, list[bytes]] = {}
        """The digests with which a block came wrong."""
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
        self._most_bytes = self._progress_bytes
        """The most that was ever there, the begun block included."""
        self._has_progressed = False
        self._has_ended_block = False
        self._retry_after_s: int | None = None
        self._retry_ns: int | None = None
        self._watchdog = ResponseWatchdog(self._options)

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
        return self._retry_ns if self._state is DownloadState.RETRY_WAIT else self._watchdog.deadline_ns

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
        self._has_progressed = self._has_ended_block = False
        self._retry_after_s = None
        self._watchdog.request_sent(now_ns)
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
        self._retry_after_s = retry_after_s(headers, now_ns)
        if status == 206 and self._range is not None:
            self._receive_partial(headers, now_ns)
        elif status == 200:
            self._receive_whole(headers, now_ns)
        elif status in STATUS_REDIRECT:
            self._follow(status, find_header(headers, "Location"), now_ns)
        elif status == 416 and self._range is not None:
            self._range_unsatisfied(find_header(headers, "Content-Range"), now_ns)
        elif status in (206, 416):
            self._refused(f"expected 200 to a request without a range, got {status}", now_ns)
        elif is_unavailable(status):
            self._end_attempt(f"expected 200 or 206, got {status}", now_ns)
        elif status in _STATUS_MISSING:
            self._refused(f"missing: the server does not have the image, got {status}", now_ns, status=status)
        elif status in _STATUS_UNAUTHORISED:
            problem = f"unauthorised: the server wants a new session, got {status}"
            self._fail(problem, permanent=False, status=status, is_refusal=True)
        else:
            self._refused(f"expected 200 or 206, got {status}", now_ns, status=status)

    def receive_body(self, data: bytes, now_ns: int) -> None:
        """Some bytes of the answer's body.

        Raises:
            LocalProtocolError: no answer is open.
        """
        if self._wants_abort:
            return
        if self._state is not DownloadState.RECEIVING:
            raise LocalProtocolError(f"download: no response is being received ({self._state})")
        self._watchdog.bytes_received(len(data), now_ns)
        self._take(data)
        if self.finished:
            return
        if self._is_rest_unwanted():
            self._go_on(now_ns, aborts=True)
        else:
            self._judge(now_ns)

    def response_ended(self, now_ns: int, error: str | None = None) -> None:
        """The answer is over: complete as the connection sees it, or cut, and *error* says why."""
        if self._state is DownloadState.WAITING_HEAD:
            self._end_attempt(error or "the connection closed before the response", now_ns)
        elif self._state is DownloadState.RECEIVING:
            if error is not None:
                self._end_attempt(error, now_ns)
            elif self._position < self._stream_end:
                self._refused(f"expected bytes up to {self._stream_end}, got the end at {self._position}", now_ns)
            else:
                self._go_on(now_ns, aborts=False)
        self._wants_abort = False

    def handle_timeout(self, now_ns: int) -> None:
        """Do what is due at *now_ns*; before `next_timeout()` nothing is."""
        timeout = self.next_timeout()
        if timeout is None or now_ns < timeout:
            return
        if self._state is DownloadState.RETRY_WAIT:
            self._wake(now_ns)
        else:
            self._judge(now_ns)

    # -- heads -----------------------------------------------------------------------------------------------------

    def _receive_partial(self, headers: Mapping[str, str], now_ns: int) -> None:
        assert self._range is not None
        first, last = self._range
        if self._is_encoded(headers, now_ns):
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
        if self._is_encoded(headers, now_ns):
            return
        if (find_header(headers, "Content-Type") or "").lower().startswith("text/html"):
            self._refused("the server sent a web page, not an image (a captive portal?)", now_ns)
            return
        length = (find_header(headers, "Content-Length") or "").strip()
        # A longer file, or one of unknown length, is read up to the signed size; the digests decide. A shorter one
        # cannot be right.
        if _NUMBER.fullmatch(length) and int(length) < self._image.size_bytes:
            self._refused(f"expected {self._image.size_bytes} bytes of image, got {length}", now_ns)
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
        self._watchdog.head_received(now_ns)

    def _is_encoded(self, headers: Mapping[str, str], now_ns: int) -> bool:
        """Refuse an encoded body: offsets and digests are of the plain bytes, and a small body may unpack without end."""
        encoding = (find_header(headers, "Content-Encoding") or "identity").strip().lower()
        if encoding == "identity":
            return False
        self._refused(f"expected identity encoding, got {encoding[:40]}", now_ns)
        return True

    def _follow(self, status: int, location: str | None, now_ns: int) -> None:
        self._redirects += 1
        if self._redirects > REDIRECTS_MAX:
            self._refused(f"more than {REDIRECTS_MAX} redirects", now_ns, status=status)
            return
        came_from = self._target if self._target is not None else ("", self._path)
        target = redirect_target(location, came_from=came_from, options=self._options)
        if target is None:
            problem = f"redirected to an origin that is not allowed: {(location or 'none')[:80]}"
            self._refused(problem, now_ns, status=status)
            return
        self._target = target
        self._become_ready(aborts=True)

    def _range_unsatisfied(self, content_range: str | None, now_ns: int) -> None:
        match = _UNSATISFIED_RANGE.fullmatch((content_range or "").strip())
        if match is not None and int(match[1]) != self._image.size_bytes:
            self._refused(f"expected {self._image.size_bytes} bytes of image, got {match[1]}", now_ns, status=416)
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
                self._note_progress()
                if len(self._partial) == end - start:
                    self._finish_block(index)
            self._position += len(piece)
            view = view[len(piece) :]

    def _note_progress(self) -> None:
        if self._progress_bytes + len(self._partial) > self._most_bytes:
            self._most_bytes = self._progress_bytes + len(self._partial)
            self._has_progressed = True

    def _wants(self, index: int, offset: int) -> bool:
        """Whether bytes at *offset* of block *index* go on with what we have of it."""
        if offset == 0 and self._partial_index != index:
            self._partial_index = index
            self._partial.clear()
        return self._partial_index == index and len(self._partial) == offset

    def _finish_block(self, index: int) -> None:
        data = bytes(self._partial)
        digest = hashlib.sha256(data).digest()
        self._drop_partial()
        self._has_ended_block = True
        if digest == self._image.block_sha256[index]:
            self._missing.remove(index)
            self._progress_bytes += len(data)
            self._events.append(BlockVerified(index, data))
            if not self._missing:
                self._complete()
            return
        self._events.append(BlockRefused(index))
        # Its bytes must come again, and each refusal is counted: they are progress then.
        self._most_bytes = self._progress_bytes
        refusals = self._refusals.setdefault(index, [])
        refusals.append(digest)
        if len(refusals) >= self._options.block_refusals_max:
            # The same wrong bytes each time are what the server has; others each time are a bad link.
            self._fail(f"corrupted-data: block {index} did not have its signed digest {len(refusals)} times",
                       permanent=len(set(refusals)) == 1)  # fmt: skip
        elif len(refusals) > 1 and self._range is not None:
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

    # -- ends of an attempt ----------------------------------------------------------------------------------------

    def _judge(self, now_ns: int) -> None:
        """End the attempt if the response is late, stuck or too slow."""
        watchdog = self._watchdog
        problem = watchdog.judge(now_ns)
        if watchdog.is_steady:
            self._slow_attempts = 0
        if not problem:
            return
        self._slow_attempts += watchdog.is_slow
        if watchdog.is_slow and self._slow_attempts >= self._options.slow_attempts_max:
            self._fail(problem, permanent=False)
        else:
            self._end_attempt(problem, now_ns)

    def _restart(self, reason: str) -> None:
        """Ask for the whole file next."""
        self._events.append(RestartedFromZero(reason))
        self._whole_next = True
        self._become_ready(aborts=True)

    def _go_on(self, now_ns: int, *, aborts: bool) -> None:
        """The answer has brought what it could. The next request follows at once if that was a block."""
        if self._has_ended_block:
            self._become_ready(aborts=aborts)
        else:
            # A server that hands out a few bytes an answer must not be asked without a pause.
            self._end_attempt(f"expected at least one block, got the end at {self._position}", now_ns)

    def _become_ready(self, *, aborts: bool) -> None:
        """The next request follows at once; with *aborts*, what is left of the answer is not wanted."""
        self._attempts += 1
        if self._attempts >= self._options.attempts_max:
            self._fail(f"the image did not arrive in {self._options.attempts_max} attempts", permanent=False)
            return
        self._state = DownloadState.READY
        self._wants_abort = aborts
        self._watchdog.stop()

    def _refused(self, reason: str, now_ns: int, *, status: int | None = None) -> None:
        """The server is there, and answered with something else than the image."""
        self._end_attempt(reason, now_ns, status=status, is_refusal=True)

    def _end_attempt(self, reason: str, now_ns: int, *, status: int | None = None, is_refusal: bool = False) -> None:
        """Wait, then ask for what is missing."""
        options = self._options
        self._target = None
        self._redirects = 0
        self._attempts += 1
        self._idle_attempts = 0 if self._has_progressed else self._idle_attempts + 1
        if self._idle_attempts >= options.idle_attempts_max or self._attempts >= options.attempts_max:
            problem = f"gave up after {self._attempts} attempts: {reason}"
            self._fail(problem, permanent=False, status=status, is_refusal=is_refusal)
            return
        wait_s = min(options.retry_wait_s << min(self._idle_attempts, 16), options.retry_wait_s_max)
        self._state = DownloadState.RETRY_WAIT
        self._wants_abort = True
        self._watchdog.stop()
        self._retry_ns = now_ns + options.wait_ns(wait_s * SECOND, self._retry_after_s)
        self._events.append(AttemptFailed(reason, self._retry_ns))

    def _wake(self, now_ns: int) -> None:
        if self._state is DownloadState.RETRY_WAIT and self._retry_ns is not None and now_ns >= self._retry_ns:
            self._state = DownloadState.READY
            self._retry_ns = None

    def _complete(self) -> None:
        self._state = DownloadState.COMPLETED
        self._wants_abort = True
        self._watchdog.stop()
        self._events.append(DownloadCompleted())

    def _fail(self, problem: str, *, permanent: bool, status: int | None = None, is_refusal: bool = False) -> None:
        self._state = DownloadState.FAILED
        self._wants_abort = True
        self._watchdog.stop()
        error = TransferError(f"image {self._image.sha256.hex()[:16]}: {problem}", permanent=permanent)
        self._events.append(DownloadFailed(error, status, is_refusal, self._retry_after_s))


def _strong(etag: str | None) -> str | None:
    """A strong entity tag (RFC 9110, section 8.8.3); a weak one cannot bind ranges."""
    if etag is None or len(etag) > 256 or not (etag.startswith('"') and etag.endswith('"') and len(etag) > 1):
        return None
    return etag if etag.isascii() and etag.isprintable() else None
