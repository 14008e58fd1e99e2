"""The columnar codec: equal to the one-message codec and to cantools on every layout, and clear about the row that is wrong."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import cantools
import numpy as np
import pytest
from dbc_layouts import extended_layouts, layouts, values_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bmsota.errors import SignalError
from bmsota.signals import SignalColumns, loads
from bmsota.signals._codec import decode_reference, encode_reference, scaled

pytestmark = pytest.mark.slow

SLOW_IS_FINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
ANY_LAYOUT = st.one_of(layouts(), extended_layouts())


def message_of(layout):
    database = loads(layout.text)
    assert [fault for fault in database.faults if not fault.reason.startswith("expected a number from")] == []
    return database["Message"]


def array_of(frames, length):
    return np.frombuffer(b"".join(frames), dtype=np.uint8).reshape(len(frames), length)


def numbers_of(message, frame):
    """What the definition says about a frame, names as numbers; None if it is refused."""
    try:
        raws = decode_reference(message.layout, frame, size_bytes=message.length, where="", raw=True)
    except SignalError:
        return None
    signals = {signal.name: signal for signal in message.signals}
    return {name: scaled(signals[name], raw) for name, raw in raws.items()}


def rows_of(columns):
    """Columns turned back into one dictionary a frame."""
    rows = [{} for _ in range(columns.length)]
    for name in columns:
        assert len(columns[name]) == len(columns.rows(name)) == columns.mask(name).sum()
        for row, value in zip(columns.rows(name).tolist(), columns[name].tolist(), strict=True):
            rows[row][name] = value
    return rows


def same(ours, theirs):
    if set(ours) != set(theirs):
        return False
    return all(
        value == theirs[name] or (math.isnan(value) and math.isnan(theirs[name])) for name, value in ours.items()
    )


@SLOW_IS_FINE
@given(layout=ANY_LAYOUT, data=st.data())
def test_every_row_decodes_as_the_definition_reads(layout, data):
    message = message_of(layout)
    size = layout.size_bytes
    frames = data.draw(st.lists(st.binary(min_size=size, max_size=size), max_size=8))
    frames += [bytes([page % 256]) * size for page in data.draw(st.lists(st.integers(0, 6), max_size=6))]
    array = array_of(frames, size)
    expected = [numbers_of(message, frame) for frame in frames]
    if None in expected:
        with pytest.raises(SignalError) as caught:
            message.decode_batch(array)
        row = int(re.search(r"row (\d+), Message", str(caught.value))[1])
        assert expected[row] is None
        with pytest.raises(SignalError, match=re.escape(str(caught.value))):
            decode_reference(message.layout, frames[row], size_bytes=size, where=f"row {row}, Message")
    else:
        assert all(map(same, rows_of(message.decode_batch(array)), expected))
    loose = message.decode_batch(array, strict=False)
    assert loose.undefined == tuple(row for row, theirs in enumerate(expected) if theirs is None)
    for ours, theirs in zip(rows_of(loose), expected, strict=True):
        assert theirs is None or same(ours, theirs)


@pytest.mark.parametrize("bits", [53, 54, 56, 64])
def test_a_large_integer_times_an_integer_plus_a_fraction_is_the_same_alone_and_in_a_column(bits):
    """Found by Hypothesis: 2**55 + 3, times 100, plus 273.15, was one unit in the last place off in a column."""
    text = f'BU_: A\nBO_ 1 Message: 8 A\n SG_ S : 0|{bits}@1+ (100,273.15) [0|0] "" A\n'
    message = loads(text)["Message"]
    theirs = cantools.database.load_string(text, database_format="dbc").get_message_by_name("Message")
    frames = [((2**bits - 1) // step + 3).to_bytes(8, "little") for step in (2, 3, 5, 7)]
    column = message.decode_batch(array_of(frames, 8))["S"].tolist()
    assert column == [message.decode(frame)["S"] for frame in frames]
    assert column == [theirs.decode(frame)["S"] for frame in frames]


@SLOW_IS_FINE
@given(layout=ANY_LAYOUT, data=st.data())
def test_every_row_decodes_as_in_cantools(layout, data):
    message = message_of(layout)
    theirs = cantools.database.load_string(layout.text, database_format="dbc", strict=True).get_message_by_name(
        "Message"
    )
    size = layout.size_bytes
    frames = data.draw(st.lists(st.binary(min_size=size, max_size=size), max_size=6))
    ours = rows_of(message.decode_batch(array_of(frames, size), strict=False))
    for row, frame in enumerate(frames):
        if numbers_of(message, frame) is None:
            continue
        expected = theirs.decode(frame, decode_choices=False)
        # Without names, cantools looks a multiplexer up by its number and may end in another page; we do not.
        if set(expected) == set(ours[row]):
            assert same(ours[row], expected)


@SLOW_IS_FINE
@given(layout=ANY_LAYOUT, data=st.data())
def test_any_columns_encode_as_each_row_would_alone(layout, data):
    """Or are refused, if one of the rows is."""
    message = message_of(layout)
    kind = data.draw(st.sampled_from(["object", "float", "int"]))
    rows = data.draw(st.lists(values_for(message, complete=True), max_size=6))
    if kind != "object":
        if any(isinstance(value, str) for row in rows for value in row.values()):
            return
        # As the array will hold them: both codecs shall see the same number.
        try:
            turn = float if kind == "float" else int
            rows = [{name: turn(value) for name, value in row.items()} for row in rows]
            columns = {
                signal.name: np.array([row.get(signal.name, 0) for row in rows], dtype=kind + "64")
                for signal in message.signals
            }
        except (OverflowError, ValueError):  # No such number in an array of this kind.
            return
    else:
        columns = {
            signal.name: np.array([row.get(signal.name, 0) for row in rows], dtype=object) for signal in message.signals
        }
    told = []
    for index, row in enumerate(rows):
        try:
            told.append(encode_reference(message.layout, row, size_bytes=message.length, where=f"row {index}, Message"))
        except SignalError as error:
            told.append(str(error))
    if any(isinstance(each, str) for each in told):
        with pytest.raises(SignalError) as caught:
            message.encode_batch(columns, rows=len(rows))
        refused = int(re.search(r"row (\d+), Message", str(caught.value))[1])
        assert isinstance(told[refused], str)
    else:
        assert [bytes(frame) for frame in message.encode_batch(columns, rows=len(rows))] == told


@SLOW_IS_FINE
@given(layout=ANY_LAYOUT, data=st.data())
def test_what_was_decoded_encodes_again(layout, data):
    """As one by one: most frames come out as they went in, but for bits of no signal; some values exceed their limits."""
    message = message_of(layout)
    size = layout.size_bytes
    frames = [
        frame
        for frame in data.draw(st.lists(st.binary(min_size=size, max_size=size), max_size=8))
        if numbers_of(message, frame) is not None
    ]
    columns = message.decode_batch(array_of(frames, size))
    try:
        expected = [message.encode(numbers_of(message, frame)) for frame in frames]
    except SignalError:
        with pytest.raises(SignalError):
            message.encode_batch(columns)
        return
    assert [bytes(frame) for frame in message.encode_batch(columns)] == expected
    spread = {name: columns.full(name, fill=0) for name in columns}
    assert [bytes(frame) for frame in message.encode_batch(spread, rows=len(frames))] == expected


def test_random_frames_of_the_project_go_both_ways(project_dbc):
    ours, theirs = project_dbc
    draw = np.random.default_rng(20)
    # Of messages that differ only in a number, the first few.
    numbered = re.compile(r"(?:Slave|Boot[A-Z][a-z]+)(?:0[4-9]|[1-9]\d)")
    for name in [each.name for each in theirs.messages if not numbered.match(each.name)]:
        message = ours[name]
        array = draw.integers(0, 256, (60, message.length), dtype=np.uint8)
        multiplexer = next(iter(message.layout.branches), None)
        if multiplexer is not None:
            numbers = np.array(sorted(multiplexer.nodes), dtype=np.uint8)
            assert (multiplexer.multiplexer.start_bit % 8, multiplexer.multiplexer.length_bits) == (0, 8)
            array[:, multiplexer.multiplexer.start_bit // 8] = numbers[np.arange(60) % len(numbers)]
        rows = rows_of(message.decode_batch(array))
        for row, frame in zip(rows, array, strict=True):
            assert same(row, numbers_of(message, bytes(frame)))
            theirs_row = theirs.get_message_by_name(name).decode(bytes(frame), decode_choices=False)
            assert same(row, theirs_row)


def one(rows, length=8, extra=""):
    lines = "".join(f" SG_ {row}\n" for row in rows)
    return loads(f"BU_: A\nBO_ 1 Message: {length} A\n{lines}{extra}")["Message"]


PAGES = ['Page M : 0|8@1+ (1,0) [0|0] "" A', *(f'Cell_{n} m{n} : 8|16@1+ (0.0001,0) [0|6.5] "V" A' for n in range(4))]


def test_a_multiplexed_signal_has_values_only_where_it_is_in_the_frame():
    message = one(PAGES)
    array = np.zeros((5, 8), dtype=np.uint8)
    array[:, 0] = [2, 0, 2, 1, 2]
    array[:, 1] = [10, 20, 30, 40, 50]
    columns = message.decode_batch(array)
    assert isinstance(columns, SignalColumns)
    assert (columns.length, len(columns), list(columns)) == (5, 5, ["Page", "Cell_0", "Cell_1", "Cell_2", "Cell_3"])
    assert repr(columns) == "SignalColumns(5 frames, 5 signals)"
    assert columns["Page"].tolist() == [2, 0, 2, 1, 2]
    assert columns["Page"].dtype == np.int64
    assert columns["Cell_2"].tolist() == [0.001, 0.003, 0.005]
    assert columns.rows("Cell_2").tolist() == [0, 2, 4]
    assert columns.rows("Page").tolist() == [0, 1, 2, 3, 4]
    assert columns.mask("Cell_0").tolist() == [False, True, False, False, False]
    assert columns["Cell_3"].tolist() == []
    full = columns.full("Cell_2")
    assert (full[0], math.isnan(full[1]), full.dtype) == (0.001, True, np.float64)
    assert columns.full("Cell_2", fill=0).tolist() == [0.001, 0, 0.003, 0, 0.005]
    assert columns.full("Page") is columns["Page"]
    assert columns.is_everywhere("Page")
    assert not columns.is_everywhere("Cell_0")
    with pytest.raises(KeyError):
        columns.rows("Cell_9")
    assert (message.encode_batch(columns) == array).all()


def test_an_unknown_number_is_refused_with_its_row_or_left_out():
    message = one(PAGES)
    array = np.zeros((3, 8), dtype=np.uint8)
    array[1, 0] = 9
    with pytest.raises(SignalError, match=r"expected multiplexer number 0, 1, 2, 3, got 9 \(row 1, Message.Page\)"):
        message.decode_batch(array)
    columns = message.decode_batch(array, strict=False)
    assert columns.undefined == (1,)
    assert columns["Page"].tolist() == [0, 9, 0]
    assert columns.rows("Cell_0").tolist() == [0, 2]
    with pytest.raises(SignalError, match=r"expected multiplexer number 0, 1, 2, 3, got 7 \(row 2, Message.Page\)"):
        message.encode_batch({"Page": np.array([0, 1, 7, 8]), **{f"Cell_{n}": 1.0 for n in range(4)}})


def test_what_is_no_array_of_bytes_is_refused():
    message = one(PAGES)
    for data, got in [
        (np.zeros((2, 8)), "2 of float64"), (np.zeros(8, dtype=np.uint8), "1 of uint8"), (b"12345678", "bytes"),
    ]:  # fmt: skip
        with pytest.raises(SignalError, match=f"expected an array of 2 dimensions of uint8, got {got} "):
            message.decode_batch(data)
    with pytest.raises(SignalError, match=r"expected 8 data bytes, got 7 \(Message\)"):
        message.decode_batch(np.zeros((2, 7), dtype=np.uint8))


def test_a_tail_is_ignored_and_any_stride_is_taken():
    message = one(['A : 3|13@1+ (1,0) [0|0] "" A', 'B : 23|16@0- (0.5,1) [0|0] "" A'], length=5)
    wide = np.random.default_rng(3).integers(0, 256, (40, 24), dtype=np.uint8)
    expected = [numbers_of(message, bytes(frame[:5])) for frame in wide]
    assert rows_of(message.decode_batch(wide)) == expected
    assert rows_of(message.decode_batch(np.asfortranarray(wide))) == expected
    assert rows_of(message.decode_batch(wide[::2, :5])) == expected[::2]


def test_values_that_do_not_fit_are_refused_with_signal_and_row():
    message = one(['Level : 4|4@1+ (0.5,0) [0|5] "V" A'], extra='VAL_ 1 Level 15 "Invalid" ;\n')
    good = np.array([0.0, 5.0, 7.5, 2.5])  # 7.5 is above the limit, but the value table names it.
    assert message.encode_batch({"Level": good})[:, 0].tolist() == [0x00, 0xA0, 0xF0, 0x50]
    for value, said in [
        (5.5, "expected at most 5 V, got 5.5 (row 2, Message.Level)"),
        (-1.0, "expected at least 0 V, got -1.0 (row 2, Message.Level)"),
        (math.nan, "expected a finite number, got nan (row 2, Message.Level)"),
        (math.inf, "expected a finite number, got inf (row 2, Message.Level)"),
    ]:
        with pytest.raises(SignalError) as caught:
            message.encode_batch({"Level": np.array([0.0, 5.0, value, -9.0])})
        assert str(caught.value) == said
    with pytest.raises(SignalError, match=r"expected one of \['Invalid'\], got 'High' \(row 1, Message.Level\)"):
        message.encode_batch({"Level": ["Invalid", "High"]})


def test_missing_unknown_and_uneven_columns_are_refused():
    message = one(['A : 0|8@1+ (1,0) [0|0] "" A', 'B : 8|8@1+ (1,0) [0|0] "" A'])
    with pytest.raises(SignalError, match=r"no values for B \(Message\)"):
        message.encode_batch({"A": [1]})
    with pytest.raises(SignalError, match=r"no such signals in this message: C, D \(Message\)"):
        message.encode_batch({"A": [1], "B": [1], "D": 1, "C": 1})
    with pytest.raises(SignalError, match=r"expected 3 values, one per frame, got 2 \(Message.B\)"):
        message.encode_batch({"A": [1, 2, 3], "B": [1, 2]})
    with pytest.raises(SignalError, match=r"expected one value per frame, got 2 dimensions \(Message.A\)"):
        message.encode_batch({"A": [[1, 2, 3]], "B": 1})


def test_one_value_serves_all_frames():
    message = one(['A : 0|8@1+ (1,0) [0|0] "" A', 'B : 8|8@1+ (1,0) [0|0] "" A'], extra='VAL_ 1 B 7 "Seven" ;\n')
    assert message.encode_batch({"A": [1, 2], "B": 3})[:, :2].tolist() == [[1, 3], [2, 3]]
    assert message.encode_batch({"A": 1, "B": "Seven"}, rows=3)[:, :2].tolist() == [[1, 7]] * 3
    assert message.encode_batch({"A": 1, "B": 2}).shape == (1, 8)
    assert message.encode_batch({"A": np.empty(0), "B": 2}).shape == (0, 8)
    assert message.decode_batch(np.empty((0, 8), dtype=np.uint8))["A"].tolist() == []


def test_columns_of_other_frames_lack_values():
    message = one(PAGES)
    array = np.zeros((4, 8), dtype=np.uint8)
    array[:, 0] = [0, 1, 0, 1]
    columns = message.decode_batch(array)
    changed = SignalColumns(
        4, {**columns, "Page": np.array([0, 1, 1, 1])}, {f"Cell_{n}": columns.rows(f"Cell_{n}") for n in range(4)}
    )
    with pytest.raises(SignalError, match=r"no value for Cell_1 \(row 2, Message\)"):
        message.encode_batch(changed)


def test_integers_of_every_width_are_exact():
    message = one(
        [
            'U : 0|64@1+ (1,0) [0|0] "" A',
            'S : 64|64@1- (1,0) [0|0] "" A',
            'Across : 131|63@1+ (1,0) [0|0] "" A',
            'Doubled : 200|64@1+ (2,0) [0|0] "" A',
            'Below : 264|64@1+ (1,-9223372036854775808) [0|0] "" A',
            'Wide : 335|80@0- (1,0) [0|0] "" A',
            'WideFloat : 416|80@1+ (0.5,0) [0|0] "" A',
        ],
        length=64,
    )
    array = np.random.default_rng(4).integers(0, 256, (50, 64), dtype=np.uint8)
    array[0], array[1] = 0, 255
    columns = message.decode_batch(array)
    assert {name: str(columns[name].dtype) for name in columns} == {
        "U": "uint64", "S": "int64", "Across": "int64", "Doubled": "object", "Below": "int64", "Wide": "object",
        "WideFloat": "float64",
    }  # fmt: skip
    assert rows_of(columns) == [numbers_of(message, bytes(frame)) for frame in array]
    exact = {name: column for name, column in columns.items() if name != "WideFloat"}
    again = message.encode_batch({**exact, "WideFloat": 0})
    single = [message.encode({**numbers_of(message, bytes(frame)), "WideFloat": 0}) for frame in array]
    assert [bytes(frame) for frame in again] == single
    with pytest.raises(SignalError, match=r"got 18446744073709551616 \(row 1, Message.U\)"):
        message.encode_batch({**dict.fromkeys(columns, 0), "U": [1, 2**64]})


def test_a_float_that_is_too_large_is_refused_and_nan_is_a_value():
    message = one(['F : 5|32@1- (1,0) [0|0] "" A'], extra="SIG_VALTYPE_ 1 F : 1;\n")
    values = np.array([1.5, math.nan, -math.inf, 1e-45])
    back = message.decode_batch(message.encode_batch({"F": values}))["F"]
    assert np.array_equal(back, values.astype(np.float32).astype(float), equal_nan=True)
    with pytest.raises(SignalError, match=r"expected a number of 32 float bits, got 1e\+39 \(row 1, Message.F\)"):
        message.encode_batch({"F": [1.5, 1e39]})


def test_signals_that_share_bits_are_encoded_only_if_they_agree():
    message = one(['Word : 0|16@1+ (1,0) [0|0] "" A', 'Flag : 3|1@1+ (1,0) [0|0] "" A'])
    assert message.decode_batch(np.array([[8, 1, 0, 0, 0, 0, 0, 0]], dtype=np.uint8))["Flag"].tolist() == [1]
    assert message.encode_batch({"Word": [0x108, 0x100], "Flag": [1, 0]})[:, :2].tolist() == [[8, 1], [0, 1]]
    with pytest.raises(SignalError, match=r"signals that share bits disagree: Flag=0 \(row 1, Message\)"):
        message.encode_batch({"Word": [0x108, 0x108], "Flag": [1, 0]})


def test_a_wide_and_a_named_multiplexer_find_their_pages():
    """Beyond the table of small multiplexers, and with a value table whose names stand for two numbers."""
    rows = ['Page M : 0|20@1+ (1,0) [0|0] "" A', *(f'S{n} m{n} : 24|8@1+ (1,0) [0|0] "" A' for n in (3, 70000))]
    message = one(rows)
    array = np.zeros((3, 8), dtype=np.uint8)
    array[:, :3] = [[3, 0, 0], [0x70, 0x11, 1], [3, 0, 0]]
    array[:, 3] = [1, 2, 3]
    columns = message.decode_batch(array)
    assert (columns["S3"].tolist(), columns["S70000"].tolist()) == ([1, 3], [2])
    assert (message.encode_batch(columns) == array).all()
    named = one(PAGES, extra='VAL_ 1 Page 0 "A" 1 "B" 2 "B" ;\n')
    frames = np.zeros((3, 8), dtype=np.uint8)
    frames[:, 0] = [1, 2, 0]
    # The frame's number chooses, whatever its name; a name that is given is its last number, as in `encode`.
    assert [named.decode_batch(frames).rows(f"Cell_{n}").tolist() for n in range(3)] == [[2], [0], [1]]
    assert [set(named.decode(bytes(frame))) - {"Page"} for frame in frames] == [{"Cell_1"}, {"Cell_2"}, {"Cell_0"}]
    encoded = named.encode_batch({"Page": ["B", "A"], **{f"Cell_{n}": 1.0 for n in range(4)}})
    assert encoded[:, 0].tolist() == [2, 0]


def test_numpy_is_imported_only_when_columns_are_asked_for():
    code = (
        "import sys, bmsota.errors, bmsota.signals\n"
        "assert 'numpy' not in sys.modules and 'cantools' not in sys.modules\n"
        "sys.modules['numpy'] = None\n"
        "message = bmsota.signals.loads('BO_ 1 M: 1 A\\n SG_ S : 0|8@1+ (1,0) [0|0] \"\" A\\n')['M']\n"
        "try:\n    message.decode_batch(b'')\n"
        "except bmsota.errors.MissingExtraError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "the columnar codec needs numpy: pip install 'bmsota[can]'\n"
