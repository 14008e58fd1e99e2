"""A pack in real time, behind an slcan adapter on a pseudo terminal or on python-can's virtual bus, and the command line.

The nodes are those of the field tests (`pack_rig`): real targets on modelled flashes. The bus has no pacing: what takes
time is Python. A thread of its own plays adapter and nodes; `on_request` sees each request before they do.
"""

from __future__ import annotations

import itertools
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import can
from bmsota_sim.links.slcan_pty import SlcanPty
from pack_rig import CLASSES, KEY, NEW, NOW_S, OLD, Node, make_image, wire
from typer.testing import CliRunner

from bmsota.adapters.pythoncan import from_message, to_message
from bmsota.bootloader._messages import Request
from bmsota.canframe import CanFrame
from bmsota.cli.app import app
from bmsota.image import ImageRole
from bmsota.node import ResetRequested
from bmsota.ota import ReleaseManifest, describe_image, sign_manifest
from bmsota.slcan import AdapterOptions, SlcanAdapter

__all__ = [
    "CLASSES",
    "KEY",
    "NEW",
    "OLD",
    "ImageRole",
    "Node",
    "PtyPack",
    "VirtualPack",
    "bmsota",
    "make_image",
    "write_release",
]

PATIENCE_S = 120.0
"""What a loaded machine may need for a handful of bytes through two threads. A test that waits so long fails."""

_CHANNELS = itertools.count()


class _Pack:
    """Nodes in a thread. `frames`: what came from the host; `requests`: those of them that are requests."""

    def __init__(self, *nodes, foreign=False):
        self.nodes = {node.position: node for node in nodes}
        self.requests = []
        self.frames = []
        self.on_request = lambda request: None
        self.tamper = lambda frame: frame
        """What becomes of a node's frame on its way to the host."""
        self._foreign = foreign
        self._foreign_due_ns = 0
        self._ended, self._end = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        os.write(self._end, b".")
        self._thread.join(PATIENCE_S)
        os.close(self._ended)
        os.close(self._end)

    @property
    def versions(self):
        return {position: node.version for position, node in self.nodes.items()}

    def _from_host(self, frame):
        """A frame of the host reaches the nodes."""
        now_ns = time.time_ns()
        self.frames.append(frame)
        request = wire().parse(frame)
        if isinstance(request, Request):
            self.requests.append(request)
            self.on_request(request)
        for node in self.nodes.values():
            if not node.is_dead:
                node.target.receive_frame(frame, now_ns)
        return True

    def _turn(self):
        """Let the nodes act; seconds until the next one wants to."""
        now_ns = time.time_ns()
        due = []
        for node in self.nodes.values():
            if node.is_dead:
                continue
            target = node.target
            target.handle_timeout(now_ns)
            for frame in target.frames_to_send(now_ns):
                if not node.is_mute:
                    self._to_host(self.tamper(frame))
            while (event := target.next_event()) is not None:
                node.events.append(event)
                if isinstance(event, ResetRequested):
                    node.restart()
            due.append(node.target.next_timeout())
        if self._foreign and now_ns >= self._foreign_due_ns:
            self._foreign_due_ns = now_ns + 5_000_000
            self._to_host(CanFrame(0x123, b"foreign!"))
        if self._foreign:
            due.append(self._foreign_due_ns)
        left = [time_ns - now_ns for time_ns in due if time_ns is not None]
        return min([*(max(each, 0) / 1e9 for each in left), 0.5])


class PtyPack(_Pack):
    """Behind an slcan adapter; `arguments` choose it."""

    def __init__(self, *nodes, foreign=False, firmware=SlcanAdapter, **options):
        super().__init__(*nodes, foreign=foreign)
        self.adapter = firmware(self._from_host, options=AdapterOptions(**options))
        self.cable = SlcanPty(self.adapter)
        self.is_plugged = True

    @property
    def arguments(self):
        return ["-i", "bmsota_slcan", "-c", self.cable.path, "-b", "500000"]

    def unplug(self):
        """Pull the cable: to be called in the pack's own thread, by `on_request`."""
        self.is_plugged = False

    def __exit__(self, *error):
        super().__exit__(*error)
        self.cable.close()

    def _to_host(self, frame):
        self.adapter.receive_frame(frame, time.time_ns())

    def _serve(self):
        while self.is_plugged:
            timeout_s = self._turn()
            self.cable.flush()
            readable, _, _ = select.select([self.cable.fileno(), self._ended], [], [], timeout_s)
            if self._ended in readable:
                return
            if readable:
                with suppress(OSError):
                    self.cable.pump(time.time_ns())
        self.cable.close()


class VirtualPack(_Pack):
    """On python-can's virtual bus."""

    def __init__(self, *nodes, foreign=False):
        super().__init__(*nodes, foreign=foreign)
        self.channel = f"pack-{next(_CHANNELS)}"
        self._bus = can.Bus(interface="virtual", channel=self.channel)

    @property
    def arguments(self):
        return ["-i", "virtual", "-c", self.channel, "-b", "500000"]

    def __exit__(self, *error):
        super().__exit__(*error)
        self._bus.shutdown()

    def _to_host(self, frame):
        self._bus.send(to_message(frame))

    def _serve(self):
        while not select.select([self._ended], [], [], 0)[0]:
            message = self._bus.recv(min(self._turn(), 0.02))
            if message is not None:
                self._from_host(from_message(message))


def bmsota(*arguments, stdin=None, env=None):
    """Run the command line as a user would; `text` is all that was printed. Never a traceback."""
    result = CliRunner().invoke(app, [str(each) for each in arguments], input=stdin, env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"an exception came out of {arguments}") from result.exception
    text = result.stdout + result.stderr
    assert "Traceback" not in text
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr, text=text)


def process(*arguments, **options):
    """Run the command in a process of its own (`subprocess.Popen`), standard error as text unless told otherwise."""
    root, path = Path(__file__).parents[2], os.environ.get("PYTHONPATH", "")
    env = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{path}"}
    command = [sys.executable, "-m", "bmsota.cli.main", *map(str, arguments)]
    return subprocess.Popen(command, **{"env": env, "stderr": subprocess.PIPE, "text": True, **options})


def interactive(arguments, answer, *, columns=200):
    """Run the command on a terminal of its own and type *answer* (bytes, or what gives them) when it asks; (exit code, what was on the screen)."""
    root, path = Path(__file__).parents[2], os.environ.get("PYTHONPATH", "")
    env = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{path}", "COLUMNS": str(columns)}
    pid, near = pty.fork()
    if not pid:
        command = [sys.executable, "-m", "bmsota.cli.main", *map(str, arguments)]
        os.execve(command[0], command, env)
    screen = b""
    is_answered = False
    while select.select([near], [], [], PATIENCE_S)[0]:
        try:
            data = os.read(near, 4096)
        except OSError:
            break  # The far end is closed: it has ended.
        screen += data
        if b"[y/N]: " in screen and not is_answered:
            is_answered = True
            os.write(near, answer() if callable(answer) else answer)
    else:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(near)
    assert is_answered, screen.decode()
    # Colours and cursor movements are for terminals.
    return os.waitstatus_to_exitcode(status), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.decode())


def write_release(folder, version=NEW, *, expires_s=NOW_S * 2, **options):
    """A release of one master's and one slave's image in *folder*; the manifest's path."""
    images = [make_image(role, version, **options) for role in ImageRole]
    manifest = ReleaseManifest(
        release=f"T-{version}",
        software_version=str(version),
        series="T",
        images=tuple(describe_image(image) for image in images),
        created_s=NOW_S - 1000,
        expires_s=expires_s,
    )
    for role, image in zip(ImageRole, images, strict=True):
        Path(folder, f"T-{role.name.lower()}-{version}.bin").write_bytes(image)
    path = Path(folder, f"T-{version}.manifest.cose")
    path.write_bytes(sign_manifest(manifest, KEY))
    return path
