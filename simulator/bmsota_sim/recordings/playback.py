"""A recorded vehicle on the kernel of a run: its reports go through a session of its own, which logs in and hears the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bmsota.gbt32960 import (
    CloseRequested,
    CommandReceived,
    ConnectRequested,
    Edition,
    LoggedIn,
    TerminalOptions,
    TerminalSession,
    TerminalState,
    VehicleLogin,
    VehicleLogin2025,
)
from bmsota_sim.kernel import SECOND
from bmsota_sim.unit import UnitFigures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bmsota.gbt32960 import TerminalEvent
    from bmsota_sim.kernel import Kernel
    from bmsota_sim.links.uplink import Modem
    from bmsota_sim.recordings.recording import Piece, RecordedVehicle
    from bmsota_sim.trace import Trace

__all__ = ["Played", "RecordedUnit"]

_NEVER: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Played:
    """What a run plays in place of simulated vehicles."""

    vehicles: tuple[RecordedVehicle, ...]
    loops: int = 1
    shift: bool = True
    """Move the times inside the reports to now."""
    lead_s: int = 0
    """How long after the start of the run the recording begins: logins come first."""


class RecordedUnit:
    """One vehicle that sends what it sent once; the `StreamListener` of its modem."""

    def __init__(
        self,
        vehicle: RecordedVehicle,
        *,
        kernel: Kernel,
        modem: Modem,
        trace: Trace,
        begins_ns: Callable[[], int],
        heartbeat_period_ns: int,
        loops: int = 1,
        shift: bool = True,
    ) -> None:
        """Make a unit, switched off.

        Args:
            vehicle: what it sends.
            kernel: the clock.
            modem: its way to the platform.
            trace: of its link.
            begins_ns: when the recording begins now; asked once, when the unit is switched on.
            heartbeat_period_ns: of its session.
            loops: how often it sends the recording.
            shift: move the times inside the reports too.
        """
        self.recorded = vehicle
        self.modem = modem
        self.reports = self.logins = 0
        self._kernel, self._trace = kernel, trace
        self._begins_ns, self._loops, self._shift = begins_ns, loops, shift
        login = vehicle.login
        is_2016 = vehicle.edition is Edition.GBT2016
        self._session = TerminalSession(
            vin=vehicle.vin,
            iccid=vehicle.iccid,
            subsystem_codes=login.subsystem_codes if isinstance(login, VehicleLogin) else (),
            subsystem_count=login.subsystem_count if isinstance(login, VehicleLogin) else 1 if is_2016 else None,
            code_length=login.code_length if isinstance(login, VehicleLogin) else None,
            pack_codes=login.pack_codes if isinstance(login, VehicleLogin2025) else (),
            options=TerminalOptions(edition=vehicle.edition, heartbeat_period_ns=heartbeat_period_ns),
        )
        self._pieces: Iterator[Piece] = iter(())
        self._filed_ns = _NEVER
        self._bytes = [0, 0]

    @property
    def name(self) -> str:
        return self.recorded.vin

    @property
    def figures(self) -> UnitFigures:
        return UnitFigures(
            reports=self.reports,
            logins=self.logins,
            bytes_up=self._bytes[0],
            bytes_down=self._bytes[1],
            can_frames=0,
            notes=(),
            faults=frozenset(),
        )

    def switch_on(self) -> None:
        """Log in, and send each piece when it is due."""
        begins_ns = (self._begins_ns() + self.recorded.late_ns) // SECOND * SECOND
        self._pieces = self.recorded.pieces(begins_ns, loops=self._loops, shift=self._shift)
        self._run_deadlines()
        self._plan()

    def set_coverage(self, *, covered: bool) -> None:
        """Enter or leave the mobile network."""
        self.modem.set_coverage(covered=covered)
        if covered and self._session.state is TerminalState.WAITING:
            self.modem.open_stream(self)

    # -- what was recorded -------------------------------------------------------------------------------------------------

    def _plan(self) -> None:
        piece = next(self._pieces, None)
        if piece is not None:
            self._kernel.call_at(max(piece.sent_ns, self._kernel.now_ns), self._send_piece, piece)

    def _send_piece(self, piece: Piece) -> None:
        session, now_ns = self._session, self._kernel.now_ns
        if piece.is_login:
            if session.state is TerminalState.ENDED:
                session.restart(now_ns)
                session.handle_timeout(now_ns)
        elif not piece.frame:
            if session.state not in {TerminalState.ENDED, TerminalState.LEAVING, TerminalState.LOGGING_OUT}:
                session.logout(now_ns)
        else:
            if session.state is TerminalState.ENDED:
                session.restart(now_ns)
                session.handle_timeout(now_ns)
            self.reports += 1
            if piece.is_backfill:
                session.store_encoded(piece.frame, piece.collected_ns, now_ns)
            else:
                session.send_encoded(piece.frame, now_ns, collected_ns=piece.collected_ns)
        self._serve()
        self._plan()

    # -- the session -----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        session, now_ns = self._session, self._kernel.now_ns
        while True:
            while (event := session.next_event()) is not None:
                self._act(event, now_ns)
            data = session.data_to_send()
            if not data:
                break
            self._bytes[0] += len(data)
            self._trace.octets(now_ns, f"{self.name}>", data)
            self.modem.send_stream(data)
        due_ns = session.next_timeout()
        if due_ns is not None and due_ns < self._filed_ns:
            self._filed_ns = max(due_ns, now_ns)
            self._kernel.call_at(self._filed_ns, self._deadline)

    def _act(self, event: TerminalEvent, now_ns: int) -> None:
        match event:
            case ConnectRequested():
                self.modem.open_stream(self)
            case CloseRequested():
                self._session.disconnected(now_ns)
                self.modem.close_stream()
            case LoggedIn():
                self.logins += 1
            case CommandReceived(frame):
                self._session.reply_to(frame, now_ns)
            case _:
                pass

    def _deadline(self) -> None:
        if self._filed_ns <= self._kernel.now_ns:
            self._run_deadlines()

    def _run_deadlines(self) -> None:
        self._filed_ns = _NEVER
        self._session.handle_timeout(self._kernel.now_ns)
        self._serve()

    # -- the cloud link (StreamListener) -------------------------------------------------------------------------------------

    def stream_opened(self) -> None:
        self._session.connected(self._kernel.now_ns)
        self._serve()

    def stream_received(self, data: bytes) -> None:
        self._bytes[1] += len(data)
        self._trace.octets(self._kernel.now_ns, f"{self.name}<", data)
        self._session.receive_data(data, self._kernel.now_ns)
        self._serve()

    def stream_closed(self, reason: str) -> None:  # noqa: ARG002 - the ledger has it
        self._session.disconnected(self._kernel.now_ns)
        self._serve()
