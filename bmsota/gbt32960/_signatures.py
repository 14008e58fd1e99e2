"""Signatures of 2025 reports: made and checked over the right bytes (2025, 7.2.1 and table 8).

A signed report ends with body 0xFF. The signature is made over the data unit from the first byte of the collection time up to
the byte before 0xFF, in the clear. The public text names SM2, RSA and ECC, and neither hash nor padding: they are arguments
without defaults here. SM2 needs SM3 and a user id by its own standard; the library we keep has no SM2, so SM2 is
a `ReportSigner` and a `ReportVerifier` of your own, of a few lines each.

    report = sign_report(report, EcdsaSigner(private_key, hash_algorithm=SHA256()))
    verify_report(frame.message, EcdsaVerifier(public_key, hash_algorithm=SHA256()))

Signers and verifiers of ours load `cryptography` (extra `trust`) when they are made; the rest needs nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from bmsota._extras import needs
from bmsota.errors import LocalProtocolError, TrustError
from bmsota.gbt32960._bodies import Signature
from bmsota.gbt32960._codec import report_bytes
from bmsota.gbt32960._enums import Edition, SignatureAlgorithm

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

    from bmsota.gbt32960._messages import Report
    from bmsota.gbt32960._registry import Layouts


_ATTACK: Final = "wrong-signature"


class ReportSigner(Protocol):
    """Makes signatures with one private key."""

    def sign(self, data: bytes) -> Signature:
        """Return the signature over *data*."""
        ...


class ReportVerifier(Protocol):
    """Checks signatures with one public key."""

    def verify(self, data: bytes, signature: Signature) -> None:
        """Return if *signature* is right.

        Raises:
            TrustError: it is not, or is of another algorithm.
        """
        ...


def signed_bytes(report: Report, *, layouts: Layouts | None = None) -> bytes:
    """Return what the signature of *report* is made over, whether it has one or not.

    Raises:
        LocalProtocolError: the report cannot be encoded.
    """
    if report.bodies and isinstance(report.bodies[-1], Signature):
        report = replace(report, bodies=report.bodies[:-1])
    return report_bytes(Edition.GBT2025, report, layouts=layouts)


def sign_report(report: Report, signer: ReportSigner, *, layouts: Layouts | None = None) -> Report:
    """Return *report* with its signature as the last body.

    Raises:
        LocalProtocolError: it has a signature already, or cannot be encoded.
    """
    if any(isinstance(body, Signature) for body in report.bodies):
        msg = "report: already signed"
        raise LocalProtocolError(msg)
    return replace(report, bodies=(*report.bodies, signer.sign(signed_bytes(report, layouts=layouts))))


def verify_report(report: Report, verifier: ReportVerifier, *, layouts: Layouts | None = None) -> None:
    """Return if *report* is signed by the key of *verifier*.

    Raises:
        TrustError: it is not, or has no signature.
        LocalProtocolError: it cannot be encoded, which no decoded report is.
    """
    signature = report.bodies[-1] if report.bodies else None
    if not isinstance(signature, Signature):
        raise TrustError(_ATTACK, "report: not signed")
    verifier.verify(signed_bytes(report, layouts=layouts), signature)


def _check_algorithm(signature: Signature, expected: SignatureAlgorithm) -> None:
    if signature.algorithm != expected:
        got = signature.algorithm
        raise TrustError(_ATTACK, f"signature: expected algorithm {expected.name}, got {getattr(got, 'name', got)}")


class RsaSigner:
    """Signs with RSA; the whole signature is R, and S is empty."""

    def __init__(
        self, private_key: RSAPrivateKey, *, padding: AsymmetricPadding, hash_algorithm: HashAlgorithm
    ) -> None:
        self._key = private_key
        self._padding = padding
        self._hash = hash_algorithm

    def sign(self, data: bytes) -> Signature:
        """Return the signature over *data*."""
        return Signature(SignatureAlgorithm.RSA, self._key.sign(data, self._padding, self._hash))


class RsaVerifier:
    """Checks signatures of `RsaSigner`."""

    def __init__(self, public_key: RSAPublicKey, *, padding: AsymmetricPadding, hash_algorithm: HashAlgorithm) -> None:
        self._key = public_key
        self._padding = padding
        self._hash = hash_algorithm

    def verify(self, data: bytes, signature: Signature) -> None:
        """Return if *signature* is right.

        Raises:
            TrustError: it is not, or is of another algorithm.
        """
        _check_algorithm(signature, SignatureAlgorithm.RSA)
        if signature.s:
            raise TrustError(_ATTACK, f"signature: expected no S with RSA, got {len(signature.s)} bytes")
        with needs("RsaVerifier", "cryptography", "trust"):
            from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

        try:
            self._key.verify(signature.r, data, self._padding, self._hash)
        except InvalidSignature as error:
            raise TrustError(_ATTACK, "signature: does not match this RSA key and these bytes") from error


class EcdsaSigner:
    """Signs with ECDSA; R and S have the size of the curve's numbers, most significant byte first."""

    def __init__(self, private_key: EllipticCurvePrivateKey, *, hash_algorithm: HashAlgorithm) -> None:
        with needs("EcdsaSigner", "cryptography", "trust"):
            from cryptography.hazmat.primitives.asymmetric.ec import ECDSA  # noqa: PLC0415

        self._key = private_key
        self._scheme = ECDSA(hash_algorithm)
        self._size_bytes = (private_key.key_size + 7) // 8

    def sign(self, data: bytes) -> Signature:
        """Return the signature over *data*."""
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature  # noqa: PLC0415

        r, s = decode_dss_signature(self._key.sign(data, self._scheme))
        size = self._size_bytes
        return Signature(SignatureAlgorithm.ECC, r.to_bytes(size, "big"), s.to_bytes(size, "big"))


class EcdsaVerifier:
    """Checks signatures of `EcdsaSigner`."""

    def __init__(self, public_key: EllipticCurvePublicKey, *, hash_algorithm: HashAlgorithm) -> None:
        with needs("EcdsaVerifier", "cryptography", "trust"):
            from cryptography.hazmat.primitives.asymmetric.ec import ECDSA  # noqa: PLC0415

        self._key = public_key
        self._scheme = ECDSA(hash_algorithm)
        self._size_bytes = (public_key.key_size + 7) // 8

    def verify(self, data: bytes, signature: Signature) -> None:
        """Return if *signature* is right.

        Raises:
            TrustError: it is not, is of another algorithm, or its numbers have another size.
        """
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature  # noqa: PLC0415

        _check_algorithm(signature, SignatureAlgorithm.ECC)
        size = self._size_bytes
        if (len(signature.r), len(signature.s)) != (size, size):
            got = f"{len(signature.r)} and {len(signature.s)}"
            raise TrustError(_ATTACK, f"signature: expected R and S of {size} bytes each, got {got}")
        r, s = int.from_bytes(signature.r, "big"), int.from_bytes(signature.s, "big")
        try:
            self._key.verify(encode_dss_signature(r, s), data, self._scheme)
        except InvalidSignature as error:
            raise TrustError(_ATTACK, "signature: does not match this ECC key and these bytes") from error
