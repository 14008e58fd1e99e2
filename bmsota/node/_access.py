"""Security access: a node lets itself be flashed only by a flasher that can sign its challenge.

The node draws a challenge; the flasher signs it together with the node's hardware id; the node verifies with a public key it
was given at production. No secret is kept in a node, so opening one gives away nothing, and the private key may stay in a
token or in a signing service: the flasher only needs a function. What ISO 14229-1 calls seed and key, service 0x27, with its
delay after wrong answers and after the start (response code 0x37).

What it is for: to keep people from erasing and rewriting slots by mistake or out of curiosity. Which images may run
is decided by their own signature, not by the sender. An unlocked node listens to the whole bus, as with 0x27: CAN has
no sender one could bind the permission to.

Time and randomness are arguments. Left out: remembering failures over a restart; guessing a signature is hopeless anyway,
and the delays only keep a flood of wrong answers from keeping a small processor busy.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from bmsota.errors import ConfigurationError, LocalProtocolError
from bmsota.image import load_public_key, load_signing_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


AccessSigner: TypeAlias = "Callable[[bytes], bytes]"
"""Takes an access message, gives its Ed25519 signature. May ask a token or a service; it is called once per node."""

CHALLENGE_BYTES = 16
SIGNATURE_BYTES = 64

# A signature made for something else must never open a node, nor this one anything else.
_MESSAGE_DOMAIN = b"bmsota bootloader access 1\0"
_CHALLENGE_DOMAIN = b"bmsota bootloader challenge 1\0"

# 2**6: ten seconds become ten minutes. A workshop that mistook its key must not have to wait until tomorrow.
_DOUBLINGS_MAX = 6

_MS = 1_000_000


def access_message(challenge: bytes, hwid: str) -> bytes:
    """What is signed: the purpose, the challenge, and which node it is for.

    Raises:
        LocalProtocolError: the challenge has another length, or the hardware id is empty or no ASCII.
    """
    if len(challenge) != CHALLENGE_BYTES:
        raise LocalProtocolError(f"challenge: expected {CHALLENGE_BYTES} bytes, got {len(challenge)}")
    if not hwid or not hwid.isascii():
        raise LocalProtocolError(f"hwid: expected ASCII characters, got {hwid!r}")
    return _MESSAGE_DOMAIN + challenge + hwid.encode("ascii")


def answer_challenge(signer: AccessSigner, challenge: bytes, hwid: str) -> bytes:
    """The flasher's answer: *signer*'s signature of the access message.

    Raises:
        LocalProtocolError: see `access_message`.
        ConfigurationError: the signer gave no `SIGNATURE_BYTES` bytes. What the signer itself raises passes through.
    """
    signature = signer(access_message(challenge, hwid))
    if len(signature) != SIGNATURE_BYTES:
        raise ConfigurationError(
            f"access signer: expected an Ed25519 signature of {SIGNATURE_BYTES} bytes, got {len(signature)} bytes"
        )
    return signature


def signer_from_pem(pem: bytes, *, password: bytes | None = None) -> AccessSigner:
    """A signer with an Ed25519 private key from PEM text.

    Raises:
        ConfigurationError: the text is no such key, or the password is missing, wrong or not needed.
    """
    key = load_signing_key(pem, password=password)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError("access key: expected an Ed25519 private key, got one on P-256")
    return key.sign


def public_key_from_pem(pem: bytes) -> Ed25519PublicKey:
    """An Ed25519 public key, for a node, from PEM text.

    Raises:
        ConfigurationError: the text is no such key.
    """
    key = load_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError("access key: expected an Ed25519 public key, got one on P-256")
    return key


class AccessGuard:
    """The node's lock. Make one per boot; it starts locked.

    Strategy. A challenge stays the same until it is answered, so that an answer put together from parts of two replies on a
    bad bus cannot happen; one answer uses it up, right or wrong. Wrong answers are free up to *failures_max* in a row;
    that one and every one behind it costs a delay, *delay_ns* at first, then twice as long each time.

    A challenge is a hash over the random bytes, a number that counts challenges, and *boot_salt*. A random source that
    returns the same bytes twice therefore cannot bring an old challenge back while the node is up. After a restart the
    number starts anew: give as *boot_salt* what no earlier boot has had if the source is not trusted.

    Raises:
        ConfigurationError: no key, a negative delay, or *failures_max* below 1.
    """

    def __init__(
        self,
        public_keys: Iterable[Ed25519PublicKey],
        random_bytes: Callable[[int], bytes],
        *,
        delay_ns: int,
        failures_max: int,
        boot_delay_ns: int = 0,
        booted_ns: int | None = None,
        boot_salt: bytes = b"",
    ) -> None:
        """Make a locked guard.

        Args:
            public_keys: the holder of any of the private keys gets access.
            random_bytes: gives the requested number of unpredictable bytes.
            delay_ns: the first delay after too many wrong answers.
            failures_max: the wrong answer, in a row, that brings the first delay.
            boot_delay_ns: no challenge before this time after the boot.
            booted_ns: when the boot was; None: when the guard is first asked for something.
            boot_salt: something that differs from boot to boot.
        """
        self._public_keys = tuple(public_keys)
        if not self._public_keys:
            raise ConfigurationError("access guard: no public key given")
        if delay_ns < 0 or boot_delay_ns < 0:
            raise ConfigurationError(
                f"access guard: expected delays of 0 or more, got {delay_ns} and {boot_delay_ns} ns"
            )
        if failures_max < 1:
            raise ConfigurationError(f"access guard: expected failures_max of 1 or more, got {failures_max}")
        self._random_bytes = random_bytes
        self._delay_ns = delay_ns
        self._failures_max = failures_max
        self._boot_delay_ns = boot_delay_ns
        self._boot_salt = boot_salt
        self._opens_ns = None if booted_ns is None else booted_ns + boot_delay_ns
        self._challenge: bytes | None = None
        self._challenges = 0
        self._failures = 0
        self._is_unlocked = False

    @property
    def is_unlocked(self) -> bool:
        return self._is_unlocked

    def challenge(self, now_ns: int) -> bytes | None:
        """What to sign; None: not now, ask again after `wait_ms`.

        Raises:
            ConfigurationError: the random source gave too few bytes.
        """
        if self.wait_ms(now_ns):
            return None
        if self._challenge is None:
            drawn = self._random_bytes(CHALLENGE_BYTES)
            if len(drawn) != CHALLENGE_BYTES:
                raise ConfigurationError(f"random source: expected {CHALLENGE_BYTES} bytes, got {len(drawn)}")
            self._challenges += 1
            numbered = self._challenges.to_bytes(8, "big") + drawn + self._boot_salt
            self._challenge = hashlib.sha256(_CHALLENGE_DOMAIN + numbered).digest()[:CHALLENGE_BYTES]
        return self._challenge

    def verify(self, signature: bytes, hwid: str, now_ns: int) -> bool:
        """Unlock if *signature* is right for the challenge under way and the node *hwid*, which is this one's own id.

        False leaves the lock as it was. Without a challenge under way nothing is verified and no failure is counted.

        Raises:
            LocalProtocolError: the hardware id is empty or no ASCII.
        """
        if self._challenge is None:
            return False
        message = access_message(self._challenge, hwid)
        self._challenge = None
        if is_signed_by(self._public_keys, signature, message):
            self._failures = 0
            self._is_unlocked = True
            return True
        self._failures += 1
        excess = self._failures - self._failures_max
        if excess >= 0:
            self._opens_ns = now_ns + (self._delay_ns << min(excess, _DOUBLINGS_MAX))
        return False

    def lock(self) -> None:
        """Take the permission back, and the challenge under way with it. Delays and failures stay."""
        self._is_unlocked = False
        self._challenge = None

    def wait_ms(self, now_ns: int) -> int:
        """How long until a challenge may be asked for, in whole milliseconds, rounded up; 0: now."""
        if self._opens_ns is None:
            self._opens_ns = now_ns + self._boot_delay_ns
        return max(0, -(-(self._opens_ns - now_ns) // _MS))


def is_signed_by(public_keys: Iterable[Ed25519PublicKey], signature: bytes, message: bytes) -> bool:
    """Whether *signature* of *message* is one of any of *public_keys*."""
    for key in public_keys:
        with suppress(InvalidSignature):
            key.verify(signature, message)
            return True
    return False
