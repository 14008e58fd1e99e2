"""The codec as a whole: round trips of everything that can be said, and refusal of everything else.

The values are generated from the same tables as the codec, so these tests say nothing about the tables; `test_vectors` does.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.checksums import bcc_xor
from bmsota.errors import FrameError, LocalProtocolError
from bmsota.gbt32960 import (
    BEIJING,
    BRAKE_PRESSED,
    FRAME_SIZE_BYTES_MAX,
    Activation,
    ActivationReply,
    AlarmFlag,
    Alarms,
    Alarms2025,
    CellVoltages,
    ChargingState,
    Command,
    Control,
    DriveMotors,
    EchoReply,
    Edition,
    EmptyReply,
    Encryption,
    Engine2025,
    Extremes,
    Frame,
    Gear,
    GearPosition,
    Heartbeat,
    Parameter,
    ParameterQuery,
    ParameterValues,
    PlatformLogin,
    PlatformLogout,
    Position,
    Position2025,
    ProbeTemperatures,
    RawBody,
    RawMessage,
    RemoteUpgrade,
    ReplyFlag,
    Report,
    RunMode,
    Sentinel,
    Signature,
    SignatureAlgorithm,
    SubsystemTemperatures,
    SubsystemVoltages,
    TerminalAlarm,
    TimeReply,
    TimeSync,
    UserDefined,
    VehicleData,
    VehicleLogin,
    VehicleLogin2025,
    VehicleLogout,
    VehicleState,
    beijing_time,
    decode,
    decode_header,
    encode,
    explain,
    nanoseconds,
)
from bmsota.gbt32960._compile import decoder, encoder
from bmsota.gbt32960._fields import (
    CodeTable,
    Field,
    FixedBytes,
    Layout,
    PackTable,
    Repeat,
    SizedBytes,
    SizedText,
    Text,
    Time,
    sentinel_raws,
)
from bmsota.gbt32960._plain import bytes_of_rows, values_in
from bmsota.gbt32960._tables import (
    ACTIVATION,
    ACTIVATION_REPLY,
    BODY_LAYOUTS,
    EXTENSION_BODY_LAYOUTS,
    EXTENSION_LAYOUTS,
    EXTENSION_REPLY_LAYOUTS,
    KEY_EXCHANGE,
    PLATFORM_LOGIN_2016,
    PLATFORM_LOGIN_2025,
    PLATFORM_LOGOUT,
    VEHICLE_LOGIN_2016,
    VEHICLE_LOGIN_2025,
    VEHICLE_LOGOUT,
)

pytestmark = pytest.mark.slow

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=BEIJING)
VIN = "LTEST000000000001"

VEHICLE = VehicleData(
    vehicle_state=VehicleState.STARTED,
    charging_state=ChargingState.NOT_CHARGING,
    run_mode=RunMode.ELECTRIC,
    speed_kmh=52.3,
    odometer_km=12345.6,
    total_voltage_v=371.2,
    total_current_a=-8.5,
    soc_pct=69,
    dcdc_state=1,
    gear=GearPosition.DRIVE,
    insulation_kohm=5085,
    accelerator_pct=12,
    brake_pct=0,
)


def login_2025(pack_codes):
    return Frame(command=1, vin=VIN, message=VehicleLogin2025(NOW, 1, "9", pack_codes), edition=Edition.GBT2025)


def frame_of(*bodies, **more):
    return Frame(command=Command.REALTIME_REPORT, vin=VIN, message=Report(NOW, bodies), **more)


ALL_BODIES = [layout for layouts in BODY_LAYOUTS.values() for layout in layouts.values()]


# --- values made from the tables ---------------------------------------------------------------------------------------

times = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31, 23, 59, 59)).map(  # noqa: DTZ001 zone added below
    lambda moment: moment.replace(microsecond=0, tzinfo=BEIJING)
)
identifiers = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=17)


def texts(size):
    """Text of at most *size* bytes in GB 18030, without zero bytes at its end."""
    return st.one_of(
        st.text(st.characters(min_codepoint=1, max_codepoint=0x7E), max_size=size),
        st.text("威海空港", max_size=size // 2),
        st.binary(max_size=size).map(lambda raw: raw.rstrip(b"\0").decode("gb18030", "surrogateescape")),
    ).filter(lambda text: not text.endswith("\0") and len(text.encode("gb18030", "surrogateescape")) <= size)


def values_of(row):
    match row:
        case Field():
            limit = row.raw_limit
            raws = st.one_of(st.integers(0, limit), st.sampled_from([0, limit, row.raw_min, row.raw_max]))
            numbers = raws.map(row.value)
            return st.one_of(numbers, st.sampled_from(Sentinel)) if row.sentinels else numbers
        case Time():
            return times
        case Text():
            return texts(row.size_bytes).filter(lambda text: not text.endswith(row.padding.decode()))
        case SizedText():
            return st.text(min_size=row.size_bytes_min, max_size=row.size_bytes_max // 4)
        case SizedBytes():
            return st.binary(min_size=row.size_bytes_min, max_size=300)
        case FixedBytes():
            return st.binary(min_size=row.size_bytes, max_size=row.size_bytes)
        case Repeat():
            items = values_of_layout(row.item) if isinstance(row.item, Layout) else values_of(row.item)
            # Long lists of numbers, short lists of structures.
            size = 3 if isinstance(row.item, Layout) else 20
            lists = st.lists(items, max_size=size).map(tuple)
            return st.one_of(lists, st.sampled_from(Sentinel)) if row.sentinels else lists
        case PackTable():
            return st.lists(st.lists(texts(row.code_size_bytes), max_size=3).map(tuple), max_size=4).map(tuple)
        case CodeTable():
            return st.one_of(
                st.tuples(st.integers(0, 255), st.just(0), st.just(())),
                st.integers(1, 9).flatmap(
                    lambda length: st.lists(texts(length), max_size=5).map(
                        lambda codes: (len(codes), length, tuple(codes))
                    )
                ),
            )


def values_of_layout(layout):
    if layout.cls is Position:
        return positions()
    if layout.cls is Position2025:
        systems = values_of(layout.rows[1])
        return st.builds(
            lambda old, system: Position2025(old.valid, system, old.longitude_deg, old.latitude_deg, old.reserved_bits),
            positions(),
            systems,
        )
    rows = [row for row in layout.rows if getattr(row, "name", "") != "extension"]
    values = st.tuples(*map(values_of, rows))
    if len(rows) < len(layout.rows):  # Our extension: its version is not a part of the value.
        index = next(i for i, row in enumerate(layout.rows) if row.name == "extension")
        return values.map(lambda found: layout.build(*found[:index], None, *found[index:]))
    return values.map(lambda found: (layout.build or layout.cls)(*found))


@st.composite
def positions(draw):
    degrees = st.integers(0, 0xFFFFFFFD).map(lambda raw: raw / 1_000_000)
    signed = st.one_of(degrees, degrees.map(lambda value: -value), st.sampled_from(Sentinel))
    longitude, latitude = draw(signed), draw(signed)
    bits = draw(st.integers(0, 31)) << 3
    bits |= draw(st.sampled_from([0, 4])) if isinstance(longitude, Sentinel) else 0
    bits |= draw(st.sampled_from([0, 2])) if isinstance(latitude, Sentinel) else 0
    return Position(draw(st.booleans()), longitude, latitude, bits)


def bodies_of(edition):
    """Any body but a signature, which has its place."""
    layouts = [layout for type_id, layout in BODY_LAYOUTS[edition].items() if type_id != 0xFF]
    own = EXTENSION_BODY_LAYOUTS.values()
    return st.one_of(*map(values_of_layout, (*layouts, *own))) | st.builds(
        UserDefined, st.integers(0x80, 0xFE), st.binary(max_size=40).filter(lambda data: data[:2] != b"\xb5\x01")
    )


bodies = bodies_of(Edition.GBT2016)
bodies_2025 = bodies_of(Edition.GBT2025)
last_bodies = st.builds(RawBody, st.sampled_from([0, *range(0x0A, 0x80), 0xFF]), st.binary(max_size=40))
reports = st.tuples(times, st.lists(bodies, max_size=5), st.lists(last_bodies, max_size=1)).map(
    lambda parts: Report(parts[0], (*parts[1], *parts[2]))
)
signatures = st.builds(
    Signature,
    st.sampled_from(SignatureAlgorithm) | st.sampled_from([0, 4, 255]),
    st.binary(max_size=300),
    st.binary(max_size=40),
)
last_bodies_2025 = (
    st.builds(RawBody, st.sampled_from([0, *range(0x09, 0x30), *range(0x33, 0x80)]), st.binary(max_size=40))
    | signatures
)
reports_2025 = st.tuples(times, st.lists(bodies_2025, max_size=5), st.lists(last_bodies_2025, max_size=1)).map(
    lambda parts: Report(parts[0], (*parts[1], *parts[2]))
)

words = st.integers(0, 0xFFFD) | st.sampled_from(Sentinel)
plain_parameters = st.dictionaries(st.sampled_from([0x01, 0x02, 0x03, 0x06, 0x0A, 0x0B, 0x0F]), words, max_size=7)
upgrade_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters=";"), max_size=12)
upgrades = st.builds(
    RemoteUpgrade,
    url=upgrade_text.map("https://{}".format),
    apn=upgrade_text,
    user=upgrade_text,
    password=upgrade_text.filter(lambda text: "://" not in text),
    address=st.from_regex(r"[a-z]{0,9}", fullmatch=True),
    port=st.none() | st.integers(0, 65531),
    maker_code=upgrade_text,
    hardware_version=upgrade_text,
    firmware_version=upgrade_text,
    connect_limit_min=st.none() | st.integers(0, 60000),
).filter(lambda upgrade: all("://" not in text for text in (upgrade.apn, upgrade.user, upgrade.maker_code)))

COMMANDS = {
    Command.VEHICLE_LOGIN: values_of_layout(VEHICLE_LOGIN_2016),
    Command.REALTIME_REPORT: reports,
    Command.BACKFILL_REPORT: reports,
    Command.VEHICLE_LOGOUT: values_of_layout(VEHICLE_LOGOUT),
    Command.PLATFORM_LOGIN: values_of_layout(PLATFORM_LOGIN_2016),
    Command.PLATFORM_LOGOUT: values_of_layout(PLATFORM_LOGOUT),
    Command.HEARTBEAT: st.just(Heartbeat()),
    Command.TIME_SYNC: st.just(TimeSync()),
    Command.QUERY_PARAMETERS: st.builds(
        ParameterQuery, times, st.lists(st.integers(0, 255), max_size=20).map(tuple) | st.sampled_from(Sentinel)
    ),
    Command.SET_PARAMETERS: st.builds(ParameterValues.build, times, plain_parameters),
    Command.CONTROL: st.one_of(
        st.builds(Control, times, st.sampled_from([2, 3, 4, 5, 7, 0x80]), st.binary(max_size=20)),
        st.builds(Control, times, st.just(1), upgrades),
        st.builds(Control, times, st.just(6), st.builds(TerminalAlarm, st.integers(0, 255), st.text(max_size=9))),
    ).filter(lambda control: not (isinstance(control.parameters, TerminalAlarm) and "\0" in control.parameters.text)),
    0x42: st.builds(RawMessage, st.binary(max_size=60)),
    0xCD: st.builds(RawMessage, st.binary(max_size=60)),
} | {command: values_of_layout(layout) for command, layout in EXTENSION_LAYOUTS.items()}
COMMANDS_2025 = COMMANDS | {
    Command.VEHICLE_LOGIN: values_of_layout(VEHICLE_LOGIN_2025),
    Command.REALTIME_REPORT: reports_2025,
    Command.BACKFILL_REPORT: reports_2025,
    Command.PLATFORM_LOGIN: values_of_layout(PLATFORM_LOGIN_2025),
    Command.ACTIVATION: values_of_layout(ACTIVATION),
    Command.ACTIVATION_REPLY: values_of_layout(ACTIVATION_REPLY),
    Command.KEY_EXCHANGE: values_of_layout(KEY_EXCHANGE),
    Command.SET_PARAMETERS: st.builds(
        ParameterValues.build,
        times,
        st.dictionaries(st.sampled_from([2, 3, 9, 0x0C]), st.integers(0, 253) | st.sampled_from(Sentinel), max_size=4),
    ),
}
TIMELESS = (Command.ACTIVATION_REPLY, Command.KEY_EXCHANGE)

replies = st.one_of(
    st.just(EmptyReply()),
    st.builds(TimeReply, times),
    st.builds(EchoReply, times, st.binary(min_size=1, max_size=40)),
)
frames = st.one_of(
    *(
        st.builds(Frame, command=st.just(command), vin=identifiers, message=messages)
        for command, messages in COMMANDS.items()
    ),
    *(
        st.builds(Frame, command=st.just(command), vin=identifiers, message=messages, edition=st.just(Edition.GBT2025))
        for command, messages in COMMANDS_2025.items()
    ),
    *(  # Messages without a time are themselves in an answer, too.
        st.builds(
            Frame,
            command=st.just(command),
            vin=identifiers,
            message=COMMANDS_2025[command],
            reply_flag=st.integers(0, 0xFD),
            edition=st.just(Edition.GBT2025),
        )
        for command in TIMELESS
    ),
    *(
        st.builds(
            Frame,
            command=st.just(command),
            vin=identifiers,
            message=values_of_layout(layout),
            reply_flag=st.just(ReplyFlag.SUCCESS),
            edition=st.sampled_from(Edition),
        )
        for command, layout in EXTENSION_REPLY_LAYOUTS.items()
    ),
    st.builds(
        Frame,
        command=st.integers(0, 255).filter(lambda command: command not in (Command.QUERY_PARAMETERS, *TIMELESS)),
        vin=identifiers,
        message=replies,
        reply_flag=st.integers(0, 0xFD),
        edition=st.sampled_from(Edition),
    ),
    st.builds(
        Frame,
        command=st.integers(0, 255),
        vin=identifiers,
        message=st.builds(RawMessage, st.binary(max_size=60)),
        reply_flag=st.integers(0, 255),
        edition=st.sampled_from(Edition),
        encryption=st.sampled_from([Encryption.RSA, Encryption.AES, Encryption.SM4, Encryption.INVALID]),
    ),
)


def repaired(data):
    """The same bytes with a right check byte."""
    return data[:-1] + bytes((bcc_xor(data[2:-1]),))


# --- round trips -------------------------------------------------------------------------------------------------------


@settings(max_examples=600, deadline=None)
@given(frames)
def test_what_is_encoded_decodes_to_the_same_value(frame):
    """For every message of both directions, with sentinels, at the limits, with any identifier."""
    data = encode(frame)
    assert decode(data) == frame
    assert b"".join(field.data for field in explain(data)) == data


@settings(max_examples=300, deadline=None)
@given(bodies | bodies_2025)
def test_the_compiled_encoder_writes_what_the_plain_one_does(body):
    """Two ways from the same table to the same bytes."""
    layout = next((found for found in ALL_BODIES if found.cls is type(body)), None)
    if layout is not None:
        out = []
        encoder(layout, strict=False)(body, out)
        assert b"".join(out) == bytes_of_rows(layout.rows, layout.label, values_in(layout, body), strict=False)


MESSAGES_2025 = (VEHICLE_LOGIN_2025, PLATFORM_LOGIN_2025, ACTIVATION, ACTIVATION_REPLY, KEY_EXCHANGE)


@pytest.mark.parametrize(
    "layout", [*ALL_BODIES, *EXTENSION_LAYOUTS.values(), *EXTENSION_REPLY_LAYOUTS.values(), *MESSAGES_2025]
)
def test_the_compiled_codec_says_what_the_table_says(layout):
    """Row by row: the plain `Field.value` and the compiled decoder agree for every raw number, or a fair sample of them."""
    for row, offset in fixed_fields(layout):
        for raw in sample_of(row):
            data = bytearray(filling(layout))
            data[offset : offset + row.size_bytes] = raw.to_bytes(row.size_bytes, "big")
            value, end = decoder(layout)(bytes(data), 0, len(data))
            assert end == len(data)
            if layout.cls not in (Position, Position2025):
                got = getattr(value, row.name, None)
                assert got == row.value(raw) or row.name.startswith(("version", "extension"))
            out = []
            encoder(layout, strict=False)(value, out)
            assert b"".join(out) == bytes(data)


def fixed_fields(layout):
    """The numbers in front of anything of variable size, with their offsets."""
    offset = 0
    for row in layout.rows:
        if isinstance(row, Field) and row.name != "extension":
            yield row, offset
        match row:
            case Field() | Text() | FixedBytes():
                offset += row.size_bytes
            case Time():
                offset += 6
            case _:
                return


def filling(layout):
    """The shortest valid bytes for a layout: zeros, an empty list, and what may not be zero."""
    parts = []
    for row in layout.rows:
        match row:
            case Field(name="extension"):
                parts.append(row.raw_min.to_bytes(2, "big"))
            case Field() | FixedBytes():
                parts.append(bytes(row.size_bytes))
            case Time():
                parts.append(bytes((26, 1, 1, 0, 0, 0)))
            case Repeat():
                parts.append(bytes(row.count_size_bytes))
            case SizedText():
                parts.append(bytes((row.size_bytes_min,)) + b"x" * row.size_bytes_min)
            case Text():
                parts.append(row.padding * row.size_bytes)
            case PackTable():
                parts.append(b"\0")
            case SizedBytes():
                parts.append(row.size_bytes_min.to_bytes(2, "big") + b"x" * row.size_bytes_min)
    return b"".join(parts)


def sample_of(row):
    top = (1 << (8 * row.size_bytes)) - 1
    if row.size_bytes == 1:
        return range(256)
    return sorted(
        {*range(0, top, top // 1999), 0, 1, row.raw_min, row.raw_max, min(row.raw_max + 1, top), top - 2, top - 1, top}
    )


def test_every_cell_voltage_is_the_nearest_decimal():
    """3.712 is 3.712 and not 3.7120000000000002, for each of the 65534 raw numbers, and comes back."""
    for first in range(0, 65534, 200):
        raws = range(first, min(first + 200, 65534))
        cells = tuple(float(f"{raw // 1000}.{raw % 1000:03d}") for raw in raws)
        data = encode(frame_of(CellVoltages((SubsystemVoltages(1, 1.0, 1.0, len(cells), 1, cells),))))
        # Behind the header, the time, the type, the count of subsystems, and ten bytes of this one.
        assert data[42:-1] == b"".join(raw.to_bytes(2, "big") for raw in raws)
        assert decode(data).message.bodies[0].subsystems[0].cell_voltages_v == cells


def test_values_between_two_steps_are_rounded():
    """A simulated 3.71249 V goes out as 3.712 V, a float where the table has whole numbers is rounded."""
    cells = (3.71249, 3.71251, 0.0004, Sentinel.ABNORMAL)
    sent = frame_of(
        CellVoltages((SubsystemVoltages(1, 371.26, -0.04, 4, 1, cells),)),
        ProbeTemperatures((SubsystemTemperatures(1, (24.6, -40.4, Sentinel.INVALID)),)),
        replace(VEHICLE, soc_pct=68.7, speed_kmh=0.04),
    )
    voltages, temperatures, vehicle = decode(encode(sent, strict=True)).message.bodies
    assert voltages.subsystems[0].cell_voltages_v == (3.712, 3.713, 0.0, Sentinel.ABNORMAL)
    assert (voltages.subsystems[0].voltage_v, voltages.subsystems[0].current_a) == (371.3, 0.0)
    assert temperatures.subsystems[0].temperatures_c == (25, -40, Sentinel.INVALID)
    assert (vehicle.soc_pct, vehicle.speed_kmh) == (69, 0.0)


# --- every sentinel ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sentinel", Sentinel)
def test_every_field_that_has_sentinels_keeps_them(sentinel):
    """Each field of each body, alone, decodes to the sentinel and encodes back, under both rules."""
    seen = 0
    for layout in ALL_BODIES:
        for row, offset in fixed_fields(layout):
            if not row.sentinels or layout.cls in (Position, Position2025):
                continue
            raw = next(raw for raw, found in sentinel_raws(row.size_bytes).items() if found is sentinel)
            data = bytearray(filling(layout))
            data[offset : offset + row.size_bytes] = raw.to_bytes(row.size_bytes, "big")
            value, _ = decoder(layout)(bytes(data), 0, len(data))
            assert getattr(value, row.name) is sentinel
            out = []
            encoder(layout, strict=False)(value, out)
            assert b"".join(out) == bytes(data)
            seen += 1
    in_2016 = 12 + 3 + 3 + 12 + 1  # Vehicle, fuel cell in front of its list, engine, extremes, alarms.
    in_2025 = 10 + 9 + 1 + 1 + 2 + 12  # Vehicle, fuel cell, engine, alarms, supercapacitor, its extremes.
    assert seen == in_2016 + in_2025


@pytest.mark.parametrize("sentinel", Sentinel)
@pytest.mark.parametrize("make", [DriveMotors, CellVoltages, ProbeTemperatures])
def test_a_count_may_be_a_sentinel_and_carries_no_items(make, sentinel):
    """Surprise 9: 0xFE or 0xFF items are none, and the next body is where it should be."""
    sent = frame_of(make(sentinel), Alarms(0, 0, sentinel, (), sentinel, (1,)))
    assert decode(encode(sent, strict=True)) == sent


def test_a_truncated_list_is_an_error_and_never_a_shorter_list():
    """253 motors announced and none there is refused; so are cells that are cut off."""
    whole = encode(frame_of(CellVoltages((SubsystemVoltages(1, 1.0, 1.0, 96, 1, (3.3,) * 96),))))
    for cut in range(1, 194):
        data = whole[:22] + (len(whole) - 25 - cut).to_bytes(2, "big") + whole[24 : -1 - cut] + b"\0"
        with pytest.raises(FrameError, match=r"0x08|subsystem"):
            decode(repaired(data))


# --- times ---------------------------------------------------------------------------------------------------------------


def test_times_of_any_zone_are_sent_as_beijing_time():
    """The same instant gives the same bytes, whatever zone it is written in."""
    utc = datetime(2026, 3, 3, 21, 6, 7, tzinfo=UTC)
    newfoundland = utc.astimezone(timezone(-timedelta(hours=3, minutes=30)))
    expected = encode(frame_of())
    for moment in (utc, newfoundland, NOW, NOW.replace(microsecond=999_999)):
        assert encode(Frame(command=2, vin=VIN, message=Report(moment, ()))) == expected
    assert expected[24:30] == bytes((26, 3, 4, 5, 6, 7))


@pytest.mark.parametrize(
    "raw",
    [(100, 1, 1, 0, 0, 0), (26, 0, 1, 0, 0, 0), (26, 13, 1, 0, 0, 0), (26, 2, 29, 0, 0, 0), (26, 1, 1, 24, 0, 0),
     (26, 1, 1, 0, 60, 0), (26, 1, 1, 0, 0, 60), (255,) * 6],
)  # fmt: skip
def test_a_time_that_does_not_exist_is_refused(raw):
    data = bytearray(encode(frame_of(VEHICLE)))
    data[24:30] = bytes(raw)
    with pytest.raises(FrameError, match="time: expected a date") as caught:
        decode(repaired(bytes(data)))
    assert caught.value.offset == 24


def test_instants_are_integers_of_nanoseconds():
    """There and back; a naive datetime has no instant."""
    now_ns = 1_767_225_600_123_456_789
    assert beijing_time(now_ns).isoformat() == "2026-01-01T08:00:00+08:00"
    assert nanoseconds(beijing_time(now_ns)) == 1_767_225_600_000_000_000
    with pytest.raises(LocalProtocolError, match="aware"):
        nanoseconds(datetime(2026, 1, 1))  # noqa: DTZ001 the point


# --- refusals of encode ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (replace(VEHICLE, speed_kmh=-0.1), "speed_kmh: expected 0 to"),
        (replace(VEHICLE, speed_kmh=6553.4), "speed_kmh"),
        (replace(VEHICLE, speed_kmh=float("nan")), "speed_kmh"),
        (replace(VEHICLE, speed_kmh=float("inf")), "speed_kmh"),
        (replace(VEHICLE, speed_kmh=None), "speed_kmh"),
        (replace(VEHICLE, soc_pct=254), "soc_pct: expected 0 to 253 % or a Sentinel, got 254"),
        (replace(VEHICLE, soc_pct=-1), "soc_pct"),
        (replace(VEHICLE, soc_pct="69"), "soc_pct"),
        (replace(VEHICLE, soc_pct=[]), "soc_pct"),
        (replace(VEHICLE, gear=Sentinel.INVALID), "gear"),
        (replace(VEHICLE, odometer_km=1e12), "odometer_km"),
        (replace(VEHICLE, total_current_a=-1000.1), "total_current_a: expected -1000 to"),
        (replace(VEHICLE, total_current_a=5553.4), "total_current_a"),
        (CellVoltages((SubsystemVoltages(1, 1.0, 1.0, 1, 1, (65.534,)),)), "cell_voltages_v"),
        (CellVoltages((SubsystemVoltages(1, 1.0, 1.0, 1, 1, (3.3, -0.001)),)), "cell_voltages_v"),
        (CellVoltages((SubsystemVoltages(1, 1.0, 1.0, 1, 1, (3.3,) * 256),)), "0 to 255 items, got 256"),
        (CellVoltages((SubsystemVoltages(1, 1.0, 1.0, 1, 1, Sentinel.INVALID),)), "cell_voltages_v: expected a tuple"),
        (CellVoltages((VEHICLE,)), "expected SubsystemVoltages, got VehicleData"),
        (CellVoltages([VEHICLE]), "expected SubsystemVoltages, got VehicleData"),
        (CellVoltages(5), "subsystems: expected a tuple or a Sentinel, got 5"),
        (ProbeTemperatures((SubsystemTemperatures(1, (-41,)),)), "temperatures_c"),
        (ProbeTemperatures((SubsystemTemperatures(1, (214,)),)), "temperatures_c"),
        (Alarms(0, 0, (1 << 32,)), "ress_faults"),
        (Alarms(0, -1), "flags"),
        (Alarms(0, 0, (1,) * 254), "0 to 253 items"),
        (Position(True, 181e9, 0.0), "longitude_deg"),
        (Position(True, 1.0, 1.0, 2), "reserved_bits"),
        (UserDefined(0x7F, b""), "0x80 to 0xFE"),
        (UserDefined(0x80, b"x" * 65532), "at most 65531 bytes"),
        (RawBody(0x01, b""), "a type without a layout"),
        (RawBody(0x80, b""), "a type without a layout"),
        (TimeSync(), "expected bodies of the GBT2016 edition"),
        (None, "expected bodies"),
    ],
)  # fmt: skip
def test_what_the_wire_cannot_carry_is_refused_by_name(body, named):
    """An encoder never clamps, never wraps, and never lets a number turn into a sentinel."""
    with pytest.raises(LocalProtocolError, match=named):
        encode(frame_of(body))


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (replace(VEHICLE, speed_kmh=220.1), "speed_kmh: expected 0 to 220 km/h or a Sentinel, got 220.1"),
        (replace(VEHICLE, soc_pct=101), "soc_pct"),
        (replace(VEHICLE, vehicle_state=0), "vehicle_state"),
        (replace(VEHICLE, gear=0x40), "gear"),
        (replace(VEHICLE, brake_pct=102), "brake_pct"),
        (CellVoltages((SubsystemVoltages(0, 1.0, 1.0, 1, 1, (3.3,)),)), "number"),
        (CellVoltages((SubsystemVoltages(1, 1.0, 1.0, 1, 0, (3.3,)),)), "first_cell: expected 1 to 65531"),
        (CellVoltages((SubsystemVoltages(1, 1.0, 1.0, 1, 1, (60.001,)),)), "cell_voltages_v"),
        (CellVoltages((SubsystemVoltages(1, 1.0, 1.0, 1, 1, (3.3,) * 201),)), "1 to 200 items"),
        (CellVoltages(()), "1 to 250 items"),
        (Alarms(4), "level_max"),
        (Alarms(0, AlarmFlag.THERMAL_EVENT), "flags"),
        (Position(True, 180.1, 0.0), "longitude_deg"),
        (Extremes(251, 1, 3.3, 1, 1, 3.3, 1, 1, 20, 1, 1, 20), "cell_voltage_max_subsystem"),
    ],
)  # fmt: skip
def test_strict_encoding_refuses_what_the_text_does_not_allow(body, named):
    """The same value goes through without *strict*, so that a frame from the field can be sent on."""
    with pytest.raises(LocalProtocolError, match=named):
        encode(frame_of(body), strict=True)
    assert decode(encode(frame_of(body))).message.bodies == (body,)


def test_strict_encoding_accepts_what_the_text_allows():
    """Sentinels, the pressed brake pedal, and the ends of ranges."""
    body = replace(VEHICLE, soc_pct=Sentinel.INVALID, brake_pct=BRAKE_PRESSED, speed_kmh=220.0, total_current_a=1000.0)
    assert encode(frame_of(body), strict=True) == encode(frame_of(body))


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        (Frame(command=2, vin=VIN, message=Heartbeat()), "frame.command: expected 0x07"),
        (Frame(command=7, vin=VIN, message=Heartbeat(), reply_flag=1), "reply_flag"),
        (Frame(command=7, vin=VIN, message=EmptyReply()), "reply_flag"),
        (Frame(command=1, vin=VIN, message=VehicleLogin(NOW, 1, "9"), edition=Edition.GBT2025), "edition: expected GBT2016"),
        (Frame(command=1, vin=VIN, message=VehicleLogin2025(NOW, 1, "9")), "edition: expected GBT2025"),
        (Frame(command=0x0A, vin=VIN, message=ActivationReply(1)), "edition: expected GBT2025"),
        (Frame(command=2, vin=VIN, message=Report(NOW, (VEHICLE,)), edition=Edition.GBT2025), "bodies of the GBT2025"),
        (Frame(command=2, vin=VIN, message=Report(NOW, (Engine2025(1),))), "bodies of the GBT2016"),
        (Frame(command=2, vin=VIN, message=Report(NOW, (Signature(1, b""), Engine2025(1))), edition=Edition.GBT2025),
         "bodies follow the Signature"),
        (login_2025((("x" * 25,),)), "pack_codes: expected at most 24 bytes"),
        (login_2025(("ab",)), "pack_codes: expected a tuple of codes for each BMS"),
        (login_2025(((),) * 256), "at most 255 BMS"),
        (Frame(command=9, vin=VIN, message=Activation(NOW, "c", b"", VIN, None), edition=Edition.GBT2025),
         "activation.signature: expected a Signature"),
        (Frame(command=2, vin=VIN, message=Report(NOW, ()), encryption=3), "ciphertext"),
        (Frame(command=2, vin=VIN, message=RawMessage(b"x", is_plain=True), encryption=3), "pass its cipher, or the ciphertext"),
        (Frame(command=2, vin=VIN, message="x"), "expected a message of the cloud link, got str"),
        (Frame(command=256, vin=VIN, message=RawMessage(b"")), "frame.command"),
        (Frame(command=0x42, vin=VIN, message=RawMessage(b""), reply_flag=256), "from 0 to 255"),
        (Frame(command=0x42, vin=VIN, message=RawMessage(b"x" * 65532)), "at most 65531 bytes"),
        (Frame(command=7, vin=VIN + "8", message=Heartbeat()), "frame.vin"),
        (Frame(command=7, vin="威", message=Heartbeat()), "frame.vin"),
        (Frame(command=7, vin="A\nB", message=Heartbeat()), "frame.vin"),
        (Frame(command=7, vin=None, message=Heartbeat()), "frame.vin"),
        (Frame(command=7, vin="A ", message=Heartbeat()), "frame.vin"),
        (Frame(command=7, vin="A", vin_padding="B", message=Heartbeat()), "frame.vin"),
        (Frame(command=4, vin=VIN, message=VehicleLogout(datetime(2026, 1, 1), 1)), "aware"),  # noqa: DTZ001 the point
        (Frame(command=4, vin=VIN, message=VehicleLogout(datetime.max.replace(tzinfo=UTC), 1)), "2000 to 2099"),
        (Frame(command=4, vin=VIN, message=VehicleLogout(datetime(1999, 1, 1, tzinfo=UTC), 1)), "2000 to 2099"),
        (Frame(command=4, vin=VIN, message=VehicleLogout("now", 1)), "aware datetime"),
        (Frame(command=4, vin=VIN, message=VehicleLogout(NOW, 65536)), "serial"),
        (Frame(command=1, vin=VIN, message=VehicleLogin(NOW, 1, "9" * 21)), "iccid: expected at most 20 bytes"),
        (Frame(command=1, vin=VIN, message=VehicleLogin(NOW, 1, 9)), "iccid: expected text"),
        (Frame(command=1, vin=VIN, message=VehicleLogin(NOW, 1, "9", ("a",), 2)), "expected 2 subsystem codes"),
        (Frame(command=1, vin=VIN, message=VehicleLogin(NOW, 1, "9", ("ab",), 1, 1)), "at most 1 byte"),
        (Frame(command=1, vin=VIN, message=VehicleLogin(NOW, 1, "9", ("",))), "no subsystem codes"),
        (Frame(command=1, vin=VIN, message=VehicleLogin(NOW, 1, "9", (), 256)), "got 256 of 0"),
        (Frame(command=7, vin=VIN, message=EchoReply(NOW, b""), reply_flag=1), "use TimeReply"),
        (Frame(command=0x82, vin=VIN, message=Control(NOW, 256)), "control_id"),
    ],
)  # fmt: skip
def test_a_frame_that_makes_no_sense_is_refused(frame, named):
    with pytest.raises(LocalProtocolError, match=named):
        encode(frame)


def test_a_raw_body_may_only_be_the_last():
    """Its length is not on the wire, so nothing can follow it."""
    with pytest.raises(LocalProtocolError, match="only as the last"):
        encode(frame_of(RawBody(0x10, b""), VEHICLE))


# --- refusals of decode ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected", "offset"),
    [
        (b"", "at least 25 bytes", 0),
        (b"#", "at least 25 bytes", 1),
        (b"*#" + bytes(40), '"##"', 0),
        (b"*", '"##"', 0),
        (b"##" + bytes(30), "25 bytes for a data unit of 0", 22),
        (b"##" + bytes(20) + b"\xff\xff" + bytes(9), "a length of at most 65531", 22),
    ],
)
def test_the_outside_of_a_frame_is_checked(data, expected, offset):
    with pytest.raises(FrameError) as caught:
        decode(data)
    assert expected in caught.value.expected
    assert caught.value.offset == offset


@pytest.mark.parametrize(
    ("place", "byte", "where"),
    [(21, 0x00, "header"), (21, 0x06, "header"), (4, 0x0A, "identifier"), (4, 0xC3, "identifier"), (10, 0, "identifier")],
)  # fmt: skip
def test_the_header_of_a_frame_is_checked(place, byte, where):
    """An encryption that does not exist, and an identifier that would break a log line."""
    data = bytearray(encode(Frame(command=7, vin=VIN, message=Heartbeat())))
    data[place] = byte
    with pytest.raises(FrameError, match=where):
        decode(repaired(bytes(data)))


@pytest.mark.parametrize(
    ("command", "flag", "unit", "named"),
    [
        (1, 0xFE, bytes(6), "vehicle login"),
        (1, 0xFE, bytes((26, 1, 1, 0, 0, 0, 0, 1)) + bytes(20), "vehicle login: expected 2 more bytes"),
        (1, 0xFE, bytes((26, 1, 1, 0, 0, 0, 0, 1)) + bytes(20) + b"\x02\x03abc", "2 codes of 3 bytes"),
        (2, 0xFE, b"\x1a\x01\x01", "report: expected 6 more bytes"),
        (2, 0xFE, bytes((26, 1, 1, 0, 0, 0, 1)), "0x01 vehicle: expected 20 more bytes, got 0"),
        (2, 0xFE, bytes((26, 1, 1, 0, 0, 0, 0x80, 0)), "user-defined"),
        (2, 0xFE, bytes((26, 1, 1, 0, 0, 0, 0x80, 0, 2, 1)), "user-defined body 0x80: expected 2 more bytes, got 1"),
        (2, 0xFE, bytes((26, 1, 1, 0, 0, 0, 9, 1, 1)), "subsystem"),
        (4, 0xFE, bytes((26, 1, 1, 0, 0, 0, 0, 1, 0)), "expected the end of the data unit, got 1 more byte"),
        (7, 0xFE, b"\0", "Heartbeat: expected an empty data unit"),
        (8, 0xFE, b"\0", "TimeSync: expected an empty data unit"),
        (7, 0x01, b"\0", "reply: expected 6 more bytes"),
        (0x82, 0xFE, bytes(6), "control"),
        (0xC1, 0xFE, bytes((26, 1, 1, 0, 0, 0, 0xB5, 1)), "0xC1 upgrade state.order_id"),
        (0xC1, 0xFE, bytes((26, 1, 1, 0, 0, 0, 0xB5, 1, 3, 0x61)), "order_id: expected 3 more bytes"),
        (0xC1, 0xFE, bytes((26, 1, 1, 0, 0, 0, 0xB5, 1, 1, 0xFF, 4, 0, 0)), "order_id: expected UTF-8"),
        (0xC1, 0xFE, bytes((26, 1, 1, 0, 0, 0, 0xB5, 1, 65)) + b"x" * 70, "a length from 0 to 64"),
    ],
)  # fmt: skip
def test_the_inside_of_a_frame_is_checked(command, flag, unit, named):
    raw = Frame(command=command, vin=VIN, message=RawMessage(unit), reply_flag=flag)
    with pytest.raises(FrameError, match=named):
        decode(encode(raw))


def test_another_makers_use_of_our_commands_stays_raw():
    """0xC0 to 0xC4 without our mark, and a later version of ours, are kept and sent on."""
    for unit in (b"", b"abc", bytes((26, 1, 1, 0, 0, 0, 0xB5, 2, 9, 9)), bytes((26, 1, 1, 0, 0, 0, 0, 1, 9, 9))):
        for command in EXTENSION_LAYOUTS:
            frame = Frame(command=command, vin=VIN, message=RawMessage(unit))
            assert decode(encode(frame)) == frame


# --- fuzz ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=1500, deadline=None)
@given(data=st.data())
def test_with_a_repaired_check_byte_there_is_a_frame_or_a_frame_error(good_frames, data):
    """And what does decode has invented nothing: it encodes to the bytes it came from."""
    raw = bytearray(data.draw(st.sampled_from(good_frames)))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(2, len(raw) - 2))] = data.draw(st.integers(0, 255) | st.sampled_from([0xFE, 0xFF]))
    if data.draw(st.booleans()):  # Cut or lengthen the data unit, and say so in the header.
        keep = data.draw(st.integers(24, len(raw) - 1))
        raw[keep:] = data.draw(st.binary(max_size=30)) + b"\0"
        raw[22:24] = (len(raw) - 25).to_bytes(2, "big")
    broken = repaired(bytes(raw))
    try:
        frame = decode(broken)
    except FrameError:
        return
    assert encode(frame) == broken
    assert b"".join(field.data for field in explain(broken)) == broken


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([b"", b"##", b"$$"]))
def test_any_bytes_give_a_frame_or_a_frame_error(tail, start):
    """No other exception, whatever comes."""
    try:
        decode(start + tail)
    except FrameError:
        return


def test_bytes_of_other_types_are_taken():
    """bytearray and memoryview, as sockets give them."""
    data = encode(frame_of(VEHICLE))
    assert decode(bytearray(data)) == decode(memoryview(data)) == decode(data)


# --- identifiers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "vin"),
    [
        (b"LTEST000000000001", "LTEST000000000001"),
        (b"SHORT" + bytes(12), "SHORT"),
        (b"SHORT" + b" " * 12, "SHORT"),
        (b"SHORT" + b" " * 4 + bytes(8), "SHORT"),
        (b"A B" + bytes(14), "A B"),
        (bytes(17), ""),
    ],
)
def test_short_identifiers_are_padded_with_zeros_or_blanks(raw, vin):
    """Both are read the same, and go out as they came."""
    data = bytearray(encode(Frame(command=7, vin=VIN, message=Heartbeat())))
    data[4:21] = raw
    frame = decode(repaired(bytes(data)))
    assert frame.vin == vin
    assert encode(frame) == repaired(bytes(data))


def test_the_longest_frame_goes_through():
    """65531 bytes of data unit."""
    frame = Frame(command=0x42, vin=VIN, message=RawMessage(bytes(65531)))
    data = encode(frame)
    assert len(data) == FRAME_SIZE_BYTES_MAX
    assert decode(data) == frame


def test_gears_and_alarms_can_be_asked():
    """The gear byte and the alarm bits, by name."""
    gear = decode(encode(frame_of(replace(VEHICLE, gear=Gear.of(GearPosition.REVERSE, is_braking=True))))).message
    found = gear.bodies[0].gear
    assert (found.position, found.is_braking, found.is_driving, found.is_invalid) == (GearPosition.REVERSE, 1, 0, 0)
    assert found == 0x1D
    alarms = Alarms(3, AlarmFlag.INSULATION | AlarmFlag.SOC_LOW | 1 << 31)
    assert alarms.active == (AlarmFlag.SOC_LOW, AlarmFlag.INSULATION)
    assert SubsystemTemperatures(1, (20, 21)).probe_count == 2
    assert SubsystemTemperatures(1, Sentinel.ABNORMAL).probe_count is Sentinel.ABNORMAL


def test_parameters_and_platform_messages_round_trip():
    """The ones the generated frames above do not reach: text parameters, unknown ones, platform login."""
    values = ParameterValues.build(NOW, {0x01: 5000, 0x05: "威.example", 0x07: "1.0.0", 0x0E: "www", 0x10: 1})
    unknown = ParameterValues(NOW, (Parameter(0x01, 7), Parameter(0x42, b"\x01\x02")), 5)
    for message in (values, unknown, ParameterValues(NOW, Sentinel.INVALID), ParameterValues(NOW, ())):
        for command, flag in ((0x81, 0xFE), (0x80, ReplyFlag.SUCCESS)):
            frame = Frame(command=command, vin=VIN, message=message, reply_flag=flag)
            assert decode(encode(frame)) == frame
    rounded = Frame(command=5, vin=VIN, message=PlatformLogin(NOW, 1.0, "user", "secret", 1.0))
    assert decode(encode(rounded)) == rounded
    for message, command in ((PlatformLogin(NOW, 1, "user", "secret"), 5), (PlatformLogout(NOW, 1), 6)):
        frame = Frame(command=command, vin=VIN, message=message)
        assert decode(encode(frame)) == frame


def test_values_are_immutable_and_hash_like_what_they_equal():
    """The fast way to make a value gives the same thing as its constructor."""
    first, second = decode(encode(frame_of(VEHICLE))), frame_of(VEHICLE)
    assert first == second
    assert hash(first) == hash(second)
    assert type(first.message.bodies[0]) is VehicleData
    with pytest.raises(AttributeError):
        first.message.bodies[0].soc_pct = 1
    assert replace(first.message.bodies[0], soc_pct=1).soc_pct == 1


def test_unit_identity_carries_uuids(good_frames):
    """The class id of a node is a UUID, not bytes."""
    node = EXTENSION_LAYOUTS[0xC0].rows[2].item
    value, _ = decoder(node)(filling(node), 0, 60)
    assert value.hardware_class == UUID(int=0)


def test_a_reply_is_a_time_an_echo_or_nothing_for_any_command():
    """Surprise 2: all the practices of the field are understood."""
    for command in (1, 2, 3, 4, 5, 6, 7, 8, 0x81, 0x82, 0xC1, 0x42):
        for message in (EmptyReply(), TimeReply(NOW), EchoReply(beijing_time(0 or 1_700_000_000 * 10**9), b"\x01")):
            frame = Frame(command=command, vin=VIN, message=message, reply_flag=ReplyFlag.ERROR)
            assert decode(encode(frame)) == frame


def test_what_an_edition_reserves_has_no_name_in_it():
    """Alarm bits from 19 on, commands 0x09 to 0x0B and reply flags 0x04 to 0x07 are of 2025; 2016 keeps them as numbers."""
    of_2016 = [flag.bit_length() - 1 for bit in range(32) for flag in Alarms(0, 1 << bit).active]
    of_2025 = [flag.bit_length() - 1 for bit in range(32) for flag in Alarms2025(0, 1 << bit).active]
    assert of_2016 == list(range(19))
    assert of_2025 == list(range(28))
    assert len(Alarms(0, 0xFFFFFFFF).active) == 19
    for edition, names in ((Edition.GBT2016, set()), (Edition.GBT2025, {9, 10, 11})):
        found = set()
        for command in range(256):
            header = decode_header(
                encode(Frame(command=command, vin=VIN, message=RawMessage(b"xxxx"), edition=edition))
            )
            assert header.command == command
            if isinstance(header.command, Command):
                found.add(command)
        known = {1, 2, 3, 4, 5, 6, 7, 8, 0x80, 0x81, 0x82, 0xC0, 0xC1, 0xC2, 0xC3, 0xC4}
        assert found == known | names
    for edition, names in ((Edition.GBT2016, set()), (Edition.GBT2025, {4, 5, 6, 7})):
        flags = [
            decode(encode(Frame(command=7, vin=VIN, message=EmptyReply(), reply_flag=flag, edition=edition))).reply_flag
            for flag in range(254)
        ]
        assert {int(flag) for flag in flags if isinstance(flag, ReplyFlag)} == {1, 2, 3} | names
        assert flags == list(range(254))


def test_a_report_gives_a_body_by_its_class():
    """The first of it, or None; exactly that class: a body of 2025 is no body of 2016."""
    first, second = SubsystemVoltages(1, 1.0, 1.0, 0, 1, ()), SubsystemVoltages(2, 1.0, 1.0, 0, 1, ())
    report = Report(NOW, (Alarms(0, 0), CellVoltages((first,)), CellVoltages((second,))))
    assert report.get(CellVoltages) == CellVoltages((first,))
    assert report.get(Alarms) == Alarms(0, 0)
    assert report.get(VehicleData) is None
    assert report.get(Alarms2025) is None
