"""The remote-upgrade string in its three layouts, the alarm, and what belongs to neither."""

from __future__ import annotations

import pytest

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import Control, Frame, RemoteUpgrade, TerminalAlarm, UpgradeLayout, beijing_time, decode, encode
from bmsota.gbt32960._control import control_parameters, control_parameters_bytes

FULL = {
    "url": "https://ota.example/f7",
    "apn": "cmiot",
    "user": "u",
    "password": "p",
    "address": "192.168.1.59",
    "port": 59,
    "maker_code": "BMSO",
    "hardware_version": "1.0.0",
    "firmware_version": "2.1.0",
    "connect_limit_min": 30,
}


def test_the_three_layouts_byte_by_byte():
    """B.15 has the URL first, B.16 ninth; the binary one has raw numbers between the separators."""
    b15 = b"https://ota.example/f7;cmiot;u;p;192.168.1.59;59;BMSO;1.0.0;2.1.0;30"
    b16 = b"cmiot;u;p;192.168.1.59;59;BMSO;1.0.0;2.1.0;https://ota.example/f7;30"
    binary = b"cmiot;u;p;\0\0\xc0\xa8\x01\x3b;\x00\x3b;BMSO;1.0.0;2.1.0;https://ota.example/f7;\x00\x1e"
    layouts = (UpgradeLayout.B15_TEXT, UpgradeLayout.B16_TEXT, UpgradeLayout.B16_BINARY)
    for layout, raw in zip(layouts, (b15, b16, binary), strict=True):
        upgrade = RemoteUpgrade(**FULL, layout=layout)
        assert control_parameters_bytes(1, upgrade) == raw
        assert control_parameters(1, raw) == upgrade
    assert RemoteUpgrade().layout is UpgradeLayout.B15_TEXT


@pytest.mark.parametrize("layout", UpgradeLayout)
def test_a_semicolon_in_a_number_or_in_the_url_splits_nothing(layout):
    """Port 0x3B3B, the address 59.59.59.59, and a URL with a parameter."""
    upgrade = RemoteUpgrade(
        **FULL | {"port": 0x3B3B, "address": "59.59.59.59", "url": "ftp://x/a;type=i", "connect_limit_min": 0x3B},
        layout=layout,
    )
    raw = control_parameters_bytes(1, upgrade)
    assert control_parameters(1, raw) == upgrade


def test_absent_values_keep_their_separators():
    """Without a URL the layout is our default, B.15."""
    assert control_parameters_bytes(1, RemoteUpgrade()) == b";" * 9
    assert control_parameters(1, b";" * 9) == RemoteUpgrade()
    assert control_parameters(1, b";xyz;11;123;;;;;;") == RemoteUpgrade(apn="xyz", user="11", password="123")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"https://x",
        b";" * 8,
        b";" * 10,
        b"a;b;c;\0\0\1\2\3\4;\xff\xff;;;;;\0\0",
        b"a;b;c;\0\0\1\2\3\4;\0\1;;\0\0",
        b"a;b;c;\0\0\1\2\3\4;\0\1;;;;;\xff\xff",
    ],
)
def test_a_string_of_no_layout_stays_bytes(raw):
    """What cannot be understood surely must not be acted upon; it can still be sent on."""
    assert control_parameters(1, raw) == raw
    assert control_parameters_bytes(1, raw) == raw


def test_numbers_that_are_no_plain_decimals_are_kept_as_they_came():
    """Leading zeros, too large, not a number."""
    for port in ("080", "65532", "http"):
        raw = f"https://x;;;;;{port};;;;".encode()
        upgrade = control_parameters(1, raw)
        assert upgrade == RemoteUpgrade(url="https://x", port=port)
        assert control_parameters_bytes(1, upgrade) == raw


def test_text_that_could_be_binary_is_text():
    """Six letters, a port and a limit of two digits stand where the binary layout has its numbers."""
    expected = RemoteUpgrade(
        url="https://x", apn="a", address="server", port=80, connect_limit_min=30, layout=UpgradeLayout.B16_TEXT
    )
    assert control_parameters(1, b"a;;;server;80;;;;https://x;30") == expected


def test_a_name_of_six_letters_is_an_address_in_the_binary_layout():
    upgrade = RemoteUpgrade(**FULL | {"address": "server", "port": 8080}, layout=UpgradeLayout.B16_BINARY)
    raw = control_parameters_bytes(1, upgrade)
    assert b";server;\x1f\x90;" in raw
    assert control_parameters(1, raw) == upgrade


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"apn": "a;b"}, "apn: expected no semicolon"),
        ({"url": "a;b"}, "url: expected no semicolon"),
        ({"port": 65532}, "port: expected 0 to 65531"),
        ({"port": -1}, "port"),
        ({"address": "a.example", "layout": UpgradeLayout.B16_BINARY}, "an IPv4 address or a name of 6 bytes"),
        ({"address": "1.2.3.256", "layout": UpgradeLayout.B16_BINARY}, "an IPv4 address"),
        ({"port": None, "layout": UpgradeLayout.B16_BINARY}, "an integer of 2 bytes"),
        ({"user": "\ud800"}, "user: expected text"),
    ],
)
def test_what_does_not_fit_the_layout_is_refused(changes, named):
    with pytest.raises(LocalProtocolError, match=named):
        control_parameters_bytes(1, RemoteUpgrade(**FULL | changes))


def test_parameters_belong_to_their_control():
    """An upgrade under 0x06 or an alarm under 0x01 is a mistake; an alarm of level 256 is none."""
    for control_id, parameters in ((6, RemoteUpgrade()), (1, TerminalAlarm(1)), (2, TerminalAlarm(1))):
        with pytest.raises(LocalProtocolError, match="expected parameters that belong to it"):
            control_parameters_bytes(control_id, parameters)
    with pytest.raises(LocalProtocolError, match=r"alarm\.level"):
        control_parameters_bytes(6, TerminalAlarm(256))
    with pytest.raises(LocalProtocolError, match=r"alarm\.text"):
        control_parameters_bytes(6, TerminalAlarm(1, "\ud800"))


@pytest.mark.parametrize("raw", [b"\x03", b"\x03check the pack", b"\xff\xce\xc2", b"\x01zero at the end\0"])
def test_alarms(raw):
    """A level and text in GB 18030; what would not come out as it went in stays bytes."""
    parameters = control_parameters(6, raw)
    assert control_parameters_bytes(6, parameters) == raw
    assert isinstance(parameters, bytes) == raw.endswith(b"\0")
    frame = Frame(command=0x82, vin="V", message=Control(beijing_time(10**18), 6, parameters))
    assert decode(encode(frame)) == frame
