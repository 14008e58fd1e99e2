"""Build, parse, verify: what is accepted, and that nothing else is."""

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.errors import ImageError, TrustError
from bmsota.image import (
    IMAGE_SIZE_BYTES_MAX,
    Attack,
    HardwareClass,
    ImageDependency,
    ImageFlag,
    ImageRole,
    ImageVersion,
    SignatureKind,
    build_image,
    image_length,
    parse_image,
    verify_image,
    with_low_s,
)

REFUSED = (ImageError, TrustError)


@pytest.fixture(scope="session")
def p256_image(forge):
    return build(forge, signing_key=forge.P256_KEY)


def build(forge, **changes):
    options = {
        "version": ImageVersion(2, 1, 0, 5),
        "security_counter": 7,
        "hardware_class": forge.HARDWARE,
        "role": ImageRole.MASTER,
        "signing_key": forge.KEY,
    }
    payload = changes.pop("payload", forge.PAYLOAD)
    return build_image(payload, **{**options, **changes})


# -- what is accepted ----------------------------------------------------------------------------------------------------


def test_the_bytes_are_those_of_an_independent_writer(forge):
    """A few lines of struct, written from the table in docs/trust.md, give the same file."""
    ours = build(
        forge,
        dependencies=[ImageDependency(role=ImageRole.SLAVE, version_min=ImageVersion(2))],
        custom_tlvs=[(0xA1, b"\x01")],
    )
    assert ours == forge.raw_image()


def test_an_image_says_what_it_was_built_from(forge):
    """Every field survives."""
    dependency = ImageDependency(role=ImageRole.SLAVE, version_min=ImageVersion(2))
    data = build(
        forge,
        role=ImageRole.SLAVE,
        dependencies=[dependency],
        custom_tlvs=[(0xA1, b""), (0xFE, b"x" * 300)],
        load_address=0x2000_0000,
        flags=ImageFlag.RAM_LOAD | ImageFlag.NON_BOOTABLE,
        header_size_bytes=256,
        header_fill=0,
    )
    image = verify_image(data, public_keys=[forge.KEY.public_key()])
    assert image.version == ImageVersion(2, 1, 0, 5)
    assert image.security_counter == 7
    assert image.hardware_class == forge.HARDWARE
    assert image.role is ImageRole.SLAVE
    assert image.dependencies == (dependency,)
    assert image.custom_tlvs == ((0xA1, b""), (0xFE, b"x" * 300))
    assert image.load_address == 0x2000_0000
    assert image.flags == ImageFlag.RAM_LOAD | ImageFlag.NON_BOOTABLE
    assert (image.header_size_bytes, image.header_fill) == (256, 0)
    assert image.payload == forge.PAYLOAD
    assert image.signature_kind is SignatureKind.ED25519
    assert image.digest == hashlib.sha256(data).digest()
    assert image.size_bytes == len(data)


def test_p256_signatures_are_repeatable(forge, p256_image):
    """RFC 6979: no random number, so the library needs none and a build can be repeated."""
    assert p256_image == build(forge, signing_key=forge.P256_KEY)
    image = verify_image(p256_image, public_keys=[forge.P256_KEY.public_key()])
    assert image.signature_kind is SignatureKind.ECDSA_P256


def test_a_node_that_knows_two_keys_takes_images_of_both(forge, p256_image, image):
    """How a fleet changes its key."""
    keys = [forge.OTHER_KEY.public_key(), forge.P256_KEY.public_key(), forge.KEY.public_key()]
    for data in (image, p256_image, build(forge, signing_key=forge.OTHER_KEY)):
        verify_image(data, public_keys=keys)


def test_the_length_of_an_image_in_a_slot_is_found(image):
    """Whatever follows it."""
    for tail in (b"", b"\xff" * 64, b"\x00", image):
        assert image_length(image + tail) == len(image)


# -- single mutations ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_no_flipped_bit_is_accepted(forge, image, p256_image, kind):
    """Every bit of every byte, and every byte inverted: refused with our errors, never with another exception."""
    data, key = (image, forge.KEY) if kind == "ed25519" else (p256_image, forge.P256_KEY)
    keys = [key.public_key()]
    for place in range(len(data)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            mutant = bytearray(data)
            mutant[place] ^= mask
            with pytest.raises(REFUSED):
                verify_image(bytes(mutant), public_keys=keys)


def test_no_truncated_or_lengthened_image_is_accepted(forge, image):
    """Cut anywhere, a byte missing anywhere, a byte too many anywhere."""
    keys = [forge.KEY.public_key()]
    for place in range(len(image)):
        for mutant in (image[:place], image[:place] + image[place + 1 :], image[:place] + b"\0" + image[place:]):
            with pytest.raises(REFUSED):
                verify_image(mutant, public_keys=keys)
    for tail in (b"\0", b"\xff" * 100, image):
        with pytest.raises(ImageError, match=rf"expected {len(image)} bytes( .*)?, got {len(image) + len(tail)}"):
            verify_image(image + tail, public_keys=keys)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(data):
    """A parser raises documented errors or has a bug."""
    for parser in (parse_image, image_length):
        with pytest.raises(ImageError):
            parser(data)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_arbitrary_overwrites_are_refused(forge, image, data):
    """Several bytes replaced anywhere: refused, or it is the same image."""
    mutant = bytearray(image)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(image) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=8))
        mutant[place : place + len(piece)] = piece
    if bytes(mutant) == image:
        return
    with pytest.raises(REFUSED):
        verify_image(bytes(mutant), public_keys=[forge.KEY.public_key()])


# -- images that are wrong and well signed -------------------------------------------------------------------------------


def header(index, value):
    def change(fields):
        fields[index] = value
        return fields

    return change


def tlv(value):
    return struct.pack("<HH", value[0], len(value[1])) + value[1]


WRONG = {
    # name of the defect: (how to make it, what the message says)
    "header size below 32": (lambda f: f.raw_image(header=header(2, 31)), "header size >= 32"),
    "header size 0": (lambda f: f.raw_image(header=header(2, 0)), "header size >= 32"),
    "payload size 0xffffffff": (lambda f: f.raw_image(header=header(4, 0xFFFFFFFF)), f"at most {IMAGE_SIZE_BYTES_MAX}"),
    "payload one byte short": (lambda f: f.raw_image(header=header(4, 95)), "magic 0x6908"),
    "protected size 0": (lambda f: f.raw_image(header=header(3, 0)), "protected size"),
    "protected size too large": (lambda f: f.raw_image(header=header(3, 999)), "protected size"),
    "reserved word set": (lambda f: f.raw_image(header=header(10, 1)), "reserved word 0"),
    "encrypted flag": (lambda f: f.raw_image(header=header(5, 0x4)), "not encrypted, got flags 0x4"),
    "compressed flag": (lambda f: f.raw_image(header=header(5, 0x400)), "not compressed, got flags 0x400"),
    "unknown flag": (lambda f: f.raw_image(header=header(5, 0x8000_0000)), "known flags"),
    "load address without a flag": (lambda f: f.raw_image(header=header(1, 0x2000)), "load address"),
    "RAM_LOAD without an address": (lambda f: f.raw_image(header=header(5, 0x20)), "load address"),
    "RAM_LOAD and ROM_FIXED": (
        lambda f: f.raw_image(header=lambda h: header(5, 0x120)(header(1, 8)(h))),
        "RAM_LOAD or ROM_FIXED",
    ),
    "payload of 7 bytes": (lambda f: f.raw_image(payload=b"1234567"), "payload"),
    "no protected area": (lambda f: f.raw_image(protected=()), "magic 0x6908"),
    "no security counter": (lambda f: f.raw_image(protected=f.PROTECTED[1:]), "SECURITY_COUNTER"),
    "security counter of 8 bytes": (
        lambda f: f.raw_image(protected=((0x50, bytes(8)), *f.PROTECTED[1:])),
        "SECURITY_COUNTER",
    ),
    "two security counters": (lambda f: f.raw_image(protected=(f.PROTECTED[0], *f.PROTECTED)), "VENDOR_ID"),
    "dependency on an unknown role": (
        lambda f: f.raw_image(protected=(f.PROTECTED[0], (0x40, bytes([2]) + bytes(11)), *f.PROTECTED[2:])),
        "role: expected 0",
    ),
    "dependency with set padding": (
        lambda f: f.raw_image(protected=(f.PROTECTED[0], (0x40, b"\0\1\0\0" + bytes(8)), *f.PROTECTED[2:])),
        "3 zero bytes",
    ),
    "17 dependencies": (
        lambda f: f.raw_image(protected=(f.PROTECTED[0], *[f.PROTECTED[1]] * 17, *f.PROTECTED[2:])),
        "at most 16 dependencies",
    ),
    "no vendor id": (lambda f: f.raw_image(protected=(*f.PROTECTED[:2], *f.PROTECTED[3:])), "VENDOR_ID"),
    "no class id": (lambda f: f.raw_image(protected=(*f.PROTECTED[:3], *f.PROTECTED[4:])), "CLASS_ID"),
    "no role": (lambda f: f.raw_image(protected=(*f.PROTECTED[:4], *f.PROTECTED[5:])), "ROLE"),
    "role 2": (lambda f: f.raw_image(protected=(*f.PROTECTED[:4], (0xA0, b"\x02"))), "role: expected 0"),
    "role twice": (lambda f: f.raw_image(protected=(*f.PROTECTED[:5], f.PROTECTED[4])), "rising numbers"),
    "custom TLVs out of order": (
        lambda f: f.raw_image(protected=(*f.PROTECTED[:5], (0xA2, b""), (0xA1, b""))),
        "rising numbers",
    ),
    "custom TLV 0x1a1, which imgtool reads as 0xa1": (
        lambda f: f.raw_image(protected=(*f.PROTECTED, (0x1A1, b""))),
        "rising numbers",
    ),
    "boot record": (lambda f: f.raw_image(protected=(f.PROTECTED[0], (0x60, b"x"), *f.PROTECTED[1:])), "VENDOR_ID"),
    "unprotected TLV more": (
        lambda f: f.raw_image(unprotected=lambda d: [*f.signature_tlvs(d), (0x99, b"")]),
        "one Ed25519 or ECDSA",
    ),
    "two signatures, the first foreign": (
        lambda f: f.raw_image(unprotected=lambda d: [*f.signature_tlvs(d, f.OTHER_KEY), *f.signature_tlvs(d)[1:]]),
        "one Ed25519 or ECDSA",
    ),
    "no key hash": (
        lambda f: f.raw_image(unprotected=lambda d: [f.signature_tlvs(d)[0], f.signature_tlvs(d)[2]]),
        "SHA256, KEYHASH",
    ),
    "no digest": (lambda f: f.raw_image(unprotected=lambda d: f.signature_tlvs(d)[1:]), "SHA256, KEYHASH"),
    "no signature": (lambda f: f.raw_image(unprotected=lambda d: f.signature_tlvs(d)[:2]), "SHA256, KEYHASH"),
    "signature before digest": (
        lambda f: f.raw_image(unprotected=lambda d: f.signature_tlvs(d)[::-1]),
        "SHA256, KEYHASH",
    ),
    "SHA-512 in the place of SHA-256": (
        lambda f: f.raw_image(unprotected=lambda d: [(0x12, d + d), *f.signature_tlvs(d)[1:]]),
        "SHA256, KEYHASH",
    ),
    "digest of 31 bytes": (
        lambda f: f.raw_image(unprotected=lambda d: [(0x10, d[:31]), *f.signature_tlvs(d)[1:]]),
        "digests of 32 bytes",
    ),
    "signature of 63 bytes": (
        lambda f: f.raw_image(unprotected=lambda d: [*f.signature_tlvs(d)[:2], (0x24, bytes(63))]),
        "64 bytes, got 63",
    ),
    "ECDSA signature that is no DER": (
        lambda f: f.raw_image(unprotected=lambda d: [*f.signature_tlvs(d)[:2], (0x22, bytes(70))]),
        "DER ECDSA",
    ),
    "empty TLV area": (lambda f: f.raw_image(unprotected=lambda _d: []), "TLV area"),
}


@pytest.mark.parametrize("defect", WRONG)
def test_a_wrong_image_is_refused_even_when_well_signed(forge, defect):
    """Each defect is refused as such: the message names what was expected."""
    make, message = WRONG[defect]
    with pytest.raises(ImageError, match=message):
        verify_image(make(forge), public_keys=[forge.KEY.public_key()])


def test_a_header_must_be_filled_evenly(forge):
    """0xff or 0x00 throughout; anything else could hide bytes."""
    data = build(forge, header_size_bytes=40)
    for fill in (b"\xff" * 7 + b"\x00", b"\x00" + b"\xff" * 7):
        with pytest.raises(ImageError, match="canonical"):
            parse_image(data[:32] + fill + data[40:])
    with pytest.raises(ImageError, match="header fill"):
        parse_image(data[:32] + b"\x01" * 8 + data[40:])


def test_ecdsa_signatures_have_one_encoding(forge, p256_image):
    """A DER integer with a needless leading zero byte verifies elsewhere; here it is another spelling."""
    place = p256_image.rindex(b"\x22\x00") + 4
    signature = p256_image[place:]
    length = signature[3]
    # 30 len 02 rlen r ... -> 30 len+1 02 rlen+1 00 r ...
    longer = bytes([0x30, signature[1] + 1, 0x02, length + 1, 0]) + signature[4:]
    area = p256_image.rindex(b"\x07\x69")
    size = struct.unpack_from("<H", p256_image, area + 2)[0]
    data = (
        p256_image[: area + 2]
        + struct.pack("<H", size + 1)
        + p256_image[area + 4 : place - 2]
        + struct.pack("<H", len(longer))
        + longer
    )
    with pytest.raises(ImageError, match="DER"):
        verify_image(data, public_keys=[forge.P256_KEY.public_key()])


def with_signature(image, signature):
    """The image with another signature in its last TLV."""
    area = image.rindex(b"\x07\x69")
    place = image.index(b"\x22\x00", area)
    body = image[area + 4 : place] + struct.pack("<HH", 0x22, len(signature)) + signature
    return image[:area] + struct.pack("<HH", 0x6907, 4 + len(body)) + body


def test_of_two_signatures_with_one_meaning_the_low_one_is_the_image(forge):
    """(r, n - s) verifies wherever (r, s) does: another file, another digest, the same program. Over ten images of both kinds."""
    key = [forge.P256_KEY.public_key()]
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    for number in range(10):
        image = build(forge, signing_key=forge.P256_KEY, security_counter=number)
        r, s = decode_dss_signature(verify_image(image, public_keys=key).signature)
        assert s <= order // 2
        high = with_signature(image, encode_dss_signature(r, order - s))
        key[0].verify(encode_dss_signature(r, order - s), parse_image(image).image_digest, ECDSA(Prehashed(SHA256())))
        for read in (parse_image, lambda data: verify_image(data, public_keys=key)):
            with pytest.raises(
                ImageError, match=r"signature: expected an ECDSA signature with low S .*, got one with high S"
            ):
                read(high)
        assert with_low_s(high) == with_low_s(image) == image


def test_an_ed25519_image_has_no_other_signature(image):
    assert with_low_s(image) == image
    with pytest.raises(ImageError):
        with_low_s(image[:-1])


MAGIC = bytes.fromhex("77c295f360d2ef7f3552500f2cb67980")
CONFIRMED = b"\x01" + b"\xff" * 7


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda image: image + b"\xff" * 1000, ["without padding", "--pad", "padded"]),
        (lambda image: image + b"\x00" * 8, ["without padding", "padded"]),
        (lambda image: image + b"\xff" * 1000 + MAGIC, ["without padding", "--pad", "padded"]),
        (lambda image: image + b"\xff" * 1000 + CONFIRMED + MAGIC, ["confirmed already", "--confirm", "confirmed in the trailer"]),
        (lambda image: image[3::-1] + image[4:], ["little-endian", "-e little", "big-endian"]),
        (lambda image: image[:16] + b"\x04\0\0\0" + image[20:], ["not encrypted", "flags 0x4: encrypted"]),
        (lambda image: image[:16] + b"\x08\0\0\0" + image[20:], ["not encrypted", "flags 0x8: encrypted"]),
        (lambda image: image[:16] + b"\x00\x04\0\0" + image[20:], ["not compressed", "flags 0x400: compressed"]),
        (lambda image: image + b"junk", ["expected", "bytes"]),
    ],
    ids=["erased", "zeros", "padded", "confirmed", "big endian", "AES-128", "AES-256", "compressed", "junk"],
)  # fmt: skip
def test_what_is_made_for_another_bootloader_is_refused_with_the_word_for_it(image, make, words):
    with pytest.raises(ImageError) as caught:
        parse_image(make(image))
    for word in words:
        assert word in str(caught.value)
    assert ("padded" in str(caught.value)) == ("padded" in words or "confirmed already" in words)


# -- trust ---------------------------------------------------------------------------------------------------------------


def attack_of(data, keys):
    with pytest.raises(TrustError) as caught:
        verify_image(data, public_keys=keys)
    return caught.value.attack


def test_the_refusals_of_trust_have_names(forge, image):
    """Changed bytes, an unknown key, a signature of another image, a key of the other kind."""
    keys = [forge.KEY.public_key()]
    changed = bytearray(image)
    changed[40] ^= 1
    assert attack_of(bytes(changed), keys) == Attack.CORRUPTED_DATA
    assert attack_of(image, [forge.OTHER_KEY.public_key()]) == Attack.ARBITRARY_SOFTWARE
    assert attack_of(image, []) == Attack.ARBITRARY_SOFTWARE
    foreign = forge.raw_image(unprotected=lambda d: [*forge.signature_tlvs(d)[:2], forge.signature_tlvs(bytes(32))[2]])
    assert attack_of(foreign, keys) == Attack.ARBITRARY_SOFTWARE


def test_the_signature_must_be_of_the_keys_kind(forge, p256_image):
    """The key hash of an Ed25519 key over an ECDSA signature is no way in."""
    signature = parse_image(p256_image).signature
    mixed = forge.raw_image(unprotected=lambda d: [*forge.signature_tlvs(d)[:2], (0x22, signature)])
    assert attack_of(mixed, [forge.KEY.public_key()]) == Attack.ARBITRARY_SOFTWARE


# -- what cannot be built ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"payload": b"short"}, "payload: expected 8"),
        ({"security_counter": -1}, "security counter"),
        ({"security_counter": 2**32}, "security counter"),
        ({"load_address": 8}, "load address"),
        ({"load_address": 2**32, "flags": ImageFlag.RAM_LOAD}, "load address: expected 32 bits"),
        ({"flags": ImageFlag(0x400)}, "known flags, got 0x400"),
        ({"flags": ImageFlag.ROM_FIXED}, "load address"),
        ({"flags": ImageFlag.ROM_FIXED | ImageFlag.RAM_LOAD, "load_address": 8}, "RAM_LOAD or ROM_FIXED"),
        ({"custom_tlvs": [(0xA0, b"")]}, "rising numbers 0xa1"),
        ({"custom_tlvs": [(0xFF, b"")]}, "rising numbers"),
        ({"custom_tlvs": [(0xA2, b""), (0xA1, b"")]}, "rising numbers"),
        ({"custom_tlvs": [(0xA1, bytes(65536))]}, "protected TLVs: expected at most"),
        ({"header_size_bytes": 31}, "header size"),
        ({"header_size_bytes": 65536}, "header size"),
        ({"header_fill": 0xAA}, "header fill"),
        ({"payload": bytes(IMAGE_SIZE_BYTES_MAX - 100)}, "image: expected at most"),
        ({"payload": bytes(IMAGE_SIZE_BYTES_MAX + 1)}, "payload: expected 8"),
        (
            {"dependencies": [ImageDependency(role=ImageRole.SLAVE, version_min=ImageVersion(1))] * 17},
            "dependencies: expected at most 16",
        ),
    ],
)
def test_what_does_not_fit_the_format_is_not_built(forge, changes, message):
    """The message says which value."""
    with pytest.raises(ImageError, match=message):
        build(forge, **changes)


def test_hardware_classes_are_named_as_imgtool_names_them():
    """Version 5 UUIDs: the vendor in the DNS namespace (RFC 9562's example domain), the class in the vendor's."""
    hardware = HardwareClass.named("www.example.com", "F7-master")
    assert str(hardware.vendor_id) == "2ed6657d-e927-568b-95e1-2665a8aea6a2"
    assert hardware.class_id.version == 5
    assert hardware != HardwareClass.named("www.example.com", "F7-slave")
    assert str(hardware) == f"{hardware.vendor_id}/{hardware.class_id}"
