"""The gateway's keys on disk: what works, what is refused, and that no message shows a key."""

import os

import pytest
from bmsota_cloud.link_keys import is_readable_by_others, load_link_keys, load_report_verifier
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bmsota.errors import ConfigurationError, TrustError
from bmsota.gbt32960 import (
    CipherMode,
    CipherPadding,
    EcdsaSigner,
    Encryption,
    RsaSigner,
    SymmetricCipher,
)

KEY = "00112233445566778899aabbccddeeff"
IV = "0f" * 16
GOOD = f'cipher = "AES"\nkey = "{KEY}"\nmode = "CBC"\npadding = "PKCS7"\niv = "{IV}"\n'
VIN = "TESTVEHICLE000001"


@pytest.fixture
def load(tmp_path):
    def read(text):
        path = tmp_path / "keys.toml"
        path.write_text(text)
        return load_link_keys(path)

    return read


def test_a_vehicle_has_its_own_key_or_the_default_one(load):
    keys = load(f'[default]\n{GOOD}[vehicles.{VIN}]\ncipher = "SM4"\nkey = "{KEY}"\nmode = "ECB"\npadding = "PKCS7"\n')
    aes = SymmetricCipher(
        Encryption.AES,
        key=bytes.fromhex(KEY),
        mode=CipherMode.CBC,
        padding=CipherPadding.PKCS7,
        iv=bytes.fromhex(IV),
    )
    sm4 = SymmetricCipher(Encryption.SM4, key=bytes.fromhex(KEY), mode=CipherMode.ECB, padding=CipherPadding.PKCS7)
    assert keys.cipher_of(VIN).decrypt(sm4.encrypt(b"own")) == b"own"
    assert keys.cipher_of(VIN).encryption == Encryption.SM4
    for other in ("", "TESTVEHICLE000002"):
        assert keys.cipher_of(other).decrypt(aes.encrypt(b"default")) == b"default"


def test_without_a_default_the_others_have_none(load):
    keys = load(f"[vehicles.{VIN}]\n{GOOD}")
    assert keys.cipher_of("TESTVEHICLE000002") is None
    assert load("").cipher_of(VIN) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            f"[default]\n{GOOD.replace(KEY, KEY[:-2])}",
            "default: cipher.key: expected 16 or 24 or 32 bytes for AES, got 15",
        ),
        (f"[default]\n{GOOD.replace(KEY, KEY[:-1])}", "default.key: expected hexadecimal digits, two a byte"),
        (f"[default]\n{GOOD.replace('AES', 'DES')}", "default.cipher: input should be 'AES' or 'SM4'"),
        (f"[default]\n{GOOD.replace('iv = ', 'vector = ')}", "default.vector: no such setting"),
        (f"[default]\n{GOOD.replace('mode', '# mode')}", "default.mode: missing"),
        (f"[default]\n{GOOD.replace('iv', '# iv')}", "default: cipher.iv: expected 16 bytes for CBC, got none"),
        (f"[vehicles.{VIN[:-1]}]\n{GOOD}", f"vehicles.{VIN[:-1]}: expected a VIN of 17 capitals or digits"),
        (f"[default]\nkey = {KEY}", "not TOML"),
        (f'key = "{KEY}"', "key: no such setting"),
    ],
)
def test_what_is_wrong_is_said_without_the_key(load, tmp_path, text, says):
    with pytest.raises(ConfigurationError) as caught:
        load(text)
    assert f"{tmp_path / 'keys.toml'}: {says}" in str(caught.value)
    chain, error = "", caught.value
    while error is not None:
        chain += str(error)
        error = error.__cause__
    assert KEY[:-2] not in chain


def test_files_that_are_not_there_are_said(tmp_path):
    with pytest.raises(ConfigurationError, match="no such key file"):
        load_link_keys(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_report_verifier(tmp_path, hash_name="sha256", padding_name=None)


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_keys_that_others_can_read_are_noticed(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text("")
    for mode, is_open in ((0o600, False), (0o640, True), (0o604, True), (0o400, False)):
        path.chmod(mode)
        assert is_readable_by_others(path) is is_open


def pem(folder, key):
    path = folder / "report.pem"
    path.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


@pytest.fixture(scope="module")
def rsa_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize(
    ("name", "padding"),
    [("pkcs1v15", PKCS1v15()), ("pss", PSS(mgf=MGF1(SHA256()), salt_length=32))],
)
def test_rsa_signatures(tmp_path, rsa_key, name, padding):
    verifier = load_report_verifier(pem(tmp_path, rsa_key.public_key()), hash_name="sha256", padding_name=name)
    signer = RsaSigner(rsa_key, padding=padding, hash_algorithm=SHA256())
    verifier.verify(b"data", signer.sign(b"data"))
    with pytest.raises(TrustError):
        verifier.verify(b"other", signer.sign(b"data"))


def test_ecc_signatures(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    verifier = load_report_verifier(pem(tmp_path, key.public_key()), hash_name="sha384", padding_name=None)
    verifier.verify(b"data", EcdsaSigner(key, hash_algorithm=SHA384()).sign(b"data"))
    with pytest.raises(TrustError):
        verifier.verify(b"data", EcdsaSigner(key, hash_algorithm=SHA256()).sign(b"data"))


def test_keys_of_no_use_are_refused(tmp_path, rsa_key):
    with pytest.raises(ConfigurationError, match="the padding of RSA signatures is not set"):
        load_report_verifier(pem(tmp_path, rsa_key.public_key()), hash_name="sha256", padding_name=None)
    other = ed25519.Ed25519PrivateKey.generate().public_key()
    with pytest.raises(ConfigurationError, match="expected an RSA or ECC key, got Ed25519"):
        load_report_verifier(pem(tmp_path, other), hash_name="sha256", padding_name=None)
    (tmp_path / "report.pem").write_text("nonsense")
    with pytest.raises(ConfigurationError, match="expected a public key, PEM"):
        load_report_verifier(tmp_path / "report.pem", hash_name="sha256", padding_name=None)
