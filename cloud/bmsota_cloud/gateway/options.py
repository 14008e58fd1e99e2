"""How the gateway talks to a vehicle: the platform's settings as options of the protocol's session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota.gbt32960 import Acknowledgement, PlatformOptions

if TYPE_CHECKING:
    from bmsota_cloud.services import PlatformSettings

__all__ = ["FirstVin", "platform_options"]

_SECOND_NS = 1_000_000_000
# Table 2: start, command, reply flag, VIN.
_MARKS = (b"##", b"$$")
_VIN_AT, _VIN_END = 4, 21


def platform_options(settings: PlatformSettings, vin: str = "") -> PlatformOptions:
    """The options for a link whose vehicle is *vin*, or not known yet if that is empty."""
    return PlatformOptions(
        # Reports are decoded behind the gateway.
        defer_decode=True,
        # Answered by the link when it is stored.
        acknowledge_reports=Acknowledgement.DEFERRED if settings.acknowledge_reports else Acknowledgement.NEVER,
        login_timeout_ns=settings.login_timeout_s * _SECOND_NS,
        silence_timeout_ns=settings.heartbeat_window_s * _SECOND_NS,
        cipher=settings.link_keys.cipher_of(vin),
        verifier=settings.report_verifier,
    )


class FirstVin:
    """Finds the VIN in the header of a link's first frame, so that the right key is there when its data unit is deciphered."""

    def __init__(self) -> None:
        self._head = b""

    def take(self, data: bytes) -> str | None:
        """The VIN, "" if these bytes begin no frame, None as long as there are too few."""
        self._head += data[:_VIN_END]
        if not self._head.startswith(_MARKS):
            return None if len(self._head) < len(_MARKS[0]) else ""
        if len(self._head) < _VIN_END:
            return None
        return self._head[_VIN_AT:_VIN_END].rstrip(b"\0 ").decode("ascii", "replace")
