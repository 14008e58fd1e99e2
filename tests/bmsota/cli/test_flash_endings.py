"""However a run ends: signals, closed pipes, full disks. Resumable, said, and with a report that is never empty."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from fake_socketcan import socketcan_that_fails
from flash_rig import NEW, OLD, Node, PtyPack, VirtualPack, bmsota, make_image, process, write_release

from bmsota.node import NodeCommand

pytestmark = pytest.mark.slow

QUICK = ["--listen", "0.05", "--timeout", "2"]


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "release"
    folder.mkdir()
    return write_release(folder)


@pytest.fixture
def pack():
    with VirtualPack(*(Node(position) for position in range(2))) as pack:
        yield pack


def flash(pack, release, folder, *more):
    return bmsota("flash", release, "--yes", *pack.arguments, *QUICK, "--report", folder / "report.json", *more)


def report_in(folder):
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def at(pack, command, act, times=1):
    """Do *act* when the first request of this kind comes; again for each of *times*."""
    left = [times]

    def on_request(request):
        if request.command is command and left[0]:
            left[0] -= 1
            act()

    pack.on_request = on_request


SIGNALS = {signal.SIGTERM: "stopped by SIGTERM", signal.SIGHUP: "the terminal was closed (SIGHUP)"}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_flash_as_ctrl_c_does(number, pack, release, tmp_path):
    """Nodes are looked at and released, the report is written, and the next run does the rest."""
    at(pack, NodeCommand.BEGIN_TRANSFER, lambda: os.kill(os.getpid(), number))
    stopped = flash(pack, release, tmp_path)
    assert stopped.code == 130, stopped.text
    assert f"interrupted: {SIGNALS[number]} while flashing" in stopped.err
    assert "safe to run again: yes" in stopped.err
    report = report_in(tmp_path)
    assert (report["exit"], report["outcome"]) == ("INTERRUPTED", "interrupted")
    assert all(node["state"].startswith("old") for node in report["nodes"])
    assert {node.target.state.name for node in pack.nodes.values()} == {"APPLICATION"}
    pack.on_request = lambda request: None
    again = flash(pack, release, tmp_path)
    assert again.code == 0, again.text
    assert pack.versions == dict.fromkeys(range(2), NEW)


def test_a_second_hangup_is_no_impatience(pack, release, tmp_path):
    """A shell and the system each send one when a terminal is closed; the nodes are looked at all the same."""

    def hang_up(request):
        """Once in mid-flash, and once more while the nodes are looked at."""
        if request.command is NodeCommand.BEGIN_TRANSFER or pack.is_stopping:
            pack.is_stopping = True
            os.kill(os.getpid(), signal.SIGHUP)

    pack.is_stopping = False
    pack.on_request = hang_up
    stopped = flash(pack, release, tmp_path)
    assert stopped.code == 130, stopped.text
    assert all(node["state"].startswith("old") for node in report_in(tmp_path)["nodes"])


def test_signals_do_not_outlive_the_command(pack, release, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS)]
    flash(pack, release, tmp_path, "--plan")
    assert [signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS)] == before


def test_a_signal_while_the_pack_is_waited_for_leaves_a_report_too(release, tmp_path):
    """Nothing was begun, and the report says so; the log is closed."""
    node = Node(0)
    node.is_dead = True
    with VirtualPack(node) as pack:
        at(pack, NodeCommand.DISCOVER, lambda: os.kill(os.getpid(), signal.SIGTERM))
        stopped = flash(pack, release, tmp_path, "--wait", "forever", "--log", tmp_path / "run.log")
    assert stopped.code == 130, stopped.text
    assert "stopped by SIGTERM before anything was begun" in stopped.err
    assert "nothing was written to any node" in stopped.err
    report = report_in(tmp_path)
    assert (report["exit_code"], report["outcome"], report["detail"]) == (130, "unfinished", "stopped by SIGTERM")
    assert open_files(tmp_path) == []


def open_files(folder):
    """Files under *folder* that this process has open."""
    links = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # It was the listing's own.
            links.append(str(path.readlink()))
    return [link for link in links if link.startswith(str(folder))]


def test_the_log_is_closed_when_the_options_do_not_fit_the_protocol(pack, release, tmp_path):
    """Only behind the opening of the bus is it known that UDS has fewer positions than `--to` knows."""
    done = flash(pack, release, tmp_path, "--to", "31", "--profile", "uds", "--log", tmp_path / "run.log")
    assert done.code == 2, done.text
    assert open_files(tmp_path) == []
    assert report_in(tmp_path)["fault"] == "invalid target"


def test_while_it_runs_the_report_says_that_it_has_not_ended(pack, release, tmp_path):
    """So a run that is killed, or whose computer loses its supply, leaves no empty file."""
    seen = []
    at(pack, NodeCommand.BEGIN_TRANSFER, lambda: seen.append(report_in(tmp_path)))
    assert flash(pack, release, tmp_path).code == 0
    (report,) = seen
    assert (report["format"], report["outcome"], report["exit_code"]) == ("bmsota-flash-report/1", "unfinished", None)
    assert report["detail"] == "the run has not ended, or was killed"
    assert report_in(tmp_path)["outcome"] == "done"


def test_a_disk_that_is_full_at_the_end_still_takes_the_report(pack, release, tmp_path):
    """Its room was kept: the new file beside it cannot be written (here: it is /dev/full), so it is written into the old one."""
    at(
        pack,
        NodeCommand.CONFIRM,
        lambda: (tmp_path / "report.json.part").symlink_to("/dev/full"),
    )
    done = flash(pack, release, tmp_path)
    assert done.code == 0, done.text
    assert "report not saved" not in done.err
    assert report_in(tmp_path)["outcome"] == "done"
    assert not (tmp_path / "report.json.part").is_symlink()


@pytest.mark.parametrize("before", [None, "of an earlier run"])
def test_a_disk_that_is_full_at_the_beginning_keeps_what_it_has(tmp_path, before):
    """The run does not begin, and leaves no half of a report (here: no file may have more than 100 bytes)."""
    report = tmp_path / "report.json"
    if before is not None:
        report.write_text(before)
    image = tmp_path / "slave.bin"
    image.write_bytes(make_image())
    with PtyPack(Node(1)) as pack:
        done = process(
            *["flash", image, "--yes", *pack.arguments, *QUICK, "--no-log", "--report", report],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
        )
        _, said = done.communicate()
        assert not pack.requests
    assert done.returncode == 2
    assert f"report not writable: {report}: File too large" in said
    assert {path.name for path in tmp_path.iterdir()} == {"slave.bin", *(["report.json"] if before else [])}
    assert (report.read_text() if report.exists() else None) == before


# ---- output that nobody reads


def pipe_flash(pack, folder, *, errors_too):
    """A flash of one slave whose output's reader goes away when the image is offered; the exit code."""
    path = folder / "slave.bin"
    path.write_bytes(make_image())
    near, far = os.pipe()
    at(pack, NodeCommand.BEGIN_TRANSFER, lambda: os.close(near))
    arguments = ["flash", path, "--yes", *pack.arguments, *QUICK, "--no-log", "--report", folder / "report.json"]
    done = process(*arguments, stdout=far, stderr=far if errors_too else subprocess.DEVNULL)
    os.close(far)
    return done.wait()


def test_a_run_that_has_confirmed_all_is_done_whoever_reads_it(tmp_path):
    """`flash ... | head -1`: the last lines find no reader, and the exit code says what the nodes run."""
    with PtyPack(Node(1)) as pack:
        assert pipe_flash(pack, tmp_path, errors_too=False) == 0
        assert pack.versions == {1: NEW}
    assert report_in(tmp_path)["exit_code"] == 0


def test_a_closed_pipe_ends_a_flash_that_has_something_to_say(tmp_path):
    """`flash ... 2>&1 | head`: nobody sees what happens any more; it ends as with Ctrl-C, and the report says why."""
    with PtyPack(Node(1)) as pack:
        assert pipe_flash(pack, tmp_path, errors_too=True) == 130
        assert pack.versions == {1: OLD}
        assert pack.nodes[1].target.state.name == "APPLICATION"
    report = report_in(tmp_path)
    assert (report["exit"], report["detail"]) == (
        "INTERRUPTED",
        "the output cannot be written (Broken pipe) while restarting into the new image",
    )


def test_a_list_of_nodes_whose_reader_has_seen_enough_is_no_failure():
    with PtyPack(Node(1)) as pack:
        near, far = os.pipe()
        os.close(near)
        done = process("nodes", *pack.arguments, *QUICK, stdout=far)
        os.close(far)
        _, errors = done.communicate()
    assert done.returncode == 0, errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


# ---- interfaces of Linux

SOCKETCAN_WORDS = {
    errno.ENETDOWN: ("interface down", "Bring it up: `sudo ip link set can3 up type can bitrate 250000`."),
    errno.ENODEV: ("no such port", "`sudo modprobe vcan`, `sudo ip link add can3 type vcan`"),
    errno.EAFNOSUPPORT: ("driver missing", "`sudo modprobe can_raw`"),
    errno.ENOBUFS: ("no acknowledgement", "Check that the pack is powered, the wiring"),
}


@pytest.mark.parametrize("number", SOCKETCAN_WORDS, ids=errno.errorcode.get)
def test_socketcan_is_told_what_helps_with_socketcan(number):
    """Not "unplug it and plug it in": an interface of Linux is brought up with ip, and its modules are loaded."""
    fault, advice = SOCKETCAN_WORDS[number]
    with socketcan_that_fails(number):
        done = bmsota("nodes", "-i", "socketcan", "-c", "can3", "-b", "250000", *QUICK)
    assert done.code == 4, done.text
    assert f"bmsota: {fault}: " in done.err
    assert advice in done.err.partition("  next: ")[2]
