"""The boot store: two slots, which of them runs, and the changes an update makes to them.

Strategy. Everything that decides lives in the journal: each change of the boot state is one record holding the whole
state, so it happens entirely or not at all. The object keeps a copy in RAM and nothing that could not be read back; a
power cut at any flash operation (the flash driver's exception passes through) leaves a journal from which a new
`BootStore` on the same flash finds the old state or the new one.

Staged image bytes are trusted by whole erase blocks only: a PROGRESS record after each full block says that it is
complete. After a power cut the block behind it may hold torn cells; it is erased again when writing continues, so staging
resumes at that block's start. While power stays on, the position in RAM is exact.

The image is verified when staging ends, and again at every boot before it runs.

A journal of a newer layout, a lost one, or a state that cannot be read is not believed and not erased first (see `_journal`):
what the slots hold is then found by reading them. `journal_problem` says so.

Worn flash. What the journal cannot record does not happen: the method raises `FlashWornError`. Two things go on without a
record, because a unit that stops is worse: a boot, which then only does what it would do again the next time (so it never
begins a test), and application records, which then last until the power goes. `worn` says so; an updater looks at it before it
switches. A slot that cannot be read, or reads otherwise than it was written, is a damaged image.

If no image can run where the journal says there is one, any genuine image that the security counter allows is used: in either
slot, whatever the journal calls it, or from outside (`spare_images`). In a new device and after an upgrade `back_up_block` makes
a copy of the active image in the other slot, when nothing bootable is in it.

The security counter rises when an image is confirmed, or later by `raise_counter`, never before: an image that has not
proved itself must not lock its predecessor out.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING

from construct import Array, Bytes, ConstructError, Int8ul, Int32ul, Struct

from bmsota.boot._flash import ERASED, read_leniently
from bmsota.boot._journal import (
    LAYOUT,
    READINGS,
    RECORD_NAME_BYTES_MAX,
    Journal,
    Record,
    RecordKind,
    parse_named,
    serialize_named,
)
from bmsota.boot._states import SLOT_TRANSITIONS, SlotChange, SlotState
from bmsota.errors import FlashError, FlashWornError, ImageError, LocalProtocolError, TrustError
from bmsota.image import Attack, image_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bmsota.boot._flash import Flash, SlotLayout
    from bmsota.boot._verify import ImageFacts, VerifyImage


SHA256_BYTES = 32

# In the journal: the digest of an image that is being staged is not known. No file has this digest.
_UNKNOWN_SHA256 = b"\xff" * SHA256_BYTES

REVERTS_MAX = 0xFF
"""The count of a slot's reverts stops here; it is only for reports."""

_NO_SLOT = 0xFF

SLOT_LAYOUT = Struct(
    "state" / Int8ul,
    "reverts" / Int8ul,
    "size_bytes" / Int32ul,
    "progress_bytes" / Int32ul,
    "security_counter" / Int32ul,
    "sha256" / Bytes(SHA256_BYTES),
)
STATE_LAYOUT = Struct("active" / Int8ul, "security_counter" / Int32ul, "slots" / Array(2, SLOT_LAYOUT))
PROGRESS_LAYOUT = Struct("slot" / Int8ul, "progress_bytes" / Int32ul)


class BootReason(IntEnum):
    """Why this slot runs. The numbers go over the wire."""

    NORMAL = 0
    """The active image, as always."""
    TEST = 1
    """A staged image in test; the next boot reverts it unless it is confirmed before."""
    REVERTED = 2
    """The active image, because the one in test was not confirmed."""
    FALLBACK = 3
    """Another image than the active one, because that is damaged."""
    NOTHING = 4
    """No image can run; the node stays in its bootloader."""


@dataclass(frozen=True, slots=True)
class BootResult:
    """What runs after this power-up."""

    slot: int | None
    """0 or 1; None if nothing can run."""
    reason: BootReason
    facts: ImageFacts | None
    """The verified image; None if nothing can run."""


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """The journal's record of one slot."""

    state: SlotState = SlotState.EMPTY
    size_bytes: int = 0
    sha256: bytes = bytes(SHA256_BYTES)
    security_counter: int = 0
    """The image's own counter, known once the image has been verified."""
    progress_bytes: int = 0
    """How much of a STAGING image would survive a power cut now."""
    reverts: int = 0
    """How often this image was reverted, on request or because it was not confirmed."""


@dataclass(frozen=True, slots=True)
class _BootState:
    active: int | None = None
    security_counter: int = 0
    slots: tuple[SlotInfo, SlotInfo] = (SlotInfo(), SlotInfo())
    unknown: bytes = b""
    """What a later version has added behind the state; written back as it was found."""

    def serialize(self) -> bytes:
        state = bytes(
            STATE_LAYOUT.build(
                {
                    "active": _NO_SLOT if self.active is None else self.active,
                    "security_counter": self.security_counter,
                    "slots": [
                        {
                            "state": slot.state,
                            "reverts": slot.reverts,
                            "size_bytes": slot.size_bytes,
                            "progress_bytes": slot.progress_bytes,
                            "security_counter": slot.security_counter,
                            "sha256": slot.sha256,
                        }
                        for slot in self.slots
                    ],
                }
            )
        )
        return state + self.unknown

    @classmethod
    def parse(cls, payload: bytes) -> _BootState:
        """Take a state apart.

        Raises:
            ConstructError: it is too short.
            ValueError: a slot is in no state that we know, or the active one is no slot.
        """
        parsed = STATE_LAYOUT.parse(payload)
        first, second = (
            SlotInfo(
                state=SlotState(slot.state),
                size_bytes=int(slot.size_bytes),
                sha256=bytes(slot.sha256),
                security_counter=int(slot.security_counter),
                progress_bytes=int(slot.progress_bytes),
                reverts=int(slot.reverts),
            )
            for slot in parsed.slots
        )
        if parsed.active not in {0, 1, _NO_SLOT}:
            raise ValueError(f"expected slot 0, 1 or none active, got {parsed.active}")
        return cls(
            active=None if parsed.active == _NO_SLOT else int(parsed.active),
            security_counter=int(parsed.security_counter),
            slots=(first, second),
            unknown=payload[STATE_LAYOUT.sizeof() :],
        )

    def with_slot(self, index: int, slot: SlotInfo) -> _BootState:
        first, second = self.slots
        return replace(self, slots=(slot, second) if index == 0 else (first, slot))


class BootStore:
    """Slots, boot decisions and application records on one flash.

    Create it at power-up and call `boot()` once. After another exception of the flash driver than `FlashError` (a power cut)
    the object is unusable: create a new one.
    """

    def __init__(
        self,
        flash: Flash,
        layout: SlotLayout,
        *,
        verify: VerifyImage,
        spare_images: Callable[[], Iterable[bytes]] = tuple,
    ) -> None:
        """Read the journal; nothing is written.

        Args:
            flash: the memory.
            layout: its slots and journal areas.
            verify: tells genuine images of this hardware.
            spare_images: image files outside the slots, such as `bmsota.ota.stored_images`. They are looked at when no slot holds
                an image that can run, and verified before one is used.

        Raises:
            ConfigurationError: *layout* does not fit *flash*.
        """
        layout.check(flash)
        self._flash = flash
        self._layout = layout
        self._verify = verify
        self._spare_images = spare_images
        self._busy_ns = 0
        self._running_slot: int | None = None
        self._runs_nothing = False
        self._worn_slots: set[int] = set()
        """Slots that did not keep an image since power-up."""
        self._state = _BootState()
        self._records: dict[bytes, bytes] = {}
        self.journal_problem = ""
        """Why the journal, or part of it, could not be read; for the log. Empty if nothing is wrong."""
        self._journal = Journal(flash, layout, snapshot=self._live_records)
        self._replay()
        # Where staging stands. Behind a power-up this is the journal's word; the block there must be erased first.
        self._staging_offset = self._spare_info().progress_bytes

    # ---- what is known

    @property
    def slots(self) -> tuple[SlotInfo, SlotInfo]:
        return self._state.slots

    @property
    def active_slot(self) -> int | None:
        """The confirmed slot that boots normally."""
        return self._state.active

    @property
    def spare_slot(self) -> int:
        """The slot that staging writes to: the one that is not active."""
        return 1 if self._state.active == 0 else 0

    @property
    def security_counter(self) -> int:
        """Images with a lower counter are refused."""
        return self._state.security_counter

    @property
    def staging_offset(self) -> int:
        """How many bytes of the image being staged are written, including those not yet in the journal."""
        return self._staging_offset

    @property
    def journal_sequence(self) -> int:
        """Number of the newest journal record. It differs between two boots if anything was written between or during them."""
        return self._journal.sequence

    @property
    def slot_size_bytes(self) -> int:
        return self._layout.slot_size_bytes

    @property
    def write_unit_bytes(self) -> int:
        """Staged pieces are whole multiples of this, all but the last."""
        return self._flash.write_unit_bytes

    @property
    def is_test_pending(self) -> bool:
        """Whether an image is in test: it must be confirmed or will be reverted."""
        return self._slot_in(SlotState.TEST) is not None

    @property
    def is_spare_running(self) -> bool:
        """Whether the image that runs lies in the spare slot: in test, or reverted and not restarted since."""
        return self.is_test_pending or self._is_reverted

    @property
    def worn(self) -> str:
        """Why the journal does not keep what is written to it, at least not twice; empty as long as it does.

        It is found by writing, so it is known for this power-up only. Application records may last until the power goes.
        """
        return f"flash worn: {self._journal.problem}" if self._journal.problem else ""

    def read_slot(self, slot: int) -> bytes:
        """The image bytes in *slot*, as long as the journal says.

        Raises:
            FlashError: of the driver.
        """
        return self._flash.read(self._layout.slot_offsets[slot], self._state.slots[slot].size_bytes)

    def take_busy_ns(self) -> int:
        """How long the flash was busy since this was last asked; a target delays its answer by it."""
        busy = self._busy_ns + self._journal.busy_ns
        self._busy_ns = self._journal.busy_ns = 0
        return busy

    @property
    def _is_reverted(self) -> bool:
        """Whether the image that runs was in test or active, and the next boot runs the one before."""
        running = self._running_slot
        return running not in {None, self._state.active} and not self.is_test_pending

    # ---- staging

    def begin_staging(self, size_bytes: int, sha256: bytes | None) -> int:
        """Make the spare slot ready for an image of *size_bytes* whose whole file has the SHA-256 *sha256*.

        Returns the offset at which writing starts: 0 for a new image, more if part of this image is already there,
        *size_bytes* if all of it is. If nothing can run and the spare slot has not kept an image since power-up, the other one
        is the spare slot from now on. Without a digest (None, for a diagnostic tester that sends none) it is always 0, and
        the signature alone decides about the image.

        Raises:
            LocalProtocolError: the image does not fit, or it would overwrite the running one (`is_spare_running`).
            FlashWornError: the journal cannot record it.
        """
        if self.is_test_pending:
            raise LocalProtocolError("staging: an image is in test; confirm or revert it first")
        if self._is_reverted:
            raise LocalProtocolError("staging: the reverted image still runs; restart first")
        if not 0 < size_bytes <= self._layout.slot_size_bytes:
            raise LocalProtocolError(
                f"staging: expected an image of 1 to {self._layout.slot_size_bytes} bytes, got {size_bytes}"
            )
        if sha256 is None:
            sha256 = _UNKNOWN_SHA256
        elif len(sha256) != SHA256_BYTES or sha256 == _UNKNOWN_SHA256:
            raise LocalProtocolError(f"staging: expected a digest of {SHA256_BYTES} bytes, got {sha256.hex()}")
        self._make_way()
        info = self._spare_info()
        if (info.size_bytes, info.sha256) == (size_bytes, sha256) and sha256 != _UNKNOWN_SHA256:
            if info.state is SlotState.STAGING:
                return self._staging_offset
            # A BAD image is fetched again from the start: its bytes may have gone wrong in the flash.
            if info.state not in {SlotState.BAD, SlotState.EMPTY}:
                self._staging_offset = size_bytes
                return size_bytes
        spare = self.spare_slot
        self._change(
            spare,
            SlotChange.BEGUN,
            replace(SlotInfo(), size_bytes=size_bytes, sha256=sha256),
        )
        self._staging_offset = 0
        return 0

    def _make_way(self) -> None:
        """Give up a spare slot that does not keep an image, if nothing can run: the damaged one takes its place."""
        state, active, spare = self._state, self._state.active, self.spare_slot
        if active is None or not self._runs_nothing or self._worn_slots != {spare}:
            return
        for slot, change in ((spare, SlotChange.REFUSED), (active, SlotChange.DAMAGED)):
            info = state.slots[slot]
            if info.state is not SlotState.BAD:
                after = self._allowed(info.state, change)
                state = state.with_slot(slot, replace(info, state=after, progress_bytes=0))
        self._commit(replace(state, active=spare))
        self._staging_offset = 0

    def write_staged(self, offset: int, data: bytes) -> None:
        """Write the next *data* of the image; *offset* must be `staging_offset`.

        All but the last piece are whole write units. Each erase block is erased when its first byte comes.

        Raises:
            LocalProtocolError: not staging, or the piece is not the next one, or too long, or unaligned.
            FlashError: the slot does not keep the piece, or the journal the progress. Staging goes on at
                `staging_offset`, which is the start of a block then.
        """
        info = self._spare_info()
        unit = self._flash.write_unit_bytes
        end = offset + len(data)
        if info.state is not SlotState.STAGING:
            raise LocalProtocolError(f"staging: no image is being staged (the slot is {info.state.name})")
        if offset != self._staging_offset:
            raise LocalProtocolError(f"staging: expected offset {self._staging_offset}, got {offset}")
        if end > info.size_bytes:
            raise LocalProtocolError(f"staging: expected at most {info.size_bytes} bytes, got {end}")
        if len(data) % unit and end != info.size_bytes:
            raise LocalProtocolError(f"staging: expected whole write units of {unit} bytes, got {len(data)} bytes")
        block = self._flash.erase_block_bytes
        # Until the piece is there, what counts is what is known to be; the block that is begun is erased again.
        self._staging_offset = info.progress_bytes
        while offset < end:
            piece_end = min(end, offset - offset % block + block)
            self._write_piece(offset, data[len(data) - (end - offset) : len(data) - (end - piece_end)])
            offset = piece_end
            if offset % block == 0 or offset == info.size_bytes:
                self._record_progress(offset)
        self._staging_offset = offset

    def _write_piece(self, offset: int, data: bytes) -> None:
        """Write *data*, which lies in one erase block, into the spare slot; erase the block if it is the first piece of it."""
        start, unit = self._layout.slot_offsets[self.spare_slot] + offset, self._flash.write_unit_bytes
        data += bytes((ERASED,)) * (-len(data) % unit)
        try:
            if offset % self._flash.erase_block_bytes == 0:
                self._flash.erase(start)
                self._busy_ns += self._flash.erase_ns
            self._flash.write(start, data)
            self._busy_ns += self._flash.program_ns * (len(data) // unit)
        except FlashError:
            self._worn_slots.add(self.spare_slot)
            raise
        if read_leniently(self._flash, start, len(data)) != data:
            self._worn_slots.add(self.spare_slot)
            raise FlashError(f"flash worn: slot {self.spare_slot} does not keep what is written (offset {offset})")

    def finish_staging(self) -> ImageFacts:
        """Verify the staged image; afterwards its slot is STAGED. Doing it twice is harmless.

        Raises:
            LocalProtocolError: the image is not complete.
            ImageError: it is malformed. The slot is BAD.
            TrustError: its digest, signature, hardware or counter is wrong. The slot is BAD.
            FlashError: it cannot be read, and the slot is BAD; or the journal cannot record it.
        """
        spare = self.spare_slot
        info = self._state.slots[spare]
        if info.state in {SlotState.EMPTY, SlotState.BAD, SlotState.TEST}:
            raise LocalProtocolError(f"staging: no image is staged (the slot is {info.state.name})")
        if self._staging_offset != info.size_bytes and info.state is SlotState.STAGING:
            raise LocalProtocolError(f"staging: expected {info.size_bytes} bytes, got {self._staging_offset}")
        try:
            if info.sha256 == _UNKNOWN_SHA256:
                # From here on the digest guards the image as any other; the signature is checked below.
                info = replace(info, sha256=hashlib.sha256(self.read_slot(spare)).digest())
            facts = self._verified(spare, info, readings=READINGS)
        except (ImageError, TrustError, FlashError) as error:
            if isinstance(error, FlashError):
                self._worn_slots.add(spare)
            self._staging_offset = 0
            self._change(spare, SlotChange.REFUSED, replace(info, progress_bytes=0))
            raise
        self._change(spare, SlotChange.VERIFIED, replace(info, security_counter=facts.security_counter))
        return facts

    def install_factory(self, image: bytes) -> ImageFacts:
        """Write and confirm the first image of a new device, as the production line does.

        Raises:
            LocalProtocolError: the device already has an active image, or this one does not fit.
            ImageError: the image is malformed.
            TrustError: the image is not for this device.
        """
        if self._state.active is not None:
            raise LocalProtocolError(f"factory: the device already has an image (slot {self._state.active})")
        offset = self.begin_staging(len(image), hashlib.sha256(image).digest())
        if offset < len(image):
            self.write_staged(offset, image[offset:])
        facts = self.finish_staging()
        slot = self.spare_slot
        info = replace(self._state.slots[slot], state=SlotState.CONFIRMED)
        self._commit(
            replace(
                self._state.with_slot(slot, info),
                active=slot,
                security_counter=max(self._state.security_counter, facts.security_counter),
            )
        )
        return facts

    # ---- test, confirm, revert

    def request_test(self) -> None:
        """Let the next boot try the staged image.

        Raises:
            LocalProtocolError: no image is staged.
            FlashWornError: the journal cannot record it.
        """
        spare = self.spare_slot
        self._change(spare, SlotChange.TEST_REQUESTED, self._state.slots[spare])

    def boot(self) -> BootResult:
        """Decide what runs after this power-up. Call it once; each call counts as one boot."""
        self._settle()
        result = self._boot()
        self._running_slot = result.slot
        self._runs_nothing = result.slot is None
        return result

    def _settle(self) -> None:
        """Make what was read of the journal read the same the next time, before anything is done because of it."""
        if self._journal.is_settled or self.journal_problem:
            return
        with suppress(FlashWornError):
            self._journal.compact()

    def _boot(self) -> BootResult:
        in_test = self._slot_in(SlotState.TEST)
        if in_test is not None:
            self._change(in_test, SlotChange.REVERTED, self._reverted(in_test), is_required=False)
            return self._boot_confirmed(BootReason.REVERTED)
        requested = self._slot_in(SlotState.TEST_REQUESTED)
        if requested is not None:
            facts = self._facts_or_none(requested, readings=READINGS)
            if facts is None:
                self._change(requested, SlotChange.DAMAGED, self._state.slots[requested], is_required=False)
                return self._boot_confirmed(BootReason.NORMAL)
            # Recorded before the image gets control: if it hangs, the next boot must know that it had its chance.
            with suppress(FlashWornError):
                self._change(requested, SlotChange.TEST_BOOTED, self._state.slots[requested])
                return BootResult(requested, BootReason.TEST, facts)
        return self._boot_confirmed(BootReason.NORMAL)

    def confirm(self, *, raise_counter: bool = True) -> None:
        """Make the image in test the active one, and raise the security counter to its counter.

        With *raise_counter* false the counter stays, so that `revert` remains possible: a pack confirms all its nodes
        first and raises their counters when the last one is confirmed. Confirming again changes nothing more.

        Raises:
            LocalProtocolError: no image is in test and none is active, or what runs has been reverted.
            FlashWornError: the journal cannot record it.
        """
        state = self._state
        slot = self._slot_in(SlotState.TEST)
        if slot is not None:
            info = state.slots[slot]
            self._allowed(info.state, SlotChange.CONFIRMED)
            state = replace(state.with_slot(slot, replace(info, state=SlotState.CONFIRMED)), active=slot)
        elif state.active is None:
            raise LocalProtocolError("confirm: no image is in test")
        elif self._slot_in(SlotState.TEST_REQUESTED) is not None:
            # A caller who confirms believes that the new image runs. It does not: it has not been booted.
            raise LocalProtocolError("confirm: the image to be tested has not been booted; restart first")
        elif self._is_reverted:
            # The same: the next boot runs another image than the one that seems to be confirmed here.
            raise LocalProtocolError("confirm: the image that runs has been reverted")
        if raise_counter and state.active is not None:
            counter = max(state.security_counter, state.slots[state.active].security_counter)
            state = replace(state, security_counter=counter)
        if state != self._state:
            self._commit(state)
            if slot is not None:
                # The slots have changed places. A risen counter alone leaves an image that is being staged where it was.
                self._staging_offset = self._spare_info().progress_bytes

    def revert(self) -> None:
        """Go back: drop a requested test, end a running one, or return to the image that was active before.

        It takes effect at the next boot; until then a repetition changes nothing.

        Raises:
            LocalProtocolError: there is nothing to go back to.
            TrustError: the previous image's counter is lower than the security counter.
            FlashWornError: the journal cannot record it. An image in test is reverted by the next boot all the same.
        """
        for state in (SlotState.TEST, SlotState.TEST_REQUESTED):
            slot = self._slot_in(state)
            if slot is not None:
                self._change(slot, SlotChange.REVERTED, self._reverted(slot))
                return
        if self._is_reverted:
            return
        active, spare = self._state.active, self.spare_slot
        previous = self._state.slots[spare]
        if active is None or previous.state is not SlotState.CONFIRMED:
            raise LocalProtocolError(
                f"revert: no confirmed image to go back to (the other slot is {previous.state.name})"
            )
        if previous.security_counter < self._state.security_counter:
            raise TrustError(
                Attack.ROLLBACK,
                f"revert: expected a security counter of at least {self._state.security_counter}, "
                f"got {previous.security_counter}",
            )
        self._allowed(SlotState.CONFIRMED, SlotChange.REVERTED)
        reverted = replace(self._reverted(active), state=SlotState.STAGED)
        self._commit(replace(self._state.with_slot(active, reverted), active=spare))
        self._staging_offset = self._spare_info().size_bytes

    def raise_counter(self, value: int) -> None:
        """Raise the security counter to *value*; the same value again changes nothing.

        Raises:
            LocalProtocolError: *value* is lower than the counter, or higher than the active image's own counter (no
                image would be left to boot), or an image is in test.
            FlashWornError: the journal cannot record it.
        """
        if self.is_test_pending or self._state.active is None:
            raise LocalProtocolError("security counter: no confirmed image runs; it cannot be raised")
        highest = self._state.slots[self._state.active].security_counter
        if not self._state.security_counter <= value <= max(highest, self._state.security_counter):
            raise LocalProtocolError(
                f"security counter: expected {self._state.security_counter} to {highest}, got {value}"
            )
        if value != self._state.security_counter:
            self._commit(replace(self._state, security_counter=value))

    # ---- application records

    def put_record(self, name: str, value: bytes) -> None:
        """Keep *value* under *name*: after a power cut either this value or the one before is there.

        If the journal cannot record it, it is kept until the power goes, and `worn` says why.

        Raises:
            LocalProtocolError: the name is empty or too long, or the journal has no room for the value.
        """
        key = _record_key(name)
        if self._records.get(key) == value:
            return
        # Old and new value never lie in one snapshot, so only the new one must fit.
        others = {other: kept for other, kept in self._records.items() if other != key}
        self._journal.check_room(self._live_records_of(self._state, {**others, key: value}))
        self._put(Record(RecordKind.APPLICATION, serialize_named(key, value)), {**self._records, key: value})

    def get_record(self, name: str) -> bytes | None:
        """The value kept under *name*; None if there is none."""
        return self._records.get(_record_key(name))

    def delete_record(self, name: str) -> None:
        """Forget what is kept under *name*, if anything is."""
        key = _record_key(name)
        if key in self._records:
            remaining = {other: value for other, value in self._records.items() if other != key}
            self._put(Record(RecordKind.APPLICATION_DELETED, serialize_named(key)), remaining)

    def record_names(self) -> tuple[str, ...]:
        return tuple(sorted(key.decode() for key in self._records))

    # ---- a copy of the active image

    @property
    def wants_back_up(self) -> bool:
        """Whether the other slot holds nothing that could run instead of the active image: in a new device, and after an upgrade.

        A slot that does not keep the copy stays as it is; so does an image that is being staged, or waits for its test.
        """
        state = self._state
        if state.active is None or self.is_spare_running or self.worn:
            return False
        active, spare = state.slots[state.active], self._spare_info()
        if spare.sha256 == active.sha256:
            return spare.state is SlotState.STAGING
        if spare.state in {SlotState.CONFIRMED, SlotState.STAGED}:
            return spare.security_counter < state.security_counter
        return spare.state in {SlotState.BAD, SlotState.EMPTY}

    def back_up_block(self) -> bool:
        """Copy the next erase block of the active image into the other slot; false when there is nothing more to do.

        Call it when the device has time and power, and no flasher or updater is at work: it takes as long as an erase and a
        write of that block. A power cut costs a block. The copy is a staged image; a boot that finds the active one damaged
        verifies it and runs it.
        """
        if not self.wants_back_up:
            return False
        active = self._state.active
        assert active is not None
        info = self._state.slots[active]
        try:
            offset = self.begin_staging(info.size_bytes, info.sha256)
            end = min(offset + self._flash.erase_block_bytes, info.size_bytes)
            if offset < end:
                self.write_staged(offset, self._flash.read(self._layout.slot_offsets[active] + offset, end - offset))
            if end == info.size_bytes:
                self.finish_staging()
        except (FlashWornError, ImageError, TrustError):
            return False
        except FlashError:
            self._give_up_back_up()
            return False
        return end < info.size_bytes

    def _give_up_back_up(self) -> None:
        """One of the slots cannot be read or written; it will not be better the next time."""
        info = self._spare_info()
        if info.state is SlotState.STAGING:
            self._staging_offset = 0
            self._change(self.spare_slot, SlotChange.REFUSED, replace(info, progress_bytes=0), is_required=False)

    # ---- boot decisions

    def _boot_confirmed(self, reason: BootReason) -> BootResult:
        active = self._state.active
        if active is not None:
            facts = self._facts_or_none(active)
            if facts is not None:
                return BootResult(active, reason, facts)
        # The active image is damaged, or a new device was never confirmed. A verified image in the other slot, even one
        # that was only staged, is better than a dead node.
        other = self.spare_slot
        info = self._state.slots[other]
        if info.state in {SlotState.CONFIRMED, SlotState.STAGED}:
            facts = self._facts_or_none(other)
            if facts is not None:
                return self._rescued(other, info, facts)
        return self._boot_last_resort()

    def _boot_last_resort(self) -> BootResult:
        """Nothing runs where the journal says. Find any genuine image that is allowed to."""
        if self._state.active is None and self._journal.is_empty:
            # A device without a history: `_read_slots` has looked.
            return BootResult(None, BootReason.NOTHING, None)
        for _ in range(READINGS):
            for slot in (1 - self.spare_slot, self.spare_slot):
                found = self._image_in(slot)
                if found is not None and found[1].security_counter >= self._state.security_counter:
                    return self._rescued(slot, *found)
        for data in self._spare_images():
            restored = self._restore(data)
            if restored is not None:
                return restored
        # The journal stays as it is: what reads as damaged now may be read well next time.
        return BootResult(None, BootReason.NOTHING, None)

    def _restore(self, data: bytes) -> BootResult | None:
        """Write the image *data* into a slot that keeps it; None if there is none, or the image is not allowed here."""
        try:
            facts = self._verify(data)
        except (ImageError, TrustError):
            return None
        if facts.security_counter < self._state.security_counter or len(data) > self._layout.slot_size_bytes:
            return None
        info = SlotInfo(
            size_bytes=len(data), sha256=hashlib.sha256(data).digest(), security_counter=facts.security_counter
        )
        for slot in (self.spare_slot, 1 - self.spare_slot):
            if self._program(slot, data):
                return self._rescued(slot, info, facts)
        return None

    def _program(self, slot: int, data: bytes) -> bool:
        """Write a whole image into *slot*; whether it is there then."""
        start = self._layout.slot_offsets[slot]
        padded = data + bytes((ERASED,)) * (-len(data) % self._flash.write_unit_bytes)
        try:
            for offset in range(0, len(data), self._flash.erase_block_bytes):
                self._flash.erase(start + offset)
            self._flash.write(start, padded)
            return all(self._flash.read(start, len(data)) == data for _ in range(READINGS))
        except FlashError:
            return False

    def _rescued(self, slot: int, info: SlotInfo, facts: ImageFacts) -> BootResult:
        """Make the image in *slot* the active one; the other slot's is damaged."""
        after = self._allowed(self._state.slots[slot].state, SlotChange.RESCUED)
        state = self._state.with_slot(slot, replace(info, state=after))
        if state.active == 1 - slot and state.slots[1 - slot].state is not SlotState.BAD:
            after = self._allowed(state.slots[1 - slot].state, SlotChange.DAMAGED)
            state = state.with_slot(1 - slot, replace(state.slots[1 - slot], state=after))
        self._commit(replace(state, active=slot), is_required=False)
        return BootResult(slot, BootReason.FALLBACK, facts)

    def _verified(self, slot: int, info: SlotInfo, *, readings: int = 1) -> ImageFacts:
        start, size = self._layout.slot_offsets[slot], info.size_bytes
        try:
            data, *more = (self._flash.read(start, size) for _ in range(readings))
        except FlashError as error:
            raise FlashError(f"flash worn: slot {slot} cannot be read ({error})") from error
        if any(reading != data for reading in more):
            raise FlashError(f"flash worn: slot {slot} reads differently each time")
        digest = hashlib.sha256(data).digest()
        if digest != info.sha256:
            raise TrustError(
                Attack.CORRUPTED_DATA, f"slot {slot}: expected digest {info.sha256.hex()}, got {digest.hex()}"
            )
        facts = self._verify(data)
        if facts.security_counter < self._state.security_counter:
            raise TrustError(
                Attack.ROLLBACK,
                f"slot {slot}: expected a security counter of at least {self._state.security_counter}, "
                f"got {facts.security_counter}",
            )
        return facts

    def _facts_or_none(self, slot: int, *, readings: int = 1) -> ImageFacts | None:
        try:
            return self._verified(slot, self._state.slots[slot], readings=readings)
        except (ImageError, TrustError, FlashError):
            return None

    # ---- state and journal

    def _spare_info(self) -> SlotInfo:
        return self._state.slots[self.spare_slot]

    def _slot_in(self, state: SlotState) -> int | None:
        for index, slot in enumerate(self._state.slots):
            if slot.state is state:
                return index
        return None

    def _reverted(self, slot: int) -> SlotInfo:
        info = self._state.slots[slot]
        return replace(info, reverts=min(info.reverts + 1, REVERTS_MAX))

    @staticmethod
    def _allowed(state: SlotState, change: SlotChange) -> SlotState:
        after = SLOT_TRANSITIONS.get((state, change))
        if after is None:
            raise LocalProtocolError(f"slot: {change.name} is not possible while it is {state.name}")
        return after

    def _change(self, slot: int, change: SlotChange, info: SlotInfo, *, is_required: bool = True) -> None:
        """Write *info* with the state that *change* leads to, unless that is what already stands there."""
        after = self._allowed(self._state.slots[slot].state, change)
        state = self._state.with_slot(slot, replace(info, state=after))
        if state != self._state:
            self._commit(state, is_required=is_required)

    def _commit(self, state: _BootState, *, is_required: bool = True) -> None:
        """Record *state*. If the journal cannot, an optional one counts until the power goes; a required one is an error."""
        self._record(Record(RecordKind.STATE, state.serialize()), state, is_required=is_required)

    def _record_progress(self, progress_bytes: int) -> None:
        slot = self.spare_slot
        info = replace(self._state.slots[slot], progress_bytes=progress_bytes)
        payload = PROGRESS_LAYOUT.build({"slot": slot, "progress_bytes": progress_bytes})
        self._record(Record(RecordKind.PROGRESS, bytes(payload)), self._state.with_slot(slot, info))

    def _record(self, record: Record, state: _BootState, *, is_required: bool = True) -> None:
        # RAM first: if the areas are renewed, the snapshot must hold the new state.
        before, self._state = self._state, state
        try:
            self._journal.write(record)
        except FlashWornError:
            if is_required:
                self._state = before
                raise

    def _put(self, record: Record, records: dict[bytes, bytes]) -> None:
        self._records = records
        with suppress(FlashWornError):
            self._journal.write(record)

    def _live_records(self) -> Iterable[Record]:
        return self._live_records_of(self._state, self._records)

    @staticmethod
    def _live_records_of(state: _BootState, records: dict[bytes, bytes]) -> Iterable[Record]:
        yield Record(RecordKind.STATE, state.serialize())
        for key, value in records.items():
            yield Record(RecordKind.APPLICATION, serialize_named(key, value))

    def _replay(self) -> None:
        found = self._journal.records
        last_state = max((i for i, record in enumerate(found) if record.kind is RecordKind.STATE), default=None)
        if self._journal.newer_layout is not None:
            self._read_slots(f"layout {self._journal.newer_layout} is newer than this version reads ({LAYOUT})")
        elif last_state is None:
            # A new device, or there is nothing left of it.
            self._read_slots("no boot state can be read")
        if last_state is not None:
            try:
                self._state = _BootState.parse(found[last_state].payload)
            except (ConstructError, ValueError) as problem:
                self._read_slots(f"the boot state cannot be read ({str(problem).splitlines()[-1]})")
                last_state = len(found)
        for index, (kind, payload) in enumerate(found):
            if kind is RecordKind.PROGRESS and last_state is not None and index > last_state:
                try:
                    progress = PROGRESS_LAYOUT.parse(payload)
                    info = self._state.slots[progress.slot]
                except (ConstructError, IndexError):
                    # The image is staged again from the last progress that can be read.
                    continue
                info = replace(info, progress_bytes=int(progress.progress_bytes))
                self._state = self._state.with_slot(int(progress.slot), info)
            elif kind is RecordKind.APPLICATION:
                key, value = parse_named(payload)
                self._records[key] = value
            elif kind is RecordKind.APPLICATION_DELETED:
                self._records.pop(parse_named(payload)[0], None)
        self._journal.records = []

    def _read_slots(self, problem: str) -> None:
        """Find out what the slots hold by reading them: the image of the highest counter and version is the active one.

        It is the one most likely to have written what we cannot read. Nothing is written before something changes.
        """
        images = {slot: image for slot in (0, 1) if (image := self._image_in(slot)) is not None}
        if images or not self._journal.is_empty:
            self.journal_problem = f"boot journal: {problem}; the slots were read instead"
        if not images:
            return
        active = max(images, key=lambda slot: (images[slot][1].security_counter, images[slot][1].version))
        for slot, (info, _) in images.items():
            state = SlotState.CONFIRMED if slot == active else SlotState.STAGED
            self._state = self._state.with_slot(slot, replace(info, state=state))
        counter = images[active][1].security_counter
        self._state = replace(self._state, active=active, security_counter=counter)

    def _image_in(self, slot: int) -> tuple[SlotInfo, ImageFacts] | None:
        """The genuine image at the start of *slot*, if there is one."""
        data = read_leniently(self._flash, self._layout.slot_offsets[slot], self._layout.slot_size_bytes)
        try:
            data = data[: image_length(data)]
            facts = self._verify(data)
        except (ImageError, TrustError):
            return None
        digest = hashlib.sha256(data).digest()
        return SlotInfo(size_bytes=len(data), sha256=digest, security_counter=facts.security_counter), facts


def _record_key(name: str) -> bytes:
    key = name.encode()
    if not 0 < len(key) <= RECORD_NAME_BYTES_MAX:
        raise LocalProtocolError(f"record name: expected 1 to {RECORD_NAME_BYTES_MAX} bytes, got {len(key)}")
    return key
