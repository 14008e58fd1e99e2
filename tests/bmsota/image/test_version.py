"""The version of an image: spelling, order, ranges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmsota.errors import ImageError
from bmsota.image import ImageVersion

versions = st.builds(
    ImageVersion, st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535), st.integers(0, 2**32 - 1)
)


@given(versions)
def test_a_version_survives_its_spelling(version):
    """What is written is read as the same version."""
    assert ImageVersion.parse(str(version)) == version


@given(versions, versions)
def test_versions_are_ordered_part_by_part(a, b):
    """The order is that of the four numbers."""
    numbers = [(v.major, v.minor, v.revision, v.build) for v in (a, b)]
    assert (a < b) == (numbers[0] < numbers[1])
    assert (a == b) == (numbers[0] == numbers[1])


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2", ImageVersion(2)),
        ("2.1", ImageVersion(2, 1)),
        ("2.1.0", ImageVersion(2, 1, 0)),
        ("2.1.0+5", ImageVersion(2, 1, 0, 5)),
        ("0", ImageVersion()),
        ("255.255.65535+4294967295", ImageVersion(255, 255, 65535, 4294967295)),
    ],
)
def test_later_parts_may_be_left_out(text, version):
    """imgtool's grammar: what is left out is 0."""
    assert ImageVersion.parse(text) == version


def test_a_build_number_of_0_is_not_written():
    """The spelling people know."""
    assert str(ImageVersion(2, 1, 0)) == "2.1.0"
    assert str(ImageVersion(2, 1, 0, 5)) == "2.1.0+5"


@pytest.mark.parametrize(
    "text",
    ["", "v2", "2.", "2.1.", "2.1.0+", "2.01.0", "2+5", "2.1+5", " 2.1.0", "2.1.0 ", "2.1.0\n", "-1.0.0", "٢.0.0",
     "256.0.0", "0.256.0", "0.0.65536", "0.0.0+4294967296", "9" * 5000],
)  # fmt: skip
def test_other_text_is_refused(text):
    """One version has few spellings, and every part fits its field."""
    with pytest.raises(ImageError, match="image version: expected"):
        ImageVersion.parse(text)


def test_a_part_that_does_not_fit_is_refused_at_once():
    """No version exists that a header cannot hold."""
    with pytest.raises(ImageError, match=r"minor 0\.\.255, got 256"):
        ImageVersion(1, 256)
    with pytest.raises(ImageError, match="got -1"):
        ImageVersion(-1)
