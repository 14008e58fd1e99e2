"""The release of a scenario: a sample version, or a folder with a manifest and its images for each series."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bmsota.adapters.releases import load_source
from bmsota.errors import ConfigurationError, TrustError
from bmsota.image import ImageRole
from bmsota.ota import parse_manifest
from bmsota_sim.defaults import release_files
from bmsota_sim.profiles import PROFILES
from bmsota_sim.run.consistency import groups_meant

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bmsota.ota import ReleaseManifest
    from bmsota_sim.run.model import FleetScenario

__all__ = ["ScenarioRelease", "is_folder", "load_release", "upgrade_versions"]

_SUFFIX = ".cose"


class ScenarioRelease(NamedTuple):
    """What is uploaded for one series."""

    name: str
    software_version: str
    image_version: str
    """Of the master's image, without its build number."""
    manifest: bytes
    images: tuple[bytes, ...]


def is_folder(release: str) -> bool:
    """Whether a scenario's `release` is a path and not a version of the samples."""
    return "/" in release or "\\" in release


def upgrade_versions(scenario: FleetScenario) -> dict[str, str]:
    """The version of the master images that the scenario's OTA task brings, by series; empty without a task.

    Raises:
        ConfigurationError: as `load_release`.
    """
    if scenario.ota is None:
        return {}
    series = {PROFILES[scenario.groups[name].profile].series for name in groups_meant(scenario, scenario.ota.who)}
    return {each: load_release(scenario.ota.release, each).image_version for each in sorted(series)}


def load_release(release: str, series: str) -> ScenarioRelease:
    """The release for *series*; a folder's path is relative to the working directory.

    Raises:
        ConfigurationError: there is none, or more than one.
    """
    if not is_folder(release):
        manifest, images = release_files(series, release)
        parsed = parse_manifest(manifest)
        return _release(parsed, manifest, images)
    folder = Path(release)
    if not folder.is_dir():
        raise ConfigurationError(f"release {release}: no such folder")
    found = []
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        data = path.read_bytes()
        try:
            parsed = parse_manifest(data)
        except TrustError as error:
            raise ConfigurationError(f"{path}: {error}") from error
        if parsed.series == series:
            found.append((path, data, parsed))
    if len(found) != 1:
        names = ", ".join(path.name for path, _, _ in found) or f"no manifest (*{_SUFFIX})"
        raise ConfigurationError(f"release {release}: expected one manifest for series {series}, got {names}")
    path, data, parsed = found[0]
    return _release(parsed, data, [image.data for image in load_source(path).images])


def _release(parsed: ReleaseManifest, data: bytes, images: Iterable[bytes]) -> ScenarioRelease:
    versions = [str(image.version).partition("+")[0] for image in parsed.images if image.role is ImageRole.MASTER]
    if not versions:
        raise ConfigurationError(f"release {parsed.release}: the manifest lists no image of a master")
    return ScenarioRelease(parsed.release, parsed.software_version, versions[0], data, tuple(images))
