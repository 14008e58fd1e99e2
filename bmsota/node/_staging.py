"""An image on its way into a node's boot store, and what becomes of it there, whichever protocol asks for it.

`NodeStaging` stands between a server and its `BootStore`: it judges an offer before anything is erased, keeps the place of the next
byte, turns what the store does not allow into one `NodeRefusedError`, and reports what has happened as events. How a refusal is said on
the wire is the protocol's own business; so are frames, blocks, sessions and time.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from bmsota.errors import BmsotaError, FlashError, ImageError, LocalProtocolError, TrustError
from bmsota.image import Attack, ImageVersion
from bmsota.node._events import (
    ImageConfirmed,
    ImageRefused,
    ImageReverted,
    ImageStaged,
    StagingStarted,
    TestRequested,
)
from bmsota.node._results import ResultCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bmsota.boot import BootStore
    from bmsota.node._description import TargetIdentity
    from bmsota.node._events import TargetEvent


class NodeRefusedError(BmsotaError):
    """A node does not do what it was asked to do; `code` says why, `number` is what some codes add to it."""

    def __init__(self, code: ResultCode, detail: str = "", *, number: int = 0) -> None:
        super().__init__(detail or code.name)
        self.code = code
        self.number = number


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedImage:
    """An image in short, sent before anything is erased; each protocol lays it out in a record of its own."""

    role: int
    size_bytes: int
    sha256: bytes
    """Of the whole file."""
    class_id: UUID
    version: ImageVersion
    security_counter: int

    def fields(self) -> dict[str, int | bytes]:
        """What every offer record holds, by the names of its fields."""
        version = self.version
        return {
            "role": self.role,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "class_id": self.class_id.bytes,
            "major": version.major,
            "minor": version.minor,
            "revision": version.revision,
            "build": version.build,
            "security_counter": self.security_counter,
        }

    @staticmethod
    def values(parsed: Any) -> dict[str, Any]:
        """The values of an offer, from those fields as construct has parsed them."""
        return {
            "role": int(parsed.role),
            "size_bytes": int(parsed.size_bytes),
            "sha256": bytes(parsed.sha256),
            "class_id": UUID(bytes=bytes(parsed.class_id)),
            "version": ImageVersion(parsed.major, parsed.minor, parsed.revision, parsed.build),
            "security_counter": int(parsed.security_counter),
        }


OfferT = TypeVar("OfferT", bound=OfferedImage)

_RESULT_OF_ATTACK: Mapping[str, ResultCode] = {
    Attack.CORRUPTED_DATA: ResultCode.DAMAGED,
    Attack.ROLLBACK: ResultCode.COUNTER_TOO_LOW,
    Attack.WRONG_HARDWARE: ResultCode.WRONG_HARDWARE,
}
"""Of an image that is well formed; any other attack is NOT_TRUSTED."""


class NodeStaging:
    """What an upgrade does to one node's slots. Methods raise `NodeRefusedError` for what the node does not do now.

    Make it once per boot. What happens is handed to *emit*: StagingStarted, ImageStaged, ImageRefused (of an offer, or of an image that
    was verified), TestRequested, ImageConfirmed, ImageReverted.
    """

    def __init__(
        self, store: BootStore, identity: TargetIdentity, emit: Callable[[TargetEvent], object], *, write_bytes: int
    ) -> None:
        """Take the node's store.

        Args:
            store: its slots and journal, after `boot()`.
            identity: who the node is.
            emit: takes the events.
            write_bytes: what is written at once is a multiple of this; a multiple of the store's own write unit.
        """
        self._store = store
        self._identity = identity
        self._emit = emit
        self._write_bytes = write_bytes
        self._held = b""
        self.offset = 0
        """How much of the image is stored."""
        self.size_bytes = 0
        """Of the image that was begun last."""

    @property
    def received_bytes(self) -> int:
        """How much of the image has come: what is stored, and what does not fill a write unit yet."""
        return self.offset + len(self._held)

    @property
    def held_bytes(self) -> int:
        return len(self._held)

    # ---- receiving

    def begin(
        self, record: bytes, parse: Callable[[bytes], OfferT], can_take: Callable[[OfferT], bool] = lambda _offer: True
    ) -> OfferT:
        """Judge the offer in *record* and make the spare slot ready for its image, which continues at `offset`.

        The image itself is judged again when all of it is there.

        Raises:
            NodeRefusedError: BAD_OFFER, WRONG_ROLE, WRONG_HARDWARE, TOO_LARGE, COUNTER_TOO_LOW, TEST_PENDING, NOTHING_TO_DO (the store
                takes no such digest), WORN (its journal). Nothing has changed.
        """
        with self._refusals_reported():
            try:
                offer = parse(record)
            except ImageError as error:
                raise NodeRefusedError(ResultCode.BAD_OFFER, str(error)) from error
            self._check_offer(offer)
            if not can_take(offer):
                raise NodeRefusedError(ResultCode.BAD_OFFER, f"expected a stream this node can take, got {offer}")
            self._start(offer.size_bytes, offer.sha256)
        return offer

    def begin_plain(self, size_bytes: int) -> None:
        """Make the spare slot ready for a whole image of which no more is known than its size.

        Raises:
            NodeRefusedError: TEST_PENDING, TOO_LARGE, WORN. Nothing has changed.
        """
        self.check_spare_is_free()
        self._check_size(size_bytes)
        self._start(size_bytes, None)

    def check_spare_is_free(self) -> None:
        """Refuse to overwrite the image that runs.

        Raises:
            NodeRefusedError: TEST_PENDING.
        """
        if self._store.is_spare_running:
            raise NodeRefusedError(
                ResultCode.TEST_PENDING, "the image that runs is in test or reverted, and must not be overwritten"
            )

    def write(self, data: bytes) -> None:
        """Store the next bytes of the image; what does not fill a write unit is held back, what is behind its end ignored.

        Raises:
            NodeRefusedError: WRONG_STATE: another upgrade uses the store, WORN: the flash does not keep it. This one is over.
        """
        data = self._held + data
        remaining = self.size_bytes - self.offset
        size = remaining if len(data) >= remaining else len(data) - len(data) % self._write_bytes
        self._held = data[size:] if size < remaining else b""
        if size:
            with _refusing(ResultCode.WRONG_STATE):
                self._store.write_staged(self.offset, data[:size])
            self.offset += size

    def drop_held(self) -> None:
        """Forget what is held back: the image continues at `offset`."""
        self._held = b""

    def finish(self) -> None:
        """Verify digest, signature, hardware and counter of the staged image.

        Raises:
            NodeRefusedError: NOTHING_TO_DO (nothing to verify), BAD_IMAGE, DAMAGED, WORN, WRONG_HARDWARE, COUNTER_TOO_LOW, NOT_TRUSTED.
                Its slot is BAD, but for the first.
        """
        with self._refusals_reported(), _refusing():
            facts = self._store.finish_staging()
        self._emit(ImageStaged(facts))

    # ---- test, confirm, revert

    def request_test(self) -> None:
        """Let the next boot try the staged image.

        Raises:
            NodeRefusedError: NOTHING_TO_DO, WORN.
        """
        self._change(self._store.request_test, TestRequested())

    def confirm(self, *, raise_counter: bool) -> None:
        """Make the image in test the active one, and raise the security counter to its own.

        Raises:
            NodeRefusedError: NOTHING_TO_DO, WORN.
        """
        self._change(partial(self._store.confirm, raise_counter=raise_counter), ImageConfirmed())

    def revert(self) -> None:
        """Let the next boot run the image before.

        Raises:
            NodeRefusedError: NOTHING_TO_DO, COUNTER_TOO_LOW (of that image), WORN.
        """
        self._change(self._store.revert, ImageReverted())

    def _change(self, change: Callable[[], None], event: TargetEvent) -> None:
        with _refusing():
            change()
        self._emit(event)

    # ---- refusals

    def _check_offer(self, offer: OfferedImage) -> None:
        """Everything that can be refused before the first erase."""
        identity, counter = self._identity, self._store.security_counter
        class_id = identity.hardware_class.class_id
        if offer.role != identity.role:
            raise NodeRefusedError(ResultCode.WRONG_ROLE, f"expected role {int(identity.role)}, got {offer.role}")
        if offer.class_id != class_id:
            raise NodeRefusedError(
                ResultCode.WRONG_HARDWARE, f"expected hardware class {class_id}, got {offer.class_id}"
            )
        self._check_size(offer.size_bytes)
        if offer.security_counter < counter:
            raise NodeRefusedError(
                ResultCode.COUNTER_TOO_LOW,
                f"expected a security counter of at least {counter}, got {offer.security_counter}",
            )
        self.check_spare_is_free()

    def _check_size(self, size_bytes: int) -> None:
        largest = self._store.slot_size_bytes
        if not 0 < size_bytes <= largest:
            raise NodeRefusedError(ResultCode.TOO_LARGE, f"expected 1 to {largest} bytes, got {size_bytes}")

    def _start(self, size_bytes: int, sha256: bytes | None) -> None:
        with _refusing():
            self.offset = self._store.begin_staging(size_bytes, sha256)
        self.size_bytes = size_bytes
        self._held = b""
        self._emit(StagingStarted(self.offset, size_bytes))

    @contextmanager
    def _refusals_reported(self) -> Iterator[None]:
        try:
            yield
        except NodeRefusedError as refusal:
            self._emit(ImageRefused(refusal.code, str(refusal)))
            raise


@contextmanager
def _refusing(not_now: ResultCode = ResultCode.NOTHING_TO_DO) -> Iterator[None]:
    """Turn what the store raises into refusals; *not_now* is what it does not allow in its state."""
    try:
        yield
    except LocalProtocolError as error:
        raise NodeRefusedError(not_now, str(error)) from error
    except ImageError as error:
        raise NodeRefusedError(ResultCode.BAD_IMAGE, str(error)) from error
    except FlashError as error:
        raise NodeRefusedError(ResultCode.WORN, str(error)) from error
    except TrustError as error:
        code = _RESULT_OF_ATTACK.get(error.attack, ResultCode.NOT_TRUSTED)
        raise NodeRefusedError(code, str(error)) from error
