"""Plain, deterministic CBOR: one encoding for a value, and no exception but `CborError`."""

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.ota import _cbor

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.text(st.characters(codec="utf-8"), max_size=5) | st.integers(-30, 300), children, max_size=4
        )
    ),
    max_leaves=12,
)


@pytest.mark.slow
@given(plain)
def test_what_is_encoded_is_decoded(value):
    """Any plain value, unless it nests deeper than our documents may."""
    data = _cbor.encode(value)
    try:
        assert _cbor.decode(data) == value
    except _cbor.CborError as error:
        assert "depth" in str(error)  # noqa: PT017


@pytest.mark.slow
@settings(max_examples=500)
@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_decoded_or_refused(data):
    """Whatever is decoded has these bytes as its only encoding."""
    try:
        value = _cbor.decode(data)
    except _cbor.CborError:
        return
    assert _cbor.encode(value) == data


@pytest.mark.parametrize(
    ("text", "value"),
    [  # RFC 8949, appendix A: the plain ones.
        ("00", 0),
        ("17", 23),
        ("1818", 24),
        ("1903e8", 1000),
        ("1bffffffffffffffff", 2**64 - 1),
        ("3bffffffffffffffff", -(2**64)),
        ("20", -1),
        ("f4", False),
        ("f5", True),
        ("f6", None),
        ("40", b""),
        ("4401020304", b"\1\2\3\4"),
        ("60", ""),
        ("62c3bc", "ü"),
        ("83010203", [1, 2, 3]),
        ("a26161016162820203", {"a": 1, "b": [2, 3]}),
    ],
)
def test_published_vectors(text, value):
    """Both directions."""
    assert _cbor.encode(value).hex() == text
    assert _cbor.decode(bytes.fromhex(text)) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nothing", ""),
        ("two items", "0000"),
        ("a number that could be shorter", "1817"),
        ("a length that could be shorter", "5801ff"),
        ("a head cut off", "19"),
        ("a string cut off", "44010203"),
        ("a string of 2^63 bytes", "5b7fffffffffffffff"),
        ("an array of 2^63 items", "9b7fffffffffffffff"),
        ("an array cut off", "8301"),
        ("an indefinite array", "9f01ff"),
        ("an indefinite string", "5f4101ff"),
        ("a lone break", "ff"),
        ("reserved length 28", "1c"),
        ("a float", "f93c00"),
        ("undefined", "f7"),
        ("a simple value", "f8ff"),
        ("a date", "c11a514b67b0"),
        ("a big number", "c249010000000000000000"),
        ("a regular expression", "d8236161"),
        ("a shared reference", "d81c80"),
        ("our own tag where none is allowed", "d280"),
        ("keys in the wrong order", "a2616201616101"),
        ("a key twice", "a2616101616102"),
        ("a list as key", "a18001"),
        ("a map as key", "a1a001"),
        ("text that is no UTF-8", "61ff"),
        ("deep nesting", "81" * 7 + "00"),
        ("very deep nesting", "81" * 100_000),
        ("many items", "995000" + "00" * 0x5000),
        ("many items in many arrays", "9910 00".replace(" ", "") + "8100" * 0x1000),
    ],
)
def test_everything_else_is_refused(name, text):
    """Each by `CborError`, quickly, and without what cbor2 would build of it."""
    with pytest.raises(_cbor.CborError, match="expected"):
        _cbor.decode(bytes.fromhex(text))


def test_bytes_behind_the_item_are_named():
    """Two documents in one are none."""
    with pytest.raises(_cbor.CborError, match="expected the end, got 2 more bytes"):
        _cbor.decode(b"\x00\x00\x00")


def test_the_tag_is_required_where_it_is_asked_for():
    """COSE_Sign1 is recognised by its tag."""
    assert _cbor.decode(cbor2.dumps(cbor2.CBORTag(18, [])), tag=18) == []
    for data in (b"", b"\x80", cbor2.dumps(cbor2.CBORTag(98, []))):
        with pytest.raises(_cbor.CborError, match="expected tag 18"):
            _cbor.decode(data, tag=18)
