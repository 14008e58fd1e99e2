"""The file of `serve --config`: the options by their names, and what is wrong said with its name."""

import re
from enum import EnumType
from inspect import signature
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from bmsota_cloud.cli import serve
from bmsota_cloud.config import ServeFile, load_config
from bmsota_cloud.link_keys import load_link_keys
from bmsota_cloud.platform_logins import load_platform_logins

from bmsota.errors import ConfigurationError

DOC = Path(__file__).parents[2] / "docs" / "serve.md"


@pytest.fixture
def read(tmp_path):
    def load(text):
        path = tmp_path / "serve.toml"
        path.write_text(text, encoding="utf-8")
        return load_config(path)

    return load


def test_settings_go_by_the_names_of_the_options_and_paths_are_relative_to_the_file(read, tmp_path):
    assert read(
        'http-port = 80\nlink-keys = "k.toml"\nimage-key = ["a.pem", "/b.pem"]\nacknowledge-reports = true'
    ) == {
        "http_port": 80,
        "link_keys": str(tmp_path / "k.toml"),
        "image_key": [str(tmp_path / "a.pem"), "/b.pem"],
        "acknowledge_reports": True,
    }
    assert read("") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http-port = 70000", "http-port: expected 0 to 65535, got 70000"),
        ('http-port = "80"', "http-port: expected a whole number, got '80'"),
        ("report-keep-days = 6", "report-keep-days: expected 7 to 36500, got 6"),
        ("gateway-prt = 1", "gateway-prt: no such setting; did you mean gateway-port?"),
        ("http_port = 1", "http_port: no such setting; did you mean http-port?"),
        ("[gateway]\nport = 1", "gateway: no such setting; did you mean"),
        ('public-url = "cloud.example"', "public-url: expected https://host or https://host:port, got 'cloud.example'"),
        ('public-url = "https://h:99999"', "public-url: expected https://host"),
        ('device-url-alias = ["https://h/path"]', "device-url-alias: expected https://host"),
        (
            'gateway-name = "a b"',
            "gateway-name: expected 1 to 48 letters, digits, dots, hyphens and underscores, got 'a b'",
        ),
        ('trusted-proxy = ["proxy.example"]', "trusted-proxy: expected an address or a network as 10.0.0.0/8"),
        ('report-hash = "md5"', "report-hash: expected 'sha256', 'sha384' or 'sha512', got 'md5'"),
        ("smtp-tls = 1", "smtp-tls: expected true or false, got 1"),
        ("host = 127", "host: expected a text, got 127"),
        ('image-key = "image.pem"', "image-key: expected a list, got 'image.pem'"),
        ('image-key = ["image.pem", 7]', "image-key: expected a text, got 7"),
        ('map-tiles = "tiles.example/{z}/{x}/{y}.png"', "map-tiles: expected https://host/path with {z}, {x} and {y}"),
        (
            'map-tiles = "https://tiles.example/{x}/{y}.png"',
            "map-tiles: expected https://host/path with {z}, {x} and {y}",
        ),
        ('map-tiles = "https://a b;c/{z}/{x}/{y}.png"', "map-tiles: expected https://host/path with {z}, {x} and {y}"),
        ("http-port = ", "not TOML: "),
        ("a = 1\na = 2", "not TOML: "),
    ],
)
def test_what_is_wrong_is_said_with_its_name(read, tmp_path, text, says):
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    assert str(caught.value).startswith(f"{tmp_path / 'serve.toml'}: {says}")


def test_every_fault_has_its_line(read):
    with pytest.raises(ConfigurationError) as caught:
        read('http-port = -1\nsmtp-port = 0\nnonsense = "x"')
    assert len(str(caught.value).splitlines()) == 3


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(ConfigurationError, match="no such file: "):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match=r"cannot read .*: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'host = "\xff"')
    with pytest.raises(ConfigurationError, match="not TOML"):
        load_config(tmp_path / "latin.toml")


def test_file_and_command_line_have_the_same_settings_and_the_same_limits():
    hints = get_type_hints(serve, include_extras=True)
    options = {name: hint for name, hint in hints.items() if name not in {"config", "return"}}
    assert set(ServeFile.model_fields) == set(options)
    for name, field in ServeFile.model_fields.items():
        kind, info = options[name].__origin__, options[name].__metadata__[0]
        assert field.alias == name.replace("_", "-")
        if kind is int:
            (number,) = (part for part in field.annotation.__args__ if part is not type(None))
            rules = number.__metadata__[0].metadata
            limits = {side: getattr(rule, side) for rule in rules for side in ("ge", "le") if hasattr(rule, side)}
            assert limits == {"ge": info.min, "le": info.max}, name
        words = [choice.value for part in get_args(kind) if isinstance(part, EnumType) for choice in part]
        assert re.findall(r"'(\w+)'", str(field.annotation)) == words, name


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)


def test_the_examples_of_the_manual_are_right(read, tmp_path):
    serve_file, keys_file, platforms_file = blocks("toml")
    found = read(serve_file)
    assert (found["report_keep_days"], found["link_keys"]) == (30, str(tmp_path / "keys/links.toml"))
    (tmp_path / "links.toml").write_text(keys_file)
    keys = load_link_keys(tmp_path / "links.toml")
    assert keys.default is not None
    assert set(keys.by_vin) == {"TESTVEHICLE000001"}
    (tmp_path / "platforms.toml").write_text(platforms_file)
    (peer,) = load_platform_logins(tmp_path / "platforms.toml").values()
    assert peer.is_proved_by("upper", "correcthorsebattery")


def test_the_manual_names_every_setting_with_its_default():
    rows = {}
    for line in DOC.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `") and line.count("|") == 4:
            names, default, _ = (cell.strip() for cell in line.strip("|").split("|"))
            for number, name in enumerate(re.findall(r"`([a-z-]+)`", names)):
                values = default.split(", ")
                rows[name] = values[number] if len(values) == len(re.findall("`", names)) // 2 else default
    assert set(rows) == {field.alias for field in ServeFile.model_fields.values()}
    defaults = {name: parameter.default for name, parameter in signature(serve).parameters.items()}
    numbers = ("report-keep-days", "report-compact-after-hours", "http-port", "upload-max-mib", "gateway-port")
    for name in (*numbers, "links-max", "heartbeat-window-s"):
        assert rows[name] == str(defaults[name.replace("-", "_")])
