"""What `deploy/` has for the platform: its files are read, and its commands run, as they stand there."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bmsota_cloud.config import load_config
from postgresql import some_database

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "bmsota-cloud.service"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
SAMPLE_KEY = ROOT / "firmware_images" / "keys" / "image.SAMPLE.public.pem"


def of_unit():
    (line,) = re.findall(r"^ExecStart=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    program, *words = shlex.split(line)
    assert Path(program).name == "bmsota-cloud"
    return words


def of_compose():
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]["cloud"]["command"]


def test_the_compose_file_starts_what_the_image_would_start():
    services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    image = (DEPLOY / "Dockerfile.cloud").read_text(encoding="utf-8")
    assert f"CMD {services['cloud']['command']}".replace("'", '"') in image
    settings = load_config(DEPLOY / "compose" / "config" / "serve.toml")
    ports = {port.rpartition(":")[2] for port in services["cloud"]["ports"]}
    assert ports == {str(settings["http_port"]), str(settings["gateway_port"])}
    assert settings["database"].startswith("postgresql+psycopg://bmsota@database/")
    assert "database" in services


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there")
def test_systemd_understands_the_unit(tmp_path):
    """With the program at a place where there is one: that it is executable belongs to what is verified."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/bmsota/bin/bmsota-cloud", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(("words", "folder"), [(of_unit(), "systemd"), (of_compose(), "compose/config")])
def test_the_command_serves_with_the_file_beside_it(tmp_path, words, folder):
    """The very command and file; only folders, ports, keys and the database are this machine's."""
    shutil.copytree(DEPLOY / folder, tmp_path / "etc")
    config = tmp_path / "etc" / "serve.toml"
    for name in ("release.pem", "image.pem"):
        shutil.copy(SAMPLE_KEY, config.parent / name)
    places = {"--config": str(config), "--data": str(tmp_path / "data")}
    for option, place in places.items():
        words[words.index(option) + 1] = place
    with some_database() as url:
        text = config.read_text(encoding="utf-8")
        ours = url.replace("postgresql://", "postgresql+psycopg://")
        config.write_text(re.sub(r"^((?:telemetry-)?database) = .*$", rf'\1 = "{ours}"', text, flags=re.MULTILINE))
        here = ["--host", "127.0.0.1", "--http-port", "0", "--gateway-host", "127.0.0.1", "--gateway-port", "0"]
        process = subprocess.Popen(
            [sys.executable, "-m", "bmsota_cloud.cli", *words, *here],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            told = [process.stdout.readline() for _ in range(2)]
            process.send_signal(signal.SIGTERM)
            _, wrong = process.communicate(timeout=120)
        finally:
            process.kill()
            process.wait()
    assert [line.split()[0] for line in told] == ["pages", "gateway"], wrong
    assert process.returncode == 0, wrong
