"""Loading: every fault is named with its line, and everything else is in the database."""

from __future__ import annotations

import pytest

from bmsota.adapters.files import packaged_dbc, packaged_dbc_names
from bmsota.canframe import CanFrame
from bmsota.errors import SignalError
from bmsota.signals import Severity, loads

pytestmark = pytest.mark.slow

GOOD = """VERSION "7"

NS_ :
\tNS_DESC_
\tCM_
\tBA_DEF_

BS_:

BU_: Master Slave

BO_ 256 First: 8 Master
 SG_ Level : 0|8@1+ (1,0) [0|100] "%" Slave
 SG_ Wide : 15|16@0- (0.1,0) [0|0] "V" Slave

BO_ 2566844926 Second: 8 Slave
 SG_ Kind M : 0|8@1+ (1,0) [0|0] "" Master
 SG_ One m1 : 8|8@1+ (1,0) [0|0] "" Master
 SG_ Two m2 : 8|8@1+ (1,0) [0|0] "" Master

CM_ "all of it; with a semicolon
and a second line";
CM_ BO_ 256 "the \\"first\\"";
CM_ SG_ 256 Level "how full";
BA_DEF_ BO_ "GenMsgCycleTime" INT 0 65535;
BA_DEF_DEF_ "GenMsgCycleTime" 0;
BA_ "GenMsgCycleTime" BO_ 256 50;
VAL_ 256 Level 100 "Full" 0 "Empty" ;
"""


def test_a_clean_file_has_no_fault_and_keeps_what_it_says():
    database = loads(GOOD)
    assert database.faults == ()
    assert database.version == "7"
    assert list(database) == ["First", "Second"]
    first, second = database.messages
    assert (first.can_id, first.is_extended_id, first.cycle_time_ms, first.comment) == (256, False, 50, 'the "first"')
    assert first.senders == ("Master",)
    level = first.signals[0]
    assert (level.name, level.unit, level.comment, level.receivers) == ("Level", "%", "how full", ("Slave",))
    assert dict(level.choices) == {100: "Full", 0: "Empty"}
    assert (second.can_id, second.is_extended_id) == (0x18FEF1FE, True)
    assert second.decode(b"\x02\x09" + bytes(6)) == {"Kind": 2, "Two": 9}
    assert not first.is_fd


def test_a_database_is_indexed_by_name_and_by_id():
    database = loads(GOOD)
    second = database["Second"]
    assert database[256] is database["First"]
    assert database[second.can_id] is second
    assert database[second.can_id | 1 << 31] is second
    assert 256 in database
    assert 257 not in database
    assert "Third" not in database
    with pytest.raises(KeyError):
        database["Third"]
    frame = second.frame({"Kind": 1, "One": 3})
    assert frame == CanFrame(second.can_id, b"\x01\x03" + bytes(6), is_extended_id=True)
    assert database.decode(frame) == {"Kind": 1, "One": 3}
    with pytest.raises(SignalError, match="no message with CAN id 0x101"):
        database.decode(CanFrame(0x101, bytes(8)))
    with pytest.raises(SignalError, match="no message with CAN id 0x100"):
        database.decode(CanFrame(0x100, bytes(8), is_extended_id=True))


def test_a_standard_and_an_extended_id_of_the_same_number_are_two():
    database = loads("BO_ 256 Short: 1 A\nBO_ 2147483904 Long: 1 A\n")
    assert database[256].name == "Short"
    assert database[256 | 1 << 31].name == "Long"
    assert database.decode(CanFrame(256, b"\0", is_extended_id=True)) == {}
    only_long = loads("BO_ 2147483904 Long: 1 A\n")
    assert only_long[256].name == "Long"
    with pytest.raises(SignalError, match="no message with CAN id 0x100"):
        only_long.decode(CanFrame(256, b"\0"))


def test_more_than_eight_bytes_mean_can_fd():
    assert loads('BO_ 1 Big: 64 A\n SG_ Last : 504|8@1+ (1,0) [0|0] "" A\n')["Big"].frame({"Last": 1}).is_fd


# name of the defect -> (text that follows the clean file, line(s) in it counted from 1, severity, what the fault says)
DEFECTS = {
    "signal_outside_the_frame": ('BO_ 1 Bad: 2 A\n SG_ In : 0|8@1+ (1,0) [0|0] "" A\n SG_ Out : 12|8@1+ (1,0) [0|0] "" A', 3, "error", "inside 2 bytes"),
    "big_endian_signal_outside": ('BO_ 1 Bad: 2 A\n SG_ Out : 3|16@0+ (1,0) [0|0] "" A', 2, "error", "inside 2 bytes"),
    "signal_without_bits": ('BO_ 1 Bad: 2 A\n SG_ None : 0|0@1+ (1,0) [0|0] "" A', 2, "error", "at least 1 bit"),
    "signals_overlap": ('BO_ 1 Bad: 2 A\n SG_ All : 0|16@1+ (1,0) [0|0] "" A\n SG_ Some : 11|4@0+ (1,0) [0|0] "" A', 3, "warning", "overlaps All (Bad.Some)"),
    "signal_name_starts_with_a_digit": ('BO_ 1 Bad: 2 A\n SG_ 2nd : 0|8@1+ (1,0) [0|0] "" A', 2, "error", "starts with a letter, got 2nd"),
    "message_name_starts_with_a_digit": ("BO_ 1 2Bad: 2 A", 1, "error", "starts with a letter, got 2Bad"),
    "signal_twice": ('BO_ 1 Bad: 2 A\n SG_ S : 0|8@1+ (1,0) [0|0] "" A\n SG_ S : 8|8@1+ (1,0) [0|0] "" A', 3, "error", "duplicate signal S"),
    "id_twice": ('BO_ 256 Bad: 2 A\n SG_ S : 0|8@1+ (1,0) [0|0] "" A', 1, "error", "duplicate id 256, already used by First"),
    "name_twice": ("BO_ 1 First: 2 A", 1, "warning", "reachable by its id only"),
    "extended_flag_missing": ("BO_ 4096 Bad: 2 A", 1, "warning", "extended flag"),
    "id_too_long_without_flag": ("BO_ 1073741824 Bad: 2 A", 1, "error", "11 bits without the extended flag"),
    "id_too_long": ("BO_ 4294967295 Bad: 2 A", 1, "error", "at most 29 bits"),
    "message_too_long": ("BO_ 1 Bad: 65 A", 1, "error", "at most 64 data bytes, got 65"),
    "message_head_incomplete": ("BO_ 1 Bad 2 A", 1, "error", "expected BO_ id name: length sender"),
    "signal_incomplete": ('BO_ 1 Bad: 2 A\n SG_ S : 0|8@1+ (1) [0|0] "" A', 2, "error", "got 'SG_ S : 0 | 8 @ 1 + ( 1 )"),
    "scale_no_number": ('BO_ 1 Bad: 2 A\n SG_ S : 0|8@1+ (nan,0) [0|0] "" A', 2, "error", "expected a number as scale, got nan (Bad.S)"),
    "offset_no_number": ('BO_ 1 Bad: 2 A\n SG_ S : 0|8@1+ (1,-inf) [0|0] "" A', 2, "error", "expected a number as offset, got -inf (Bad.S)"),
    "minimum_no_number": ('BO_ 1 Bad: 2 A\n SG_ S m1 : 0|8@1+ (1,0) [1.#INF|0] "" A', 2, "error", "expected a number as minimum, got 1.#INF (Bad.S)"),
    "maximum_no_number": ('BO_ 1 Bad: 2 A\n SG_ S : 0|8@1+ (1,0) [0|NaN] "" A', 2, "error", "expected a number as maximum, got NaN (Bad.S)"),
    "scale_beyond_a_double": ('BO_ 1 Bad: 2 A\n SG_ S : 0|8@1+ (1e400,0) [0|0] "" A', 2, "error", "a double can hold, got scale 1e400 and offset 0 (Bad.S)"),
    "offset_beyond_a_double": ('BO_ 1 Bad: 2 A\n SG_ S : 0|8@1+ (1,-1e400) [0|0] "" A', 2, "error", "a double can hold, got scale 1 and offset -1e400 (Bad.S)"),
    "values_beyond_a_double": ('BO_ 1 Bad: 2 A\n SG_ S : 0|8@1+ (1e308,0) [0|0] "" A', 2, "error", "a double can hold, got scale 1e308 and offset 0 (Bad.S)"),
    "minimum_beyond_a_double": ('BO_ 1 Bad: 2 A\n SG_ S : 0|8@1+ (1,0) [-1.79769313486232E+308|0] "" A', 2, "warning", "taken as no limit"),
    "maximum_beyond_a_double": ('BO_ 1 Bad: 2 A\n SG_ S : 0|8@1+ (1,0) [0|1.79769313486232E+308] "" A', 2, "warning", "taken as no limit"),
    "byte_order_unknown": ('BO_ 1 Bad: 2 A\n SG_ S : 0|8@2+ (1,0) [0|0] "" A', 2, "error", "byte order 0 or 1, got 2"),
    "scale_zero": ('BO_ 1 Bad: 2 A\n SG_ S : 0|8@1+ (0,0) [0|0] "" A', 2, "warning", "scale other than 0"),
    "limits_reversed": ('BO_ 1 Bad: 2 A\n SG_ S : 0|8@1+ (1,0) [9|0] "" A', 2, "warning", "minimum <= maximum"),
    "multiplexer_missing": ('BO_ 1 Bad: 2 A\n SG_ S m1 : 0|8@1+ (1,0) [0|0] "" A', 2, "error", "no multiplexer for m1"),
    "multiplexer_mark_unknown": ('BO_ 1 Bad: 2 A\n SG_ S x : 0|8@1+ (1,0) [0|0] "" A', 2, "error", "m<number>M, got x"),
    "two_multiplexers_without_ranges": (
        'BO_ 1 Bad: 4 A\n SG_ K M : 0|8@1+ (1,0) [0|0] "" A\n SG_ L M : 8|8@1+ (1,0) [0|0] "" A\n SG_ S m1 : 16|8@1+ (1,0) [0|0] "" A',
        4, "error", "several multiplexers and no SG_MUL_VAL_",
    ),
    "multiplexers_in_a_circle": (
        'BO_ 1 Bad: 4 A\n SG_ K m0M : 0|8@1+ (1,0) [0|0] "" A\n SG_ L m0M : 8|8@1+ (1,0) [0|0] "" A\nSG_MUL_VAL_ 1 K L 0-0;\nSG_MUL_VAL_ 1 L K 0-0;',
        (2, 3), "error", "circular multiplexers",
    ),
    "multiplexer_range_too_large": (
        'BO_ 1 Bad: 8 A\n SG_ K M : 0|32@1+ (1,0) [0|0] "" A\n SG_ S m1 : 32|8@1+ (1,0) [0|0] "" A\nSG_MUL_VAL_ 1 S K 0-4294967295;',
        4, "error", "more than 65536 multiplexer numbers",
    ),
    "multiplexer_range_backwards": ("SG_MUL_VAL_ 2566844926 One Kind 5-1;", 1, "error", "runs backwards"),
    "multiplexer_is_none": ("SG_MUL_VAL_ 2566844926 One Two 1-1;", 1, "error", "Two is not a multiplexer"),
    "float_of_odd_size": ('BO_ 1 Bad: 4 A\n SG_ S : 0|24@1- (1,0) [0|0] "" A\nSIG_VALTYPE_ 1 S : 1;', 3, "error", "32 bits for a float, got 24"),
    "float_type_of_other_size": ('BO_ 1 Bad: 8 A\n SG_ S : 0|64@1- (1,0) [0|0] "" A\nSIG_VALTYPE_ 1 S : 1;', 3, "warning", "32 bits for float type 1, got 64"),
    "float_type_unknown": ("SIG_VALTYPE_ 256 Level : 9;", 1, "error", "type 0, 1, 2 or 3, got 9"),
    "comment_for_no_message": ('CM_ BO_ 999 "lost";', 1, "warning", "no message with id 999 (CM_)"),
    "comment_for_no_signal": ('CM_ SG_ 256 Lost "lost";', 1, "warning", "no signal Lost in First (CM_)"),
    "comment_malformed": ("CM_ BO_ x;", 1, "error", 'CM_ object "text";'),
    "names_for_no_message": ('VAL_ 999 Level 1 "One" ;', 1, "warning", "no message with id 999 (VAL_)"),
    "names_for_no_signal": ('VAL_ 256 Lost 1 "One" ;', 1, "warning", "no signal Lost in First (VAL_)"),
    "name_for_an_impossible_number": ('VAL_ 256 Wide 40000 "Far" ;', 1, "warning", "from -32768 to 32767, got 40000"),
    "number_named_twice": ('VAL_ 256 Wide 1 "A" 1 "B" ;', 1, "warning", "duplicate number 1"),
    "names_malformed": ('VAL_ 256 Level One "One" ;', 1, "error", "expected VAL_ id signal"),
    "attribute_not_defined": ('BA_ "Colour" BO_ 256 1;', 1, "warning", "undefined attribute Colour (BA_)"),
    "attribute_default_not_defined": ('BA_DEF_DEF_ "Colour" 1;', 1, "warning", "undefined attribute Colour (BA_DEF_DEF_)"),
    "attribute_default_malformed": ('BA_DEF_DEF_ "Colour";', 1, "error", "BA_DEF_DEF_"),
    "attribute_of_no_message": ('BA_ "GenMsgCycleTime" BO_ 999 1;', 1, "warning", "no message with id 999 (BA_)"),
    "attribute_malformed": ('BA_ "GenMsgCycleTime" BO_ 256;', 1, "error", 'expected BA_ "name"'),
    "attribute_definition_malformed": ('BA_DEF_ BO_ "Colour" COLOUR;', 1, "error", "expected BA_DEF_"),
    "value_type_malformed": ("SIG_VALTYPE_ 256 Level;", 1, "error", "expected SIG_VALTYPE_"),
    "ranges_malformed": ("SG_MUL_VAL_ 256 Level;", 1, "error", "expected SG_MUL_VAL_"),
    "senders_malformed": ("BO_TX_BU_ 256;", 1, "error", "expected BO_TX_BU_"),
    "nodes_malformed": ("BU_: A, B", 1, "error", "incomplete BU_"),
    "semicolon_missing": ('CM_ BO_ 256 "again"\nCM_ BO_ 256 "once more";', 1, "error", "expected ; at the end of CM_, got 'CM_'"),
    "semicolon_missing_before_a_message": ('CM_ BO_ 256 "again"', 1, "error", "expected ; at the end of CM_, got 'BO_'"),
    "quotation_mark_missing": ('CM_ BO_ 256 "again;\nCM_ SG_ 256 Wide "wide";', 1, "error", "quotation mark is missing"),
    "quotation_mark_missing_at_the_end": ('CM_ BO_ 256 "again;', 1, "error", "quotation mark is missing"),
    "stray_text": ("what is this; and this\nthis too", 1, "error", "not a statement: 'what'"),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_reported_at_its_line_and_the_rest_is_loaded(defect):
    tail, line, severity, said = DEFECTS[defect]
    database = loads(GOOD + tail + '\n\nBO_ 770 Last: 8 Master\n SG_ End : 0|8@1+ (1,0) [0|0] "" Slave\n')
    lines = line if isinstance(line, tuple) else (line,)
    expected = [(GOOD.count("\n") + each, Severity(severity)) for each in lines]
    assert [(fault.line, fault.severity) for fault in database.faults] == expected
    assert said in database.faults[0].reason
    assert str(database.faults[0]) == f"line {database.faults[0].line}: {severity}: {database.faults[0].reason}"
    assert database["First"].decode(b"\x64\x00\x0a" + bytes(5)) == {"Level": "Full", "Wide": 1.0}
    assert database["Second"].decode(b"\x01\x05" + bytes(6)) == {"Kind": 1, "One": 5}
    assert database["Last"].decode(b"\x07" + bytes(7)) == {"End": 7}
    assert database["First"].cycle_time_ms == 50


def test_a_file_that_ends_in_a_statement_says_so():
    fault = loads(GOOD + 'CM_ BO_ 256 "again"').faults[0]
    assert str(fault).endswith("expected ; at the end of CM_, got the end")


def test_a_signal_may_be_broken_over_lines_and_a_stray_word_after_it_is_no_part_of_it():
    database = loads(
        'BO_ 1 M :\n 8 A SG_ One : 0|8@1+\n (1,0)\n [0|0] ""\n A,\n B\n SG_ Two : 8|8@1+ (1,0) [0|0] "" A\nstray\n'
    )
    assert [fault.line for fault in database.faults] == [8]
    assert database["M"].decode(b"\x01\x02" + bytes(6)) == {"One": 1, "Two": 2}
    assert database["M"].signals[0].receivers == ("A", "B")


def test_what_a_message_keeps_when_one_of_its_signals_is_left_out():
    text = 'BO_ 1 Half: 2 A\n SG_ In : 0|8@1+ (1,0) [0|0] "" A\n SG_ Out : 12|8@1+ (1,0) [0|0] "" A\nVAL_ 1 Out 1 "x" ;\nCM_ SG_ 1 Out "c";\n'
    database = loads(text)
    assert [fault.line for fault in database.faults] == [
        3
    ]  # Once: what refers to the lost signal is not reported again.
    assert database["Half"].decode(b"\x05\x00") == {"In": 5}


def test_numbers_may_start_with_their_point():
    database = loads('BO_ 1 M: 1 A\n SG_ S : 0|8@1- (.25,-.5) [0|0] "" A\n')
    assert database.faults == ()
    assert database["M"].decode(b"\x04") == {"S": 0.5}


def test_what_refers_to_a_message_that_is_left_out_is_not_reported_again():
    text = 'BO_ 1 Long: 65 A\n SG_ S : 0|8@1+ (1,0) [0|0] "" A\nCM_ BO_ 1 "c";\nVAL_ 1 S 1 "x" ;\nBO_ 2 Broken\nCM_ BO_ 2 "c";\n'
    assert [fault.line for fault in loads(text).faults] == [1, 5]


LONG = """BA_DEF_ SG_ "SystemSignalLongSymbol" STRING ;
BA_DEF_DEF_ "SystemSignalLongSymbol" "";
BA_ "SystemSignalLongSymbol" SG_ 256 Level "TheLevel";
BA_ "SystemSignalLongSymbol" SG_ 256 Wide "TheLevel";
"""


def test_what_the_parser_refuses_costs_only_its_message():
    """The checks let this through: two long names that are one. The message is loaded without its attributes."""
    database = loads(GOOD + LONG)
    assert [str(fault) for fault in database.faults] == [
        "line 12: warning: two signals with one long name, TheLevel (SystemSignalLongSymbol) (First); its attributes are left out"
    ]
    assert list(database) == ["First", "Second"]
    assert [signal.name for signal in database["First"].signals] == ["Level", "Wide"]


def test_a_long_name_is_the_signal_s_name():
    database = loads(GOOD + LONG.replace('Wide "TheLevel"', 'Wide "TheWideOne"'))
    assert database.faults == ()
    assert database["First"].decode(b"\x05\x00\x0a" + bytes(5)) == {"TheLevel": 5, "TheWideOne": 1.0}


FORMATS = 'BA_DEF_ BO_ "VFrameFormat" ENUM "StandardCAN","ExtendedCAN","reserved","J1939PG";\n'


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (FORMATS + 'BA_ "VFrameFormat" BO_ 256 9;', "VFrameFormat: expected one of 0 StandardCAN, 1 ExtendedCAN, 2 reserved, 3 J1939PG, got 9 (First); the attribute is left out"),
        (FORMATS + 'BA_ "VFrameFormat" BO_ 256 "CAN-XL";', 'got "CAN-XL" (First); the attribute is left out'),
        ('BA_DEF_ BO_ "VFrameFormat" INT 0 15;\nBA_ "VFrameFormat" BO_ 256 99;', "VFrameFormat: expected one of 0 StandardCAN"),
        ('BA_DEF_ SG_ "SPN" INT 0 524287;\nBA_ "SPN" SG_ 256 Level "many";', 'SPN: expected a number, got "many" (First.Level); the attribute is left out'),
        ('BA_DEF_ SG_ "SPN" INT 0 524287;\nBA_DEF_DEF_ "SPN" "many";', 'SPN: expected a number, got "many" (BA_DEF_DEF_); the attribute is left out'),
    ],
)  # fmt: skip
def test_an_attribute_with_a_value_of_another_kind_is_named_and_left_out(lines, said):
    database = loads(GOOD + lines + "\n")
    assert [(fault.line, fault.severity) for fault in database.faults] == [(GOOD.count("\n") + 2, Severity.WARNING)]
    assert said in database.faults[0].reason
    assert database["First"].cycle_time_ms == 50  # The attributes beside it are kept.


@pytest.mark.parametrize("value", ["3", '"J1939PG"', '"3"'])
@pytest.mark.parametrize("definition", [FORMATS, 'BA_DEF_ BO_ "VFrameFormat" INT 0 15;\n'])
def test_an_enumeration_s_value_may_be_its_number_or_its_name(definition, value):
    number = GOOD.index("BO_ 2566844926") and 2566844926
    database = loads(f'{GOOD}{definition}BA_ "VFrameFormat" BO_ {number} {value};\n')
    assert database.faults == ()
    assert [message.is_j1939 for message in database.messages] == [False, True]


@pytest.mark.parametrize("default", ["3", '"J1939PG"'])
def test_an_enumeration_s_default_may_be_its_number_or_its_name(default):
    database = loads(f'{GOOD}{FORMATS}BA_DEF_DEF_ "VFrameFormat" {default};\n')
    assert database.faults == ()
    assert [message.is_j1939 for message in database.messages] == [False, True]  # A standard id is none of J1939's.


def test_a_network_that_is_j1939_makes_parameter_groups_of_its_extended_ids():
    for lines in (
        'BA_DEF_ "ProtocolType" STRING ;\nBA_DEF_DEF_ "ProtocolType" "";\nBA_ "ProtocolType" "J1939";\n',
        'BA_DEF_ "ProtocolType" STRING ;\nBA_DEF_DEF_ "ProtocolType" "J1939";\n',
        'BA_DEF_ "ProtocolType" ENUM "CAN","J1939";\nBA_ "ProtocolType" 1;\n',
        'BA_DEF_ "ProtocolType" ENUM "CAN","J1939";\nBA_DEF_DEF_ "ProtocolType" "J1939";\n',
    ):
        database = loads(GOOD + lines)
        assert database.faults == ()
        assert [message.is_j1939 for message in database.messages] == [False, True], lines
    for lines in (
        "",
        'BA_DEF_ "ProtocolType" STRING ;\nBA_DEF_DEF_ "ProtocolType" "J1939";\nBA_ "ProtocolType" "CANopen";\n',
        'BA_DEF_ BU_ "ProtocolType" STRING ;\nBA_DEF_DEF_ "ProtocolType" "";\nBA_ "ProtocolType" BU_ Master "J1939";\n',
        # Message by message: the default is none.
        FORMATS + 'BA_DEF_ "ProtocolType" STRING ;\nBA_DEF_DEF_ "ProtocolType" "J1939";\n',
    ):
        database = loads(GOOD + lines)
        assert database.faults == ()
        assert [message.is_j1939 for message in database.messages] == [False, False], lines


def test_a_message_of_many_packets_is_j1939():
    """More than 64 bytes are no frame; up to 255 packets of 7 bytes are. Never CAN FD."""
    database = loads(
        'BO_ 2566844926 Long: 1785 A\n SG_ Last : 14272|8@1+ (1,0) [0|0] "" A\nBO_ 2566844927 More: 1786 A\n'
    )
    assert [str(fault) for fault in database.faults] == [
        "line 3: error: expected at most 1785 data bytes, got 1786 (More)"
    ]
    message = database["Long"]
    assert (message.is_j1939, message.is_fd) == (True, False)
    assert message.decode(bytes(1784) + b"\x07") == {"Last": 7}


def test_names_of_other_scripts_are_named_and_everything_else_is_loaded():
    """Editors in China, Germany and Japan write them; DBC has letters, digits and _."""
    text = """BU_: A 主控 Gerät
BO_ 256 Pack: 8 主控
 SG_ TBOX版本 : 0|8@1+ (1,0) [0|255] "" A
 SG_ Spannung-Zelle : 8|8@1+ (1,0) [0|255] "" A
 SG_ Ok : 16|8@1+ (1,0) [0|255] "℃" A,主控,Gerät
 SG_ Also : 24|8@1+ (1,0) [0|255] "" 主控
BO_ 257 电池: 8 A
 SG_ Lost : 0|8@1+ (1,0) [0|255] "" A
BO_ 258 Zelle.1: 8 A
BO_ 259 Last: 8 A
BO_TX_BU_ 259 : A,主控;
CM_ SG_ 256 TBOX版本 "版本";
VAL_ 256 TBOX版本 1 "一" ;
VAL_ 256 Ok 1 "一" ;
CM_ BU_ 主控 "x";
"""
    database = loads(text)
    name = "expected a name of A-Z, a-z, 0-9 and _, got"
    assert [str(fault) for fault in database.faults] == [
        f"line 1: warning: {name} 主控 (node); the node is left out",
        f"line 1: warning: {name} Gerät (node); the node is left out",
        f"line 3: error: {name} TBOX版本 (Pack)",
        f"line 4: error: {name} Spannung-Zelle (Pack)",
        f"line 7: error: {name} 电池",
        f"line 9: error: {name} Zelle.1",
    ]
    assert list(database) == ["Pack", "Last"]
    assert database["Pack"].decode(b"\0\0\x01\x02" + bytes(4)) == {"Ok": "一", "Also": 2}
    assert database["Pack"].signals["Ok"].receivers == ("A",)
    assert database["Pack"].signals["Ok"].unit == "℃"
    assert database["Pack"].senders == ()
    assert database["Last"].senders == ("A",)


BARE = """BO_ 648 Motor_2: 8 A
 SG_ Code m : 6|2@1+ (1,0) [0|3] "" A
 SG_ Begr m1 : 0|6@1+ (1,0) [0|63] "" A
 SG_ Getr m2 : 0|6@1+ (1,0) [0|63] "" A
 SG_ Temp : 8|8@1+ (1,0) [0|0] "" A
"""


def test_a_bare_mark_is_the_multiplexer_that_the_ranges_name():
    """opendbc vw_pq.dbc, Motor_2: `m` without a number on the multiplexer itself."""
    database = loads(BARE + "SG_MUL_VAL_ 648 Begr Code 1-1;\nSG_MUL_VAL_ 648 Getr Code 2-2;\n")
    assert database.faults == ()
    message = database["Motor_2"]
    assert message.decode(b"\x85\x07" + bytes(6)) == {"Code": 2, "Getr": 5, "Temp": 7}
    assert message.decode(b"\x45\x07" + bytes(6)) == {"Code": 1, "Begr": 5, "Temp": 7}


def test_a_bare_mark_is_multiplexed_by_what_the_ranges_say():
    text = BARE.replace("Code m ", "Code M ").replace("Begr m1", "Begr m").replace("Temp :", "Temp m :")
    database = loads(text + "SG_MUL_VAL_ 648 Begr Code 1-1;\nSG_MUL_VAL_ 648 Temp Code 0-0, 3-3;\n")
    assert database.faults == ()
    message = database["Motor_2"]
    assert message.decode(b"\xc5\x07" + bytes(6)) == {"Code": 3, "Temp": 7}
    assert message.decode(b"\x45\x07" + bytes(6)) == {"Code": 1, "Begr": 5}


def test_a_bare_mark_that_nothing_explains_is_one_fault():
    database = loads(BARE)
    assert [str(fault) for fault in database.faults] == [
        "line 2: error: m without a number, and no SG_MUL_VAL_ for it (Motor_2.Code); also left out: 2 signals that may depend on it"
    ]
    assert database["Motor_2"].decode(b"\x85\x07" + bytes(6)) == {"Temp": 7}
    alone = loads(BARE.replace("Code m ", "Code M ").replace("Begr m1", "Begr m"))
    assert [str(fault) for fault in alone.faults] == [
        "line 3: error: m without a number, and no SG_MUL_VAL_ for it (Motor_2.Begr)"
    ]
    assert alone["Motor_2"].decode(b"\x85\x07" + bytes(6)) == {"Code": 2, "Getr": 5, "Temp": 7}


def test_the_parser_s_log_says_nothing(caplog):
    """cantools logs a line for each message whose name an earlier one has; the fault says so with its line."""
    database = loads(GOOD + "BO_ 1 First: 2 A\n")
    assert [fault.severity for fault in database.faults] == [Severity.WARNING]
    assert caplog.records == []


def test_signals_of_no_message_are_no_fault():
    database = loads('BO_ 3221225472 VECTOR__INDEPENDENT_SIG_MSG: 0 Vector__XXX\n SG_ Lost : 0|8@1+ (1,0) [0|0] "" A\n')
    assert database.faults == ()
    assert len(database) == 0


def test_extended_multiplexing_is_a_tree():
    text = """BO_ 1 Deep: 8 A
 SG_ K M : 0|8@1+ (1,0) [0|0] "" A
 SG_ L m1M : 8|8@1+ (1,0) [0|0] "" A
 SG_ A m2 : 8|16@1+ (1,0) [0|0] "" A
 SG_ B m3 : 16|8@1+ (1,0) [0|0] "" A
SG_MUL_VAL_ 1 L K 1-1;
SG_MUL_VAL_ 1 A K 2-3, 250-255;
SG_MUL_VAL_ 1 B L 3-60000;
"""
    database = loads(text)
    assert database.faults == ()
    message = database["Deep"]
    assert message.decode(b"\x01\x03\x09" + bytes(5)) == {"K": 1, "L": 3, "B": 9}
    assert message.decode(b"\xfb\x03\x09" + bytes(5)) == {"K": 251, "A": 0x903}
    assert message.encode({"K": 1, "L": 3, "B": 9}) == b"\x01\x03\x09" + bytes(5)
    with pytest.raises(SignalError, match="multiplexer number"):
        message.decode(b"\x01\x02" + bytes(6))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\ufeff",
        "no dbc at all",
        '"',
        "BO_",
        "NS_ :",
        "\x00\x01\xff",
        "VAL_ " * 50,
        'SG_ S : 0|8@1+ (1,0) [0|0] "" A',
    ],
)
def test_any_text_is_loaded(text):
    assert len(loads(text)) == 0


def test_every_cut_of_a_clean_file_is_loaded():
    """Nothing but faults may come out of a broken file, wherever it breaks."""
    for end in range(0, len(GOOD), 7):
        assert set(loads(GOOD[:end])) <= {"First", "Second"}
        assert isinstance(loads(GOOD[end:]).faults, tuple)


@pytest.mark.parametrize("name", packaged_dbc_names())
def test_the_files_of_the_project_are_without_fault(name):
    assert loads(packaged_dbc(name)).faults == ()


def test_a_codec_is_compiled_when_it_is_first_wanted(monkeypatch):
    """A standard's database has thousands of messages, and a log some tens of them."""
    from bmsota.signals import _database

    compiled = []

    def counting(original):
        def compiler(layout, *, where, **options):
            compiled.append(where)
            return original(layout, where=where, **options)

        return compiler

    for name, compiler in _database._COMPILERS.items():
        monkeypatch.setitem(_database._COMPILERS, name, counting(compiler))
    text = "\n".join(f'BO_ {number} M{number}: 8 A\n SG_ S : 0|8@1+ (1,0) [0|0] "" A' for number in range(1, 40))
    database = loads("BU_: A\n" + text)
    assert compiled == []
    assert [database["M7"].decode(bytes([5] * 8)) for _ in range(2)] == [{"S": 5}] * 2
    assert database["M7"].with_protection(None).decode_raw(bytes(8)) == {"S": 0}
    assert set(compiled) == {"M7"}
    with pytest.raises(AttributeError, match="'Message' object has no attribute 'colour'"):
        database["M7"].colour  # noqa: B018


@pytest.mark.parametrize("count", [31, 33, 450])
def test_multiplexers_that_are_nested_too_deep_are_told_as_that(count):
    """And what lies above them works, whatever else is on the stack by then."""
    marks = ["M", *["m1M"] * (count - 1), "m1"]
    lines = [f' SG_ S{at} {mark} : {at}|1@1+ (1,0) [0|1] "" A' for at, mark in enumerate(marks)]
    lines += [f"SG_MUL_VAL_ 1 S{at} S{at - 1} 1-1;" for at in range(1, count + 1)]
    database = loads("\n".join(["BU_: A", "BO_ 1 M: 64 A", *lines]))
    lost = max(count - 32, 0)
    assert len(database.faults) == lost
    assert {each.reason.partition(" (")[0] for each in database.faults} <= {
        "more than 32 multiplexers one inside the other"
    }
    assert len(database["M"].decode(b"\xff" * 64)) == count + 1 - lost
