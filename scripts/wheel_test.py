"""Build the wheel and use it as a stranger would: in fresh environments, outside the checkout.

1. Core dependencies alone: `bmsota.gbt32960` imports, decodes a frame, and pulled in none of the heavy packages.
2. With the extra `all`: the packaged DBC files and sample images are there, and the whole demo scenario runs in
   virtual time from the installed command.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CORE_CHECK = """
import sys
from bmsota.gbt32960 import decode, encode
body = bytes([0x07, 0xFE]) + b"LTEST000000000001" + bytes([1, 0, 0])
check = 0
for value in body:
    check ^= value
data = b"##" + body + bytes([check])
assert encode(decode(data)) == data, "a heartbeat does not survive the round trip"
heavy = [name for name in ("numpy", "can", "cantools", "fastapi", "sqlalchemy", "pydantic") if name in sys.modules]
assert not heavy, f"importing the codec pulled in {heavy}"
import bmsota, bmsota.image, bmsota.ota
print("core wheel ok:", bmsota.__version__, bmsota.__file__)
"""

ALL_CHECK = """
from bmsota.adapters.files import packaged_dbc
from bmsota_sim.samples import sample_names
from bmsota.signals import loads
for name in ("bms_internal", "bms_bootloader"):
    assert len(list(loads(packaged_dbc(name)))) > 3, name
assert any(name.endswith(".cose") for name in sample_names()), sample_names()
print("packaged data ok")
"""


def run(*command: str | Path, cwd: Path) -> None:
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


def fresh_environment(folder: Path, requirement: str) -> Path:
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement, cwd=folder)
    return python


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bmsota-wheel-") as name:
        work = Path(name)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", work, ROOT, cwd=work)
        (wheel,) = work.glob("*.whl")
        core = fresh_environment(work / "core", str(wheel))
        run(core, "-c", CORE_CHECK, cwd=work)
        run(core.parent / "bmsota", "--version", cwd=work)
        full = fresh_environment(work / "all", f"{wheel}[all]")
        run(full, "-c", ALL_CHECK, cwd=work)
        run(full.parent / "bmsota-sim", "demo", "--virtual", cwd=work)
    print("wheel test: passed")


if __name__ == "__main__":
    main()
