"""The parameters of terminal control 0x82: the remote-upgrade string and the alarm (2016 tables B.15 to B.17).

The standard contradicts itself about the upgrade string: table B.15 puts the URL first, table B.16 puts it ninth; the
public implementations are split, and one sends numbers as raw bytes. So the layout is a named part of the value. On the way
in it is found by where a `scheme://` stands; without one we assume B.15, our default. A string that follows none of the
layouts stays bytes: what cannot be understood surely must not be acted upon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._enums import ControlId, UpgradeLayout
from bmsota.gbt32960._messages import RemoteUpgrade, TerminalAlarm
from bmsota.gbt32960._plain import text_of

if TYPE_CHECKING:
    from collections.abc import Sequence


_B15: Final = (
    "url",
    "apn",
    "user",
    "password",
    "address",
    "port",
    "maker_code",
    "hardware_version",
    "firmware_version",
    "connect_limit_min",
)
_B16: Final = (*_B15[1:9], "url", "connect_limit_min")
_ORDERS: Final = {
    UpgradeLayout.B15_TEXT: _B15,
    UpgradeLayout.B16_TEXT: _B16,
    UpgradeLayout.B16_BINARY: _B16,
}
_NUMBERS: Final = frozenset({"port", "connect_limit_min"})
_NUMBER_MAX: Final = 65531
"""Table B.16: a WORD without the values that mean something else."""
_BINARY_SIZES_BYTES: Final = {"address": 6, "port": 2, "connect_limit_min": 2}


def control_parameters(control_id: int, data: bytes) -> RemoteUpgrade | TerminalAlarm | bytes:
    """Return what *data*, everything behind the control id, means."""
    found: RemoteUpgrade | TerminalAlarm | None = None
    if control_id == ControlId.REMOTE_UPGRADE:
        found = _remote_upgrade(data)
    elif control_id == ControlId.ALARM and data:
        found = TerminalAlarm(data[0], text_of(data[1:]))
    # Whatever would not come out as it went in stays bytes: nothing is tidied up in passing.
    try:
        is_same = found is not None and control_parameters_bytes(control_id, found) == data
    except LocalProtocolError:
        # Read by one layout, and not to be written by it: a binary string whose URL holds a semicolon, for example.
        is_same = False
    return found if is_same and found is not None else data


def control_parameters_bytes(control_id: int, parameters: RemoteUpgrade | TerminalAlarm | bytes) -> bytes:
    """Return *parameters* as they stand behind the control id.

    Raises:
        LocalProtocolError: the parameters do not belong to this control, or a field does not fit its layout.
    """
    match parameters:
        case bytes():
            return parameters
        case RemoteUpgrade() if control_id == ControlId.REMOTE_UPGRADE:
            order = _ORDERS[parameters.layout]
            return b";".join(_upgrade_field(parameters, name) for name in order)
        case TerminalAlarm() if control_id == ControlId.ALARM:
            if not 0 <= parameters.level <= 255:
                msg = f"alarm.level: expected 0 to 255, got {parameters.level!r}"
                raise LocalProtocolError(msg)
            return bytes((parameters.level,)) + _text("alarm.text", parameters.text)
        case _:
            msg = f"control {control_id:#04x}: expected parameters that belong to it, got {type(parameters).__name__}"
            raise LocalProtocolError(msg)


def _text(where: str, text: str) -> bytes:
    try:
        return text.encode("gb18030", "surrogateescape")
    except (AttributeError, UnicodeEncodeError):
        msg = f"{where}: expected text, got {text!r}"
        raise LocalProtocolError(msg) from None


def _upgrade_field(upgrade: RemoteUpgrade, name: str) -> bytes:
    value = getattr(upgrade, name)
    where = f"remote upgrade.{name}"
    if isinstance(value, int) and not 0 <= value <= _NUMBER_MAX:
        msg = f"{where}: expected 0 to {_NUMBER_MAX}, got {value}"
        raise LocalProtocolError(msg)
    if upgrade.layout is UpgradeLayout.B16_BINARY and name in _BINARY_SIZES_BYTES:
        return _binary(where, value, _BINARY_SIZES_BYTES[name])
    if value is None:
        return b""
    raw = _text(where, str(value))
    # Only the URL may contain the separator: the fields around it are counted from both ends.
    if b";" in raw and not (name == "url" and b"://" in raw):
        msg = f"{where}: expected no semicolon, the separator of the fields, got {value!r}"
        raise LocalProtocolError(msg)
    return raw


def _binary(where: str, value: int | str | None, size_bytes: int) -> bytes:
    if isinstance(value, int):
        return value.to_bytes(size_bytes, "big")
    if size_bytes == 6 and isinstance(value, str):
        parts = value.split(".")
        if len(parts) == 4 and all(_is_plain_number(part) and int(part) <= 255 for part in parts):
            return bytes((0, 0, *map(int, parts)))
        raw = _text(where, value)
        if len(raw) == size_bytes:
            return raw
    expected = "an IPv4 address or a name of 6 bytes" if size_bytes == 6 else f"an integer of {size_bytes} bytes"
    msg = f"{where}: expected {expected} in the binary layout, got {value!r}"
    raise LocalProtocolError(msg)


def _is_plain_number(text: str) -> bool:
    """Whether *text* is what a decimal number looks like when it is written again."""
    return text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")


def _remote_upgrade(data: bytes) -> RemoteUpgrade | None:
    """Read the string; None if it follows no known layout."""
    binary = _split_binary(data)
    if binary is not None:
        return _upgrade_of(UpgradeLayout.B16_BINARY, binary)
    parts = data.split(b";")
    surplus = len(parts) - len(_B15)
    if surplus < 0:
        return None
    for layout, order in ((UpgradeLayout.B15_TEXT, _B15), (UpgradeLayout.B16_TEXT, _B16)):
        at = order.index("url")
        url = b";".join(parts[at : at + surplus + 1])
        if b"://" in parts[at]:
            return _upgrade_of(layout, [*parts[:at], url, *parts[at + surplus + 1 :]])
    return _upgrade_of(UpgradeLayout.B15_TEXT, parts) if surplus == 0 else None


def _split_binary(data: bytes) -> list[bytes] | None:
    """Split the binary layout, by sizes and never by semicolons: port 59 is one, and so may be a byte of the address."""
    head = data.split(b";", 3)
    if len(head) < 4:
        return None
    address, port, tail = head[3][:6], head[3][7:9], head[3][10:]
    if head[3][6:7] != b";" or head[3][9:10] != b";" or tail[-3:-2] != b";":
        return None
    # Six letters and a two-digit port look the same as text. Raw numbers have bytes that no text has.
    if all(32 <= byte < 127 for byte in address + port + tail[-2:]):
        return None
    middle = tail[:-3].split(b";", 3)
    if len(middle) < 4:
        return None
    return [*head[:3], address, port, *middle, tail[-2:]]


def _upgrade_of(layout: UpgradeLayout, parts: Sequence[bytes]) -> RemoteUpgrade | None:
    values: dict[str, int | str | None] = {}
    for name, raw in zip(_ORDERS[layout], parts, strict=True):
        if layout is UpgradeLayout.B16_BINARY and name in _BINARY_SIZES_BYTES:
            if name in _NUMBERS:
                number = int.from_bytes(raw, "big")
                if number > _NUMBER_MAX:
                    return None
                values[name] = number
            else:
                values[name] = ".".join(map(str, raw[2:])) if raw[:2] == b"\0\0" else _exact_text(raw)
            continue
        text = _exact_text(raw)
        if name in _NUMBERS:
            is_number = _is_plain_number(text) and len(text) <= 5 and int(text) <= _NUMBER_MAX
            values[name] = int(text) if is_number else text or None
        else:
            values[name] = text
    return RemoteUpgrade(**values, layout=layout)  # type: ignore[arg-type]


def _exact_text(raw: bytes) -> str:
    """Text without a size: zero bytes at the end belong to it."""
    return raw.decode("gb18030", "surrogateescape")
