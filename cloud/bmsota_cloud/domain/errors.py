"""What the platform refuses, in the caller's terms.

The tree::

    BmsotaError
    `-- CloudError            `.code` is a stable word for programs; the message is for people
        |-- NotFoundError     there is no such thing, or not for this account
        |-- NotAllowedError   this account may not do that
        |-- LoginError        who are you? (wrong name, password, token, challenge, signature)
        |-- ConflictError     not in this state: the thing exists, but has moved on
        |-- InvalidInputError the request itself cannot be right
        `-- StorageUnavailableError  a database can't be used just now: away, locked, full, read-only

The edges translate them (HTTP status, frame reply flag); nothing in domain or services knows HTTP.
"""

from __future__ import annotations

from bmsota.errors import BmsotaError

__all__ = [
    "CloudError",
    "ConflictError",
    "InvalidInputError",
    "LoginError",
    "NotAllowedError",
    "NotFoundError",
    "StorageUnavailableError",
]


class CloudError(BmsotaError):
    """The root of every refusal of the platform."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotFoundError(CloudError):
    """There is no such thing, or this account must not know of it."""


class NotAllowedError(CloudError):
    """The account is known and may not do this."""


class LoginError(CloudError):
    """The caller did not prove who it is."""


class ConflictError(CloudError):
    """The request was right at another time: the thing has another state now."""


class InvalidInputError(CloudError):
    """The request cannot be right at any time."""


class StorageUnavailableError(CloudError):
    """A database cannot be used just now. Nothing of the transaction is kept, and the same request may be made again.

    `code` says why: "storage-away", "storage-busy", "storage-full", "storage-read-only", "storage-failed", or, where that is not
    known, "storage-unavailable".
    """

    retry_after_s = 5
    """When trying again makes sense: a restart of a database server takes a few seconds."""

    def __init__(self, message: str, *, code: str = "storage-unavailable") -> None:
        super().__init__(code, message)
