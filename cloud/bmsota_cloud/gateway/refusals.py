"""From what the protocol refused to a record that an operator finds: the one place that knows both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bmsota.gbt32960 import (
    Command,
    DiscardedBytes,
    Edition,
    Encryption,
    Frame,
    FrameRefused,
    LocalUpgrades,
    PlatformLogin,
    RefusalKind,
    ReplyFlag,
    ReportReceived,
    SignedReport,
    VehicleLogin2025,
    encode,
)
from bmsota_cloud.domain.refusals import RefusalCause

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota.gbt32960 import VehicleLogin
    from bmsota_cloud.services import RefusalService

__all__ = ["CAUSE_OF", "LinkRefusals"]

CAUSE_OF: dict[RefusalKind, RefusalCause] = {
    RefusalKind.NOT_A_FRAME: RefusalCause.NOT_A_FRAME,
    RefusalKind.UNFINISHED: RefusalCause.UNFINISHED,
    RefusalKind.CHECK_BYTE: RefusalCause.CHECK_BYTE_WRONG,
    RefusalKind.STRUCTURE: RefusalCause.STRUCTURE_WRONG,
    RefusalKind.ENCRYPTION: RefusalCause.ENCRYPTED,
    RefusalKind.SIGNATURE: RefusalCause.SIGNATURE_WRONG,
    RefusalKind.NOT_LOGGED_IN: RefusalCause.NOT_LOGGED_IN,
    RefusalKind.OTHER_VIN: RefusalCause.FOREIGN_VIN,
    RefusalKind.SECOND_LOGIN: RefusalCause.LOGIN_OTHER_VIN,
    RefusalKind.UNEXPECTED_REPLY: RefusalCause.REPLY_UNEXPECTED,
    RefusalKind.UNKNOWN_COMMAND: RefusalCause.COMMAND_UNKNOWN,
    RefusalKind.WRONG_DIRECTION: RefusalCause.COMMAND_UNKNOWN,
    RefusalKind.PLATFORM_LINK: RefusalCause.LOGIN_PLATFORM,
}
"""What each kind of the protocol is called here."""

_LOGINS = frozenset({Command.VEHICLE_LOGIN, Command.PLATFORM_LOGIN})


@dataclass(slots=True)
class LinkRefusals:
    """The refusals of one link."""

    service: RefusalService
    address: str
    """Where the other end is, as records are counted by (`services.network_of`)."""

    def take(self, event: FrameRefused | DiscardedBytes | ReportReceived, now: datetime) -> None:
        """Record what the protocol refused, and a report whose end was."""
        if isinstance(event, ReportReceived):
            if event.fault is not None:
                self.record(
                    RefusalCause.STRUCTURE_WRONG,
                    vin=event.vin,
                    head=event.frame,
                    answered=event.reply_flag,
                    detail=f"{event.fault}; the bodies before it were kept",
                    now=now,
                )
            return
        cause = CAUSE_OF[event.kind]
        head = event.first_bytes
        if cause is RefusalCause.STRUCTURE_WRONG and head[2] in _LOGINS:
            cause = RefusalCause.LOGIN_INVALID
        self.record(cause, vin=event.vin, head=head, answered=event.reply_flag, detail=event.reason, now=now)

    def login(
        self,
        vin: str,
        login: VehicleLogin | VehicleLogin2025 | PlatformLogin,
        cause: RefusalCause,
        flag: ReplyFlag | None,
        now: datetime,
        detail: str = "",
    ) -> None:
        """Record a login that this platform refuses with *flag*; None: the link has ended meanwhile.

        2016 has no other flag than `ReplyFlag.ERROR`.
        """
        is_2025 = isinstance(login, VehicleLogin2025)
        head = encode(
            Frame(
                command=Command.PLATFORM_LOGIN if isinstance(login, PlatformLogin) else Command.VEHICLE_LOGIN,
                vin=vin,
                message=login,
                edition=Edition.GBT2025 if is_2025 else Edition.GBT2016,
            )
        )
        answered = flag if is_2025 or flag is None else ReplyFlag.ERROR
        self.record(cause, vin=vin, head=head, answered=answered, detail=detail, now=now)

    def extension(self, frame: Frame, flag: ReplyFlag | None, now: datetime) -> None:
        """Record a command of an extension, or of 2025's key exchange, that was refused with *flag*."""
        cause, detail = RefusalCause.COMMAND_UNKNOWN, f"command {frame.command:#04x}"
        if isinstance(frame.message, SignedReport):
            cause, detail = RefusalCause.DOCUMENT_REFUSED, ""
        elif isinstance(frame.message, LocalUpgrades):
            cause, detail = RefusalCause.OTHER, "too many local upgrades of this vehicle wait for a signed report"
        self.record(
            cause,
            vin=frame.vin,
            # Its data unit is in the clear by now.
            head=encode(replace(frame, encryption=Encryption.NONE)),
            answered=flag,
            detail=detail,
            now=now,
        )

    def record(
        self,
        cause: RefusalCause,
        *,
        vin: str = "",
        head: bytes = b"",
        answered: int | None = None,
        detail: str = "",
        now: datetime,
    ) -> None:
        """Record what this platform refused by itself."""
        self.service.record(cause, address=self.address, vin=vin, head=head, answered=answered, detail=detail, now=now)
