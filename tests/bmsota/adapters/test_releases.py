"""What is to be flashed, from files: releases found by digest, images in every wrapping, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import bincopy
import pytest
from bmsota_sim.samples import sample_file
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bmsota.adapters.releases import load_access_key, load_image_keys, load_manifest_keys, load_source
from bmsota.flashing import Check, SourceError, SourceFault
from bmsota.image import ImageVersion, load_public_key

IMAGE = sample_file("F7-slave-2.1.0.bin")
MASTER = sample_file("F7-master-2.1.0.bin")
MANIFEST = sample_file("F7-2.1.0.manifest.cose")
KEY = load_public_key(sample_file("keys/manifest.SAMPLE.public.pem"))
IMAGE_KEY = load_public_key(sample_file("keys/image.SAMPLE.public.pem"))


def fault_of(function, *arguments):
    with pytest.raises(SourceError) as caught:
        function(*arguments)
    return caught.value


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "release.cose").write_bytes(MANIFEST)
    (tmp_path / "one.bin").write_bytes(IMAGE)
    (tmp_path / "two.img").write_bytes(MASTER)
    return tmp_path


def wrapped(kind, path):
    """IMAGE at a flash address, as a toolchain writes it."""
    binary = bincopy.BinFile()
    binary.add_binary(IMAGE, address=0x0801_0000)
    if kind == "elf":
        return path.write_bytes(elf(IMAGE, 0x0801_0000))
    text = {"hex": binary.as_ihex, "s19": binary.as_srec}[kind]()
    return path.write_text(text, encoding="ascii")


def elf(content, address):
    """The smallest 32-bit little-endian ARM executable: a header, one segment, the content, section names."""
    names = b"\0.text\0.shstrtab\0"
    head, segment, section = 52, 32, 40
    at = head + segment
    names_at = at + len(content)
    sections_at = names_at + len(names)
    words = b"".join

    def w(value, size=4):
        return value.to_bytes(size, "little")

    header = words(
        [b"\x7fELF\x01\x01\x01" + bytes(9), w(2, 2), w(40, 2), w(1), w(address), w(head), w(sections_at), w(0), w(head, 2),
         w(segment, 2), w(1, 2), w(section, 2), w(3, 2), w(2, 2)]
    )  # fmt: skip
    program = words([w(1), w(at), w(address), w(address), w(len(content)), w(len(content)), w(5), w(4)])
    text = words([w(1), w(1), w(6), w(address), w(at), w(len(content)), w(0), w(0), w(4), w(0)])
    strings = words([w(7), w(3), w(0), w(0), w(names_at), w(len(names)), w(0), w(0), w(1), w(0)])
    return header + program + content + names + bytes(section) + text + strings


class TestImages:
    @pytest.mark.parametrize("kind", ["hex", "s19", "elf"])
    def test_wrapped(self, kind, tmp_path):
        path = tmp_path / f"image.{kind}"
        wrapped(kind, path)
        source = load_source(path)
        assert source.manifest is None
        assert source.name == f"image.{kind}"
        assert [image.data for image in source.images] == [IMAGE]

    def test_as_it_is(self, tmp_path):
        path = tmp_path / "image.whatever"
        path.write_bytes(IMAGE)
        assert load_source(str(path)).images[0].facts.version == ImageVersion(2, 1)

    def test_the_erased_rest_of_a_slot_is_left_out(self, tmp_path):
        binary = bincopy.BinFile()
        binary.add_binary(IMAGE + b"\xff" * 500, address=0x100)
        path = tmp_path / "slot.hex"
        path.write_text(binary.as_ihex(), encoding="ascii")
        assert load_source(path).images[0].data == IMAGE

    def test_something_else_behind_the_image_is_not_left_out(self, tmp_path):
        binary = bincopy.BinFile()
        binary.add_binary(IMAGE + b"\x00" * 500, address=0x100)
        path = tmp_path / "slot.hex"
        path.write_text(binary.as_ihex(), encoding="ascii")
        error = fault_of(load_source, path)
        assert error.fault is SourceFault.NOT_AN_IMAGE
        assert f"expected {len(IMAGE)} bytes without padding" in error.detail
        assert f"got {len(IMAGE) + 500}: padded" in error.detail

    def test_a_damaged_image_is_refused_without_a_key(self, tmp_path):
        path = tmp_path / "image.bin"
        path.write_bytes(IMAGE[:100] + bytes([IMAGE[100] ^ 1]) + IMAGE[101:])
        assert fault_of(load_source, path).fault is SourceFault.IMAGE_DAMAGED

    def test_a_folder_is_no_image(self, tmp_path):
        error = fault_of(load_source, tmp_path)
        assert (error.fault, error.detail) == (SourceFault.FILE_UNREADABLE, f"{tmp_path} is a folder")

    def test_two_segments_far_apart_are_no_image(self, tmp_path):
        binary = bincopy.BinFile()
        binary.add_binary(IMAGE, address=0)
        binary.add_binary(b"far", address=0x4000_0000)
        path = tmp_path / "far.hex"
        path.write_text(binary.as_ihex(), encoding="ascii")
        assert fault_of(load_source, path).fault is SourceFault.NOT_AN_IMAGE

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x7fELF",
            b"\x7fELF" + bytes(200),
            b":10",
            b"S0",
            b"hello",
            bytes(100),
            b"\x3d\xb8\xf3\x96" + bytes(90),
            IMAGE[:-1],
        ],
        ids=["empty", "elf-magic", "elf-zeros", "hex-cut", "srec-cut", "prose", "zeros", "magic-only", "image-cut"],
    )
    def test_what_is_none(self, content, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(content)
        error = fault_of(load_source, path)
        assert error.fault is SourceFault.NOT_AN_IMAGE
        assert str(path) in error.detail


class TestReleases:
    def test_images_are_found_by_their_digests_whatever_they_are_called(self, folder):
        source = load_source(folder / "release.cose", [KEY])
        assert (source.name, source.is_manifest_verified) == ("F7-2.1.0", True)
        assert {image.data for image in source.images} == {IMAGE, MASTER}

    def test_without_a_key_it_is_not_verified(self, folder):
        assert not load_source(folder / "release.cose").is_manifest_verified

    def test_another_key(self, folder):
        error = fault_of(load_source, folder / "release.cose", [IMAGE_KEY])
        assert error.fault is Check.MANIFEST_SIGNATURE

    @pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
    def test_a_changed_manifest_is_refused_with_a_key(self, at, folder):
        data = bytearray(MANIFEST)
        data[int(at * len(data))] ^= 0x10
        (folder / "release.cose").write_bytes(bytes(data))
        assert fault_of(load_source, folder / "release.cose", [KEY]).fault in {
            Check.MANIFEST_SIGNATURE,
            SourceFault.BAD_MANIFEST,
        }

    def test_an_image_that_is_not_there(self, folder):
        (folder / "two.img").unlink()
        error = fault_of(load_source, folder / "release.cose")
        assert error.fault is SourceFault.IMAGE_MISSING
        assert f"the master image 2.1.0 with SHA-256 {hashlib.sha256(MASTER).hexdigest()} is not in" in error.detail
        assert error.detail.endswith("is not in the manifest's folder")

    def test_one_that_was_changed_is_named(self, folder):
        data = bytearray(MASTER)
        data[5000] ^= 1
        (folder / "two.img").unlink()
        (folder / "master.bin").write_bytes(bytes(data))
        error = fault_of(load_source, folder / "release.cose")
        assert error.fault is SourceFault.IMAGE_MISSING
        assert "master.bin looks like it, but its digest differs" in error.detail

    def test_a_document_of_another_kind_is_no_manifest(self, folder):
        text = MANIFEST.replace(b"vnd.bmsota.manifest+cbor", b"vnd.bmsota.mani4est+cbor")
        (folder / "release.cose").write_bytes(text)
        assert fault_of(load_source, folder / "release.cose").fault is SourceFault.BAD_MANIFEST

    def test_nothing_and_a_folder(self, tmp_path):
        assert fault_of(load_source, tmp_path / "nothing").fault is SourceFault.FILE_MISSING
        assert fault_of(load_source, tmp_path).fault is SourceFault.FILE_UNREADABLE


class TestKeys:
    def p256(self, path, *, private):
        key = generate_private_key(SECP256R1())
        content = (
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            if private
            else key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        path.write_bytes(content)
        return path

    def test_of_images_and_manifests(self, tmp_path):
        path = tmp_path / "key.pem"
        path.write_bytes(sample_file("keys/manifest.SAMPLE.public.pem"))
        assert [key.public_bytes_raw() for key in load_manifest_keys([path])] == [KEY.public_bytes_raw()]
        p256 = self.p256(tmp_path / "p256.pem", private=False)
        assert len(load_image_keys([path, p256])) == 2
        error = fault_of(load_manifest_keys, [p256])
        assert error.fault is SourceFault.BAD_KEY
        assert "expected an Ed25519 key, got" in error.detail

    def test_of_access(self, tmp_path):
        path = tmp_path / "key.pem"
        path.write_bytes(sample_file("keys/image.SAMPLE.private.pem"))
        assert load_access_key(path).public_key().public_bytes_raw() == IMAGE_KEY.public_bytes_raw()
        assert fault_of(load_access_key, self.p256(tmp_path / "p256.pem", private=True)).fault is SourceFault.BAD_KEY
        path.write_bytes(sample_file("keys/image.SAMPLE.public.pem"))
        assert fault_of(load_access_key, path).fault is SourceFault.BAD_KEY
        assert fault_of(load_access_key, Path(tmp_path, "nothing")).fault is SourceFault.FILE_MISSING
