"""What the platform refuses, in the caller's terms.

The tree::

    BmsotaError
    `-- CloudError            `.code` is a stable word for programs; the message is for people
        |-- NotFoundError     there is no such thing, or not for this account
        |-- NotAllowedError   this account may not do that
        |-- LoginError        who are you? (wrong name, password, token, challenge, signature)
        |-- ConflictError     not in this state: the thing exists, but has moved on
        |-- InvalidInputError the request itself cannot be right
        |-- RateLimitedError  too often; `.retry_after_s` says when to try again
        `-- OverloadedError   too much at once, whoever asks; `.retry_after_s` as above
        `-- StorageUnavailableError  the database is away, locked or full; the same request works later

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
    "OverloadedError",
    "RateLimitedError",
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


class RateLimitedError(CloudError):
    """This has been tried too often; at another time it may be right."""

    def __init__(self, code: str, message: str, *, retry_after_s: int) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s


class OverloadedError(CloudError):
    """The platform is busy with as many of these as it can bear; the request was not looked at."""

    def __init__(self, code: str, message: str, *, retry_after_s: int) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s


class StorageUnavailableError(CloudError):
    """The database is away, locked, read-only or full. Nothing was half done; the same request works once it is back."""

    def __init__(self, message: str) -> None:
        super().__init__("storage-unavailable", message)
