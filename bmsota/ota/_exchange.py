"""The updater's exchanges with the device API: challenge, session, order, manifest, confirmation, and their retries.

One exchange at a time, one a state (two for the session). The download of images uses the same connection; see `_fetch`.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, ClassVar, Final

from bmsota.errors import BmsotaError, TransferError, TrustError
from bmsota.ota import _device_api as device_api
from bmsota.ota._actions import AbortHttp, StartHttp, TellState
from bmsota.ota._http import retry_after_s
from bmsota.ota._journal import Phase
from bmsota.ota._report import Outcome, short_reason
from bmsota.ota._states import Stage, UpdaterState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from bmsota.ota._http import HttpRequest
    from bmsota.ota._journal import OrderRecords
    from bmsota.ota._steering import Steering


SECOND: Final = 1_000_000_000

# How often a failed exchange before the download is tried, with the wait doubling up to the maximum. Eight tries span
# about ten minutes; then the order is left for the next instruction, which the platform repeats at every login. Once the
# order is accepted, a unit without network waits on, until the platform withdraws the order or it has expired; but eight
# downloads in a row that bring no block at all, with a network, are a failure.
EXCHANGE_TRIES_MAX: Final = 8
EXCHANGE_WAIT_NS: Final = 5 * SECOND
EXCHANGE_WAIT_NS_MAX: Final = 300 * SECOND
# A platform under load says when to come back (429 and 503 with Retry-After); nobody can send a unit away for longer.
RETRY_AFTER_S_MAX: Final = 3600

# A response of the device API that is no image: a document of COSE is below 64 KiB (bmsota.ota bounds it again).
ANSWER_SIZE_BYTES_MAX: Final = 64 * 1024

# The platform may have a better order at hand, once it knows what is wrong with the first. Then the session is over.
REFUSALS_MAX: Final = 2

_S = UpdaterState


class DeviceExchange:
    """One updater's exchanges, from one power-on to the next."""

    def __init__(self, *, hwid: str, device_key: Ed25519PrivateKey, records: OrderRecords, steering: Steering) -> None:
        self._hwid = hwid
        self._device_key = device_key
        self._records = records
        self._steering = steering
        self._token = ""
        self._challenge_pending = False
        self._answer = bytearray()
        self._status: int | None = None
        self._retry_after_s = 0
        self.is_active = False
        self.tries = 0
        """Failed exchanges in a row."""
        self.retry_at_ns: int | None = None
        self.report = b""
        """A signed report to be delivered in the next session, before the order is fetched."""
        self._awaits_receipt = False
        self._refusals = 0
        """Of orders that were not believed, in this session."""
        self._awaits_other_order = False

    # -- the connection ------------------------------------------------------------------------------------------------

    def start(self, request: HttpRequest) -> None:
        """Send *request*, with the session's token once there is one."""
        self._answer = bytearray()
        self._status = None
        self._retry_after_s = 0
        self.is_active = True
        self._steering.act(StartHttp(self._records.journal.base_url, request))

    def start_authorised(self, request: HttpRequest) -> None:
        """Send *request* with the session's token."""
        self.start(device_api.authorised(request, self._token))

    def drop(self) -> None:
        """Abort the exchange under way, if there is one."""
        if self.is_active:
            self.is_active = False
            self._steering.act(AbortHttp())

    def receive_head(self, status: int, headers: Mapping[str, str], now_ns: int) -> None:
        """The status of the response has come; of its headers only Retry-After matters here."""
        self._status = status
        self._retry_after_s = retry_after_s(headers, now_ns) or 0

    def receive_body(self, data: bytes, now_ns: int) -> None:
        """Some of the response's body has come."""
        if len(self._answer) + len(data) <= ANSWER_SIZE_BYTES_MAX:
            self._answer += data
        else:
            self.drop()
            self.failed(f"expected at most {ANSWER_SIZE_BYTES_MAX} bytes of answer, got more", now_ns)

    def ended(self, error: str | None, state: UpdaterState, now_ns: int) -> None:
        """The exchange of *state* is over; *error* says why, if before its end."""
        if error is not None or self._status is None:
            self.failed(error or "no answer", now_ns)
            return
        try:
            self._ON_RESPONSE[state](self, self._status, bytes(self._answer), now_ns)
        except TrustError as refusal:
            # Nothing is staged, the old pack runs on, and the platform hears the name of the attack.
            self._steering.conclude(Outcome.REJECTED, str(refusal), now_ns)
        except TransferError as problem:
            if problem.permanent and state in {_S.FETCHING_MANIFEST, _S.CONFIRMING_ORDER}:
                # A retry cannot help: the order's manifest does not exist, or its images do not fit this unit.
                self._steering.conclude(Outcome.FAILED, str(problem), now_ns)
            else:
                self.failed(str(problem), now_ns)
        except BmsotaError as problem:
            self.failed(str(problem), now_ns)

    # -- retries -------------------------------------------------------------------------------------------------------

    def failed(self, problem: str, now_ns: int) -> None:
        """An exchange failed: wait and begin with a new session, or leave it to the next instruction."""
        self.tries += 1
        self._steering.tell(0, problem)
        if self.tries >= EXCHANGE_TRIES_MAX and self._records.phase is not Phase.ACCEPTED:
            # Nothing has begun, and the platform sends its instruction again at the next login.
            self._steering.forget()
            self._steering.enter(_S.IDLE, now_ns)
            return
        wait_ns = min(EXCHANGE_WAIT_NS << min(self.tries - 1, 16), EXCHANGE_WAIT_NS_MAX)
        wait_ns = max(wait_ns, min(self._retry_after_s, RETRY_AFTER_S_MAX) * SECOND)
        self._retry_after_s = 0
        self.retry_at_ns = now_ns + wait_ns
        self._steering.enter(_S.WAITING_SAFE_STATE, now_ns)

    def reset(self) -> None:
        """The order is over; the next one begins without a past."""
        self.retry_at_ns = None
        self.tries = 0
        self.report = b""

    # -- one exchange a state ------------------------------------------------------------------------------------------

    def entered(self, state: UpdaterState, now_ns: int) -> None:
        """Do what entering *state* asks for here."""
        if state in self._ON_ENTRY:
            self._ON_ENTRY[state](self, now_ns)

    def _open_session(self, _now_ns: int) -> None:
        self._steering.tell(0, "")
        self._challenge_pending = True
        self.start(device_api.challenge_request(self._hwid))

    def _session_answered(self, status: int, body: bytes, now_ns: int) -> None:
        if self._challenge_pending:
            challenge = device_api.parse_challenge(status, body)
            try:
                origin = device_api.origin_of(self._records.journal.base_url)
            except ValueError as error:
                raise TransferError(f"session: {error}", permanent=False) from error
            signature = self._device_key.sign(device_api.session_proof(self._hwid, challenge, origin))
            self._challenge_pending = False
            self.start(device_api.session_request(self._hwid, challenge, origin, signature))
            return
        self._token = device_api.parse_session(status, body)
        # Also when an order is stored: it may have been withdrawn, or signed anew with a later expiry.
        self._steering.enter(_S.FETCHING_ORDER, now_ns)

    def _fetch_order(self, _now_ns: int) -> None:
        self._refusals, self._awaits_other_order = 0, False
        # Once: whatever becomes of it, the order is fetched behind it, because a newer order ends the report too.
        report, self.report = self.report, b""
        self._awaits_receipt = bool(report)
        self.start(device_api.report_request(self._token, report) if report else device_api.order_request(self._token))

    def _order_answered(self, status: int, body: bytes, now_ns: int) -> None:
        if self._awaits_receipt:
            self._awaits_receipt = False
            receipt = device_api.parse_receipt(status, body)
            if receipt is not None:
                self._steering.report_answered(receipt, now_ns)
            self.start(device_api.order_request(self._token))
            return
        if self._awaits_other_order and status != device_api.STATUS_OK:
            self._leave_order(now_ns)
            return
        document = device_api.parse_document(status, body)
        if document is None:
            # No order for us: it was withdrawn, or the instruction was old. Nothing was switched, nothing is owed.
            self._withdraw("the platform has no order for this unit", now_ns)
            return
        try:
            if self._records.take_up_ended(document):
                self._steering.repeat(now_ns)
                return
            has_manifest = self._records.accept_order(document, now_ns)
        except TrustError as refusal:
            if self._records.is_open_order(document):
                raise
            self._refuse_order(document, str(refusal), now_ns)
        else:
            self._steering.enter(_S.CONFIRMING_ORDER if has_manifest else _S.FETCHING_MANIFEST, now_ns)

    def _refuse_order(self, document: bytes, reason: str, now_ns: int) -> None:
        """The order itself is not believed, so there is none to report on: say so in the session, which the unit's key opened."""
        self._steering.act(TellState("", Stage.REJECTED, 0, short_reason(reason)))
        self._refusals += 1
        if self._refusals > REFUSALS_MAX:
            self._leave_order(now_ns)
            return
        self._awaits_other_order = True
        self.start(
            device_api.refusal_request(
                self._token,
                order_sha256=sha256(document).digest(),
                sequence=self._records.trust.state.sequence,
                reason=short_reason(reason),
            )
        )

    def _leave_order(self, now_ns: int) -> None:
        """No order that is believed. One that was accepted before goes on; else the next instruction starts anew."""
        if self._records.phase is Phase.ACCEPTED:
            self.failed("the platform offers an order that is not believed", now_ns)
            return
        self._steering.forget()
        self._steering.enter(_S.IDLE, now_ns)

    def _fetch_manifest(self, _now_ns: int) -> None:
        assert self._records.order is not None
        self.start(device_api.manifest_request(self._token, self._records.order.manifest_sha256))

    def _manifest_answered(self, status: int, body: bytes, now_ns: int) -> None:
        document = device_api.parse_document(status, body)
        if document is None:
            raise TransferError("manifest: the platform does not have it", permanent=False)
        self._records.accept_manifest(document, now_ns)
        self._steering.enter(_S.CONFIRMING_ORDER, now_ns)

    def _confirm_order(self, _now_ns: int) -> None:
        self.start(device_api.confirm_request(self._token, self._records.order_id, decision="accepted", reason=""))

    def _confirm_answered(self, status: int, body: bytes, now_ns: int) -> None:
        if status == device_api.STATUS_CONFLICT:
            self._withdraw("the platform has cancelled the order", now_ns)
            return
        device_api.parse_confirmed(status, body)
        self.tries = 0
        self._steering.enter(_S.DOWNLOADING, now_ns)

    def _withdraw(self, reason: str, now_ns: int) -> None:
        if self._records.order is not None and self._records.phase is not Phase.REPORT:
            self._steering.act(TellState(self._records.order_id, Stage.CANCELLED, 0, short_reason(reason)))
        self._steering.withdraw(now_ns)

    _ON_ENTRY: ClassVar[Mapping[UpdaterState, Callable[[DeviceExchange, int], None]]] = {
        _S.OPENING_SESSION: _open_session,
        _S.FETCHING_ORDER: _fetch_order,
        _S.FETCHING_MANIFEST: _fetch_manifest,
        _S.CONFIRMING_ORDER: _confirm_order,
    }
    _ON_RESPONSE: ClassVar[Mapping[UpdaterState, Callable[[DeviceExchange, int, bytes, int], None]]] = {
        _S.OPENING_SESSION: _session_answered,
        _S.FETCHING_ORDER: _order_answered,
        _S.FETCHING_MANIFEST: _manifest_answered,
        _S.CONFIRMING_ORDER: _confirm_answered,
    }
