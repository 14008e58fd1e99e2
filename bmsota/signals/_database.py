"""A loaded DBC: messages by name or by CAN id, each able to decode and encode its frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError, MissingExtraError, SignalError
from bmsota.signals._codec import compile_decoder, compile_encoder
from bmsota.signals._declared import from_toml
from bmsota.signals._protection import Seal

if TYPE_CHECKING:
    from bmsota.signals._batch import Array, BatchCodec
    from bmsota.signals._columns import SignalColumns
    from bmsota.signals._plan import LayoutNode, Signal, SignalValue
    from bmsota.signals._protection import E2EProtection


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


class Message:
    """One message of a DBC. Immutable; made by `loads`."""

    __slots__ = (
        "_batch",
        "_decode",
        "_decode_raw",
        "_encode",
        "attributes",
        "can_id",
        "comment",
        "cycle_time_ms",
        "is_extended_id",
        "is_fd",
        "layout",
        "length",
        "name",
        "seal",
        "senders",
        "signals",
    )

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
        senders: tuple[str, ...] = (),
        cycle_time_ms: int | None = None,
        comment: str = "",
        attributes: Mapping[str, int | float | str] = MappingProxyType({}),
        protection: E2EProtection | None = None,
    ) -> None:
        """Compile it. Raises ConfigurationError if *protection* does not fit the layout."""
        self.name = name
        self.can_id = can_id
        self.length = length
        """Data bytes of a frame."""
        self.is_extended_id = is_extended_id
        self.is_fd = is_fd
        self.senders = senders
        self.cycle_time_ms = cycle_time_ms
        self.comment = comment
        self.attributes = attributes
        """What the file's BA_ lines say of the message, by name; defaults are left out."""
        self.signals = signals
        """Every signal, those of all multiplexer branches included, in the order of the frame's bits."""
        self.layout = layout
        """The plan both codecs are made from: a tree, branching at multiplexers."""
        self._decode = compile_decoder(layout, size_bytes=length, where=name)
        self._encode = compile_encoder(layout, size_bytes=length, where=name)
        self._decode_raw = compile_decoder(layout, size_bytes=length, where=name, raw=True)
        self._batch: BatchCodec | None = None
        self.seal: Seal | None = None if protection is None else Seal(self, protection)

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
        """Signal name -> value in the signal's unit, or its name in the value table.

        Data beyond the message's length are ignored. Of a multiplexed message only the signals that are in this frame
        are returned.

        Raises:
            SignalError: *data* is too short, or a multiplexer has a number that the DBC does not define.
        """
        return self._decode(data)

    def decode_raw(self, data: bytes) -> dict[str, SignalValue]:
        """As `decode`, but the numbers as they are on the wire: neither scaled nor named. Raises the same."""
        return self._decode_raw(data)

    def encode(self, values: Mapping[str, SignalValue]) -> bytes:
        """The data bytes of a frame. *values* holds exactly its signals; bits of no signal are 0.

        The CRC of a protected message is made if it is not in *values*; one that is in them is written as it is, so that what
        was decoded encodes to the same frame. `E2EProtector` counts too.

        Raises:
            SignalError: a signal is missing, unknown, out of its range, not a name of its value table, or shares bits with
                one that wants them different.
        """
        if self.seal is not None and (data := self.seal.complete(values, self._encode)) is not None:
            return data
        return self._encode(values)

    def frame(self, values: Mapping[str, SignalValue]) -> CanFrame:
        """`encode` into a whole CAN frame. Raises the same."""
        return CanFrame(self.can_id, self.encode(values), self.is_extended_id, self.is_fd)

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

    def encode_batch(self, columns: Mapping[str, Any], *, rows: int | None = None) -> Array:
        """The data of many frames, an array of uint8, one row a frame; equal to what `encode` gives for each.

        *columns* holds an array per signal, one value a frame, or one value for all frames; or it is what `decode_batch`
        returned. Of a multiplexed signal, values in frames that do not hold it are ignored. Arrays of names are taken as
        well, but slowly. *rows* says how many frames, if no column does. A CRC that is not in *columns* is made, as by `encode`.

        Raises:
            SignalError: as `encode`, with the row named; or columns of different lengths.
            MissingExtraError: the extra `can`, which brings NumPy, is not installed.
        """
        codec = self._batch_codec()
        if self.seal is not None:
            data = self.seal.complete_columns(columns, lambda complete: codec.encode(complete, rows))
            if data is not None:
                return data
        return codec.encode(columns, rows)

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

    __slots__ = ("_by_id", "_by_name", "faults", "version")

    def __init__(self, messages: tuple[Message, ...], *, faults: tuple[DbcFault, ...] = (), version: str = "") -> None:
        self.faults = faults
        """Everything that was wrong with the file, in the order of its lines."""
        self.version = version
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
        """Every message, in the order of the file."""
        return tuple(self._by_name.values())

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
        """Decode a frame by its id.

        Raises:
            SignalError: no message has this id, or its `decode` refuses the data.
        """
        key = frame.can_id | 1 << 31 if frame.is_extended_id else frame.can_id
        message = self._by_id.get(key)
        if message is None or message.is_extended_id != frame.is_extended_id:
            raise SignalError(f"no message with CAN id 0x{frame.can_id:X}")
        return message.decode(frame.data)
