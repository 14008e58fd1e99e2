"""The platform's keys: its own is made once, others' are read, a sample's is warned of."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from bmsota_cloud.keys import SAMPLE_KEY_HASHES, load_keys, sample_key_warning
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bmsota.errors import ConfigurationError
from bmsota.image import key_hash, load_public_key

ROOT = Path(__file__).parents[2]


def sample_key_files():
    """Wherever the project keeps them."""
    return {
        path.name.partition(".")[0]: path
        for folder in ("firmware_images", "simulator")
        for path in (ROOT / folder).rglob("*.SAMPLE.public.pem")
    }


@pytest.fixture
def pem(tmp_path, sample_keys):
    path = tmp_path / "manifest.pem"
    key = sample_keys.manifest_public_keys[0]
    path.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def test_the_order_key_is_made_once_and_kept_from_others(tmp_path, pem):
    first = load_keys(tmp_path / "data", manifest_keys=[pem], image_keys=[pem])
    second = load_keys(tmp_path / "data", manifest_keys=[pem], image_keys=[pem])
    raw = [keys.order_signing_key.private_bytes_raw() for keys in (first, second)]
    assert raw[0] == raw[1]
    assert (tmp_path / "data/keys/order_private.pem").stat().st_mode & 0o077 == 0
    assert b"PUBLIC KEY" in (tmp_path / "data/keys/order_public.pem").read_bytes()
    assert len(first.manifest_public_keys) == len(first.image_public_keys) == 1


def test_processes_that_start_together_have_one_order_key(tmp_path):
    """An order that one of them has signed must be good at a unit that was provisioned from the folder of the other."""
    others = []

    def draw(size):
        # Another process starts and is done between this one's look and its key.
        others.append(load_keys(tmp_path, manifest_keys=[], image_keys=[]).order_signing_key)
        return os.urandom(size)

    own = load_keys(tmp_path, manifest_keys=[], image_keys=[], draw=draw).order_signing_key
    assert [own.private_bytes_raw()] == [other.private_bytes_raw() for other in others]
    assert load_public_key((tmp_path / "keys/order_public.pem").read_bytes()) == own.public_key()
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["order_private.pem", "order_public.pem"]


@pytest.mark.parametrize("left", range(4))
def test_a_start_that_dies_while_it_makes_the_order_key_is_followed_by_one_that_works(tmp_path, monkeypatch, left):
    """It is cut before the first sync, link and so on; what is there by then is whole, and the rest is made."""

    class PowerCutError(BaseException):
        pass

    def counted(real):
        def call(*arguments):
            nonlocal left
            if left == 0:
                raise PowerCutError
            left -= 1
            return real(*arguments)

        return call

    with monkeypatch.context() as patch:
        for name in ("fsync", "link"):
            patch.setattr(f"bmsota_cloud.keys.os.{name}", counted(getattr(os, name)))
        with pytest.raises(PowerCutError):
            load_keys(tmp_path, manifest_keys=[], image_keys=[])
    key = load_keys(tmp_path, manifest_keys=[], image_keys=[]).order_signing_key
    assert load_public_key((tmp_path / "keys/order_public.pem").read_bytes()) == key.public_key()
    again = load_keys(tmp_path, manifest_keys=[], image_keys=[]).order_signing_key
    assert again.private_bytes_raw() == key.private_bytes_raw()


def test_keys_that_can_not_be_used_are_refused_with_their_place(tmp_path, pem):
    text = tmp_path / "text.pem"
    text.write_text("no key")
    p256 = tmp_path / "p256.pem"
    p256.write_bytes(
        generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    for manifest, image, words in (
        ([tmp_path / "none.pem"], [], "none.pem"),
        ([text], [], "text.pem"),
        ([p256], [], "p256.pem"),
        ([], [text], "text.pem"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            load_keys(tmp_path, manifest_keys=manifest, image_keys=image)
    assert len(load_keys(tmp_path, manifest_keys=[pem], image_keys=[p256]).image_public_keys) == 1


def test_every_sample_key_of_the_project_is_known():
    files = sample_key_files()
    assert {key_hash(load_public_key(path.read_bytes())): name for name, path in files.items()} == SAMPLE_KEY_HASHES


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        (["manifest"], "the sample manifest key, whose private half is published"),
        (["image"], "the sample image key, whose private half is published"),
        (["image", "manifest"], "the sample image and manifest keys, whose private halves are published"),
    ],
)
def test_a_sample_key_is_warned_of(tmp_path, pem, kinds, says):
    files = sample_key_files()
    keys = load_keys(
        tmp_path,
        manifest_keys=[pem, *(files[kind] for kind in kinds if kind == "manifest")],
        image_keys=[pem, *(files[kind] for kind in kinds if kind == "image")],
    )
    assert says in sample_key_warning(keys)


def test_a_sample_key_as_the_platform_s_own_is_warned_of_too(sample_keys, monkeypatch):
    made = Ed25519PrivateKey.from_private_bytes(bytes(32))
    monkeypatch.setitem(SAMPLE_KEY_HASHES, key_hash(made.public_key()), "image")
    assert "the sample image key" in sample_key_warning(replace(sample_keys, order_signing_key=made))


def test_other_keys_are_not_warned_of(sample_keys):
    assert sample_key_warning(sample_keys) == ""
