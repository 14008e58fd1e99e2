"""What the gateway refused, so that it can be found: who said it, what it was, what was answered.

A record is one (address, VIN, cause); what repeats raises its count and its last time. VIN and bytes are claims of the
other side: a record proves only that somebody sent them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["CAUSES", "HEAD_SIZE_BYTES_MAX", "CauseText", "Refusal", "RefusalCause", "RefusalRow"]

# The header (24 bytes), a time, and the beginning of what follows: enough to see what it was, `bmsota decode` reads it.
HEAD_SIZE_BYTES_MAX = 64


class RefusalCause(StrEnum):
    """Why something was refused. The values are words for programs; `CAUSES` has the sentences."""

    LOGIN_UNKNOWN_VIN = "login-unknown-vin"
    LOGIN_OTHER_VIN = "login-other-vin"
    LOGIN_PLATFORM = "login-platform"
    LOGIN_PLATFORM_LIMITED = "login-platform-limited"
    PLATFORM_FOREIGN_VIN = "platform-foreign-vin"
    LOGIN_INVALID = "login-invalid"
    LOGIN_UNAVAILABLE = "login-unavailable"
    NOT_LOGGED_IN = "not-logged-in"
    FOREIGN_VIN = "foreign-vin"
    ENCRYPTED = "encrypted"
    SIGNATURE_WRONG = "signature-wrong"
    STRUCTURE_WRONG = "structure-wrong"
    CHECK_BYTE_WRONG = "check-byte-wrong"
    NOT_A_FRAME = "not-a-frame"
    TLS_HANDSHAKE = "tls-handshake"
    TLS_ABANDONED = "tls-abandoned"
    UNFINISHED = "unfinished"
    COMMAND_UNKNOWN = "command-unknown"
    REPLY_UNEXPECTED = "reply-unexpected"
    DOCUMENT_REFUSED = "document-refused"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class CauseText:
    """A cause in words."""

    reason: str
    advice: str


CAUSES: dict[RefusalCause, CauseText] = {
    RefusalCause.LOGIN_UNKNOWN_VIN: CauseText(
        "The vehicle is not registered.", "Register this VIN if the vehicle is yours; it logs in at its next try."
    ),
    RefusalCause.LOGIN_OTHER_VIN: CauseText(
        "A second vehicle tried to log in on the link of another.", "Give each terminal a link of its own."
    ),
    RefusalCause.LOGIN_PLATFORM: CauseText(
        "Another platform tried to log in.",
        "Check its code, user name and password in the file of --platform-logins, or point the vehicles at this gateway.",
    ),
    RefusalCause.LOGIN_PLATFORM_LIMITED: CauseText(
        "Another platform tried to log in too often with a wrong password.",
        "If it is yours, correct its code, user name or password; it gets in when the time is over. Otherwise nothing.",
    ),
    RefusalCause.PLATFORM_FOREIGN_VIN: CauseText(
        "Another platform sent for a vehicle that is not one of its.",
        "Add the vehicle or its project to the platform's entry, if it is to send for it.",
    ),
    RefusalCause.LOGIN_INVALID: CauseText(
        "The login has an invalid length or content.", "Check the login message of this terminal, field by field."
    ),
    RefusalCause.LOGIN_UNAVAILABLE: CauseText(
        "The platform could not decide about the login.", "Check that the database answers; the vehicle tries again."
    ),
    RefusalCause.NOT_LOGGED_IN: CauseText(
        "A frame came without a login.", "The terminal has to log in first; check that its login is accepted."
    ),
    RefusalCause.FOREIGN_VIN: CauseText(
        "A frame names another VIN than the one that logged in.", "Check the VIN that is set in the terminal."
    ),
    RefusalCause.ENCRYPTED: CauseText(
        "The data unit is encrypted, and no key fits.", "Give the gateway the key of this vehicle."
    ),
    RefusalCause.SIGNATURE_WRONG: CauseText(
        "The report is not signed, or by another key.", "Check the key that the gateway verifies reports with."
    ),
    RefusalCause.STRUCTURE_WRONG: CauseText(
        "The frame is complete, and its content is invalid.", "Decode the first bytes to see which field is wrong."
    ),
    RefusalCause.CHECK_BYTE_WRONG: CauseText(
        "The check byte does not match.", "Check the connection, and the terminal's check byte (XOR from the command on)."
    ),
    RefusalCause.NOT_A_FRAME: CauseText(
        "The bytes are not GB/T 32960.", "Nothing, if no vehicle of yours is at this address: ports are scanned all the time."
    ),
    RefusalCause.TLS_HANDSHAKE: CauseText(
        "The TLS handshake failed.",
        "Check that the terminal speaks TLS 1.2 or newer here, and trusts the certificate of this gateway.",
    ),
    RefusalCause.TLS_ABANDONED: CauseText(
        "The connection was closed during the TLS handshake, without a reason.",
        "Nothing, if it is a health check or a port scan. A terminal that does not trust the certificate may do so too.",
    ),
    RefusalCause.UNFINISHED: CauseText(
        "A frame was never finished.", "Check the length in the header (bytes 23 and 24), and the connection."
    ),
    RefusalCause.COMMAND_UNKNOWN: CauseText(
        "The command is reserved, or not one that a terminal sends.", "Check the edition and extensions of this terminal."
    ),
    RefusalCause.REPLY_UNEXPECTED: CauseText(
        "An answer came to a command that was not sent, or twice.", "Nothing; look into it if it goes on."
    ),
    RefusalCause.DOCUMENT_REFUSED: CauseText(
        "A signed report was refused.", "The audit log says why; look for the vehicle."
    ),
    RefusalCause.OTHER: CauseText("The frame was refused.", "The detail says why."),
}  # fmt: skip
"""The reason for each cause, and what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What one address was refused for one cause, under one VIN."""

    id: int = 0
    address: str
    """Where it came from, without the port; an IPv6 address as its /64 network. Empty if the link has no address."""
    vin: str
    """As claimed; empty if none could be read."""
    cause: RefusalCause
    first_at: datetime
    last_at: datetime
    count: int
    head: bytes
    """The first bytes of the newest, at most `HEAD_SIZE_BYTES_MAX`."""
    answered: int | None
    """The reply flag that the newest was answered with; None: it was not answered."""
    detail: str
    """The newest in the decoder's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalRow:
    """A line of the list: a record, and whether its VIN is registered now."""

    refusal: Refusal
    is_registered: bool

    @property
    def text(self) -> CauseText:
        return CAUSES[self.refusal.cause]
