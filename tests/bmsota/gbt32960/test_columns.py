"""Columns are nothing but the single codec, many frames at a time.

Every promise is made against `decode` and `encode`; where a number stands in a body is `test_codec`'s and `test_vectors`' business.
"""

from __future__ import annotations

import copy
import pickle
import random
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bmsota.checksums import bcc_xor
from bmsota.errors import FrameError, LocalProtocolError
from bmsota.gbt32960 import (
    BEIJING,
    MARK_ABNORMAL,
    MARK_INVALID,
    Alarms,
    CellVoltages,
    Command,
    DriveMotor,
    DriveMotors,
    Frame,
    FrameColumns,
    FrameGroup,
    Heartbeat,
    Position,
    RawBody,
    Report,
    Sentinel,
    SubsystemVoltages,
    TimeReply,
    UserDefined,
    VehicleData,
    decode,
    decode_batch,
    encode,
    encode_batch,
)
from bmsota.gbt32960._columns import batch as batch_module
from bmsota.gbt32960._columns import late as late_module
from bmsota.gbt32960._columns import plan as module
from bmsota.gbt32960._walk import Unplannable, Walk

pytestmark = pytest.mark.slow

VEHICLE = VehicleData(1, 3, 1, 52.3, 12345.6, 371.2, -8.5, 69, 1, 14, 5085, 12, 0)
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=BEIJING)


def frame_of(*bodies, vin="LTEST000000000001", time=NOW, command=Command.REALTIME_REPORT):
    return Frame(command=command, vin=vin, message=Report(time, bodies))


def cells(*volts):
    return CellVoltages((SubsystemVoltages(1, 355.2, 20.1, len(volts), 1, volts),))


def repaired(data):
    return bytes(data[:-1]) + bytes((bcc_xor(data[2:-1]),))


# --- what columns have to say, taken from the values of `decode` -----------------------------------------------------------

MARKS = {Sentinel.ABNORMAL: MARK_ABNORMAL, Sentinel.INVALID: MARK_INVALID}


def snake(name):
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name.removesuffix("2025"))[1:]


def flat(value, name, out):
    """Numbers and lists by column name; a list that is a sentinel has none."""
    for item in fields(value):
        found = getattr(value, item.name)
        if isinstance(found, tuple) and found and is_dataclass(found[0]):
            for place, part in enumerate(found, 1):
                flat(part, f"{name}.{place}", out)
        elif not (isinstance(value, UserDefined) and item.name == "type_id"):
            out[f"{name}.{item.name}"] = list(found) if isinstance(found, (bytes, tuple)) else found


LISTS_OF_LAYOUTS = {"motors", "subsystems", "packs", "stacks", "general_levels"}


def expected_row(frame):
    out, seen = {}, {}
    for body in frame.message.bodies:
        stem = f"user_defined_0x{body.type_id:02x}" if isinstance(body, UserDefined) else snake(type(body).__name__)
        seen[stem] = seen.get(stem, 0) + 1
        flat(body, stem if seen[stem] == 1 else f"{stem}_{seen[stem]}", out)
    return out


def assert_same(value, number, mark, name):
    if isinstance(value, Sentinel):
        assert (bool(np.isnan(number)), int(mark)) == (True, MARKS[value]), name
        return
    assert int(mark) == 0, name
    assert number == type(number)(value), (name, number, value)
    assert np.signbit(np.float64(number)) == np.signbit(np.float64(value)), name


def assert_group_says_what_decode_says(group, frames):
    columns = group.to_dict()
    assert len({len(column) for column in columns.values()}) == 1
    for row, index in enumerate(group.index):
        frame = decode(frames[index])
        assert (group.vin[row], group.command[row], group.edition) == (frame.vin, frame.command, frame.edition)
        assert group.time[row].astype("int64") == frame.message.time.timestamp()
        found = expected_row(frame)
        for name, value in found.items():
            if isinstance(value, Sentinel) and name not in group.values:
                continue  # A count that says so: it is a part of the skeleton.
            if isinstance(value, list) and not value and name.rpartition(".")[2] in LISTS_OF_LAYOUTS:
                continue
            mark = group.marks.get(name)
            if isinstance(value, list):
                assert group.values[name][row].shape == (len(value),), name
                for place, item in enumerate(value):
                    assert_same(item, group.values[name][row][place], 0 if mark is None else mark[row][place], name)
            else:
                assert_same(value, group.values[name][row], 0 if mark is None else mark[row], name)
        assert set(group.values) <= set(found)


def decoded(frame):
    try:
        return decode(frame)
    except FrameError as error:
        return str(error)


def assert_batch_is_single(frames):
    columns = decode_batch(frames)
    assert len(columns) == len(frames)
    for group in columns.groups:
        assert_group_says_what_decode_says(group, frames)
    for index, frame in columns.others:
        assert frame == decode(frames[index])
    for index, error in columns.errors:
        assert str(error) == decoded(frames[index])
    places = [index for group in columns.groups for index in group.index.tolist()]
    places += [index for index, _ in (*columns.others, *columns.errors)]
    assert sorted(places) == list(range(len(frames)))
    bad = {index for index, _ in columns.errors}
    assert encode_batch(columns) == [frame for index, frame in enumerate(frames) if index not in bad]
    return columns


# --- round trips -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_columns_say_what_decode_says_of_any_reports(reports, data):
    """Any bodies of any counts, with sentinels, twice in a report, mixed layouts in one batch."""
    found = []
    for strategy in reports().values():
        found += data.draw(st.lists(strategy, max_size=3))
    columns = assert_batch_is_single(found * 2)
    assert all(len(group) >= 2 for group in columns.groups)


@pytest.fixture
def side_by_side(monkeypatch):
    """Every batch, however small, is walked side by side."""
    monkeypatch.setattr(batch_module, "_MIXED_MIN", 1)
    monkeypatch.setattr(batch_module, "_ALIKE_MIN", 10**9)


ONE_MONKEYPATCH = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.usefixtures("side_by_side")
@ONE_MONKEYPATCH
@given(data=st.data())
def test_side_by_side_columns_say_what_decode_says(reports, messages, data):
    """Any bodies of both editions, sentinels, twice in a report, damaged or not, with other messages and no frames between.

    No layout has a plan of its own: frames with more parts than the walk follows aside, all go through the one walk.
    """
    found = []
    for strategy in (*reports().values(), *reports().values(), *messages().values()):
        frame = data.draw(strategy)
        raw = bytearray(frame)
        for _ in range(data.draw(st.integers(0, 2))):
            place = data.draw(st.integers(0, len(raw) - 1))
            raw[place] = data.draw(st.integers(0, 255) | st.sampled_from([0xFE, 0xFF, 0, 1]))
        found += [frame, repaired(raw), bytes(raw[: data.draw(st.integers(0, len(raw)))])]
    assert_batch_is_single(found * 2)


def assert_groups_are_equal(found, expected):
    """To the last bit, and of the same types."""
    assert len(found.groups) == len(expected.groups)
    for one, other in zip(found.groups, expected.groups, strict=True):
        assert one.skeleton == other.skeleton
        for name in ("index", "command", "vin", "time"):
            assert (getattr(one, name) == getattr(other, name)).all(), name
            assert getattr(one, name).dtype == getattr(other, name).dtype, name
        for columns, others in ((one.values, other.values), (one.marks, other.marks)):
            assert set(columns) == set(others)
            for name, column in columns.items():
                assert (column.dtype, column.shape) == (others[name].dtype, others[name].shape), name
                assert column.tobytes() == others[name].tobytes(), name


@pytest.mark.parametrize("seed", range(20))
def test_few_frames_make_the_same_columns_as_many(monkeypatch, good_frames, seed):
    """With any bytes where values stand, and sentinels among them, in every layout of the vectors."""
    draw = random.Random(seed)
    found = []
    for frame in good_frames:
        try:
            fixed = {*range(30), *Walk(frame).fixed}
        except Unplannable:
            continue
        for _ in range(draw.randrange(1, 4)):
            raw = bytearray(frame)
            for place in range(30, len(raw) - 1):
                if place not in fixed:
                    raw[place] = draw.choice([0xFF, 0xFE, 0, draw.randrange(256)])
            found.append(repaired(raw))
    few = [decode_batch(found[begin : begin + 15]) for begin in range(0, len(found), 15)]
    assert sum(bool(group.values) for columns in few for group in columns.groups) > 10  # Made now, not later.
    monkeypatch.setattr(late_module, "FEW_BYTES_MAX", 0)
    for begin, columns in zip(range(0, len(found), 15), few, strict=True):
        assert_groups_are_equal(columns, decode_batch(found[begin : begin + 15]))


def test_few_frames_may_be_bytes_of_any_kind():
    frame = encode(frame_of(VEHICLE, cells(3.5, 3.6)))
    columns = decode_batch((bytearray(frame), memoryview(frame), b"no frame", frame))
    assert columns.groups[0].index.tolist() == [0, 1, 3]
    assert [place for place, _ in columns.errors] == [2]
    with pytest.raises(TypeError):
        decode_batch([5])


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 15, 16, 17])
def test_a_few_frames_are_a_batch_like_any_other(monkeypatch, count):
    """As a list and as one buffer, alike and of several layouts, with what is no report between: the same columns, bit for bit, as many make."""
    alike = [encode(frame_of(VEHICLE, cells(3.3, Sentinel.INVALID, n / 1000), vin=f"V{n}")) for n in range(count)]
    beat = encode(Frame(command=Command.HEARTBEAT, message=Heartbeat(), vin="V"))
    mixed = [(data, beat, data[:-1], encode(frame_of(Alarms(1, 0, (n,)))))[n % 4] for n, data in enumerate(alike)]
    found = []
    for frames in (alike, mixed):
        offsets = np.cumsum([0, *map(len, frames)])
        found.append((frames, assert_batch_is_single(frames), decode_batch(b"".join(frames), offsets)))
    monkeypatch.setattr(batch_module, "_ALIKE_MIN", 1)
    monkeypatch.setattr(batch_module, "_MIXED_MIN", 1)
    for frames, listed, buffered in found:
        many = decode_batch(frames)
        assert_groups_are_equal(listed, many)
        assert_groups_are_equal(buffered, many)
        assert [place for place, _ in listed.others] == [place for place, _ in buffered.others]
        assert list(map(str, listed.errors)) == list(map(str, buffered.errors))


def test_columns_of_a_few_frames_are_there_when_they_are_looked_at():
    """They are those of the bytes that were given, whatever became of the buffer since, and go wherever other groups go."""
    data = [encode(frame_of(VEHICLE, cells(3.3, Sentinel.INVALID), vin=f"V{n}")) for n in range(3)]
    expected = decode_batch(data)
    looks = (lambda group: group, lambda group: pickle.loads(pickle.dumps(group)), copy.deepcopy, replace)
    for look in looks:
        buffers = [bytearray(each) for each in data]
        (group,) = decode_batch(buffers).groups
        for buffer in buffers:
            buffer[:] = bytes(len(buffer))
        assert len(group) == 3
        found = look(group)
        assert_groups_are_equal(FrameColumns(groups=(found,)), expected)
        assert isinstance(found, FrameGroup)
        assert not hasattr(found, "no_such_column")
        with pytest.raises(FrozenInstanceError):
            found.values = {}


@pytest.mark.parametrize("vin", ["LTEST00000000001", "L-1", "", "A_B"])
def test_identifiers_of_few_frames_are_those_of_many(vin):
    frame = bytearray(encode(frame_of(VEHICLE)))
    frame[4:21] = vin.encode().ljust(17, b"\0")
    assert_batch_is_single([repaired(frame)] * 2)
    assert_batch_is_single([repaired(frame)] * 20)


@pytest.mark.parametrize("raw", [b" TEST", b"A\0B", b"\x80TEST", b"\x7f"])
def test_identifiers_that_are_none_are_so_in_any_batch(raw):
    frame = bytearray(encode(frame_of(VEHICLE)))
    frame[4:21] = raw.ljust(17, b"\0")
    few, many = assert_batch_is_single([repaired(frame)] * 2), assert_batch_is_single([repaired(frame)] * 20)
    assert (len(few.groups), len(many.groups)) == (0, 0)


def frames_of_many_layouts(count=1000):
    """Reports of a fleet in which faults come and go: a hundred layouts, ten frames of each."""
    return [
        encode(
            frame_of(
                VEHICLE,
                Position(True, 121.5, -31.2 if n % 3 else Sentinel.INVALID),
                Alarms(n % 4, 0, tuple(range(n % 10)), tuple(range(n // 10 % 10))),
                cells(*(Sentinel.INVALID if n == place else 3.3 + place / 1000 for place in range(12))),
                vin=f"LTEST{n:012d}",
            )
        )
        for n in range(count)
    ]


def test_a_thousand_frames_of_a_hundred_layouts():
    """Whole layouts, in the order of their first frames, each with its own rows: as many plans would have made them."""
    frames = frames_of_many_layouts()
    columns = assert_batch_is_single(frames)
    assert [group.index.tolist() for group in columns.groups] == [list(range(n, 1000, 100)) for n in range(100)]
    assert {name for group in columns.groups for name in group.marks} == {
        "position.latitude_deg",
        "cell_voltages.1.cell_voltages_v",
    }
    assert all(column.flags.c_contiguous for group in columns.groups for column in group.to_dict().values())


def test_mixed_frames_make_the_same_columns_as_plans(monkeypatch):
    """Same names, same types, same numbers bit for bit, same marks: whoever reads a group does not see how it was made."""
    frames = frames_of_many_layouts(200)
    mixed = decode_batch(frames).groups
    monkeypatch.setattr(batch_module, "_MIXED_MIN", 10**9)
    planned = decode_batch(frames).groups
    assert len(mixed) == len(planned) == 100
    for one, other in zip(mixed, planned, strict=True):
        assert (one.skeleton, one.edition, one.marks.keys()) == (other.skeleton, other.edition, other.marks.keys())
        assert one.to_dict().keys() == other.to_dict().keys()
        for mine, theirs in ((one.to_dict(), other.to_dict()), (one.marks, other.marks)):
            for name, column in mine.items():
                assert (column.dtype, column.shape) == (theirs[name].dtype, theirs[name].shape), name
                assert column.tobytes() == theirs[name].tobytes(), name


def test_bad_frames_among_many_layouts_stop_nothing():
    """Wrong check bytes, times that are none, cut frames, unknown bodies, other commands: each where `decode` puts it."""
    frames = frames_of_many_layouts(120)
    frames[3] = frames[3][:-1] + bytes((frames[3][-1] ^ 1,))
    frames[7] = repaired(frames[7][:24] + bytes((26, 13, 1, 0, 0, 0)) + frames[7][30:])
    frames[11] = frames[11][:60]
    frames[12] = b""
    frames[20] = encode(frame_of(VEHICLE, RawBody(0x10, b"abc")))
    frames[21] = encode(Frame(command=7, vin="A", message=Heartbeat()))
    frames[22] = repaired(frames[22][:2] + b"\x42" + frames[22][3:])
    columns = assert_batch_is_single(frames)
    assert [index for index, _ in columns.errors] == [3, 7, 11, 12]
    assert [index for index, _ in columns.others] == [20, 21, 22]


def test_a_report_of_many_parts_does_not_make_the_others_wait():
    """More bodies, more motors than are followed side by side: walked alone, with the same columns."""
    bodies = encode(frame_of(*(UserDefined(0x80, b"") for _ in range(60))))
    motor = DriveMotor(1, 1, 41, 4320, 15.0, 48, 355.2, 20.1)
    motors = encode(frame_of(DriveMotors((motor,) * 30)))
    columns = assert_batch_is_single([*frames_of_many_layouts(40), bodies, motors, bodies])
    assert [group.index.tolist() for group in columns.groups[-2:]] == [[40, 42], [41]]


def test_one_layout_among_many_is_found_in_the_matrix():
    """Whatever comes first, and whatever stands between: groups of every size from one batch."""
    alike = [encode(frame_of(VEHICLE, cells(3.3, 3.301 + n / 1000), vin=f"LTEST{n:012d}")) for n in range(300)]
    same_size = encode(frame_of(VEHICLE, UserDefined(0x80, bytes(13))))
    assert len(same_size) == len(alike[0])
    for first in ([same_size], [same_size] * 20, frames_of_many_layouts(50)):
        columns = assert_batch_is_single([*first, *alike[:150], *first, *alike[150:], *first])
        assert max(map(len, columns.groups)) == 300


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_reports_stop_nothing(reports, messages, data):
    """Bytes are changed, with and without repairing the check byte; every frame is in one of the three places."""
    good = [data.draw(strategy) for strategy in (*reports().values(), *messages().values())]
    found = []
    for frame in good:
        for _ in range(6):
            raw = bytearray(frame)
            for _ in range(data.draw(st.integers(0, 3))):
                place = data.draw(st.integers(0, len(raw) - 1))
                raw[place] = data.draw(st.integers(0, 255) | st.sampled_from([0xFE, 0xFF, 0, 1]))
            found.append(repaired(raw) if data.draw(st.booleans()) else bytes(raw))
    assert_batch_is_single(found)


def test_all_vectors_in_one_batch(good_frames, vectors):
    """Frames from the field, good and bad, of both editions."""
    found = [bytes.fromhex(vector["hex"]) for vector in vectors.values()]
    columns = assert_batch_is_single(found)
    assert columns.groups
    assert columns.errors
    assert {group.command.dtype for group in columns.groups} == {np.dtype("u1")}
    assert not decode_batch(good_frames).errors


def test_a_thousand_alike_are_one_group():
    """And the arrays are what a store wants: contiguous, one number a frame, cells as a matrix."""
    frames = [encode(frame_of(VEHICLE, cells(3.3, 3.301 + n / 1000), vin=f"LTEST{n:012d}")) for n in range(1000)]
    columns = decode_batch(frames)
    (group,) = columns.groups
    table = group.to_dict()
    assert table["vehicle_data.total_current_a"].tolist() == [np.float32(-8.5)] * 1000
    assert table["vehicle_data.odometer_km"].tolist() == [12345.6] * 1000
    assert table["cell_voltages.1.cell_voltages_v"].shape == (1000, 2)
    assert table["cell_voltages.1.cell_voltages_v"][999, 1] == np.float32(4.3)
    assert table["time"][0] == np.datetime64("2026-03-03T21:06:07")
    assert table["vin"][17] == "LTEST000000000017"
    assert all(column.flags.c_contiguous for column in table.values())
    assert not group.marks
    assert encode_batch(columns) == frames


def test_bytes_with_offsets_are_the_same_batch():
    """One buffer, as a capture has it; with gaps before and behind, of one size and of several."""
    frames = [
        encode(frame_of(VEHICLE)),
        encode(frame_of(cells(3.3))),
        encode(Frame(command=7, vin="A", message=Heartbeat())),
    ]
    for chosen in (frames, frames[:1] * 3, []):
        edges = np.cumsum([0, *map(len, chosen)])
        for data, first in ((b"".join(chosen), 0), (b"xx" + b"".join(chosen) + b"yy", 2)):
            for kind in (bytes, bytearray, memoryview):
                assert encode_batch(decode_batch(kind(data), edges + first)) == chosen


@pytest.mark.parametrize("offsets", [None, [], [0, 99999], [-1, 5], [5, 3], "ab", [[0, 1]]])
def test_offsets_that_do_not_fit_are_refused(offsets):
    with pytest.raises(LocalProtocolError, match="offsets: expected rising places in 30 bytes"):
        decode_batch(bytes(30), offsets)


def test_offsets_belong_to_bytes():
    with pytest.raises(LocalProtocolError, match="only for bytes, not for a sequence of frames"):
        decode_batch([b""], [0])


def test_nothing_is_a_batch_too():
    """No frames, and frames of no bytes."""
    assert len(decode_batch([])) == 0
    assert encode_batch(FrameColumns()) == []
    assert [index for index, _ in decode_batch([b"", b"", b"#"]).errors] == [0, 1, 2]


def test_boundaries_between_frames_are_the_callers():
    """Frames whose sizes differ but whose sum is right are cut where the caller cut them."""
    good = encode(frame_of(VEHICLE))
    for moved, whole in (([good + good[:1], good[1:], good], 2), ([good, good + good[:1], good[1:]], 0)):
        columns = decode_batch(moved)
        assert [index for index, _ in columns.errors] == sorted({0, 1, 2} - {whole})
        assert columns.groups[0].index.tolist() == [whole]


def test_many_layouts_of_one_size_are_grouped_all_the_same():
    """More layouts than are searched for in the matrix; four fault lists that share ten codes."""
    shapes = [(a, b, c, 10 - a - b - c) for a in range(5) for b in range(4) for c in range(3)]
    frames = [encode(frame_of(Alarms(1, 2, *((7,) * count for count in shape)))) for shape in shapes * 2]
    columns = assert_batch_is_single(frames)
    assert [len(group) for group in columns.groups] == [2] * 60
    assert not columns.others


def test_plans_are_forgotten_before_they_become_many(monkeypatch):
    """A long-running service sees layouts without end."""
    monkeypatch.setattr(module, "_PLANS_MAX", 3)
    frames = [encode(frame_of(UserDefined(0x80, bytes(size)))) for size in range(10)]
    assert_batch_is_single(frames)
    assert sum(map(len, module._plans.values())) <= 3
    assert len(module._plans_by_skeleton) <= 3


def test_a_count_that_says_abnormal_is_a_layout_like_any_other():
    """Surprise 9: no items follow, and the frame has columns all the same."""
    bodies = (
        DriveMotors(Sentinel.INVALID),
        CellVoltages(Sentinel.ABNORMAL),
        Alarms(1, 0, Sentinel.INVALID, (7,), Sentinel.ABNORMAL, ()),
    )
    columns = assert_batch_is_single([encode(frame_of(*bodies)), encode(frame_of(bodies[1]))])
    assert [len(group) for group in columns.groups] == [1, 1]
    assert columns.groups[0].values["alarms.motor_faults"].tolist() == [[7]]
    assert "alarms.ress_faults" not in columns.groups[0].values


def test_among_equals_the_odd_one_is_found():
    """A wrong check byte is an error, and a report's layout under another command is no report."""
    good = encode(frame_of(VEHICLE))
    flipped = good[:40] + bytes((good[40] ^ 1,)) + good[41:]
    foreign = repaired(good[:2] + b"\x42" + good[3:])
    columns = assert_batch_is_single([good, flipped, foreign, good])
    assert [index for index, _ in columns.errors] == [1]
    assert [index for index, _ in columns.others] == [2]


def test_what_has_no_columns_is_kept():
    """Replies, other commands, encrypted frames, unknown bodies, identifiers padded with blanks: as `decode` gives them."""
    report = encode(frame_of(VEHICLE))
    padded = bytearray(encode(frame_of(VEHICLE, vin="")))
    padded[4:21] = b"SHORT".ljust(17)
    encrypted = bytearray(report)
    encrypted[21] = 3
    frames = [
        encode(Frame(command=7, vin="A", message=Heartbeat())),
        encode(Frame(command=2, vin="A", message=TimeReply(NOW), reply_flag=1)),
        encode(frame_of(VEHICLE, RawBody(0x10, b"abc"))),
        repaired(padded),
        repaired(encrypted),
        report,
    ]
    columns = assert_batch_is_single(frames)
    assert [index for index, _ in columns.others] == [0, 1, 2, 3, 4]


def test_positions_have_signs():
    """Every hemisphere, with and without a fix, and degrees that are missing."""
    found = [
        Position(valid, longitude, latitude, bits)
        for valid in (True, False)
        for longitude in (121.5, -121.5, 0.0, -0.0)
        for latitude in (31.2, -31.2)
        for bits in (0, 0x80)
    ]
    found += [Position(True, Sentinel.INVALID, -31.2, 4), Position(False, 121.5, Sentinel.ABNORMAL, 2)]
    columns = assert_batch_is_single([encode(frame_of(body)) for body in found])
    (group,) = columns.groups
    assert group.values["position.longitude_deg"][:5].tolist() == [121.5] * 4 + [-121.5]
    assert group.marks["position.longitude_deg"].tolist() == [0] * 32 + [MARK_INVALID, 0]
    assert encode_batch(decode_batch([encode(frame_of(found[0]))])) == [encode(frame_of(found[0]))]


@pytest.mark.parametrize(
    "time",
    [
        datetime(2000, 1, 1, tzinfo=BEIJING),
        datetime(2000, 1, 1, 7, 59, 59, tzinfo=BEIJING),
        datetime(2024, 2, 29, 23, 59, 59, tzinfo=BEIJING),
        datetime(2099, 12, 31, 23, 59, 59, tzinfo=BEIJING),
    ],
)
def test_the_ends_of_the_calendar(time):
    columns = decode_batch([encode(frame_of(VEHICLE, time=time))])
    assert columns.groups[0].time[0].item().replace(tzinfo=UTC) == time
    assert encode_batch(columns) == [encode(frame_of(VEHICLE, time=time))]


@pytest.mark.parametrize(
    "raw", [(26, 0, 1, 0, 0, 0), (26, 13, 1, 0, 0, 0), (26, 2, 29, 0, 0, 0), (26, 4, 0, 0, 0, 0), (100, 1, 1, 0, 0, 0),
            (26, 1, 1, 24, 0, 0), (26, 1, 1, 0, 60, 0), (26, 1, 1, 0, 0, 60)]
)  # fmt: skip
def test_a_time_that_is_none_is_an_error_of_its_frame(raw):
    good = encode(frame_of(VEHICLE))
    bad = repaired(good[:24] + bytes(raw) + good[30:])
    columns = decode_batch([good, bad, good])
    assert [(index, error.where) for index, error in columns.errors] == [(1, "time")]
    assert columns.groups[0].index.tolist() == [0, 2]
    columns = decode_batch([bad, bad])  # All of one hour, which are looked at together.
    assert [(index, error.where) for index, error in columns.errors] == [(0, "time"), (1, "time")]


@pytest.mark.parametrize("clock", [(60, 0), (0, 60)])
def test_a_minute_that_is_none_stops_nothing_in_its_hour(clock):
    good = encode(frame_of(VEHICLE))
    bad = repaired(good[:28] + bytes(clock) + good[30:])
    columns = assert_batch_is_single([good, bad, good])
    assert [(index, error.where) for index, error in columns.errors] == [(1, "time")]


def test_a_few_frames_of_several_sizes_are_checked_too():
    """The check byte of a batch that is too small to be walked side by side."""
    frames = [encode(frame_of(VEHICLE)), encode(frame_of(cells(3.3))), encode(frame_of(cells(3.3, 3.4)))]
    frames[1] = frames[1][:-1] + bytes((frames[1][-1] ^ 1,))
    columns = assert_batch_is_single(frames)
    assert [index for index, _ in columns.errors] == [1]


# --- making columns ----------------------------------------------------------------------------------------------------------


def columns_of(frame, **changed):
    """Columns of one frame, with some of them changed."""
    group = decode_batch([encode(frame)]).groups[0]
    own = {name: changed.pop(name) for name in tuple(changed) if hasattr(group, name)}
    values = {**group.values, **changed}
    return FrameColumns(groups=(replace(group, **{"values": values, **own}),))


MOTOR = DriveMotors((DriveMotor(1, 1, 41, 4320, 15.0, 48, 355.2, 20.1),))
FULL = frame_of(VEHICLE, MOTOR, Position(True, 1.0, 2.0), cells(3.3, 3.4), UserDefined(0x80, b"ab"))


def test_columns_of_any_type_of_number_are_taken():
    """float64 cells, integers for a voltage, integers of another size."""
    frame = encode(FULL)
    for name, column in columns_of(FULL).groups[0].values.items():
        for dtype in (np.float64, np.int64, np.float32):
            if (column == column.astype(dtype)).all():
                assert encode_batch(columns_of(FULL, **{name: column.astype(dtype)})) == [frame], (name, dtype)
    exact = np.array([[3.3, 3.4]])
    assert encode_batch(columns_of(FULL, **{"cell_voltages.1.cell_voltages_v": exact})) == [frame]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"vehicle_data.speed_kmh": [6553.4]}, "vehicle_data.speed_kmh: expected 0 to 6553.3 km/h or a mark, got 6553.4"),
        ({"vehicle_data.soc_pct": [np.nan]}, "vehicle_data.soc_pct: expected 0 to 253 % or a mark, got nan \\(row 0"),
        ({"vehicle_data.total_current_a": [-1000.1]}, "-1000 to 5553.3 A"),
        ({"vehicle_data.gear": [256]}, "vehicle_data.gear: expected 0 to 255, got 256"),
        ({"vehicle_data.gear": np.array([-1])}, "vehicle_data.gear"),
        ({"cell_voltages.1.cell_voltages_v": [[3.3, np.nan]]}, "cell_voltages_v: expected .* got nan \\(row 0, 1"),
        ({"cell_voltages.1.cell_voltages_v": [[3.3, 65.534]]}, "cell_voltages_v"),
        ({"cell_voltages.1.cell_voltages_v": [3.3, 3.4]}, "an array of shape \\(1, 2\\), got float64 of \\(2,\\)"),
        ({"user_defined_0x80.data": [[97, 256]]}, "user_defined_0x80.data"),
        ({"vehicle_data.soc_pct": [[1.0]]}, "vehicle_data.soc_pct: expected an array of shape \\(1,\\)"),
        ({"more": [1.0]}, "'more' is not in the layout"),
        ({"position.reserved_bits": [1]}, "position.reserved_bits"),
        ({"position.longitude_deg": [4295.0]}, "position.longitude_deg"),
        ({"command": [1]}, "command: expected 2 or 3"),
        ({"command": [2, 2]}, "command: expected an array of shape"),
        ({"vin": [b"A"]}, "vin: expected an array of str"),
        ({"vin": ["A" * 18]}, "vin: expected an array of str"),
        ({"vin": ["威"]}, "vin: expected visible ASCII"),
        ({"vin": ["A "]}, "vin: expected visible ASCII"),
        ({"time": [0]}, "time: expected datetime64"),
        ({"time": np.array(["NaT"], "M8[s]")}, "time: expected a year from 2000 to 2099"),
        ({"time": np.array(["1999-12-31T15:59:59"], "M8[s]")}, "time: expected a year from 2000 to 2099"),
        ({"time": np.array(["2099-12-31T16:00:00"], "M8[s]")}, "time: expected a year from 2000 to 2099"),
        ({"marks": {"more": np.array([1])}}, "'more' is not in the layout"),
        ({"marks": {"vehicle_data.soc_pct": np.array([3])}}, "marks of vehicle_data.soc_pct: expected 0, 1 or 2, got 3"),
        ({"marks": {"vehicle_data.gear": np.array([1])}}, "marks of vehicle_data.gear: expected none"),
        ({"marks": {"vehicle_data.soc_pct": np.array([1.0])}}, "marks of vehicle_data.soc_pct: expected an array"),
        ({"marks": {"user_defined_0x80.data": np.array([[1, 1]])}}, "marks of user_defined_0x80.data: expected none"),
        ({"skeleton": b"##"}, "skeleton: expected a report that has columns, got 23 23"),
    ],
)  # fmt: skip
def test_what_the_wire_cannot_carry_is_refused_by_column_and_row(changed, named):
    """As `encode`: nothing is clamped, wrapped, or turned into a sentinel by accident."""
    changed = {
        name: value if isinstance(value, (dict, bytes)) else np.asarray(value) for name, value in changed.items()
    }
    with pytest.raises(LocalProtocolError, match=named):
        encode_batch(columns_of(FULL, **changed))


@pytest.mark.parametrize(
    "name", ["vehicle_data.soc_pct", "position.valid", "position.latitude_deg", "user_defined_0x80.data"]
)
def test_a_missing_column_is_refused_by_name(name):
    columns = columns_of(FULL)
    values = dict(columns.groups[0].values)
    del values[name]
    with pytest.raises(LocalProtocolError, match=f"no '{name}', which is in the layout"):
        encode_batch(FrameColumns(groups=(replace(columns.groups[0], values=values),)))


def test_strict_encoding_refuses_what_the_text_does_not_allow():
    """The same as `encode`, and only where it is asked for."""
    for changed in ({"vehicle_data.soc_pct": [101]}, {"cell_voltages.1.cell_voltages_v": [[3.3, 60.001]]}):
        columns = columns_of(FULL, **{name: np.array(value) for name, value in changed.items()})
        assert len(encode_batch(columns)) == 1
        with pytest.raises(LocalProtocolError, match=next(iter(changed))):
            encode_batch(columns, strict=True)
    assert encode_batch(columns_of(FULL), strict=True) == [encode(FULL, strict=True)]


def test_marks_can_be_set():
    """A number that is measured no more is marked, whatever stands in the column."""
    marks = {
        "vehicle_data.soc_pct": np.array([MARK_ABNORMAL]),
        "cell_voltages.1.cell_voltages_v": np.array([[0, MARK_INVALID]]),
    }
    (data,) = encode_batch(columns_of(FULL, marks=marks))
    bodies = decode(data).message.bodies
    assert bodies[0].soc_pct is Sentinel.ABNORMAL
    assert bodies[3].subsystems[0].cell_voltages_v == (3.3, Sentinel.INVALID)


def test_numpy_is_imported_with_the_first_batch():
    """Who decodes single frames needs no NumPy."""
    source = (
        "import sys, bmsota.gbt32960 as g; g.FrameColumns(); before = 'numpy' in sys.modules; g.decode_batch([]); "
        "raise SystemExit(0 if not before and 'numpy' in sys.modules else 1)"
    )
    subprocess.run([sys.executable, "-c", source], check=True)


# --- the wire's own numbers ------------------------------------------------------------------------------------------------


def raw_group(frames):
    """One group of *frames*, which are laid out alike, with every number as it stands on the wire."""
    (group,) = decode_batch(frames).groups
    values = {}
    for slot in Walk(frames[0]).slots:
        size = slot.row.size_bytes * (1 if slot.count is None else slot.count)
        rows = [np.frombuffer(data[slot.at : slot.at + size], f">u{slot.row.size_bytes}") for data in frames]
        column = np.array(rows).astype(f"u{slot.row.size_bytes}")
        values[slot.name] = column if slot.count is not None else column[:, 0]
    return replace(group, values=values, marks={})


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_raw_columns_are_the_numbers_on_the_wire(reports, data):
    """Whatever the bytes of a report's values are, sentinels included: the same frame, from every type of integer."""
    leader = bytearray(data.draw(data.draw(st.sampled_from(list(reports().values())))))
    assume(decode_batch([bytes(leader)]).groups)
    for slot in Walk(bytes(leader)).slots:
        size = slot.row.size_bytes * (1 if slot.count is None else slot.count)
        leader[slot.at : slot.at + size] = data.draw(st.binary(min_size=size, max_size=size))
    frame = repaired(leader)
    frames = [frame] * 3
    group = raw_group(frames)
    assert encode_batch(FrameColumns(groups=(group,)), raw=True) == frames
    wide = replace(group, values={name: column.astype(np.int64) for name, column in group.values.items()})
    assert encode_batch(FrameColumns(groups=(wide,)), raw=True) == frames


def test_raw_columns_are_strict_if_asked_for():
    """What the text allows, and the sentinels, and nothing else."""
    frame = encode(frame_of(VEHICLE, cells(3.5, Sentinel.INVALID), Position(True, -116.4, 39.9)))
    group = raw_group([frame, frame])
    assert encode_batch(FrameColumns(groups=(group,)), strict=True, raw=True) == [frame, frame]
    name = "cell_voltages.1.cell_voltages_v"
    wrong = replace(group, values={**group.values, name: np.array([[3500, 0xFFFE], [0xFFFF, 60_001]], np.uint16)})
    encode_batch(FrameColumns(groups=(wrong,)), raw=True)
    expected = r"cell_voltages_v: expected 0 to 60000, 65534 or 65535 on the wire, got 60001 \(row 1, 1 of the group\)"
    with pytest.raises(LocalProtocolError, match=expected):
        encode_batch(FrameColumns(groups=(wrong,)), strict=True, raw=True)


@pytest.mark.parametrize(
    ("changed", "marks", "named"),
    [
        ({"vehicle_data.soc_pct": np.array([256])}, {}, "soc_pct: expected 0 to 255 on the wire, got 256 .row 0 of"),
        ({"vehicle_data.soc_pct": np.array([-1])}, {}, "soc_pct: expected 0 to 255 on the wire, got -1"),
        ({"vehicle_data.soc_pct": np.array([1.0])}, {}, "soc_pct: expected an array of integers.* got float64"),
        ({"vehicle_data.soc_pct": np.array([1, 2])}, {}, "soc_pct: expected an array of shape .1,., got int64 of .2,."),
        ({"cell_voltages.1.cell_voltages_v": np.array([3500])}, {}, "expected an array of shape .1, 2., got int64 of .1,."),
        ({"cell_voltages.1.cell_voltages_v": np.array([[0, 65536]])}, {}, "expected 0 to 65535 on the wire, got 65536"),
        ({"vehicle_data.other": np.array([1])}, {}, "'vehicle_data.other' is not in the layout"),
        ({}, {"vehicle_data.soc_pct": np.array([1])}, "marks: expected none with raw=True.* got 'vehicle_data.soc_pct'"),
    ],
)  # fmt: skip
def test_what_no_raw_column_may_be_is_refused_by_name(changed, marks, named):
    group = raw_group([encode(frame_of(VEHICLE, cells(3.5, 3.6)))])
    group = replace(group, values={**group.values, **changed}, marks=marks)
    with pytest.raises(LocalProtocolError, match=named):
        encode_batch(FrameColumns(groups=(group,)), raw=True)
