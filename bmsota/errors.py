"""Every exception the library raises.

The tree::

    BmsotaError
    |-- LocalProtocolError     the caller asked for something not allowed now; the object is unchanged
    |-- RemoteProtocolError    the peer broke the protocol; `.reply_hint` says what to answer, if anything
    |   `-- FrameError         bytes of the cloud link that are not a valid frame: `.expected`, `.received`, `.offset`
    |-- ImageError             a firmware image that is malformed: `.expected`, `.received`, `.offset`
    |-- TrustError             signature, digest, rollback, expiry, wrong device: `.attack` names it
    |-- FlashError             a flash that cannot be read, or does not keep what is written
    |   `-- FlashWornError     a change that could not be recorded because of that; nothing has changed
    |-- RecordError            a record in flash or on disk that is damaged, or of a newer `.layout`
    |-- TransferError          a download or flash that failed; `.permanent`: trying again cannot help
    |-- SignalError            a DBC definition or a signal value that does not fit
    |-- ConfigurationError     a scenario, profile or setting that cannot be used
    |-- MissingExtraError      a package that is not installed: `.package`, and the `.extra` that brings it
    |-- NodeRefusedError       (in `bmsota.node`) what a node does not do when asked: `.code` is a `ResultCode`
    `-- SourceError            (in `bmsota.flashing`) files that cannot be used for a flash; `.fault` says why

Any other exception is a bug. The message for a wrong value is "expected X, got Y (where)"; for an absence or a state it is a plain
sentence.
"""

from __future__ import annotations

__all__ = [
    "BmsotaError",
    "ConfigurationError",
    "FlashError",
    "FlashWornError",
    "FrameError",
    "ImageError",
    "LocalProtocolError",
    "MissingExtraError",
    "RecordError",
    "RemoteProtocolError",
    "SignalError",
    "TransferError",
    "TrustError",
]


class BmsotaError(Exception):
    """The base of all exceptions of this library."""


class LocalProtocolError(BmsotaError):
    """The caller asked for something that the protocol does not allow now. Nothing was sent and the object is unchanged."""


class RemoteProtocolError(BmsotaError):
    """The peer broke the protocol. `reply_hint` is what to send before closing, empty if nothing helps."""

    def __init__(self, message: str, *, reply_hint: bytes = b"") -> None:
        super().__init__(message)
        self.reply_hint = reply_hint


class FrameError(RemoteProtocolError):
    """Bytes of the cloud link that are not a valid frame, or a frame whose body is not valid."""

    def __init__(self, where: str, *, expected: str, received: str, offset: int) -> None:
        super().__init__(f"{where}: expected {expected}, got {received} (offset {offset})")
        self.where = where
        self.expected = expected
        self.received = received
        self.offset = offset


class ImageError(BmsotaError):
    """A malformed firmware image, whatever its signature."""

    def __init__(self, where: str, *, expected: str, received: str, offset: int | None = None) -> None:
        place = "" if offset is None else f" (offset {offset})"
        super().__init__(f"{where}: expected {expected}, got {received}{place}")
        self.where = where
        self.expected = expected
        self.received = received
        self.offset = offset


class TrustError(BmsotaError):
    """Something well formed that is not trusted. `attack` names the attack it looks like (docs/trust.md)."""

    def __init__(self, attack: str, message: str) -> None:
        super().__init__(f"{attack}: {message}")
        self.attack = attack


class FlashError(BmsotaError):
    """A flash that cannot be read, or does not keep what is written to it. A driver raises it for an ECC or program error."""


class FlashWornError(FlashError):
    """A change that the journal could not record, because its flash does not keep it. The state is as it was before."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"flash worn: {problem}")


class RecordError(BmsotaError):
    """A record in flash or on disk that this version cannot read. `layout` is its number if it is newer, None if damaged."""

    def __init__(self, message: str, *, layout: int | None) -> None:
        super().__init__(message)
        self.layout = layout


class TransferError(BmsotaError):
    """A transfer that failed. `permanent` is true when trying again cannot help."""

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent


class SignalError(BmsotaError):
    """A DBC definition or a signal value that does not fit."""


class ConfigurationError(BmsotaError):
    """A scenario, profile or setting that cannot be used; the message names the place and what was expected."""


class MissingExtraError(BmsotaError, ImportError):
    """What was asked for needs a package that is not installed; the message names the extra that brings it."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs {package}: pip install 'bmsota[{extra}]'")
        self.package = package
        self.extra = extra
