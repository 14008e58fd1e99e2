"""The updater's downloads: every image the pack needs into the image store, block by block, then the master's is staged.

One image at a time is a `Download`; here is the queue of them, what becomes of their events, and when to give up.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, ClassVar, Final

from bmsota.errors import BmsotaError, FlashError
from bmsota.ota import _device_api as device_api
from bmsota.ota._actions import LogNote
from bmsota.ota._download import (
    AttemptFailed,
    BlockRefused,
    BlockVerified,
    Download,
    DownloadCompleted,
    DownloadFailed,
    RestartedFromZero,
    Resumed,
)
from bmsota.ota._exchange import EXCHANGE_TRIES_MAX
from bmsota.ota._journal import Phase
from bmsota.ota._report import Outcome
from bmsota.ota._states import UpdaterState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bmsota.ota._exchange import DeviceExchange
    from bmsota.ota._journal import OrderRecords
    from bmsota.ota._manifest import ReleaseImage
    from bmsota.ota._steering import Steering


# An image whose blocks were all verified on arrival and are not there afterwards lies on a flash that does not keep them.
STORE_TRIES_MAX: Final = 3

_S = UpdaterState


class ImageFetch:
    """One updater's downloads, from one power-on to the next."""

    def __init__(self, *, records: OrderRecords, exchange: DeviceExchange, steering: Steering) -> None:
        self._records = records
        self._exchange = exchange
        self._steering = steering
        self._images: deque[ReleaseImage] = deque()
        self._download: Download | None = None
        self._tries = 0
        """Downloads in a row that brought no block."""
        self._refusals = 0
        """Those of them that a server refused, since the last block."""
        self._store_tries = 0

    @property
    def is_under_way(self) -> bool:
        """Whether a response is an image's."""
        return self._download is not None

    def entered(self, state: UpdaterState, now_ns: int) -> None:
        """Do what entering *state* asks for here."""
        if state in self._ON_ENTRY:
            self._ON_ENTRY[state](self, now_ns)

    def reset(self) -> None:
        """The order is over."""
        self._tries = self._refusals = 0

    def next_timeout(self) -> int | None:
        """When `handle_timeout` wants to be called."""
        return self._download.next_timeout() if self._download is not None else None

    def handle_timeout(self, now_ns: int) -> None:
        """Do what is due; nothing before its time."""
        timeout = self.next_timeout()
        if timeout is not None and now_ns >= timeout and self._download is not None:
            self._download.handle_timeout(now_ns)
            self._after_input(now_ns)

    def receive_head(self, status: int, headers: Mapping[str, str], now_ns: int) -> None:
        """Status and headers of the response have come."""
        assert self._download is not None
        self._download.receive_head(status, headers, now_ns)
        self._after_input(now_ns)

    def receive_body(self, data: bytes, now_ns: int) -> None:
        """Some of the response's body has come."""
        assert self._download is not None
        self._download.receive_body(data, now_ns)
        self._after_input(now_ns)

    def ended(self, error: str | None, now_ns: int) -> None:
        """The exchange is over; *error* says why, if before its end."""
        assert self._download is not None
        self._download.response_ended(now_ns, error=error)
        self._after_input(now_ns)

    # -- private -------------------------------------------------------------------------------------------------------

    def _begin(self, now_ns: int) -> None:
        if self._records.store.worn:
            # Before anything is switched: what the switch needs might not be recorded.
            self._steering.conclude(Outcome.FAILED, self._records.store.worn, now_ns)
            return
        self._images = deque(self._records.images())
        self._store_tries = 0
        self._next_image(now_ns)

    def _next_image(self, now_ns: int) -> None:
        while self._images:
            image = self._images[0]
            intact = self._records.image_store.intact_blocks(image)
            if len(intact) == len(image.block_sha256):
                self._images.popleft()
                self._store_tries = 0
                continue
            if self._store_tries >= STORE_TRIES_MAX:
                lost = len(image.block_sha256) - len(intact)
                self._steering.conclude(
                    Outcome.FAILED, f"flash worn: the image store does not keep {lost} blocks written to it", now_ns
                )
                return
            self._download = Download(image, have=intact, options=self._exchange.options)
            self._steering.tell(self._progress_pct(), "")
            self._pump(now_ns)
            return
        self._stage(now_ns)

    def _pump(self, now_ns: int) -> None:
        assert self._download is not None
        if self._exchange.is_active:
            return
        request = self._download.next_request(now_ns)
        if request is not None:
            self._exchange.start_download(request)

    def _after_input(self, now_ns: int) -> None:
        download = self._download
        assert download is not None
        while (event := download.next_event()) is not None:
            match event:
                case BlockVerified():
                    self._records.image_store.write_block(download.image, event.index, event.data)
                    self._tries = self._refusals = 0
                    self._steering.tell(self._progress_pct(), "")
                case BlockRefused():
                    self._note(f"block {event.index} arrived wrong and is fetched again")
                case AttemptFailed():
                    self._note(f"download broke off: {event.reason}")
                case Resumed():
                    self._note(f"download goes on at byte {event.offset}")
                case RestartedFromZero():
                    self._note(f"download begins anew: {event.reason}")
                case DownloadCompleted():
                    self._exchange.drop()
                    self._download = None
                    self._store_tries += 1
                    self._next_image(now_ns)
                    return
                case DownloadFailed():
                    self._exchange.drop()
                    self._download = None
                    self._failed(event, now_ns)
                    return
        if download.wants_abort:
            self._exchange.drop()
        self._pump(now_ns)

    def _note(self, text: str) -> None:
        self._steering.act(LogNote(text))

    def _failed(self, event: DownloadFailed, now_ns: int) -> None:
        """What is in the image store stays, and a new session continues from there, unless a retry cannot help.

        A server that is not there, or too busy, or too slow, is waited for as long as the order lives.
        """
        self._tries += 1
        is_unauthorized = event.status == device_api.STATUS_UNAUTHORIZED
        self._refusals += event.is_refusal
        if event.error.permanent or self._refusals > EXCHANGE_TRIES_MAX:
            self._steering.conclude(Outcome.FAILED, str(event.error), now_ns)
        elif is_unauthorized and self._tries == 1:
            # The session ran out in mid-download, which is no failure. A new one that is refused at once is.
            self._steering.enter(_S.WAITING_SAFE_STATE, now_ns)
        else:
            self._exchange.tries = self._tries - 1
            self._exchange.failed(str(event.error), now_ns, retry_after_s=event.retry_after_s)

    def _progress_pct(self) -> int:
        """Verified bytes of all images this pack needs, in whole percent rounded down."""
        total = sum(image.size_bytes for image in self._records.images())
        rest = sum(image.size_bytes for image in self._images)
        if self._download is not None:
            rest -= self._download.progress_bytes
        return (total - rest) * 100 // total

    def _stage(self, now_ns: int) -> None:
        """Verify every image once more as a whole, then write the master's into the other slot."""
        records = self._records
        store, trust, image_store = records.store, records.trust, records.image_store
        assert records.manifest is not None
        try:
            images = [trust.check_image(image_store.read(image), image) for image in records.images()]
            trust.check_bundle(records.manifest, images)
            data = image_store.read(records.target(0))
            offset = store.begin_staging(len(data), records.target(0).sha256)
            if offset < len(data):
                store.write_staged(offset, data[offset:])
            store.finish_staging()
        except FlashError as worn:
            self._steering.conclude(Outcome.FAILED, str(worn), now_ns)
            return
        except BmsotaError as refusal:
            self._steering.conclude(Outcome.REJECTED, str(refusal), now_ns)
            return
        # The test boot is requested at the next power-on: the order may have expired by then, or the vehicle be charging.
        records.save(phase=Phase.STAGED, slot=store.spare_slot)
        if store.worn:
            self._steering.conclude(Outcome.FAILED, store.worn, now_ns)
            return
        self._steering.enter(_S.DOWNLOAD_COMPLETE, now_ns)

    def _completed(self, _now_ns: int) -> None:
        self._steering.tell(100, "")

    _ON_ENTRY: ClassVar[Mapping[UpdaterState, Callable[[ImageFetch, int], None]]] = {
        _S.DOWNLOADING: _begin,
        _S.DOWNLOAD_COMPLETE: _completed,
    }
