"""End-to-end protection: a CRC and an alive counter in each frame, as AUTOSAR's E2E profiles have them.

AUTOSAR FO PRS E2E Protocol, profiles 1, 2 and 5; SAE J1850; any other CRC over a frame. `E2EProtection` declares what protects a
message, `E2EProtector` makes frames, `E2EChecker` judges them one by one or in columns. The declaration names signals, so it fits
any layout: the profiles' own places of CRC and counter are those that the DBC gives its signals.

What the CRC covers: all bytes of the message in their order, without those that the CRC signal fills. Of a byte that it fills in
part, its bits count as 0. The data id goes before them (profile 1) or behind them (profiles 2 and 5) and is not sent.

One rule is not AUTOSAR's. Its profiles 1, 2 and 5 follow the counter of a frame out of sequence at once, so a second sender, or a
gateway that replays, makes them refuse the right frames too. Here the sequence goes on where it was; it moves to the new place when a
second frame continues there and none in between has continued the old one. A sender that restarts therefore costs one frame, as
with AUTOSAR, and a replayed frame costs itself alone. The window of AUTOSAR's state machine (E2E_SM) is left to whoever uses the
statuses, as the master does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from bmsota.errors import ConfigurationError, SignalError
from bmsota.signals._crc import CCITT, H2F, P01_CRC, SAE_J1850, CrcAlgorithm, function_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from bmsota.signals._plan import LayoutNode, Signal, SignalValue


class ProtectedMessage(Protocol):
    """What is needed of a `Message` here, which stands above."""

    name: str
    can_id: int
    length: int
    layout: LayoutNode
    seal: Seal | None

    @property
    def signals(self) -> tuple[Signal, ...]: ...

    def encode(self, values: Mapping[str, SignalValue]) -> bytes: ...


class E2EStatus(IntEnum):
    """What a checker says of a frame. Numbers as in AUTOSAR's E2E_P01STATUS and E2E_P05STATUS."""

    OK = 0x00
    """CRC right, and the counter is the next one (or there is none)."""
    INITIAL = 0x04
    """CRC right; the first frame since the checker was made or reset, so its counter proves nothing."""
    ERROR = 0x07
    """The CRC is wrong, or the counter or the data id nibble is none that this message can have."""
    REPEATED = 0x08
    """CRC right, but the counter is that of the frame before."""
    OK_SOME_LOST = 0x20
    """CRC right; the counter has left out no more than the protection allows."""
    WRONG_SEQUENCE = 0x40
    """CRC right, but the counter has jumped further."""

    @property
    def is_usable(self) -> bool:
        """Whether the frame's values may be used."""
        return self in (E2EStatus.OK, E2EStatus.INITIAL, E2EStatus.OK_SOME_LOST)


class DataIdMode(Enum):
    """How profile 1 puts its two-byte data id into the CRC (PRS E2E protocol, E2E_P01DataIDMode)."""

    BOTH = "both"
    """Low byte, then high byte: variant 1A."""
    ALT = "alt"
    """The low byte while the counter is even, the high byte while it is odd: variant 1B."""
    LOW = "low"
    """The low byte alone."""
    NIBBLE = "nibble"
    """The low byte and a 0; the low nibble of the high byte is sent in the frame: variant 1C."""


class E2EProfile(Enum):
    """Which rules protect a message."""

    P01 = "P01"
    """CRC-8 with polynomial 0x1D, counter 0 to 14, data id of 16 bits."""
    P02 = "P02"
    """CRC-8 with polynomial 0x2F, counter 0 to 15, a data id of 8 bits for each counter value."""
    P05 = "P05"
    """CRC-16 CCITT, counter 0 to 255, data id of 16 bits."""
    J1850 = "J1850"
    """CRC-8 SAE J1850 over the data alone; the counter, if any, uses all its bits."""
    CUSTOM = "CUSTOM"
    """The CRC of `E2EProtection.algorithm`, or none; the counter, if any, uses all its bits."""


_ALGORITHMS = {
    E2EProfile.P01: P01_CRC,
    E2EProfile.P02: H2F,
    E2EProfile.P05: CCITT,
    E2EProfile.J1850: SAE_J1850,
}
_MODULI = {E2EProfile.P01: 15, E2EProfile.P02: 16, E2EProfile.P05: 256}

MAX_DELTA_COUNTER = 3
"""By default two frames in a row may be lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class E2EProtection:
    """What protects the frames of a message. `Database.with_protection` and DBC attributes make it; so can you.

    Raises:
        ConfigurationError: the parts do not make a protection; the message says which.
    """

    profile: E2EProfile
    crc: str | None = None
    """The name of the CRC signal. None: a counter alone."""
    counter: str | None = None
    """The name of the alive counter. None: a CRC alone."""
    data_id: int | None = None
    """Of profiles 1 and 5."""
    data_id_list: tuple[int, ...] = ()
    """Of profile 2: sixteen bytes, by counter value."""
    data_id_mode: DataIdMode = DataIdMode.BOTH
    data_id_nibble: str | None = None
    """The signal that carries the nibble of `DataIdMode.NIBBLE`."""
    algorithm: CrcAlgorithm | None = None
    """Of a CUSTOM protection. The profiles bring their own."""
    before: tuple[bytes, ...] = ()
    """Of a CUSTOM protection: bytes the CRC covers before the data; one for all frames, or one for each counter value."""
    after: tuple[bytes, ...] = ()
    """Likewise, behind the data."""
    max_delta_counter: int = MAX_DELTA_COUNTER
    """How far the counter may go from one frame to the next: 1 allows no loss."""

    def __post_init__(self) -> None:
        profile = self.profile
        if profile in (E2EProfile.P01, E2EProfile.P02, E2EProfile.P05) and None in (self.crc, self.counter):
            raise ConfigurationError(f"{profile.value}: needs both a CRC signal and a counter signal")
        if self.crc is None and self.counter is None:
            raise ConfigurationError("needs a CRC signal, a counter signal or both")
        if profile in (E2EProfile.P01, E2EProfile.P05) and not 0 <= (self.data_id or 0) <= 0xFFFF:
            raise ConfigurationError(f"{profile.value}: expected a data id from 0 to 0xFFFF, got {self.data_id}")
        if profile in (E2EProfile.P01, E2EProfile.P05) and self.data_id is None:
            raise ConfigurationError(f"{profile.value}: no data id")
        if profile is E2EProfile.P02 and (
            len(self.data_id_list) != 16 or not all(0 <= each <= 0xFF for each in self.data_id_list)
        ):
            raise ConfigurationError(f"P02: expected a data id list of 16 bytes, got {list(self.data_id_list)}")
        if profile is E2EProfile.CUSTOM and self.crc is not None and self.algorithm is None:
            raise ConfigurationError("CUSTOM: a CRC signal but no algorithm")
        if profile is not E2EProfile.CUSTOM and (self.algorithm or self.before or self.after):
            raise ConfigurationError(f"{profile.value}: its CRC is fixed; use CUSTOM for another one")
        if self.max_delta_counter < 1:
            raise ConfigurationError(f"expected a largest counter step of at least 1, got {self.max_delta_counter}")

    @property
    def crc_algorithm(self) -> CrcAlgorithm | None:
        """The profile's, or the CUSTOM one."""
        return _ALGORITHMS.get(self.profile, self.algorithm)

    def id_bytes(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """What the CRC covers before and behind the data; each one for all frames, or one by counter value."""
        low, high = (self.data_id or 0) & 0xFF, (self.data_id or 0) >> 8
        match self.profile:
            case E2EProfile.P01:
                before = {
                    DataIdMode.BOTH: (bytes((low, high)),),
                    DataIdMode.ALT: tuple(bytes((high if count % 2 else low,)) for count in range(15)),
                    DataIdMode.LOW: (bytes((low,)),),
                    DataIdMode.NIBBLE: (bytes((low, 0)),),
                }
                return before[self.data_id_mode], (b"",)
            case E2EProfile.P02:
                return (b"",), tuple(bytes((each,)) for each in self.data_id_list)
            case E2EProfile.P05:
                return (b"",), (bytes((low, high)),)
            case E2EProfile.CUSTOM:
                return self.before or (b"",), self.after or (b"",)
            case _:
                return (b"",), (b"",)


_BYTES = tuple(bytes((value,)) for value in range(256))


class _Field:
    """One unsigned signal of a frame: read and written without the rest of the message."""

    __slots__ = ("_byte", "_order", "_shift", "_size_bytes", "_word_shift", "mask", "signal")

    def __init__(self, signal: Signal, size_bytes: int) -> None:
        self.signal = signal
        self.mask: Final = (1 << signal.length_bits) - 1
        self._order: Final = signal.byte_order
        self._word_shift: Final = signal.shift
        self._size_bytes: Final = size_bytes
        self._shift: Final = signal.shift % 8
        byte = signal.shift // 8
        is_inside = self._shift + signal.length_bits <= 8
        # Most CRCs and counters lie in one byte.
        self._byte: Final = (byte if signal.byte_order == "little" else size_bytes - 1 - byte) if is_inside else None

    def read(self, data: bytes) -> int:
        if self._byte is not None:
            return data[self._byte] >> self._shift & self.mask
        return int.from_bytes(data[: self._size_bytes], self._order) >> self._word_shift & self.mask

    def write(self, data: bytes, value: int) -> bytes:
        byte = self._byte
        if byte is not None:
            inside = data[byte] & ~(self.mask << self._shift) | value << self._shift
            return data[:byte] + _BYTES[inside] + data[byte + 1 :]
        word = int.from_bytes(data, self._order) & ~(self.mask << self._word_shift)
        return (word | value << self._word_shift).to_bytes(self._size_bytes, self._order)

    @property
    def bits(self) -> bytes:
        """A frame in which its bits are 1 and all others 0."""
        return (self.mask << self._word_shift).to_bytes(self._size_bytes, self._order)

    def read_columns(self, data: NDArray[np.uint8]) -> NDArray[np.uint64]:
        import numpy as np  # noqa: PLC0415 - an extra, imported when first used

        if self._byte is not None:
            return (data[:, self._byte] >> np.uint8(self._shift) & np.uint8(self.mask)).astype(np.uint64)
        # At most 64 bits over at most 9 bytes: bit by bit, as it is rarely needed.
        unpacked = np.unpackbits(data[:, : self._size_bytes], axis=1, bitorder=self._order)
        places = range(self._word_shift, self._word_shift + self.signal.length_bits)
        if self._order == "big":
            places = range(8 * self._size_bytes - 1 - places[0], 8 * self._size_bytes - 1 - places[-1] - 1, -1)
        value = np.zeros(len(data), dtype=np.uint64)
        for weight, place in enumerate(places):
            value |= unpacked[:, place].astype(np.uint64) << np.uint64(weight)
        return value

    def write_columns(self, data: NDArray[np.uint8], values: NDArray[np.uint64]) -> None:
        """Write into *data*, one row a frame."""
        import numpy as np  # noqa: PLC0415

        for weight in range(self.signal.length_bits):
            place = self._word_shift + weight
            byte = place // 8 if self._order == "little" else self._size_bytes - 1 - place // 8
            bit = np.uint8(1 << place % 8)
            is_set = (values >> np.uint64(weight) & np.uint64(1)).astype(np.bool_)
            data[:, byte] = np.where(is_set, data[:, byte] | bit, data[:, byte] & ~bit)


class Seal:
    """An `E2EProtection` bound to the layout of its message: where the fields are, and how the CRC is computed.

    Raises:
        ConfigurationError: the message has no such signal, or it is not one that can carry what it should.
    """

    __slots__ = (
        "_after",
        "_before",
        "_cover",
        "_crc_of",
        "_gap",
        "_made",
        "counter",
        "crc",
        "modulus",
        "name",
        "nibble",
        "nibble_value",
        "protection",
        "size_bytes",
    )

    def __init__(self, message: ProtectedMessage, protection: E2EProtection) -> None:
        self.name: Final = message.name
        self.protection: Final = protection
        self.size_bytes: Final = message.length
        size = message.length
        self.crc: Final = _field(message, protection.crc, "CRC")
        self.counter: Final = _field(message, protection.counter, "counter")
        is_nibble = protection.profile is E2EProfile.P01 and protection.data_id_mode is DataIdMode.NIBBLE
        self.nibble: Final = _field(message, protection.data_id_nibble, "data id") if is_nibble else None
        self._made: Final = tuple(each.signal.name for each in (self.crc, self.nibble) if each is not None)
        self.nibble_value: Final = (protection.data_id or 0) >> 8 & 0xF
        if self.nibble is not None and self.nibble.signal.length_bits != 4:
            raise ConfigurationError(
                f"expected a signal of 4 bits for the data id, got {self.nibble.signal.length_bits} "
                f"({message.name}.{self.nibble.signal.name})"
            )
        used = [each.signal.name for each in (self.crc, self.counter, self.nibble) if each is not None]
        if len(set(used)) < len(used):
            raise ConfigurationError(
                f"CRC, counter and data id need signals of their own, got {' and '.join(used)} ({message.name})"
            )
        self.modulus: Final = self._modulus()
        algorithm = protection.crc_algorithm
        if self.crc is not None and algorithm is not None and self.crc.signal.length_bits != algorithm.width:
            raise ConfigurationError(
                f"expected a CRC of {algorithm.width} bits, got {self.crc.signal.length_bits} "
                f"({message.name}.{self.crc.signal.name})"
            )
        bits = self.crc.bits if self.crc is not None else bytes(size)
        # What the CRC covers: the bytes it does not fill, with its own bits as 0. Those it fills are one run.
        filled = [at for at in range(size) if bits[at] == 0xFF]
        self._gap: Final = (filled[0], filled[-1] + 1) if filled else (0, 0)
        partly = any(each not in (0, 0xFF) for each in bits)
        self._cover: Final = (~int.from_bytes(bits, "big") & (1 << 8 * size) - 1) if partly else None
        self._before, self._after = protection.id_bytes()
        for table in (self._before, self._after):
            if len(table) > 1 and (self.counter is None or len(table) < self.modulus):
                raise ConfigurationError(
                    f"expected one data id or one for each of {self.modulus} counter values, got {len(table)} "
                    f"({message.name})"
                )
            if len({len(each) for each in table}) > 1:
                raise ConfigurationError(f"expected data ids of one length ({message.name})")
        self._crc_of: Callable[[bytes], int] | None = function_of(algorithm) if self.crc and algorithm else None

    def _modulus(self) -> int:
        """How many values the counter has."""
        if self.counter is None:
            return 1
        limit = 1 << self.counter.signal.length_bits
        modulus = _MODULI.get(self.protection.profile, limit)
        if modulus > limit:
            raise ConfigurationError(
                f"expected a counter for 0 to {modulus - 1}, got one of {self.counter.signal.length_bits} bits "
                f"({self.name}.{self.counter.signal.name})"
            )
        return modulus

    # -- one frame -------------------------------------------------------------------------------------------------------

    def crc_for(self, data: bytes, count: int) -> int:
        """The CRC that *data*, whose counter is *count*, must carry."""
        assert self._crc_of is not None
        before, after = self._before, self._after
        if self._cover is not None:
            data = (int.from_bytes(data, "big") & self._cover).to_bytes(self.size_bytes, "big")
        first, last = self._gap
        prefix, suffix = before[count if len(before) > 1 else 0], after[count if len(after) > 1 else 0]
        return self._crc_of(prefix + data[:first] + data[last:] + suffix)

    def judge(self, data: bytes) -> int | None:
        """The counter of a frame whose CRC is right (0 without a counter); None: it is not right.

        Raises:
            SignalError: *data* is too short.
        """
        if len(data) != self.size_bytes:
            if len(data) < self.size_bytes:
                raise SignalError(f"expected {self.size_bytes} data bytes, got {len(data)} ({self.name})")
            data = data[: self.size_bytes]
        count = 0 if self.counter is None else self.counter.read(data)
        if count >= self.modulus:
            return None
        if self.nibble is not None and self.nibble.read(data) != self.nibble_value:
            return None
        if self.crc is not None and self.crc_for(data, count) != self.crc.read(data):
            return None
        return count

    def protect(self, data: bytes, count: int | None) -> bytes:
        """*data* with counter, data id nibble and CRC as they must be. *count* None: the counter is in it already."""
        if self.counter is not None:
            if count is not None:
                data = self.counter.write(data, count % self.modulus)
            count = self.counter.read(data)
            if count >= self.modulus:
                raise SignalError(
                    f"expected 0 to {self.modulus - 1}, got {count} ({self.name}.{self.counter.signal.name})"
                )
        if self.nibble is not None:
            data = self.nibble.write(data, self.nibble_value)
        if self.crc is not None:
            data = self.crc.write(data, self.crc_for(data, count or 0))
        return data

    def complete(
        self, values: Mapping[str, SignalValue], encode: Callable[[Mapping[str, SignalValue]], bytes]
    ) -> bytes | None:
        """Encode *values* without the CRC (or the nibble), and make it; None: nothing is missing that could be made."""
        zeros = {name: 0 for name in self._made if name not in values}
        return self.protect(encode({**values, **zeros}), None) if zeros else None

    # -- columns ---------------------------------------------------------------------------------------------------------

    def crc_columns(self, data: NDArray[np.uint8], counts: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """`crc_for` of each row."""
        import numpy as np  # noqa: PLC0415

        algorithm = self.protection.crc_algorithm
        assert algorithm is not None
        if self._cover is not None:
            cover = np.frombuffer(self._cover.to_bytes(self.size_bytes, "big"), dtype=np.uint8)
            data = data & cover
        first, last = self._gap

        def ids(table: tuple[bytes, ...]) -> NDArray[np.uint8]:
            known = np.frombuffer(b"".join(table), dtype=np.uint8).reshape(len(table), -1)
            return known[counts.astype(np.intp)] if len(table) > 1 else np.repeat(known, len(data), axis=0)

        parts = (ids(self._before), data[:, :first], data[:, last : self.size_bytes], ids(self._after))
        return algorithm.compute_columns(np.concatenate(parts, axis=1))

    def judge_columns(self, data: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Whether each row's CRC is right, and its counter."""
        import numpy as np  # noqa: PLC0415

        if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] < self.size_bytes:
            raise SignalError(
                f"expected an array of uint8 with rows of at least {self.size_bytes} bytes, "
                f"got {data.dtype} of shape {data.shape} ({self.name})"
            )
        data = data[:, : self.size_bytes]
        counts = np.zeros(len(data), dtype=np.uint64) if self.counter is None else self.counter.read_columns(data)
        right = counts < self.modulus
        if self.nibble is not None:
            right &= self.nibble.read_columns(data) == self.nibble_value
        if self.crc is not None:
            # A counter that cannot be has no data id; its row is wrong already.
            known = np.where(counts < self.modulus, counts, 0).astype(np.uint64)
            right &= self.crc_columns(data, known) == self.crc.read_columns(data)
        return right, counts.astype(np.int64)

    def protect_columns(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`protect` of each row, whose counters are in it already."""
        import numpy as np  # noqa: PLC0415

        data = data.copy()
        counts = np.zeros(len(data), dtype=np.uint64) if self.counter is None else self.counter.read_columns(data)
        if self.counter is not None and (beyond := np.flatnonzero(counts >= self.modulus)).size:
            row = int(beyond[0])
            raise SignalError(
                f"expected 0 to {self.modulus - 1}, got {counts[row]} (row {row}, {self.name}.{self.counter.signal.name})"
            )
        if self.nibble is not None:
            self.nibble.write_columns(data, np.full(len(data), self.nibble_value, dtype=np.uint64))
        if self.crc is not None:
            self.crc.write_columns(data, self.crc_columns(data, counts))
        return data

    def complete_columns(
        self, columns: Mapping[str, Any], encode: Callable[[Mapping[str, Any]], NDArray[np.uint8]]
    ) -> NDArray[np.uint8] | None:
        """`complete` for columns."""
        zeros = {name: 0 for name in self._made if name not in columns}
        return self.protect_columns(encode({**columns, **zeros})) if zeros else None


def _field(message: ProtectedMessage, name: str | None, role: str) -> _Field | None:
    if name is None:
        return None
    signal = next((each for each in message.layout.signals if each.name == name), None)
    if signal is None:
        is_multiplexed = any(each.name == name for each in message.signals)
        reason = "is multiplexed, so not in every frame" if is_multiplexed else "is not a signal of this message"
        raise ConfigurationError(f"{name} {reason} ({role} of {message.name})")
    if signal.is_signed or signal.is_float or signal.scale != 1 or signal.offset != 0:
        raise ConfigurationError(f"expected an unsigned signal with scale 1 and offset 0 ({message.name}.{name})")
    return _Field(signal, message.length)


class E2EProtector:
    """The sending end: fills counter and CRC of one message's frames.

    The counter begins at *count* and rises by one with each frame.
    """

    def __init__(self, message: ProtectedMessage, *, count: int = 0) -> None:
        """Raises SignalError if the message is not protected."""
        self._message = message
        self._seal = seal_of(message)
        self.count = count % self._seal.modulus
        """The counter of the next frame."""

    def encode(self, values: Mapping[str, SignalValue]) -> bytes:
        """The data bytes of the next frame. *values* holds its signals without counter and CRC. Raises as `Message.encode`."""
        seal = self._seal
        made = {each.signal.name: 0 for each in (seal.counter, seal.crc, seal.nibble) if each}
        return self.protect(self._message.encode({**values, **made}))

    def protect(self, data: bytes) -> bytes:
        """Finished *data* with the next counter and its CRC.

        Raises:
            SignalError: *data* is not as long as the message.
        """
        seal = self._seal
        if len(data) != seal.size_bytes:
            raise SignalError(f"expected {seal.size_bytes} data bytes, got {len(data)} ({seal.name})")
        sealed = seal.protect(data, self.count)
        self.count = (self.count + 1) % seal.modulus
        return sealed


class E2EChecker:
    """The receiving end: judges the frames of one message in the order in which they came.

    A frame whose CRC is wrong moves nothing. One out of sequence is remembered: when the next one continues from there, the sequence
    goes on at that place.
    """

    def __init__(self, message: ProtectedMessage) -> None:
        """Raises SignalError if the message is not protected."""
        self._seal = seal_of(message)
        self._last: int | None = None
        self._jumped_to: int | None = None
        """The counter of a frame out of sequence, while no frame has continued the sequence."""
        self.counts: Counter[E2EStatus] = Counter()
        """How many frames had each status."""
        self.lost = 0
        """Frames that the counters say are missing, as far as OK_SOME_LOST tells it."""

    def reset(self) -> None:
        """Expect any counter next: the sender has restarted, or was silent for long. Counts stay."""
        self._last = self._jumped_to = None

    def check(self, data: bytes) -> E2EStatus:
        """Judge the next frame. Data beyond the message's length are ignored.

        Raises:
            SignalError: *data* is too short.
        """
        count = self._seal.judge(data)
        status = E2EStatus.ERROR if count is None else self._follow(count)
        self.counts[status] += 1
        return status

    def _follow(self, count: int) -> E2EStatus:
        seal, last = self._seal, self._last
        if seal.counter is None:
            return E2EStatus.OK
        if last is None:
            self._last = count
            return E2EStatus.INITIAL
        step, farthest = (count - last) % seal.modulus, seal.protection.max_delta_counter
        if step > farthest:
            again = None if self._jumped_to is None else (count - self._jumped_to) % seal.modulus
            if not again or again > farthest:
                self._jumped_to = count
                return E2EStatus.WRONG_SEQUENCE
            step = again
        self._last, self._jumped_to = count, None
        if step == 0:
            return E2EStatus.REPEATED
        self.lost += step - 1
        return E2EStatus.OK if step == 1 else E2EStatus.OK_SOME_LOST

    def check_batch(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Judge many frames, one row each, in their order: the number of `E2EStatus` for each, as `check` would give it.

        Raises:
            SignalError: *data* is no array of uint8 with rows as long as the message.
        """
        import numpy as np  # noqa: PLC0415

        seal = self._seal
        right, counts = seal.judge_columns(data)
        statuses = np.full(len(data), E2EStatus.ERROR, dtype=np.uint8)
        if seal.counter is None:
            statuses[right] = E2EStatus.OK
        elif right.any():
            statuses[right] = self._follow_columns(counts[right])
        for number, frames in zip(*np.unique(statuses, return_counts=True), strict=True):
            self.counts[E2EStatus(int(number))] += int(frames)
        return statuses

    def _follow_columns(self, counts: NDArray[np.int64]) -> NDArray[np.uint8]:
        """`_follow` of each, in columns while the sequence holds, and one by one where it has jumped until it holds again."""
        import numpy as np  # noqa: PLC0415

        farthest = self._seal.protection.max_delta_counter
        steps = np.empty_like(counts)
        steps[1:] = (counts[1:] - counts[:-1]) % self._seal.modulus
        steps[0] = 0 if self._last is None else (counts[0] - self._last) % self._seal.modulus
        statuses = np.full(len(counts), E2EStatus.OK, dtype=np.uint8)
        statuses[steps == 0] = E2EStatus.REPEATED
        statuses[steps > 1] = E2EStatus.OK_SOME_LOST
        jumps = np.flatnonzero(steps > farthest)
        at = 0
        while at < len(counts):
            if self._last is None or self._jumped_to is not None:
                statuses[at] = self._follow(int(counts[at]))
                at += 1
                continue
            # Here the frame before is the last of the sequence, so the steps are those of the sequence up to the next jump.
            later = int(np.searchsorted(jumps, at))
            end = int(jumps[later]) if later < len(jumps) else len(counts)
            if end > at:
                self.lost += int(np.maximum(steps[at:end] - 1, 0).sum())
                self._last = int(counts[end - 1])
            if end < len(counts):
                statuses[end] = self._follow(int(counts[end]))
            at = end + 1
        return statuses


def seal_of(message: ProtectedMessage) -> Seal:
    """Raises SignalError if the message is not protected."""
    seal = message.seal
    if seal is None:
        raise SignalError(f"{message.name} is not protected: its DBC declares no CRC and no counter")
    return seal
