"""Message protection: CRCs by their published check values, E2E profiles by the specification's examples, one frame as columns.

Vectors. CRC library: AUTOSAR CP SWS CRC Library, the tables of examples of each CRC. Profiles: autosar-e2e 1.0.0 (MIT, a library of
its own in C) made them all; among them are the specification's own examples (AUTOSAR FO PRS E2E Protocol) of P01 with data id 0x123
(0xCC) and of P05 with data id 0x1234 (1C CA, and 28 91 behind 8 bytes). Of P02 no example of the specification was at hand. Other
widths: check values of the catalogue of CRC algorithms.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.errors import ConfigurationError, SignalError
from bmsota.signals import (
    CrcAlgorithm,
    DataIdMode,
    E2EChecker,
    E2EProfile,
    E2EProtection,
    E2EProtector,
    E2EStatus,
    Severity,
    loads,
)
from bmsota.signals._crc import CCITT, H2F, SAE_J1850, _by_table
from bmsota.signals._declared import _KEYS, from_toml

DBC = """
BO_ 256 Pack: 8 Master
 SG_ Crc : 0|8@1+ (1,0) [0|255] "" Vehicle
 SG_ Alive : 8|4@1+ (1,0) [0|15] "" Vehicle
 SG_ IdNibble : 12|4@1+ (1,0) [0|15] "" Vehicle
 SG_ Value : 16|48@1+ (1,0) [0|0] "" Vehicle
BO_ 257 Wide: 8 Master
 SG_ Crc : 0|16@1+ (1,0) [0|65535] "" Vehicle
 SG_ Alive : 16|8@1+ (1,0) [0|255] "" Vehicle
 SG_ Value : 24|40@1+ (1,0) [0|0] "" Vehicle
BO_ 258 Behind: 16 Master
 SG_ Value : 0|64@1+ (1,0) [0|0] "" Vehicle
 SG_ Crc : 64|16@1+ (1,0) [0|65535] "" Vehicle
 SG_ Alive : 80|8@1+ (1,0) [0|255] "" Vehicle
 SG_ More : 88|40@1+ (1,0) [0|0] "" Vehicle
BO_ 259 Nibble: 8 Master
 SG_ Value : 7|52@0+ (1,0) [0|0] "" Vehicle
 SG_ Alive : 51|6@0+ (1,0) [0|63] "" Vehicle
 SG_ Crc : 56|4@1+ (1,0) [0|15] "" Vehicle
BO_ 260 Across: 8 Master
 SG_ Crc : 3|12@0+ (1,0) [0|4095] "" Vehicle
 SG_ Alive : 30|5@1+ (1,0) [0|31] "" Vehicle
 SG_ Value : 40|24@1+ (1,0) [0|0] "" Vehicle
BO_ 261 Paged: 8 Master
 SG_ Page M : 0|8@1+ (1,0) [0|0] "" Vehicle
 SG_ Crc m0 : 8|8@1+ (1,0) [0|255] "" Vehicle
 SG_ Alive : 16|4@1+ (1,0) [0|15] "" Vehicle
 SG_ Signed : 24|8@1- (1,0) [-128|127] "" Vehicle
"""
P01 = {"profile": E2EProfile.P01, "crc": "Crc", "counter": "Alive", "data_id": 0x123}
P02 = {"profile": E2EProfile.P02, "crc": "Crc", "counter": "Alive", "data_id_list": tuple(range(1, 17))}
P05 = {"profile": E2EProfile.P05, "crc": "Crc", "counter": "Alive", "data_id": 0x1234}


@pytest.fixture(scope="module")
def database():
    return loads(DBC)


def protected(database, name, **protection):
    return database[name].with_protection(E2EProtection(**protection))


# ---- CRCs


@pytest.mark.parametrize(
    ("data", "sae_j1850", "h2f", "ccitt"),
    [
        ("00000000", 0x59, 0x12, 0x84C0),
        ("f20183", 0x37, 0xC2, 0xD374),
        ("0faa0055", 0x79, 0xC6, 0x2023),
        ("00ff5511", 0xB8, 0x77, 0xB8F9),
        ("332255aabbccddeeff", 0xCB, 0x11, 0xF53F),
        ("926b55", 0x8C, 0x33, 0x0745),
        ("ffffffff", 0x74, 0x6C, 0x1D0F),
        (b"123456789".hex(), 0x4B, 0xDF, 0x29B1),
    ],
)
def test_the_examples_of_the_autosar_crc_library_come_out(data, sae_j1850, h2f, ccitt):
    data = bytes.fromhex(data)
    assert (SAE_J1850.compute(data), H2F.compute(data), CCITT.compute(data)) == (sae_j1850, h2f, ccitt)


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("width=3 poly=0x3 init=0x7 refin=true refout=true", 0x6),
        ("width=4 poly=0x3 refin=true refout=true", 0x7),
        ("width=4 poly=0x3 init=0xF xorout=0xF", 0xB),
        ("width=5 poly=0x05 init=0x1F refin=true refout=true xorout=0x1F", 0x19),
        ("width=10 poly=0x233", 0x199),
        ("width=12 poly=0x80F refin=false refout=true", 0xDAF),
        ("width=15 poly=0x4599 check=0x59E", 0x59E),
        ("width=16 poly=0x1021", 0x31C3),
        ("width=16 poly=0x1021 init=0x89EC refin=true refout=true", 0x26B1),
        ("width=24 poly=0x5D6DCB init=0xFEDCBA", 0x7979BD),
        ("width=32 poly=0xF4ACFB13 init=0xFFFFFFFF refin=true refout=true xorout=0xFFFFFFFF", 0x1697D06A),
        (
            "width=64 poly=0x42F0E1EBA9EA3693 init=0xFFFFFFFFFFFFFFFF refin=true refout=true xorout=0xFFFFFFFFFFFFFFFF",
            0x995DC9BBDF1939FA,
        ),
    ],
)
def test_any_polynomial_gives_the_check_value_of_the_catalogue(text, check):
    """By crcmod or by the table, and in columns."""
    crc, digits = CrcAlgorithm.parse(text), b"123456789"
    assert crc.compute(digits) == check
    assert _by_table(crc, digits) == check
    assert crc.compute_columns(np.frombuffer(digits * 2, dtype=np.uint8).reshape(2, 9)).tolist() == [check, check]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("poly=0x1D", "expected width="),
        ("width=8 poly=0x1D start=1", "expected width="),
        ("width=8 poly=0x1D and more", "expected width="),
        ("width=8 poly=0x11D", "CRC poly: expected 8 bits, got 0x11D"),
        ("width=65 poly=1", "CRC width: expected 1 to 64, got 65"),
        ("width=8 poly=x", "CRC: expected a number, got 'x'"),
        ("width=8 poly=1 refin=yes", "CRC: expected true or false, got 'yes'"),
    ],
)
def test_a_crc_that_cannot_be_says_why(text, problem):
    with pytest.raises(ConfigurationError, match=problem):
        CrcAlgorithm.parse(text)


# ---- the profiles


VECTORS = [
    ("Pack", P01, 0, "0000000000000000", "cc00000000000000"),
    ("Pack", P01, 1, "0000000000000000", "9101000000000000"),
    ("Pack", P01, 14, "0000000000000000", "cd0e000000000000"),
    ("Pack", P01, 7, "0000a1b2c3d4e5f6", "f707a1b2c3d4e5f6"),
    ("Pack", P01 | {"data_id_mode": DataIdMode.ALT}, 0, "0000000000000000", "ce00000000000000"),
    ("Pack", P01 | {"data_id_mode": DataIdMode.ALT}, 1, "0000000000000000", "0201000000000000"),
    ("Pack", P01 | {"data_id_mode": DataIdMode.ALT}, 7, "0000a1b2c3d4e5f6", "6407a1b2c3d4e5f6"),
    ("Pack", P01 | {"data_id_mode": DataIdMode.LOW}, 1, "0000000000000000", "9301000000000000"),
    (
        "Pack",
        P01 | {"data_id_mode": DataIdMode.NIBBLE, "data_id_nibble": "IdNibble"},
        0,
        "0000000000000000",
        "2a10000000000000",
    ),
    (
        "Pack",
        P01 | {"data_id_mode": DataIdMode.NIBBLE, "data_id_nibble": "IdNibble"},
        7,
        "0000a1b2c3d4e5f6",
        "1117a1b2c3d4e5f6",
    ),
    ("Pack", P02, 0, "0000000000000000", "0e00000000000000"),
    ("Pack", P02, 1, "0000000000000000", "1b01000000000000"),
    ("Pack", P02, 15, "0000000000000000", "cd0f000000000000"),
    ("Pack", P02, 7, "0000a1b2c3d4e5f6", "ac07a1b2c3d4e5f6"),
    ("Wide", P05, 0, "0000000000000000", "1cca000000000000"),
    ("Wide", P05, 255, "000000a1b2c3d4e5", "88a7ffa1b2c3d4e5"),
    ("Behind", P05, 0, "00" * 16, "00000000000000002891000000000000"),
]


@pytest.mark.parametrize(("name", "protection", "count", "data", "expected"), VECTORS)
def test_a_frame_is_protected_as_the_specification_says(database, name, protection, count, data, expected):
    message = protected(database, name, **protection)
    protector = E2EProtector(message, count=count)
    assert protector.protect(bytes.fromhex(data)).hex() == expected
    assert protector.count == (count + 1) % {"P01": 15, "P02": 16, "P05": 256}[protection["profile"].value]
    assert E2EChecker(message).check(bytes.fromhex(expected)) is E2EStatus.INITIAL


@pytest.mark.parametrize(("name", "protection", "_count", "_data", "expected"), VECTORS)
def test_any_flipped_bit_is_an_error(database, name, protection, _count, _data, expected):
    """A CRC of these lengths finds every single bit. (A counter that is out of its range is an error as well.)"""
    message, good = protected(database, name, **protection), bytes.fromhex(expected)
    for bit in range(8 * len(good)):
        bad = (int.from_bytes(good, "big") ^ 1 << bit).to_bytes(len(good), "big")
        assert E2EChecker(message).check(bad) is E2EStatus.ERROR


def test_the_data_id_tells_a_frame_of_another_message(database):
    frame = E2EProtector(protected(database, "Pack", **P01)).protect(bytes(8))
    other = protected(database, "Pack", **P01 | {"data_id": 0x124})
    assert E2EChecker(other).check(frame) is E2EStatus.ERROR


def test_sae_j1850_covers_the_data_alone_and_may_have_no_counter(database):
    """F2 01 83 behind four bytes of the CRC library's table; without a counter a frame is right or wrong."""
    message = loads('BO_ 1 M: 5 A\n SG_ Crc : 32|8@1+ (1,0) [0|255] "" B\n SG_ Value : 0|32@1+ (1,0) [0|0] "" B\n')["M"]
    message = message.with_protection(E2EProtection(profile=E2EProfile.J1850, crc="Crc"))
    frame = message.encode({"Value": int.from_bytes(bytes.fromhex("0faa0055"), "little")})
    assert frame.hex() == "0faa005579"
    checker = E2EChecker(message)
    assert [checker.check(each) for each in (frame, frame, bytes(5))] == [E2EStatus.OK, E2EStatus.OK, E2EStatus.ERROR]


def test_a_counter_alone_finds_repetition_and_loss_but_no_wrong_bit(database):
    message = protected(database, "Pack", profile=E2EProfile.CUSTOM, counter="Alive", max_delta_counter=2)
    frames = [bytes((0xA5, count % 16, 0, 0, 0, 0, 0, 0)) for count in (14, 15, 0, 2, 2, 5, 6)]
    statuses = [E2EChecker.check(checker, frame).name for checker in [E2EChecker(message)] for frame in frames]
    assert statuses == ["INITIAL", "OK", "OK", "OK_SOME_LOST", "REPEATED", "WRONG_SEQUENCE", "OK"]


# ---- the order of frames


def test_each_disturbance_of_a_stream_has_its_status(database):
    """Lost, repeated, corrupted, replayed: each is told, and costs no good frame; a jump of the sender costs the frame it lands on."""
    message = protected(database, "Pack", **P01)
    protector = E2EProtector(message)
    good = [protector.encode({"IdNibble": 0, "Value": number}) for number in range(16)]
    stream = [
        (good[0], "INITIAL"),
        (good[1], "OK"),
        (good[1], "REPEATED"),
        (good[2], "OK"),
        (good[5], "OK_SOME_LOST"),
        (bytes(8), "ERROR"),
        (good[6], "OK"),
        (good[2], "WRONG_SEQUENCE"),
        (good[7], "OK"),
        (good[3], "WRONG_SEQUENCE"),
        (good[8], "OK"),
        (good[14], "WRONG_SEQUENCE"),
        (good[14], "WRONG_SEQUENCE"),
        (good[15], "OK"),
    ]
    checker = E2EChecker(message)
    assert [checker.check(frame).name for frame, _ in stream] == [status for _, status in stream]
    assert checker.lost == 2
    assert checker.counts == {
        E2EStatus.INITIAL: 1,
        E2EStatus.OK: 6,
        E2EStatus.REPEATED: 1,
        E2EStatus.OK_SOME_LOST: 1,
        E2EStatus.ERROR: 1,
        E2EStatus.WRONG_SEQUENCE: 4,
    }
    assert {status for status in E2EStatus if status.is_usable} == {
        E2EStatus.OK,
        E2EStatus.INITIAL,
        E2EStatus.OK_SOME_LOST,
    }
    checker.reset()
    assert checker.check(good[3]) is E2EStatus.INITIAL
    assert checker.counts.total() == 15


def test_profile_1_counts_to_14_and_15_is_an_error(database):
    message = protected(database, "Pack", **P01)
    protector, checker = E2EProtector(message), E2EChecker(message)
    assert [checker.check(protector.protect(bytes(8))).name for _ in range(40)] == ["INITIAL", *["OK"] * 39]
    with pytest.raises(SignalError, match=r"expected 0 to 14, got 15 \(Pack.Alive\)"):
        message.encode({"Alive": 15, "IdNibble": 0, "Value": 0})
    with pytest.raises(SignalError, match=r"expected 0 to 14, got 15 \(row 1, Pack.Alive\)"):
        message.encode_batch({"Alive": [3, 15], "IdNibble": 0, "Value": 0})


# ---- encode


def test_encode_makes_the_crc_and_keeps_one_that_is_given(database):
    """So that decode and encode give every frame back, a wrong one too."""
    message = protected(database, "Pack", **P01)
    values = {"Alive": 7, "IdNibble": 0, "Value": int.from_bytes(bytes.fromhex("a1b2c3d4e5f6"), "little")}
    assert message.encode(values).hex() == "f707a1b2c3d4e5f6"
    assert message.frame(values).data.hex() == "f707a1b2c3d4e5f6"
    wrong = bytes.fromhex("0007a1b2c3d4e5f6")
    assert message.encode(message.decode(wrong)) == wrong
    with pytest.raises(SignalError, match=r"no value for Alive \(Pack\)"):
        message.encode({"IdNibble": 0, "Value": 0})
    columns = message.encode_batch({name: [value, 0] for name, value in values.items()})
    assert [bytes(row).hex() for row in columns] == ["f707a1b2c3d4e5f6", "cc00000000000000"]
    decoded = message.decode_batch(np.array([list(wrong)], dtype=np.uint8))
    assert bytes(message.encode_batch(decoded)[0]) == wrong


def test_a_message_without_protection_has_neither_end(database):
    for end in (E2EChecker, E2EProtector):
        with pytest.raises(SignalError, match="Pack is not protected: its DBC declares no CRC and no counter"):
            end(database["Pack"])
    assert database["Pack"].protection is None
    assert protected(database, "Pack", **P01).with_protection(None).protection is None


def test_data_of_another_length_is_refused_and_a_tail_ignored(database):
    message = protected(database, "Pack", **P01)
    frame = E2EProtector(message).protect(bytes(8))
    assert E2EChecker(message).check(frame + b"tail") is E2EStatus.INITIAL
    for wrong in (frame[:7], b""):
        with pytest.raises(SignalError, match=rf"expected 8 data bytes, got {len(wrong)} \(Pack\)"):
            E2EChecker(message).check(wrong)
        with pytest.raises(SignalError, match="expected 8 data bytes"):
            E2EProtector(message).protect(wrong)
    for wrong in (np.zeros((2, 7), dtype=np.uint8), np.zeros(8, dtype=np.uint8), np.zeros((2, 8))):
        with pytest.raises(SignalError, match="expected an array of uint8 with rows of at least 8 bytes"):
            E2EChecker(message).check_batch(wrong)


# ---- columns


LOADED = loads(DBC)
ODD = [
    ("Nibble", "width=4 poly=0x3 init=0xF xorout=0xF"),
    ("Across", "width=12 poly=0x80F refin=false refout=true"),
    ("Across", "width=12 poly=0xF13 init=0xFFF"),
]
DECLARED = [
    *((name, protection) for name, protection, *_ in VECTORS),
    *(
        (
            name,
            {
                "profile": E2EProfile.CUSTOM,
                "crc": "Crc",
                "counter": "Alive",
                "algorithm": CrcAlgorithm.parse(text),
                "before": (b"\x12\x34",),
                "after": tuple(bytes((7 * count & 0xFF,)) for count in range(64)),
                "max_delta_counter": 1,
            },
        )
        for name, text in ODD
    ),
    ("Nibble", {"profile": E2EProfile.CUSTOM, "counter": "Alive"}),
    ("Across", {"profile": E2EProfile.CUSTOM, "crc": "Crc", "algorithm": CrcAlgorithm.parse(ODD[2][1])}),
]


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(st.sampled_from(DECLARED), st.integers(0, 2**32), st.lists(st.integers(0, 30), max_size=6))
def test_columns_judge_every_frame_as_the_single_checker_does(declared, seed, cuts):
    """A stream with every disturbance, in one column or cut anywhere: statuses, counts and losses are equal, and so are frames."""
    name, protection = declared
    message = protected(LOADED, name, **protection)
    draw = random.Random(seed)
    protector = E2EProtector(message, count=draw.randrange(300))
    frames = []
    for _ in range(draw.randrange(31)):
        frame = protector.protect(draw.randbytes(message.length))
        match draw.randrange(8):
            case 0:
                frame = draw.randbytes(message.length)
            case 1 if frames:
                frame = draw.choice(frames)
            case 2:
                protector.count = (protector.count + draw.randrange(9)) % message.seal.modulus
        frames.append(frame)
    single, columns = E2EChecker(message), E2EChecker(message)
    expected = [single.check(frame) for frame in frames]
    table = np.frombuffer(b"".join(frames), dtype=np.uint8).reshape(-1, message.length)
    found = []
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(frames)], strict=True):
        found += columns.check_batch(table[begin:end]).tolist()
    assert found == expected
    assert columns.counts == single.counts
    assert columns.lost == single.lost
    good = [frame for frame, status in zip(frames, expected, strict=True) if status is not E2EStatus.ERROR]
    if good and name not in ("Nibble", "Across"):  # Those have bits of no signal, which encoding leaves 0.
        raw = [message.decode(frame) for frame in good]
        made = {"Crc", "IdNibble"} if message.seal.nibble else {"Crc"}
        given = {key: np.array([row[key] for row in raw], dtype=np.uint64) for key in raw[0] if key not in made}
        assert [bytes(row) for row in message.encode_batch(given)] == good


# ---- declarations


ATTRIBUTES = """
BA_DEF_ BO_ "E2EProfile" ENUM "None","P01","P02","P05","CUSTOM";
BA_DEF_ BO_ "E2EDataId" INT 0 65535;
BA_DEF_ BO_ "E2EDataIdList" STRING;
BA_DEF_ BO_ "E2EDataIdMode" STRING;
BA_DEF_ BO_ "E2EDataIdSignal" STRING;
BA_DEF_ BO_ "E2ECrcSignal" STRING;
BA_DEF_ BO_ "E2ECounterSignal" STRING;
BA_DEF_ BO_ "E2EMaxDeltaCounter" INT 1 255;
BA_DEF_ BO_ "E2ECrc" STRING;
BA_DEF_DEF_ "E2EProfile" "None";
BA_ "E2EProfile" BO_ 256 1;
BA_ "E2EDataId" BO_ 256 291;
BA_ "E2EDataIdMode" BO_ 256 "nibble";
BA_ "E2EDataIdSignal" BO_ 256 "IdNibble";
BA_ "E2ECrcSignal" BO_ 256 "Crc";
BA_ "E2ECounterSignal" BO_ 256 "Alive";
BA_ "E2EProfile" BO_ 259 4;
BA_ "E2ECrc" BO_ 259 "width=4 poly=0x3 init=0xF xorout=0xF";
BA_ "E2ECrcSignal" BO_ 259 "Crc";
BA_ "E2EMaxDeltaCounter" BO_ 259 1;
"""


def test_attributes_of_the_dbc_declare_a_protection():
    database = loads(DBC + ATTRIBUTES)
    assert not database.faults
    assert database["Pack"].protection == E2EProtection(
        **P01, data_id_mode=DataIdMode.NIBBLE, data_id_nibble="IdNibble"
    )
    assert database["Nibble"].protection == E2EProtection(
        profile=E2EProfile.CUSTOM, crc="Crc", algorithm=CrcAlgorithm.parse(ODD[0][1]), max_delta_counter=1
    )
    assert database["Wide"].protection is None
    assert database["Pack"].attributes["E2EProfile"] == "P01"


@pytest.mark.parametrize("name", ["P01", "p01", "PROFILE_01", "autosar_p01", "E2E_P01"])
def test_profiles_are_known_by_the_names_that_files_give_them(name):
    text = DBC + ATTRIBUTES.replace('ENUM "None","P01","P02","P05","CUSTOM"', "STRING")
    text = text.replace("BO_ 256 1;", f'BO_ 256 "{name}";').replace(
        '"E2EProfile" BO_ 259 4', '"E2EProfile" BO_ 259 "none"'
    )
    assert loads(text)["Pack"].protection.profile is E2EProfile.P01
    assert loads(text)["Nibble"].protection is None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"Crc";\nBA_ "E2EC', '"Checksum";\nBA_ "E2EC', "Checksum is not a signal of this message (CRC of Pack)"),
        ("256 291", "256 70000", "P01: expected a data id from 0 to 0xFFFF, got 70000"),
        ('"nibble"', '"upper"', "data_id_mode: expected one of both, alt, low, nibble, got 'upper'"),
        (
            '"E2EProfile" BO_ 256 1',
            '"E2EProfile" BO_ 256 3',
            "expected a counter for 0 to 255, got one of 4 bits (Pack.Alive)",
        ),
        ('BA_ "E2EDataId" BO_ 256 291;\n', "", "P01: no data id"),
    ],
)
def test_attributes_that_fit_no_signal_are_a_fault_with_its_line_and_the_message_stays(old, new, reason):
    text = (DBC + ATTRIBUTES).replace(old, new, 1)
    database = loads(text)
    [fault] = [each for each in database.faults if "E2E" in each.reason]
    assert (fault.line, fault.severity) == (2, Severity.WARNING)
    assert fault.reason == f"the E2E attributes of Pack cannot be used: {reason}"
    assert database["Pack"].protection is None
    assert database["Pack"].decode(bytes(8))["Alive"] == 0


FILE = """
[messages.Pack]
profile = "P02"
crc = "Crc"
counter = "Alive"
data_id_list = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]

[messages."W?de"]
profile = "P05"
crc = "Crc"
counter = "Alive"
data_id = "can_id"
max_delta_counter = 1

[messages.Across]
profile = "custom"
crc = "Crc"
counter = "Alive"
algorithm = "width=12 poly=0xF13 init=0xFFF"
before = ["1234"]
"""


def test_a_file_declares_what_a_dbc_does_not(database):
    found = database.with_protection(FILE)
    assert found["Pack"].protection == E2EProtection(**P02)
    assert found["Wide"].protection == E2EProtection(**P05 | {"data_id": 257}, max_delta_counter=1)
    assert found["Across"].protection.before == (b"\x12\x34",)
    assert found["Behind"].protection is None
    assert database["Pack"].protection is None, "the first database is as it was"
    assert found[256] is found["Pack"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[messages.Pack", "not valid TOML"),
        ("", "no message: expected a section"),
        ("[messages]\nPack = 3", "messages.Pack: expected a section, got 3"),
        ("[message.Pack]\nprofile='P01'", "no such section: message"),
        ("[messages.Pack]\nprofile='P01'\ncrcs='Crc'", "messages.Pack: no such key: crcs"),
        ("[messages.Pack]\ncrc='Crc'", "messages.Pack: the key profile is missing"),
        ("[messages.Pack]\nprofile='P04'", "messages.Pack: profile: expected one of P01, P02, P05, J1850, CUSTOM, got 'P04'"),
        ("[messages.Pack]\nprofile='J1850'", "messages.Pack: needs a CRC signal, a counter signal or both"),
        ("[messages.Pack]\nprofile='P01'\ncrc='Crc'\ncounter='Alive'\ndata_id='x'", "data_id: expected a whole number, got 'x'"),
        ("[messages.Pack]\nprofile='P01'\ncrc='Crc'\ncounter='Alive'\ndata_id=true", "data_id: expected a whole number, got True"),
        ("[messages.Pack]\nprofile='P01'\ncrc='Crc'", "messages.Pack: P01: needs both a CRC signal and a counter signal"),
        ("[messages.Pack]\nprofile='P01'\ncrc=3", "crc: expected the name of a signal, got 3"),
        ("[messages.Pack]\nprofile='P02'\ncrc='Crc'\ncounter='Alive'\ndata_id_list=[1, 2]", "expected a data id list of 16 bytes"),
        ("[messages.Pack]\nprofile='custom'\ncrc='Crc'", "CUSTOM: a CRC signal but no algorithm"),
        ("[messages.Pack]\nprofile='J1850'\ncrc='Crc'\nbefore=['00']", "J1850: its CRC is fixed; use CUSTOM for another one"),
        ("[messages.Pack]\nprofile='J1850'\ncrc='Crc'\nmax_delta_counter=0", "expected a largest counter step of at least 1, got 0"),
        ("[messages.Pack]\nprofile='custom'\ncrc='Crc'\nalgorithm='width=8 poly=1'\nbefore=['0g']", "before: expected bytes in hexadecimal, got '0g'"),
        ("[messages.Pack]\nprofile='custom'\ncounter='Alive'\nafter=['00','01']", "expected one data id or one for each of 16 counter values, got 2"),
        ("[messages.Pack]\nprofile='custom'\ncrc='Crc'\nalgorithm='width=8 poly=1'\ncounter='Alive'\nafter=['00'" + ",'0001'" * 15 + "]", "expected data ids of one length"),
        ("[messages.Wide]\nprofile='J1850'\ncrc='Crc'", "expected a CRC of 8 bits, got 16 (Wide.Crc)"),
        ("[messages.Paged]\nprofile='J1850'\ncrc='Crc'", "Crc is multiplexed, so not in every frame"),
        ("[messages.Paged]\nprofile='J1850'\ncrc='Signed'", "expected an unsigned signal with scale 1 and offset 0"),
        ("[messages.Pack]\nprofile='P01'\ncrc='Crc'\ncounter='Alive'\ndata_id=1\ndata_id_mode='nibble'\ndata_id_signal='Crc'", "expected a signal of 4 bits for the data id, got 8"),
        ("[messages.Pack]\nprofile='J1850'\ncrc='Crc'\ncounter='Crc'", "CRC, counter and data id need signals of their own, got Crc and Crc (Pack)"),
        ("[messages.Other]\nprofile='J1850'\ncrc='Crc'", "no section names a message of the DBC"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_says_where_and_why(database, text, problem):
    with pytest.raises(ConfigurationError) as caught:
        database.with_protection(text)
    assert problem in str(caught.value)


def test_the_file_on_the_page_is_one(database):
    """docs/signals.md: its example declares what its table explains."""
    page = (Path(__file__).parents[3] / "docs" / "signals.md").read_text(encoding="utf-8")
    [text] = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    declared = from_toml(text)
    names = {"EngineState": E2EProfile.P02, "Slave03_Cells_1": E2EProfile.P01, "Brake": E2EProfile.CUSTOM}
    for name, profile in names.items():
        assert declared(SimpleNamespace(name=name, can_id=0x423)).profile is profile
    assert declared(database["Pack"]) is None
    assert all(f"`{key}`" in page and f"`{attribute}`" in page for attribute, key in _KEYS.items())
