"""From what the protocol refused to a record that an operator finds: the one place that knows both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota.errors import FrameError
from bmsota.gbt32960 import (
    HEADER_SIZE_BYTES,
    Command,
    DiscardedBytes,
    Edition,
    Encryption,
    FrameRefused,
    RawMessage,
    ReplyFlag,
    decode_header,
    encode,
)
from bmsota_cloud.domain.refusals import HEAD_SIZE_BYTES_MAX, RefusalCause

if TYPE_CHECKING:
    from bmsota.gbt32960 import Frame

__all__ = ["RefusedBytes", "refused_bytes"]

_LOGINS = frozenset({Command.VEHICLE_LOGIN, Command.PLATFORM_LOGIN})
_MARKS = (b"##", b"$$")
_REPORTS = frozenset({Command.REALTIME_REPORT, Command.BACKFILL_REPORT})


@dataclass(frozen=True, slots=True)
class RefusedBytes:
    """What a record says of an event, beside the address and the time."""

    cause: RefusalCause
    vin: str
    head: bytes
    answered: int | None
    detail: str


def refused_bytes(event: FrameRefused | DiscardedBytes, *, logged_in: str) -> RefusedBytes:
    """The cause of *event* on a link where the vehicle *logged_in* is logged in, or none if that is empty."""
    if isinstance(event, FrameRefused):
        frame = event.frame
        cause = _cause_of_frame(frame, logged_in)
        return RefusedBytes(cause, frame.vin, _head(frame), _answered(frame, cause), event.reason)
    return _discarded(event, logged_in)


def _cause_of_frame(frame: Frame, logged_in: str) -> RefusalCause:
    is_command = frame.reply_flag == ReplyFlag.COMMAND
    if frame.command in _LOGINS and is_command:
        return RefusalCause.ENCRYPTED if _is_encrypted(frame) else RefusalCause.LOGIN_INVALID
    if not logged_in:
        return RefusalCause.NOT_LOGGED_IN
    if frame.vin != logged_in:
        return RefusalCause.FOREIGN_VIN
    if not is_command:
        return RefusalCause.REPLY_UNEXPECTED
    if _is_encrypted(frame):
        return RefusalCause.ENCRYPTED
    if frame.command in _REPORTS and frame.edition is Edition.GBT2025:
        return RefusalCause.SIGNATURE_WRONG
    return RefusalCause.COMMAND_UNKNOWN


def _is_encrypted(frame: Frame) -> bool:
    return frame.encryption != Encryption.NONE and isinstance(frame.message, RawMessage)


def _answered(frame: Frame, cause: RefusalCause) -> int | None:
    del frame
    return ReplyFlag.SIGNATURE_WRONG if cause is RefusalCause.SIGNATURE_WRONG else None


def _head(frame: Frame) -> bytes:
    return encode(frame)[:HEAD_SIZE_BYTES_MAX]


def _discarded(event: DiscardedBytes, logged_in: str) -> RefusedBytes:
    data = event.data
    head = data[:HEAD_SIZE_BYTES_MAX]
    if event.error is None:
        is_frame = data[:2] in _MARKS and len(data) > HEADER_SIZE_BYTES and "check byte" in event.reason
        if not is_frame:
            return RefusedBytes(RefusalCause.NOT_A_FRAME, "", head, None, event.reason)
        return RefusedBytes(RefusalCause.CHECK_BYTE_WRONG, _claimed_vin(data), head, None, event.reason)
    try:
        header = decode_header(data)
    except FrameError:
        # An encryption or an identifier that there is not.
        return RefusedBytes(RefusalCause.STRUCTURE_WRONG, _claimed_vin(data), head, None, event.reason)
    cause = RefusalCause.STRUCTURE_WRONG
    if header.encryption != Encryption.NONE:
        cause = RefusalCause.ENCRYPTED
    elif header.command in _LOGINS:
        cause = RefusalCause.LOGIN_INVALID
    answered = None
    if header.command in _REPORTS and header.reply_flag == ReplyFlag.COMMAND and header.vin == logged_in:
        answered = ReplyFlag.ERROR
        if header.edition is Edition.GBT2025:
            is_cipher = cause is RefusalCause.ENCRYPTED
            answered = ReplyFlag.DECRYPTION_FAILED if is_cipher else ReplyFlag.STRUCTURE_WRONG
    return RefusedBytes(cause, header.vin, head, answered, event.reason)


def _claimed_vin(data: bytes) -> str:
    """What stands in the place of the VIN; the service cuts what cannot be shown."""
    return data[4:21].rstrip(b"\0 ").decode("ascii", "replace")
