"""What is made of the newest values, whatever a terminal sends."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from bmsota_cloud.domain.telemetry import VehicleSnapshot
from bmsota_cloud.domain.vehicles import NodeKind, VehicleNode
from bmsota_cloud.pages.realtime_view import HEAT_CLASSES, difference, realtime_view
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)


def state(**values):
    return VehicleSnapshot(vin="V", is_online=True, last_seen_at=NOW, reported_at=NOW, values=values)


def cells(*volts, number=1, first=1):
    return {"number": number, "first_cell": first, "cell_count": len(volts), "cell_voltages_v": list(volts)}


def slaves(count):
    return [
        VehicleNode(
            vin="V",
            position=position,
            kind=NodeKind.SLAVE if position else NodeKind.MASTER,
            hwid=f"H{position}",
            hardware_class="",
            version="1.0.0",
            security_counter=0,
            serial="",
            state="running",
            updated_at=NOW,
        )
        for position in range(count + 1)
    ]


def voltages(*subsystems, nodes=()):
    return realtime_view(state(cell_voltages={"subsystems": list(subsystems)}), nodes)


def edges(view):
    return {key: pairs["data-edge"] for key, pairs in view.attributes.items() if pairs.get("data-edge")}


def test_no_values_at_all():
    view = realtime_view(VehicleSnapshot(vin="V"), ())
    assert not view.has_values
    assert view.texts["soc"] == "–"
    assert view.attributes["soc"] == {"data-quality": "missing"}
    assert view.texts["seen"] == "never"


def test_a_value_that_is_none_is_the_word_for_it_and_never_zero():
    view = realtime_view(state(vehicle={"soc_pct": "abnormal", "total_voltage_v": "invalid"}), ())
    assert (view.texts["soc"], view.texts["voltage"], view.texts["current"]) == ("abnormal", "invalid", "–")
    assert view.attributes["soc"] == {"data-quality": "abnormal"}
    assert view.attributes["soc_bar"] == {"value": ""}


@pytest.mark.parametrize(
    ("current", "word"), [(12.5, "discharging"), (-3.0, "charging"), (0.0, "no current"), ("invalid", "")]
)
def test_the_sign_of_the_current_has_a_word(current, word):
    assert realtime_view(state(vehicle={"total_current_a": current}), ()).texts["current_word"] == word


def test_the_extremes_are_framed_and_the_spread_is_theirs():
    view = voltages(cells(3.7, 3.5, 3.6, 3.9, 3.6))
    assert edges(view) == {"cell_1_2": "min", "cell_1_4": "max"}
    assert (view.texts["cell_spread"], view.texts["cell_min"], view.texts["cell_max"]) == (
        "400 mV",
        "3.500 V",
        "3.900 V",
    )
    assert (view.texts["cell_min_at"], view.texts["cell_max_at"]) == ("cell 2", "cell 4")
    assert view.attributes["cell_1_2"]["data-heat"] == "0"
    assert view.attributes["cell_1_4"]["data-heat"] == str(HEAT_CLASSES - 1)


def test_a_balanced_pack_is_calm():
    """Three millivolts of noise must not paint the pack blue and orange."""
    view = voltages(cells(3.650, 3.651, 3.653, 3.652))
    heat = {int(view.attributes[f"cell_1_{number}"]["data-heat"]) for number in range(1, 5)}
    assert heat <= {5, 6}


def test_equal_cells_have_no_extremes():
    assert edges(voltages(cells(3.65, 3.65))) == {}


def test_a_cell_without_a_value_has_no_colour_and_is_no_extreme():
    view = voltages(cells("abnormal", 3.6, 3.7, "invalid"))
    assert edges(view) == {"cell_1_2": "min", "cell_1_3": "max"}
    assert (view.texts["cell_1_1"], view.texts["cell_1_4"]) == ("abn.", "inv.")
    assert view.attributes["cell_1_1"]["data-heat"] == ""
    assert view.attributes["cell_1_1"]["title"] == "cell 1: abnormal"


def test_a_terminal_that_tells_no_cells_may_tell_its_extremes():
    values = {
        "cell_voltage_min_v": 3.1,
        "cell_voltage_min_cell": 7,
        "cell_voltage_max_v": 3.4,
        "cell_voltage_max_cell": "invalid",
    }
    view = realtime_view(state(extremes=values), ())
    assert (view.texts["cell_min_at"], view.texts["cell_max_at"]) == ("cell 7", "cell unknown")
    assert view.texts["cell_spread"] == "300 mV"


def test_rows_by_slave_only_where_that_is_certain():
    view = voltages(cells(*[3.6] * 6), nodes=slaves(3))
    assert [(row.label, row.hwid, [cell.number for cell in row.cells]) for row in view.cells.rows] == [
        ("Slave 1", "H1", [1, 2]),
        ("Slave 2", "H2", [3, 4]),
        ("Slave 3", "H3", [5, 6]),
    ]
    assert [row.label for row in voltages(cells(*[3.6] * 7), nodes=slaves(3)).cells.rows] == ["All cells"]
    two = voltages(cells(3.6, 3.7), cells(3.5, 3.6, number=2), nodes=slaves(2))
    assert [row.label for row in two.cells.rows] == ["Subsystem 1", "Subsystem 2"]
    assert two.texts["cell_min_at"] == "subsystem 2, cell 1"


def test_a_page_for_people_ends_somewhere():
    view = voltages(cells(*[3.6] * 1500))
    assert sum(len(row.cells) for row in view.cells.rows) == 1000
    assert view.cells.left_out == 500


def test_only_what_changed_is_sent():
    one = voltages(cells(3.6, 3.65, 3.7))
    two = voltages(cells(3.6, 3.66, 3.7))
    texts, attributes = difference(one, two)
    assert texts == {"cell_1_2": "3.660"}
    assert set(attributes) == {"cell_1_2"}
    assert difference(two, two) == ({}, {})


def test_an_alarm_bit_without_a_name_is_shown_by_its_number():
    """Bits 19 and up are reserved in 2016; what a maker means by them is not what 2025 calls them."""
    flags = 1 << 4 | 1 << 19 | 1 << 30
    view = realtime_view(state(alarms={"level_max": 1, "flags": flags, "active": ["SOC_LOW"]}), ())
    assert view.alarms == ("SOC low", "Reserved bit 19", "Reserved bit 30")
    view = realtime_view(state(alarms={"level_max": 1, "flags": flags, "active": ["SOC_LOW", "MOTOR_OVER_SPEED"]}), ())
    assert view.alarms == ("SOC low", "Motor over speed", "Reserved bit 30")


def test_another_make_up_is_another_layout():
    online = state(vehicle={"soc_pct": 50})
    one = realtime_view(online, ())
    assert one.layout == realtime_view(state(vehicle={"soc_pct": 51}), ()).layout
    for other in (
        replace(online, is_online=False),
        state(vehicle={"soc_pct": 50, "gear": 14}),
        state(vehicle={"soc_pct": 50}, alarms={"level_max": 1, "active": ["SOC_LOW"]}),
        state(vehicle={"soc_pct": 50}, position={"valid": True}),
        state(vehicle={"soc_pct": 50}, cell_voltages={"subsystems": [cells(3.6)]}),
    ):
        assert realtime_view(other, ()).layout != one.layout


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.sampled_from(["abnormal", "invalid", "x"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["soc_pct", "subsystems", "cell_voltages_v", "number", "motors", "active", "ress_faults", "valid"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.slow
@given(
    st.dictionaries(
        st.sampled_from(
            ["vehicle", "cell_voltages", "probe_temperatures", "drive_motors", "alarms", "position", "extremes"]
        ),
        _ANY,
    )
)
def test_no_values_of_any_shape_break_the_page(values):
    view = realtime_view(state(**values), slaves(2))
    assert all(isinstance(text, str) for text in view.texts.values())


def test_two_alarm_bodies_are_shown_together():
    first = {"level_max": 1, "active": ["SOC_LOW"], "ress_faults": [17]}
    second = {"level_max": 3, "active": ["SOC_LOW", "INSULATION"], "ress_faults": [17, 18]}
    view = realtime_view(state(alarms=first, alarms_2=second), ())
    assert (view.alarm_level, view.texts["alarm_level"]) == (3, "Level 3: stop at once")
    assert view.alarms == ("SOC low", "Insulation")
    assert view.faults == (("Energy storage", ("0x00000011", "0x00000012")),)
    only_unknown = realtime_view(state(alarms={"level_max": "abnormal"}), ())
    assert (only_unknown.alarm_level, only_unknown.texts["alarm_level"]) == (None, "abnormal")


def test_a_wrong_clock_of_the_vehicle_is_another_layout():
    right = realtime_view(state(), ())
    wrong = realtime_view(replace(state(), is_time_plausible=False), ())
    assert right.layout != wrong.layout
