"""J1939: which message an id is, and messages put together from what is seen on the bus."""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.canframe import CanFrame
from bmsota.errors import SignalError
from bmsota.signals import MessageFinder, TransportFault, TransportReassembler, loads, pgn_of
from bmsota.signals._transport import SESSION_TIMEOUT_NS, SESSIONS_MAX

MS = 1_000_000

# Recorded from python-can-j1939 0.1.2 (MIT) talking to itself on python-can's virtual bus: a vehicle (0xF4) sends GB/T 27930's BRM,
# 41 bytes, to a charger (0x56), which clears three packets at a time; then 30 bytes of PGN 0xFEE3 to all.
RECORDED_RTS = """
0 1CEC56F4 1029000604000200
1 1CECF456 110301FFFF000200
3 1CEB56F4 0101010003A00F30
8 1CEB56F4 0211424D534F0100
13 1CEB56F4 030000180B012A01
14 1CECF456 110304FFFF000200
14 1CEB56F4 040001004C544553
18 1CEB56F4 055430303030424D
23 1CEB56F4 06534F54413031FF
24 1CECF456 13290006FF000200
"""
BRM = bytes.fromhex("01010003a00f3011424d534f01000000180b012a010001004c5445535430303030424d534f54413031")
RECORDED_BAM = """
1501 18ECFFF4 201E0005FFE3FE00
1551 1CEBFFF4 0101020304050607
1601 1CEBFFF4 0208090A0B0C0D0E
1651 1CEBFFF4 030F101112131415
1702 1CEBFFF4 04161718191A1B1C
1752 1CEBFFF4 051D1EFFFFFFFFFF
"""


def frames(text):
    return [
        (int(ms) * MS, int(can_id, 16), bytes.fromhex(data))
        for ms, can_id, data in (line.split() for line in text.split("\n") if line)
    ]


RTS, BAM = frames(RECORDED_RTS), frames(RECORDED_BAM)
DATA = 2  # The first data packet of RTS after its request and clearance.


def heard(conversation, reassembler=None):
    """What is put together of a conversation: (position, id, data)."""
    reassembler = reassembler or TransportReassembler()
    found = []
    for position, (now_ns, can_id, data) in enumerate(conversation):
        message = reassembler.receive(can_id, data, now_ns)
        if message is not None:
            found.append((position, f"{message.can_id:08X}", message.data))
    return found, reassembler.faults


def test_a_pgn_is_without_priority_source_and_destination():
    assert pgn_of(0x0CF00400) == pgn_of(0x18F004FE) == 0xF004
    assert pgn_of(0x1C0256F4) == pgn_of(0x180256F4) == 0x0200
    assert pgn_of(0x19F00400) == 0x1F004  # Data page 1.
    assert pgn_of(0x18EFFF01) == 0xEF00  # The last format with a destination...
    assert pgn_of(0x18F00101) == 0xF001  # ...and the first without.


def test_a_foreign_stack_s_conversations_are_put_together():
    """At the last packet, before the acknowledgement; the id is the one that a short message of this PGN would have."""
    found, faults = heard(RTS + BAM)
    assert found == [(8, "1C0256F4", BRM), (15, "18FEE3F4", bytes(range(1, 31)))]
    assert faults == Counter()


def test_packets_that_are_asked_for_again_make_no_second_message():
    """The receiver lost packet 2 and clears it again, also after we have all of them."""
    lost = [*RTS[: DATA + 3], (14 * MS, 0x1CECF456, bytes.fromhex("110102FFFF000200")), RTS[DATA + 1], *RTS[5:9]]
    again = [(24 * MS, 0x1CECF456, bytes.fromhex("110105FFFF000200")), RTS[7], *RTS[9:]]
    for tail in (again, [RTS[1], *RTS[2:5], *RTS[6:]]):
        found, faults = heard(lost + tail)
        assert [(at, data) for at, _, data in found] == [(len(lost) - 1, BRM)]
        assert faults == Counter()


def test_packets_may_come_in_any_order():
    for order in permutations(range(3)):
        found, faults = heard([*RTS[:2], *(RTS[DATA + at] for at in order), *RTS[5:]])
        assert [data for _, _, data in found] == [BRM]
        assert faults == Counter()


def test_a_recording_that_begins_in_the_middle_still_gives_the_message():
    """After the request: the first clearance says what follows, the acknowledgement how long it was."""
    found, faults = heard(RTS[1:])
    assert [(at, can_id, data) for at, can_id, data in found] == [(8, "1C0256F4", BRM)]
    assert faults == Counter()


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (3, {TransportFault.STRAY: 2, TransportFault.MISSED_PACKETS: 1}),  # Within the first portion.
        (5, {TransportFault.MISSED_PACKETS: 1}),  # At the second clearance.
        (9, {TransportFault.MISSED_PACKETS: 1}),  # At the acknowledgement.
    ],
)
def test_a_recording_that_begins_too_late_is_counted_once(start, expected):
    assert heard(RTS[start:]) == ([], Counter(expected))


def test_every_packet_of_a_broadcast_is_needed():
    for missing in range(1, 5):
        assert heard(BAM[:missing] + BAM[missing + 1 :]) == ([], Counter({TransportFault.MISSED_PACKETS: 1}))
    reassembler = TransportReassembler()
    assert heard(BAM[:-1], reassembler) == ([], Counter())
    reassembler.finish()
    assert reassembler.faults == Counter({TransportFault.UNFINISHED: 1})


def test_a_lost_packet_of_a_request_is_missed_at_the_acknowledgement():
    assert heard(RTS[:4] + RTS[5:]) == ([], Counter({TransportFault.MISSED_PACKETS: 1}))


def test_conversations_of_other_nodes_do_not_mix():
    """Three vehicles and their broadcasts, interleaved frame by frame."""
    conversations = [
        [
            (now, can_id & ~0xFF | source if can_id & 0xFF == 0xF4 else can_id & ~0xFF00 | source << 8, data)
            for now, can_id, data in text
        ]
        for text in (RTS, BAM)
        for source in (0xF4, 0xF5, 0x20)
    ]
    mixed = []
    for place in range(10):
        mixed += [(place, can_id, data) for each in conversations for _, can_id, data in each[place : place + 1]]
    found, faults = heard(mixed)
    assert sorted(can_id for _, can_id, _ in found) == [
        "18FEE320",
        "18FEE3F4",
        "18FEE3F5",
        "1C025620",
        "1C0256F4",
        "1C0256F5",
    ]
    assert {data for _, _, data in found} == {BRM, bytes(range(1, 31))}
    assert faults == Counter()


@pytest.mark.parametrize("source_first", [True, False])
def test_an_abort_of_either_node_ends_the_conversation(source_first):
    abort = (9 * MS, 0x1CEC56F4 if source_first else 0x1CECF456, bytes.fromhex("FF01FFFFFF000200"))
    found, faults = heard([*RTS[:5], abort, *RTS[6:9]])
    assert found == []
    assert faults == Counter({TransportFault.ABORTED: 1, TransportFault.STRAY: 3})
    other = (9 * MS, abort[1], bytes.fromhex("FF01FFFFFF000100"))  # Of another PGN.
    assert [data for _, _, data in heard([*RTS[:5], other, *RTS[5:]])[0]] == [BRM]


def test_a_second_request_starts_anew():
    """Repeated before an answer it costs nothing; after packets the first attempt is lost, and said so."""
    assert heard([RTS[0], RTS[0], *RTS]) == ([(10, "1C0256F4", BRM)], Counter())
    found, faults = heard([*RTS[:4], *RTS])
    assert [data for _, _, data in found] == [BRM]
    assert faults == Counter({TransportFault.RESTARTED: 1})


def test_a_conversation_that_stops_is_over():
    late = SESSION_TIMEOUT_NS + RTS[4][0]
    assert heard([*RTS[:5], (late, *RTS[5][1:])])[1] == Counter()
    found, faults = heard([*RTS[:5], *((late + 1, *each[1:]) for each in RTS[6:9])])
    assert (found, faults) == ([], Counter({TransportFault.TIMED_OUT: 1, TransportFault.STRAY: 3}))


def test_a_clock_that_jumps_back_ends_nothing():
    assert [data for _, _, data in heard([(-now, *rest) for now, *rest in RTS])[0]] == [BRM]


MALFORMED = {
    "control frame of 7 bytes": (0x1CEC56F4, "10290006040002"),
    "no bytes": (0x1CEB56F4, ""),
    "more packets than its size": (0x1CEC56F4, "1029000704000200"),
    "no size": (0x1CEC56F4, "1000000004000200"),
    "more than 1785 bytes": (0x1CEC56F4, "10FA06FF04000200"),
    "a PGN of 19 bits": (0x1CEC56F4, "1029000604000204"),
    "a request to all": (0x1CECFFF4, "1029000604000200"),
    "an announcement to one": (0x1CEC56F4, "20290006FF000200"),
    "an unknown control byte": (0x1CEC56F4, "0029000604000200"),
    "packet 0": (0x1CEB56F4, "0001020304050607"),
    "packet 7 of 6": (0x1CEB56F4, "0701020304050607"),
    "a short packet": (0x1CEB56F4, "01010203040506"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_packet_is_counted_and_disturbs_nothing(name):
    can_id, data = MALFORMED[name]
    found, faults = heard([*RTS[:3], (4 * MS, can_id, bytes.fromhex(data)), *RTS[3:]])
    assert [data for _, _, data in found] == [BRM]
    assert faults == Counter({TransportFault.MALFORMED: 1})


def test_the_last_packet_may_be_short():
    """The standard pads it; not every node does."""
    now, can_id, data = RTS[8]
    assert [data for _, _, data in heard([*RTS[:8], (now, can_id, data[:7]), RTS[9]])[0]] == [BRM]


def test_frames_of_other_groups_are_none_of_its_business():
    reassembler = TransportReassembler()
    for can_id in (0x18FEF100, 0x1DEC56F4, 0x1EEB56F4, 0x1CE956F4):
        assert not reassembler.is_packet(can_id)
        assert reassembler.receive(can_id, bytes(8), 0) is None
    assert reassembler.is_packet(0x1CEC56F4)
    assert reassembler.is_packet(0x00EBFF00)
    assert reassembler.faults == Counter()


def test_a_flood_of_announcements_does_not_grow():
    reassembler = TransportReassembler()
    for number in range(3 * SESSIONS_MAX):
        can_id = 0x1CEC0000 | (number % 0xFF) << 8 | number // 0xFF
        reassembler.receive(can_id, RTS[0][2], 0)
    assert reassembler.faults == Counter({TransportFault.UNFINISHED: 2 * SESSIONS_MAX})
    reassembler.finish()
    assert reassembler.faults == Counter({TransportFault.UNFINISHED: 3 * SESSIONS_MAX})


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 1 << 32), count=st.integers(1, 60))
def test_any_packets_are_taken(seed, count):
    """Random frames of three nodes: nothing is raised, and a message is as long as an announcement said."""
    draw = random.Random(seed)
    reassembler = TransportReassembler()
    announced = set()
    now = 0
    for _ in range(count):
        source, destination = draw.choice((1, 2, 3)), draw.choice((1, 2, 3, 255))
        if draw.random() < 0.4:
            size = draw.randrange(1, 30)
            data = bytes(
                [
                    draw.choice((16, 17, 19, 32, 255)),
                    size,
                    0,
                    draw.choice((-(-size // 7), 1)),
                    255,
                    0,
                    draw.choice((2, 0xF0)),
                    0,
                ]
            )
            announced.add(size)
            can_id = 0x1CEC0000
        else:
            data = bytes([draw.randrange(5)]) + draw.randbytes(7)
            can_id = 0x1CEB0000
        now += draw.choice((0, 1, MS, SESSION_TIMEOUT_NS + 1, -5))
        message = reassembler.receive(can_id | destination << 8 | source, data[: draw.choice((8, 8, 8, 3))], now)
        assert message is None or len(message.data) in announced


# --- Which message ------------------------------------------------------------------------------------------------------

J1939 = """BU_: A
BO_ 2566844926 CCVS: 8 A
 SG_ Speed : 8|16@1+ (0.00390625,0) [0|250.996] "km/h" A
BO_ 2147483904 Ext100: 8 A
BO_ 256 Std100: 8 A
BO_ 2364539905 EEC1_second: 8 A
BO_ 2364540158 EEC1_any: 8 A
BO_ 2382485247 Own_to_FF: 8 A
BO_ 2382439158 Own_to_4B: 8 A
"""
ATTRIBUTES = """BA_DEF_ BO_ "VFrameFormat" ENUM "StandardCAN","ExtendedCAN","reserved","J1939PG";
BA_DEF_DEF_ "VFrameFormat" "J1939PG";
BA_ "VFrameFormat" BO_ 2147483904 1;
"""


def found_by(finder, can_id, *, is_extended_id=True):
    message = finder.find(can_id, is_extended_id=is_extended_id)
    return message and message.name


def test_a_parameter_group_is_found_whatever_its_address_and_priority():
    """cantools 504: the DBC says address FE, the bus 00."""
    finder = MessageFinder([loads(J1939 + ATTRIBUTES)])
    assert finder.has_j1939
    for can_id in (0x18FEF1FE, 0x18FEF100, 0x0CFEF117):
        assert found_by(finder, can_id) == "CCVS"
    assert found_by(finder, 0x18FEF200) is None
    assert found_by(finder, 0x19FEF100) is None  # Data page 1 is another group.
    assert found_by(finder, 0x100) == "Ext100"
    assert found_by(finder, 0x18000100) is None  # Declared to be no J1939: only its own id.
    assert found_by(finder, 0x100, is_extended_id=False) == "Std100"
    assert found_by(finder, 0x18FEF100, is_extended_id=False) is None


def test_a_database_decodes_a_frame_by_its_parameter_group():
    database = loads(J1939 + ATTRIBUTES)
    assert database.decode(CanFrame(0x18FEF100, bytes.fromhex("0080160000000000"), is_extended_id=True)) == {
        "Speed": 22.5
    }
    with pytest.raises(SignalError, match="no message with CAN id 0x18FEF200"):
        database.decode(CanFrame(0x18FEF200, bytes(8), is_extended_id=True))


def test_of_several_messages_with_one_group_the_nearest_addresses_count():
    finder = MessageFinder([loads(J1939 + ATTRIBUTES)])
    assert found_by(finder, 0x0CF00401) == "EEC1_second"
    assert found_by(finder, 0x18F00401) == "EEC1_second"
    assert found_by(finder, 0x0CF00407) == "EEC1_any"
    first, second = (loads(J1939)[name].can_id for name in ("Own_to_FF", "Own_to_4B"))
    assert pgn_of(first) == pgn_of(second)
    assert found_by(finder, second & ~0xFF | 0x77) == "Own_to_4B"
    assert found_by(finder, first & ~0xFF | 0x77) == "Own_to_FF"


def test_a_dbc_that_does_not_say_so_is_matched_by_group_on_demand():
    database = loads(J1939)
    plain = MessageFinder([database])
    assert (plain.has_j1939, found_by(plain, 0x18FEF100)) == (False, None)
    told = MessageFinder([database], j1939=True)
    assert (told.has_j1939, found_by(told, 0x18FEF100)) == (True, "CCVS")
    assert found_by(told, 0x100, is_extended_id=False) == "Std100"


def test_a_mask_compares_the_bits_it_has():
    """As `cantools decode -m 0x3FFFF00`; the kind of the id is always compared."""
    finder = MessageFinder([loads(J1939)], id_mask=0x3FFFF00)
    assert found_by(finder, 0x18FEF100) == "CCVS"
    assert found_by(finder, 0x0CFEF155) == "CCVS"
    assert found_by(finder, 0x18FEF100, is_extended_id=False) is None
    assert found_by(finder, 0x1FF, is_extended_id=False) == "Std100"
    assert found_by(finder, 0x0CF00401) == "EEC1_second"  # A whole id that is in the DBC comes before the mask.
    assert not finder.has_j1939


def test_the_first_database_that_has_the_id_counts():
    one, two = loads("BO_ 1 One: 1 A\n"), loads("BO_ 1 Two: 1 A\nBO_ 2 Three: 1 A\n")
    finder = MessageFinder([one, two])
    assert [found_by(finder, number, is_extended_id=False) for number in (1, 2, 3)] == ["One", "Three", None]
