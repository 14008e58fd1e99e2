"""The committed sample images are what their recipe makes, and are good."""

import importlib.util
import re
import shlex
from pathlib import Path

import imgtool.main
import pytest
from click.testing import CliRunner

from bmsota.image import (
    HardwareClass,
    ImageRole,
    ImageVersion,
    load_public_key,
    load_signing_key,
    parse_image,
    verify_image,
)
from bmsota.ota import describe_image, verify_manifest

FOLDER = Path(__file__).resolve().parents[3] / "firmware_images"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("firmware_images_build", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_recipe_makes_exactly_the_committed_files(recipe):
    """Same names, same bytes: anyone can make them again."""
    made = recipe.build()
    there = {
        path.relative_to(FOLDER).as_posix(): path.read_bytes()
        for path in FOLDER.rglob("*")
        if path.is_file() and path.suffix in {".bin", ".cose", ".pem"}
    }
    assert sorted(made) == sorted(there)
    assert [name for name, data in made.items() if there[name] != data] == []


@pytest.mark.slow
def test_check_mode_notices_a_difference(recipe, tmp_path, monkeypatch, capsys):
    """Missing and altered files are named, and nothing is written."""
    monkeypatch.setattr(recipe, "__file__", str(tmp_path / "build.py"))
    assert recipe.main(["--check"]) == 1
    assert not (tmp_path / "F7-master-2.0.0.bin").exists()
    assert recipe.main([]) == 0
    assert recipe.main(["--check"]) == 0
    (tmp_path / "F7-master-2.0.0.bin").write_bytes(b"x")
    capsys.readouterr()
    assert recipe.main(["--check"]) == 1
    assert capsys.readouterr().out == "differs: F7-master-2.0.0.bin\n"


@pytest.mark.parametrize("series", ["F7", "E7"])
def test_a_sample_release_is_good(series):
    """Signatures, classes, versions, counters, and a manifest that describes its images."""
    image_key = load_public_key((FOLDER / "keys/image.SAMPLE.public.pem").read_bytes())
    manifest_key = load_public_key((FOLDER / "keys/manifest.SAMPLE.public.pem").read_bytes())
    manifest = verify_manifest((FOLDER / f"{series}-2.1.0.manifest.cose").read_bytes(), [manifest_key])
    assert (manifest.release, manifest.series, manifest.software_version) == (f"{series}-2.1.0", series, "2.1.0")
    described = []
    for role in ImageRole:
        name = f"{series}-{role.name.lower()}"
        counters = []
        for version in ("2.0.0", "2.1.0"):
            data = (FOLDER / f"{name}-{version}.bin").read_bytes()
            image = verify_image(data, public_keys=[image_key])
            assert image.version == ImageVersion.parse(version)
            assert image.role is role
            assert image.hardware_class == HardwareClass.named("bmsota.example", name)
            assert len(image.payload) == (48 if role is ImageRole.MASTER else 12) * 1024
            counters.append(image.security_counter)
        assert counters == [1, 2]
        described.append(describe_image(data))
    assert manifest.images == tuple(described)


def test_the_sample_private_keys_belong_to_the_public_ones():
    """They are published so that the recipe can be run again, and say so."""
    for purpose in ("image", "manifest"):
        private = (FOLDER / f"keys/{purpose}.SAMPLE.private.pem").read_bytes()
        public = (FOLDER / f"keys/{purpose}.SAMPLE.public.pem").read_bytes()
        assert load_signing_key(private).public_key() == load_public_key(public)
        assert b"never trust it" in private


def test_the_command_in_the_documentation_makes_the_sample_image(tmp_path):
    """docs/trust.md says how to make a sample image with imgtool: its command line gives the very file."""
    page = (FOLDER.parent / "docs/trust.md").read_text(encoding="utf-8")
    command = shlex.split(re.search(r"`imgtool sign (-k KEY .*?)`", page, re.DOTALL)[1])
    sample = (FOLDER / "F7-master-2.1.0.bin").read_bytes()
    payload, made = tmp_path / "payload.bin", tmp_path / "made.bin"
    payload.write_bytes(parse_image(sample).payload)
    key = str(FOLDER / "keys/image.SAMPLE.private.pem")
    names = {"KEY": key, "payload.bin": str(payload), "F7-master-2.1.0.bin": str(made)}
    result = CliRunner().invoke(imgtool.main.sign, [names.get(word, word) for word in command])
    assert result.exit_code == 0, result.output
    assert made.read_bytes() == sample
