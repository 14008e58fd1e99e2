"""Frames from files, as a program reads them. Every kind of file: tests/bmsota/cli/test_frame_input.py."""

from __future__ import annotations

import pytest

from bmsota.adapters.frame_sources import FrameSourceError, FrameSourceOptions, ReadSummary, find_frames

LOGOUT = "232304fe5445535456494e303030303030303035340100081206161015150046e1"
HEARTBEAT = "232307fe4c424d4637455630315230303030303031010000bb"


def test_files_of_several_kinds_in_one_go(tmp_path):
    """A table and a stream with garbage in it; the summary counts, and says which columns were used."""
    table, stream = tmp_path / "export.csv", tmp_path / "frames.bin"
    table.write_text(f"received,frame\n2026-01-01 12:00:00,{LOGOUT}\n", encoding="utf-8")
    stream.write_bytes(bytes.fromhex(HEARTBEAT) + b"\x00\x01" + bytes.fromhex(LOGOUT))
    summary = ReadSummary()
    found = list(find_frames([str(table), str(stream)], summary=summary))
    assert [each.frame and each.frame.command for each in found] == [4, 7, None, 4]
    assert found[0].time_ns == 1_767_240_000 * 10**9
    assert found[2].error == "2 bytes discarded: no start mark"
    assert (summary.frames, summary.bad) == (3, 1)
    assert summary.notes == ["frames in column 'frame', times in column 'received'"]


def test_digits(tmp_path):
    assert [each.frame.command for each in find_frames([LOGOUT, HEARTBEAT])] == [4, 7]


def test_what_cannot_be_read_is_said_before_anything_is_read(tmp_path):
    with pytest.raises(FrameSourceError, match="is neither hexadecimal nor a readable file"):
        find_frames([str(tmp_path / "nothing.bin")])


@pytest.mark.parametrize("option", ["column", "time_column", "vin_column"])
def test_the_error_names_the_option_that_is_wrong(option, tmp_path):
    path = tmp_path / "export.csv"
    path.write_text(f"a,b\n1,{LOGOUT}\n", encoding="utf-8")
    with pytest.raises(FrameSourceError, match=r"expected one of 'a', 'b', got 'c'") as caught:
        list(find_frames([str(path)], FrameSourceOptions(**{option: "c"})))
    assert caught.value.option == option
    with pytest.raises(FrameSourceError, match="unknown text encoding 'klingon'") as caught:
        find_frames([str(path)], FrameSourceOptions(encoding="klingon"))
    assert caught.value.option == "encoding"
