"""An adapter whose extra is not installed says so in one line that names the extra."""

from __future__ import annotations

import subprocess
import sys

# Imports every adapter in a process where the extras' packages are missing; prints what each says.
PROGRAM = """
import sys
from importlib import import_module
for missing in ("can", "serial", "dpkt", "cryptography"):
    sys.modules[missing] = None
for name in ("slcan", "pythoncan", "canrecord", "canprobe", "releases"):
    try:
        import_module(f"bmsota.adapters.{name}")
    except ImportError as error:
        print(error)
import bmsota.adapters.files, bmsota.adapters.tcp, bmsota.adapters.clock, bmsota.adapters.canlogs
from bmsota.adapters import connect_terminal, serve_gateway
from bmsota.adapters.captures import Capture
try:
    Capture("x.pcap")
except Exception as error:
    print(error)
"""


def test_what_is_missing_is_named_with_its_extra():
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "bmsota.adapters.slcan needs python-can and pyserial: pip install 'bmsota[can]'",
        "bmsota.adapters.pythoncan needs python-can: pip install 'bmsota[can]'",
        "bmsota.adapters.canrecord needs python-can: pip install 'bmsota[can]'",
        "bmsota.adapters.canprobe needs python-can: pip install 'bmsota[can]'",
        "bmsota.adapters.releases needs cryptography: pip install 'bmsota[trust]'",
        "reading captures needs dpkt: pip install 'bmsota[cli]'",
    ]
