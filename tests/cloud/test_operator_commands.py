"""`bmsota-cloud init`, `user` and `project` in a data folder; `release`, `task` and `export` against a running platform."""

import csv
import json

import pytest
from bmsota_cloud import remote_commands
from bmsota_cloud.cli import app
from bmsota_cloud.config import load_config
from typer.testing import CliRunner

PASSWORD = "correct horse battery"


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BMSOTA_CLOUD_PASSWORD", PASSWORD)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, words)


@pytest.mark.slow
def test_a_platform_is_set_up_and_its_accounts_are_managed(run, tmp_path):
    result = run("init", "cloud.toml", "--data", "my data", "--public-url", "https://cloud.example")
    assert (result.exit_code, result.stderr) == (0, "")
    assert load_config(tmp_path / "cloud.toml") == {
        "data": str(tmp_path / "my data"),
        "public_url": "https://cloud.example",
    }
    assert (tmp_path / "my data/keys/order_private.pem").exists()
    again = run("init", "cloud.toml")
    assert (again.exit_code, again.stderr) == (1, "bmsota-cloud: cloud.toml is there already; nothing was changed\n")
    for words, expected in (
        (("user", "add", "carol", "c@example.org", "--role", "operator"), "created carol (operator)\n"),
        (("user", "disable", "carol"), "disabled carol\n"),
        (("user", "enable", "carol"), "enabled carol\n"),
        (("user", "password", "admin"), "admin has another password\n"),
        (
            ("project", "set", "Harbour", "--audit-mailbox", "a@example.org", "--starter", "carol"),
            "project Harbour: codes go to a@example.org\n",
        ),
    ):
        result = run(*words, "--config", "cloud.toml")
        assert (result.exit_code, result.output) == (0, expected), words
    result = run("user", "disable", "nobody", "--config", "cloud.toml")
    assert (result.exit_code, result.stderr) == (1, "bmsota-cloud: no account nobody\n")


def test_a_folder_without_a_platform_gets_none(run, tmp_path):
    result = run("user", "disable", "carol", "--data", "nothing")
    assert (result.exit_code, result.stderr) == (
        1,
        "bmsota-cloud: no platform in nothing; set one up with bmsota-cloud init, or name its folder with --data\n",
    )
    assert not (tmp_path / "nothing").exists()


@pytest.fixture
def world(new_world, tmp_path):
    return new_world(data_dir=tmp_path / "data")


@pytest.fixture
def remote(run, world, client, monkeypatch):
    """`remote("task", "list")`: by a token of carol; the platform's HTTP side answers in this process."""

    def made(**options):
        del options["timeout"]
        client.headers.update(options["headers"])
        return _Lent(client)

    monkeypatch.setattr(remote_commands.httpx, "Client", made)
    monkeypatch.setattr(remote_commands.time, "sleep", lambda _: _export(world))
    token = world.services.tokens.create(
        name="cli",
        permissions=sorted(world.people["carol"].permissions),
        days=1,
        by=world.people["carol"],
        now=world.now,
    ).secret
    monkeypatch.setenv("BMSOTA_CLOUD_URL", "http://cloud.example:8080")
    monkeypatch.setenv("BMSOTA_CLOUD_TOKEN", token)
    return run


def _export(world):
    while world.services.exports.run(world.now):
        pass


class _Lent:
    def __init__(self, client):
        self.client = client

    def __enter__(self):
        return self.client

    def __exit__(self, *_):
        return None


@pytest.mark.slow
def test_a_release_is_uploaded_and_a_task_created_shown_and_cancelled(remote, world, release_files, tmp_path):
    files = release_files()
    (tmp_path / "m.cose").write_bytes(files.manifest)
    names = []
    for number, image in enumerate(files.images):
        names.append(f"{number}.bin")
        (tmp_path / names[-1]).write_bytes(image)
    result = remote("release", "upload", "m.cose", *names)
    assert (result.exit_code, result.output) == (0, "uploaded F7-2.1.0: release 1, 2 images\n")
    vin = world.register(1)
    world.identify(1)
    world.confirm(1)
    words = ("--project", "Harbour", "--version", "2.1.0", "--reason", "fix", "--auditor", "alan")
    result = remote("task", "create", vin, *words)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("created task 1, ")
    assert "Harbour  2.1.0    1 Unapproved  fix" in remote("task", "list").output
    assert vin in remote("task", "show", "1").output
    assert json.loads(remote("task", "list", "--json").output)[0]["task"]["id"] == 1
    assert remote("task", "cancel", "1", "--reason", "no").output == "cancelled task 1\n"
    result = remote("task", "show", "9")
    assert (result.exit_code, result.stderr) == (1, "bmsota-cloud: no task 9\n")


def test_reports_are_exported(remote, world, tmp_path):
    world.register(1)
    result = remote("export", "out.csv", "--since", "2026-11-22", "--until", "2026-11-23", "--project", "Harbour")
    assert (result.exit_code, result.output.strip().splitlines()[-1]) == (
        0,
        "0 reports of 1 vehicles, 0.0 MiB, to out.csv",
    )
    assert next(csv.reader((tmp_path / "out.csv").open()))[0] == "vin"
    result = remote("export", "out.csv", "--since", "2026-11-23", "--until", "2026-11-22")
    assert result.exit_code == 1
    assert "the time range is empty" in result.stderr


@pytest.mark.parametrize(
    ("words", "exit_code", "expected"),
    [
        (("--token", "t"), 2, "name the platform with --url or BMSOTA_CLOUD_URL"),
        (("--url", "http://127.0.0.1:9"), 2, "pass an API token with --token or"),
        (("--url", "http://127.0.0.1:9", "--token", "t"), 1, "cannot reach http://127.0.0.1:9"),
        (("--url", "cloud", "--token", "t"), 2, "--url: expected https://host"),
        (("--url", "http://127.0.0.1:9", "--token", "ü"), 2, "this is no API token"),
    ],
)
def test_a_platform_that_is_not_there(run, words, exit_code, expected):
    result = run("task", "list", *words)
    assert result.exit_code == exit_code
    assert expected in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.output


def test_a_token_that_is_none(remote, monkeypatch):
    monkeypatch.setenv("BMSOTA_CLOUD_TOKEN", "bmsota_wrong")
    result = remote("task", "list")
    assert (result.exit_code, result.stderr) == (
        1,
        "bmsota-cloud: this API token is not valid; create another one\n",
    )


def test_a_file_that_is_not_there(remote):
    result = remote("release", "upload", "m.cose", "x.bin")
    assert (result.exit_code, result.stderr) == (1, "bmsota-cloud: m.cose: No such file or directory\n")
