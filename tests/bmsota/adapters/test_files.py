"""Files that ship with the package, and DBC files of the user."""

from __future__ import annotations

from pathlib import Path

import pytest

from bmsota.adapters import files
from bmsota.errors import ConfigurationError
from bmsota.signals import loads

ROOT = Path(__file__).parents[3]


def test_the_dbc_files_of_the_project_ship():
    assert {"bms_internal", "bms_vehicle"} <= set(files.packaged_dbc_names())
    assert files.packaged_database("bms_vehicle") is files.packaged_database("bms_vehicle.dbc")
    assert list(files.packaged_database("bms_vehicle")) == list(loads(files.packaged_dbc("bms_vehicle")))
    for name in files.packaged_dbc_names():
        text = files.packaged_dbc(name)
        assert text == files.packaged_dbc(f"{name}.dbc")
        assert text.startswith("VERSION")


def test_a_name_that_does_not_ship_is_refused_and_cannot_leave_the_folder():
    for name in ("bms_unknown", "../pyproject", "/etc/passwd", ""):
        with pytest.raises(ConfigurationError, match=r"no packaged DBC .*; there are bms_"):
            files.packaged_dbc(name)


def test_files_inside_the_package_win_over_the_checkout(monkeypatch, tmp_path):
    """In a wheel the folder is inside; there is no checkout around it."""
    folder = tmp_path / "_data" / "dbc"
    folder.mkdir(parents=True)
    (folder / "a.dbc").write_bytes(b"VERSION")
    (folder / "README").write_bytes(b"")
    monkeypatch.setattr(files.resources, "files", lambda package: tmp_path)
    assert files.packaged_dbc_names() == ("a",)
    assert files.packaged_dbc("a") == "VERSION"


def test_nothing_ships_if_there_is_no_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "_folder", lambda: tmp_path / "nowhere")
    assert files.packaged_dbc_names() == ()
    with pytest.raises(ConfigurationError, match="no packaged DBC 'x'; there are none"):
        files.packaged_dbc("x")


def test_a_dbc_is_read_whatever_its_code_page(tmp_path):
    path = tmp_path / "old.dbc"
    text = 'BO_ 1 M: 1 A\n SG_ T : 0|8@1+ (1,0) [0|0] "°C" A\n'
    for encoding in ("utf-8", "utf-8-sig", "cp1252"):
        path.write_bytes(text.encode(encoding))
        database = files.load_dbc(path)
        assert list(files.load_dbc(str(path))) == ["M"]
        assert database.faults == ()
        assert database["M"].signals[0].unit == "°C"


def test_a_file_that_is_too_large_is_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DBC_SIZE_BYTES_MAX", 10)
    path = tmp_path / "large.dbc"
    path.write_bytes(b" " * 11)
    with pytest.raises(ConfigurationError, match="at most 10 bytes"):
        files.load_dbc(path)
    with pytest.raises(FileNotFoundError):
        files.load_dbc(tmp_path / "none.dbc")
