"""Build the wheel and use it as a stranger would: in a fresh environment, outside the checkout, extra by extra.

1. Nothing but the wheel (`--no-deps`): the codec, the reader and the sessions work, the examples of docs/gbt32960.md that need
   no extra run, the others and every console script say in one line which extra they want.
2. With `sim`: a fleet runs in virtual time without the platform, beside folders of the user's own called `cloud` and
   `simulator`; pytest has the fixtures.
3. With `all`: the whole demo scenario runs in virtual time from the installed command.
"""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from frontend import FILES

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("bmsota", "bmsota-sim", "bmsota-cloud")

BARE_CHECK = """
import sys
from bmsota.gbt32960 import *
from bmsota.gbt32960 import PlatformSession, TerminalSession
data = bytes.fromhex("232307fe4c424d4637455630315230303030303031010000bb")
assert encode(decode(data)) == data, "a heartbeat does not survive the round trip"
others = [name for name in ("numpy", "can", "cbor2", "cryptography", "construct", "typer") if name in sys.modules]
assert not others, f"importing the codec pulled in {others}"
import bmsota
print("the wheel alone:", bmsota.__version__, bmsota.__file__)
"""

EXAMPLE = """
import doctest
flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
test = doctest.DocTestParser().get_doctest({block!r}, {{}}, "block", None, 0)
failures = doctest.DocTestRunner(optionflags=flags).run(test).failed
raise SystemExit(1 if failures else 0)
"""

SIM_CHECK = """
import sys
from bmsota.adapters.files import packaged_dbc
from bmsota.signals import loads
from bmsota_sim.samples import sample_names
for name in ("bms_internal", "bms_bootloader"):
    assert len(list(loads(packaged_dbc(name)))) > 3, name
assert any(name.endswith(".cose") for name in sample_names()), sample_names()
print("packaged data ok")
"""

FLEET_CHECK = """
from bmsota_sim import SessionPlatform, packaged_scenario, parse_scenario, virtual_fleet
platform = SessionPlatform()
fleet = virtual_fleet(parse_scenario(packaged_scenario("reports")), 1, platform)
fleet.run(100.0)
reports = sum(traffic.reports for traffic in platform.vehicles.values())
assert reports > 4, reports
print(f"a fleet without the platform: {reports} reports")
"""


PYTEST_CHECK = """
def test_a_unit(virtual_unit):
    unit = virtual_unit("E7", report_s=10)
    unit.run(30)
    assert unit.frames[0][2] == 1

def test_a_fleet(virtual_fleet):
    virtual_fleet("name: x\\nduration: 30s\\ngroups: { cars: { profile: E7, count: 2 } }\\n").check()
"""


def run(*command: str | Path, cwd: Path) -> None:
    print("+", *(str(part).partition("\n")[0] or "-" for part in command), flush=True)
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


def said(*command: str | Path, cwd: Path) -> tuple[int, str]:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def install(python: Path, requirement: str, *options: str, cwd: Path) -> None:
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options, requirement, cwd=cwd)


def check_contents(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    secrets = [name for name in names if name.endswith(".pem")]
    assert not secrets, f"keys in the wheel: {secrets}"
    recipes = [name for name in names if name.endswith("build.py")]
    assert not recipes, f"a recipe in the wheel: {recipes}"
    # The front-end packages of the pages: files, licences, and from which packages they are.
    vendor = "bmsota_cloud/pages/static/vendor"
    wanted = {
        f"{vendor}/{package}/{name.removeprefix('dist/')}"
        for package, files in FILES.items()
        for name in (*files, "LICENSE")
    }
    missing = {*wanted, f"{vendor}/packages.json"} - set(names)
    assert not missing, f"not in the wheel: {missing}"
    assert not [name for name in names if "node_modules" in name or "frontend" in name]
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"bmsota", "bmsota_sim", "bmsota_cloud"}, tops


def check_bare(python: Path, work: Path) -> None:
    run(python, "-c", BARE_CHECK, cwd=work)
    for script in SCRIPTS:
        code, text = said(python.parent / script, "--help", cwd=work)
        assert code == 2, f"{script}: exit code {code}\n{text}"
        assert len(text.splitlines()) == 1, text
        assert "pip install 'bmsota[" in text, text
        print(f"without an extra: {text.strip()}")
    page = (ROOT / "docs" / "gbt32960.md").read_text(encoding="utf-8")
    count = 0
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        if "pip install 'bmsota[" in section:
            continue
        for block in re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            if doctest.DocTestParser().get_examples(block):
                code, text = said(python, "-c", EXAMPLE.format(block=block), cwd=work)
                assert code == 0, f"{section.partition(chr(10))[0]}\n{text}"
                count += 1
    assert count > 3, count
    print(f"{count} examples of docs/gbt32960.md ran with nothing else installed")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bmsota-wheel-") as name:
        work = Path(name)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", work, ROOT, cwd=work)
        (wheel,) = work.glob("*.whl")
        check_contents(wheel)
        # The user's own folders, of names that are usual in this field.
        for folder in ("cloud", "simulator"):
            (work / folder).mkdir()
            (work / folder / "__init__.py").touch()
        venv.create(work / "venv", with_pip=True)
        python = work / "venv" / "bin" / "python"
        install(python, str(wheel), "--no-deps", cwd=work)
        check_bare(python, work)
        install(python, f"{wheel}[sim]", cwd=work)
        run(python, "-c", SIM_CHECK, cwd=work)
        run(python, "-c", FLEET_CHECK, cwd=work)
        # The plugin is there without being asked for.
        (work / "test_mine.py").write_text(PYTEST_CHECK, encoding="utf-8")
        install(python, "pytest", cwd=work)
        run(python, "-m", "pytest", "-q", "test_mine.py", cwd=work)
        code, text = said(python.parent / "bmsota-cloud", "--help", cwd=work)
        assert (code, len(text.splitlines())) == (2, 1), text
        install(python, f"{wheel}[all]", cwd=work)
        run(python.parent / "bmsota-sim", "demo", "--virtual", cwd=work)
    print("wheel test: passed")


if __name__ == "__main__":
    main()
