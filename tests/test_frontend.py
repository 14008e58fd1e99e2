"""The front-end packages of the pages: locked, licensed, and brought in by a script that says what is wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FRONTEND = ROOT / "cloud/frontend"
VENDOR = "cloud/bmsota_cloud/pages/static/vendor"


def script():
    spec = importlib.util.spec_from_file_location("frontend_script", ROOT / "scripts/frontend.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_package_is_locked_by_version_and_digest():
    wanted = json.loads((FRONTEND / "package.json").read_text(encoding="utf-8"))
    lock = json.loads((FRONTEND / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert lock[""]["dependencies"] == wanted["dependencies"]
    assert set(script().FILES) == set(wanted["dependencies"])
    assert all(version[0].isdigit() for version in (wanted["dependencies"] | wanted["devDependencies"]).values())
    for name, entry in lock.items():
        if name:
            assert entry["integrity"].startswith("sha512-"), name
            assert "link" not in entry, name
            # A mirror may stand in for the registry: no address is locked, the digest is.
            assert "resolved" not in entry, name


def test_what_browsers_load_is_permissively_licensed():
    lock = json.loads((FRONTEND / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    for name in script().FILES:
        assert lock[f"node_modules/{name}"]["license"] in {"MIT", "ISC", "BSD-2-Clause"}, name


def test_none_of_it_is_committed():
    tracked = subprocess.run(
        ["git", "ls-files", VENDOR, "cloud/frontend"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert sorted(tracked) == ["cloud/frontend/package-lock.json", "cloud/frontend/package.json"]


def test_the_files_of_this_tree_are_those_of_the_lock():
    """`make frontend` brings them."""
    module = script()
    said = (ROOT / VENDOR / "packages.json").read_bytes()
    assert said == module._packages(FRONTEND / "package-lock.json")
    for package, names in module.FILES.items():
        for name in (*names, "LICENSE"):
            assert (ROOT / VENDOR / package / name.removeprefix("dist/")).stat().st_size > 100


@pytest.fixture
def tree(tmp_path):
    """A tree with the lock alone."""
    for name in ("package.json", "package-lock.json"):
        (tmp_path / "cloud/frontend").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FRONTEND / name, tmp_path / "cloud/frontend" / name)
    (tmp_path / VENDOR).parent.mkdir(parents=True)
    (tmp_path / "scripts").mkdir()
    shutil.copyfile(ROOT / "scripts/frontend.py", tmp_path / "scripts/frontend.py")
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="no npm: it would have to be installed first")
def test_without_a_registry_it_says_so_and_leaves_nothing(tree):
    environment = {
        **os.environ,
        "npm_config_registry": "http://127.0.0.1:9",
        "npm_config_cache": str(tree / "cache"),
        "npm_config_fetch_retries": "0",
    }
    done = subprocess.run(
        [sys.executable, tree / "scripts/frontend.py"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: npm could not install the front-end packages")
    assert "ECONNREFUSED" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tree / VENDOR).exists()


def test_a_package_without_its_file_is_named(tree, monkeypatch):
    module = script()
    monkeypatch.setattr(module, "_run_npm", lambda *_: None)
    with pytest.raises(module.FrontendError, match=r"leaflet: no file dist/leaflet\.js in the package"):
        module.bring(tree)
    assert not (tree / VENDOR).exists()
