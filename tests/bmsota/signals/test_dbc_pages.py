"""The pages of the DBC files: as their script writes them, and complete."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from bmsota.adapters.files import packaged_dbc, packaged_dbc_names
from bmsota.signals import loads

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
NAMES = packaged_dbc_names()


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_dbc_pages", ROOT / "scripts" / "make_dbc_pages.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_dbc_pages"] = module  # Its dataclasses look themselves up.
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def workshop(script, monkeypatch, tmp_path):
    """The script in a tree of its own: give it DBC texts by name, get the pages."""
    (tmp_path / "dbc").mkdir()
    monkeypatch.setattr(script, "ROOT", tmp_path)

    def make(**texts):
        for name, text in texts.items():
            (tmp_path / "dbc" / f"{name}.dbc").write_text(text, encoding="utf-8")
        assert script.main([]) == 0
        return {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "docs").rglob("*.md")}

    return make


def page_of(name):
    return (ROOT / "docs" / "dbc" / f"{name}.md").read_text(encoding="utf-8")


def sections(page):
    """Heading -> the text below it."""
    parts = re.split(r"^### (.*)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(section):
    """The table's rows as dictionaries."""
    lines = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in section.splitlines()
        if line.startswith("| ")
    ]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def test_the_committed_pages_are_what_the_script_writes(script):
    wanted = script.outputs()
    for path, text in wanted.items():
        assert path.exists(), f"run python scripts/make_dbc_pages.py ({path.name})"
        assert path.read_text(encoding="utf-8") == text, f"run python scripts/make_dbc_pages.py ({path.name})"
    assert {path.stem for path in (ROOT / "docs" / "dbc").iterdir()} == set(NAMES)
    assert len(wanted) == len(NAMES) + 1


@pytest.mark.parametrize("name", NAMES)
def test_every_message_and_every_signal_stands_on_its_page(name):
    """Found by name, or under the name with NN; id, length, place, unit, value table and comment as in the file."""
    found = sections(page_of(name))
    expected = set()
    for message in loads(packaged_dbc(name)).messages:
        number = re.search(r"(?<!\d)\d\d(?!\d)", message.name)
        heading = message.name
        if message.name not in found:
            assert number is not None
            heading = f"{message.name[: number.start()]}NN{message.name[number.end() :]}"
        expected.add(heading)
        section = found[heading]
        base, step, is_family = re.search(
            r"^id (0x[0-9A-F]+)(?: \+ (?:(\d+) \* )?(NN))?;", section, re.MULTILINE
        ).groups()
        can_id = int(base, 16) + (int(step or 1) * int(number[0]) if is_family else 0)
        assert can_id == message.can_id, message.name
        kind = f"{'CAN FD' if message.is_fd else 'classic CAN'}, {29 if message.is_extended_id else 11}-bit ids"
        assert f"; {kind}; {message.length} bytes; " in section
        table = {row["signal"]: row for row in rows(section)}
        assert len(table) == len(message.signals)
        for signal in message.signals:
            row = table.get(signal.name) or table[signal.name.replace(number[0], "NN", 1)]
            order = "LE" if signal.byte_order == "little" else "BE"
            assert row["bits"] == f"{signal.start_bit}, {signal.length_bits} {order}"
            assert row["unit"] == signal.unit
            assert all(f"{raw} {word}" in row["names"] for raw, word in signal.choices.items())
            assert row["meaning"]
            assert signal.comment in {"", row["meaning"]}
            if signal.multiplexer:
                assert row["in frames with"].startswith(f"{signal.multiplexer} = {signal.multiplexer_ids[0]}")
    assert set(found) == expected


def test_messages_of_one_layout_are_one_entry():
    assert list(sections(page_of("bms_bootloader"))) == ["BootRequest", "BootReplyNN", "BootDataNN"]
    assert len(sections(page_of("bms_internal"))) == 14
    assert {"DriveMotor_1", "DriveMotor_2"} <= set(sections(page_of("bms_vehicle")))


@pytest.mark.parametrize("name", NAMES)
def test_the_index_names_every_file(name):
    index = (ROOT / "docs" / "dbc.md").read_text(encoding="utf-8")
    assert f"| [{name}.dbc](dbc/{name}.md) |" in index


def test_the_check_says_which_page_is_out_of_date(script, workshop, tmp_path, capsys):
    """Missing, changed, or of a DBC that is gone; a check writes nothing."""
    text = 'BU_: A\nBO_ 1 Message: 8 A\n SG_ Value : 0|8@1+ (1,0) [0|255] "" A\n'
    (tmp_path / "dbc" / "one.dbc").write_text(text)
    assert script.main(["--check"]) == 1
    assert "out of date, run scripts/make_dbc_pages.py: docs/dbc/one.md" in capsys.readouterr().out
    assert not (tmp_path / "docs").exists()
    workshop()
    assert script.main(["--check"]) == 0
    (tmp_path / "docs" / "dbc" / "one.md").write_text("changed")
    assert script.main(["--check"]) == 1
    (tmp_path / "docs" / "dbc" / "gone.md").write_text("of another file")
    workshop()
    assert not (tmp_path / "docs" / "dbc" / "gone.md").exists()
    assert script.main(["--check"]) == 0


def family(*, ids=(16, 17, 18), signals=("Value", "Value", "Value"), tops=(255, 255, 255), comments=("", "", "")):
    lines = ["BU_: A"]
    for number, (can_id, signal, top) in enumerate(zip(ids, signals, tops, strict=True), start=1):
        lines += [f"BO_ {can_id} Node{number:02d}_State: 8 A", f' SG_ {signal} : 0|8@1+ (1,0) [0|{top}] "" A']
    lines += [f'CM_ BO_ {can_id} "{comment}";' for can_id, comment in zip(ids, comments, strict=True) if comment]
    return "\n".join(lines) + "\n"


def test_a_family_is_described_once(workshop):
    """Numbers become NN in names and N in sentences, but only where they are the message's own."""
    page = workshop(one=family(ids=(16, 18, 20), comments=[f"Cells 1 to 4 of node {n}." for n in (1, 2, 3)]))["one"]
    assert list(sections(page)) == ["NodeNN_State"]
    assert "Cells 1 to 4 of node N." in page
    assert "id 0x00E + 2 * NN; classic CAN, 11-bit ids; 8 bytes; on event; from A; to A." in page
    assert "`Node01_State` to `Node03_State`: NN is 01 to 03." in page


@pytest.mark.parametrize(
    "different",
    [
        {"ids": (16, 17, 19)},
        {"ids": (18, 17, 16)},
        {"tops": (255, 255, 100)},
        {"signals": ("Value", "Value", "Other")},
        {"comments": ("One.", "Two.", "Three.")},
        {"comments": ("Node 1.", "Node 2.", "Node 4.")},
        {"comments": ("Node 1.", "Node 2.", "Node 3, and 4.")},
    ],
    ids=["ids with a gap", "ids that fall", "a range", "a name", "words", "a wrong number", "more words"],
)
def test_messages_that_differ_in_more_than_a_number_stay_apart(workshop, different):
    assert list(sections(workshop(one=family(**different))["one"])) == ["Node01_State", "Node02_State", "Node03_State"]


def test_any_dbc_has_a_page(script, workshop, tmp_path, capsys):
    """Big endian, float, multiplexed in two levels, FD, no comments, a bar in a comment: printed for a file, written for dbc/."""
    text = """VERSION ""
BU_: A
BO_ 2147484672 Wide: 64 Vector__XXX
 SG_ Page M : 0|8@1+ (1,0) [0|0] "" Vector__XXX
 SG_ Sub m1M : 8|8@1+ (1,0) [0|0] "" Vector__XXX
 SG_ Deep m2 : 16|32@1- (1,0) [0|0] "V" Vector__XXX
 SG_ Tail : 511|8@0- (0.5,-40) [-100|20] "degC" Vector__XXX
SG_MUL_VAL_ 2147484672 Sub Page 1-1;
SG_MUL_VAL_ 2147484672 Deep Sub 2-3;
CM_ SG_ 2147484672 Tail "this | that
and more";
SIG_VALTYPE_ 2147484672 Deep : 1;
"""
    page = workshop(any=text)["any"]
    assert "from none; to none." in page
    assert [list(row.values())[:4] for row in rows(sections(page)["Wide"])] == [
        ["Page", "any", "0, 8 LE", "raw"],
        ["Tail", "any", "511, 8 BE", "raw * 0.5 - 40, signed"],
        ["Sub", "Page = 1", "8, 8 LE", "raw"],
        ["Deep", "Sub = 2, 3", "16, 32 LE", "raw, float"],
    ]
    assert "CAN FD, 29-bit ids; 64 bytes" in page
    assert r"| this \| that and more |" in page
    capsys.readouterr()
    assert script.main([str(tmp_path / "dbc" / "any.dbc")]) == 0
    assert capsys.readouterr().out == page


def test_a_file_that_is_not_there_is_said(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["nowhere.dbc"])
    assert stop.value.code == 2
    assert "nowhere.dbc: expected a readable file, got: No such file or directory" in capsys.readouterr().err
