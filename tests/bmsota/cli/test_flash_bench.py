"""`bmsota flash` end to end on the virtual bench: a paced bus with traffic, whole slaves and a whole master behind an adapter.

Every wire and protocol the bench has, the way through the master's gateway, a bad bus, a power cut, and a second run.
"""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

import pytest
from bmsota_sim.bench import Bench, BenchOptions, BenchProtocol, BenchTopology
from bmsota_sim.links.canbus import BusFaults
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flash_rig import bmsota

pytestmark = pytest.mark.slow

RELEASE = Path(__file__).resolve().parents[3] / "firmware_images" / "E7-2.1.0.manifest.cose"
KEYS = RELEASE.parent / "keys"
ACCESS_KEY = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)
# Flash without delay: the tests wait for the wire alone.
SMALL = {"series": "E7", "slaves": 2, "flash_erase_ns": 0, "flash_program_ns": 0}

WIRES = {
    "classic": ({}, ["-b", "500000"]),
    "gateway": ({"topology": BenchTopology.GATEWAY}, ["-b", "500000"]),
    "29-bit": ({"ids": 29}, ["-b", "500000", "--ids", "29"]),
    "fd": ({"data_bitrate_bps": 2_000_000}, ["-b", "500000", "--fd", "--data-bitrate", "2000000"]),
    "uds": ({"protocol": BenchProtocol.UDS}, ["-b", "500000", "--profile", "uds"]),
    "uds 29-bit, gateway": (
        {"protocol": BenchProtocol.UDS, "ids": 29, "topology": BenchTopology.GATEWAY},
        ["-b", "500000", "--profile", "uds", "--ids", "29"],
    ),
    "bad bus": ({"faults": BusFaults(loss=0.01, duplication=0.01, reordering=0.01, delay=0.01)}, ["-b", "500000"]),
    "locked": ({"access_keys": (ACCESS_KEY.public_key(),)}, ["-b", "500000", "--access-key", "KEY"]),
}


def versions(bench):
    """What every node runs."""
    return [row.version for row in bench.rows()]


@pytest.fixture
def flash(tmp_path):
    """Runs `bmsota flash` on a bench; (what it did, its report)."""
    key = tmp_path / "access.pem"
    key.write_bytes(ACCESS_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def run(bench, *arguments):
        while any(row.state == "booting" for row in bench.rows()):  # A master needs a third of a second.
            time.sleep(0.01)
        report = tmp_path / "report.json"
        words = [str(key) if word == "KEY" else word for word in arguments]
        adapter = ["-i", "bmsota_slcan", "-c", bench.paths[0]]
        done = bmsota("flash", RELEASE, "--yes", *adapter, *words, "--report", report, "--no-log")
        assert report.exists(), done.text
        return done, json.loads(report.read_text(encoding="utf-8"))

    return run


@pytest.mark.parametrize("name", WIRES)
def test_every_wire(name, flash):
    options, arguments = WIRES[name]
    with Bench(BenchOptions(**SMALL, **options)) as bench:
        done, report = flash(bench, *arguments)
        assert done.code == 0, done.text
        assert versions(bench) == ["2.1.0"] * 3
    assert [node["state"] for node in report["nodes"]] == ["new"] * 3
    assert 0 < report["wire"]["share_of_wire"] <= 1


@pytest.mark.parametrize("protocol", [BenchProtocol.BOOTLOADER, BenchProtocol.UDS])
def test_a_locked_node_restarts_without_a_key(protocol):
    """A power cycle would do the same; so `bmsota reset` has no --access-key."""
    options = BenchOptions(**SMALL, protocol=protocol, access_keys=(ACCESS_KEY.public_key(),))
    with Bench(options) as bench:
        adapter = ["-i", "bmsota_slcan", "-c", bench.paths[0], "-b", "500000", "--profile", protocol.value]
        done = bmsota("reset", "1", "--yes", *adapter)
    assert done.code == 0, done.text
    assert "node 1 (slave): restarted, runs 2.0.0" in done.out


def test_with_the_keys_of_release_and_images(flash):
    keys = [
        "--manifest-key",
        str(KEYS / "manifest.SAMPLE.public.pem"),
        "--image-key",
        str(KEYS / "image.SAMPLE.public.pem"),
    ]
    with Bench(BenchOptions(**SMALL)) as bench:
        done, report = flash(bench, "-b", "500000", "--plan", *keys)
    assert done.code == 0
    verdicts = {each["check"]: each["verdict"] for each in report["plan"]["findings"]}
    assert (verdicts["manifest-signature"], verdicts["image-signature"]) == ("passed", "passed")


def test_the_guides_first_commands_do_what_they_say(tmp_path, monkeypatch):
    """docs/flash.md, typed as it stands, with the port the bench has printed."""
    monkeypatch.chdir(tmp_path)
    for name in ("F7-2.1.0.manifest.cose", "F7-master-2.1.0.bin", "F7-slave-2.1.0.bin"):
        (tmp_path / name).write_bytes((RELEASE.parent / name).read_bytes())
    page = (RELEASE.parents[1] / "docs" / "flash.md").read_text(encoding="utf-8")
    block = page.partition("```console\n")[2].partition("```")[0]
    commands = [shlex.split(line[2:], comments=True)[1:] for line in block.splitlines()]
    assert [words[0] for words in commands] == ["adapters", "nodes", "flash", "flash"]
    with Bench(BenchOptions(flash_erase_ns=0, flash_program_ns=0)) as bench:
        while any(row.state == "booting" for row in bench.rows()):
            time.sleep(0.01)
        commands[0] += ["--port", bench.paths[0]]
        commands[-1] += ["--yes"]  # There is nobody to ask.
        for words in commands:
            done = bmsota(*(bench.paths[0] if word == "/dev/ttyACM0" else word for word in words))
            assert done.code == 0, done.text
        assert set(versions(bench)) == {"2.1.0"}
    assert len(list(tmp_path.glob("bmsota-flash-*.json"))) == len(list(tmp_path.glob("bmsota-flash-*.log"))) == 2


def test_a_power_cut_in_mid_flash_is_overcome(flash):
    """The slave loses its supply at 40 % and comes back half a second later: the transfer goes on where it stood."""
    with Bench(BenchOptions(**SMALL)) as bench:
        bench.command("cut 1 at-progress 0.4 off 500")
        done, report = flash(bench, "-b", "500000")
        assert done.code == 0, done.text
        assert versions(bench) == ["2.1.0"] * 3
    (node,) = [each for each in report["nodes"] if each["position"] == 1]
    assert node["interruptions"] >= 1


def test_a_slave_that_stays_dark_keeps_the_whole_pack_back(flash):
    with Bench(BenchOptions(**SMALL)) as bench:
        bench.command("cut 1 at-progress 0.4 off 600000")
        done, report = flash(bench, "-b", "500000", "--timeout", "1")
        assert done.code == 1, done.text
        assert "node silent: node 1" in done.err
        assert {each["position"]: each["state"] for each in report["nodes"]} == {
            0: "old, new staged",
            1: "silent",
            2: "old, new staged",
        }
        bench.command("power 1 on")  # `flash` waits until it has booted.
        again, report = flash(bench, "-b", "500000")
        assert again.code == 0, again.text
        assert versions(bench) == ["2.1.0"] * 3
    sent = {each["position"]: (each["resumed_from_bytes"], each["sent_bytes"]) for each in report["nodes"]}
    whole = {0: 49406, 1: 12526, 2: 12526}
    assert (sent[0], sent[2]) == ((whole[0], 0), (whole[2], 0))
    assert 0 < sent[1][0] < whole[1]
    assert sum(sent[1]) == whole[1]
