"""Certificates of the platform's two doors."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from bmsota.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["server_context"]


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer for a server with this certificate (PEM, with its chain) and private key (PEM, not encrypted).

    Raises:
        ConfigurationError: a file is missing or of no use, or the two do not belong together.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for path in (cert, key):
        try:
            path.open("rb").close()
        except FileNotFoundError as error:
            raise ConfigurationError(f"no such file: {path}") from error
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    try:
        # With a password of none an encrypted key is an error; without one OpenSSL would ask for it at the terminal.
        context.load_cert_chain(cert, key, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(f"{key} is not the private key of the certificate {cert}") from error
        reason = f" ({error.reason})" if error.reason else ""
        raise ConfigurationError(
            f"{cert}, {key}: expected a certificate and its private key without a password, both PEM{reason}"
        ) from error
    return context
