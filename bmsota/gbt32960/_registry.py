"""Users' own bodies, by layouts that the user registers.

    layouts = Layouts(
        BodyCodec(type_id=0x85, layout=Layout(label="0x85 heater", cls=Heater, rows=(Field(...), ...))),
        BodyCodec(type_id=0x81, has_length=False, size_of=100),
    )
    decode(data, layouts=layouts)

A registry is a value that is passed in, to `decode`, `encode`, a reader or a session: two links to vehicles of two makers,
who mean different things by the same number, need two of them. The rows are those of `bmsota.gbt32960.rows`; the same
compiler that makes this package's own bodies fast makes these.

With a length word (what the standard wants of types 0x80 to 0xFE) a body is what the word says. Without one it ends where
its layout ends, or after as many bytes as `size_of` says: a Shanghai extension sends 0x81 and 0x82 as ten fixed groups, and a
terminal that forgets the length can still be read.

A body that does not fit its layout makes the frame invalid, as with every other body. If it is not certain what a maker
sends, register nothing: the body stays `UserDefined`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bmsota._words import counted
from bmsota.errors import FrameError, LocalProtocolError
from bmsota.gbt32960._bodies import RawBody, UnsizedBody, UserDefined
from bmsota.gbt32960._compile import decoder, encoder
from bmsota.gbt32960._enums import Edition
from bmsota.gbt32960._plain import short
from bmsota.gbt32960._sized import sized_encoder, user_defined
from bmsota.gbt32960._tables import BODY_LAYOUTS, EXTENSION_BODY_LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.gbt32960._compile import Decoder, Encoder
    from bmsota.gbt32960._fields import Layout


_TAKEN: Final = frozenset(
    layout.cls for table in (*BODY_LAYOUTS.values(), EXTENSION_BODY_LAYOUTS) for layout in table.values()
) | {UserDefined, UnsizedBody, RawBody}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BodyCodec:
    """How one type of body is read and written."""

    type_id: int
    layout: Layout | None = None
    """None: the bytes are kept, as `UserDefined` with a length word and as `UnsizedBody` without one."""
    has_length: bool = True
    """Whether a WORD length stands in front, as the standard wants it of types 0x80 to 0xFE."""
    size_of: int | Callable[[bytes], int] | None = None
    """Without a length word: how many bytes the body has, or a function that says so from all the bytes behind the type
    byte. None: it ends where the layout ends."""
    editions: frozenset[Edition] = frozenset(Edition)


class Layouts:
    """Body codecs for one maker's vehicles. Immutable; nothing is compiled before it is used."""

    __slots__ = ("_codecs", "_decoders", "_encoders")

    def __init__(self, *codecs: BodyCodec) -> None:
        """Register *codecs*.

        Raises:
            LocalProtocolError: a type that the edition gives a meaning to, a type or a class twice, or a codec that could
                never find the end of a body.
        """
        self._codecs: dict[tuple[Edition, int], BodyCodec] = {}
        self._decoders: dict[Edition, tuple[Decoder, ...]] = {}
        self._encoders: dict[tuple[Edition, bool], dict[type, tuple[bytes, Encoder]]] = {}
        classes: dict[tuple[Edition, type], int] = {}
        for codec in codecs:
            where = f"body codec {codec.type_id:#04x}"
            _check(codec, where)
            for edition in (edition for edition in Edition if edition in codec.editions):
                if codec.type_id in BODY_LAYOUTS[edition]:
                    msg = f"{where}: {edition.name} defines this type itself"
                    raise LocalProtocolError(msg)
                if (edition, codec.type_id) in self._codecs:
                    msg = f"{where}: registered twice for {edition.name}"
                    raise LocalProtocolError(msg)
                self._codecs[edition, codec.type_id] = codec
                if codec.layout is not None and classes.setdefault((edition, codec.layout.cls), codec.type_id) != (
                    codec.type_id
                ):
                    msg = f"{where}: {codec.layout.cls.__name__} has another type in {edition.name} already"
                    raise LocalProtocolError(msg)

    def has(self, edition: Edition, type_id: int) -> bool:
        """Whether bodies of this type are registered."""
        return (edition, type_id) in self._codecs

    def codec(self, edition: Edition, type_id: int) -> BodyCodec | None:
        """The codec of this type, if it is registered."""
        return self._codecs.get((edition, type_id))

    @property
    def classes(self) -> tuple[type, ...]:
        """The classes of all registered bodies."""
        return tuple(dict.fromkeys(codec.layout.cls for codec in self._codecs.values() if codec.layout is not None))

    def decoders(self, edition: Edition, standard: tuple[Decoder, ...]) -> tuple[Decoder, ...]:
        """Return the decoders of all 256 types: *standard*, with the registered ones in their places."""
        table = self._decoders.get(edition)
        if table is None:
            found = list(standard)
            for (of_edition, type_id), codec in self._codecs.items():
                if of_edition is edition:
                    found[type_id] = _decoder_of(codec)
            table = self._decoders[edition] = tuple(found)
        return table

    def encoders(
        self, edition: Edition, strict: bool, standard: dict[type, tuple[bytes, Encoder]]
    ) -> dict[type, tuple[bytes, Encoder]]:
        """Return the encoders of all classes: *standard* and the registered ones."""
        table = self._encoders.get((edition, strict))
        if table is None:
            table = dict(standard)
            for (of_edition, type_id), codec in self._codecs.items():
                if of_edition is edition and codec.layout is not None:
                    table[codec.layout.cls] = bytes((type_id,)), _encoder_of(codec, codec.layout, strict)
            table[UnsizedBody] = b"", self._unsized_encoder(edition)
            self._encoders[edition, strict] = table
        return table

    def _unsized_encoder(self, edition: Edition) -> Encoder:
        def write(body: UnsizedBody, out: list[bytes]) -> None:
            codec = self._codecs.get((edition, body.type_id))
            if codec is None or codec.has_length or codec.layout is not None:
                msg = f"unsized body: expected a type registered without a length and a layout, got {body.type_id!r}"
                raise LocalProtocolError(msg)
            size = _size_of(codec, body.data)
            if size != len(body.data):
                msg = f"unsized body {body.type_id:#04x}: expected {size} bytes, got {len(body.data)}"
                raise LocalProtocolError(msg)
            out.append(bytes((body.type_id,)) + body.data)

        return write


def _check(codec: BodyCodec, where: str) -> None:
    if not 0 <= codec.type_id <= 0xFF:
        msg = f"{where}: expected a type from 0x00 to 0xFF, got {codec.type_id!r}"
        raise LocalProtocolError(msg)
    if codec.has_length and codec.size_of is not None:
        msg = f"{where}: has a length word; size_of is only for bodies without one"
        raise LocalProtocolError(msg)
    if not codec.has_length and codec.size_of is None and codec.layout is None:
        msg = f"{where}: no length word; give a layout or size_of"
        raise LocalProtocolError(msg)
    if codec.layout is not None and codec.layout.cls in _TAKEN:
        msg = f"{where}: expected a class of your own, got {codec.layout.cls.__name__}"
        raise LocalProtocolError(msg)


def _size_of(codec: BodyCodec, rest: bytes) -> int:
    if isinstance(codec.size_of, int):
        return codec.size_of
    assert codec.size_of is not None
    return codec.size_of(rest)


def body_end(codec: BodyCodec, data: bytes, at: int, end: int) -> int:
    """Return where a body without a length word ends, if its codec says so; *at* is behind the type byte.

    Raises:
        FrameError: the body ends behind the data unit, or the codec's function finds no size.
    """
    where = f"body {codec.type_id:#04x}"
    try:
        size = _size_of(codec, data[at:end])
    except (IndexError, ValueError) as error:
        received = f"{end - at} bytes ({error})"
        raise FrameError(where, expected="bytes that tell the body's size", received=received, offset=at) from error
    if size < 0:
        raise FrameError(where, expected="a size of 0 or more", received=str(size), offset=at)
    if at + size > end:
        raise short(where, at, size, end)
    return at + size


def _decoder_of(codec: BodyCodec) -> Decoder:
    if codec.layout is None:
        return user_defined if codec.has_length else _bytes_decoder(codec)
    read, label = decoder(codec.layout), codec.layout.label
    if not codec.has_length and codec.size_of is None:
        return read

    def exact(data: bytes, at: int, end: int) -> tuple[Any, int]:
        if codec.has_length:
            _, stop = user_defined(data, at, end)
            at += 2
        else:
            stop = body_end(codec, data, at, end)
        value, last = read(data, at, stop)
        if last != stop:
            received = counted(stop - last, "more byte")
            raise FrameError(label, expected="the end of the body", received=received, offset=last)
        return value, stop

    return exact


def _bytes_decoder(codec: BodyCodec) -> Decoder:
    def kept(data: bytes, at: int, end: int) -> tuple[UnsizedBody, int]:
        stop = body_end(codec, data, at, end)
        return UnsizedBody(codec.type_id, data[at:stop]), stop

    return kept


def _encoder_of(codec: BodyCodec, layout: Layout, strict: bool) -> Encoder:
    write = encoder(layout, strict=strict)
    if codec.has_length:
        return sized_encoder(layout.label, write)
    if codec.size_of is None:
        return write

    def checked(body: Any, out: list[bytes]) -> None:
        inner: list[bytes] = []
        write(body, inner)
        data = b"".join(inner)
        size = _size_of(codec, data)
        if size != len(data):
            msg = f"{layout.label}: expected {size} bytes, got {len(data)}"
            raise LocalProtocolError(msg)
        out.append(data)

    return checked
