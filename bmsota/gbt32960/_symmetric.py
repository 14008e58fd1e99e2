"""AES and SM4 for the data unit (`Encryption.AES`, `Encryption.SM4`).

2016 says AES-128, 2025 says AES; neither says the mode, the padding or where the initialisation vector comes from. They are
arguments without defaults: the two parties have to agree, and a guess would fail in the field and not here. With CBC the
vector is fixed for the cipher, as the implementations that we know have it; a scheme with a vector in each message is a
`DataUnitCipher` of its own.

A cipher loads `cryptography` (extra `trust`) when it is made.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from bmsota._extras import needs
from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._enums import Encryption

_BLOCK_SIZE_BYTES: Final = 16
_KEY_SIZES_BYTES: Final = {Encryption.AES: (16, 24, 32), Encryption.SM4: (16,)}


class CipherMode(Enum):
    """How blocks are chained."""

    CBC = "CBC"
    ECB = "ECB"


class CipherPadding(Enum):
    """How a data unit is filled up to whole blocks."""

    PKCS7 = "PKCS#7"
    NONE = "none: the length must be a multiple of the block already"


class SymmetricCipher:
    """A `DataUnitCipher` with AES or SM4."""

    __slots__ = ("_cipher", "_padding", "encryption")

    def __init__(
        self, encryption: Encryption, *, key: bytes, mode: CipherMode, padding: CipherPadding, iv: bytes | None = None
    ) -> None:
        """Make the cipher for one key.

        Raises:
            LocalProtocolError: not AES or SM4, a key or vector of another size, or the library at hand has no such cipher.
            MissingExtraError: `cryptography` is not installed.
        """
        sizes = _KEY_SIZES_BYTES.get(encryption)
        if sizes is None:
            msg = f"cipher.encryption: expected Encryption.AES or Encryption.SM4, got {encryption!r}"
            raise LocalProtocolError(msg)
        if len(key) not in sizes:
            msg = f"cipher.key: expected {' or '.join(map(str, sizes))} bytes for {encryption.name}, got {len(key)}"
            raise LocalProtocolError(msg)
        if (type(mode), type(padding)) != (CipherMode, CipherPadding):
            msg = f"cipher: expected a CipherMode and a CipherPadding, got {mode!r} and {padding!r}"
            raise LocalProtocolError(msg)
        if mode is CipherMode.CBC and (iv is None or len(iv) != _BLOCK_SIZE_BYTES):
            got = "none" if iv is None else str(len(iv))
            msg = f"cipher.iv: expected {_BLOCK_SIZE_BYTES} bytes for CBC, got {got}"
            raise LocalProtocolError(msg)
        if mode is CipherMode.ECB and iv is not None:
            msg = "cipher.iv: ECB takes none"
            raise LocalProtocolError(msg)
        with needs("SymmetricCipher", "cryptography", "trust"):
            from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
            from cryptography.hazmat.primitives.ciphers import Cipher, modes  # noqa: PLC0415
            from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4  # noqa: PLC0415
            from cryptography.hazmat.primitives.padding import PKCS7  # noqa: PLC0415

        chained: modes.CBC | modes.ECB = modes.CBC(iv) if iv is not None else modes.ECB()  # noqa: S305 the parties' choice, not ours
        self.encryption = encryption
        self._padding = PKCS7(8 * _BLOCK_SIZE_BYTES) if padding is CipherPadding.PKCS7 else None
        self._cipher = Cipher(AES(key) if encryption is Encryption.AES else SM4(key), chained)
        try:
            self._cipher.encryptor()
        except UnsupportedAlgorithm as error:
            msg = f"cipher: {encryption.name} {mode.name} is not available here: {error}"
            raise LocalProtocolError(msg) from error

    def encrypt(self, data: bytes) -> bytes:
        """Return the ciphertext.

        Raises:
            LocalProtocolError: without padding, *data* is no whole number of blocks.
        """
        if self._padding is not None:
            padder = self._padding.padder()
            data = padder.update(data) + padder.finalize()
        elif len(data) % _BLOCK_SIZE_BYTES:
            msg = f"cipher: expected a multiple of {_BLOCK_SIZE_BYTES} bytes without padding, got {len(data)}"
            raise LocalProtocolError(msg)
        encryptor = self._cipher.encryptor()
        return encryptor.update(data) + encryptor.finalize()

    def decrypt(self, data: bytes) -> bytes:
        """Return the plain text.

        Raises:
            ValueError: no whole number of blocks, or the padding is wrong: another key, mode or padding was used.
        """
        if len(data) % _BLOCK_SIZE_BYTES:
            msg = f"no multiple of {_BLOCK_SIZE_BYTES}"
            raise ValueError(msg)
        decryptor = self._cipher.decryptor()
        plain = decryptor.update(data) + decryptor.finalize()
        if self._padding is not None:
            unpadder = self._padding.unpadder()
            plain = unpadder.update(plain) + unpadder.finalize()
        return plain
