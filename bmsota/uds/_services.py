"""Requests as the tester makes them, and what their answers must be. The coding is udsoncan's.

A `Call` is one request: its bytes, whose answer it waits for, and a function that reads a positive answer. That function gives
None for an answer to another request of the same service (another block counter, routine or identifier): UDS numbers
nothing, so a late answer to a repeated request must be recognised by its contents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from udsoncan import DataFormatIdentifier, DidCodec, MemoryLocation, Response, services
from udsoncan.BaseService import BaseService
from udsoncan.exceptions import ConfigError, InvalidResponseException

from bmsota.errors import LocalProtocolError
from bmsota.uds._identifiers import ACCESS_LEVEL, DIDS, Did, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from udsoncan import DIDConfig


T = TypeVar("T")

_MS = 1_000_000

_Routine = services.RoutineControl
_Access = services.SecurityAccess

TESTER_PRESENT: bytes = services.TesterPresent.make_request().get_payload(suppress_positive_response=True)
"""3E 80: "I am still here", without an answer."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request and how its answer is read."""

    payload: bytes
    service: type[BaseService]
    read_answer: Callable[[Response], T | None]

    @property
    def name(self) -> str:
        return str(self.service.get_name())

    def read(self, response: Response) -> T | None:
        """What a positive *response* says; None if it answers another request, or nothing that can be understood."""
        try:
            return self.read_answer(response)
        except (InvalidResponseException, ConfigError, ValueError, NotImplementedError):
            return None


@dataclass(frozen=True, slots=True)
class SessionTiming:
    """What a node promises when a session starts; None: it says nothing (ISO 14229-1 before 2013)."""

    p2_ns: int | None
    p2_star_ns: int | None


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """The answer to RequestDownload."""

    block_length_max: int
    """maxNumberOfBlockLength: the longest TransferData request, its two bytes of service and counter included."""


def start_session(session: Session) -> Call[SessionTiming]:
    """DiagnosticSessionControl."""

    def read(response: Response) -> SessionTiming | None:
        data = services.DiagnosticSessionControl.interpret_response(response, standard_version=2006).service_data
        if data.session_echo != session:
            return None
        record = data.session_param_records
        if len(record) < 4:
            return SessionTiming(None, None)
        return SessionTiming(int.from_bytes(record[:2], "big") * _MS, int.from_bytes(record[2:4], "big") * 10 * _MS)

    request = services.DiagnosticSessionControl.make_request(int(session))
    return Call(request.get_payload(), services.DiagnosticSessionControl, read)


def tester_present() -> Call[bool]:
    """TesterPresent with an answer: "are you there?"."""
    return Call(services.TesterPresent.make_request().get_payload(), services.TesterPresent, lambda _response: True)


def request_seed() -> Call[bytes]:
    """SecurityAccess, first half. A seed of zeros only means: already unlocked."""

    def read(response: Response) -> bytes | None:
        data = _Access.interpret_response(response, mode=_Access.Mode.RequestSeed).service_data
        return bytes(data.seed or b"") if data.security_level_echo == ACCESS_LEVEL else None

    request = _Access.make_request(ACCESS_LEVEL, _Access.Mode.RequestSeed)
    return Call(request.get_payload(), _Access, read)


def send_key(key: bytes) -> Call[bool]:
    """SecurityAccess, second half."""

    def read(response: Response) -> bool | None:
        data = _Access.interpret_response(response, mode=_Access.Mode.SendKey).service_data
        return True if data.security_level_echo == ACCESS_LEVEL + 1 else None

    request = _Access.make_request(ACCESS_LEVEL + 1, _Access.Mode.SendKey, key)
    return Call(request.get_payload(), _Access, read)


def start_routine(routine: int, record: bytes = b"") -> Call[bytes]:
    """RoutineControl, startRoutine; gives the routine's status record."""

    def read(response: Response) -> bytes | None:
        data = _Routine.interpret_response(response).service_data
        is_answer = (data.control_type_echo, data.routine_id_echo) == (_Routine.ControlType.startRoutine, routine)
        return bytes(data.routine_status_record) if is_answer else None

    request = _Routine.make_request(routine, _Routine.ControlType.startRoutine, record)
    return Call(request.get_payload(), _Routine, read)


def request_download(
    address: int, size_bytes: int, *, address_bytes: int = 4, size_field_bytes: int = 4
) -> Call[DownloadLimits]:
    """RequestDownload, neither compressed nor encrypted."""

    def read(response: Response) -> DownloadLimits | None:
        limits = services.RequestDownload.interpret_response(response).service_data
        # Two bytes are service and counter: a block that carries nothing would never end.
        return DownloadLimits(limits.max_length) if limits.max_length > 2 else None

    location = MemoryLocation(
        address, size_bytes, address_format=8 * address_bytes, memorysize_format=8 * size_field_bytes
    )
    request = services.RequestDownload.make_request(location, DataFormatIdentifier(0, 0))
    return Call(request.get_payload(), services.RequestDownload, read)


def transfer_data(counter: int, data: bytes) -> Call[bool]:
    """One block."""

    def read(response: Response) -> bool | None:
        found = services.TransferData.interpret_response(response).service_data
        return True if found.sequence_number_echo == counter else None

    return Call(services.TransferData.make_request(counter, data).get_payload(), services.TransferData, read)


def request_transfer_exit() -> Call[bool]:
    """The end of a download."""
    request = services.RequestTransferExit.make_request()
    return Call(request.get_payload(), services.RequestTransferExit, lambda _response: True)


def reset(reset_type: int) -> Call[bool]:
    """ECUReset."""

    def read(response: Response) -> bool | None:
        data = services.ECUReset.interpret_response(response).service_data
        return True if data.reset_type_echo == reset_type else None

    return Call(services.ECUReset.make_request(reset_type).get_payload(), services.ECUReset, read)


def raw_request(payload: bytes) -> Call[bool]:
    """A whole request, as it is.

    Raises:
        LocalProtocolError: its first byte is no service.
    """
    service = BaseService.from_request_id(payload[0]) if payload else None
    if service is None:
        raise LocalProtocolError(f"request: expected the number of a service first, got {payload.hex() or 'nothing'}")
    return Call(payload, service, lambda _response: True)


class _Raw(DidCodec):
    """A value of this many bytes, as it is."""

    def __init__(self, size_bytes: int | None) -> None:
        self._size_bytes = size_bytes

    def decode(self, string_bin: bytes) -> bytes:
        return bytes(string_bin)

    def __len__(self) -> int:
        if self._size_bytes is None:
            raise DidCodec.ReadAllRemainingData
        return self._size_bytes


def read_dids(dids: Sequence[Did]) -> Call[Mapping[int, bytes]]:
    """ReadDataByIdentifier of several of our own identifiers; three fit a single frame."""
    codecs = {int(did): _Raw(DIDS[did].size_bytes) for did in dids}
    return _read_dids(codecs)


def read_one_did(did: int) -> Call[Mapping[int, bytes]]:
    """ReadDataByIdentifier of any node's identifier, however long its value is."""
    return _read_dids({did: _Raw(None)})


def _read_dids(codecs: Mapping[int, DidCodec]) -> Call[Mapping[int, bytes]]:
    dids = list(codecs)
    config: DIDConfig = dict(codecs.items())
    service = services.ReadDataByIdentifier

    def read(response: Response) -> Mapping[int, bytes] | None:
        values = service.interpret_response(response, dids, config, tolerate_zero_padding=False).service_data.values
        return values if list(values) == dids else None

    return Call(service.make_request(dids, config).get_payload(), service, read)
