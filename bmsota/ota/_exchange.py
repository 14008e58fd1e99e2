"""The updater's exchanges with the device API: challenge, session, order, manifest, confirmation, and their retries.

One exchange at a time, one a state (two for the session). The download of images uses the same connection; see `_fetch`.

What a failed exchange means:

    no response, a late, slow or broken one, "later" (408,   wait, twice as long each time, and begin with a new session.
    425, 429, 5xx), 401, a redirect elsewhere, a web page,   Without an accepted order the eighth ends it, until the next
    an encoding, another length than announced               instruction; with one it goes on until the order expires
    a document with no valid signature, or not the one that  the same; the third time the very same bytes: "Rejected"
    was asked for
    a signed document that this unit must not follow         "Rejected" at once; but a staged image waits for a renewed
                                                             order when its own has expired. An order that was never
                                                             accepted is refused in the session, and ends no other
    404, 410, 422 for the manifest or the confirmation       the same; the eighth time the same answer: "Failed"
    409 for the confirmation, in the platform's own words    the order was cancelled
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from bmsota.errors import BmsotaError, TransferError, TrustError
from bmsota.image import Attack
from bmsota.ota import _device_api as device_api
from bmsota.ota._actions import AbortHttp, StartHttp, TellState
from bmsota.ota._http import find_header, retry_after_s
from bmsota.ota._journal import Phase
from bmsota.ota._report import Outcome, short_reason
from bmsota.ota._states import Stage, UpdaterState
from bmsota.ota._transfer import REDIRECTS_MAX, STATUS_REDIRECT, ResponseWatchdog, redirect_target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from bmsota.ota._http import HttpRequest
    from bmsota.ota._journal import OrderRecords
    from bmsota.ota._steering import Steering
    from bmsota.ota._transfer import DownloadOptions


SECOND: Final = 1_000_000_000

# How often a failed exchange before the download is tried, with the wait doubling up to the maximum. Eight tries span
# about ten minutes; then the order is left for the next instruction, which the platform repeats at every login. Once the
# order is accepted, a unit without network waits on, until the platform withdraws the order or it has expired; but more than
# eight downloads in a row that bring no block at all, from a server that answers, are a failure.
EXCHANGE_TRIES_MAX: Final = 8
EXCHANGE_WAIT_NS: Final = 5 * SECOND
EXCHANGE_WAIT_NS_MAX: Final = 300 * SECOND
# A document that is not believed may have been spoilt on the way: it is fetched as often as a block.
DOCUMENT_TRIES_MAX: Final = 3

# A response of the device API that is no image: a document of COSE is below 64 KiB (bmsota.ota bounds it again).
ANSWER_SIZE_BYTES_MAX: Final = 64 * 1024

# The platform may have a better order at hand, once it knows what is wrong with the first. Then the session is over.
ORDERS_REFUSED_MAX: Final = 2

# What is found before, or without, a valid signature: bytes that somebody on the way may have changed, or mixed up.
_UNSIGNED: Final = frozenset(
    {
        Attack.ARBITRARY_SOFTWARE,
        Attack.CORRUPTED_DATA,
        Attack.ENDLESS_DATA,
        Attack.MALFORMED_DOCUMENT,
        Attack.MIXED_BUNDLE,
        Attack.WRONG_DOCUMENT,
    }
)

_ACCEPTED: Final = device_api.Decision.ACCEPTED

_S = UpdaterState


class DeviceExchange:
    """One updater's exchanges, from one power-on to the next."""

    def __init__(
        self,
        *,
        hwid: str,
        device_key: Ed25519PrivateKey,
        records: OrderRecords,
        steering: Steering,
        options: DownloadOptions,
    ) -> None:
        self._hwid = hwid
        self._device_key = device_key
        self._records = records
        self._steering = steering
        self._token = ""
        self._options = options
        self._challenge_pending = False
        self._request: HttpRequest | None = None
        self._redirects = 0
        self._answer = bytearray()
        self._status: int | None = None
        self._headers: Mapping[str, str] = {}
        self._retry_after_s: int | None = None
        self._watchdog = ResponseWatchdog(options)
        self._refused = ""
        """What was refused last, as state and digest of the answer."""
        self._refusals = 0
        """How often in a row."""
        self.is_active = False
        self.tries = 0
        """Failed exchanges in a row."""
        self.retry_at_ns: int | None = None
        self.report = b""
        """A signed report to be delivered in the next session, before the order is fetched."""
        self._awaits_receipt = False
        self._orders_refused = 0
        """In this session."""
        self._awaits_other_order = False

    # -- the connection ------------------------------------------------------------------------------------------------

    @property
    def options(self) -> DownloadOptions:
        """Limits of this unit's downloads, from where its platform is now."""
        try:
            return replace(self._options, origin=device_api.origin_of(self._records.journal.base_url))
        except ValueError:
            return self._options

    def start_download(self, request: HttpRequest) -> None:
        """Send a request for image bytes, with the session's token; its deadlines are the download's."""
        self.is_active = True
        self._steering.act(StartHttp(self._records.journal.base_url, device_api.authorised(request, self._token)))

    def _start(self, request: HttpRequest, now_ns: int, *, is_redirected: bool = False) -> None:
        self._request = request
        self._redirects = self._redirects + 1 if is_redirected else 0
        self._answer = bytearray()
        self._status = None
        self._headers = {}
        self._retry_after_s = None
        self._watchdog.request_sent(now_ns)
        self.is_active = True
        self._steering.act(StartHttp(self._records.journal.base_url, request))

    def drop(self) -> None:
        """Abort the exchange under way, if there is one."""
        self._watchdog.stop()
        if self.is_active:
            self.is_active = False
            self._steering.act(AbortHttp())

    def receive_head(self, status: int, headers: Mapping[str, str], now_ns: int) -> None:
        """Status and headers of the response have come."""
        self._status = status
        self._headers = headers
        self._retry_after_s = retry_after_s(headers, now_ns)
        self._watchdog.head_received(now_ns)

    def receive_body(self, data: bytes, now_ns: int) -> None:
        """Some of the response's body has come."""
        self._watchdog.bytes_received(len(data), now_ns)
        if len(self._answer) + len(data) <= ANSWER_SIZE_BYTES_MAX:
            self._answer += data
            self._judge(now_ns)
        else:
            self.drop()
            self.failed(f"expected at most {ANSWER_SIZE_BYTES_MAX} bytes of answer, got more", now_ns)

    def ended(self, error: str | None, state: UpdaterState, now_ns: int) -> None:
        """The exchange of *state* is over; *error* says why, if before its end."""
        self._watchdog.stop()
        if error is not None or self._status is None:
            self.failed(error or "no answer", now_ns)
            return
        try:
            if not self._follow_redirect(now_ns):
                self._check_transport()
                self._ON_RESPONSE[state](self, self._status, bytes(self._answer), now_ns)
        except TrustError as refusal:
            self._untrusted(refusal, state, now_ns)
        except TransferError as problem:
            is_about_the_order = problem.permanent and state in {_S.FETCHING_MANIFEST, _S.CONFIRMING_ORDER}
            # A document that is genuine and cannot be followed (200), such as images too large for this unit, stays so.
            if is_about_the_order and (self._status == 200 or self._is_repeated(state, EXCHANGE_TRIES_MAX)):
                self._steering.conclude(Outcome.FAILED, str(problem), now_ns)
            else:
                self.failed(str(problem), now_ns)
        except BmsotaError as problem:
            self.failed(str(problem), now_ns)

    def next_timeout(self) -> int | None:
        """When `handle_timeout` wants to be called; the end of a wait is the updater's own (`retry_at_ns`)."""
        return self._watchdog.deadline_ns

    def handle_timeout(self, now_ns: int) -> None:
        """Give up a response that is late, stuck or too slow."""
        self._judge(now_ns)

    def _judge(self, now_ns: int) -> None:
        problem = self._watchdog.judge(now_ns)
        if problem:
            self.drop()
            self.failed(problem, now_ns)

    def _follow_redirect(self, now_ns: int) -> bool:
        """Go where the answer leads. False: it leads nowhere. Only documents may lie elsewhere; they are signed."""
        request = self._request
        if request is None or request.method != "GET" or self._status not in STATUS_REDIRECT:
            return False
        if self._redirects >= REDIRECTS_MAX:
            raise TransferError(f"more than {REDIRECTS_MAX} redirects", permanent=False)
        location = find_header(self._headers, "Location")
        target = redirect_target(location, came_from=(request.origin, request.path), options=self.options)
        if target is None:
            problem = f"redirected to an origin that is not allowed: {(location or 'none')[:80]}"
            raise TransferError(problem, permanent=False)
        headers = {name: value for name, value in request.headers.items() if name != "Authorization"}
        moved = replace(request, origin=target[0], path=target[1], headers=headers)
        self._start(device_api.authorised(moved, self._token), now_ns, is_redirected=True)
        return True

    def _check_transport(self) -> None:
        """Refuse what cannot be the platform's own answer, or not all of it.

        Raises:
            TransferError: an encoding, a web page, another length than announced.
        """
        encoding = (find_header(self._headers, "Content-Encoding") or "identity").strip().lower()
        if encoding != "identity":
            raise TransferError(f"expected identity encoding, got {encoding[:40]}", permanent=False)
        if (find_header(self._headers, "Content-Type") or "").lower().startswith("text/html"):
            problem = f"the server sent a web page, not an answer of the device API (a captive portal?), {self._status}"
            raise TransferError(problem, permanent=False)
        length = (find_header(self._headers, "Content-Length") or "").strip()
        if length and length != str(len(self._answer)):
            raise TransferError(f"expected {length[:20]} bytes of answer, got {len(self._answer)}", permanent=False)

    def _is_repeated(self, state: UpdaterState, times: int) -> bool:
        """Count this refusal. True: *state* has brought the very same answer so many times in a row."""
        digest = hashlib.sha256(self._answer).hexdigest()
        refused = f"{state} {self._status} {digest}"
        self._refusals = self._refusals + 1 if refused == self._refused else 1
        self._refused = refused
        return self._refusals >= times

    def _untrusted(self, refusal: TrustError, state: UpdaterState, now_ns: int) -> None:
        is_staged_and_expired = refusal.attack is Attack.FREEZE and self._records.phase is Phase.STAGED
        if is_staged_and_expired or (refusal.attack in _UNSIGNED and not self._is_repeated(state, DOCUMENT_TRIES_MAX)):
            # A staged image waits for a renewed order, or for a clock that is right again.
            self.failed(str(refusal), now_ns)
        elif state is _S.FETCHING_ORDER and not self._records.is_open_order(bytes(self._answer)):
            self._refuse_order(bytes(self._answer), str(refusal), now_ns)
        else:
            # Nothing is switched, the old pack runs on, and the platform hears the name of the attack.
            self._steering.conclude(Outcome.REJECTED, str(refusal), now_ns)

    # -- retries -------------------------------------------------------------------------------------------------------

    def failed(self, problem: str, now_ns: int, *, retry_after_s: int | None = None) -> None:
        """An exchange failed: wait and begin with a new session, or leave it to the next instruction."""
        self.tries += 1
        self._steering.tell(0, problem)
        if self.tries >= EXCHANGE_TRIES_MAX and self._records.phase in {Phase.NONE, Phase.REPORT}:
            # Nothing has begun, and the platform sends its instruction again at the next login.
            self._steering.forget()
            self._steering.enter(_S.IDLE, now_ns)
            return
        wait_ns = min(EXCHANGE_WAIT_NS << min(self.tries - 1, 16), EXCHANGE_WAIT_NS_MAX)
        self.retry_at_ns = now_ns + self._options.wait_ns(wait_ns, retry_after_s or self._retry_after_s)
        self._retry_after_s = None
        self._steering.enter(_S.WAITING_SAFE_STATE, now_ns)

    def reset(self) -> None:
        """The order is over; the next one begins without a past."""
        self.retry_at_ns = None
        self.tries = 0
        self.report = b""
        self._refused, self._refusals = "", 0

    # -- one exchange a state ------------------------------------------------------------------------------------------

    def entered(self, state: UpdaterState, now_ns: int) -> None:
        """Do what entering *state* asks for here."""
        if state in self._ON_ENTRY:
            self._ON_ENTRY[state](self, now_ns)

    def _open_session(self, now_ns: int) -> None:
        self._steering.tell(0, "")
        self._challenge_pending = True
        self._start(device_api.challenge_request(self._hwid), now_ns)

    def _session_answered(self, status: int, body: bytes, now_ns: int) -> None:
        if self._challenge_pending:
            challenge = device_api.parse_challenge(status, body)
            try:
                origin = device_api.origin_of(self._records.journal.base_url)
            except ValueError as error:
                raise TransferError(f"session: {error}", permanent=False) from error
            signature = self._device_key.sign(device_api.session_proof(self._hwid, challenge, origin))
            self._challenge_pending = False
            self._start(device_api.session_request(self._hwid, challenge, origin, signature), now_ns)
            return
        self._token = device_api.parse_session(status, body)
        # Also when an order is stored: it may have been withdrawn, or signed anew with a later expiry.
        self._steering.enter(_S.FETCHING_ORDER, now_ns)

    def _fetch_order(self, now_ns: int) -> None:
        self._orders_refused, self._awaits_other_order = 0, False
        # Once: whatever becomes of it, the order is fetched behind it, because a newer order ends the report too.
        report, self.report = self.report, b""
        self._awaits_receipt = bool(report)
        request = device_api.report_request(self._token, report) if report else device_api.order_request(self._token)
        self._start(request, now_ns)

    def _order_answered(self, status: int, body: bytes, now_ns: int) -> None:
        if self._awaits_receipt:
            self._awaits_receipt = False
            receipt = device_api.parse_receipt(status, body)
            if receipt is not None:
                self._steering.report_answered(receipt, now_ns)
            self._start(device_api.order_request(self._token), now_ns)
            return
        if self._awaits_other_order and status != device_api.STATUS_OK:
            self._leave_order(now_ns)
            return
        if status == device_api.STATUS_NOT_FOUND:
            # "No order" is 204: this is not the device API that answers.
            raise TransferError("order: expected 200 or 204, got 404", permanent=False)
        document = device_api.parse_document(status, body)
        if document is None:
            # No order for us: it was withdrawn, or the instruction was old. Nothing was switched, nothing is owed.
            self._withdraw("the platform has no order for this unit", now_ns)
            return
        if self._records.take_up_ended(document):
            self._steering.repeat(now_ns)
            return
        has_manifest = self._records.accept_order(document, now_ns)
        if self._records.phase is Phase.STAGED and not has_manifest:
            # The renewed order names another release: what is staged is not it.
            self._records.save(phase=Phase.ACCEPTED)
        self._steering.enter(_S.CONFIRMING_ORDER if has_manifest else _S.FETCHING_MANIFEST, now_ns)

    def _refuse_order(self, document: bytes, reason: str, now_ns: int) -> None:
        """The order itself is not believed, so there is none to report on: say so in the session, which the unit's key opened."""
        self._steering.act(TellState("", Stage.REJECTED, 0, short_reason(reason)))
        self._orders_refused += 1
        if self._orders_refused > ORDERS_REFUSED_MAX:
            self._leave_order(now_ns)
            return
        self._awaits_other_order = True
        request = device_api.refusal_request(
            self._token,
            order_sha256=hashlib.sha256(document).digest(),
            sequence=self._records.trust.state.sequence,
            reason=short_reason(reason),
        )
        self._start(request, now_ns)

    def _leave_order(self, now_ns: int) -> None:
        """No order that is believed. One that was accepted before goes on; else the next instruction starts anew."""
        if self._records.phase in {Phase.ACCEPTED, Phase.STAGED}:
            self.failed("the platform offers an order that is not believed", now_ns)
            return
        self._steering.forget()
        self._steering.enter(_S.IDLE, now_ns)

    def _fetch_manifest(self, now_ns: int) -> None:
        assert self._records.order is not None
        self._start(device_api.manifest_request(self._token, self._records.order.manifest_sha256), now_ns)

    def _manifest_answered(self, status: int, body: bytes, now_ns: int) -> None:
        document = device_api.parse_document(status, body)
        if document is None:
            raise TransferError("manifest: the platform does not have it", permanent=True)
        self._records.accept_manifest(document, now_ns)
        self._steering.enter(_S.CONFIRMING_ORDER, now_ns)

    def _confirm_order(self, now_ns: int) -> None:
        request = device_api.confirm_request(self._token, self._records.order_id, decision=_ACCEPTED, reason="")
        self._start(request, now_ns)

    def _confirm_answered(self, status: int, body: bytes, now_ns: int) -> None:
        if status == device_api.STATUS_CONFLICT and device_api.parse_refusal(body) is not None:
            self._withdraw("the platform has cancelled the order", now_ns)
            return
        device_api.parse_confirmed(status, body, order_id=self._records.order_id, decision=_ACCEPTED)
        if self._records.phase is Phase.STAGED and (problem := self.expiry(now_ns)):
            # The order was renewed; its manifest was not.
            self.failed(problem, now_ns)
            return
        self.tries = 0
        is_staged = self._records.phase is Phase.STAGED
        self._steering.enter(_S.WAITING_TO_SWITCH if is_staged else _S.DOWNLOADING, now_ns)

    def expiry(self, now_ns: int) -> str:
        """Why the order or its manifest is not good any more; empty when both are."""
        assert self._records.order is not None
        assert self._records.manifest is not None
        try:
            self._records.trust.check_validity(self._records.order, self._records.manifest, now_ns)
        except TrustError as refusal:
            return str(refusal)
        return ""

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
