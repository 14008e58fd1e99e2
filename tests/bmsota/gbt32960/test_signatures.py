"""Signatures of 2025 reports: over the right bytes, with everything that the text leaves open said by the caller."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.errors import FrameError, LocalProtocolError, TrustError
from bmsota.gbt32960 import (
    EcdsaSigner,
    EcdsaVerifier,
    Edition,
    Engine2025,
    Frame,
    Report,
    RsaSigner,
    RsaVerifier,
    Signature,
    SignatureAlgorithm,
    UserDefined,
    beijing_time,
    decode,
    encode,
    sign_report,
    signed_bytes,
    verify_report,
)

NOW = beijing_time(1_767_225_600_000_000_000)
VIN = "LTEST000000000001"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
PKCS1 = padding.PKCS1v15()

PAIRS = {
    "rsa": (
        RsaSigner(RSA_KEY, padding=PKCS1, hash_algorithm=SHA256()),
        RsaVerifier(RSA_KEY.public_key(), padding=PKCS1, hash_algorithm=SHA256()),
    ),
    "ecc": (EcdsaSigner(EC_KEY, hash_algorithm=SHA256()), EcdsaVerifier(EC_KEY.public_key(), hash_algorithm=SHA256())),
}
REPORT = Report(NOW, (Engine2025(900), UserDefined(0x80, b"\xff\x01")))


def frame_of(report):
    return Frame(command=2, vin=VIN, message=report, edition=Edition.GBT2025)


@pytest.fixture(params=PAIRS)
def pair(request):
    return PAIRS[request.param]


def test_a_signed_report_is_verified_after_its_way_over_the_wire(pair):
    signer, verifier = pair
    signed = sign_report(REPORT, signer)
    received = decode(encode(frame_of(signed), strict=True)).message
    assert received == signed
    verify_report(received, verifier)
    assert len(signed.bodies) == len(REPORT.bodies) + 1


def test_the_span_is_from_the_time_to_the_byte_before_the_marker(pair):
    """2025, 7.2.1; checked on the bytes of the frame, and by the library without our code."""
    signed = sign_report(REPORT, pair[0])
    data = encode(frame_of(signed))
    span = signed_bytes(signed)
    assert data[24 : 24 + len(span)] == span == signed_bytes(REPORT)
    assert data[24 + len(span)] == 0xFF
    if signed.bodies[-1].algorithm == SignatureAlgorithm.RSA:
        RSA_KEY.public_key().verify(signed.bodies[-1].r, span, PKCS1, SHA256())


@pytest.mark.parametrize("name", ["rtm_03", "rtm_10", "rtm_13", "rtm_15", "rtm_17"])
def test_the_span_of_real_signed_frames(vectors, name):
    """Everything between the header and the marker, which is as far from the end as its lengths say."""
    data = bytes.fromhex(vectors[name]["hex"])
    report = decode(data).message
    signature = report.bodies[-1]
    assert (signature.algorithm, len(signature.r), signature.s) == (SignatureAlgorithm.RSA, 256, b"")
    assert signed_bytes(report) == data[24 : -1 - (1 + 1 + 2 + 256 + 2)]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_change_of_a_signed_byte_is_found(data):
    """Whatever the change decodes to, it is not verified."""
    signer, verifier = PAIRS["ecc"]
    raw = bytearray(encode(frame_of(sign_report(REPORT, signer))))
    place = data.draw(st.integers(24, 24 + len(signed_bytes(REPORT)) - 1))
    change = data.draw(st.integers(1, 255))
    raw[place] ^= change
    raw[-1] ^= change
    try:
        report = decode(bytes(raw)).message
    except FrameError:
        return
    with pytest.raises(TrustError) as caught:
        verify_report(report, verifier)
    assert caught.value.attack == "wrong-signature"


def test_a_signature_of_another_kind_is_refused_by_name():
    """Another key, algorithm, hash, size, and none at all."""
    rsa_signed, ecc_signed = (sign_report(REPORT, PAIRS[name][0]) for name in PAIRS)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    ecc = ecc_signed.bodies[-1]
    for report, verifier, named in (
        (ecc_signed, PAIRS["rsa"][1], "expected algorithm RSA, got ECC"),
        (rsa_signed, PAIRS["ecc"][1], "expected algorithm ECC, got RSA"),
        (ecc_signed, EcdsaVerifier(other, hash_algorithm=SHA256()), "this ECC key"),
        (ecc_signed, EcdsaVerifier(EC_KEY.public_key(), hash_algorithm=SHA384()), "this ECC key"),
        (rsa_signed, RsaVerifier(RSA_KEY.public_key(), padding=PKCS1, hash_algorithm=SHA384()), "this RSA key"),
        (REPORT, PAIRS["ecc"][1], "report: not signed"),
        (Report(NOW, ()), PAIRS["ecc"][1], "report: not signed"),
        (replace(REPORT, bodies=(Signature(9, b""),)), PAIRS["ecc"][1], "expected algorithm ECC, got 9"),
        (replace(REPORT, bodies=(Signature(2, b"x", b"y"),)), PAIRS["rsa"][1], "no S with RSA"),
        (
            replace(REPORT, bodies=(Signature(3, b"\0" + ecc.r, ecc.s),)),
            PAIRS["ecc"][1],
            "32 bytes each, got 33 and 32",
        ),
    ):
        with pytest.raises(TrustError, match=named):
            verify_report(report, verifier)


def test_a_report_is_signed_once_and_as_a_whole(pair):
    """Nothing may follow the signature, on the way out or in."""
    signed = sign_report(REPORT, pair[0])
    with pytest.raises(LocalProtocolError, match="already signed"):
        sign_report(signed, pair[0])
    data = encode(frame_of(signed))[:-1] + b"\x04\x00\x01"
    data = data[:22] + (len(data) - 24).to_bytes(2, "big") + data[24:]
    check = 0
    for byte in data[2:]:
        check ^= byte
    with pytest.raises(FrameError, match="0xFF signature: expected the end of the report, got 3 more bytes"):
        decode(data + bytes((check,)))


class Sm2:
    """What a user with an SM2 library writes; here the "library" is a toy."""

    def sign(self, data):
        return Signature(SignatureAlgorithm.SM2, bytes(32), len(data).to_bytes(32, "big"))

    def verify(self, data, signature):
        if signature != self.sign(data):
            raise TrustError("wrong-signature", "toy")


def test_sm2_is_a_hook():
    """Any object with the method is a signer or a verifier."""
    verify_report(sign_report(REPORT, Sm2()), Sm2())
    with pytest.raises(TrustError):
        verify_report(replace(sign_report(REPORT, Sm2()), bodies=(Engine2025(1), Signature(1, b"", b""))), Sm2())
