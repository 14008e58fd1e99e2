"""From DBC text to plans, by cantools. The only module that imports it, and the only one that sees its types.

What cantools is not asked: how to code a frame (`_codec`) and which line of a dirty file is at fault (`_statements`).
"""

from __future__ import annotations

import math
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cantools.database.can.formats import dbc as cantools_dbc

from bmsota.signals._database import Message
from bmsota.signals._plan import Branch, ByteOrder, LayoutNode, Signal, shift_of

if TYPE_CHECKING:
    from collections.abc import Iterable


def parse_messages(text: str, *, is_j1939: bool) -> tuple[tuple[Message, ...], str]:
    """The messages of a DBC text and its version string. With *is_j1939* all extended ids are J1939's.

    Raises whatever cantools raises: its exceptions have no common root, so the caller (`_load`) takes them all.
    """
    # Not cantools' Database, which prints a line to the log for each message whose name an earlier one has.
    database = cantools_dbc.load_string(text, strict=False)
    return tuple(_message(each, is_j1939=is_j1939) for each in database.messages), database.version or ""


def _message(message: Any, *, is_j1939: bool) -> Message:
    # More than 64 bytes are never one frame: only J1939 cuts them into packets.
    is_j1939 = message.is_extended_frame and (is_j1939 or message.protocol == "j1939" or message.length > 64)
    signals = {each.name: _signal(each, message.length) for each in message.signals}
    if len(signals) < len(message.signals):
        names = Counter(each.name for each in message.signals)
        twice = ", ".join(name for name, count in names.items() if count > 1)
        raise ValueError(f"two signals with one long name, {twice} (SystemSignalLongSymbol)")
    return Message(
        name=message.name,
        can_id=message.frame_id,
        length=message.length,
        signals=tuple(signals.values()),
        layout=_node(message.signal_tree, signals, {}),
        is_extended_id=message.is_extended_frame,
        # A file that needs more than 8 bytes and does not say how means CAN FD; J1939 cuts such messages into frames.
        is_fd=message.is_fd or (message.length > 8 and not is_j1939),
        is_j1939=is_j1939,
        senders=tuple(message.senders),
        cycle_time_ms=message.cycle_time,
        comment=message.comment or "",
        attributes=_attributes(message),
    )


def _attributes(message: Any) -> dict[str, int | float | str]:
    """What BA_ lines say of the message; of an enumeration the name, which the file may give as a number."""
    found = {}
    for name, attribute in (message.dbc.attributes if message.dbc is not None else {}).items():
        value, names = attribute.value, attribute.definition.choices
        if attribute.definition.type_name == "ENUM" and isinstance(value, int) and names and 0 <= value < len(names):
            value = names[value]
        found[name] = value
    return found


def _signal(signal: Any, size_bytes: int) -> Signal:
    byte_order: ByteOrder = "big" if signal.byte_order == "big_endian" else "little"
    choices = {int(number): str(name) for number, name in (signal.choices or {}).items()}
    return Signal(
        name=signal.name,
        start_bit=signal.start,
        length_bits=signal.length,
        byte_order=byte_order,
        shift=shift_of(start_bit=signal.start, length_bits=signal.length, byte_order=byte_order, size_bytes=size_bytes),
        is_signed=signal.is_signed and not signal.is_float,
        is_float=signal.is_float,
        scale=signal.scale,
        offset=signal.offset,
        minimum=_limit(signal.minimum),
        maximum=_limit(signal.maximum),
        unit=signal.unit or "",
        choices=MappingProxyType(choices),
        comment=signal.comment or "",
        receivers=tuple(signal.receivers),
        is_multiplexer=signal.is_multiplexer,
        multiplexer=signal.multiplexer_signal,
        multiplexer_ids=tuple(signal.multiplexer_ids or ()),
    )


def _limit(number: float | None) -> float | None:
    """None where the file's number is beyond what a double holds."""
    return number if number is not None and math.isfinite(number) else None


def _node(tree: Iterable[Any], signals: dict[str, Signal], known: dict[str, LayoutNode]) -> LayoutNode:
    """Turn cantools' tree (names, and {multiplexer: {number: tree}} for the branches) into ours.

    Ranges of multiplexer numbers bring thousands of equal subtrees; *known* makes them one node, which is compiled once.
    """
    key = repr(tree)
    if key in known:
        return known[key]
    members: list[Signal] = []
    branches: list[Branch] = []
    for item in tree:
        if isinstance(item, str):
            members.append(signals[item])
            continue
        for name, below in item.items():
            members.append(signals[name])
            nodes = {number: _node(subtree, signals, known) for number, subtree in below.items()}
            branches.append(Branch(signals[name], MappingProxyType(nodes)))
    node = known[key] = LayoutNode(tuple(members), tuple(branches))
    return node
