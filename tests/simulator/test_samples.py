"""Sample images and keys: what the wheel ships, and what is derived instead."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from bmsota_sim import samples

from bmsota.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "firmware_images"


def test_every_sample_of_the_checkout_has_a_name_and_its_bytes():
    there = {
        path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.suffix in {".bin", ".cose", ".pem"}
    }
    assert set(samples.sample_names()) == there
    assert all(samples.sample_file(name) == (FOLDER / name).read_bytes() for name in there)


@pytest.mark.parametrize("name", ["nothing.bin", "../pyproject.toml", "build.py", "", "/etc/passwd"])
def test_a_name_that_is_no_sample_is_refused_and_cannot_leave_the_folder(name):
    with pytest.raises(ConfigurationError, match=r"no sample file .*; there are E7-"):
        samples.sample_file(name)


def test_files_inside_the_package_win_over_the_checkout(monkeypatch, tmp_path):
    """In a wheel the images are inside; the keys never are, they are derived."""
    folder = tmp_path / "_data" / "firmware_images"
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"image")
    monkeypatch.setattr(samples.resources, "files", lambda package: tmp_path)
    assert samples.sample_names() == ("a.bin", *sorted(samples.sample_key_files()))
    assert samples.sample_file("a.bin") == b"image"
    assert b"PRIVATE KEY" in samples.sample_file("keys/image.SAMPLE.private.pem")


def test_the_wheel_gets_every_image_and_no_key_and_no_recipe():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    shipped = {name.removeprefix("firmware_images/") for name in wheel["force-include"] if name.startswith("firmware")}
    assert shipped == {name for name in samples.sample_names() if not name.startswith("keys/")}
    assert all(
        place == f"bmsota_sim/_data/{name}"
        for name, place in wheel["force-include"].items()
        if name.startswith("firmware_images")
    )
