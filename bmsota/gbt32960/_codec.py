"""One whole frame to a value and back (2016 clause 6, tables 2 to 8; annex B for the terminal; 2025 likewise).

`decode` checks from outside to inside: start, length, check byte, header, data unit. Which message a command carries is
decided by tables. Replies are recognised by their size, because the editions and the field disagree about them (2016: 6.3.2
keeps the time, annex B echoes everything; many send nothing): empty, a time, or an echo are all accepted for any command.

With any encryption but none the data unit stays a `RawMessage`, unless a cipher for it is passed in (`_cipher`). Bodies of
users are read where their `Layouts` are passed in.
"""

from __future__ import annotations

from dataclasses import replace
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from bmsota._words import counted
from bmsota.checksums import bcc_xor
from bmsota.errors import FrameError, LocalProtocolError
from bmsota.gbt32960._bodies import InvalidTail, RawBody, Signature, UserDefined
from bmsota.gbt32960._compile import decoder, encoder
from bmsota.gbt32960._control import control_parameters, control_parameters_bytes
from bmsota.gbt32960._enums import Command, Edition, Encryption, ReplyFlag
from bmsota.gbt32960._extension import EXTENSION_VERSION
from bmsota.gbt32960._fields import TIME_SIZE_BYTES
from bmsota.gbt32960._frame import DATA_SIZE_BYTES_MAX, HEADER_SIZE_BYTES, Frame, Header
from bmsota.gbt32960._make import maker
from bmsota.gbt32960._messages import (
    Control,
    EchoReply,
    EmptyReply,
    Heartbeat,
    ParameterQuery,
    ParameterValues,
    RawMessage,
    Report,
    TimeReply,
    TimeSync,
)
from bmsota.gbt32960._parameters import decode_query, decode_values, encode_query, encode_values, is_query
from bmsota.gbt32960._plain import bytes_of_time, short, time_of
from bmsota.gbt32960._sized import USER_DEFINED, sized_encoder, user_defined
from bmsota.gbt32960._tables import (
    BLOCK_REQUEST_SIZE_BYTES,
    BODY_LAYOUTS,
    EXTENSION_BODY_LAYOUTS,
    EXTENSION_LAYOUTS,
    EXTENSION_REPLY_LAYOUTS,
    MESSAGE_LAYOUTS,
    SIGNATURE_2025,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.gbt32960._cipher import DataUnitCipher
    from bmsota.gbt32960._compile import Decoder, Encoder
    from bmsota.gbt32960._fields import Layout
    from bmsota.gbt32960._messages import Message
    from bmsota.gbt32960._registry import Layouts

    _Write = Callable[[Any, bool, list[bytes], Layouts | None], None]


DECIPHERING: Final = "enciphered data unit"
"""The `FrameError.where` of a data unit that the cipher refuses: 2025 has a reply flag of its own for that."""
UNKNOWN_ENCRYPTION: Final = "header encryption"
"""That of a header with a code that table 5 does not have; nobody can decipher that either."""

_HEADER: Final = Struct(">2sBB17sBH")
_VIN_SIZE_BYTES: Final = 17
_EDITIONS: Final = {edition.value: edition for edition in Edition}
_COMMANDS: Final[tuple[int, ...]] = tuple(
    Command(code) if code in Command._value2member_map_ else code for code in range(256)
)
_FLAGS: Final[tuple[int, ...]] = tuple(
    ReplyFlag(code) if code in ReplyFlag._value2member_map_ else code for code in range(256)
)
# What 2016 reserves has no name there: 0x09 to 0x0B among the commands, 0x04 to 0x07 among the flags.
_COMMANDS_2016: Final[tuple[int, ...]] = tuple(
    int(name) if Command.ACTIVATION <= name <= Command.KEY_EXCHANGE else name for name in _COMMANDS
)
_FLAGS_2016: Final[tuple[int, ...]] = tuple(
    int(name) if ReplyFlag.VIN_UNKNOWN <= name <= ReplyFlag.DECRYPTION_FAILED else name for name in _FLAGS
)
_CIPHERS: Final[dict[int, Encryption]] = {int(code): code for code in Encryption}

# Looking a member up in its enumeration costs as much as a comparison; these are asked for in every frame.
_2016: Final = Edition.GBT2016
_NONE: Final = int(Encryption.NONE)
_COMMAND: Final = int(ReplyFlag.COMMAND)

_BYTES: Final = tuple(bytes((byte,)) for byte in range(256))

_new_frame: Final = maker(Frame)
_new_header: Final = maker(Header)
_new_report: Final = maker(Report)


# --- which message a command carries -----------------------------------------------------------------------------------

_REPORTS: Final[frozenset[int]] = frozenset({int(Command.REALTIME_REPORT), int(Command.BACKFILL_REPORT)})
_TIMELESS: Final[frozenset[int]] = frozenset({int(Command.ACTIVATION_REPLY), int(Command.KEY_EXCHANGE)})
"""Messages of 2025 that do not begin with a time. As an answer they can only be themselves, or a time alone."""
_EMPTY: Final[dict[int, type[Heartbeat | TimeSync]]] = {Command.HEARTBEAT: Heartbeat, Command.TIME_SYNC: TimeSync}


def message_layout(edition: Edition, command: int, data: bytes, at: int, end: int) -> Layout | None:
    """Return the layout of a command's data unit, where it has one."""
    layout = MESSAGE_LAYOUTS[edition].get(command)
    if layout is None and command in EXTENSION_LAYOUTS and is_extension(data, at, end):
        layout = EXTENSION_LAYOUTS[command]
    return layout


def is_extension(data: bytes, at: int, end: int) -> bool:
    """Whether a data unit carries the mark and version of our extension. Makers use the same commands for their own."""
    return end - at >= 8 and int.from_bytes(data[at + 6 : at + 8], "big") == EXTENSION_VERSION


def is_block(data: bytes, at: int, end: int) -> bool:
    """Whether the answer to a block request has a block in it. One of the request's size is the request's echo."""
    return end - at > BLOCK_REQUEST_SIZE_BYTES and is_extension(data, at, end)


# --- decode ----------------------------------------------------------------------------------------------------------


_MARK: Final = EXTENSION_VERSION.to_bytes(2, "big")


def _extension_body(layout: Layout) -> Decoder:
    """A body of our extension: behind the length the mark, then the layout. Without the mark it is another maker's."""
    read = decoder(layout)

    def body(data: bytes, at: int, end: int) -> tuple[Any, int]:
        found, stop = user_defined(data, at, end)
        if found.data[:2] != _MARK:
            return found, stop
        value, last = read(data, at + 4, stop)  # Behind length and mark.
        if last != stop:
            received = counted(stop - last, "more byte")
            raise FrameError(layout.label, expected="the end of the body", received=received, offset=last)
        return value, stop

    return body


def _signature(data: bytes, at: int, end: int) -> tuple[Signature, int]:
    """The last body of a signed report: what came behind it would not be signed."""
    found, stop = decoder(SIGNATURE_2025)(data, at, end)
    if stop != end:
        received = counted(end - stop, "more byte")
        raise FrameError(SIGNATURE_2025.label, expected="the end of the report", received=received, offset=stop)
    return found, stop


def _raw_body(data: bytes, at: int, end: int) -> tuple[RawBody, int]:
    """A type without a layout has no length either: it takes all the rest."""
    return RawBody(data[at - 1], data[at:end]), end


def _body_decoders(edition: Edition) -> tuple[Decoder, ...]:
    table: list[Decoder] = [_raw_body] * 256
    for type_id in USER_DEFINED:
        table[type_id] = user_defined
    for type_id, layout in EXTENSION_BODY_LAYOUTS.items():
        table[type_id] = _extension_body(layout)
    for type_id, layout in BODY_LAYOUTS[edition].items():
        table[type_id] = _signature if layout is SIGNATURE_2025 else decoder(layout)
    return tuple(table)


_BODY_DECODERS: Final[dict[Edition, tuple[Decoder, ...]]] = {}
"""By edition, then by type byte. Compiled when first needed, to keep the import fast."""


def _decode_report(decoders: tuple[Decoder, ...], data: bytes, at: int, end: int) -> Report:
    if end - at < 6:
        raise short("report", at, 6, end)
    time = time_of(data[at : at + 6], at)
    at += 6
    bodies = []
    while at < end:
        body, at = decoders[data[at]](data, at + 1, end)
        bodies.append(body)
    report: Report = _new_report(time, tuple(bodies))
    return report


def _decode_bodies(decoders: tuple[Decoder, ...], data: bytes, at: int, end: int) -> tuple[Report, FrameError | None]:
    """As `_decode_report`, up to the first body that is not valid."""
    if end - at < 6:
        raise short("report", at, 6, end)
    time = time_of(data[at : at + 6], at)
    at += 6
    bodies = []
    fault = None
    while at < end:
        try:
            body, at = decoders[data[at]](data, at + 1, end)
        except FrameError as error:
            fault = error
            break
        bodies.append(body)
    report: Report = _new_report(time, tuple(bodies))
    return report, fault


def _report_decoders(edition: Edition, layouts: Layouts | None) -> tuple[Decoder, ...]:
    decoders = _BODY_DECODERS.get(edition)
    if decoders is None:
        decoders = _BODY_DECODERS[edition] = _body_decoders(edition)
    return decoders if layouts is None else layouts.decoders(edition, decoders)


def _decode_layout(layout: Layout, data: bytes, at: int, end: int) -> Message:
    message: Message
    message, stop = decoder(layout)(data, at, end)
    if stop != end:
        received = counted(end - stop, "more byte")
        raise FrameError(layout.label, expected="the end of the data unit", received=received, offset=stop)
    return message


def _decode_control(data: bytes, at: int, end: int) -> Control:
    if end - at < 7:
        raise short("control", at, 7, end)
    return Control(time_of(data[at : at + 6], at), data[at + 6], control_parameters(data[at + 6], data[at + 7 : end]))


def _decode_command(edition: Edition, command: int, data: bytes, at: int, end: int, layouts: Layouts | None) -> Message:
    """The data unit of a frame that asks for something (flag 0xFE)."""
    if command in _REPORTS:
        return _decode_report(_report_decoders(edition, layouts), data, at, end)
    empty = _EMPTY.get(command)
    if empty is not None:
        if at != end:
            raise FrameError(empty.__name__, expected="an empty data unit", received=f"{end - at} bytes", offset=at)
        return empty()
    layout = message_layout(edition, command, data, at, end)
    if layout is not None:
        return _decode_layout(layout, data, at, end)
    if command == Command.QUERY_PARAMETERS:
        return decode_query(data, at, end) if is_query(data, at, end) else decode_values(edition, data, at, end)
    if command == Command.SET_PARAMETERS:
        return decode_values(edition, data, at, end)
    if command == Command.CONTROL:
        return _decode_control(data, at, end)
    return RawMessage(data[at:end])


def _decode_reply(edition: Edition, command: int, flag: int, data: bytes, at: int, end: int) -> Message:
    """The data unit of an answer (any flag but 0xFE)."""
    if at == end:
        return EmptyReply()
    if edition is Edition.GBT2025 and command in _TIMELESS and end - at != 6:
        return _decode_layout(MESSAGE_LAYOUTS[edition][command], data, at, end)
    if end - at < 6:
        raise short("reply", at, 6, end)
    if end - at > 6 and command == Command.QUERY_PARAMETERS and flag == ReplyFlag.SUCCESS:
        return decode_values(edition, data, at, end)
    if command in EXTENSION_REPLY_LAYOUTS and flag == ReplyFlag.SUCCESS and is_block(data, at, end):
        return _decode_layout(EXTENSION_REPLY_LAYOUTS[command], data, at, end)
    time = time_of(data[at : at + 6], at)
    return TimeReply(time) if end - at == 6 else EchoReply(time, data[at + 6 : end])


def _identifier(raw: bytes) -> tuple[str, str]:
    """Return the VIN and what it was padded with, unless that was zero bytes."""
    if raw.isalnum():  # A VIN of 17 letters and digits, which nearly all are.
        return raw.decode("ascii"), ""
    code = raw
    padding = ""
    if raw[-1] in b"\0 ":
        code = raw.rstrip(b"\0 ")
        rest = raw[len(code) :]
        if rest.strip(b"\0"):
            padding = rest.decode("ascii")
    vin = code.decode("ascii", "replace")
    if not vin.isprintable() or "\ufffd" in vin:
        raise FrameError("identifier", expected="printable ASCII", received=raw.hex(), offset=4)
    return vin, padding


def _check(data: bytes) -> tuple[Edition, int, int, bytes, int, int]:
    """Check everything around the data unit and return the header's parts."""
    size = len(data)
    if size < HEADER_SIZE_BYTES + 1:
        start = bytes(data[:2])
        if start and start not in _EDITIONS and start not in (b"#", b"$"):
            raise _wrong_start(start)
        raise FrameError("frame", expected=f"at least {HEADER_SIZE_BYTES + 1} bytes", received=str(size), offset=size)
    start, command, flag, vin, cipher, length = _HEADER.unpack_from(data)
    edition = _EDITIONS.get(start)
    if edition is None:
        raise _wrong_start(start)
    if length > DATA_SIZE_BYTES_MAX:
        expected = f"a length of at most {DATA_SIZE_BYTES_MAX}"
        raise FrameError("header", expected=expected, received=str(length), offset=22)
    if size != length + HEADER_SIZE_BYTES + 1:
        expected = f"{length + HEADER_SIZE_BYTES + 1} bytes for a data unit of {length}"
        raise FrameError("frame", expected=expected, received=str(size), offset=22)
    if bcc_xor(data):
        # Over everything, check byte included, the XOR is zero if it is right: the two start bytes cancel each other.
        expected = f"check byte {bcc_xor(data[2:-1]):#04x}"
        raise FrameError("frame", expected=expected, received=f"{data[-1]:#04x}", offset=size - 1)
    if cipher not in _CIPHERS:
        raise FrameError(UNKNOWN_ENCRYPTION, expected="a code of table 5", received=f"{cipher:#04x}", offset=21)
    return edition, command, flag, vin, cipher, length


def _names(edition: Edition, command: int, flag: int) -> tuple[int, int]:
    """A command and a reply flag by the names that this edition has for them."""
    if edition is _2016:
        return _COMMANDS_2016[command], _FLAGS_2016[flag]
    return _COMMANDS[command], _FLAGS[flag]


def _wrong_start(start: bytes) -> FrameError:
    return FrameError("frame", expected='"##" (2016) or "$$" (2025)', received=start.hex(" "), offset=0)


def _decipher(cipher: DataUnitCipher, data: bytes) -> bytes:
    """Return the whole frame in the clear. The check byte over the ciphertext was right."""
    unit = data[HEADER_SIZE_BYTES:-1]
    if unit:
        try:
            unit = cipher.decrypt(unit)
        except ValueError as error:
            expected = "bytes that this cipher can decipher"
            received = f"{len(unit)} bytes: {error}"
            raise FrameError(DECIPHERING, expected=expected, received=received, offset=HEADER_SIZE_BYTES) from error
        if len(unit) > DATA_SIZE_BYTES_MAX:
            expected = f"at most {DATA_SIZE_BYTES_MAX} bytes"
            raise FrameError(DECIPHERING, expected=expected, received=str(len(unit)), offset=HEADER_SIZE_BYTES)
    clear = data[:21] + _BYTES[_NONE] + len(unit).to_bytes(2, "big") + unit
    return clear + _BYTES[bcc_xor(clear[2:])]


def decode(
    data: bytes, *, cipher: DataUnitCipher | None = None, layouts: Layouts | None = None, strict: bool = True
) -> Frame:
    """Decode one whole frame, no byte more or less.

    With `strict=False` a report whose end is not valid keeps the bodies before it, and an `InvalidTail` as the last.

    With a *cipher*, data units of its encryption are deciphered, after the check byte; others stay a `RawMessage`. Bodies
    that *layouts* knows are read by them. Offsets in errors of a deciphered data unit count in the plain text.

    Raises:
        FrameError: start, length, check byte, header or data unit are not valid.
        TypeError: *data* is text. Any other exception is a bug.
    """
    if strict:
        return decode_with_clear(data, cipher, layouts)[0]
    frame, clear, fault = decode_partial_with_clear(data, cipher, layouts)
    if fault is None:
        return frame
    report = frame.message
    assert isinstance(report, Report)
    tail = InvalidTail(clear[_valid_end(frame.edition, clear, layouts) : -1], str(fault))
    return replace(frame, message=_new_report(report.time, (*report.bodies, tail)))


def _valid_end(edition: Edition, data: bytes, layouts: Layouts | None) -> int:
    """Where the first body that is not valid begins."""
    decoders = _report_decoders(edition, layouts)
    at, end = HEADER_SIZE_BYTES + TIME_SIZE_BYTES, len(data) - 1
    while True:
        try:
            _, at = decoders[data[at]](data, at + 1, end)
        except FrameError:
            return at


def decode_with_clear(
    data: bytes, cipher: DataUnitCipher | None = None, layouts: Layouts | None = None
) -> tuple[Frame, bytes]:
    """As `decode`, and the whole frame in the clear: *data* itself if it was not enciphered, or could not be deciphered."""
    if type(data) is not bytes:
        data = _as_bytes(data)
    edition, command, flag, raw_vin, code, length = _check(data)
    vin, padding = _identifier(raw_vin)
    is_open = code == _NONE
    if not is_open and cipher is not None and cipher.encryption == code:
        is_open = True
        data = _decipher(cipher, data)
        length = len(data) - HEADER_SIZE_BYTES - 1
    end = HEADER_SIZE_BYTES + length
    message: Message
    if not is_open:
        message = RawMessage(data[HEADER_SIZE_BYTES:end])
    elif flag == _COMMAND:
        message = _decode_command(edition, command, data, HEADER_SIZE_BYTES, end, layouts)
    else:
        message = _decode_reply(edition, command, flag, data, HEADER_SIZE_BYTES, end)
    if is_open and code != _NONE and type(message) is RawMessage:
        message = RawMessage(message.data, is_plain=True)
    names, flags = (_COMMANDS_2016, _FLAGS_2016) if edition is _2016 else (_COMMANDS, _FLAGS)
    frame: Frame = _new_frame(names[command], vin, message, flags[flag], edition, _CIPHERS[code], padding)
    return frame, data


def _as_bytes(data: Any) -> bytes:
    if isinstance(data, str):
        msg = "decode: expected bytes, got text; bytes.fromhex makes bytes of hexadecimal digits"
        raise TypeError(msg)
    return bytes(data)


def decode_partial(
    data: bytes, *, cipher: DataUnitCipher | None = None, layouts: Layouts | None = None
) -> tuple[Frame, FrameError | None]:
    """Decode one whole frame as `decode` does, but keep the bodies of a report that stand before one that is not valid.

    Returns:
        The frame, and None; or the frame with the report's valid beginning, and what is wrong behind it.

    Raises:
        FrameError: as `decode`, but of a report only if its header, check byte, encryption or time is not valid.
    """
    frame, _, fault = decode_partial_with_clear(data, cipher, layouts)
    return frame, fault


def decode_partial_with_clear(
    data: bytes, cipher: DataUnitCipher | None = None, layouts: Layouts | None = None
) -> tuple[Frame, bytes, FrameError | None]:
    """As `decode_partial`, with the whole frame in the clear."""
    try:
        return *decode_with_clear(data, cipher, layouts), None
    except FrameError:
        if len(data) <= HEADER_SIZE_BYTES or data[2] not in _REPORTS or data[3] != _COMMAND:
            raise
    data = bytes(data)
    edition, command, flag, raw_vin, code, _ = _check(data)
    vin, padding = _identifier(raw_vin)
    if code != _NONE:
        assert cipher is not None  # Ciphertext without a cipher is always valid.
        data = _decipher(cipher, data)
    report, fault = _decode_bodies(_report_decoders(edition, layouts), data, HEADER_SIZE_BYTES, len(data) - 1)
    frame: Frame = _new_frame(_COMMANDS[command], vin, report, _FLAGS[flag], edition, _CIPHERS[code], padding)
    return frame, data, fault


def decode_header(data: bytes) -> Header:
    """Check one whole frame, check byte included, and return its header without looking into the data unit.

    Raises:
        FrameError: as `decode`, but for the data unit.
    """
    edition, command, flag, raw_vin, cipher, length = _check(data if type(data) is bytes else _as_bytes(data))
    header: Header = _new_header(
        edition, *_names(edition, command, flag), _identifier(raw_vin)[0], _CIPHERS[cipher], length
    )
    return header


def header_of(data: bytes) -> Header:
    """Return the header of a frame whose start, length and check byte are right and whose identifier is printable."""
    start, command, flag, raw_vin, cipher, length = _HEADER.unpack_from(data)
    edition = _EDITIONS[start]
    header: Header = _new_header(edition, *_names(edition, command, flag), _identifier(raw_vin)[0], cipher, length)
    return header


# --- encode ----------------------------------------------------------------------------------------------------------


def _body_encoders(edition: Edition, *, strict: bool) -> dict[type, tuple[bytes, Encoder]]:
    own = {
        layout.cls: (bytes((type_id,)), sized_encoder(layout.label, encoder(layout, strict=strict), _MARK))
        for type_id, layout in EXTENSION_BODY_LAYOUTS.items()
    }
    return own | {
        layout.cls: (bytes((type_id,)), encoder(layout, strict=strict))
        for type_id, layout in BODY_LAYOUTS[edition].items()
    }


_BODY_ENCODERS: Final[dict[tuple[Edition, bool], dict[type, tuple[bytes, Encoder]]]] = {}
"""By edition and strictness; filled when first needed, because most programs encode in one way only."""


def report_bytes(edition: Edition, report: Report, *, strict: bool = False, layouts: Layouts | None = None) -> bytes:
    """Return the data unit of a report: what a signature is made over, if the report has none yet."""
    out: list[bytes] = []
    _encode_report(edition, report, strict, out, layouts)
    return b"".join(out)


def _encode_report(edition: Edition, report: Report, strict: bool, out: list[bytes], layouts: Layouts | None) -> None:
    table = _BODY_ENCODERS.get((edition, strict))
    if table is None:
        table = _BODY_ENCODERS[edition, strict] = _body_encoders(edition, strict=strict)
    if layouts is not None:
        table = layouts.encoders(edition, strict, table)
    out.append(bytes_of_time("report.time", report.time))
    last = len(report.bodies) - 1
    for index, body in enumerate(report.bodies):
        found = table.get(type(body))
        if found is not None:
            out.append(found[0])
            found[1](body, out)
        elif isinstance(body, UserDefined):
            out.append(_encode_user_defined(body))
        elif isinstance(body, InvalidTail) and index == last:
            out.append(body.data)
        elif (
            isinstance(body, RawBody) and index == last and (layouts is None or not layouts.has(edition, body.type_id))
        ):
            out.append(_encode_raw_body(edition, body))
        else:
            expected = f"bodies of the {edition.name} edition, a RawBody or an InvalidTail only as the last"
            msg = f"report.bodies[{index}]: expected {expected}, got {type(body).__name__}"
            raise LocalProtocolError(msg)
    if edition is Edition.GBT2025 and any(type(body) is Signature for body in report.bodies[:-1]):
        msg = "report.bodies: bodies follow the Signature, which must be the last"
        raise LocalProtocolError(msg)


def _encode_user_defined(body: UserDefined) -> bytes:
    if body.type_id not in USER_DEFINED:
        msg = f"user-defined body: expected a type from 0x80 to 0xFE, got {body.type_id!r}"
        raise LocalProtocolError(msg)
    if len(body.data) > DATA_SIZE_BYTES_MAX:
        msg = (
            f"user-defined body {body.type_id:#04x}: expected at most {DATA_SIZE_BYTES_MAX} bytes, got {len(body.data)}"
        )
        raise LocalProtocolError(msg)
    return bytes((body.type_id,)) + len(body.data).to_bytes(2, "big") + body.data


def _encode_raw_body(edition: Edition, body: RawBody) -> bytes:
    if body.type_id in BODY_LAYOUTS[edition] or body.type_id in USER_DEFINED or not 0 <= body.type_id <= 255:
        msg = f"raw body: expected a type without a layout, got {body.type_id!r}"
        raise LocalProtocolError(msg)
    return bytes((body.type_id,)) + body.data


def _encode_layout(layouts: dict[Edition, Layout]) -> _Write:
    return lambda frame, strict, out, _layouts: encoder(layouts[frame.edition], strict=strict)(frame.message, out)


def _encode_echo(message: EchoReply) -> bytes:
    if not message.rest:
        msg = "echo reply: nothing to echo; use TimeReply"
        raise LocalProtocolError(msg)
    return bytes_of_time("reply.time", message.time) + message.rest


def _encode_extension_reply(layout: Layout) -> _Write:
    def write(frame: Frame, strict: bool, out: list[bytes], _layouts: Layouts | None) -> None:
        if frame.reply_flag != ReplyFlag.SUCCESS:  # A refusal carries the time and nothing else.
            msg = f"frame.reply_flag: expected 0x01 for {layout.cls.__name__}, got {frame.reply_flag!r}"
            raise LocalProtocolError(msg)
        encoder(layout, strict=strict)(frame.message, out)

    return write


def _encode_control(message: Control) -> bytes:
    if not 0 <= message.control_id <= 255:
        msg = f"control.control_id: expected 0 to 255, got {message.control_id!r}"
        raise LocalProtocolError(msg)
    parameters = control_parameters_bytes(message.control_id, message.parameters)
    return bytes_of_time("control.time", message.time) + bytes((message.control_id,)) + parameters


_ANY: Final = frozenset(range(256))
_BOTH: Final = frozenset(Edition)


class _Kind:
    """How one message class is encoded, and where it may stand."""

    __slots__ = ("commands", "editions", "is_command", "is_reply", "write")

    def __init__(
        self,
        write: _Write,
        commands: frozenset[int] = _ANY,
        *,
        editions: frozenset[Edition] = _BOTH,
        is_command: bool = True,
        is_reply: bool = True,
    ) -> None:
        self.write = write
        self.commands = commands
        self.editions = editions
        self.is_command = is_command
        # A request's own class may be sent back as a reply: that is the full echo of annex B.
        self.is_reply = is_reply


def _simple(make: Callable[[Any], bytes]) -> _Write:
    return lambda frame, _strict, out, _layouts: out.append(make(frame.message))


def _kinds() -> dict[type, _Kind]:
    kinds = {
        Report: _Kind(
            lambda frame, strict, out, layouts: _encode_report(frame.edition, frame.message, strict, out, layouts),
            _REPORTS,
        ),
        Heartbeat: _Kind(_simple(lambda _message: b""), frozenset({Command.HEARTBEAT}), is_reply=False),
        TimeSync: _Kind(_simple(lambda _message: b""), frozenset({Command.TIME_SYNC}), is_reply=False),
        TimeReply: _Kind(_simple(lambda message: bytes_of_time("reply.time", message.time)), is_command=False),
        EmptyReply: _Kind(_simple(lambda _message: b""), is_command=False),
        EchoReply: _Kind(_simple(_encode_echo), is_command=False),
        ParameterQuery: _Kind(_simple(encode_query), frozenset({Command.QUERY_PARAMETERS})),
        ParameterValues: _Kind(
            lambda frame, strict, out, _layouts: out.append(encode_values(frame.edition, frame.message, strict=strict)),
            frozenset({Command.QUERY_PARAMETERS, Command.SET_PARAMETERS}),
        ),
        Control: _Kind(_simple(_encode_control), frozenset({Command.CONTROL})),
        RawMessage: _Kind(_simple(lambda message: bytes(message.data))),
    }
    found: dict[type, dict[Edition, Layout]] = {}
    for edition, layouts in MESSAGE_LAYOUTS.items():
        for command, layout in layouts.items():
            of_class = found.setdefault(layout.cls, {})
            of_class[edition] = layout
            write = _encode_layout(of_class)
            kinds[layout.cls] = _Kind(write, frozenset({command}), editions=frozenset(of_class))
    for command, layout in EXTENSION_LAYOUTS.items():
        kinds[layout.cls] = _Kind(_encode_layout(dict.fromkeys(Edition, layout)), frozenset({command}))
    for command, layout in EXTENSION_REPLY_LAYOUTS.items():
        kinds[layout.cls] = _Kind(_encode_extension_reply(layout), frozenset({command}), is_command=False)
    return kinds


_KINDS: Final = _kinds()


def _is_ciphertext(message: Message) -> bool:
    return isinstance(message, RawMessage) and not message.is_plain


def _kind_of(frame: Frame, cipher: DataUnitCipher | None) -> _Kind:
    """Return how the message is encoded, or say why it may not stand in this frame."""
    kind = _KINDS.get(type(frame.message))
    name = type(frame.message).__name__
    if kind is None:
        msg = f"frame.message: expected a message of the cloud link, got {name}"
        raise LocalProtocolError(msg)
    is_ciphertext = _is_ciphertext(frame.message)
    if frame.encryption != _NONE and not is_ciphertext and (cipher is None or cipher.encryption != frame.encryption):
        msg = f"frame.message: encryption is set; pass its cipher, or the ciphertext as RawMessage instead of {name}"
        raise LocalProtocolError(msg)
    if frame.command not in kind.commands:
        commands = " or ".join(f"{command:#04x}" for command in sorted(kind.commands))
        msg = f"frame.command: expected {commands} for {name}, got {frame.command!r}"
        raise LocalProtocolError(msg)
    if frame.edition not in kind.editions:
        editions = " or ".join(edition.name for edition in Edition if edition in kind.editions)
        msg = f"frame.edition: expected {editions} for {name} (give the data unit as RawMessage), got {frame.edition!r}"
        raise LocalProtocolError(msg)
    if not (kind.is_command if frame.reply_flag == _COMMAND else kind.is_reply):
        msg = f"frame.reply_flag: {name} cannot have the flag {frame.reply_flag!r}"
        raise LocalProtocolError(msg)
    return kind


def _identifier_bytes(frame: Frame) -> bytes:
    try:
        raw = frame.vin.encode("ascii")
        padding = frame.vin_padding.encode("ascii")
        # A blank at the end would come back as padding.
        is_fit = len(raw) <= _VIN_SIZE_BYTES and frame.vin.isprintable() and raw[-1:] != b" "
    except (AttributeError, UnicodeEncodeError):
        raw = padding = b""
        is_fit = False
    if not is_fit or padding.strip(b"\0 "):
        msg = f"frame.vin: expected up to 17 printable ASCII characters, got {frame.vin!r} and {frame.vin_padding!r}"
        raise LocalProtocolError(msg)
    if len(raw) + len(padding) == _VIN_SIZE_BYTES:
        return raw + padding
    return raw.ljust(_VIN_SIZE_BYTES, b"\0")


def encode(
    frame: Frame, *, strict: bool = False, cipher: DataUnitCipher | None = None, layouts: Layouts | None = None
) -> bytes:
    """Encode *frame*.

    Without *strict* everything is accepted that the wire can carry, so that any frame that was decoded goes out again as it
    came. With *strict* every number must also be in the range that the text allows: what a terminal should send.

    A frame whose encryption is that of *cipher* is enciphered by it, unless its message is a `RawMessage` of ciphertext. An
    empty data unit stays empty. *layouts* must know the bodies that are not this package's.

    Raises:
        LocalProtocolError: a value does not fit, or the message does not belong to this command, flag or edition.
    """
    kind = _kind_of(frame, cipher)
    out: list[bytes] = []
    kind.write(frame, strict, out, layouts)
    data = b"".join(out)
    if cipher is not None and frame.encryption != _NONE and data and not _is_ciphertext(frame.message):
        data = cipher.encrypt(data)
    if len(data) > DATA_SIZE_BYTES_MAX:
        msg = f"data unit: expected at most {DATA_SIZE_BYTES_MAX} bytes, got {len(data)}"
        raise LocalProtocolError(msg)
    numbers = (frame.command, frame.reply_flag, frame.encryption)
    if not all(isinstance(number, int) and 0 <= number <= 255 for number in numbers):
        msg = f"frame: expected command, reply flag and encryption from 0 to 255, got {numbers!r}"
        raise LocalProtocolError(msg)
    command, flag, code = numbers
    raw = _HEADER.pack(frame.edition.value, command, flag, _identifier_bytes(frame), code, len(data)) + data
    return raw + _BYTES[bcc_xor(raw)]  # The two start bytes cancel each other.
