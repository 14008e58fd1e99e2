"""DBC text in, `Database` out, with every fault named and everything else loaded."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bmsota.errors import ConfigurationError, MissingExtraError
from bmsota.signals._check import check
from bmsota.signals._database import Database, DbcFault, Message, Severity
from bmsota.signals._declared import from_attributes

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.signals._check import MessageText


def loads(text: str) -> Database:
    """Load a DBC. What is wrong with it is in `Database.faults`; what a fault does not touch is in the database.

    Raises:
        MissingExtraError: the extra `can`, which brings the parser, is not installed. Never because of the text.
    """
    try:
        from bmsota.signals._parse import parse_messages  # noqa: PLC0415 - cantools is an extra, and slow to import
    except ImportError as error:
        raise MissingExtraError("reading a DBC", "cantools", "can") from error
    checked = check(text)
    faults = list(checked.faults)
    try:
        text = checked.head + "".join(each.text for each in checked.messages)
        messages, version = parse_messages(text, is_j1939=checked.is_j1939)
    except Exception:  # noqa: BLE001 - cantools' refusals have no common root; each message is then tried alone
        messages, version = (), ""
        for each in checked.messages:
            messages += _alone(partial(parse_messages, is_j1939=checked.is_j1939), checked.head, each, faults)
    lines = {each.name: each.line for each in checked.messages}
    messages = tuple(_protected(message, lines.get(message.name, 0), faults) for message in messages)
    return Database(messages, faults=tuple(sorted(faults, key=lambda fault: fault.line)), version=version)


def _protected(message: Message, line: int, faults: list[DbcFault]) -> Message:
    """The message under the protection that its attributes declare; a fault if they declare none that fits."""
    try:
        protection = from_attributes(message.attributes, message.can_id)
        return message if protection is None else message.with_protection(protection)
    except ConfigurationError as error:
        faults.append(DbcFault(line, f"the E2E attributes of {message.name} cannot be used: {error}", Severity.WARNING))
        return message


def _alone(
    parse: Callable[[str], tuple[tuple[Message, ...], str]], head: str, text: MessageText, faults: list[DbcFault]
) -> tuple[Message, ...]:
    """One message of a file that cantools refuses: with its attributes, else without them, else not at all."""
    bare = "\n".join(line for line in text.text.split("\n") if not line.startswith("BA_ "))
    for source, severity, loss in (
        (head + text.text, Severity.WARNING, "its attributes are"),
        (bare, Severity.ERROR, "the message is"),
    ):
        try:
            return parse(source)[0]
        except Exception as error:  # noqa: BLE001 - as above; the reason is kept in the fault
            said = " ".join(str(error).split()) or type(error).__name__
            faults.append(DbcFault(text.line, f"{said} ({text.name}); {loss} left out", severity))
    return ()
