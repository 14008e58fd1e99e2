"""What a run is given to reach our own platform: keys, accounts, and where the approval code comes from."""

from __future__ import annotations

import asyncio
import csv
import io
import smtplib
import sys
from email.message import EmailMessage

import pytest
from bmsota_sim._commands import app
from bmsota_sim.run.approval_codes import CommandCodes, MailedCodes, host_and_port
from bmsota_sim.run.releases import load_release
from bmsota_sim.samples import sample_file, sample_names
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from bmsota.errors import ConfigurationError

PLAIN = "name: s\nduration: 5s\ngroups: { f: { profile: E7, count: 2 } }\n"
OTA = PLAIN + 'ota: { release: "2.1.0" }\n'


def call(*words, **environment):
    return CliRunner().invoke(app, list(map(str, words)), env=environment)


def pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(PLAIN)
    (tmp_path / "ota.yaml").write_text(OTA)
    (tmp_path / "order.pem").write_bytes(sample_file("keys/manifest.SAMPLE.public.pem"))
    return tmp_path


def test_own_device_keys_are_those_of_the_vehicles(folder):
    rows = list(csv.DictReader(io.StringIO(call("vehicles", "s.yaml", "--csv").stdout)))
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    (folder / "devices").mkdir()
    (folder / "devices" / f"{rows[0]['vin']}.pem").write_bytes(pem(key))
    (folder / "keys.toml").write_text('devices = "devices"\norder = ["order.pem"]\n')
    own = list(csv.DictReader(io.StringIO(call("vehicles", "s.yaml", "--csv", "--keys", "keys.toml").stdout)))
    assert own[0]["public_key"] == key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    assert own[1] == rows[1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('ordr = ["order.pem"]', "keys.toml: ordr: no such setting; did you mean 'order'?"),
        ('order = "order.pem"', "keys.toml: order: expected a list of paths, got 'order.pem'"),
        ('order = ["none.pem"]', "no such file: none.pem"),
        ('image = ["s.yaml"]', "s.yaml: public key: expected PEM text"),
        ("devices = 5", "keys.toml: devices: expected the path of a folder, got 5"),
        ('devices = "none"', "no such folder: none"),
        ('devices = "empty"', "empty: expected 1 to 100,000 files named VIN.pem, got 0"),
        ('devices = "others"', "1 device keys, none for a vehicle of the scenario"),
        ("order = [", "keys.toml: "),
    ],
)
def test_a_wrong_keys_file_is_one_line(text, says, folder):
    (folder / "keys.toml").write_text(text)
    (folder / "empty").mkdir()
    (folder / "others").mkdir()
    (folder / "others" / "LBM0F7EV9R0000001.pem").write_bytes(pem(Ed25519PrivateKey.from_private_bytes(bytes(32))))
    for words in (("vehicles", "s.yaml"), ("run", "s.yaml", "--virtual")):
        result = call(*words, "--keys", "keys.toml")
        assert (result.exit_code, says in result.output) == (2, True), result.output
    assert "no such file: none.toml" in call("vehicles", "s.yaml", "--keys", "none.toml").output


NEEDED = ("--to", "tcp://127.0.0.1:1", "--api", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("ota.yaml", "--virtual"), "ota.yaml: has an OTA task, which needs the REST API of a platform"),
        (("s.yaml", "--virtual", "--api", "http://a"), "--virtual opens no connection"),
        (("s.yaml", "--to", "tcp://a", "--mail-listen", "127.0.0.1:0"), "need --api URL"),
        (("s.yaml", "--to", "tcp://a", "--api", "tcp://a"), "--api: expected http://HOST:PORT"),
        (("s.yaml", "--to", "tcp://a", "--api", "http://a:99999"), "--api http://a:99999: "),
        (("ota.yaml", *NEEDED), "give --mail-listen HOST:PORT"),
        (("ota.yaml", *NEEDED, "--code-command", "true"), "give --order-key FILE"),
        (("ota.yaml", *NEEDED, "--code-command", "true", "--mail-listen", "a:1"), "not both"),
        (("ota.yaml", *NEEDED, "--code-command", "true", "--speed", "2"), "leave out --speed 2"),
        (
            ("ota.yaml", *NEEDED, "--mail-listen", "2525", "--order-key", "order.pem"),
            "--mail-listen: expected HOST:PORT, got 2525",
        ),
        (("ota.yaml", *NEEDED, "--mail-listen", "127.0.0.1:0", "--order-key", "none.pem"), "no such file: none.pem"),
        (
            ("s.yaml", *NEEDED, "--api-admin", "x"),
            "--api-admin x: no password; set the environment variable BMSOTA_SIM_API_ADMIN_PASSWORD",
        ),
        (("s.yaml", *NEEDED), "the platform's API does not answer: ConnectError"),
        (
            ("ota.yaml", *NEEDED, "--code-command", "'", "--order-key", "order.pem"),
            "code command: No closing quotation",
        ),
        (
            ("ota.yaml", *NEEDED, "--mail-listen", "192.0.2.1:1", "--order-key", "order.pem"),
            "mail: cannot listen on 192.0.2.1:1",
        ),
    ],
)
def test_what_is_missing_for_our_own_platform_is_one_line(words, says, folder):
    result = call("run", *words, BMSOTA_SIM_API_PASSWORD="secret")
    assert (result.exit_code, says in result.output) == (2, True), result.output


def test_without_a_password_nothing_is_opened(folder):
    result = call("run", "s.yaml", *NEEDED, BMSOTA_SIM_API_PASSWORD="")
    assert "--api-user operator: no password; set the environment variable BMSOTA_SIM_API_PASSWORD" in result.output


def mail(subject, body):
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "cloud@example.org", "audit@example.org", subject
    message.set_content(body)
    return message


def test_the_newest_code_of_the_task_is_taken_from_the_mails():
    async def codes():
        sink = MailedCodes("127.0.0.1", 0)
        await sink.open()
        try:
            assert await sink.code(7) is None

            def send():
                with smtplib.SMTP("127.0.0.1", sink.port, timeout=600) as client:
                    client.send_message(mail("OTA-7: approval code for 2.1.0 (Harbour)", "Approval code: 111111\n"))
                    client.send_message(
                        mail("OTA-7: approval code for 2.1.0 (Harbour)", "Grüße\n\nApproval code: 222222\n")
                    )
                    client.send_message(mail("OTA-71: approval code for 2.1.0 (Harbour)", "Approval code: 333333\n"))
                    client.send_message(mail("OTA-7: your task was changed", "No code: 444444\n"))

            await asyncio.to_thread(send)
            return await sink.code(7), await sink.code(71), await sink.code(1)
        finally:
            await sink.close()

    assert asyncio.run(codes()) == ("222222", "333333", None)


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        ("import os; print('code of', os.environ['BMSOTA_TASK'], 'is 012345')", "012345", ""),
        ("print('1234567')", None, "printed no code of six digits"),
        ("import sys; sys.exit('not yet')", None, "ended with exit code 1: not yet"),
    ],
)
def test_a_command_prints_the_code(program, code, says, tmp_path):
    (tmp_path / "code.py").write_text(program)
    source = CommandCodes(f"{sys.executable} {tmp_path / 'code.py'}")
    assert asyncio.run(source.code(7)) == code
    assert says in source.wanted


def test_a_command_that_is_not_there_is_told():
    with pytest.raises(ConfigurationError, match=r"/none: No such file"):
        asyncio.run(CommandCodes("/none").code(7))


@pytest.mark.parametrize(
    ("text", "parts"), [("127.0.0.1:25", ("127.0.0.1", 25)), ("[::1]:0", ("::1", 0)), ("h:1", ("h", 1))]
)
def test_host_and_port(text, parts):
    assert host_and_port(text) == parts


@pytest.mark.parametrize("text", ["25", ":25", "h:", "h:x", "h:65536", "h:-1", "h:²"])
def test_no_host_and_port(text):
    with pytest.raises(ConfigurationError, match="expected HOST:PORT"):
        host_and_port(text)


def test_a_release_in_a_folder_is_found_by_its_series(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in sample_names():
        if "2.1.0" in name:
            (tmp_path / name).write_bytes(sample_file(name))
    sample, own = load_release("2.1.0", "F7"), load_release("./", "F7")
    assert (own.name, own.image_version, own.manifest) == (sample.name, "2.1.0", sample.manifest)
    assert sorted(own.images) == sorted(sample.images)
    for folder, series, says in (
        ("./none", "F7", "no such folder"),
        ("./", "X1", "expected one manifest for series X1"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            load_release(folder, series)
    (tmp_path / "bad.cose").write_bytes(b"nonsense")
    with pytest.raises(ConfigurationError, match=r"bad\.cose"):
        load_release("./", "F7")
