"""Security access: who is let in, who is not, and how long the rest has to wait."""

from __future__ import annotations

from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from bmsota.errors import ConfigurationError, LocalProtocolError
from bmsota.node import (
    CHALLENGE_BYTES,
    SIGNATURE_BYTES,
    AccessGuard,
    access_message,
    answer_challenge,
    public_key_from_pem,
    signer_from_pem,
)

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
P256 = ec.derive_private_key(77, ec.SECP256R1())
HWID = "HW-0001"
MS, SECOND = 1_000_000, 1_000_000_000
NOW = 1_000 * SECOND
PLAIN = NoEncryption()
WRONG = b"\x55" * SIGNATURE_BYTES


def make_guard(*keys, rng=None, **options):
    options = {"delay_ns": 10 * SECOND, "failures_max": 3} | options
    public_keys = [key.public_key() for key in keys or (KEY,)]
    return AccessGuard(public_keys, rng or Random(1).randbytes, **options)


def unlock(guard, *, key=KEY, hwid=HWID, now_ns=NOW):
    challenge = guard.challenge(now_ns)
    return guard.verify(answer_challenge(key.sign, challenge, hwid), HWID, now_ns)


def fail(guard, now_ns=NOW):
    assert guard.challenge(now_ns) is not None
    assert not guard.verify(WRONG, HWID, now_ns)


def private_pem(key, encryption=PLAIN):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def public_pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_the_right_signature_unlocks():
    """Locked at first; a lock taken back needs a new challenge."""
    guard = make_guard()
    assert not guard.is_unlocked
    assert unlock(guard)
    assert guard.is_unlocked
    guard.lock()
    assert not guard.is_unlocked
    assert unlock(guard)


def test_the_message_is_locked():
    """Every byte of what is signed, so that a token or service may check it; and its signature, which is deterministic."""
    challenge = bytes(range(16))
    assert access_message(challenge, "HW-1") == b"bmsota bootloader access 1\0" + challenge + b"HW-1"
    signature = answer_challenge(KEY.sign, challenge, "HW-1")
    assert signature.hex().startswith("f7d62c112d243c78")
    assert len(signature) == SIGNATURE_BYTES
    assert len(challenge) == CHALLENGE_BYTES


def test_a_signature_works_once():
    """Replayed at once, after locking, and to a new challenge it is refused."""
    guard = make_guard()
    challenge = guard.challenge(NOW)
    signature = answer_challenge(KEY.sign, challenge, HWID)
    assert guard.verify(signature, HWID, NOW)
    assert not guard.verify(signature, HWID, NOW)
    guard.lock()
    assert not guard.verify(signature, HWID, NOW)
    assert guard.challenge(NOW) != challenge
    assert not guard.verify(signature, HWID, NOW)
    assert not guard.is_unlocked


def test_a_wrong_answer_uses_the_challenge_up():
    """The right one for it comes too late."""
    guard = make_guard()
    challenge = guard.challenge(NOW)
    assert not guard.verify(WRONG, HWID, NOW)
    assert not guard.verify(answer_challenge(KEY.sign, challenge, HWID), HWID, NOW)
    assert guard.challenge(NOW) != challenge


def test_a_challenge_stays_until_it_is_answered():
    """A request repeated on a bad bus gets the same parts again, and draws nothing; locking ends it."""
    draws = []

    def random_bytes(count):
        draws.append(count)
        return Random(len(draws)).randbytes(count)

    guard = make_guard(rng=random_bytes)
    first = guard.challenge(NOW)
    assert guard.challenge(NOW + SECOND) == first
    assert draws == [CHALLENGE_BYTES]
    guard.lock()
    assert guard.challenge(NOW) != first
    assert not guard.verify(answer_challenge(KEY.sign, first, HWID), HWID, NOW)


def test_a_signature_for_another_node_is_refused():
    """The same challenge, the right key, another hardware id: relayed answers do not work."""
    guard = make_guard()
    assert not unlock(guard, hwid="HW-0002")
    assert not guard.is_unlocked


def test_a_wrong_key_is_refused_and_each_of_two_keys_is_taken():
    """A second key lets a maker change keys without visiting every node."""
    assert not unlock(make_guard(), key=OTHER_KEY)
    for key in (KEY, OTHER_KEY):
        assert unlock(make_guard(KEY, OTHER_KEY), key=key)


def test_a_signature_of_the_bare_challenge_is_refused():
    """The purpose is part of what is signed."""
    guard = make_guard()
    challenge = guard.challenge(NOW)
    assert not guard.verify(KEY.sign(challenge + HWID.encode()), HWID, NOW)


@pytest.mark.parametrize("size", [0, 1, 63, 65, 128])
def test_a_signature_of_another_length_is_refused(size):
    guard = make_guard()
    signature = (answer_challenge(KEY.sign, guard.challenge(NOW), HWID) * 2)[:size]
    assert not guard.verify(signature, HWID, NOW)


@given(st.integers(0, 8 * SIGNATURE_BYTES - 1))
def test_every_bit_of_the_signature_counts(bit):
    guard = make_guard()
    signature = bytearray(answer_challenge(KEY.sign, guard.challenge(NOW), HWID))
    signature[bit // 8] ^= 1 << bit % 8
    assert not guard.verify(bytes(signature), HWID, NOW)


def test_a_random_source_that_repeats_itself_brings_no_challenge_back():
    """A hundred challenges from a constant source are a hundred challenges; an old signature stays refused."""
    guard = make_guard(rng=bytes, failures_max=1000)
    seen = set()
    signatures = []
    for _ in range(100):
        challenge = guard.challenge(NOW)
        seen.add(challenge)
        assert not any(guard.verify(signature, HWID, NOW) for signature in signatures[-1:])
        signatures.append(answer_challenge(KEY.sign, challenge, HWID))
        guard.lock()
    assert len(seen) == 100


def test_after_a_restart_the_salt_stands_in_for_a_bad_random_source():
    """The same source and the same number of challenges: another salt makes another challenge, and the old answer wrong."""
    first = make_guard(rng=bytes, boot_salt=b"boot 1")
    signature = answer_challenge(KEY.sign, first.challenge(NOW), HWID)
    assert first.verify(signature, HWID, NOW)
    second = make_guard(rng=bytes, boot_salt=b"boot 2")
    assert second.challenge(NOW) is not None
    assert not second.verify(signature, HWID, NOW)


def test_an_answer_nobody_asked_for_is_no_failure():
    """There is nothing to guess, so strangers cannot lock a node for others by it."""
    guard = make_guard(failures_max=1)
    for _ in range(10):
        assert not guard.verify(WRONG, HWID, NOW)
    assert guard.wait_ms(NOW) == 0
    assert unlock(guard)


def test_too_many_wrong_answers_cost_time():
    """Free up to the last but one of `failures_max`, then ten seconds, to the nanosecond; a delay is over once it is over."""
    guard = make_guard()
    fail(guard)
    fail(guard)
    assert guard.wait_ms(NOW) == 0
    fail(guard)
    assert guard.wait_ms(NOW) == 10_000
    assert guard.challenge(NOW) is None
    assert guard.challenge(NOW + 10 * SECOND - 1) is None
    assert guard.wait_ms(NOW + 10 * SECOND - 1) == 1
    assert guard.wait_ms(NOW + 10 * SECOND) == 0
    assert unlock(guard, now_ns=NOW + 10 * SECOND)


def test_delays_double_up_to_a_limit_and_start_anew_after_success():
    """10, 20, 40 ... 640 s and no longer; a right answer forgives."""
    guard = make_guard(failures_max=1)
    now_ns, waits_s = NOW, []
    for _ in range(9):
        fail(guard, now_ns)
        waits_s.append(guard.wait_ms(now_ns) / 1000)
        now_ns += guard.wait_ms(now_ns) * MS
    assert waits_s == [10, 20, 40, 80, 160, 320, 640, 640, 640]
    assert unlock(guard, now_ns=now_ns)
    guard.lock()
    fail(guard, now_ns)
    assert guard.wait_ms(now_ns) == 10_000


def test_locking_does_not_end_a_delay():
    guard = make_guard(failures_max=1)
    fail(guard)
    guard.lock()
    assert guard.wait_ms(NOW) == 10_000


def test_a_wrong_answer_leaves_an_open_lock_open():
    """A stranger's rubbish must not stop a flash that is under way."""
    guard = make_guard()
    assert unlock(guard)
    fail(guard)
    assert guard.is_unlocked


def test_no_challenge_for_some_time_after_the_boot():
    """ISO 14229-1's delay timer, from the boot; the clock of the boot is given, or is that of the first question."""
    guard = make_guard(boot_delay_ns=SECOND, booted_ns=NOW)
    assert guard.challenge(NOW + SECOND - 1) is None
    assert guard.wait_ms(NOW + 400 * MS) == 600
    assert guard.challenge(NOW + SECOND) is not None
    unknown = make_guard(boot_delay_ns=SECOND)
    assert unknown.wait_ms(NOW) == 1000
    assert unknown.challenge(NOW + SECOND - 1) is None
    assert unknown.challenge(NOW + SECOND) is not None


@given(st.integers(0, 20 * SECOND), st.integers(1, 10 * SECOND))
def test_waiting_as_long_as_told_is_long_enough(later_ns, delay_ns):
    """And a millisecond less is not, whatever the delay: the figure is rounded up, once."""
    guard = make_guard(failures_max=1, delay_ns=delay_ns)
    fail(guard)
    wait_ms = guard.wait_ms(NOW + later_ns)
    assert guard.challenge(NOW + later_ns + wait_ms * MS) is not None
    if wait_ms:
        assert guard.wait_ms(NOW + later_ns + (wait_ms - 1) * MS) == 1


def test_challenges_differ_from_node_to_node_and_replay_from_a_seed():
    """A simulation with the same seed asks the same."""
    again = [make_guard(rng=Random(seed).randbytes).challenge(NOW) for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]
    assert all(len(challenge) == CHALLENGE_BYTES for challenge in again)


def test_a_guard_that_could_not_guard_is_refused():
    """No key, a negative delay, no allowed failure, a random source with an end."""
    with pytest.raises(ConfigurationError, match="no public key given"):
        AccessGuard([], bytes, delay_ns=0, failures_max=1)
    with pytest.raises(ConfigurationError, match="expected delays of 0 or more, got -1 and 0 ns"):
        make_guard(delay_ns=-1)
    with pytest.raises(ConfigurationError, match="expected delays of 0 or more, got 10000000000 and -1 ns"):
        make_guard(boot_delay_ns=-1)
    with pytest.raises(ConfigurationError, match="expected failures_max of 1 or more, got 0"):
        make_guard(failures_max=0)
    with pytest.raises(ConfigurationError, match="random source: expected 16 bytes, got 3"):
        make_guard(rng=lambda _: b"abc").challenge(NOW)


def test_what_cannot_be_signed_is_refused():
    """A challenge of another length, a hardware id that is none, a signer that gives something else."""
    for challenge in (b"", bytes(15), bytes(17)):
        with pytest.raises(LocalProtocolError, match=f"challenge: expected 16 bytes, got {len(challenge)}"):
            access_message(challenge, HWID)
    for hwid in ("", "HW-é"):
        with pytest.raises(LocalProtocolError, match="hwid: expected ASCII characters"):
            access_message(bytes(16), hwid)
    with pytest.raises(
        ConfigurationError, match="access signer: expected an Ed25519 signature of 64 bytes, got 72 bytes"
    ):
        answer_challenge(lambda _: bytes(72), bytes(16), HWID)


def test_keys_come_from_pem():
    """Signer and public key of one pair fit, also from an encrypted file."""
    for pem, password in ((private_pem(KEY), None), (private_pem(KEY, BestAvailableEncryption(b"secret")), b"secret")):
        guard = AccessGuard([public_key_from_pem(public_pem(KEY))], bytes, delay_ns=0, failures_max=1)
        signer = signer_from_pem(pem, password=password)
        assert guard.verify(answer_challenge(signer, guard.challenge(NOW), HWID), HWID, NOW)


def test_other_kinds_of_key_are_refused():
    """P-256 is for images alone; text that is no key is named as such."""
    with pytest.raises(ConfigurationError, match="access key: expected an Ed25519 private key, got one on P-256"):
        signer_from_pem(private_pem(P256))
    with pytest.raises(ConfigurationError, match="access key: expected an Ed25519 public key, got one on P-256"):
        public_key_from_pem(public_pem(P256))
    with pytest.raises(ConfigurationError, match="signing key: expected PEM text"):
        signer_from_pem(b"hello")
    with pytest.raises(ConfigurationError, match="public key: expected PEM text"):
        public_key_from_pem(private_pem(KEY))
