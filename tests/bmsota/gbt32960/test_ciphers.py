"""Enciphered data units: the check byte is over the ciphertext, mode and padding are said and never guessed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.checksums import bcc_xor
from bmsota.errors import FrameError, LocalProtocolError
from bmsota.gbt32960 import (
    CipherMode,
    CipherPadding,
    Command,
    Edition,
    EmptyReply,
    Encryption,
    Engine,
    Frame,
    FrameReader,
    FrameReceived,
    Heartbeat,
    RawMessage,
    Report,
    SymmetricCipher,
    TimeReply,
    beijing_time,
    decode,
    decode_header,
    encode,
    explain,
)

NOW = beijing_time(1_767_225_600_000_000_000)
VIN = "LTEST000000000001"
KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
IV = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
PKCS7, CBC, ECB = CipherPadding.PKCS7, CipherMode.CBC, CipherMode.ECB

CIPHERS = {
    "aes-cbc": SymmetricCipher(Encryption.AES, key=KEY, mode=CBC, padding=PKCS7, iv=IV),
    "aes-ecb": SymmetricCipher(Encryption.AES, key=KEY, mode=ECB, padding=PKCS7),
    "sm4-cbc": SymmetricCipher(Encryption.SM4, key=KEY, mode=CBC, padding=PKCS7, iv=IV),
    "sm4-ecb": SymmetricCipher(Encryption.SM4, key=KEY, mode=ECB, padding=PKCS7),
}
REPORT = Report(NOW, (Engine(1, 900, 5.0),))


def frame_of(message, cipher, command=Command.REALTIME_REPORT, **more):
    return Frame(command=command, vin=VIN, message=message, encryption=cipher.encryption, **more)


@pytest.fixture(params=CIPHERS)
def cipher(request):
    return CIPHERS[request.param]


def test_known_answers():
    """NIST SP 800-38A F.1.1 and F.2.1 for AES-128, GB/T 32907 example 1 for SM4; each the first block."""
    block = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")
    none = CipherPadding.NONE
    aes = SymmetricCipher(Encryption.AES, key=KEY, mode=ECB, padding=none)
    assert aes.encrypt(block).hex() == "3ad77bb40d7a3660a89ecaf32466ef97"
    chained = SymmetricCipher(Encryption.AES, key=KEY, mode=CBC, padding=none, iv=IV)
    assert chained.encrypt(block).hex() == "7649abac8119b246cee98e9b12e9197d"
    key = bytes.fromhex("0123456789abcdeffedcba9876543210")
    sm4 = SymmetricCipher(Encryption.SM4, key=key, mode=ECB, padding=none)
    assert sm4.encrypt(key).hex() == "681edf34d206965e86b3e94f536e4246"
    assert sm4.decrypt(sm4.encrypt(key)) == key


def test_an_enciphered_report_goes_there_and_back(cipher):
    """With the cipher it is a report, without it ciphertext, and both go out again as they came."""
    frame = frame_of(REPORT, cipher)
    data = encode(frame, cipher=cipher)
    assert decode(data, cipher=cipher) == frame
    assert encode(decode(data, cipher=cipher), cipher=cipher) == data
    closed = decode(data)
    assert closed.message == RawMessage(data[24:-1])
    assert encode(closed) == encode(closed, cipher=cipher) == data
    assert (len(data) - 25) % 16 == 0
    plain = encode(replace(frame, encryption=Encryption.NONE))
    assert plain[24:-1] not in data
    assert cipher.decrypt(data[24:-1]) == plain[24:-1]
    assert decode_header(data).encryption == cipher.encryption
    assert b"".join(field.data for field in explain(data)) == data


def test_the_check_byte_is_over_the_ciphertext_and_comes_first(cipher):
    """A flipped byte is a wrong check byte, not a wrong padding; with the check byte repaired it is the cipher's word."""
    data = encode(frame_of(REPORT, cipher), cipher=cipher)
    assert data[-1] == bcc_xor(data[2:-1])
    broken = bytearray(data)
    broken[-2] ^= 0x40
    with pytest.raises(FrameError, match="check byte"):
        decode(bytes(broken), cipher=cipher)
    cut = data[:22] + (len(data) - 26).to_bytes(2, "big") + data[24:-2]
    with pytest.raises(
        FrameError, match="enciphered data unit: expected bytes that this cipher can decipher"
    ) as caught:
        decode(cut + bytes((bcc_xor(cut[2:]),)), cipher=cipher)
    assert (caught.value.where, caught.value.offset) == ("enciphered data unit", 24)
    assert isinstance(caught.value.__cause__, ValueError)


def test_another_key_or_padding_is_a_frame_error():
    """Never a value that was not sent."""
    data = encode(frame_of(REPORT, CIPHERS["aes-cbc"]), cipher=CIPHERS["aes-cbc"])
    for key in range(20):
        other = SymmetricCipher(Encryption.AES, key=bytes(15) + bytes((key,)), mode=CBC, padding=PKCS7, iv=IV)
        with pytest.raises(FrameError):
            decode(data, cipher=other)


def test_other_encryptions_stay_closed(cipher):
    """A cipher for AES does not touch what says SM4, RSA or nothing."""
    other = next(one for one in CIPHERS.values() if one.encryption != cipher.encryption)
    data = encode(frame_of(REPORT, other), cipher=other)
    assert isinstance(decode(data, cipher=cipher).message, RawMessage)
    clear = Frame(command=2, vin=VIN, message=REPORT)
    assert encode(clear, cipher=cipher) == encode(clear)
    assert decode(encode(clear), cipher=cipher) == clear


def test_an_empty_data_unit_stays_empty(cipher):
    """There is nothing to hide in a heartbeat. A sender who enciphers it all the same is understood."""
    for message, flag in ((Heartbeat(), 0xFE), (EmptyReply(), 1)):
        frame = frame_of(message, cipher, Command.HEARTBEAT, reply_flag=flag)
        data = encode(frame, cipher=cipher)
        assert len(data) == 25
        assert decode(data, cipher=cipher) == frame
        filled = encode(replace(frame, message=RawMessage(cipher.encrypt(b""))))
        assert decode(filled, cipher=cipher) == frame


def test_replies_and_unknown_commands_are_enciphered_too(cipher):
    """A deciphered data unit without a layout says that it is the plain text, so that it is enciphered again."""
    for frame in (
        frame_of(TimeReply(NOW), cipher, reply_flag=1),
        frame_of(RawMessage(b"anything", is_plain=True), cipher, 0x42),
    ):
        data = encode(frame, cipher=cipher)
        assert decode(data, cipher=cipher) == frame
        assert len(data) == 25 + 16
        with pytest.raises(LocalProtocolError, match="pass its cipher, or the ciphertext"):
            encode(frame)


def test_a_reader_deciphers(cipher):
    """And the key may change between two frames."""
    reader = FrameReader(cipher=cipher)
    data = encode(frame_of(REPORT, cipher), cipher=cipher)
    reader.receive_data(data + data)
    event = reader.next_event()
    assert isinstance(event, FrameReceived)
    assert event.frame.message == REPORT
    reader.cipher = None
    event = reader.next_event()
    assert isinstance(event.frame.message, RawMessage)


@pytest.mark.parametrize(
    ("encryption", "more", "named"),
    [
        (Encryption.RSA, {}, "Encryption.AES or Encryption.SM4"),
        (Encryption.AES, {"key": bytes(15)}, "16 or 24 or 32 bytes for AES, got 15"),
        (Encryption.SM4, {"key": bytes(32)}, "16 bytes for SM4, got 32"),
        (Encryption.AES, {"iv": None}, "16 bytes for CBC, got none"),
        (Encryption.AES, {"iv": bytes(12)}, "16 bytes for CBC, got 12"),
        (Encryption.AES, {"mode": ECB}, "ECB takes none"),
        (Encryption.AES, {"mode": "CBC"}, "a CipherMode and a CipherPadding"),
    ],
)
def test_a_cipher_that_is_not_fully_said_is_refused(encryption, more, named):
    with pytest.raises(LocalProtocolError, match=named):
        SymmetricCipher(encryption, **{"key": KEY, "mode": CBC, "padding": PKCS7, "iv": IV} | more)


def test_without_padding_the_length_must_fit():
    bare = SymmetricCipher(Encryption.AES, key=KEY, mode=ECB, padding=CipherPadding.NONE)
    with pytest.raises(LocalProtocolError, match="a multiple of 16"):
        encode(frame_of(REPORT, bare), cipher=bare)


class RsaCipher:
    """What a user writes for RSA: the parties' padding and cutting into pieces, in a few lines."""

    encryption = Encryption.RSA

    def __init__(self, key):
        self.key = key
        self.size = key.key_size // 8

    def encrypt(self, data):
        public = self.key.public_key()
        step = self.size - 11
        return b"".join(public.encrypt(data[at : at + step], padding.PKCS1v15()) for at in range(0, len(data), step))

    def decrypt(self, data):
        pieces = range(0, len(data), self.size)
        return b"".join(self.key.decrypt(data[at : at + self.size], padding.PKCS1v15()) for at in pieces)


def test_rsa_is_a_hook():
    """Any object with an encryption and two methods is a cipher."""
    own = RsaCipher(rsa.generate_private_key(public_exponent=65537, key_size=1024))
    frame = frame_of(Report(NOW, (Engine(1, 900, 5.0),) * 40), own, edition=Edition.GBT2016)
    assert decode(encode(frame, cipher=own), cipher=own) == frame


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(CIPHERS)), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=64))
def test_any_ciphertext_gives_a_frame_or_a_frame_error(name, command, flag, unit):
    """Also where the plain text is well padded, and is then anything."""
    cipher = CIPHERS[name]
    for data in (unit, cipher.encrypt(unit)):
        raw = encode(frame_of(RawMessage(data), cipher, command, reply_flag=flag))
        try:
            frame = decode(raw, cipher=cipher)
        except FrameError:
            continue
        if len(data) and unit:
            assert encode(frame, cipher=cipher) == raw
