"""Frames from outside keep our idea of the standard honest: every vector decodes to what its source says."""

from __future__ import annotations

import pytest

from bmsota.errors import FrameError
from bmsota.gbt32960 import (
    Activation,
    ActivationReply,
    Alarms,
    Alarms2025,
    CellVoltages,
    CellVoltages2025,
    Control,
    DriveMotors,
    DriveMotors2025,
    EchoReply,
    Edition,
    Engine,
    Extremes,
    FrameReader,
    FrameReceived,
    FuelCell2025,
    Gear,
    KeyExchange,
    ParameterQuery,
    ParameterValues,
    PlatformLogin,
    Position,
    Position2025,
    ProbeTemperatures,
    ProbeTemperatures2025,
    RawMessage,
    Report,
    Sentinel,
    Signature,
    Supercapacitor,
    TerminalAlarm,
    UserDefined,
    VehicleData,
    VehicleData2025,
    VehicleLogin,
    VehicleLogin2025,
    decode,
    decode_header,
    encode,
)
from bmsota.gbt32960._control import control_parameters_bytes

# The vectors' names for our fields, where a list is compared field by field.
VEHICLE = {
    "vehicle_state": "vehicle_state",
    "charge_state": "charging_state",
    "run_mode": "run_mode",
    "speed_kmh": "speed_kmh",
    "odometer_km": "odometer_km",
    "total_voltage_v": "total_voltage_v",
    "total_current_a": "total_current_a",
    "soc_pct": "soc_pct",
    "dcdc_state": "dcdc_state",
    "gear_raw": "gear",
    "insulation_kohm": "insulation_kohm",
    "accelerator_pct": "accelerator_pct",
    "brake_pct": "brake_pct",
}
MOTOR = {
    "no": "number",
    "state": "state",
    "controller_temp_c": "controller_temperature_c",
    "speed_rpm": "speed_rpm",
    "torque_nm": "torque_nm",
    "temp_c": "motor_temperature_c",
    "input_voltage_v": "controller_voltage_v",
    "bus_current_a": "controller_current_a",
}
EXTREMES = {
    "max_v_subsys": "cell_voltage_max_subsystem",
    "max_v_cell": "cell_voltage_max_cell",
    "max_v": "cell_voltage_max_v",
    "min_v_subsys": "cell_voltage_min_subsystem",
    "min_v_cell": "cell_voltage_min_cell",
    "min_v": "cell_voltage_min_v",
    "max_t_subsys": "temperature_max_subsystem",
    "max_t_probe": "temperature_max_probe",
    "max_t_c": "temperature_max_c",
    "min_t_subsys": "temperature_min_subsystem",
    "min_t_probe": "temperature_min_probe",
    "min_t_c": "temperature_min_c",
}
VOLTAGES = {
    "no": "number",
    "voltage_v": "voltage_v",
    "current_a": "current_a",
    "cell_total": "cell_count",
    "frame_start": "first_cell",
    "cells_v": "cell_voltages_v",
}
TEMPERATURES = {"no": "number", "probe_count": "probe_count", "temps_c": "temperatures_c"}
ENGINE = {"state": "state", "crankshaft_rpm": "crankshaft_speed_rpm", "fuel_l_100km": "fuel_rate_l_per_100km"}
FUEL_CELL_2025 = {
    "h2_max_temp_c": "hydrogen_temperature_c_max",
    "h2_max_temp_probe": "hydrogen_temperature_probe",
    "h2_max_conc_sensor": "hydrogen_concentration_sensor",
    "h2_max_pressure_mpa": "hydrogen_pressure_mpa_max",
    "h2_max_pressure_sensor": "hydrogen_pressure_sensor",
    "hv_dcdc_state": "dcdc_state",
    "h2_remaining_pct": "hydrogen_remaining_pct",
    "hv_dcdc_temp_c": "dcdc_temperature_c",
}

SENTINEL_RAWS = {Sentinel.ABNORMAL: (0xFE, 0xFFFE), Sentinel.INVALID: (0xFF, 0xFFFF)}


def same(ours, theirs):
    """Whether a value is the one of the vector. Some sources give a sentinel as its raw number."""
    if isinstance(ours, tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, Sentinel):
        return theirs == ours.value or theirs in SENTINEL_RAWS[ours]
    # No tolerance: 3.712 is 3.712.
    return ours == theirs


def assert_same(ours, theirs, names):
    for name, value in theirs.items():
        if name in names:
            got = getattr(ours, names[name])
            assert same(got, value), f"{name}: expected {value}, got {got}"


def assert_vehicle(body, item):
    assert_same(body, item, VEHICLE)
    gear = body.gear
    assert isinstance(gear, Gear)
    assert (gear.position, gear.is_braking, gear.is_driving) == (item["gear"], item["braking"], item["driving"])
    assert gear.is_invalid is item.get("gear_invalid", False)


def assert_motors(body, item):
    assert len(body.motors) == item["count"] == len(item["motors"])
    for motor, expected in zip(body.motors, item["motors"], strict=True):
        assert_same(motor, expected, MOTOR)


def assert_position(body, item, *, is_anonymised):
    assert body.valid is item["valid"]
    if "coord_sys" in item:
        assert same(body.coordinate_system, item["coord_sys"])
    for ours, theirs in ((body.longitude_deg, item["lon_deg"]), (body.latitude_deg, item["lat_deg"])):
        # In an anonymised frame the position was replaced after its source had decoded it.
        if not is_anonymised or isinstance(theirs, str):
            assert same(ours, theirs)


def assert_alarms(body, item):
    assert same(body.level_max, item["max_level"])
    assert body.flags == int(item["flags"], 16)
    assert [flag.bit_length() - 1 for flag in body.active] == item["bits"]
    for name in ("ress_faults", "motor_faults", "engine_faults", "other_faults"):
        assert [f"{code:08X}" for code in getattr(body, name)] == item[name]
    if "general_levels" in item:
        levels = [(level.bit, level.level) for level in body.general_levels]
        assert len(levels) == len(item["general_levels"])
        for (bit, level), theirs in zip(levels, item["general_levels"], strict=True):
            assert (bit, True) == (theirs[0], same(level, theirs[1]))


def assert_signature(signature, item):
    assert signature.algorithm == item["sig_type"]
    assert (len(signature.r), len(signature.s)) == (item["r_len"], item["s_len"])
    assert signature.r.hex().startswith(item["r_head"])
    assert signature.s.hex().startswith(item["s_head"])


def assert_subsystems(body, item, names):
    found = body.packs if isinstance(body, (CellVoltages2025, ProbeTemperatures2025)) else body.subsystems
    assert len(found) == item["count"]
    for subsystem, expected in zip(found, item["subsystems"], strict=True):
        named = {theirs: ours for theirs, ours in names.items() if hasattr(subsystem, ours)}
        assert_same(subsystem, expected, named)


def assert_body(body, item, *, is_anonymised):
    match body:
        case VehicleData() | VehicleData2025():
            assert_vehicle(body, item)
        case DriveMotors() | DriveMotors2025():
            assert_motors(body, item)
        case Engine():
            assert_same(body, item, ENGINE)
        case Position() | Position2025():
            assert_position(body, item, is_anonymised=is_anonymised)
        case Extremes():
            assert_same(body, item, EXTREMES)
        case Alarms() | Alarms2025():
            assert_alarms(body, item)
        case CellVoltages() | CellVoltages2025():
            assert_subsystems(body, item, VOLTAGES)
        case ProbeTemperatures() | ProbeTemperatures2025():
            assert_subsystems(body, item, TEMPERATURES)
        case FuelCell2025():
            assert_same(body, item, FUEL_CELL_2025)
            assert body.hydrogen_concentration_pct_max == item["h2_max_conc_raw"] / 10000
        case Supercapacitor():
            assert_same(body, item, VOLTAGES | TEMPERATURES)
        case Signature():
            assert_signature(body, item)
        case UserDefined():
            assert body.data.hex() == item["data"]
            assert len(body.data) == item["length"]
        case _:
            pytest.fail(f"no expectation for {body}")


BODY_TYPES = {
    VehicleData: 1,
    DriveMotors: 2,
    Engine: 4,
    Position: 5,
    Extremes: 6,
    Alarms: 7,
    CellVoltages: 8,
    ProbeTemperatures: 9,
    VehicleData2025: 1,
    DriveMotors2025: 2,
    FuelCell2025: 3,
    Position2025: 5,
    Alarms2025: 6,
    CellVoltages2025: 7,
    ProbeTemperatures2025: 8,
    Supercapacitor: 0x31,
    Signature: 0xFF,
}


def assert_message(message, body, *, is_anonymised):
    """Compare a message with what a vector says, as far as it says anything."""
    if "time" in body:
        assert message.time.isoformat() == body["time"]
    match message:
        case VehicleLogin():
            expected = {"serial": "serial", "subsystem_count": "subsystem_count", "code_len": "code_length"}
            assert_same(message, body, expected | {"iccid": "iccid", "codes": "subsystem_codes"})
        case VehicleLogin2025():
            assert (message.serial, len(message.pack_codes)) == (body["serial"], body["bms_count"])
            assert [list(codes) for codes in message.pack_codes] == body["pack_codes"]
            assert list(map(len, message.pack_codes)) == body["packs_per_bms"]
        case Activation():
            assert (message.chip_id, message.vin) == (body["chip_id"], body["vin"])
            assert message.public_key.hex() == body["public_key"]
            assert_signature(message.signature, body["signature"])
        case ActivationReply():
            assert (message.status, message.result) == (body["status"], body["info"])
        case KeyExchange():
            assert (message.key_type, message.key.hex()) == (body["key_type"], body["key"])
            assert message.valid_from.isoformat() == body["start"]
            assert message.valid_until.isoformat() == body["end"]
        case Report() if "items" in body:
            types = [BODY_TYPES.get(type(item), getattr(item, "type_id", None)) for item in message.bodies]
            assert types == [item["type"] for item in body["items"]]
            for ours, theirs in zip(message.bodies, body["items"], strict=True):
                assert_body(ours, theirs, is_anonymised=is_anonymised)
        case EchoReply():
            assert message.rest.hex() == body["echo_rest"]
        case PlatformLogin():
            names = {"serial": "serial", "username": "user", "password": "password", "cipher": "cipher"}
            assert_same(message, body, names)
        case ParameterQuery():
            assert [f"0x{item:02X}" for item in message.parameter_ids] == body["ids"]
        case ParameterValues():
            assert message.count == body["count"]
            assert [[f"0x{item.parameter_id:02X}", item.value] for item in message.parameters] == body["params"]
        case Control():
            if "control_id" in body:
                assert message.control_id == body["control_id"]
            if "param_hex" in body:
                assert control_parameters_bytes(message.control_id, message.parameters).hex() == body["param_hex"]
            if "alarm_level" in body:
                assert message.parameters == TerminalAlarm(body["alarm_level"], body["alarm_info"])
        case RawMessage():
            assert message.data.hex() == body.get("raw", message.data.hex())
        case _:
            if "serial" in body:
                assert message.serial == body["serial"]


def test_a_good_frame_decodes_to_what_its_source_says(good_vector):
    """Every field that a source asserts, or that our strict reference reads where the source asserts less."""
    frame = decode(bytes.fromhex(good_vector["hex"]))
    assert frame.edition is (Edition.GBT2016 if good_vector["version"] == 2016 else Edition.GBT2025)
    for expected in (good_vector["expected"], good_vector.get("reference_decode")):
        if expected is None:
            continue
        assert (frame.command, frame.reply_flag) == (expected["command"], expected["ack"])
        assert frame.encryption == expected["encryption"]
        if "vin" in expected:
            assert frame.vin == expected["vin"]
        assert_message(frame.message, expected.get("body", {}), is_anonymised=bool(good_vector.get("anonymised")))


def test_a_good_frame_encodes_to_the_same_bytes(good_vector):
    """Canonical or not: what was decoded goes out again as it came."""
    data = bytes.fromhex(good_vector["hex"])
    assert encode(decode(data)) == data


def test_only_the_foreign_stays_raw(good_vector):
    """Nothing of the standard is kept raw, in neither edition."""
    frame = decode(bytes.fromhex(good_vector["hex"]))
    assert isinstance(frame.message, RawMessage) == (frame.command == 0xC5)


def test_the_header_alone_says_the_same(good_vector):
    """Routing and decoding agree about every frame."""
    data = bytes.fromhex(good_vector["hex"])
    frame, header = decode(data), decode_header(data)
    assert (header.edition, header.command, header.reply_flag) == (frame.edition, frame.command, frame.reply_flag)
    assert (header.vin, header.encryption) == (frame.vin, frame.encryption)
    assert header.data_size_bytes == len(data) - 25


def test_a_bad_frame_is_refused_by_name(bad_vector):
    """No bad frame decodes, and the refusal says what was expected and where."""
    with pytest.raises(FrameError) as caught:
        decode(bytes.fromhex(bad_vector["hex"]))
    assert "expected" in str(caught.value)
    assert caught.value.offset >= 0
    with pytest.raises(FrameError):
        decode_header(bytes.fromhex(bad_vector["hex"]))


@pytest.mark.parametrize("name", ["zh_extra_byte", "wjs_f1"])
def test_a_byte_behind_the_check_byte_costs_no_frame(vectors, name):
    """Loggers and bridges add one. `decode` refuses it, the reader takes the frame by its length."""
    data = bytes.fromhex(vectors[name]["hex"])
    reader = FrameReader()
    reader.receive_data(data)
    event = reader.next_event()
    assert isinstance(event, FrameReceived)
    assert event.raw == data[:-1]
    assert reader.next_event() is None


def test_the_pack_current_has_an_offset_of_1000_a(vectors):
    """Surprise 4: the frame in which another decoder reads -1994.9 A says 5.1 A in its vehicle body, too."""
    report = decode(bytes.fromhex(vectors["rtm_34"]["hex"])).message
    assert isinstance(report, Report)
    vehicle = next(body for body in report.bodies if isinstance(body, VehicleData))
    cells = next(body for body in report.bodies if isinstance(body, CellVoltages))
    assert vehicle.total_current_a == cells.subsystems[0].current_a == 5.1


def test_every_prefix_of_a_good_frame_is_refused(good_vector):
    """A frame that is cut short never gives a value, and the reader waits for the rest."""
    data = bytes.fromhex(good_vector["hex"])
    for size in range(len(data)):
        with pytest.raises(FrameError):
            decode(data[:size])
    reader = FrameReader()
    for size in range(len(data) - 1):
        reader.receive_data(data[size : size + 1])
        assert reader.next_event() is None
    reader.receive_data(data[-1:])
    assert isinstance(reader.next_event(), FrameReceived)


def test_every_single_byte_that_flips_is_caught(good_vector):
    """The check byte catches any one changed byte behind the start; a changed start is no start."""
    data = bytes.fromhex(good_vector["hex"])
    for place in range(len(data)):
        for change in (0x01, 0x80, 0xFF, 0x07):
            broken = bytearray(data)
            broken[place] ^= change
            with pytest.raises(FrameError):
                decode(bytes(broken))
