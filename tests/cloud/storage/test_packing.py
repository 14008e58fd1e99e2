"""The columns of a stored frame."""

from dataclasses import replace

from bmsota_cloud.storage.sql._packing import pack, unpack
from stored_frames import NOON_S, stored


def test_who_has_looked_at_the_check_byte_spares_the_second_look_and_nothing_else():
    frame = stored(NOON_S)
    assert pack(replace(frame, is_check_right=True)) == pack(frame)
    assert len(pack(frame)[4]) == len(frame.clear) - 31


def test_a_wrong_check_byte_comes_back_wrong_where_nobody_has_looked():
    frame = stored(NOON_S)
    raw = frame.clear[:-1] + bytes((frame.clear[-1] ^ 1,))
    wrong = replace(frame, frame=raw, clear=raw)
    _, digest, *columns = pack(wrong)
    assert digest == pack(frame)[1]
    assert unpack(wrong.vin, (wrong.reported_at_s, *columns)) == wrong
