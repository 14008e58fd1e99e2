"""The gateway's keys on disk: what vehicles encipher their data units with, and what they sign reports with (2025).

The text of the standard names algorithms and neither mode, padding nor vector: whoever runs the platform agrees on them with the
terminals' makers, so all of them stand in the file. No message here ever names a key.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from typing import TYPE_CHECKING, Any, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bmsota.errors import ConfigurationError, LocalProtocolError
from bmsota.gbt32960 import CipherMode, CipherPadding, EcdsaVerifier, Encryption, RsaVerifier, SymmetricCipher
from bmsota_cloud.services import LinkKeys

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cryptography.hazmat.primitives.hashes import HashAlgorithm

    from bmsota.gbt32960 import ReportVerifier

__all__ = ["is_readable_by_others", "load_link_keys", "load_report_verifier"]

_HASHES: dict[str, Callable[[], HashAlgorithm]] = {"sha256": SHA256, "sha384": SHA384, "sha512": SHA512}
_VIN = re.compile(r"[A-Z0-9]{17}", re.ASCII)
_HEX = r"^([0-9A-Fa-f]{2})+$"


class _Key(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    cipher: Literal["AES", "SM4"]
    key: str = Field(pattern=_HEX)
    mode: Literal["CBC", "ECB"]
    padding: Literal["PKCS7", "NONE"]
    iv: str | None = Field(default=None, pattern=_HEX)

    def made(self) -> SymmetricCipher:
        return SymmetricCipher(
            Encryption[self.cipher],
            key=bytes.fromhex(self.key),
            mode=CipherMode[self.mode],
            padding=CipherPadding[self.padding],
            iv=None if self.iv is None else bytes.fromhex(self.iv),
        )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    default: _Key | None = None
    vehicles: dict[str, _Key] = Field(default_factory=dict)


def load_link_keys(path: Path) -> LinkKeys:
    """The ciphers in the file: one for all vehicles, `[default]`, and those of single ones, `[vehicles.VIN]`.

    Raises:
        ConfigurationError: the file can't be read, or a key can't be used; it is said which, never with its value.
    """
    try:
        # The error of the parser would quote the line.
        content = tomllib.loads(_read(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise ConfigurationError(f"{path}: not TOML") from None
    try:
        found = _File.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_faults(path, error))) from None
    for vin in found.vehicles:
        if not _VIN.fullmatch(vin):
            raise ConfigurationError(f"{path}: vehicles.{vin[:32]}: expected a VIN of 17 capitals or digits")
    named = {"default": found.default, **{f"vehicles.{vin}": key for vin, key in found.vehicles.items()}}
    made: dict[str, SymmetricCipher] = {}
    for name, key in named.items():
        if key is not None:
            try:
                made[name] = key.made()
            except LocalProtocolError as error:
                raise ConfigurationError(f"{path}: {name}: {error}") from error
    return LinkKeys(
        default=made.pop("default", None),
        by_vin={name.removeprefix("vehicles."): cipher for name, cipher in made.items()},
    )


def is_readable_by_others(path: Path) -> bool:
    """Whether other users of this machine may read the file; False where that cannot be known."""
    return os.name == "posix" and bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def load_report_verifier(path: Path, *, hash_name: str, padding_name: str | None) -> ReportVerifier:
    """The verifier for a public key (PEM, RSA or ECC). *padding_name* is for RSA: "pkcs1v15" or "pss".

    Raises:
        ConfigurationError: the file can't be read, is no such key, or RSA lacks its padding.
    """
    try:
        key: Any = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path}: expected a public key, PEM") from error
    made_hash = _HASHES[hash_name]()
    if isinstance(key, EllipticCurvePublicKey):
        return EcdsaVerifier(key, hash_algorithm=made_hash)
    if not isinstance(key, RSAPublicKey):
        raise ConfigurationError(
            f"{path}: expected an RSA or ECC key, got {type(key).__name__.removesuffix('PublicKey')}"
        )
    if padding_name is None:
        raise ConfigurationError(f"{path}: the padding of RSA signatures is not set")
    padding = PKCS1v15() if padding_name == "pkcs1v15" else PSS(mgf=MGF1(made_hash), salt_length=PSS.AUTO)
    return RsaVerifier(key, padding=padding, hash_algorithm=made_hash)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigurationError(f"no such key file: {path}") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error


def _faults(path: Path, error: ValidationError) -> list[str]:
    lines = []
    for fault in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            words = "no such setting"
        elif fault["type"] == "string_pattern_mismatch":
            words = "expected hexadecimal digits, two a byte"
        elif fault["type"] == "missing":
            words = "missing"
        else:
            words = f"{fault['msg'][:1].lower()}{fault['msg'][1:]}"
        lines.append(f"{path}: {place}: {words}")
    return lines
