"""What is wrong with the statements of a DBC, line by line, and which of them can be loaded.

`check` takes the statements apart far enough to know what they define and refer to, reports every fault, and gives back
DBC text that holds only what is sound. What the checks have let through, cantools can parse; should it still refuse
(`_load`), the message concerned is left out as well.

An error costs what its line defines. A warning costs nothing: signals that share bits, limits that contradict, an
extended id without its flag are loaded as they stand, because the vehicle on the bus has them too.
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass, field

from bmsota._words import counted
from bmsota.signals._database import DbcFault, Severity
from bmsota.signals._plan import ByteOrder, shift_of
from bmsota.signals._statements import Statement, split

EXTENDED_FLAG = 1 << 31
# Signals that belong to no message are collected under this pseudo id and name by the usual editors.
ORPHANS_ID = 0xC0000000
ORPHANS_NAME = "VECTOR__INDEPENDENT_SIG_MSG"

SIZE_BYTES_MAX = 64
# What 255 transport packets of 7 bytes carry (SAE J1939-21).
J1939_SIZE_BYTES_MAX = 1785
# cantools and we keep one branch per multiplexer number; a range of billions would be memory, not a layout.
MULTIPLEXER_NUMBERS_MAX = 65536
# cantools and our compiler walk them level by level, each level some calls deep; Python allows 1000. Files in use have three.
MULTIPLEXERS_NESTED_MAX = 32

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_MESSAGE = re.compile(r"BO_ (\d+) (\w+) : (\d+)(?: (\w+))?$")
_SIGNAL = re.compile(
    rf"SG_ (\w+)(?: (\w+))? : (\d+) \| (\d+) @ (\d)\s?([-+]) \( {_NUMBER} , {_NUMBER} \) \[ {_NUMBER} \| {_NUMBER} \]"
    r' "((?:\\"|[^"])*)"(?: (\w+(?: , \w+)*))?$',
    re.DOTALL,
)
# A signal whose numbers may be anything.
_SIGNAL_OF_WORDS = re.compile(
    r"SG_ \w+(?: \w+)? : .*? @ .*?\( ([^,)]+?) , ([^)]+?) \) \[ ([^|]+?) \| ([^\]]+?) \]", re.DOTALL
)
_NUMBER_NAMES = ("scale", "offset", "minimum", "maximum")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*$", re.ASCII)
_MULTIPLEX_MARK = re.compile(r"(?:M|m(\d*)(M?))$")
# What the usual editors mean by the numbers of an attribute VFrameFormat that is defined as INT.
_FRAME_FORMATS = (
    "StandardCAN",
    "ExtendedCAN",
    "reserved",
    "J1939PG",
    *["reserved"] * 10,
    "StandardCAN_FD",
    "ExtendedCAN_FD",
)
_RANGES = re.compile(r"(\d+) ?- ?(\d+)|(\d+) (-\d+)")


@dataclass(slots=True)
class _Signal:
    line: int
    name: str
    mark: str
    start_bit: int
    length_bits: int
    big_endian: bool
    is_signed: bool
    text: str
    parent: str | None = None
    numbers: frozenset[int] | None = None
    """The multiplexer numbers that bring it into the frame; None if it always is."""
    is_named_as_multiplexer: bool = False
    """Whether an SG_MUL_VAL_ says that others depend on it: the mark `m` without a number says nothing."""

    @property
    def is_multiplexer(self) -> bool:
        return self.mark.endswith("M") or self.is_named_as_multiplexer


@dataclass(slots=True)
class _Message:
    line: int
    number: int
    """The id as it stands in the file."""
    name: str
    length: int
    head: str
    signals: dict[str, _Signal] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    """Statements about this message that come after it."""


@dataclass(frozen=True, slots=True)
class MessageText:
    """One sound message as DBC text, with everything that is said about it."""

    line: int
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome: the faults, and sound DBC text in parts."""

    faults: tuple[DbcFault, ...]
    head: str
    """Version, nodes, attribute definitions."""
    messages: tuple[MessageText, ...]
    is_j1939: bool
    """Whether the network is J1939 and no attribute says it message by message."""


def check(text: str) -> Checked:
    """Report every fault of *text* and keep what is sound. Raises nothing."""
    return _Checker(text).run()


class _Checker:
    """Walks the statements twice: definitions first, then what refers to them."""

    def __init__(self, text: str) -> None:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        self.statements, troubles = split(text)
        self.lines = text.split("\n")
        self.faults = [DbcFault(trouble.line, trouble.reason, Severity.ERROR) for trouble in troubles]
        self.messages: dict[int, _Message] = {}
        self.left_out: set[int] = {ORPHANS_ID}
        """Ids of messages that were refused: what refers to them is not reported once more."""
        self.left_out_signals: set[tuple[int, str]] = set()
        self.names: set[str] = set()
        self.definitions: dict[str, str] = {}
        """Attribute -> INT, HEX, FLOAT, STRING or ENUM."""
        self.choices: dict[str, list[str]] = {}
        """What the numbers of an attribute mean."""
        self.protocol = ""
        self.foreign: set[str] = set()
        """Node names that were reported."""
        self.head: list[str] = []
        self.float_types: dict[tuple[int, str], int] = {}

    def run(self) -> Checked:
        current: _Message | None = None
        for statement in self.statements:
            if statement.keyword == "BO_":
                current = self.message(statement)
            elif statement.keyword == "SG_":
                self.signal(statement, current)
            elif statement.keyword == "BA_DEF_":
                self.attribute_definition(statement)
            elif statement.keyword in ("VERSION", "BU_"):
                self.first_line(statement)
        for statement in self.statements:
            self.reference(statement)
        for message in self.messages.values():
            self.structure(message)
        parts = tuple(
            MessageText(
                message.line,
                message.name,
                "\n".join([message.head, *(each.text for each in message.signals.values()), "", *message.others, ""]),
            )
            for message in self.messages.values()
        )
        if self.definitions.get("VFrameFormat") == "INT" and not any(
            line.startswith('BA_DEF_DEF_ "VFrameFormat"') for line in self.head
        ):
            self.head.append('BA_DEF_DEF_ "VFrameFormat" 0 ;')  # Without it cantools refuses the file.
        is_j1939 = self.protocol == "J1939" and "J1939PG" not in self.choices.get("VFrameFormat", ())
        faults = tuple(sorted(self.faults, key=lambda fault: fault.line))
        return Checked(faults, "\n".join(self.head) + "\n", parts, is_j1939)

    def error(self, line: int, reason: str) -> None:
        self.faults.append(DbcFault(line, reason, Severity.ERROR))

    def warn(self, line: int, reason: str) -> None:
        self.faults.append(DbcFault(line, reason, Severity.WARNING))

    # Definitions.

    def first_line(self, statement: Statement) -> None:
        if statement.text.startswith("VERSION") and re.match(r'VERSION "(?:\\"|[^"])*"$', statement.text):
            self.head.append(statement.text)
        elif re.match(r"BU_ :(?: \w+)*$", statement.text):
            self.head.append(" ".join(["BU_ :", *self.nodes(statement.line, statement.text[len("BU_ :") :].split())]))
        else:
            self.error(statement.line, f"incomplete {statement.keyword}: {_cut(statement.text)}")

    def nodes(self, line: int, names: list[str]) -> list[str]:
        """Those of *names* that cantools can read; the others are reported once."""
        for name in names:
            if not name.isascii() and name not in self.foreign:
                self.foreign.add(name)
                self.warn(line, f"{_name_fault(name)} (node); the node is left out")
        return [name for name in names if name.isascii()]

    def message(self, statement: Statement) -> _Message | None:
        """The draft of a message, or None if it cannot be used: then its signals are skipped without a word."""
        match = _MESSAGE.match(statement.text)
        if match is None:
            strange = re.match(r"\s*BO_\s+\d+\s+(\S*[^\w\s:]\S*?)\s*:\s*\d", self.lines[statement.line - 1])
            self.error(
                statement.line,
                _name_fault(strange[1])
                if strange
                else f"expected BO_ id name: length sender, got {_cut(statement.text)}",
            )
            if found := re.match(r"BO_ (\d+)", statement.text):
                self.left_out.add(int(found[1]))
            return None
        number, name, length = int(match[1]), match[2], int(match[3])
        if number == ORPHANS_ID or name == ORPHANS_NAME:
            self.left_out.add(number)
            return None
        reason = ""
        is_long = SIZE_BYTES_MAX < length <= J1939_SIZE_BYTES_MAX and bool(number & EXTENDED_FLAG)
        if not _IDENTIFIER.match(name):
            reason = _name_fault(name)
        elif length > SIZE_BYTES_MAX and not is_long:
            size = J1939_SIZE_BYTES_MAX if number & EXTENDED_FLAG else SIZE_BYTES_MAX
            reason = f"expected at most {counted(size, 'data byte')}, got {length} ({name})"
        elif number in self.messages:
            reason = f"duplicate id {number}, already used by {self.messages[number].name} ({name})"
        elif number >> 32 or (number & EXTENDED_FLAG and number & ~EXTENDED_FLAG >= 1 << 29):
            reason = f"expected an id of at most 29 bits, got 0x{number & ~EXTENDED_FLAG:X} ({name})"
        elif not number & EXTENDED_FLAG and number >= 1 << 29:
            reason = f"expected an id of at most 11 bits without the extended flag, got 0x{number:X} ({name})"
        if reason:
            self.error(statement.line, reason)
            if number not in self.messages:
                self.left_out.add(number)
            return None
        if not number & EXTENDED_FLAG and number > 0x7FF:
            self.warn(
                statement.line,
                f"expected the extended flag on an id of more than 11 bits, got 0x{number:X} ({name}); taken as extended",
            )
        if name in self.names:
            self.warn(statement.line, f"duplicate name {name}; this message is reachable by its id only")
        sender = self.nodes(statement.line, [match[4]] if match[4] else [])
        head = f"BO_ {_flagged(number)} {name} : {length} {sender[0] if sender else 'Vector__XXX'}"
        self.names.add(name)
        draft = _Message(statement.line, number, name, length, head)
        self.messages[number] = draft
        return draft

    def signal(self, statement: Statement, message: _Message | None) -> None:
        if message is None:
            return
        match = _SIGNAL.match(statement.text)
        found = re.match(r"SG_ (\w+)", statement.text)
        name = found[1] if found else ""
        if match is None:
            strange = re.match(r"\s*SG_\s+(\S*[^\w\s:]\S*?)(?:\s+\w+)?\s*:\s*\d", self.lines[statement.line - 1])
            shape = 'SG_ name : start|length@order sign (scale,offset) [min|max] "unit" receivers'
            reason = f"expected {shape}, got {_cut(statement.text)}"
            if strange:
                reason = f"{_name_fault(strange[1])} ({message.name})"
            elif wrong := _wrong_number(statement.text):
                reason = f"{wrong} ({message.name}.{name})"
            self.error(statement.line, reason)
            self.left_out_signals.add((message.number, name))
            return
        mark, start, length, order = match[2] or "", int(match[3]), int(match[4]), match[5]
        where = f"{message.name}.{name}"
        reason = ""
        if not _IDENTIFIER.match(name):
            reason = f"{_name_fault(name)} ({message.name})"
        elif name in message.signals:
            reason = f"duplicate signal {name} ({message.name})"
        elif mark and not _MULTIPLEX_MARK.match(mark):
            reason = f"expected M, m<number> or m<number>M, got {mark} ({where})"
        elif order not in "01":
            reason = f"expected byte order 0 or 1, got {order} ({where})"
        elif length == 0:
            reason = f"expected at least 1 bit, got 0 ({where})"
        elif not _fits(start, length, big_endian=order == "0", size_bytes=message.length):
            reason = f"expected all bits inside {counted(message.length, 'byte')}, got start {start} length {length} ({where})"
        elif _overflows(float(match[7]), float(match[8]), length):
            reason = f"expected values that a double can hold, got scale {match[7]} and offset {match[8]} ({where})"
        if reason:
            self.error(statement.line, reason)
            self.left_out_signals.add((message.number, name))
            return
        if float(match[7]) == 0:
            self.warn(statement.line, f"expected a scale other than 0, got {match[7]} ({where}); it cannot be encoded")
        if float(match[9]) > float(match[10]):
            self.warn(statement.line, f"expected minimum <= maximum, got [{match[9]}|{match[10]}] ({where})")
        for limit, value in (("minimum", match[9]), ("maximum", match[10])):
            # DBL_MAX as many tools write it, rounded up to 15 digits, is one of these.
            if not math.isfinite(float(value)):
                self.warn(
                    statement.line,
                    f"expected a {limit} that a double can hold, got {value} ({where}); taken as no limit",
                )
        text = statement.text if match[12] else f"{statement.text} Vector__XXX"
        if match[12] and not match[12].isascii():
            kept = self.nodes(statement.line, match[12].split(" , "))
            text = f"{statement.text[: match.start(12)]}{' , '.join(kept) or 'Vector__XXX'}"
        message.signals[name] = _Signal(statement.line, name, mark, start, length, order == "0", match[6] == "-", text)

    def attribute_definition(self, statement: Statement) -> None:
        match = re.match(r'BA_DEF_ (?:BO_ |SG_ |BU_ |EV_ )?"([^"]+)" (INT|HEX|FLOAT|STRING|ENUM)\b', statement.text)
        if match is None:
            self.error(statement.line, f'expected BA_DEF_ object "name" type, got {_cut(statement.text)}')
            return
        self.definitions[match[1]] = match[2]
        if match[2] == "ENUM":
            self.choices[match[1]] = _strings(statement.text[match.end() :])
        elif match[1] == "VFrameFormat":
            self.choices[match[1]] = list(_FRAME_FORMATS)
        self.head.append(statement.text)

    def attribute_value(self, line: int, name: str, text: str, where: str) -> str | None:
        """The value *text* of an attribute as cantools reads it: the number of an ENUM's name. None, with a fault, if it is none."""
        kind = self.definitions[name]
        if kind == "STRING":
            return text if text.startswith('"') else f'"{text}"'
        string = text[1:-1] if text.startswith('"') else text
        choices = self.choices.get(name)
        if choices is not None and string in choices:
            return str(choices.index(string))  # Some tools write the name.
        number = _number(string)
        if number is None and choices is None:
            self.warn(line, f"{name}: expected a number, got {text} ({where}); the attribute is left out")
            return None
        if choices is not None and (number is None or not 0 <= number < len(choices)):
            shown = ", ".join(f"{index} {each}" for index, each in enumerate(choices[:8]))
            more = ", ..." if len(choices) > 8 else ""
            self.warn(line, f"{name}: expected one of {shown}{more}, got {text} ({where}); the attribute is left out")
            return None
        return string

    # References.

    def reference(self, statement: Statement) -> None:
        handler = {
            "CM_": self.comment, "VAL_": self.value_table, "BA_": self.attribute, "SIG_VALTYPE_": self.value_type,
            "SG_MUL_VAL_": self.multiplexer_ranges, "BO_TX_BU_": self.senders, "BA_DEF_DEF_": self.attribute_default,
        }.get(statement.keyword)  # fmt: skip
        if handler is not None:
            handler(statement)

    def owner(self, statement: Statement, number: str, signal: str | None = None) -> _Message | None:
        """The message a statement is about; None, with a fault unless it was reported already, if there is none."""
        key = int(number)
        message = self.messages.get(key)
        if message is None:
            if key not in self.left_out:
                self.warn(statement.line, f"no message with id {number} ({statement.keyword})")
            return None
        if signal is not None and signal not in message.signals:
            if (key, signal) not in self.left_out_signals:
                self.warn(statement.line, f"no signal {signal} in {message.name} ({statement.keyword})")
            return None
        return message

    def malformed(self, statement: Statement, shape: str) -> None:
        self.error(statement.line, f"expected {shape}, got {_cut(statement.text)}")

    def comment(self, statement: Statement) -> None:
        match = re.match(
            r'CM_ (?:(BO_) (\d+)|(SG_) (\d+) (\w+)|(?:BU_|EV_) \w+)? ?"(?:\\"|[^"])*" ;$', statement.text, re.DOTALL
        )
        if match is None:
            self.malformed(statement, 'CM_ object "text";')
        elif (match[1] or match[3]) and (message := self.owner(statement, match[2] or match[4], match[5])):
            message.others.append(_renumbered(statement.text, message.number))

    def value_table(self, statement: Statement) -> None:
        match = re.match(r'VAL_ (\d+) (\w+)((?: [-+]?\d+ "(?:\\"|[^"])*")*) ;$', statement.text, re.DOTALL)
        if match is None:
            if not re.match(
                r'VAL_ [A-Za-z_]\w*((?: [-+]?\d+ "(?:\\"|[^"])*")*) ;$', statement.text
            ):  # Of an environment variable.
                self.malformed(statement, 'VAL_ id signal number "name" ... ;')
            return
        message = self.owner(statement, match[1], match[2])
        if message is None:
            return
        signal = message.signals[match[2]]
        low = -(1 << signal.length_bits - 1) if signal.is_signed else 0
        high = (1 << signal.length_bits - signal.is_signed) - 1
        seen: set[int] = set()
        for text in re.findall(r'([-+]?\d+) "(?:\\"|[^"])*"', match[3]):
            number = int(text)
            if number in seen:
                self.warn(statement.line, f"duplicate number {number} ({message.name}.{signal.name})")
            elif not low <= number <= high and (message.number, signal.name) not in self.float_types:
                self.warn(
                    statement.line,
                    f"expected a number from {low} to {high}, got {number} ({message.name}.{signal.name})",
                )
            seen.add(number)
        message.others.append(_renumbered(statement.text, message.number))

    def attribute(self, statement: Statement) -> None:
        match = re.match(
            r'BA_ "([^"]+)" (?:(BO_) (\d+) |(SG_) (\d+) (\w+) |((?:BU_|EV_) \w+) )?([-+]?[\d.]+(?:[eE][-+]?\d+)?|"(?:\\"|[^"])*") ;$',
            statement.text,
            re.DOTALL,
        )
        if match is None:
            self.malformed(statement, 'BA_ "name" object value;')
        elif match[1] not in self.definitions:
            self.warn(statement.line, f"undefined attribute {match[1]} (BA_)")
        elif (match[2] or match[4]) and (message := self.owner(statement, match[3] or match[5], match[6])):
            where = f"{message.name}.{match[6]}" if match[6] else message.name
            value = self.attribute_value(statement.line, match[1], match[8], where)
            if value is not None:
                text = f"{statement.text[: match.start(8)]}{value} ;"
                message.others.append(_renumbered(text, message.number))
        elif match[1] == "ProtocolType" and not (match[2] or match[4] or match[7]):
            self.protocol = self.named_choice(match[1], match[8])

    def attribute_default(self, statement: Statement) -> None:
        match = re.match(
            r'BA_DEF_DEF_ "([^"]+)" ([-+]?[\d.]+(?:[eE][-+]?\d+)?|"(?:\\"|[^"])*") ;$', statement.text, re.DOTALL
        )
        if match is None:
            self.malformed(statement, 'BA_DEF_DEF_ "name" value;')
        elif match[1] not in self.definitions:
            self.warn(statement.line, f"undefined attribute {match[1]} (BA_DEF_DEF_)")
        elif self.definitions[match[1]] == "ENUM" or match[2] == '""':
            default = self.named_choice(match[1], match[2])  # As a name, which is how cantools wants it.
            self.head.append(f'BA_DEF_DEF_ "{match[1]}" "{default}" ;')
            if match[1] == "ProtocolType":
                self.protocol = self.protocol or default
        elif self.attribute_value(statement.line, match[1], match[2], "BA_DEF_DEF_") is not None:
            self.head.append(statement.text)
            if match[1] == "ProtocolType":
                self.protocol = self.protocol or match[2].strip('"')

    def named_choice(self, name: str, text: str) -> str:
        """The text of an attribute, also where it is written as the number of an ENUM's choice."""
        choices, number = self.choices.get(name), _number(text)
        if choices is not None and number is not None and 0 <= number < len(choices):
            return choices[int(number)]
        return text.strip('"')

    def value_type(self, statement: Statement) -> None:
        match = re.match(r"SIG_VALTYPE_ (\d+) (\w+)(?: :)? (\d+) ;$", statement.text)
        if match is None:
            self.malformed(statement, "SIG_VALTYPE_ id signal : type;")
            return
        message = self.owner(statement, match[1], match[2])
        if message is None:
            return
        signal, kind = message.signals[match[2]], int(match[3])
        where = f"{message.name}.{signal.name}"
        if kind not in (0, 1, 2, 3):
            self.error(statement.line, f"expected type 0, 1, 2 or 3, got {kind} ({where})")
        elif kind in (1, 2) and signal.length_bits not in (16, 32, 64):
            self.error(statement.line, f"expected {32 * kind} bits for a float, got {signal.length_bits} ({where})")
            del message.signals[signal.name]
            self.left_out_signals.add((message.number, signal.name))
        else:
            if kind in (1, 2) and signal.length_bits != 32 * kind:
                self.warn(
                    statement.line,
                    f"expected {32 * kind} bits for float type {kind}, got {signal.length_bits} ({where})",
                )
            if kind in (1, 2):
                self.float_types[message.number, signal.name] = kind
            message.others.append(f"SIG_VALTYPE_ {_flagged(message.number)} {signal.name} : {kind} ;")

    def multiplexer_ranges(self, statement: Statement) -> None:
        match = re.match(r"SG_MUL_VAL_ (\d+) (\w+) (\w+) (.*) ;$", statement.text)
        pairs = _RANGES.findall(match[4]) if match else []
        if match is None or not pairs:
            self.malformed(statement, "SG_MUL_VAL_ id signal multiplexer low-high, ... ;")
            return
        message = self.owner(statement, match[1], match[2])
        if message is None or self.owner(statement, match[1], match[3]) is None:
            return
        ranges = [(int(low or first), int(high or second[1:])) for low, high, first, second in pairs]
        where = f"{message.name}.{match[2]}"
        if any(low > high for low, high in ranges):
            self.error(statement.line, f"a range runs backwards: expected low-high ({where})")
        elif sum(high - low + 1 for low, high in ranges) > MULTIPLEXER_NUMBERS_MAX:
            self.error(statement.line, f"more than {MULTIPLEXER_NUMBERS_MAX} multiplexer numbers ({where})")
        elif not _MULTIPLEX_MARK.match(message.signals[match[3]].mark) or message.signals[match[3]].mark[1:].isdigit():
            self.error(statement.line, f"{match[3]} is not a multiplexer ({where})")
        else:
            signal = message.signals[match[2]]
            signal.parent = match[3]
            message.signals[match[3]].is_named_as_multiplexer = True
            signal.numbers = frozenset(number for low, high in ranges for number in range(low, high + 1))
            text = ", ".join(f"{low}-{high}" for low, high in ranges)
            message.others.append(f"SG_MUL_VAL_ {_flagged(message.number)} {signal.name} {match[3]} {text};")

    def senders(self, statement: Statement) -> None:
        match = re.match(r"BO_TX_BU_ (\d+) : (\w+(?: , \w+)*) ;$", statement.text)
        if match is None:
            self.malformed(statement, "BO_TX_BU_ id : node, ... ;")
        elif message := self.owner(statement, match[1]):
            kept = self.nodes(statement.line, match[2].split(" , "))
            if kept:
                message.others.append(f"BO_TX_BU_ {_flagged(message.number)} : {' , '.join(kept)} ;")

    # Structure of a whole message.

    def structure(self, message: _Message) -> None:
        """Multiplexers, and signals that overlap."""
        if not self.bare_marks(message):
            return
        multiplexers = [each.name for each in message.signals.values() if each.is_multiplexer]
        for signal in list(message.signals.values()):
            match = _MULTIPLEX_MARK.match(signal.mark)
            if match is None or match[1] is None:
                continue
            if signal.parent is None and len(multiplexers) == 1 and signal.name != multiplexers[0]:
                signal.parent, signal.numbers = multiplexers[0], frozenset([int(match[1])])
            if signal.parent is None:
                what = "several multiplexers and no SG_MUL_VAL_" if multiplexers else "no multiplexer"
                self.error(signal.line, f"{what} for {signal.mark} ({message.name}.{signal.name})")
                self.drop(message, signal)
        for signal in list(message.signals.values()):
            if self.circular(message, signal):
                self.error(
                    signal.line,
                    f"circular multiplexers ({message.name}.{signal.name})",
                )
                self.drop(message, signal)
        for signal in [each for each in message.signals.values() if _depth(message, each) > MULTIPLEXERS_NESTED_MAX]:
            self.error(
                signal.line,
                f"more than {MULTIPLEXERS_NESTED_MAX} multiplexers one inside the other ({message.name}.{signal.name})",
            )
            self.drop(message, signal)
        if any(each.parent and each.parent not in message.signals for each in message.signals.values()):
            for signal in list(message.signals.values()):
                if signal.parent and signal.parent not in message.signals:
                    self.error(
                        signal.line,
                        f"the multiplexer {signal.parent} is missing ({message.name}.{signal.name})",
                    )
                    self.drop(message, signal)
        self.overlaps(message)

    def bare_marks(self, message: _Message) -> bool:
        """Say for cantools what `m` without a number means, by SG_MUL_VAL_. False if nothing is left to look at."""
        for signal in list(message.signals.values()):
            if signal.mark not in ("m", "mM"):
                continue
            place = f"m{min(signal.numbers)}" if signal.parent is not None and signal.numbers else ""
            mark = place + "M" * signal.is_multiplexer
            if not mark or (signal.mark == "mM" and not place):
                below = [each for each in message.signals.values() if each.parent is None and each.mark[1:].isdigit()]
                is_alone = not any(each.is_multiplexer for each in message.signals.values())
                lost = below if is_alone else []
                count = f"; also left out: {counted(len(lost), 'signal')} that may depend on it" if lost else ""
                self.error(
                    signal.line,
                    f"{signal.mark} without a number, and no SG_MUL_VAL_ for it ({message.name}.{signal.name}){count}",
                )
                for each in (signal, *lost):
                    self.drop(message, each)
                continue
            signal.text = signal.text.replace(f" {signal.mark} :", f" {mark} :", 1)
            signal.mark = mark
        return bool(message.signals)

    def drop(self, message: _Message, signal: _Signal) -> None:
        del message.signals[signal.name]
        prefix = re.compile(rf'(?:CM_ SG_|VAL_|SIG_VALTYPE_|SG_MUL_VAL_|BA_ "[^"]*" SG_) \d+ (?:\w+ )?{signal.name}\b')
        message.others = [text for text in message.others if not prefix.match(text)]

    def circular(self, message: _Message, signal: _Signal) -> bool:
        seen = {signal.name}
        parent = signal.parent
        while parent is not None and parent in message.signals:
            if parent in seen:
                return True
            seen.add(parent)
            parent = message.signals[parent].parent
        return False

    def overlaps(self, message: _Message) -> None:
        placed: list[tuple[int, _Signal]] = []
        for signal in message.signals.values():
            order: ByteOrder = "big" if signal.big_endian else "little"
            shift = shift_of(
                start_bit=signal.start_bit, length_bits=signal.length_bits, byte_order=order, size_bytes=message.length
            )
            bits = (1 << signal.length_bits) - 1 << shift
            if not signal.big_endian:
                bits = int.from_bytes(bits.to_bytes(message.length, "little"), "big")
            for other_bits, other in placed:
                if bits & other_bits and _meet(message, signal, other):
                    self.warn(
                        signal.line,
                        f"overlaps {other.name} ({message.name}.{signal.name})",
                    )
                    break
            placed.append((bits, signal))


def _meet(message: _Message, one: _Signal, other: _Signal) -> bool:
    """Whether two signals can be in the same frame."""
    numbers = dict(_conditions(message, one))
    return all(numbers.get(parent, chosen) & chosen for parent, chosen in _conditions(message, other))


def _depth(message: _Message, signal: _Signal) -> int:
    """How many multiplexers are above a signal."""
    depth, parent = 0, signal.parent
    while parent is not None and parent in message.signals:
        depth, parent = depth + 1, message.signals[parent].parent
    return depth


def _conditions(message: _Message, signal: _Signal) -> list[tuple[str, frozenset[int]]]:
    """What the multiplexers above a signal must read for it to be in the frame."""
    found: list[tuple[str, frozenset[int]]] = []
    while signal.parent is not None and signal.numbers is not None:
        found.append((signal.parent, signal.numbers))
        signal = message.signals[signal.parent]
    return found


def _fits(start: int, length: int, *, big_endian: bool, size_bytes: int) -> bool:
    shift = shift_of(
        start_bit=start, length_bits=length, byte_order="big" if big_endian else "little", size_bytes=size_bytes
    )
    return shift >= 0 and shift + length <= 8 * size_bytes


def _flagged(number: int) -> int:
    """The id with the extended flag where its size asks for it."""
    return number | EXTENDED_FLAG if number > 0x7FF else number


def _renumbered(text: str, number: int) -> str:
    """*text* with the message's id as `_flagged` writes it."""
    return text if _flagged(number) == number else text.replace(f" {number} ", f" {_flagged(number)} ", 1)


def _wrong_number(text: str) -> str:
    """Which of a signal's numbers is none; empty if that is not what is wrong with it."""
    match = _SIGNAL_OF_WORDS.match(text)
    for name, value in zip(_NUMBER_NAMES, match.groups() if match else (), strict=False):
        if re.fullmatch(_NUMBER, value) is None:
            return f"expected a number as {name}, got {value.replace(' ', '')}"
    return ""


def _name_fault(name: str) -> str:
    if re.match(r"\w+$", name, re.ASCII):
        return f"expected a name that starts with a letter, got {name}"
    return f"expected a name of A-Z, a-z, 0-9 and _, got {name}"


def _strings(text: str) -> list[str]:
    return re.findall(r'"((?:\\"|[^"])*)"', text)


def _overflows(scale: float, offset: float, length: int) -> bool:
    """Whether some value of the signal is none that a double holds. Wide integers that stay integers need none."""
    if not (math.isfinite(scale) and math.isfinite(offset)):
        return True
    exponent = math.frexp(scale)[1] + (0 if length > 64 and scale.is_integer() and offset.is_integer() else length)
    return max(exponent, math.frexp(offset)[1]) >= sys.float_info.max_exp - 1


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _cut(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")
