"""Words for the reader: names of hardware classes, tampered manifests, checks that a command has, help on 80 columns."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flash_rig import KEY, Node, PtyPack, VirtualPack, bmsota, interactive, make_image, write_release

from bmsota.image import HardwareClass

QUICK = ["--listen", "0.05", "--timeout", "1"]
F7, E7 = (HardwareClass.named("bmsota.example", f"{series}-slave") for series in ("F7", "E7"))
OWN = HardwareClass.named("acme.example", "X1-slave")


@pytest.fixture
def pack():
    with VirtualPack(Node(1, hardware=F7), Node(2, hardware=OWN)) as pack:
        yield pack


def test_nodes_say_their_class_by_name(pack):
    done = bmsota("nodes", *pack.arguments, *QUICK)
    assert f"hardware class F7-slave ({F7.class_id}): node 1" in done.out
    assert f"hardware class {OWN.class_id}: node 2" in done.out
    named = bmsota("nodes", "--class-name", "acme.example/X1-slave", *pack.arguments, *QUICK)
    assert f"hardware class X1-slave ({OWN.class_id}): node 2" in named.out
    from_environment = {"BMSOTA_CLASS_NAMES": "acme.example/X1-master acme.example/X1-slave"}
    rows = json.loads(bmsota("nodes", "--json", *pack.arguments, *QUICK, env=from_environment).out)
    assert [(row["class_id"], row["class_name"]) for row in rows] == [
        (str(F7.class_id), "F7-slave"),
        (str(OWN.class_id), "X1-slave"),
    ]


def test_the_wrong_release_is_told_by_the_names_of_both(pack, tmp_path):
    path = tmp_path / "slave.bin"
    path.write_bytes(make_image(hardware=E7))
    plan = bmsota("flash", path, "--plan", "--to", "1", *pack.arguments, *QUICK, "--report-dir", tmp_path)
    assert plan.code == 3
    expected = f"expected an image for hardware class F7-slave ({F7.class_id}), got E7-slave ({E7.class_id})"
    assert f"hardware-class: node 1: {expected}" in plan.err
    verified = bmsota("verify", path, "--to", "1", *pack.arguments, *QUICK)
    assert f"F7-slave ({F7.class_id}), got E7-slave" in verified.out
    # Flashing what it was compared with is refused, and so is no cure.
    assert "next: Compare with the release for this hardware, or select other nodes with `--to`.\n" in verified.err


@pytest.mark.parametrize("text", ["X1-slave", "/X1", "acme.example/"])
def test_a_class_name_needs_its_vendor(pack, text):
    done = bmsota("nodes", "--class-name", text, *pack.arguments, *QUICK)
    assert done.code == 2
    assert f"--class-name: expected VENDOR/NAME, got {text!r}" in done.err


def test_a_manifest_that_was_changed_is_told_as_that(tmp_path):
    """Without words of the update framework: the signature is there, and it does not fit."""
    release = write_release(tmp_path)
    data = bytearray(release.read_bytes())
    data[-1] ^= 1
    release.write_bytes(data)
    keys = []
    for name, key in (("one", KEY), ("two", Ed25519PrivateKey.from_private_bytes(b"\x01" * 32))):
        path = tmp_path / f"{name}.pem"
        path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        keys += ["--manifest-key", path]
    for given, words in ((keys[:2], "the given key"), (keys, "any of the given keys")):
        done = bmsota("flash", release, "--plan", *given, "-i", "virtual", "-c", "nowhere")
        assert done.code == 3
        assert (
            f"bmsota: manifest-signature: {release}: the signature does not fit {words}: the manifest was changed, or "
            "signed with another key"
        ) in done.err


def test_an_image_signed_with_another_key_is_told_as_that(tmp_path):
    path = tmp_path / "slave.bin"
    path.write_bytes(make_image())
    key = tmp_path / "other.pem"
    other = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32).public_key()
    key.write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with VirtualPack(Node(1)) as pack:
        plan = bmsota("flash", path, "--plan", "--image-key", key, *pack.arguments, *QUICK, "--report-dir", tmp_path)
    assert plan.code == 3
    assert "image-signature: slave image 2.1.0: not signed with one of the given keys" in plan.err


def test_reset_has_the_one_check_it_knows(pack):
    done = bmsota("reset", "--yes", "--force", "hwid", *pack.arguments, *QUICK)
    assert done.code == 2
    assert "--force: expected one of test-pending, got 'hwid'" in done.err
    asked = bmsota("reset", *pack.arguments, *QUICK)
    assert asked.code == 2
    assert "--plan" not in asked.err


def test_a_damaged_image_is_refused_before_the_bus_is_opened(tmp_path):
    """The image carries its own digest: no key is needed to see it."""
    data = bytearray(make_image())
    data[len(data) // 2] ^= 1
    path = tmp_path / "damaged.bin"
    path.write_bytes(data)
    done = bmsota("flash", path, "--yes", "-i", "bmsota_slcan", "-c", tmp_path / "no port", "--report-dir", tmp_path)
    assert done.code == 2
    assert "image damaged: " in done.err
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(
    "command",
    [
        [],
        *([each] for each in ["adapters", "nodes", "flash", "verify", "reset", "decode", "encode", "send", "dbc"]),
        ["dbc", "decode"],
    ],
)
def test_help_is_whole_on_80_columns(command):
    """No line is longer, and no option or text is cut by an ellipsis."""
    done = bmsota(*command, "--help", env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    assert not set("…│") & set(done.out)  # Boxes cut what stands in them.


@pytest.mark.slow
def test_a_run_fits_a_terminal_of_80_columns(tmp_path):
    """Plan, bars and end: no line is cut by the terminal, one bar is the whole run's."""
    release = write_release(tmp_path)
    with PtyPack(*(Node(position) for position in range(4))) as pack:
        arguments = ["flash", release, *pack.arguments, *QUICK, "--report-dir", tmp_path]
        code, screen = interactive(arguments, b"y\n", columns=80)
    assert code == 0, screen
    assert "whole run" in screen
    assert "nodes 1-3 together: " in screen.replace("\r", "")
    lines = [line for each in screen.replace("\r\n", "\n").split("\n") for line in each.split("\r")]
    assert [line for line in lines if len(line) > 80 and len(line.split()) > 1] == []  # A path alone may be longer.
    assert any(
        line.startswith("  ") and "vehicle drives or charges" not in line for line in lines
    )  # Something was wrapped.


@pytest.mark.parametrize("path", ["/dev/null", "/", __file__])
def test_what_is_no_serial_port_is_called_so(path):
    done = bmsota("nodes", "-i", "bmsota_slcan", "-c", path, "-b", "500000")
    assert done.code == 4
    assert f"no such port: not a serial port: cannot open {path}: " in done.err
    assert "next: Pass the adapter's port with `-c`; `bmsota adapters` lists what is connected." in done.err
    assert "Unplug" not in done.err


@pytest.mark.parametrize("environment", [{}, {"CAN_INTERFACE": "foo"}])
def test_an_unknown_interface_is_answered_with_those_that_exist(environment):
    done = bmsota("nodes", "-c", "x", *([] if environment else ["-i", "foo"]), env=environment)
    assert done.code == 2
    first, advice, _ = done.err.splitlines()
    assert first.startswith("bmsota: unknown adapter: ")
    assert all(name in first for name in ("foo", "bmsota_slcan", "pcan", "socketcan"))
    assert "Use one of the interfaces in the message" in advice


def test_a_misspelt_source_is_told_before_yes_is_asked_for(tmp_path):
    """Who has no terminal would else pass --yes first, and learn of the file then."""
    done = bmsota("flash", str(tmp_path / "none.cose"), "-i", "virtual", "-c", "unused")
    assert done.code == 2
    assert "none.cose" in done.err
    assert "--yes to confirm" not in done.err
