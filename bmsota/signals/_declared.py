"""Where a protection is declared: in DBC attributes of a message, or in a small TOML file beside a DBC that has none.

There is no standard for either. The attributes' names are those that public tools write: `E2EProfile`, `E2EDataId`, `E2ECrcSignal`,
`E2ECounterSignal`; those they lack follow the pattern. docs/signals.md lists both.
"""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from bmsota.errors import ConfigurationError
from bmsota.signals._crc import CrcAlgorithm
from bmsota.signals._protection import MAX_DELTA_COUNTER, DataIdMode, E2EProfile, E2EProtection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bmsota.signals._protection import ProtectedMessage

_KEYS = {
    "E2EProfile": "profile",
    "E2ECrcSignal": "crc",
    "E2ECounterSignal": "counter",
    "E2EDataId": "data_id",
    "E2EDataIdList": "data_id_list",
    "E2EDataIdMode": "data_id_mode",
    "E2EDataIdSignal": "data_id_signal",
    "E2EMaxDeltaCounter": "max_delta_counter",
    "E2ECrc": "algorithm",
    "E2EBefore": "before",
    "E2EAfter": "after",
}
"""DBC attribute -> key of a declaration."""
ATTRIBUTES = tuple(_KEYS)

_PROFILES = {
    **{profile.value: profile for profile in E2EProfile},
    "PROFILE1": E2EProfile.P01, "PROFILE2": E2EProfile.P02, "PROFILE5": E2EProfile.P05,
    "PROFILE_01": E2EProfile.P01, "PROFILE_02": E2EProfile.P02, "PROFILE_05": E2EProfile.P05,
    "AUTOSAR_P01": E2EProfile.P01, "AUTOSAR_P02": E2EProfile.P02, "AUTOSAR_P05": E2EProfile.P05,
    "E2E_P01": E2EProfile.P01, "E2E_P02": E2EProfile.P02, "E2E_P05": E2EProfile.P05,
    "CRC8_J1850": E2EProfile.J1850, "SAE_J1850": E2EProfile.J1850,
}  # fmt: skip
"""What files call the profiles, in capitals."""

_NO_PROFILES = frozenset({"", "NONE", "NO"})


def from_attributes(attributes: Mapping[str, object], can_id: int) -> E2EProtection | None:
    """The protection that a message's attributes declare; None if they declare none.

    Raises:
        ConfigurationError: they declare one that cannot be.
    """
    given = {_KEYS[name]: value for name, value in attributes.items() if name in _KEYS and value != ""}
    if str(given.get("profile", "")).upper() in _NO_PROFILES:
        return None
    return _protection(given, can_id)


def from_toml(text: str) -> Callable[[ProtectedMessage], E2EProtection | None]:
    """What a file declares, as a function from a message to its protection; None if the file does not name it.

    A section is `[messages.NAME]`, where NAME may hold * and ?; the first section that fits a message counts.

    Raises:
        ConfigurationError: not TOML, or not these keys; the message names the place. The function raises it too, for a
            declaration that does not fit.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"not valid TOML: {error}") from error
    if unknown := sorted(set(document) - {"messages"}):
        raise ConfigurationError(f"no such section: {', '.join(unknown)}; expected [messages.NAME]")
    messages = document.get("messages", {})
    if not isinstance(messages, dict) or not messages:
        raise ConfigurationError("no message: expected a section [messages.NAME]")
    for name, section in messages.items():
        if not isinstance(section, dict):
            raise ConfigurationError(f"messages.{name}: expected a section, got {section!r:.40}")
        if unknown := sorted(set(section) - set(_KEYS.values())):
            raise ConfigurationError(f"messages.{name}: no such key: {', '.join(unknown)}")
        if "profile" not in section:
            raise ConfigurationError(f"messages.{name}: the key profile is missing")

    def declared(message: ProtectedMessage) -> E2EProtection | None:
        for pattern, section in messages.items():
            if fnmatchcase(message.name, pattern):
                try:
                    return _protection(section, message.can_id)
                except ConfigurationError as error:
                    raise ConfigurationError(f"messages.{pattern}: {error}") from None
        return None

    return declared


def _protection(given: Mapping[str, Any], can_id: int) -> E2EProtection:
    name = given.get("profile")
    profile = _PROFILES.get(str(name).upper())
    if profile is None:
        expected = ", ".join(each.value for each in E2EProfile)
        raise ConfigurationError(f"profile: expected one of {expected}, got {name!r}")
    data_id = given.get("data_id")
    mode = str(given.get("data_id_mode", DataIdMode.BOTH.value)).lower()
    if mode not in {each.value for each in DataIdMode}:
        expected = ", ".join(each.value for each in DataIdMode)
        raise ConfigurationError(f"data_id_mode: expected one of {expected}, got {mode!r}")
    algorithm = given.get("algorithm")
    if data_id is not None:
        data_id = can_id & 0xFFFF if data_id == "can_id" else _number(data_id, "data_id")
    return E2EProtection(
        profile=profile,
        crc=_text(given, "crc"),
        counter=_text(given, "counter"),
        data_id=data_id,
        data_id_list=tuple(_number(each, "data_id_list") for each in _list(given.get("data_id_list", ()))),
        data_id_mode=DataIdMode(mode),
        data_id_nibble=_text(given, "data_id_signal"),
        algorithm=None if algorithm is None else CrcAlgorithm.parse(str(algorithm)),
        before=tuple(_bytes(each, "before") for each in _list(given.get("before", ()))),
        after=tuple(_bytes(each, "after") for each in _list(given.get("after", ()))),
        max_delta_counter=_number(given.get("max_delta_counter", MAX_DELTA_COUNTER), "max_delta_counter"),
    )


def _text(given: Mapping[str, Any], key: str) -> str | None:
    value = given.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(f"{key}: expected the name of a signal, got {value!r}")
    return value


def _list(value: object) -> list[Any]:
    """A list; in an attribute, which is text, its items are divided by commas or spaces."""
    if isinstance(value, str):
        return value.replace(",", " ").split()
    return list(value) if isinstance(value, list | tuple) else [value]


def _number(value: object, key: str) -> int:
    try:
        if isinstance(value, str):
            return int(value, 0)
        if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise ConfigurationError(f"{key}: expected a whole number, got {value!r}")


def _bytes(value: object, key: str) -> bytes:
    try:
        return bytes.fromhex(str(value).removeprefix("0x"))
    except ValueError:
        raise ConfigurationError(f"{key}: expected bytes in hexadecimal, got {value!r}") from None
