"""The project's DBC files: clean in cantools' strict mode, systematic, and as their script says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bmsota.adapters.files import packaged_dbc, packaged_dbc_names
from bmsota.signals import E2EProfile, loads

if TYPE_CHECKING:
    from bmsota.signals import Message

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts" / "make_dbc.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_dbc", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["make_dbc"] = module  # Its dataclasses look themselves up.
    spec.loader.exec_module(module)
    return module


def test_the_committed_files_are_what_the_script_writes(script):
    for path, text in script.outputs().items():
        assert path.read_text(encoding="utf-8") == text, f"run python scripts/make_dbc.py ({path.name})"


def test_the_check_says_which_file_is_out_of_date(script, monkeypatch, tmp_path, capsys):
    (tmp_path / "dbc").mkdir()
    monkeypatch.setattr(script, "ROOT", tmp_path)
    assert script.main(["--check"]) == 1
    assert "out of date: dbc/bms_internal.dbc" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.dbc"))
    assert script.main([]) == 0
    assert script.main(["--check"]) == 0
    (tmp_path / "dbc" / "bms_vehicle.dbc").write_text("changed")
    assert script.main(["--check"]) == 1


def test_everything_is_commented_has_a_range_and_a_place_of_its_own(project_dbc):
    """Of messages that differ only in their number, the first may speak for all. Beyond 32 bits the bits are the range."""
    ours, theirs = project_dbc
    assert ours.faults == ()
    assert len(ours) == len(theirs.messages)
    first: dict[str, Message] = {}
    for message in ours.messages:
        assert message.comment
        assert message.senders
        speaker = first.setdefault(re.sub(r"\d\d", "NN", message.name, count=1), message)
        for signal, said in zip(message.signals, speaker.signals, strict=True):
            assert signal.comment or said.comment, f"{message.name}.{signal.name}"
            assert signal.receivers
            if signal.length_bits > 32 and signal.minimum is None:
                continue
            assert signal.minimum is not None, f"{message.name}.{signal.name}"
            low = signal.raw_minimum * signal.scale + signal.offset
            high = signal.raw_maximum * signal.scale + signal.offset
            assert low - 1e-9 <= signal.minimum < signal.maximum <= high + 1e-9, f"{message.name}.{signal.name}"


@pytest.mark.parametrize("name", packaged_dbc_names())
def test_the_name_says_which_frames_are_in_the_file(name):
    """29bit: every id is extended, else none; fd: there are CAN FD frames, else none."""
    messages = loads(packaged_dbc(name)).messages
    words = name.split("_")
    assert {message.is_extended_id for message in messages} == {"29bit" in words}
    assert any(message.is_fd for message in messages) == ("fd" in words)
    assert all(message.length <= (64 if message.is_fd else 8) for message in messages)


def test_every_name_of_a_value_table_is_used_once(project_dbc):
    """Or encoding a name would be ambiguous."""
    ours, _ = project_dbc
    for message in ours.messages:
        for signal in message.signals:
            assert len(set(signal.choices.values())) == len(signal.choices)


@pytest.mark.parametrize(
    ("name", "status", "cells", "temperatures"),
    [("bms_internal", 0x140, 0x400, 0x500), ("bms_internal_unprotected", 0x120, 0x200, 0x300)],
)
def test_the_internal_ids_carry_the_position_and_stay_below_the_bootloader(name, status, cells, temperatures):
    internal = loads(packaged_dbc(name))
    assert all(0x100 <= message.can_id < 0x600 for message in internal.messages)
    for position in range(1, 17):
        slave = f"Slave{position:02d}"
        expected = {f"{slave}_Status": status, f"{slave}_Identity": 0x380}
        expected |= {f"{slave}_Cells_{group}": cells + 0x20 * (group - 1) for group in range(1, 9)}
        expected |= {f"{slave}_Temperatures_{group}": temperatures + 0x20 * (group - 1) for group in (1, 2)}
        assert {
            message.name: message.can_id - position for message in internal.messages if message.name.startswith(slave)
        } == expected
        for message_name in expected:
            assert internal[message_name].senders == (slave,)


def test_a_layout_never_changed_under_its_id(internal):
    """A master that knows only the messages from before protection, or only those behind it, takes no byte for another's."""
    old = loads(packaged_dbc("bms_internal_unprotected"))
    assert [message.name for message in old.messages if message.protection] == []
    for message in internal.messages:
        if message.protection is None:
            assert message.layout == old[message.name].layout
            assert message.can_id == old[message.name].can_id
        else:
            assert message.can_id not in old
            assert message.protection.profile is E2EProfile.P01
            assert message.protection.data_id == message.can_id
    assert {message.name.split("_", 1)[-1] for message in internal.messages if message.protection} == {
        "PackSensor",
        "Status",
        *(f"Cells_{group}" for group in range(1, 9)),
        *(f"Temperatures_{group}" for group in (1, 2)),
    }


def test_a_slave_has_room_for_32_cells_and_8_probes(internal):
    cells = [name for group in range(1, 9) for name in internal[f"Slave16_Cells_{group}"].decode(bytes(8))]
    probes = [name for group in (1, 2) for name in internal[f"Slave16_Temperatures_{group}"].decode(bytes(8))]
    protection = ["Crc", "AliveCounter"]
    assert [name for name in cells if name not in protection] == [f"Cell_{number:02d}" for number in range(1, 33)]
    assert [name for name in probes if name not in protection] == [f"Probe_{number}" for number in range(1, 9)]


def test_locked_bytes():
    """One frame of each kind, worked out by hand from the tables of the pages in docs/dbc."""
    internal, vehicle = loads(packaged_dbc("bms_internal")), loads(packaged_dbc("bms_vehicle"))
    command = {
        "CycleCounter": 7,
        "Mode": "Measure",
        "BalancingPermitted": "Yes",
        "IdentityRequest": "No",
        "IdentityPosition": 3,
        "BalancingVoltage": 3.65,
    }
    assert internal["MasterCommand"].encode(command).hex(" ") == "07 11 03 00 94 8e 00 00"
    # Counter and cells by hand; the CRCs by autosar-e2e 1.0.0 (profile 1, data id = CAN id).
    cells = {"AliveCounter": 9, "Cell_05": 3.654, "Cell_06": 0, "Cell_07": "Abnormal", "Cell_08": "Invalid"}
    assert internal["Slave02_Cells_2"].encode(cells).hex(" ") == "ca 69 e4 00 80 ff ff ff"
    probes = {"AliveCounter": 14, "Probe_1": 25.5, "Probe_2": -40, "Probe_3": "Abnormal", "Probe_4": "Invalid"}
    assert internal["Slave02_Temperatures_1"].encode(probes).hex(" ") == "9b 0e ff 00 e7 fe f7 7f"
    status = dict.fromkeys((signal.name for signal in internal["Slave02_Status"].signals if signal.name != "Crc"), 0)
    status |= {
        "AliveCounter": 3,
        "State": "Measuring",
        "SelfTestFailed": 1,
        "BalancingPermitted": 1,
        "BalancingCells": 0x80000001,
    }
    assert internal["Slave02_Status"].encode(status).hex(" ") == "ca 13 00 0c 01 00 00 80"
    line = {"AliveCounter": 3, "Current": -12.5, "StateOfCharge": 80.4}
    assert internal["PackSensor"].frame(line).data.hex(" ") == "89 03 83 ff 24 03 00 00"
    old = loads(packaged_dbc("bms_internal_unprotected"))
    cells = {"Cell_05": 3.6543, "Cell_06": 0, "Cell_07": "Abnormal", "Cell_08": "Invalid"}
    assert old["Slave02_Cells_2"].encode(cells).hex(" ") == "bf 8e 00 00 fe ff ff ff"
    probes = {"Probe_1": 25.5, "Probe_2": -40, "Probe_3": "Abnormal", "Probe_4": "Invalid"}
    assert old["Slave02_Temperatures_1"].encode(probes).hex(" ") == "ff 00 70 fe fe 7f ff 7f"
    serial = {"Page": "Serial_2", "Transmission": 1, "Serial_2": int.from_bytes(b"GH\0\0\0\0", "big")}
    assert internal["Slave02_Identity"].encode(serial).hex(" ") == "05 01 47 48 00 00 00 00"
    state = {
        "PackVoltage": 355.2, "PackCurrent": -12.5, "Soc": 80, "State": "Charging", "AlarmLevel": "None", "ContactorsClosed": "Yes",
        "DrivePermitted": "No", "ChargePermitted": "Yes", "AliveCounter": 255,
    }  # fmt: skip
    assert vehicle["PackState"].encode(state).hex(" ") == "e0 0d 83 ff 20 33 14 ff"
