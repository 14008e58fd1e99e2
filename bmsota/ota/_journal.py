"""What of an order survives a power cut: the upgrade journal, the two signed documents, trust and the report counter.

All of it are application records of the master's boot store, so each change happens entirely or not at all. The layouts of
the records and the rule for those of another version: `_records`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from bmsota.boot import SlotState
from bmsota.errors import BmsotaError, RecordError, TransferError, TrustError
from bmsota.ota import _cbor
from bmsota.ota._image_store import IMAGE_STORE_LAYOUT
from bmsota.ota._pack_watch import PackWatch
from bmsota.ota._records import OlderLayout, RecordFormat, StoredRecord
from bmsota.ota._report import Outcome, short_reason
from bmsota.ota._rules import (
    DIGEST_SIZE_BYTES,
    expect,
    expect_count,
    expect_integer,
    expect_name,
    expect_octets,
    expect_text,
)
from bmsota.ota._trusted import POSITION_MAX, TrustState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bmsota.boot import BootStore
    from bmsota.image import ImageVersion
    from bmsota.node import NodeDescription
    from bmsota.ota._image_store import ImageStore
    from bmsota.ota._manifest import ReleaseImage, ReleaseManifest
    from bmsota.ota._order import UpgradeOrder
    from bmsota.ota._trusted import DeviceTrust


TRUST_RECORD: Final = "trust"
"""The record of the boot store that holds the unit's `TrustState`; `load_trust_state` reads it."""

_JOURNAL: Final = "upgrade"
_ORDER: Final = "order"
_MANIFEST: Final = "manifest"
_COUNTER: Final = "report-counter"
_LAST_ORDER: Final = "last-order"

# Beyond any number of reports, and any time in seconds, from which a counter may go on: no signature moves it further.
REPORT_COUNTER_MAX: Final = 2**40


class Phase(StrEnum):
    """How far an order is, as the journal says it. What each means after a power cut: `bmsota.ota._updater`."""

    NONE = ""
    ACCEPTED = "accepted"
    STAGED = "staged"
    TESTING = "testing"
    COMMITTING = "committing"
    REVERTING = "reverting"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class UpgradeJournal:
    """What must survive a power cut, beside the two signed documents."""

    phase: Phase = Phase.NONE
    base_url: str = ""
    outcome: str = ""
    reason: str = ""
    slot: int = -1
    """Where the new master image is staged. Which slot has booted tells old from new, also between equal versions."""
    changed: tuple[int, ...] = ()
    """The slaves that this order flashes; no other is ever reverted."""
    image_store: int = IMAGE_STORE_LAYOUT
    """The layout of the image store that the downloads were written in."""


_NAMES: Final = tuple(field.name for field in fields(UpgradeJournal))
# Layout 0 was a list of these, before any record had a number.
_NAMES_0: Final = _NAMES[:-1]


def _check_journal(found: Mapping[str, Any]) -> None:
    phase = Phase(found["phase"])
    expect(phase is not Phase.NONE, "phase", "an order under way", "none")
    expect(isinstance(found["base_url"], str), "base_url", "text", found["base_url"])
    if found["outcome"] or phase is Phase.REPORT:
        Outcome(found["outcome"])
    expect_text("reason", found["reason"], length_max=256)
    expect_integer("slot", found["slot"], minimum=-1, maximum=1)
    expect_count("changed", found["changed"], maximum=POSITION_MAX)
    for position in found["changed"]:
        expect_integer("changed", position, minimum=1, maximum=POSITION_MAX)
    if found["image_store"] != IMAGE_STORE_LAYOUT:
        raise RecordError(f"image store: layout {found['image_store']} is unknown", layout=found["image_store"])


def _parse_journal_0(value: Any) -> dict[str, Any]:
    expect_count("journal", value, minimum=len(_NAMES_0), maximum=2 * len(_NAMES_0))
    return {**dict(zip(_NAMES_0, value, strict=False)), "image_store": 0}


JOURNAL_FORMAT: Final = RecordFormat(
    title="upgrade journal",
    layout=1,
    names=_NAMES,
    check=_check_journal,
    older={0: OlderLayout(_parse_journal_0, lambda found: [found[name] for name in _NAMES_0])},
)


def _check_counter(found: Mapping[str, Any]) -> None:
    expect_integer("counter", found["counter"])


def _decode_counter(data: bytes) -> Any:
    # Layout 0 was the bare number in 8 bytes. Its first byte is 0 for ages, and no map of CBOR begins with that.
    return {"counter": int.from_bytes(data, "big")} if len(data) == 8 and data[0] == 0 else _cbor.decode(data)


COUNTER_FORMAT: Final = RecordFormat(
    title="report counter",
    layout=1,
    names=("counter",),
    check=_check_counter,
    older={
        0: OlderLayout(lambda value: {"counter": value["counter"]}, lambda found: found["counter"].to_bytes(8, "big"))
    },
    decode=_decode_counter,
)


def _check_last_order(found: Mapping[str, Any]) -> None:
    expect_octets("order_sha256", found["order_sha256"], size_bytes=DIGEST_SIZE_BYTES)
    expect_name("order_id", found["order_id"])
    Outcome(found["outcome"])
    expect_text("reason", found["reason"], length_max=256)


LAST_ORDER_FORMAT: Final = RecordFormat(
    title="record of the last order",
    layout=0,
    names=("order_sha256", "order_id", "outcome", "reason"),
    check=_check_last_order,
    older={},
)
"""How the last order ended, kept after its report was delivered or given up: a platform that offers it again has not got it."""


def load_trust_state(store: BootStore) -> tuple[TrustState, str]:
    """The trust state of the unit whose boot store this is, and what to write to the log about it; "" if nothing.

    A unit that starts for the first time starts with the defaults. So does one whose state cannot be read: what its nodes
    guard themselves, their security counters, cannot be undercut by that, and orders expire.
    """
    stored = store.get_record(TRUST_RECORD)
    if stored is None:
        return TrustState(), ""
    try:
        state = TrustState.loads(stored)
    except TrustError as problem:
        counters = ((0, store.security_counter),) if store.security_counter else ()
        return TrustState(security_counters=counters), f"the trust state was reset: {problem}"
    return state, state.newer_layout_note


class OrderRecords:
    """The records of one order. Flash is written by every method that changes something."""

    def __init__(
        self,
        *,
        store: BootStore,
        trust: DeviceTrust,
        images: ImageStore,
        slave_positions: Sequence[int],
        note: Callable[[str], None],
    ) -> None:
        self.store = store
        self.trust = trust
        self.image_store = images
        self.slave_positions = tuple(slave_positions)
        self.journal = UpgradeJournal()
        self.order: UpgradeOrder | None = None
        self.manifest: ReleaseManifest | None = None
        self.pack_watch = PackWatch(store)
        self.described: dict[int, NodeDescription] = {}
        """The slaves, as they have described themselves last."""
        self._note = note
        self._journal_record = StoredRecord(store, _JOURNAL, JOURNAL_FORMAT)
        self._counter_record = StoredRecord(store, _COUNTER, COUNTER_FORMAT)
        self._last_order_record = StoredRecord(store, _LAST_ORDER, LAST_ORDER_FORMAT)

    @property
    def phase(self) -> Phase:
        return self.journal.phase

    @property
    def order_id(self) -> str:
        return self.order.order_id if self.order is not None else ""

    # -- after a power cut ---------------------------------------------------------------------------------------------

    def restore(self) -> bool:
        """Read everything again. False: no order is under way, and what was left of one is forgotten."""
        try:
            found = self._journal_record.load()
        except RecordError as problem:
            return self._do_without_journal(problem)
        if found is None:
            return False
        self.journal = UpgradeJournal(**{**found, "phase": Phase(found["phase"]), "changed": tuple(found["changed"])})
        return self._restore_documents()

    def _do_without_journal(self, problem: RecordError) -> bool:
        """The order ends here, because how far it was is not known. The report says so, and what each node runs."""
        self._note(str(problem))
        try:
            self._reread_order()
        except TrustError:
            self.forget()
            return False
        reason = short_reason(str(problem))
        if self.store.is_test_pending and self._reread_manifest() is None:
            self.save(phase=Phase.REVERTING, slot=self.store.spare_slot, reason=reason)
        else:
            self.save(phase=Phase.REPORT, outcome=Outcome.FAILED.value, reason=reason)
        return True

    def _restore_documents(self) -> bool:
        if not self.trust.state.order_is_open:
            # The power was cut while the order was being closed: its end has been reported.
            self.forget()
            return False
        try:
            self._reread_order()
        except TrustError as refusal:
            return self._is_fetched_again() or self._give_up_documents(refusal)
        problem = self._reread_manifest()
        if problem is None or self.phase is Phase.REPORT:
            # A report needs no manifest, because that may be what was refused.
            return True
        return self._is_fetched_again() or self._give_up_documents(problem)

    def _is_fetched_again(self) -> bool:
        """Before the switch, documents that the power has left between two writes are fetched again; the images are kept."""
        if self.phase is Phase.STAGED and self.store.slots[self.store.spare_slot].state is SlotState.STAGED:
            self.save(phase=Phase.ACCEPTED)
        return self.phase is Phase.ACCEPTED

    def _reread_order(self) -> None:
        self.order = self.trust.reread_order(self.store.get_record(_ORDER) or b"")

    def _reread_manifest(self) -> BmsotaError | None:
        """Why it cannot be read again; None when it was."""
        assert self.order is not None
        try:
            self.manifest = self.trust.reread_manifest(self.store.get_record(_MANIFEST) or b"", self.order)
            self.image_store.assign(self.images())
        except BmsotaError as problem:
            self.manifest = None
            return problem
        return None

    def _give_up_documents(self, problem: BmsotaError) -> bool:
        """The records are damaged beyond the journal's own checks, and nothing can be flashed without the documents.

        An image in its test boot is reverted by the next boot. The platform hears nothing more, which it counts as a failure.
        """
        self._note(f"the order under way is forgotten: {problem}")
        self.forget()
        return False

    # -- changes -------------------------------------------------------------------------------------------------------

    def save(self, **changes: Any) -> None:
        """Write the journal with these fields changed."""
        self.journal = replace(self.journal, **changes)
        if self.journal.phase:
            self._journal_record.save(asdict(self.journal))
        else:
            self._journal_record.delete()

    def begin(self, base_url: str) -> None:
        """An instruction has come; nothing is written before the order is accepted."""
        self.journal = UpgradeJournal(base_url=base_url)

    def move(self, base_url: str) -> None:
        """The platform has moved; the old address may never answer again."""
        if self.phase:
            self.save(base_url=base_url)
        else:
            self.begin(base_url)

    def ask_at(self, base_url: str) -> None:
        """Where to ask for an order while the report of the last one is pending; nothing is written."""
        self.journal = replace(self.journal, base_url=base_url)

    def accept_order(self, document: bytes, now_ns: int) -> bool:
        """Believe and keep the order. True: its manifest is known already.

        A report that is pending is superseded: how its order ended stays in the record of the last order.

        Raises:
            TrustError: as `DeviceTrust.accept_order`, and `check_order_of` if its manifest is known.
        """
        order = self.trust.accept_order(document, now_ns)
        if self.phase is Phase.REPORT:
            # Before anything of the newer order is written, so that no cut gives it the outcome of the older one.
            self._keep_outcome()
            base_url = self.journal.base_url
            self.forget()
            self.begin(base_url)
        self.save_trust()
        self.store.put_record(_ORDER, document)
        is_same = self.order is not None and self.order.manifest_sha256 == order.manifest_sha256
        self.order = order
        if not is_same:
            self.manifest = None
        if self.manifest is None:
            return False
        self.trust.check_order_of(order, self.manifest)
        self.save_trust()
        return True

    def is_open_order(self, document: bytes) -> bool:
        """Whether this is the order that was accepted and is under way."""
        state = self.trust.state
        is_newest = sha256(document).digest() == state.order_sha256
        return self.order is not None and is_newest and state.order_is_open and self.phase is not Phase.REPORT

    def take_up_ended(self, document: bytes) -> bool:
        """The platform offers an order that has ended here: it does not know how. False: this is no such order.

        True: the journal says again how it ended; report it.
        """
        if self.phase is Phase.REPORT and sha256(document).digest() == self.trust.state.order_sha256:
            return True
        order = None if self.phase else self.trust.ended_order(document)
        if order is None:
            return False
        try:
            found = self._last_order_record.load()
        except RecordError as problem:
            self._note(str(problem))
            return False
        if found is None or found["order_sha256"] != self.trust.state.order_sha256:
            return False
        self.order = order
        self.store.put_record(_ORDER, document)
        self.save(phase=Phase.REPORT, outcome=found["outcome"], reason=found["reason"])
        return True

    def accept_manifest(self, document: bytes, now_ns: int) -> None:
        """Believe and keep the manifest: from here on there is an order to carry out.

        Raises:
            TrustError: as `DeviceTrust.accept_manifest`.
            TransferError: an image does not fit the slot of its node, or all of them the image store. No byte has been fetched.
        """
        assert self.order is not None
        self.manifest = self.trust.accept_manifest(document, self.order, now_ns)
        self._check_slots()
        self.image_store.assign(self.images())
        self.store.put_record(_MANIFEST, document)
        self.save(phase=Phase.ACCEPTED)

    def _check_slots(self) -> None:
        for position in (0, *self.slave_positions):
            size_bytes = self.target(position).size_bytes
            if position == 0:
                room, fits = f"{self.store.slot_size_bytes} bytes", size_bytes <= self.store.slot_size_bytes
            elif (node := self.described.get(position)) is not None:
                room, fits = f"{node.slot_size_kib} KiB", node.has_room_for(size_bytes)
            else:
                continue  # It has not answered; it will refuse the offer itself.
            if not fits:
                who = "master" if position == 0 else f"slave {position}"
                raise TransferError(
                    f"{who}: expected an image that fits the slot of {room}, got {size_bytes} bytes", permanent=True
                )

    def pack_confirmed(self) -> None:
        """Every node has confirmed the release: trust moves forward."""
        assert self.manifest is not None
        self.trust.confirmed(self.manifest, self.slave_positions)
        self.save_trust()
        self.pack_watch.released(self.images())

    def close(self, *, is_withdrawn: bool = False) -> None:
        """The order is over and nothing of it is owed to the platform; if it was withdrawn, it may come again."""
        if self.phase is Phase.REPORT:
            self._keep_outcome()
        # In this order: a cut in between leaves a journal whose order is closed (`_restore_documents`).
        self.trust.close_order(is_withdrawn=is_withdrawn)
        self.save_trust()
        self.forget()

    def _keep_outcome(self) -> None:
        """Remember how the order of the journal ended, for a platform that has not got its report."""
        self._last_order_record.save(
            {
                "order_sha256": sha256(self.store.get_record(_ORDER) or b"").digest(),
                "order_id": self.order_id,
                "outcome": self.journal.outcome,
                "reason": self.journal.reason,
            }
        )

    def forget(self) -> None:
        """Begin with the journal: without it, what is left behind of the documents means nothing."""
        self.journal = UpgradeJournal()
        self._journal_record.delete()
        self.store.delete_record(_ORDER)
        self.store.delete_record(_MANIFEST)
        self.order = self.manifest = None

    def save_trust(self) -> None:
        """Keep what is believed, as `_records` has it: an image in its test boot writes the layout it found."""
        self.store.put_record(TRUST_RECORD, self.trust.state.dumps(as_found=self.store.is_spare_running))

    def raise_report_counter(self, counter: int) -> bool:
        """The platform has seen this number already: go on above it. False: no signature makes us believe that number."""
        if counter >= REPORT_COUNTER_MAX:
            return False
        self._counter_record.save({"counter": counter})
        return True

    def next_report_counter(self, now_s: int) -> int:
        """A number for a report, written before it is used: a cut skips one, and no two reports ever share one."""
        try:
            found = self._counter_record.load()
            counter = found["counter"] if found else 0
        except RecordError as problem:
            # The platform takes no number twice. The time is beyond any number of reports.
            self._note(f"{problem}; continues from the time")
            counter = max(now_s, self.trust.state.time_s)
        if self.store.worn:
            # What is written now may be forgotten, so the next power-on might use the number again.
            counter = max(counter, now_s)
        self._counter_record.save({"counter": counter + 1})
        return int(counter) + 1

    # -- what the order asks for -----------------------------------------------------------------------------------------

    def target(self, position: int) -> ReleaseImage:
        """The image that the node at *position* must run."""
        assert self.manifest is not None
        return self.trust.image_for(self.manifest, position)

    def images(self) -> tuple[ReleaseImage, ...]:
        """The images of the release that this pack needs, each once, the master's first."""
        images = {self.target(position).sha256: self.target(position) for position in (0, *self.slave_positions)}
        return tuple(images.values())

    def slave_versions(self) -> tuple[tuple[int, ImageVersion], ...]:
        """(position, version) of every slave."""
        return tuple((position, self.target(position).version) for position in self.slave_positions)
