"""Identities: valid VINs, unique ids, all a function of the seed."""

from __future__ import annotations

import pytest
from bmsota_sim.identity import device_secret, slave_hwid, unit_identity, vin

from bmsota.errors import ConfigurationError
from bmsota.gbt32960 import VehicleLogin, beijing_time

# ISO 3779 / FMVSS 115: transliteration and weights written down again, independently of the code.
VALUE = {str(digit): digit for digit in range(10)} | {
    **{letter: index for index, letter in enumerate("ABCDEFGH", start=1)},
    **{letter: index for index, letter in enumerate("JKLMN", start=1)},
    "P": 7,
    "R": 9,
    **{letter: index for index, letter in enumerate("STUVWXYZ", start=2)},
}
WEIGHTS = [8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2]


def check_digit(text):
    return "0123456789X"[sum(VALUE[character] * weight for character, weight in zip(text, WEIGHTS, strict=True)) % 11]


@pytest.mark.parametrize("known", ["1M8GDM9AXKP042788", "11111111111111111", "5GZCZ43D13S812715"])
def test_the_check_of_this_test_agrees_with_published_vins(known):
    """The worked examples of 49 CFR 565 and of common VIN references."""
    assert check_digit(known) == known[8]


def test_every_vin_has_17_legal_characters_and_its_check_digit():
    seen = set()
    for series in ("F7", "E7", "T1"):
        for number in (*range(1, 200), 99_999, 100_000, 999_999):
            text = vin(series, number)
            assert len(text) == 17
            assert set(text) <= set(VALUE)
            assert text[8] == check_digit(text)
            assert text.startswith("LBM")
            seen.add(text)
    assert len(seen) == 3 * 202


def test_check_digit_x_occurs():
    assert any(vin("F7", number)[8] == "X" for number in range(1, 100))


@pytest.mark.parametrize(("series", "number"), [("F77", 1), ("I7", 1), ("f7", 1), ("F7", 1_000_000)])
def test_what_would_not_fit_is_refused_and_not_cut(series, number):
    with pytest.raises(ConfigurationError, match="VIN: expected a series of at most 2 capitals"):
        vin(series, number)


def test_an_identity_is_a_function_of_the_seed():
    one, same, other = (unit_identity(seed, "F7", 3, 8) for seed in (5, 5, 6))
    assert (one.vin, one.iccid, one.master_hwid, one.slave_hwids) == (
        same.vin,
        same.iccid,
        same.master_hwid,
        same.slave_hwids,
    )
    assert one.device_key.private_bytes_raw() == same.device_key.private_bytes_raw()
    assert one.vin == other.vin
    assert one.master_hwid != other.master_hwid
    assert one.device_key.private_bytes_raw() != other.device_key.private_bytes_raw()
    assert one.name == "V03"


def test_ids_are_unique_over_a_fleet_and_of_16_characters():
    ids = []
    for number in (*range(1, 60), 9_999, 10_000, 99_999):
        identity = unit_identity(1, "E7", number, 3)
        ids += [identity.master_hwid, *identity.slave_hwids]
        assert len(identity.iccid) == 20
        assert identity.iccid.isdigit()
        # What the login frame takes.
        VehicleLogin(time=beijing_time(0), serial=1, iccid=identity.iccid)
    assert len(set(ids)) == len(ids)
    assert {len(hwid) for hwid in ids} == {16}
    assert all(hwid.isascii() and hwid.isalnum() for hwid in ids)


def test_a_replaced_slave_has_another_id():
    ids = {slave_hwid(1, 8, 2, generation=generation) for generation in range(4)}
    assert len(ids) == 4
    assert slave_hwid(1, 8, 2) in ids


def test_adding_a_slave_changes_no_other():
    assert unit_identity(1, "F7", 1, 3).slave_hwids == unit_identity(1, "F7", 1, 8).slave_hwids[:3]


def test_every_unit_has_its_own_key():
    keys = {device_secret(1, owner) for owner in ("a", "b")} | {device_secret(2, "a")}
    assert len(keys) == 3
