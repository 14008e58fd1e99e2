"""Enciphering of the data unit (2016 table 5, 2025 likewise): what the codec asks for.

The public text names the algorithms and leaves the mode, the padding, the initialisation vector and the transport of keys to
the parties. So the codec knows a protocol and no algorithm; `SymmetricCipher` (AES, SM4) is in `_symmetric`, and for
RSA or SM2 keys a class of a few lines is written by their owner. Nothing here loads a cryptographic library.
"""

from __future__ import annotations

from typing import Protocol


class DataUnitCipher(Protocol):
    """Enciphers and deciphers whole data units, for one key."""

    @property
    def encryption(self) -> int:
        """The `Encryption` that frames of this cipher name in their header."""
        ...

    def encrypt(self, data: bytes) -> bytes:
        """Return the ciphertext of a data unit that is not empty."""
        ...

    def decrypt(self, data: bytes) -> bytes:
        """Return the plain text.

        Raises:
            ValueError: this is no ciphertext of this cipher. The codec turns it into a `FrameError`.
        """
        ...
