"""The host does not matter: its time zone, what else is installed. These tests start other Pythons."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import bmsota.gbt32960

ROOT = Path(bmsota.gbt32960.__file__).parents[2]

SCRIPT = """
import json, sys
from bmsota.gbt32960 import Frame, VehicleLogout, beijing_time, decode, encode, nanoseconds
data = bytes.fromhex("232304fe5445535456494e303030303030303035340100081206161015150046e1")
frame = decode(data)
now_ns = 1_772_571_967_000_000_000
print(json.dumps([
    frame.message.time.isoformat(),
    nanoseconds(frame.message.time),
    beijing_time(now_ns).isoformat(),
    encode(Frame(command=4, vin="V", message=VehicleLogout(beijing_time(now_ns), 1))).hex(),
    encode(frame) == data,
]))
"""


def run(script, **environment):
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai", "America/New_York"])
def test_instants_do_not_depend_on_the_hosts_time_zone(zone):
    """The same frame is the same instant everywhere, and always at +08:00."""
    assert json.loads(run(SCRIPT, TZ=zone)) == [
        "2018-06-22T16:21:21+08:00",
        1_529_655_681_000_000_000,
        "2026-03-04T05:06:07+08:00",
        "232304fe56" + "00" * 16 + "010008" + "1a0304050607" + "0001" + "bd",
        True,
    ]


def test_importing_the_cloud_link_is_light():
    """A cloud developer who only decodes frames pays for nothing else."""
    script = "import sys, bmsota.gbt32960; print(' '.join(sys.modules))"
    loaded = set(run(script).split())
    heavy = {
        "numpy",
        "construct",
        "typer",
        "rich",
        "click",
        "cryptography",
        "cbor2",
        "can",
        "cantools",
        "asyncio",
        "socket",
    }
    assert not loaded & heavy


def test_the_front_door_lists_what_it_offers():
    """`__all__` is complete, every name is there, and what is loaded later is what its module calls public."""
    front = bmsota.gbt32960
    names = front.__all__
    assert len(names) == len(set(names))
    assert dir(front) == sorted(names)
    for name in names:
        assert getattr(front, name) is not None
    for name, module in front._LATER.items():
        assert name in importlib.import_module(f"bmsota.gbt32960.{module}").__all__
    given = {name for name, value in vars(front).items() if not name.startswith("_")}
    modules = {name for name in given if isinstance(getattr(front, name), types.ModuleType)}
    assert given - modules - {"annotations", "TYPE_CHECKING", "import_module"} == set(names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        front.nothing  # noqa: B018 the access is what is tested


def test_decoding_does_not_load_the_sessions():
    script = "import sys; from bmsota.gbt32960 import FrameReader, decode, encode; print(' '.join(sys.modules))"
    loaded = set(run(script).split())
    assert "bmsota.gbt32960._codec" in loaded
    assert not loaded & {f"bmsota.gbt32960.{name}" for name in ("_session", "_explain")}
