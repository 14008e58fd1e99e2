"""A/B boot slots with a power-safe journal: which image runs, which is staged, and what an updater remembers.

Issue 2, design decision 9. The public names::

    Flash, SlotLayout            what the store needs of a flash, and where things lie in it
    BootStore                    slots, test boot, confirm, revert, security counter, application records
    BootResult, BootReason       what runs after power-up, and why
    SlotInfo, SlotState          what is known of one slot
    ImageFacts, VerifyImage      what a verifier tells of an image; `for_hardware` binds one to this device
    SLOT_TRANSITIONS             the slots' state table, as data

Left out: swapping images in place (slots are executed where they are) and recovery from a journal of which both
copies are damaged. A journal of a newer layout is survived (docs/trust.md).
"""

from __future__ import annotations

from bmsota import _needs_trust  # noqa: F401 - first: it names the extra
from bmsota.boot._flash import Flash, SlotLayout
from bmsota.boot._journal import JOURNAL_RECORD_BYTES_MAX, RECORD_NAME_BYTES_MAX
from bmsota.boot._states import SLOT_TRANSITIONS, SlotChange, SlotState
from bmsota.boot._store import BootReason, BootResult, BootStore, SlotInfo
from bmsota.boot._verify import ImageFacts, VerifyImage, for_hardware

__all__ = [
    "JOURNAL_RECORD_BYTES_MAX",
    "RECORD_NAME_BYTES_MAX",
    "SLOT_TRANSITIONS",
    "BootReason",
    "BootResult",
    "BootStore",
    "Flash",
    "ImageFacts",
    "SlotChange",
    "SlotInfo",
    "SlotLayout",
    "SlotState",
    "VerifyImage",
    "for_hardware",
]
