"""How the gateway talks to a vehicle: the platform's settings as options of the protocol's session."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bmsota.gbt32960 import Acknowledgement, PlatformOptions

if TYPE_CHECKING:
    from bmsota_cloud.services import PlatformSettings

__all__ = ["PLATFORM_SILENCE_NS", "VinFinder", "platform_options"]

_SECOND_NS = 1_000_000_000
# Between platforms nothing comes while no vehicle is on; a dead link is found by TCP, and at the latest after this.
PLATFORM_SILENCE_NS = 3600 * _SECOND_NS
# Table 2: start, command, reply flag of a command, VIN.
_HEADER = re.compile(rb"(?:##|\$\$)[^\0]\xfe([!-~][ -~\0]{16})", re.DOTALL)
_HEADER_SIZE_BYTES = 21


def platform_options(settings: PlatformSettings, vin: str = "") -> PlatformOptions:
    """The options for a link whose vehicle is *vin*, or not known yet if that is empty."""
    return PlatformOptions(
        # Reports are decoded behind the gateway.
        defer_decode=True,
        # Answered by the link when it is stored.
        acknowledge_reports=Acknowledgement.DEFERRED if settings.acknowledge_reports else Acknowledgement.NEVER,
        allows_platform_login=bool(settings.platform_peers),
        login_timeout_ns=settings.login_timeout_s * _SECOND_NS,
        silence_timeout_ns=settings.heartbeat_window_s * _SECOND_NS,
        cipher=settings.link_keys.cipher_of(vin),
        verifier=settings.report_verifier,
    )


class VinFinder:
    """Finds the VIN in the headers of what an unknown vehicle sends, so that the right key is there when a login is deciphered.

    Bytes in front of a frame (a modem's words, the end of another frame) are passed over.
    """

    def __init__(self) -> None:
        self._tail = b""

    def take(self, data: bytes) -> str | None:
        """The VIN of the last command that begins in these bytes; None as long as there is none."""
        data = self._tail + data
        found = _HEADER.findall(data)
        self._tail = data[-(_HEADER_SIZE_BYTES - 1) :]
        return found[-1].rstrip(b"\0 ").decode("ascii") if found else None
