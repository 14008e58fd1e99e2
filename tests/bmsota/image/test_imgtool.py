"""imgtool 2.5.0 as an independent peer: equal bytes for Ed25519, mutual verification for P-256.

imgtool's classes are called in-process, with the same inputs. Ed25519 draws no random number, so equality of the whole file
is the test; ECDSA signatures of imgtool are random, so there each side verifies the other's.
"""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from hypothesis import given, settings
from hypothesis import strategies as st
from imgtool.image import Image, VerifyResult
from imgtool.keys import ECDSA256P1, ECDSA256P1Public, Ed25519, Ed25519Public
from imgtool.version import decode_version
from long_run import LONG

from bmsota.errors import ImageError, TrustError
from bmsota.image import (
    HardwareClass,
    ImageDependency,
    ImageFlag,
    ImageRole,
    ImageVersion,
    build_image,
    image_length,
    key_hash,
    parse_image,
    verify_image,
    with_low_s,
)

EXAMPLES = 2000 if LONG else 150

versions = st.builds(
    ImageVersion, st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535), st.integers(0, 2**32 - 1)
)
names = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}", fullmatch=True)
addresses = st.one_of(
    st.just((ImageFlag.NONE, 0)),
    st.tuples(st.sampled_from([ImageFlag.RAM_LOAD, ImageFlag.ROM_FIXED]), st.integers(1, 2**32 - 1)),
)
custom_tlvs = st.dictionaries(st.integers(0xA1, 0xFE), st.binary(max_size=40), max_size=4).map(
    lambda tlvs: tuple(sorted(tlvs.items()))
)
dependencies = st.lists(
    st.builds(ImageDependency, role=st.sampled_from(ImageRole), version_min=versions), max_size=3
).map(tuple)


def imgtool_image(
    folder, key, payload, *, version, security_counter, vendor, class_name, role,
    dependencies=(), custom_tlvs=(), load_address=0, flags=ImageFlag.NONE, header_size_bytes=32, header_fill=0xFF,
    making=(),
):  # fmt: skip
    """What imgtool makes of the same input."""
    source = folder / "payload.bin"
    source.write_bytes(payload)
    image = Image(
        version=decode_version(str(version)),
        header_size=header_size_bytes,
        pad_header=True,
        erased_val=str(header_fill),
        security_counter=security_counter,
        load_addr=load_address if flags & ImageFlag.RAM_LOAD else 0,
        rom_fixed=load_address if flags & ImageFlag.ROM_FIXED else None,
        non_bootable=bool(flags & ImageFlag.NON_BOOTABLE),
        vid=vendor,
        cid=class_name,
        slot_size=8192,
        **dict(making),
    )
    image.load(str(source))
    wanted = {
        "images": [str(int(dependency.role)) for dependency in dependencies],
        "versions": [decode_version(str(dependency.version_min)) for dependency in dependencies],
    }
    image.create(
        key, "hash", None, dependencies=wanted if dependencies else None,
        custom_tlvs={0xA0: bytes([role]), **dict(custom_tlvs)},
    )  # fmt: skip
    if image.pad:
        image.pad_to(image.slot_size)  # As `save` does.
    return bytes(image.payload)


@pytest.mark.long
@settings(max_examples=EXAMPLES, deadline=None)
@given(
    seed=st.binary(min_size=32, max_size=32),
    payload=st.binary(min_size=8, max_size=300),
    version=versions,
    security_counter=st.integers(0, 2**32 - 1),
    vendor=names,
    class_name=names,
    role=st.sampled_from(ImageRole),
    dependencies=dependencies,
    custom_tlvs=custom_tlvs,
    address=addresses,
    is_bootable=st.booleans(),
    header_size_bytes=st.sampled_from([32, 33, 64, 512]),
    header_fill=st.sampled_from([0xFF, 0x00]),
)
def test_images_equal_imgtools_byte_for_byte(
    tmp_path_factory, seed, payload, version, security_counter, vendor, class_name, role, dependencies, custom_tlvs,
    address, is_bootable, header_size_bytes, header_fill,
):  # fmt: skip
    """The same input gives the same file, over all options both have."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    flags, load_address = address
    flags |= ImageFlag.NONE if is_bootable else ImageFlag.NON_BOOTABLE
    options = {
        "version": version,
        "security_counter": security_counter,
        "role": role,
        "dependencies": dependencies,
        "custom_tlvs": custom_tlvs,
        "load_address": load_address,
        "flags": flags,
        "header_size_bytes": header_size_bytes,
        "header_fill": header_fill,
    }
    folder = tmp_path_factory.getbasetemp()
    theirs = imgtool_image(folder, Ed25519(key), payload, vendor=vendor, class_name=class_name, **options)
    ours = build_image(payload, hardware_class=HardwareClass.named(vendor, class_name), signing_key=key, **options)
    assert ours == theirs

    image = verify_image(theirs, public_keys=[key.public_key()])
    assert {name: getattr(image, name) for name in options if header_size_bytes > 32 or name != "header_fill"} == {
        name: value for name, value in options.items() if header_size_bytes > 32 or name != "header_fill"
    }
    assert image.payload == payload
    assert image_length(theirs + b"\xff" * 100) == len(theirs)


@pytest.fixture
def options():
    return {"version": ImageVersion(3, 4, 5, 6), "security_counter": 9, "role": ImageRole.SLAVE}


def write(folder, data):
    path = folder / "image.bin"
    path.write_bytes(data)
    return str(path)


def test_imgtool_verifies_our_images(tmp_path, options):
    """Ed25519 and P-256."""
    hardware = HardwareClass.named("v.example", "c")
    ed25519 = Ed25519PrivateKey.from_private_bytes(bytes(32))
    p256 = ECDSA256P1.generate().key
    for key, public in (
        (ed25519, Ed25519Public(ed25519.public_key())),
        (p256, ECDSA256P1Public(p256.public_key())),
    ):
        data = build_image(b"program!" * 20, hardware_class=hardware, signing_key=key, **options)
        result, version, digest, _ = Image.verify(write(tmp_path, data), public)
        assert result is VerifyResult.OK
        assert version == (3, 4, 5, 6)
        assert digest == parse_image(data).image_digest


def test_we_verify_imgtools_p256_images(tmp_path, options):
    """Forty random signatures, of whatever length DER gives them: with high S only once `with_low_s` has rewritten them."""
    key = ECDSA256P1.generate()
    public = load_der_public_key(key.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    spellings = set()
    for _ in range(40):
        data = imgtool_image(tmp_path, key, b"program!" * 20, vendor="v.example", class_name="c", **options)
        ours = with_low_s(data)
        spellings.add(ours == data)
        image = verify_image(ours, public_keys=[public])
        assert image.version == options["version"]
        assert image.key_hash == key_hash(public)
        assert Image.verify(write(tmp_path, ours), ECDSA256P1Public(key.key.public_key()))[0] is VerifyResult.OK
        if ours != data:
            with pytest.raises(ImageError, match="high S"):
                verify_image(data, public_keys=[public])
    assert spellings == {True, False}, "imgtool writes either; one in 2^39 of these runs shows one kind only"


@pytest.mark.parametrize(
    ("making", "words"),
    [
        ({"pad": True}, ": padded"),
        ({"pad": True, "confirm": True}, "confirmed in the trailer"),
        ({"pad": True, "confirm": True, "max_align": "32"}, "confirmed in the trailer"),
        ({"pad": True, "max_align": "16"}, ": padded"),
        ({"endian": "big"}, "a big-endian one"),
    ],
)
def test_imgtools_other_makings_are_refused_with_the_word_for_them(tmp_path, options, making, words):
    key = Ed25519(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    data = imgtool_image(tmp_path, key, b"program!" * 20, vendor="v.example", class_name="c", **options, making=making)
    with pytest.raises(ImageError) as caught:
        parse_image(data)
    assert words in str(caught.value)


def test_imgtool_accepts_what_we_refuse(tmp_path, image):
    """The reason for a verifier of our own: imgtool takes trailing bytes and an altered key hash."""
    key = Ed25519Public(Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key())
    place = image.index(parse_image(image).key_hash)
    altered = image[:place] + bytes([image[place] ^ 1]) + image[place + 1 :]
    for data in (image + b"\0" * 100, altered):
        assert Image.verify(write(tmp_path, data), key)[0] is VerifyResult.OK
        with pytest.raises((ImageError, TrustError)):
            verify_image(data, public_keys=[key.key])
