"""TLS of a client: whom to believe, and who we are. Reads files."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from bmsota.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["client_context"]


def client_context(*, ca: Path | None = None, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer, with the server's certificate and name checked.

    Args:
        ca: certificates of authorities, PEM; None: those of the system.
        cert: our own certificate with its chain, PEM, where the server asks for one.
        key: its private key, PEM, without a password; None: it is in *cert*.

    Raises:
        ConfigurationError: a file is missing or of no use, or certificate and key do not belong together.
    """
    if cert is None and key is not None:
        raise ConfigurationError(f"{key} is the key of no certificate; name that too")
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        reason = f" ({error.reason})" if error.reason else ""
        raise ConfigurationError(f"{ca}: expected certificates of authorities, PEM{reason}") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read {ca}: {error.strerror}") from error
    if cert is not None:
        both = f"{cert}, {key}" if key else str(cert)
        expected = (
            "a certificate and its private key without a password, both PEM"
            if key
            else "a certificate and, behind it, its private key without a password, both PEM; or name the file of the key"
        )
        try:
            # With a password of none an encrypted key is an error; without one OpenSSL would ask for it at the terminal.
            context.load_cert_chain(cert, key, password=lambda: "")
        except ssl.SSLError as error:
            reason = f" ({error.reason})" if error.reason else ""
            raise ConfigurationError(f"{both}: expected {expected}{reason}") from error
        except OSError as error:
            raise ConfigurationError(f"cannot read {both}: {error.strerror}") from error
    return context
