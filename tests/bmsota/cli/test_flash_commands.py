"""`bmsota nodes | flash | verify | reset` over an slcan pseudo terminal and python-can's virtual bus, against real targets."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from dataclasses import replace

import can
import pytest
from flash_rig import NEW, OLD, ImageRole, Node, PtyPack, VirtualPack, bmsota, interactive, make_image, write_release

from bmsota.node import NodeCommand

QUICK = ["--listen", "0.05", "--timeout", "2"]
WRITING = {
    NodeCommand.ENTER_BOOTLOADER,
    NodeCommand.BEGIN_TRANSFER,
    NodeCommand.CHECK_BLOCK,
    NodeCommand.FINISH_TRANSFER,
    NodeCommand.ACTIVATE_TEST,
    NodeCommand.RESET,
    NodeCommand.CONFIRM,
    NodeCommand.REVERT,
}


@pytest.fixture
def pack():
    with VirtualPack(*(Node(position) for position in range(3))) as pack:
        yield pack


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "release"
    folder.mkdir()
    return write_release(folder)


@pytest.fixture
def flash(pack, tmp_path):
    """Runs `bmsota flash` on the pack, with report and log in a folder of their own."""
    folder = tmp_path / "runs"
    folder.mkdir()

    def run(*arguments, **options):
        return bmsota("flash", *arguments, *pack.arguments, *QUICK, "--report-dir", folder, **options)

    run.folder = folder
    return run


def report_of(run):
    """The newest report in the folder."""
    paths = sorted(run.folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(paths[-1].read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [PtyPack, VirtualPack])
def test_the_journey(kind, release, tmp_path):
    """nodes, flash --plan, flash, verify, reset: as the guide tells it."""
    with kind(*(Node(position) for position in range(3))) as pack:
        there = bmsota("nodes", *pack.arguments, *QUICK)
        assert there.code == 0
        lines = there.out.splitlines()
        assert " ".join(lines[0].split()) == "node role hwid serial version state slot A slot B counter"
        assert " ".join(lines[2].split()) == "1 slave HW-1 SN1 2.0.0 application confirmed * empty 1"
        assert [re.sub("[0-9a-f-]{36}", "UUID", line) for line in lines[4:6]] == [
            "hardware class UUID: node 0",
            "hardware class UUID: nodes 1, 2",
        ]
        assert re.fullmatch(r"images \(SHA-256\): node 0 [0-9a-f]{16}; nodes 1, 2 [0-9a-f]{16}", lines[6])
        assert lines[7] == "nodes 0-2: supports broadcast, compression, image digest; protocol 2"
        differs = bmsota("verify", release, *pack.arguments, *QUICK)
        assert differs.code == 1
        assert "DIFFERS  node 1 (slave): expected 2.1.0, runs 2.0.0, confirmed, counter 1" in differs.out
        done = bmsota("flash", release, "--yes", *pack.arguments, *QUICK, "--report-dir", tmp_path)
        assert done.code == 0, done.text
        assert "done: 3 nodes run T-2.1.0" in done.out
        assert pack.versions == dict.fromkeys(range(3), NEW)
        same = bmsota("verify", release, *pack.arguments, *QUICK)
        assert same.code == 0
        assert same.out.splitlines() == [
            f"equal    node {position} ({'slave' if position else 'master'}): runs 2.1.0, confirmed, counter 2"
            for position in range(3)
        ]
        restarts = {position: node.restarts for position, node in pack.nodes.items()}
        reset = bmsota("reset", "1-2", "--yes", *pack.arguments, *QUICK)
        assert reset.code == 0
        assert [line.split(":")[0] for line in reset.out.splitlines()] == ["node 1 (slave)", "node 2 (slave)"]
        assert {position: node.restarts - restarts[position] for position, node in pack.nodes.items()} == {
            0: 0,
            1: 1,
            2: 1,
        }


class TestPlan:
    @pytest.mark.slow
    def test_no_frame_that_writes_is_on_the_bus(self, pack, flash, release):
        """Judged by every frame of the host, not by what the tool says of itself."""
        before = {position: node.flash.operations for position, node in pack.nodes.items()}
        plan = flash(release, "--plan")
        assert plan.code == 0
        assert {request.command for request in pack.requests} == {NodeCommand.DISCOVER}
        assert len(pack.requests) == len(pack.frames)
        assert {position: node.flash.operations for position, node in pack.nodes.items()} == before
        done = flash(release, "--yes")
        assert done.code == 0
        assert {request.command for request in pack.requests} & WRITING  # The measure can fail.

    def test_it_says_what_would_happen(self, flash, release):
        size = len(make_image())
        plan = flash(release, "--plan")
        lines = plan.out.splitlines()
        assert lines[0] == "release T-2.1.0"
        assert lines[1].split() == ["node", "role", "hwid", "from", "to", "action", "bytes", "about"]
        assert lines[3].split() == ["1", "slave", "HW-1", "2.0.0", "2.1.0", "flash", str(size), "1.0", "s"]
        assert lines[5].startswith(f"total {3 * size} bytes, at most about 3.1 s at the wire's 35.2 kB/s")
        assert "plan only: nothing was written" in lines

    def test_refusals_are_part_of_it(self, pack, flash, release):
        plan = flash(release, "--plan", "--to", "slaves")
        assert plan.code == 3
        assert "mixed-pack: node 0 is left out and runs 2.0.0, not 2.1.0" in plan.err
        assert "nothing was written to any node" in plan.err
        assert not {request.command for request in pack.requests} & WRITING

    def test_without_a_bit_rate_no_seconds_are_promised(self, pack, release, tmp_path):
        arguments = pack.arguments[:-2]
        plan = bmsota("flash", release, "--plan", *arguments, *QUICK, "--report-dir", tmp_path)
        assert plan.code == 0
        assert "give the bit rate (-b) for an estimate" in plan.out


class TestTargets:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("to", "expected"),
        [("master", {0}), ("slaves", {1, 2}), ("all", {0, 1, 2}), ("2", {2}), ("1-2", {1, 2}), ("0,2", {0, 2})],
    )
    def test_each(self, pack, flash, release, to, expected):
        done = flash(release, "--to", to, "--force", "mixed-pack", "--yes")
        assert done.code == 0, done.text
        assert {position for position, version in pack.versions.items() if version == NEW} == expected

    @pytest.mark.slow
    def test_one_image(self, pack, flash, tmp_path):
        path = tmp_path / "slave.bin"
        path.write_bytes(make_image())
        done = flash(path, "--yes")
        assert done.code == 0, done.text
        assert pack.versions == {0: OLD, 1: NEW, 2: NEW}

    @pytest.mark.slow
    def test_who_is_up_to_date_is_left_alone(self, pack, flash, release):
        assert flash(release, "--yes").code == 0
        count = len(pack.frames)
        again = flash(release, "--yes")
        assert again.code == 0
        assert "nothing to do: every target is up to date" in again.out
        assert not {request.command for request in pack.requests[count:]} & WRITING
        forced = flash(release, "--yes", "--force", "same-version")
        assert forced.code == 0
        assert "forced: same-version: nodes 0-2: already runs 2.1.0" in forced.out
        assert report_of(flash)["forced"] == [
            f"same-version: node {position}: already runs 2.1.0" for position in range(3)
        ]


class TestReport:
    @pytest.mark.slow
    def test_a_run_that_succeeds(self, pack, flash, release):
        assert flash(release, "--yes").code == 0
        report = report_of(flash)
        assert report["format"] == "bmsota-flash-report/1"
        assert (report["exit_code"], report["exit"], report["outcome"]) == (0, "DONE", "done")
        assert report["safe_to_run_again"]
        assert report["fault"] is None
        assert report["adapter"] == {
            "interface": "virtual",
            "channel": pack.channel,
            "bitrate_bps": 500_000,
            "data_bitrate_bps": None,
            "has_listened": True,
            "heard_frames": 0,
            "heard_errors": 0,
        }
        assert report["ceiling_bytes_per_s"] == pytest.approx(35_155, abs=10)
        assert [node["position"] for node in report["nodes"]] == [1, 2, 0]
        for node in report["nodes"]:
            assert (node["state"], node["version"], node["is_ok"]) == ("new", "2.1.0", True)
            assert node["sent_bytes"] == len(make_image(ImageRole.SLAVE if node["position"] else ImageRole.MASTER))
            assert node["share_of_wire"] == pytest.approx(
                node["rate_bytes_per_s"] / report["ceiling_bytes_per_s"], abs=1e-3
            )
        assert [phase["phase"] for phase in report["phases"]][:4] == [
            "discovering nodes",
            "waiting for confirmation",
            "checking that the nodes have not changed",
            "flashing",
        ]
        assert len(report["plan"]["nodes"]) == 3
        assert {image["sha256"] for image in report["source"]["images"]} == {
            hashlib.sha256(make_image(role)).hexdigest() for role in ImageRole
        }

    @pytest.mark.slow
    @pytest.mark.parametrize("suffix", [".log", ".blf", ".asc", ".trc"])
    def test_the_can_log_opens_with_python_cans_reader_and_holds_every_frame(
        self, pack, flash, release, tmp_path, suffix
    ):
        path = tmp_path / f"run{suffix}"
        assert flash(release, "--yes", "--log", path).code == 0
        with can.LogReader(path) as reader:
            messages = list(reader)
        report = report_of(flash)
        assert len(messages) == report["log"]["frames"] == report["frames_sent"] + report["frames_received"]
        assert report["log"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        sent = [(message.arbitration_id, bytes(message.data)) for message in messages if not message.is_rx]
        assert sent == [(frame.can_id, frame.data) for frame in pack.frames]
        times = [message.timestamp for message in messages]
        assert times == sorted(times)

    def test_by_default_both_lie_in_the_current_folder(self, pack, release, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert bmsota("flash", release, "--plan", *pack.arguments, *QUICK).code == 0
        (report,) = tmp_path.glob("bmsota-flash-*Z.json")
        assert json.loads(report.read_text(encoding="utf-8"))["is_plan_only"]
        assert report.with_suffix(".log").is_file()

    def test_the_folder_may_come_from_the_environment_and_the_log_be_left_out(self, pack, release, tmp_path):
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        done = bmsota(
            "flash", release, "--plan", *pack.arguments, *QUICK, "--no-log", env={"BMSOTA_REPORT_DIR": str(folder)}
        )
        assert done.code == 0
        (report,) = folder.iterdir()
        assert json.loads(report.read_text(encoding="utf-8"))["log"] is None

    @pytest.mark.parametrize("is_named", [True, False])
    def test_one_that_was_named_is_written_also_if_the_bus_cannot_be_opened(self, release, tmp_path, is_named):
        """A script that reads it would find nothing, or that of the run before."""
        path, folder = tmp_path / "report.json", tmp_path / "folder"
        named = ["--report", path] if is_named else []
        adapter = ["-i", "bmsota_slcan", "-c", tmp_path / "no port", "-b", "500000"]
        done = bmsota("flash", release, "--yes", *adapter, *QUICK, "--report-dir", folder, *named)
        assert done.code == 4, done.text
        assert not folder.exists()
        assert path.exists() is is_named
        if is_named:
            report = json.loads(path.read_text(encoding="utf-8"))
            assert (report["exit_code"], report["fault"], report["outcome"]) == (4, "no such port", "unfinished")

    @pytest.mark.slow
    def test_runs_of_one_second_do_not_overwrite_each_other(self, flash, release):
        for _ in range(3):
            assert flash(release, "--plan").code == 0
        assert len(list(flash.folder.glob("*.json"))) == len(list(flash.folder.glob("*.log"))) == 3


class TestNodes:
    def test_json(self, pack):
        done = bmsota("nodes", "--json", *pack.arguments, *QUICK)
        assert done.code == 0
        nodes = json.loads(done.out)
        assert [node["position"] for node in nodes] == [0, 1, 2]
        assert nodes[1]["slot_states"] == ["CONFIRMED", "EMPTY"]
        assert nodes[1]["version"] == "2.0.0"

    def test_one_that_was_expected_is_missing(self, pack):
        done = bmsota("nodes", "--expect", "0-4", *pack.arguments, *QUICK)
        assert done.code == 1
        assert "node-present: nodes 3, 4 did not answer\n  next: Check the node's supply and wiring.\n" in done.err

    def test_the_channel_is_missing(self):
        done = bmsota("nodes", "-i", "bmsota_slcan")
        assert done.code == 2
        assert "invalid option: bmsota_slcan needs a channel: pass -c" in done.err


class TestVerify:
    def test_without_a_release_the_pack_is_looked_at(self, pack):
        assert bmsota("verify", *pack.arguments, *QUICK).code == 0

    def test_a_pack_of_different_versions_is_in_disorder(self):
        with VirtualPack(Node(0), Node(1), Node(2, NEW)) as pack:
            done = bmsota("verify", *pack.arguments, *QUICK)
        assert done.code == 1
        assert "PROBLEM  pack: nodes of one kind run different versions: 2.0.0 on 1, 2.1.0 on 2" in done.out
        assert (
            "next: Do not drive or charge until `bmsota flash` has brought the same release to all nodes;" in done.err
        )

    def test_json(self, pack, release):
        done = bmsota("verify", release, "--json", *pack.arguments, *QUICK)
        assert done.code == 1
        content = json.loads(done.out)
        assert (content["source"], content["is_equal"]) == ("T-2.1.0", False)
        assert [node["is_equal"] for node in content["nodes"]] == [False] * 3

    def test_nothing_is_written(self, pack, release):
        bmsota("verify", release, *pack.arguments, *QUICK)
        assert {request.command for request in pack.requests} == {NodeCommand.DISCOVER}

    def test_one_that_was_expected_is_missing(self, pack, release):
        done = bmsota("verify", release, "--expect", "7", *pack.arguments, *QUICK)
        assert done.code == 1
        assert "DIFFERS  pack: node 7 did not answer" in done.out
        assert "next: Check the node's supply and wiring. Run `bmsota flash` with the release" in done.err

    def test_of_a_silent_node_alone_another_image_is_no_cure(self, pack):
        done = bmsota("verify", "--expect", "7", *pack.arguments, *QUICK)
        assert done.code == 1
        assert "differs: node 7 did not answer\n  next: Check the node's supply and wiring.\n" in done.err

    def test_one_altered_reply_is_no_difference(self, pack, release):
        """It looks like another version; nodes that differ are looked at once more."""
        altered = []

        def tamper(frame):
            if frame.can_id == 0x721 and frame.data[0] == 2 and len(altered) < 1:
                altered.append(frame)
                return replace(frame, data=frame.data[:3] + b"\x63" + frame.data[4:])
            return frame

        with VirtualPack(Node(1, version=NEW)) as other:
            other.tamper = tamper
            done = bmsota("verify", release, "--to", "1", *other.arguments, *QUICK)
        assert altered
        assert (done.code, "DIFFERS" in done.out) == (0, False), done.text

    @pytest.mark.slow
    def test_an_image_in_test_is_not_equal(self, pack, flash, release):
        """It runs, but the next restart reverts it."""
        pack.on_request = lambda request: setattr(pack, "machine", None)
        trial = Node(1)
        trial.store.begin_staging(len(make_image()), hashlib.sha256(make_image()).digest())
        trial.store.write_staged(0, make_image())
        trial.store.finish_staging()
        trial.store.request_test()
        trial.restart()
        with VirtualPack(trial) as other:
            done = bmsota("verify", release, "--to", "1", *other.arguments, *QUICK)
            assert done.code == 1
            assert "DIFFERS  node 1 (slave): runs 2.1.0 in test, not confirmed" in done.out
            reset = bmsota("reset", "--yes", *other.arguments, *QUICK)
            assert reset.code == 3
            assert "test-pending: node 1 (2.1.0): the image is in test" in reset.err
            assert "next: Another upgrade is in progress; wait for it." in reset.err
            assert trial.version == NEW
            reset = bmsota("reset", "--yes", "--force", "test-pending", *other.arguments, *QUICK)
            assert reset.code == 0
            assert trial.version == OLD

    @pytest.mark.slow
    def test_a_reverted_image_is_not_equal_while_it_still_runs(self, release, tmp_path):
        """A run stopped on the way back: the next restart runs the old image, so the next run begins with that restart."""
        node = Node(1)
        node.store.begin_staging(len(make_image()), hashlib.sha256(make_image()).digest())
        node.store.write_staged(0, make_image())
        node.store.finish_staging()
        node.store.request_test()
        node.restart()
        node.store.revert()
        with VirtualPack(node) as pack:
            done = bmsota("verify", release, "--to", "1", *pack.arguments, *QUICK)
            assert done.code == 1
            assert "DIFFERS  node 1 (slave): expected another build of 2.1.0, runs 2.1.0, which is reverted" in done.out
            again = bmsota("flash", release, "--to", "1", "--yes", *pack.arguments, *QUICK, "--report-dir", tmp_path)
            assert again.code == 0, again.text
            assert "revert, flash" in again.out
            node.restart()
            assert node.version == NEW


class TestInterrupt:
    """Ctrl-C, as a signal, while the run is at a certain command."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "command",
        [
            NodeCommand.DISCOVER,
            NodeCommand.BEGIN_TRANSFER,
            NodeCommand.FINISH_TRANSFER,
            NodeCommand.ACTIVATE_TEST,
            NodeCommand.CONFIRM,
        ],
    )
    def test_then_again_only_what_is_missing_is_sent(self, command, pack, flash, release):
        def interrupt(request):
            if request.command is command:
                pack.on_request = lambda request: None
                os.kill(os.getpid(), signal.SIGINT)

        pack.on_request = interrupt
        stopped = flash(release, "--yes")
        assert stopped.code == 130, stopped.text
        assert "interrupted: stopped with Ctrl-C while " in stopped.err
        assert "Run again to continue where it stopped." in stopped.err
        assert "safe to run again: yes" in stopped.err
        report = report_of(flash)
        assert (report["exit"], report["outcome"]) == ("INTERRUPTED", "interrupted")
        first = {node["position"]: node["sent_bytes"] for node in report["nodes"]}
        again = flash(release, "--yes")
        assert again.code == 0, again.text
        assert pack.versions == dict.fromkeys(range(3), NEW)
        for node in report_of(flash)["nodes"]:
            assert node["sent_bytes"] + first.get(node["position"], 0) <= len(make_image())

    @pytest.mark.slow
    def test_a_second_one_does_not_wait_for_the_nodes(self, pack, flash, release):
        """The first one looks at the nodes once more; an impatient user presses again."""

        def interrupt(request):
            if request.command is NodeCommand.BEGIN_TRANSFER or pack.is_stopping:
                pack.is_stopping = True
                os.kill(os.getpid(), signal.SIGINT)

        pack.is_stopping = False
        pack.on_request = interrupt
        stopped = flash(release, "--yes")
        pack.on_request = lambda request: None
        assert stopped.code == 130, stopped.text
        assert {node["state"] for node in report_of(flash)["nodes"]} == {"not asked"}
        assert "node 1 (slave): was not queried at the end; its state is unknown" in stopped.out
        assert flash(release, "--yes").code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "code"), [(b"y\n", 0), (b"n\n", 3), (b"perhaps\ny\n", 0), (b"\x04", 130), (b"\x03", 130)]
)
def test_on_a_terminal_it_asks_and_shows_bars(answer, code, release, tmp_path):
    """yes, no, neither, the end of the input, Ctrl-C in the very moment in which the question stands there."""
    with PtyPack(*(Node(position) for position in range(2))) as pack:
        arguments = ["flash", release, *pack.arguments, *QUICK, "--report-dir", tmp_path]
        got, screen = interactive(arguments, answer)
        assert got == code, screen
        assert pack.versions == dict.fromkeys(range(2), NEW if code == 0 else OLD)
        if code:
            assert not {request.command for request in pack.requests} & WRITING
            assert "nothing was written to any node" in screen
        else:
            assert re.search(r"\d+ bytes in \d\.\d s \(\d+\.\d (of 35\.2 kB/s|kB/s(, compressed)?\))", screen)
    assert "Traceback" not in screen
    (report,) = tmp_path.glob("*.json")
    assert json.loads(report.read_text(encoding="utf-8"))["exit_code"] == code
