"""A loaded DBC: messages by name or by CAN id, each able to decode and encode its frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError, MissingExtraError, SignalError
from bmsota.signals._codec import compile_decoder, compile_encoder, encode_onto
from bmsota.signals._declared import from_toml
from bmsota.signals._plan import Signals
from bmsota.signals._protection import Seal
from bmsota.signals._transport import pgn_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota.signals._batch import Array, BatchCodec
    from bmsota.signals._codec import Decoder, Encoder
    from bmsota.signals._columns import SignalColumns
    from bmsota.signals._plan import LayoutNode, Signal, SignalValue
    from bmsota.signals._protection import E2EProtection


_EXTENDED_FLAG = 1 << 31
# In a J1939 id: the sender may be any node.
_ADDRESS_ANY = 0xFE


class Severity(Enum):
    """What a fault of a DBC file costs."""

    WARNING = "warning"
    """Nothing is missing from the database, but the file says something that cannot be quite right."""
    ERROR = "error"
    """What the line defines is not in the database."""


@dataclass(frozen=True, slots=True, order=True)
class DbcFault:
    """One thing that is wrong with a DBC file."""

    line: int
    """Counted from 1."""
    reason: str
    severity: Severity

    def __str__(self) -> str:
        return f"line {self.line}: {self.severity.value}: {self.reason}"


_COMPILERS: Final[dict[str, Callable[..., Any]]] = {
    "_decode": compile_decoder,
    "_decode_raw": compile_decoder,
    "_encode": compile_encoder,
    "_encode_raw": compile_encoder,
}


class Message:
    """One message of a DBC. Immutable; made by `loads`."""

    __slots__ = (
        "_batch",
        "_decode",
        "_decode_raw",
        "_encode",
        "_encode_raw",
        "attributes",
        "can_id",
        "comment",
        "cycle_time_ms",
        "is_extended_id",
        "is_fd",
        "is_j1939",
        "layout",
        "length",
        "name",
        "seal",
        "senders",
        "signals",
    )
    _decode: Decoder
    _decode_raw: Decoder
    _encode: Encoder
    _encode_raw: Encoder

    def __init__(
        self,
        *,
        name: str,
        can_id: int,
        length: int,
        signals: tuple[Signal, ...],
        layout: LayoutNode,
        is_extended_id: bool = False,
        is_fd: bool = False,
        is_j1939: bool = False,
        senders: tuple[str, ...] = (),
        cycle_time_ms: int | None = None,
        comment: str = "",
        attributes: Mapping[str, int | float | str] = MappingProxyType({}),
        protection: E2EProtection | None = None,
    ) -> None:
        """Raises ConfigurationError if *protection* does not fit the layout."""
        self.name = name
        self.can_id = can_id
        self.length = length
        """Data bytes of a frame."""
        self.is_extended_id = is_extended_id
        self.is_fd = is_fd
        self.is_j1939 = is_j1939
        """Whether the DBC says that this is a J1939 parameter group: its id then counts by the PGN alone (`MessageFinder`), and
        what is longer than 8 bytes comes in transport packets (`TransportReassembler`)."""
        self.senders = senders
        self.cycle_time_ms = cycle_time_ms
        self.comment = comment
        self.attributes = attributes
        """What the file's BA_ lines say of the message, by name; defaults are left out."""
        self.signals = Signals(signals)
        """Every signal, those of all multiplexer branches included, in the order of the frame's bits; also by name:
        `signals["State"]`."""
        self.layout = layout
        """The plan both codecs are made from: a tree, branching at multiplexers."""
        self._batch: BatchCodec | None = None
        self.seal: Seal | None = None if protection is None else Seal(self, protection)

    def __getattr__(self, name: str) -> Any:
        """Compile a codec that is first wanted: of a database of thousands of messages, few are seen, and most are only read."""
        compiler = _COMPILERS.get(name)
        if compiler is None:
            msg = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(msg)
        codec = compiler(self.layout, size_bytes=self.length, where=self.name, raw=name.endswith("_raw"))
        setattr(self, name, codec)
        return codec

    def __repr__(self) -> str:
        return f"Message({self.name!r}, can_id=0x{self.can_id:X}, length={self.length}, signals={len(self.signals)})"

    @property
    def protection(self) -> E2EProtection | None:
        """What protects its frames: a CRC, an alive counter or both; None if nothing is declared."""
        return None if self.seal is None else self.seal.protection

    def with_protection(self, protection: E2EProtection | None) -> Message:
        """The same message under *protection*; it shares what is compiled.

        Raises:
            ConfigurationError: the message has no signals that could carry it.
        """
        twin = copy(self)
        twin.seal = None if protection is None else Seal(self, protection)
        return twin

    def decode(self, data: bytes) -> dict[str, SignalValue]:
        """Signal name -> value in the signal's unit, or its name in the value table (a `NamedValue`, which keeps the number).

        Data beyond the message's length are ignored. Of a multiplexed message only the signals that are in this frame
        are returned.

        Raises:
            SignalError: *data* is too short, or a multiplexer has a number that the DBC does not define.
        """
        return self._decode(data)

    def decode_raw(self, data: bytes) -> dict[str, SignalValue]:
        """As `decode`, but the numbers as they are on the wire: neither scaled nor named. Raises the same."""
        return self._decode_raw(data)

    def encode(self, values: Mapping[str, SignalValue], *, base: bytes | None = None) -> bytes:
        """The data bytes of a frame. *values* holds exactly its signals.

        Without *base*, bits of no signal are 0. With *base*, the data of a frame of this message, the result is *base* with only
        those signals changed whose values differ from what it holds: `encode(decode(data), base=data)` is *data* for every frame
        that can be decoded, and `encode({**decode(data), "Level": 5}, base=data)` changes the bits of `Level` alone. Bits of no
        signal, bytes beyond the message's length, and values that the DBC's limits would refuse stay as they are.

        The CRC of a protected message is made if it is not in *values*; one that is in them is written as it is, so that what
        was decoded encodes to the same frame. `E2EProtector` counts too.

        Raises:
            SignalError: a signal is missing, unknown, out of its range, not a name of its value table, or shares bits with
                one that wants them different; or *base* cannot be decoded.
        """
        encoder: Encoder = self._encode if base is None else partial(self._onto, base=base, raw=False)
        if self.seal is not None and (data := self.seal.complete(values, encoder)) is not None:
            return data
        return encoder(values)

    def encode_raw(self, values: Mapping[str, SignalValue], *, base: bytes | None = None) -> bytes:
        """As `encode`, but of the numbers on the wire: the inverse of `decode_raw`. The DBC's limits are not applied.

        Raises:
            SignalError: a signal is missing, unknown, no number or of more bits than it has, or shares bits with one that wants
                them different; or *base* cannot be decoded.
        """
        if base is not None:
            return self._onto(values, base, raw=True)
        return self._encode_raw(values)

    def _onto(self, values: Mapping[str, SignalValue], base: bytes, *, raw: bool) -> bytes:
        held = self._decode_raw(base) if raw else self._decode(base)
        head = bytes(base[: self.length])
        return encode_onto(self.layout, values, base=head, held=held, where=self.name, raw=raw) + base[self.length :]

    def frame(self, values: Mapping[str, SignalValue], *, base: bytes | None = None) -> CanFrame:
        """`encode` into a whole CAN frame. Raises the same."""
        return CanFrame(self.can_id, self.encode(values, base=base), self.is_extended_id, self.is_fd)

    def decode_batch(self, data: Array, *, strict: bool = True) -> SignalColumns:
        """Many frames at once: a NumPy array per signal (`SignalColumns`), equal to what `decode` gives for each.

        *data* is an array of uint8, one row a frame; what is beyond the message's length is ignored. Numbers stay numbers:
        what `decode` would give as a name of the value table is that name's number, scaled as every other. Of a multiplexed
        message every signal has a column, with values only for the frames it is in (`SignalColumns.rows`, `.mask`, `.full`).

        With *strict* off, a multiplexer number that the DBC does not define costs only what it would bring into that frame.

        Raises:
            SignalError: *data* is no such array or too narrow, or a multiplexer has a number that the DBC does not define (the
                row is named).
            MissingExtraError: the extra `can`, which brings NumPy, is not installed.
        """
        return self._batch_codec().decode(data, strict=strict)

    def encode_batch(self, columns: Mapping[str, Any], *, rows: int | None = None, base: Array | None = None) -> Array:
        """The data of many frames, an array of uint8, one row a frame; equal to what `encode` gives for each.

        *columns* holds an array per signal, one value a frame, or one value for all frames; or it is what `decode_batch`
        returned. Of a multiplexed signal, values in frames that do not hold it are ignored. Arrays of names are taken as
        well, but slowly. *rows* says how many frames, if no column does. A CRC that is not in *columns* is made, as by `encode`.

        With *base*, an array of frames as `decode_batch` takes it, the result is a copy of it with only those signals changed
        whose values differ from what it holds, row by row as in `encode`.

        Raises:
            SignalError: as `encode`, with the row named; or columns of different lengths.
            MissingExtraError: the extra `can`, which brings NumPy, is not installed.
        """
        codec = self._batch_codec()
        if self.seal is not None:
            data = self.seal.complete_columns(columns, lambda complete: codec.encode(complete, rows, base))
            if data is not None:
                return data
        return codec.encode(columns, rows, base)

    def _batch_codec(self) -> BatchCodec:
        if self._batch is None:
            try:
                from bmsota.signals._batch import BatchCodec  # noqa: PLC0415 - NumPy is an extra, and slow to import
            except ImportError as error:
                raise MissingExtraError("the columnar codec", "numpy", "can") from error
            names = tuple(signal.name for signal in self.signals)
            self._batch = BatchCodec(self.layout, signals=names, size_bytes=self.length, where=self.name)
        return self._batch


class Database(Mapping[str | int, Message]):
    """Messages by name or by CAN id: `database["PackState"]`, `database[0x180]`. Iterates over the names.

    A standard and an extended id of the same number are two ids: the extended one is found under `can_id | 1 << 31`, the
    DBC's own way of writing it, and under the plain number as long as no standard message has it.
    """

    __slots__ = ("_by_id", "_by_name", "_finder", "_messages", "faults", "version")

    def __init__(self, messages: tuple[Message, ...], *, faults: tuple[DbcFault, ...] = (), version: str = "") -> None:
        self.faults = faults
        """Everything that was wrong with the file, in the order of its lines."""
        self.version = version
        self._messages = messages
        self._finder: MessageFinder | None = None
        self._by_name: dict[str, Message] = {}
        self._by_id: dict[int, Message] = {}
        for message in messages:
            self._by_name.setdefault(message.name, message)
            if message.is_extended_id:
                self._by_id.setdefault(message.can_id | 1 << 31, message)
            else:
                self._by_id[message.can_id] = message
        for message in messages:
            if message.is_extended_id:
                self._by_id.setdefault(message.can_id, message)

    def __getitem__(self, key: str | int) -> Message:
        """The message of that name or CAN id.

        Raises:
            KeyError: the database has no such message.
        """
        return self._by_name[key] if isinstance(key, str) else self._by_id[key]

    def __contains__(self, key: object) -> bool:
        return key in (self._by_name if isinstance(key, str) else self._by_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"Database({len(self)} messages, {len(self.faults)} faults)"

    @property
    def messages(self) -> tuple[Message, ...]:
        """Every message, in the order of the file: also those whose name an earlier one has, which are found by their id."""
        return self._messages

    def with_protection(self, text: str, *, must_apply: bool = True) -> Database:
        """The same messages under the protection that *text* declares, in TOML (docs/signals.md); others keep theirs.

        Raises:
            ConfigurationError: *text* is not such a declaration, does not fit a message that it names, or (with *must_apply*)
                names none of this database; the message names the place.
        """
        declared, messages, named = from_toml(text), [], 0
        for message in self.messages:
            protection = declared(message)
            named += protection is not None
            messages.append(message if protection is None else message.with_protection(protection))
        if must_apply and not named:
            raise ConfigurationError("no section names a message of the DBC")
        return Database(tuple(messages), faults=self.faults, version=self.version)

    def decode(self, frame: CanFrame) -> dict[str, SignalValue]:
        """Decode a frame by its id, or by its parameter group if the DBC declares that to be J1939.

        Raises:
            SignalError: no message has this id, or its `decode` refuses the data.
        """
        if self._finder is None:
            self._finder = MessageFinder([self])
        message = self._finder.find(frame.can_id, is_extended_id=frame.is_extended_id)
        if message is None:
            raise SignalError(f"no message with CAN id 0x{frame.can_id:X}")
        return message.decode(frame.data)


class MessageFinder:
    """Finds the message of a frame in one or more databases. The first database that has it counts.

    A J1939 id holds a priority, a parameter group number (PGN) and the sender's address (SAE J1939-21, 5.2). What the data mean
    depends on the PGN alone, but a DBC has to write whole ids: with some priority, and with an address that is seldom the one
    on the bus.

    The whole id is tried first, then the bits of *id_mask*, then the PGN: of the messages that their DBC declares to be J1939
    (`Message.is_j1939`), or with *j1939* of every message with an extended id. Where several messages have the same PGN, one
    with the frame's source address is preferred, then one with its destination, then one with source address 0xFE, then the
    first.
    """

    __slots__ = ("_exact", "_groups", "_id_mask", "_masked")

    def __init__(self, databases: Sequence[Database], *, j1939: bool = False, id_mask: int | None = None) -> None:
        self._exact: dict[int, Message] = {}
        self._masked: dict[int, Message] = {}
        self._groups: dict[int, list[Message]] = {}
        # The flag is always compared: a standard and an extended id are never the same message.
        self._id_mask = None if id_mask is None else id_mask | _EXTENDED_FLAG
        for database in databases:
            for message in database.messages:
                key = message.can_id | _EXTENDED_FLAG if message.is_extended_id else message.can_id
                self._exact.setdefault(key, message)
                if self._id_mask is not None:
                    self._masked.setdefault(key & self._id_mask, message)
                if message.is_j1939 or (j1939 and message.is_extended_id):
                    self._groups.setdefault(pgn_of(message.can_id), []).append(message)

    @property
    def has_j1939(self) -> bool:
        """Whether any message is found by its PGN: then transport packets are worth putting together (`TransportReassembler`)."""
        return bool(self._groups)

    def find(self, can_id: int, *, is_extended_id: bool) -> Message | None:
        """The message of a frame with this id; None if no database has it."""
        key = can_id | _EXTENDED_FLAG if is_extended_id else can_id
        found = self._exact.get(key)
        if found is None and self._id_mask is not None:
            found = self._masked.get(key & self._id_mask)
        if found is None and is_extended_id:
            group = self._groups.get(pgn_of(can_id))
            if group is not None:
                found = max(group, key=lambda message: _likeness(message.can_id, can_id))
        return found


def _likeness(can_id: int, other: int) -> tuple[bool, bool, bool]:
    """How well the address bytes of an id in the DBC fit an id on the bus with the same PGN; the larger the better."""
    return can_id & 0xFF == other & 0xFF, can_id & 0xFF00 == other & 0xFF00, can_id & 0xFF == _ADDRESS_ANY
