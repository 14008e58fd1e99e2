"""Values for people: every body of both editions under its name, nothing lost, nothing that an answer can't carry."""

import json
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta

import pytest
from bmsota_cloud.services.report_facts import Facts, ReportReader
from bmsota_cloud.services.values import body_name, frames_in, plain_values, read_report
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.gbt32960 import (
    Alarms,
    BmsConfiguration,
    BodyCodec,
    CanSignals,
    CellVoltages,
    Command,
    ConfigurationItem,
    DriveMotor,
    DriveMotors,
    Edition,
    FaultChange,
    FaultChanges,
    Frame,
    Layouts,
    RawBody,
    Report,
    Sentinel,
    SubsystemVoltages,
    UserDefined,
    decode,
    encode,
)
from bmsota.gbt32960._json import _hints, _members
from bmsota.gbt32960.rows import Field, Layout, Text

T0 = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
VIN = "TESTVEHICLE000001"


def report(*bodies, at=0):
    return Report(T0 + timedelta(seconds=at), bodies)


def part(number, first, count, volts):
    return CellVoltages((SubsystemVoltages(number, 1.0, 1.0, count, first, tuple(volts)),))


def as_json(values):
    """As Starlette writes an answer."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False).encode("utf-8")


# Bodies as raw bytes, drawn from the type bytes of both editions, our extension, makers' own and unknown ones: whatever the codec
# makes of them has to come out.
TYPES = [*range(1, 10), 0x0A, 0x30, 0x31, 0x32, 0x80, 0xB0, 0xB1, 0xB2, 0xFE, 0xFF]


def raw_frame(edition, unit):
    body = bytes([Command.REALTIME_REPORT, 0xFE]) + VIN.encode() + b"\x01" + len(unit).to_bytes(2, "big") + unit
    check = 0
    for byte in body:
        check ^= byte
    return edition.value + body + bytes([check])


@settings(max_examples=100, deadline=None)
@given(
    edition=st.sampled_from(list(Edition)),
    bodies=st.lists(
        st.tuples(
            st.sampled_from(TYPES),
            st.binary(max_size=60) | st.sampled_from((0, 1, 0xFE, 0xFF)).map(lambda b: bytes([b]) * 60),
        ),
        max_size=4,
    ),
    is_marked=st.booleans(),
)
def test_whatever_decodes_has_values_and_facts(edition, bodies, is_marked):
    unit = bytes([26, 11, 22, 8, 0, 0])
    for type_id, data in bodies:
        if type_id >= 0x80:
            mark = b"\xb5\x01" if is_marked and 0xB0 <= type_id <= 0xB2 else b""
            unit += bytes([type_id]) + len(mark + data).to_bytes(2, "big") + mark + data
        else:
            unit += bytes([type_id]) + data
    clear = raw_frame(edition, unit)
    found = read_report(clear)
    as_json(plain_values([found]))
    as_json(plain_values([found, found]))
    assert isinstance(ReportReader().one(clear), Facts)


def example(kind, seen=()):
    """A value of a dataclass of the codec with everything in it that can be told: built from its annotations."""
    values = {}
    for each in fields(kind):
        values[each.name] = _example(_hints(kind)[each.name])
    return kind(**values)


def _example(members):
    for member in members:
        origin = getattr(member, "__origin__", None)
        if origin is tuple:
            inner = member.__args__
            return tuple(_example(_members(one)) for one in inner if one is not Ellipsis)
        if isinstance(member, type) and hasattr(member, "__dataclass_fields__"):
            return example(member)
    simple = {str: "Zellen ü", bytes: b"\x00\xff", datetime: T0, bool: True, float: float("nan"), int: 9}
    for member in members:
        if member in simple:
            return simple[member]
    return Sentinel.ABNORMAL if Sentinel in members else next(iter(members[0]))


def test_values_of_every_body_class_can_be_answered():
    """Straight from the classes, also with what no frame can say: not-a-number, bytes, times."""
    from bmsota.gbt32960 import Body

    classes = list(Body.__args__)
    assert len(classes) > 25
    for kind in classes:
        values = plain_values([report(example(kind))])
        as_json(values)
        assert values, kind
        assert b"NaN" not in as_json(values)


def test_each_kind_stands_under_its_name_once_for_both_editions():
    from bmsota.gbt32960 import Body

    names = {}
    for kind in Body.__args__:
        names.setdefault(body_name(example(kind)), []).append(kind.__name__)
    shared = {name: kinds for name, kinds in names.items() if len(kinds) > 1}
    assert all(kinds[1] == f"{kinds[0]}2025" for name, kinds in shared.items() if not name.startswith("other"))
    assert {"vehicle", "alarms", "can_signals", "bms_configuration", "fault_changes", "signature"} <= names.keys()


def test_bodies_of_the_extension_of_makers_and_unknown_ones():
    item = ConfigurationItem(position=1, parameter=2, value=b"\x03")
    values = plain_values(
        [
            report(
                CanSignals(()),
                BmsConfiguration(1, (item,)),
                FaultChanges((example(FaultChange),)),
                UserDefined(0x83, b"\x01\xff"),
                RawBody(0x0A, b"\x02"),
            )
        ]
    )
    assert values["can_signals"] == {"messages": []}
    assert values["bms_configuration"]["items"] == [{"position": 1, "parameter": 2, "value": "03"}]
    assert values["fault_changes"]["changes"][0]["time"] == T0.isoformat()
    assert values["other"] == [{"type_id": 0x83, "data": "01ff"}, {"type_id": 0x0A, "data": "02"}]


def test_of_two_reports_the_newest_gives_each_body_and_makers_bodies_go_by_type():
    older = report(Alarms(1), UserDefined(0x83, b"a"), UserDefined(0x84, b"b"))
    newer = report(UserDefined(0x83, b"c"), at=1)
    values = plain_values([older, newer])
    assert values["alarms"]["level_max"] == 1
    assert sorted(item["data"] for item in values["other"]) == ["62", "63"]


def test_two_bodies_of_one_kind():
    motor = DriveMotor(1, 1, 40, 3000, 1.0, 50, 350.0, 10.0)
    values = plain_values([report(Alarms(1), Alarms(2), DriveMotors((motor,)), DriveMotors((motor,)))])
    assert (values["alarms"]["level_max"], values["alarms_2"]["level_max"]) == (1, 2)
    assert len(values["drive_motors"]["motors"]) == 2
    # One subsystem twice, with different cells.
    values = plain_values([report(part(1, 1, 2, [3.1, 3.2]), part(1, 1, 2, [3.3, 3.4]))])
    assert [item["cell_voltages_v"] for item in values["cell_voltages"]["subsystems"]] == [[3.1, 3.2], [3.3, 3.4]]


def test_parts_of_a_subsystem_are_joined_whatever_their_order_and_overlap():
    first, second = part(1, 1, 6, [3.1] * 4), part(1, 3, 6, [3.2] * 4)
    for reports in ([report(first, second)], [report(second), report(first)], [report(first), report(second, at=1)]):
        (item,) = plain_values(reports)["cell_voltages"]["subsystems"]
        assert (item["first_cell"], item["cell_count"], len(item["cell_voltages_v"])) == (1, 6, 6)
        assert "invalid" not in item["cell_voltages_v"]
    (item,) = plain_values([report(first, second), report(part(1, 1, 6, [3.9]), at=1)])["cell_voltages"]["subsystems"]
    assert item["cell_voltages_v"][0] == 3.9
    assert item["cell_voltages_v"][1] == 3.1


def test_cells_that_did_not_come_are_not_invented():
    (item,) = plain_values([report(part(1, 3, 4, [3.3, 3.4]))])["cell_voltages"]["subsystems"]
    assert item["cell_voltages_v"] == ["invalid", "invalid", 3.3, 3.4]


def test_a_subsystem_that_claims_65531_cells_does_not_fill_the_memory():
    (item,) = plain_values([report(part(1, 60000, 65531, [3.3, 3.4]))])["cell_voltages"]["subsystems"]
    assert (item["first_cell"], item["cell_count"], item["cell_voltages_v"]) == (60000, 65531, [3.3, 3.4])
    # A part that contradicts its own count is shown as it came.
    (item,) = plain_values([report(part(1, 5, 3, [3.3, 3.4]))])["cell_voltages"]["subsystems"]
    assert (item["first_cell"], item["cell_voltages_v"]) == (5, [3.3, 3.4])


def test_a_broken_tail_keeps_the_bodies_before_it():
    good = encode(Frame(command=Command.REALTIME_REPORT, vin=VIN, message=report(Alarms(2, 1))))
    clear = raw_frame(Edition.GBT2016, good[24:-1] + b"\x01\x02")
    with pytest.raises(Exception, match="more bytes"):
        decode(clear)
    assert plain_values([read_report(clear)])["alarms"]["level_max"] == 2
    facts = ReportReader().one(clear)
    assert facts.alarm_level == 2


def test_frames_in_a_row_and_a_cut_one():
    one, two = (
        encode(Frame(command=Command.REALTIME_REPORT, vin=VIN, message=report(Alarms(level)))) for level in (1, 2)
    )
    assert list(frames_in(one + two)) == [one, two]
    for cut in range(1, len(two)):
        assert list(frames_in(one + two[:-cut])) == [one]


@dataclass(frozen=True, slots=True)
class Coolant:
    flow_l_per_min: float


COOLANT = Layout(
    cls=Coolant, label="coolant", rows=(Field(name="flow_l_per_min", size_bytes=1, raw_min=0, raw_max=250, divisor=10),)
)


def test_a_makers_body_with_a_layout_shows_its_values():
    layouts = Layouts(BodyCodec(type_id=0x93, layout=COOLANT))
    clear = raw_frame(Edition.GBT2016, bytes([26, 11, 22, 8, 0, 0, 0x93, 0, 1, 42]))
    assert plain_values([read_report(clear, layouts)])["other"] == [{"flow_l_per_min": 4.2}]
    assert plain_values([read_report(clear)])["other"] == [{"type_id": 0x93, "data": "2a"}]
    assert ReportReader(layouts).one(clear).coverage.kinds == {"other Coolant"}


@dataclass(frozen=True, slots=True)
class Label:
    text: str


def test_bytes_that_are_no_text_can_be_answered():
    label = Layout(cls=Label, label="label", rows=(Text(name="text", size_bytes=3),))
    layouts = Layouts(BodyCodec(type_id=0x93, layout=label))
    clear = raw_frame(Edition.GBT2016, bytes([26, 11, 22, 8, 0, 0, 0x93, 0, 3]) + b"A\x81\xff")
    values = plain_values([read_report(clear, layouts)])
    assert values["other"] == [{"text": "A\\udc81\\udcff"}]
    as_json(values)
