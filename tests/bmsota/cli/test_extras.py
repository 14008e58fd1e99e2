"""Without an extra, every console script ends in one line that names it. Modules are blocked in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from bmsota.adapters.files import packaged_dbc
from bmsota.cli.extras import _EXTRAS, extra_error, missing_extra, run_script

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
HEARTBEAT = "232307fe4c424d4637455630315230303030303031010000bb"
CLI_LINE = "bmsota: the command line needs typer and rich: pip install 'bmsota[cli]'\n"


def script(blocked, *arguments, package="bmsota.cli.main"):
    """Run a console script in which modules cannot be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({list(blocked)!r})); sys.argv = {['script', *map(str, arguments)]!r}\n"
        f"from {package} import main; main()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_without_the_command_lines_libraries(module):
    done = script([module], "decode", HEARTBEAT)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", CLI_LINE)


@pytest.mark.parametrize("module", ["can", "cantools", "serial", "cryptography"])
@pytest.mark.parametrize("command", ["nodes", "reset --yes"])
def test_without_can(module, command):
    """Also with options that only the command itself would know."""
    done = script([module], *command.split(), "-i", "bmsota_slcan", "-c", "/dev/ttyACM7", "--no-listen")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"bmsota: .+ needs .+: pip install 'bmsota\[can\]'\n", done.stderr)


def test_a_dbc_without_its_parser(tmp_path):
    path = tmp_path / "one.dbc"
    path.write_text(packaged_dbc("bms_vehicle"), encoding="utf-8")
    done = script(["cantools"], "dbc", "check", path)
    assert done.returncode == 2
    assert "pip install 'bmsota[can]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_needs_no_extra_works_and_the_rest_is_listed():
    blocked = ["can", "cantools", "cryptography", "numpy", "serial", "cbor2", "construct"]
    done = script(blocked, "decode", HEARTBEAT)
    assert (done.returncode, done.stderr) == (0, "")
    shown = script(blocked, "--help").stdout
    for name in ("nodes", "flash", "verify", "reset", "adapters"):
        assert re.search(rf"\b{name} +Not installed: needs the extra 'can'\.", shown)


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [
        ("bmsota_sim", "typer", "sim"),
        ("bmsota_cloud", "fastapi", "cloud"),
    ],
)
def test_the_other_scripts_name_their_own_extra(package, module, extra):
    module_of = {"bmsota_sim": "cli", "bmsota_cloud": "__main__"}
    done = script([module], "--help", package=f"{package}.{module_of[package]}")
    assert done.returncode == 2
    assert re.fullmatch(rf"{package.replace('_', '-')}: .+: pip install 'bmsota\[{extra}\]'\n", done.stderr)


def test_an_import_that_fails_for_another_reason_is_a_bug_and_stays_one():
    def broken():
        raise ImportError("cannot import name 'x' from 'bmsota'")

    with pytest.raises(ImportError, match="cannot import name"):
        run_script("bmsota", broken)
    assert missing_extra(ModuleNotFoundError("no", name="bmsota.nothing")) is None


def test_the_reason_is_found_behind_another_error():
    outer = ValueError("outer")
    outer.__cause__ = ModuleNotFoundError("no", name="can.interface")
    assert str(missing_extra(outer)) == str(extra_error("can"))


def test_every_library_of_every_extra_is_known():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    known = set().union(*(modules for _, _, modules in _EXTRAS.values()))
    modules_of = {}
    for module, names in packages_distributions().items():
        for name in names:
            modules_of.setdefault(re.sub(r"[-_.]+", "-", name).lower(), set()).add(module)
    for extra in extras.keys() & _EXTRAS.keys():
        for requirement in extras[extra]:
            name = re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()
            assert name == "bmsota" or modules_of[name] & known, requirement
