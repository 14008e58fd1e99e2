"""A frame as plain values for JSON, and back: `to_dict` and `from_dict`.

    {"edition": 2016, "command": 4, "reply_flag": 254, "vin": "...", "encryption": 1,
     "message": {"type": "VehicleLogout", "time": "2018-06-22T16:21:21+08:00", "serial": 70}}

A value of a message class is an object whose `type` names the class and whose members are its fields. Times are ISO 8601 with
their zone, bytes are hexadecimal, codes are numbers, a sentinel is its word. Where a field may hold text as well, bytes and
sentinels would look like it: there they are `{"hex": ...}` and `{"sentinel": ...}`.

Both directions follow the annotations of the classes, so that a new message, or a body of a user's own, needs nothing here. What
was decoded comes back as the same frame, bit by bit; what a person writes may leave out whatever has a default.
"""

from __future__ import annotations

import types
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, Final, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import bmsota.gbt32960._bodies as body_classes
import bmsota.gbt32960._enums as enum_classes
import bmsota.gbt32960._extension as extension_classes
import bmsota.gbt32960._messages as message_classes
from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._enums import Edition, Sentinel
from bmsota.gbt32960._frame import Frame

if TYPE_CHECKING:
    from bmsota.gbt32960._bodies import Body
    from bmsota.gbt32960._explain import ExplainedField
    from bmsota.gbt32960._messages import Message
    from bmsota.gbt32960._registry import Layouts


_EDITIONS: Final = {int(edition.name.removeprefix("GBT")): edition for edition in Edition}
_BESIDES: Final = frozenset({"place", "time", "link"})
"""What `bmsota decode` says about where a frame came from; no part of the frame."""
_BYTE_FIELDS: Final = ("command", "reply_flag", "encryption")
_BYTE_MAX: Final = 255


# --- to plain values -------------------------------------------------------------------------------------------------


def to_dict(value: Frame | Message | Body | ExplainedField) -> dict[str, Any]:
    """Return *value* as dictionaries, lists, text, numbers, booleans and None, as `json.dumps` takes them.

    A `Frame` becomes edition, command, reply_flag, vin, encryption, vin_padding (if it is not empty) and message; any other value
    the name of its class as `type`, and its fields. A body of your own must be a dataclass whose annotations can be looked up.

    Raises:
        LocalProtocolError: something is no dataclass, or has annotations that mean nothing.
    """
    if not isinstance(value, Frame):
        found: dict[str, Any] = _plain(value, ())
        return found
    result: dict[str, Any] = {
        "edition": int(value.edition.name.removeprefix("GBT")),
        "command": int(value.command),
        "reply_flag": int(value.reply_flag),
        "vin": value.vin,
        "encryption": int(value.encryption),
    }
    if value.vin_padding:
        result["vin_padding"] = value.vin_padding
    result["message"] = _plain(value.message, ())
    return result


def _plain(value: Any, members: tuple[Any, ...]) -> Any:
    """Return a value as JSON has it; *members* are the types that its place allows, if that is known."""
    match value:
        case bool() | None | float() | str():
            return value
        case Sentinel():
            return {"sentinel": value.value} if str in members else value.value
        case int():
            return int(value)
        case Enum():
            return value.value
        case bytes() | bytearray() | memoryview():
            return {"hex": bytes(value).hex()} if str in members else bytes(value).hex()
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case tuple() | list():
            return [_plain(item, ()) for item in value]
        case _:
            hints = _hints(type(value))
            shown = {item.name: _plain(getattr(value, item.name), hints[item.name]) for item in fields(value)}
            return {"type": type(value).__name__} | shown


# --- from plain values -----------------------------------------------------------------------------------------------


def from_dict(item: dict[str, Any], *, layouts: Layouts | None = None) -> Frame:
    """Return the frame that *item* describes, as `to_dict` or `json.loads` gives it. *layouts* must know the bodies of your own.

    Raises:
        LocalProtocolError: it describes none; the message says what was expected where ("message.bodies[0].soc_pct: ...").
    """
    if not isinstance(item, dict):
        raise _wrong("frame", "an object", item)
    if "error" in item:
        raise LocalProtocolError(f"frame: it could not be decoded: {item['error']}")
    known = {each.name for each in fields(Frame)}
    if unknown := sorted(set(item) - known - _BESIDES):
        raise LocalProtocolError(
            f"frame: expected only {', '.join(sorted(known))}, got {', '.join(map(repr, unknown))}"
        )
    for name in ("command", "vin", "message"):
        if name not in item:
            raise LocalProtocolError(f"frame: no member {name!r}")
    arguments: dict[str, Any] = {"message": _value("message", item["message"], _MESSAGES, layouts)}
    for name in _BYTE_FIELDS:
        if name in item:
            number = item[name]
            if type(number) is not int or not 0 <= number <= _BYTE_MAX:
                raise _wrong(name, "a number from 0 to 255", number)
            arguments[name] = number
    for name in ("vin", "vin_padding"):
        if name in item:
            if not isinstance(item[name], str):
                raise _wrong(name, "text", item[name])
            arguments[name] = item[name]
    edition = item.get("edition", 2016)
    if type(edition) is not int or edition not in _EDITIONS:
        raise _wrong("edition", " or ".join(map(str, sorted(_EDITIONS))), edition)
    return Frame(edition=_EDITIONS[edition], **arguments)


def _wrong(where: str, expected: str, got: Any) -> LocalProtocolError:
    shown = repr(got)
    return LocalProtocolError(f"{where}: expected {expected}, got {shown if len(shown) <= 60 else shown[:60] + '...'}")


def _value(where: str, item: Any, members: tuple[Any, ...], layouts: Layouts | None) -> Any:
    """Return *item* as one of the types *members*. The types end the recursion: no message contains its own kind."""
    match item:
        case None if type(None) in members:
            return None
        case bool() if bool in members:
            return item
        case bool():
            pass
        case int() | float():
            number = _number(item, members)
            if number is not None:
                return number
        case dict():
            return _object(where, item, members, layouts)
        case list():
            for member in members:
                if get_origin(member) is tuple:
                    return _tuple(where, item, get_args(member), layouts)
        case str():
            found = _text(where, item, members)
            if found is not None:
                return found
        case _:
            pass
    raise _wrong(where, " or ".join(sorted({_named(member) for member in members})), item)


def _number(item: float, members: tuple[Any, ...]) -> Any:
    """A number as the code it stands for, if its place has codes and one fits; as the number it is otherwise."""
    if type(item) is int:
        for member in members:
            if isinstance(member, type) and issubclass(member, int) and member not in (int, bool):
                try:
                    return member(item)
                except ValueError:
                    continue
        if int in members or float in members:
            return item
        return None
    # 30.0 is how some writers of JSON say 30.
    if float in members:
        return item
    return int(item) if int in members and float(item).is_integer() else None


def _text(where: str, item: str, members: tuple[Any, ...]) -> Any:
    if str in members:
        return item
    if Sentinel in members and item in {each.value for each in Sentinel}:
        return Sentinel(item)
    for member in members:
        try:
            if member is bytes:
                return bytes.fromhex(item)
            if member is UUID:
                return UUID(item)
            if member is datetime:
                moment = datetime.fromisoformat(item)
                if moment.tzinfo is None:
                    raise _wrong(where, "a time with its zone (+08:00)", item)
                return moment
            if isinstance(member, type) and issubclass(member, Enum) and not issubclass(member, IntEnum):
                return member(item)
        except ValueError:
            continue
    return None


def _object(where: str, item: dict[str, Any], members: tuple[Any, ...], layouts: Layouts | None) -> Any:
    for key, member in (("hex", bytes), ("sentinel", Sentinel)):
        if set(item) == {key} and member in members and isinstance(item[key], str):
            found = _text(where, item[key], (member,))
            if found is None:
                raise _wrong(f"{where}.{key}", _named(member), item[key])
            return found
    classes = {member.__name__: member for member in members if is_dataclass(member) and isinstance(member, type)}
    if len(classes) < sum(is_dataclass(member) for member in members):
        raise LocalProtocolError(f"{where}: two classes of one name; rename that of your own")
    if not classes:
        raise _wrong(where, " or ".join(sorted({_named(member) for member in members})), item)
    name = item.get("type", next(iter(classes)) if len(classes) == 1 else None)
    cls = classes.get(name) if isinstance(name, str) else None
    if cls is None:
        raise _wrong(f"{where}.type", f"one of {', '.join(sorted(classes))}", name)
    hints = _hints(cls)
    if unknown := sorted(set(item) - {"type"} - set(hints)):
        raise LocalProtocolError(
            f"{where}: expected only {', '.join(hints)} in {name}, got {', '.join(map(repr, unknown))}"
        )
    arguments = {key: _value(f"{where}.{key}", item[key], hints[key], layouts) for key in item if key != "type"}
    for each in fields(cls):
        if each.name not in arguments and each.default is MISSING and each.default_factory is MISSING:
            raise LocalProtocolError(f"{where}: no member {each.name!r} in {name}")
    return cls(**arguments)


def _tuple(where: str, items: list[Any], arguments: tuple[Any, ...], layouts: Layouts | None) -> tuple[Any, ...]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        inner = _members(arguments[0])
        if inner == _BODIES and layouts is not None:
            inner += layouts.classes
        return tuple(_value(f"{where}[{index}]", item, inner, layouts) for index, item in enumerate(items))
    if len(items) != len(arguments):
        raise _wrong(where, f"{len(arguments)} items", items)
    pairs = zip(items, arguments, strict=True)
    return tuple(_value(f"{where}[{i}]", item, _members(inner), layouts) for i, (item, inner) in enumerate(pairs))


# --- annotations -----------------------------------------------------------------------------------------------------


_HINTS: dict[type, dict[str, tuple[Any, ...]]] = {}
"""Looked up once for each class."""


def _hints(cls: type) -> dict[str, tuple[Any, ...]]:
    """Field -> the types that it allows. The modules import some of them for type checkers only; they are given here."""
    hints = _HINTS.get(cls)
    if hints is None:
        if not is_dataclass(cls):
            raise LocalProtocolError(f"{cls.__name__}: no dataclass, so its fields are not known")
        if any(item.name == "type" for item in fields(cls)):
            raise LocalProtocolError(f"{cls.__name__}: a field called 'type' would hide the name of the class")
        try:
            found = get_type_hints(cls, localns=_NAMES)
        except NameError as error:
            raise LocalProtocolError(f"{cls.__name__}: annotations cannot be looked up: {error}") from error
        hints = _HINTS[cls] = {item.name: _members(found[item.name]) for item in fields(cls)}
    return hints


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _named(member: Any) -> str:
    if member is type(None):
        return "null"
    if member is bytes:
        return "hexadecimal digits"
    if member is Sentinel:
        return " or ".join(repr(each.value) for each in Sentinel)
    if get_origin(member) is tuple:
        return "a list"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false", datetime: "a time"}.get(
        member, getattr(member, "__name__", str(member))
    )


_NAMES: Final = {
    name: value
    for module in (body_classes, enum_classes, extension_classes, message_classes)
    for name, value in vars(module).items()
} | {"datetime": datetime, "UUID": UUID}
_BODIES: Final = _members(body_classes.Body)
_MESSAGES: Final = _members(message_classes.Message)
