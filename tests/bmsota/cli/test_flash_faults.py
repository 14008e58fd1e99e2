"""Every row of the table "fault -> message the user gets", provoked for real: the message, the next step, the exit code.

The bus is python-can's virtual one or an slcan adapter on a pseudo terminal; files are broken, ports missing, adapters
unplugged, nodes die, restart, refuse and lie. Nothing is patched.
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import socket
import stat
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from fake_socketcan import socketcan_that_fails
from flash_rig import (
    KEY,
    NEW,
    ImageRole,
    Node,
    PtyPack,
    VirtualPack,
    bmsota,
    interactive,
    make_image,
    process,
    write_release,
)
from pack_rig import NOW_S, wire

from bmsota.adapters.slcan import SlcanBus
from bmsota.bootloader._messages import ResultReply, StatusReply
from bmsota.cli.fault_table import FAULTS, ExitCode, FlashFault
from bmsota.errors import ImageError, TrustError
from bmsota.flashing import Check, SourceFault
from bmsota.image import HardwareClass, ImageVersion
from bmsota.node import AccessGuard, FailureCause, NodeCommand, ResultCode

pytestmark = pytest.mark.slow

QUICK = ["--listen", "0.05", "--timeout", "1"]
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
OTHER_CLASS = HardwareClass.named("bmsota.example", "another")
_F, _S, _C = FlashFault, SourceFault, FailureCause

PROVOCATIONS = {}
"""Fault -> what provokes it."""


def provokes(*faults):
    """Register a function that provokes each of *faults*; it gets a `Scene` and returns what `bmsota` did."""

    def register(function):
        for fault in faults:
            assert fault not in PROVOCATIONS
            PROVOCATIONS[fault] = function
        return function

    return register


class Scene:
    """A folder with a release, and packs made on demand."""

    def __init__(self, folder):
        self.folder = folder
        self.runs = folder / "runs"
        self.runs.mkdir()
        self.release_folder = folder / "release"
        self.release_folder.mkdir()
        self.release = write_release(self.release_folder)
        self.fault = None
        self.pack = None

    def file(self, name, content):
        path = self.folder / name
        path.write_bytes(content)
        return path

    def pem(self, name, key):
        return self.file(name, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def public_pem(self, name, key):
        return self.file(name, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    @contextmanager
    def nodes(self, *nodes, kind=VirtualPack, on_request=lambda pack, request: None, **options):
        """A pack; by default a master and a slave with the old version."""
        with kind(*(nodes or (Node(0), Node(1))), **options) as pack:
            self.pack = pack
            pack.on_request = lambda request: on_request(pack, request)
            yield pack

    def flash(self, pack, *arguments, source=None, **options):
        """`bmsota flash --yes` on this pack."""
        return bmsota(
            "flash",
            source or self.release,
            "--yes",
            *pack.arguments,
            *QUICK,
            "--report-dir",
            self.runs,
            *arguments,
            **options,
        )

    def flash_nodes(self, *nodes, arguments=(), source=None, **options):
        """The same with a pack made for it."""
        with self.nodes(*nodes, **options) as pack:
            return self.flash(pack, *arguments, source=source)


# ---- the call


@provokes(_F.BAD_OPTION)
def bad_option(scene):
    return scene.flash_nodes(arguments=["--ids", "12"])


@provokes(_F.BAD_TARGET)
def bad_target(scene):
    return scene.flash_nodes(arguments=["--to", "77"])


@provokes(_F.UNKNOWN_CHECK)
def unknown_check(scene):
    return scene.flash_nodes(arguments=["--force", "everything"])


@provokes(_F.NOT_CONFIRMED)
def not_confirmed(scene):
    with scene.nodes() as pack:
        return bmsota("flash", scene.release, *pack.arguments, *QUICK)


@provokes(_F.DECLINED)
def declined(scene):
    """On a terminal, with n."""
    with scene.nodes(kind=PtyPack) as pack:
        arguments = ["flash", scene.release, *pack.arguments, *QUICK, "--report-dir", scene.runs]
        code, text = interactive(arguments, b"n\n")
        return Done(code, text.replace("\r", ""))


@provokes(_F.INTERRUPTED)
def interrupted(scene):
    def strike(pack, request):
        if request.command is NodeCommand.BEGIN_TRANSFER:
            pack.on_request = lambda request: None
            os.kill(os.getpid(), signal.SIGINT)

    return scene.flash_nodes(on_request=strike)


# ---- the adapter


@provokes(_F.NO_ADAPTER)
def no_adapter(scene):
    return bmsota("nodes", env={"HOME": str(scene.folder), "CAN_INTERFACE": "", "CAN_CONFIG": "{}"})


@provokes(_F.UNKNOWN_ADAPTER)
def unknown_adapter(scene):
    return bmsota("nodes", "-i", "teleport", "-c", "0")


@provokes(_F.DRIVER_MISSING)
def driver_missing(scene):
    return bmsota("nodes", "-i", "canalystii", "-c", "0", "-b", "500000")


@provokes(_F.BAD_SETTING)
def bad_setting(scene):
    with scene.nodes(kind=PtyPack) as pack:
        return bmsota("nodes", *pack.arguments, "-b", "123456")


@provokes(_F.NO_SUCH_PORT)
def no_such_port(scene):
    return bmsota("nodes", "-i", "bmsota_slcan", "-c", scene.folder / "ttyACM7", "-b", "500000")


@provokes(_F.PORT_FORBIDDEN)
def port_forbidden(scene):
    """The port belongs to somebody else. A superuser may open everything, so it becomes nobody for a moment."""
    with scene.nodes(kind=PtyPack) as pack:
        path = Path(pack.cable.path)
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(0)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)
            return bmsota("nodes", *pack.arguments)
        finally:
            os.seteuid(user)
            path.chmod(mode)


@provokes(_F.INTERFACE_DOWN)
def interface_down(_scene):
    with socketcan_that_fails(errno.ENETDOWN):
        return bmsota("nodes", "-i", "socketcan", "-c", "can0", "-b", "500000", *QUICK)


@provokes(_F.PORT_BUSY)
def port_busy(scene):
    with scene.nodes(kind=PtyPack) as pack, SlcanBus(pack.cable.path, bitrate=500_000):
        return bmsota("nodes", *pack.arguments)


@provokes(_F.ADAPTER_SILENT)
def adapter_silent(scene):
    with scene.nodes(kind=PtyPack, answers=False) as pack:
        return bmsota("nodes", *pack.arguments)


@provokes(_F.ADAPTER_REFUSES)
def adapter_refuses(scene):
    with scene.nodes(kind=PtyPack, has_fd=False) as pack:
        return bmsota("nodes", *pack.arguments, "--fd")


@provokes(_F.ADAPTER_FAILS)
def adapter_fails(scene):
    """An adapter behind a socket that nobody serves."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound, and not listening: a connection is refused.
        return bmsota(
            "nodes", "-i", "bmsota_slcan", "-c", f"socket://127.0.0.1:{taken.getsockname()[1]}", "-b", "500000"
        )


@provokes(_F.ADAPTER_LOST)
def adapter_lost(scene):
    def unplug(pack, request):
        if request.command is NodeCommand.CHECK_BLOCK:
            pack.unplug()

    return scene.flash_nodes(kind=PtyPack, on_request=unplug)


# ---- the bus


@provokes(_F.WRONG_BITRATE)
def wrong_bitrate(scene):
    with scene.nodes(kind=PtyPack, foreign=True, bus_bitrate_bps=250_000) as pack:
        return scene.flash(pack, "--listen", "0.3")


@provokes(_F.BUS_NOT_WORKING)
def bus_not_working(scene):
    """The adapter answers BEL: nobody acknowledges its frames."""
    with scene.nodes(kind=PtyPack) as pack:
        pack.adapter.transmit = None
        return scene.flash(pack)


@provokes(_F.NO_NODE_SILENT_BUS)
def no_node_silent_bus(scene):
    node = Node(1)
    node.is_dead = True
    return scene.flash_nodes(node)


@provokes(_F.NO_NODE_BUSY_BUS)
def no_node_busy_bus(scene):
    node = Node(1)
    node.is_dead = True
    return scene.flash_nodes(node, kind=PtyPack, foreign=True)


@provokes(_F.NO_NODE)
def no_node(scene):
    node = Node(1)
    node.is_dead = True
    return scene.flash_nodes(node, arguments=["--no-listen"])


# ---- files


@provokes(_S.FILE_MISSING)
def file_missing(scene):
    return scene.flash_nodes(source=scene.folder / "nothing.bin")


@provokes(_S.FILE_UNREADABLE)
def file_unreadable(scene):
    return scene.flash_nodes(source=scene.folder)


@provokes(_S.NOT_AN_IMAGE)
def not_an_image(scene):
    return scene.flash_nodes(source=scene.file("linker.bin", bytes(5000)))


@provokes(_S.IMAGE_DAMAGED)
def image_damaged(scene):
    image = bytearray((scene.release_folder / f"T-slave-{NEW}.bin").read_bytes())
    image[100] ^= 1
    return scene.flash_nodes(source=scene.file("damaged.bin", bytes(image)))


@provokes(_S.BAD_MANIFEST)
def bad_manifest(scene):
    scene.release.write_bytes(scene.release.read_bytes()[:-100])
    return scene.flash_nodes()


@provokes(_S.IMAGE_MISSING)
def image_missing(scene):
    (scene.release_folder / f"T-slave-{NEW}.bin").unlink()
    return scene.flash_nodes()


@provokes(_S.BAD_KEY)
def bad_key(scene):
    return scene.flash_nodes(arguments=["--manifest-key", scene.file("key.pem", b"no key")])


@provokes(_F.REPORT_NOT_WRITABLE)
def report_not_writable(scene):
    return scene.flash_nodes(arguments=["--report-dir", scene.file("in the way", b"") / "runs"])


@provokes(_F.LOG_INCOMPLETE)
def log_broken_off(scene):
    """The disk is full."""
    path = scene.folder / "full.log"
    path.symlink_to("/dev/full")
    return scene.flash_nodes(arguments=["--log", path])


@provokes(_F.OUTPUT_NOT_WRITTEN)
def output_not_written(scene):
    """The disk that the list of nodes goes to is full."""
    with scene.nodes(kind=PtyPack) as pack, Path("/dev/full").open("w") as full:
        done = process("nodes", *pack.arguments, *QUICK, stdout=full)
        return Done(done.wait(), done.communicate()[1])


@provokes(_F.REPORT_NOT_SAVED)
def report_lost(scene):
    return scene.flash_nodes(arguments=["--report", "/dev/full", "--no-log"])


# ---- the outcome


@provokes(_F.PACK_MIXED)
def pack_mixed(scene):
    """One node dies when the other has raised its counter: that one cannot go back."""

    def strike(pack, request):
        if request.command is NodeCommand.CONFIRM and request.raise_counter and request.node == 0:
            pack.nodes[0].is_dead = True

    return scene.flash_nodes(on_request=strike)


@provokes(_F.DIFFERS)
def differs(scene):
    with scene.nodes() as pack:
        return bmsota("verify", scene.release, *pack.arguments, *QUICK)


# ---- the plan's checks


@provokes(Check.NODE_PRESENT)
def node_present(scene):
    return scene.flash_nodes(arguments=["--expect", "0-2"])


@provokes(Check.HARDWARE_CLASS)
def hardware_class(scene):
    return scene.flash_nodes(Node(0), Node(1, hardware=OTHER_CLASS))


@provokes(Check.ROLE)
def role(scene):
    return scene.flash_nodes(source=scene.file("slave.bin", make_image()), arguments=["--to", "0-1"])


@provokes(Check.HWID)
def hwid(scene):
    return scene.flash_nodes(arguments=["--hwid", "1=HW-77"])


@provokes(Check.ACCESS_KEY)
def access_key(scene):
    return scene.flash_nodes(Node(0), Node(1, access=guard))


@provokes(Check.VERSION_DOWNGRADE)
def version_downgrade(scene):
    return scene.flash_nodes(source=write_release(scene.release_folder, ImageVersion(1, 9), counter=5))


@provokes(Check.SECURITY_COUNTER)
def security_counter(scene):
    return scene.flash_nodes(Node(0), Node(1, counter=9))


@provokes(Check.IMAGE_SIZE)
def image_size(scene):
    return scene.flash_nodes(source=scene.file("large.bin", make_image(size=7000)))


@provokes(Check.TEST_PENDING)
def trial_pending(scene):
    return scene.flash_nodes(Node(0), on_trial(Node(1), ImageVersion(2, 0, 7)))


@provokes(Check.IMAGE_SIGNATURE)
def image_signature(scene):
    return scene.flash_nodes(arguments=["--image-key", scene.public_pem("key.pem", OTHER_KEY)])


@provokes(Check.MANIFEST_SIGNATURE)
def manifest_signature(scene):
    """One bit of the signed part differs."""
    data = bytearray(scene.release.read_bytes())
    at = bytes(data).index(b"T-2.1.0")
    data[at] ^= 1
    scene.release.write_bytes(bytes(data))
    return scene.flash_nodes(arguments=["--manifest-key", scene.public_pem("key.pem", KEY)])


@provokes(Check.MANIFEST_EXPIRY)
def manifest_expiry(scene):
    return scene.flash_nodes(source=write_release(scene.release_folder, expires_s=NOW_S - 999))


@provokes(Check.MIXED_PACK)
def mixed_pack(scene):
    return scene.flash_nodes(arguments=["--to", "slaves"])


# ---- what nodes say


def on_trial(node, version):
    """Let it run *version* in test."""
    image = make_image(node.role, version)
    node.store.begin_staging(len(image), hashlib.sha256(image).digest())
    node.store.write_staged(0, image)
    node.store.finish_staging()
    node.store.request_test()
    node.restart()
    assert node.version == version
    return node


def once(command, act, *, node=1):
    """Do *act* with the pack when *node* is given *command* for the first time."""

    def on_request(pack, request):
        if (request.command, request.node) == (command, node):
            pack.on_request = lambda request: None
            act(pack)

    return on_request


def exchange(node):
    """Another piece of hardware is at this position from now on."""

    def act(pack):
        pack.nodes[node.position] = node

    return act


@provokes(_C.NODE_SILENT)
def node_silent(scene):
    return scene.flash_nodes(
        on_request=once(NodeCommand.CHECK_BLOCK, lambda pack: setattr(pack.nodes[1], "is_dead", True))
    )


@provokes(_C.NO_PROGRESS)
def no_progress(scene):
    """A node whose supply breaks down whenever it is to erase."""

    def on_request(pack, request):
        if request.command is NodeCommand.BEGIN_TRANSFER and request.node == 1:
            pack.nodes[1].restart()

    return scene.flash_nodes(on_request=on_request)


@provokes(_C.DAMAGED)
def damaged_in_the_node(scene):
    """A node whose flash does not keep what it is given."""
    with scene.nodes() as pack:
        pack.tamper = finishing(ResultCode.DAMAGED)
        return scene.flash(pack)


def finishing(code):
    """Slaves that answer the end of a transfer with *code*."""

    def tamper(frame):
        reply = wire().parse(frame)
        if not isinstance(reply, ResultReply) or reply.command != NodeCommand.FINISH_TRANSFER or reply.position != 1:
            return frame
        return wire().serialize(replace(reply, code=code))

    return tamper


@provokes(_C.PROTOCOL_VERSION)
def protocol_version(scene):
    with scene.nodes() as pack:
        pack.tamper = changing(StatusReply, protocol_version=9, protocol_version_min=9)
        return scene.flash(pack)


def changing(kind, **changes):
    """A node that says something else in one kind of reply."""

    def tamper(frame):
        reply = wire().parse(frame)
        return wire().serialize(replace(reply, **changes)) if isinstance(reply, kind) else frame

    return tamper


@provokes(_C.WRONG_NODE)
def wrong_node(scene):
    """Another piece of hardware of the same kind, between the plan and the work."""
    seen = []

    def on_request(pack, request):
        seen.append(request)
        if len(seen) == 2:
            assert request.command is NodeCommand.DISCOVER
            pack.nodes[1].hwid = "HW-77"
            pack.nodes[1].restart()

    return scene.flash_nodes(on_request=on_request)


@provokes(_C.WRONG_ROLE)
def wrong_role(scene):
    other = Node(1, role=ImageRole.MASTER)
    return scene.flash_nodes(on_request=once(NodeCommand.ENTER_BOOTLOADER, exchange(other)))


@provokes(_C.WRONG_HARDWARE)
def wrong_hardware(scene):
    other = Node(1, hardware=OTHER_CLASS)
    return scene.flash_nodes(on_request=once(NodeCommand.ENTER_BOOTLOADER, exchange(other)))


@provokes(_C.TOO_LARGE)
def too_large(scene):
    """The slot has 3.5 KiB; the node tells whole ones only, so the plan leaves the last half to it."""
    path = scene.file("large.bin", make_image(size=3500))
    return scene.flash_nodes(source=path)


@provokes(_C.COUNTER_TOO_LOW)
def counter_too_low(scene):
    other = Node(1, counter=9)
    return scene.flash_nodes(on_request=once(NodeCommand.ENTER_BOOTLOADER, exchange(other)))


@provokes(_C.TEST_PENDING)
def trial_begun_meanwhile(scene):
    other = on_trial(Node(1), ImageVersion(2, 0, 7))
    return scene.flash_nodes(on_request=once(NodeCommand.ENTER_BOOTLOADER, exchange(other)))


def no_image_of_mine(image):
    raise ImageError("image", expected="a boot record", received="none")


@provokes(_C.BAD_IMAGE)
def bad_image(scene):
    """The node's loader wants something in an image that is not there."""
    return scene.flash_nodes(Node(0), Node(1, verify=no_image_of_mine))


def not_my_key(image):
    raise TrustError("arbitrary-software", "expected a known key, got another")


@provokes(_C.BAD_IDENTITY)
def bad_identity(scene):
    """The node's production data are lost between the plan and the work."""

    def lose(pack):
        target = pack.nodes[1].target
        kept = {name: getattr(target._identity, name) for name in ("position", "role", "serial", "hardware_class")}
        target._identity = SimpleNamespace(**kept, hwid="S\xff")

    return scene.flash_nodes(on_request=once(NodeCommand.ENTER_BOOTLOADER, lose))


@provokes(_C.NOT_TRUSTED)
def not_trusted(scene):
    return scene.flash_nodes(Node(0), Node(1, verify=not_my_key))


@provokes(_C.NOTHING_TO_DO)
def nothing_to_do(scene):
    """A fresh node is put in the place of the one that had just been flashed."""
    return scene.flash_nodes(on_request=once(NodeCommand.ACTIVATE_TEST, exchange(Node(1))))


@provokes(_C.WRONG_VERSION)
def wrong_version(scene):
    """The slave restarts while the master does: its image was in test, and is taken back."""
    return scene.flash_nodes(on_request=once(NodeCommand.RESET, lambda pack: pack.nodes[1].restart(), node=0))


@provokes(_C.IN_USE)
def in_use(scene):
    """The master's own updater has begun between the plan and the flash."""
    begun = []
    pack_node = Node(0, is_locked=lambda: bool(begun))
    return scene.flash_nodes(
        pack_node, Node(1), on_request=once(NodeCommand.ENTER_BOOTLOADER, lambda _pack: begun.append(1))
    )


@provokes(_C.FLASH_WORN)
def flash_worn(scene):
    """A cell of the slot that is written cannot be programmed."""
    node = Node(1)
    image = (scene.release_folder / f"T-slave-{NEW}.bin").read_bytes()
    node.flash.wear("not programmed", node.layout.slot_offsets[1] + next(i for i, b in enumerate(image) if not b & 1))
    return scene.flash_nodes(Node(0), node)


@provokes(_C.CAPABILITY_MISSING)
def capability_missing(scene):
    return scene.flash_nodes(arguments=["--fd"])


def guard():
    return AccessGuard([KEY.public_key()], os.urandom, delay_ns=1, failures_max=99)


@provokes(_C.ACCESS_NEEDED)
def access_needed(scene):
    return scene.flash_nodes(Node(0), Node(1, access=guard), arguments=["--force", "access-key"])


@provokes(_C.ACCESS_DENIED)
def access_denied(scene):
    key = scene.pem("other.pem", OTHER_KEY)
    return scene.flash_nodes(Node(0), Node(1, access=guard), arguments=["--access-key", key])


@provokes(_C.REFUSED)
def refused(scene):
    """A newer loader with a result this flasher does not know."""

    with scene.nodes() as pack:
        pack.tamper = finishing(99)
        return scene.flash(pack)


# ---- the table


class Done:
    """What an interactive run did, as `bmsota` says it."""

    def __init__(self, code, text):
        self.code, self.text, self.out, self.err = code, text, text, text


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def test_every_row_is_provoked():
    assert PROVOCATIONS.keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{type(fault).__name__}-{fault.value}")
def test_each_row(fault, scene):
    done = PROVOCATIONS[fault](scene)
    row = FAULTS[fault]
    assert done.code == row.exit_code, done.text
    lines = done.err.splitlines()
    told = [index for index, line in enumerate(lines) if line.startswith(f"bmsota: {fault.value}: ")]
    assert told, done.text
    assert lines[told[0]].removeprefix(f"bmsota: {fault.value}: ").strip()
    if fault is _F.INTERFACE_DOWN:
        assert lines[told[0] + 1] == "  next: Bring it up: `sudo ip link set can0 up type can bitrate 500000`."
    else:
        assert lines[told[0] + 1] == f"  next: {row.advice}"
    assert "Traceback" not in done.text
    if fault is _C.FLASH_WORN:
        assert f"a part of {NEW} is stored" in done.text
        assert "the next run sends the rest" not in done.text, "it cannot, and the advice is to replace the node"
    if row.exit_code is not ExitCode.DONE:
        assert [line for line in lines if line.startswith("  safe to run again: yes")], done.text
    if row.exit_code in {ExitCode.REFUSED, ExitCode.BUS_UNUSABLE, ExitCode.CALLED_WRONGLY}:
        assert "nothing was written to any node" in done.err
        if scene.pack is not None:
            given = {request.command for request in scene.pack.requests}
            assert given <= {NodeCommand.DISCOVER}
            assert scene.pack.versions.keys() == scene.pack.nodes.keys()
