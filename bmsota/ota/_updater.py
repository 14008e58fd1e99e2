"""The updater of a master BMS: from the platform's instruction to the signed post-boot report.

Sans-IO. The updater decides; the unit around it acts. Inputs are calls (`instructed`, `conditions_changed`,
`http_head`, `slaves_flashed`, ...), effects come out of `next_action()` as values. Flash is written through the stores
that are handed in; a power cut there ends the call, and `power_on` of the next updater continues from what the flash says.

How one upgrade goes::

    IDLE -- instruction --> WAITING_SAFE_STATE -- at rest --> OPENING_SESSION (challenge, token)
      -> FETCHING_ORDER -> FETCHING_MANIFEST -> CONFIRMING_ORDER -> DOWNLOADING -> DOWNLOAD_COMPLETE
    power-on, old image:
      WAITING_TO_SWITCH -- order and manifest good, at rest --> test boot requested, RESETTING
      WAITING_TO_SWITCH -- one of them has expired --> OPENING_SESSION -> ... -> CONFIRMING_ORDER -> WAITING_TO_SWITCH
    new image in its test boot:
      DISCOVERING -> FLASHING_SLAVES -> ACTIVATING_SLAVES -> DISCOVERING -> SELF_TEST -> CONFIRMING_PACK
      -> RAISING_COUNTERS -> DISCOVERING -> REPORTING -> IDLE
      before FLASHING_SLAVES and ACTIVATING_SLAVES, not at rest: WAITING_FOR_REST, and after half an hour back
    anything wrong after the switch, or a boot that fell back:
      REVERTING_SLAVES -> RESETTING (while the new master runs) -> DISCOVERING -> REPORTING "Rolled back" -> IDLE
    refused or failed before the switch, also because the flash is worn:
      DISCOVERING -> REPORTING "Rejected", "Failed" -> IDLE

Two conditions. *Upgrade mode* holds from the acceptance of an order to its acknowledged report, and is to be shown; it
forbids nothing, so an accepted order is downloaded while the vehicle drives. *Must rest* holds while nodes are flashed,
switched or tested (DISCOVERING for that ... RESETTING), and forbids driving and charging. What "at rest" is
(`PowerConditions.refusals`) is judged when a new order is asked for, again before the switch, before the slaves are flashed
and before they are activated. The switch waits for it in the old image, over any number of power cycles: nothing has changed
yet. A new image in its test boot waits half an hour and goes back; while the vehicle drives it waits on, because going back
restarts the master, and the next power-on reverts it anyway.

Every report is made from a discovery of its own: it says what the nodes run now, not what they ran at some time before.

A report that is pending locks nothing. An instruction is followed while the updater is REPORTING: it opens a session,
delivers the report there too, and fetches the order. The report ends when the platform has it, when the platform's signed
receipt says that it is refused for good, or when a newer order is accepted. That the platform refuses it on the cloud link
ends nothing, because anyone may have said so; the receipt is asked for (`report_refused`). How the order ended is kept, and
reported once more if the platform offers that order again.

What the journal says at each moment:

    phase      means                                         after a power cut
    accepted   order and manifest are stored                 the download is resumed
    staged     the new master image waits for its test boot  the old image runs on and waits to switch; or, when the test
                                                             boot was requested, the new image is in it
    testing    the new master image runs in test             the boot falls back; slaves are reverted
    committing slaves are being confirmed                    as testing, unless the master has confirmed: success
    reverting  the pack goes back, with a reason             the pack still goes back
    report     the outcome is known and not yet delivered    it is reported at the next login, or a newer order is taken

The parts: `_states` (the table), `_actions` (values in and out), `_journal` (what survives a power cut), `_exchange` (the
device API), `_fetch` (downloads and staging), `_pack` (after the switch); here is what ties them together.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from bmsota.boot import BootReason, SlotState
from bmsota.errors import ConfigurationError, FlashError, FlashWornError, LocalProtocolError, TrustError
from bmsota.image import Attack, ImageRole
from bmsota.node import running_image_sha256
from bmsota.ota import _device_api as device_api
from bmsota.ota._actions import LogNote, PowerLimits, SendReport, TellState
from bmsota.ota._exchange import DeviceExchange
from bmsota.ota._fetch import ImageFetch
from bmsota.ota._journal import OrderRecords, Phase
from bmsota.ota._local_upgrades import OrderScope
from bmsota.ota._pack import PackUpgrade
from bmsota.ota._pack_watch import PackMaster
from bmsota.ota._report import NodeReport, Outcome, PostBootReport, short_reason, sign_report
from bmsota.ota._states import MUST_REST, STAGE_OF, TRANSITIONS, Stage, UpdaterState
from bmsota.ota._steering import Steering
from bmsota.ota._transfer import DownloadOptions, normal_origins

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from bmsota.boot import BootResult, BootStore
    from bmsota.image import ImageVersion
    from bmsota.node import NodeDescription, NodeResult
    from bmsota.ota._actions import Action, PowerConditions
    from bmsota.ota._image_store import ImageStore
    from bmsota.ota._pack_watch import PackWatch
    from bmsota.ota._trusted import DeviceTrust


SECOND = 1_000_000_000

# A report that is not acknowledged is sent again after this time, and twice as long each time: the link repeats what it can
# by itself, so the platform is there and does not take it.
REPORT_WAIT_NS = 300 * SECOND
REPORT_WAIT_NS_MAX = 3600 * SECOND

# How often the conditions are looked at while an upgrade waits for them: not every value tells when it changes.
CONDITIONS_LOOK_NS = 10 * SECOND

_DOWNLOAD_OPTIONS = DownloadOptions()
_POWER_LIMITS = PowerLimits()

_ROLLED_BACK_WITHOUT_REASON = "the new image was not confirmed before the next boot"

_S = UpdaterState


class Updater:
    """One master's updater, from one power-on to the next."""

    def __init__(
        self,
        *,
        hwid: str,
        vin: str,
        slave_positions: Sequence[int],
        device_key: Ed25519PrivateKey,
        trust: DeviceTrust,
        store: BootStore,
        image_store: ImageStore,
        master_version: Callable[[], tuple[ImageVersion, int]],
        options: DownloadOptions = _DOWNLOAD_OPTIONS,
        origins: Collection[str] = (),
        limits: PowerLimits = _POWER_LIMITS,
    ) -> None:
        """Take the parts of the unit.

        Args:
            hwid: hardware id of the master.
            vin: the vehicle.
            slave_positions: the slaves the pack is configured for; one that stays silent stops an upgrade.
            device_key: signs session proofs and post-boot reports.
            trust: what the unit believes; its state is kept in *store* (`load_trust_state`).
            store: slots and journal of the master.
            image_store: where downloaded images lie.
            master_version: version and security counter of the master image that is running.
            options: limits of everything that is fetched; its `retry_jitter` spreads the waits of a fleet.
            origins: where the platform may be without TLS, as "http://host:port". An https URL may be any: the proof of a
                session is worth nothing elsewhere.
            limits: when the pack counts as at rest.

        Raises:
            ConfigurationError: one of *origins* is none.
        """
        try:
            self._origins = normal_origins(origins)
        except ValueError as error:
            raise ConfigurationError(f"origins: {error}") from error
        self._options = options
        self._hwid = hwid
        self._vin = vin
        self._device_key = device_key
        self._trust = trust
        self._store = store
        self._master_version = master_version
        self.state = UpdaterState.IDLE
        self._actions: deque[Action] = deque()
        self._limits = limits
        self._conditions: PowerConditions | None = None
        self._look_ns: int | None = None
        """When the conditions are looked at again."""
        self._is_on = False
        self._early_url = ""
        self._told: TellState | None = None
        self._report: bytes = b""
        """The signed report that is pending; empty before it is made."""
        self._image_sha256: bytes | None = None
        """Of the master image that runs."""
        self._has_asked = False
        """Whether the platform was asked over the device API, since the last login, why it does not take the report."""
        self._report_at_ns: int | None = None
        """When the report is sent again, if it is not acknowledged before."""
        self._report_wait_ns = REPORT_WAIT_NS
        self._records = OrderRecords(
            store=store, trust=trust, images=image_store, slave_positions=slave_positions, note=self._note
        )
        steering = Steering(
            enter=self._go_to,
            refusals=self._refusals,
            act=self._act,
            tell=self._tell,
            conclude=self._conclude,
            withdraw=self._withdraw,
            report_answered=self._report_answered,
            repeat=self._report_ended_order,
            forget=self._forget_order,
        )
        self._exchange = DeviceExchange(
            hwid=hwid, device_key=device_key, records=self._records, steering=steering, options=options
        )
        self._fetch = ImageFetch(records=self._records, exchange=self._exchange, steering=steering)
        self._pack = PackUpgrade(records=self._records, steering=steering, rest_wait_ns=limits.rest_wait_s * SECOND)

    # -- outputs -----------------------------------------------------------------------------------------------------

    def next_action(self) -> Action | None:
        """What the unit must do next; None when there is nothing."""
        return self._actions.popleft() if self._actions else None

    def next_timeout(self) -> int | None:
        """When `handle_timeout` wants to be called."""
        times = (
            self._exchange.retry_at_ns,
            self._exchange.next_timeout(),
            self._fetch.next_timeout(),
            self._pack.next_timeout(),
            self._report_at_ns,
            self._look_ns,
        )
        return min((time for time in times if time is not None), default=None)

    @property
    def order_id(self) -> str:
        """Of the order under way; empty if there is none, or the next one is being asked for."""
        return "" if self._is_asking else self._records.order_id

    @property
    def _is_asking(self) -> bool:
        """Whether the next order is being asked for while the report of the last one is pending."""
        return self._records.phase is Phase.REPORT and self.state not in {_S.DISCOVERING, _S.REPORTING}

    @property
    def pack_watch(self) -> PackWatch:
        """What tells whether the nodes run images that belong together."""
        return self._records.pack_watch

    @property
    def in_upgrade_mode(self) -> bool:
        """Whether an order is accepted and not yet reported: to be shown to the driver. It forbids nothing; see `must_rest`."""
        return bool(self._records.phase)

    @property
    def must_rest(self) -> bool:
        """Whether the pack must stay at rest, without drive or charger: nodes are flashed, switched or tested."""
        return self.state in MUST_REST and self._records.phase is not Phase.REPORT

    @property
    def locks_pack(self) -> bool:
        """Whether no flasher may change a node, because an order is being asked for or carried out.

        Not while its report is pending: it has ended, the platform may be away for days, and a person at the vehicle must be able
        to flash it. What the report says was true when it was signed; the identity report behind it says what was flashed since.
        """
        if self.state is _S.IDLE:
            return False
        return self._records.phase is not Phase.REPORT or self.state is _S.DISCOVERING

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why the pack does not count as at rest, by the conditions last heard; empty if it does."""
        return self._refusals()

    @property
    def conditions_due_ns(self) -> int | None:
        """When `conditions_changed` with fresh values is wanted, before `handle_timeout`; None if nothing waits for them."""
        return self._look_ns

    @property
    def scope(self) -> OrderScope | None:
        """Which nodes the order under way answers for; None while no order is accepted.

        Raises:
            LocalProtocolError: before `power_on`, when it is not known yet whether there is one.
        """
        if not self._is_on:
            raise LocalProtocolError("updater: the scope is known after power_on only")
        phase = self._records.phase
        if not phase:
            return None
        nodes = frozenset({0, *self._records.journal.changed})
        return OrderScope(
            order_id=self._records.order_id,
            # Before the switch the order has written into the master's other slot at most.
            runs=frozenset() if phase is Phase.ACCEPTED else nodes,
            stages=nodes,
            is_concluded=phase is Phase.REPORT,
        )

    # -- power-on ----------------------------------------------------------------------------------------------------

    def power_on(self, boot: BootResult, now_ns: int) -> None:
        """Go on from what the flash says. Call once, after `BootStore.boot()`; an instruction before it is remembered.

        Records of another version, or damaged ones, end the order at worst: a `LogNote` says which, and the report.
        """
        self._is_on = True
        self._pack.boot_slot = boot.slot
        self._image_sha256 = running_image_sha256(self._store, boot)
        if self._records.restore():
            self._check_base_url()
            self._go_on(boot, now_ns)
        if self._early_url:
            base_url, self._early_url = self._early_url, ""
            self.instructed(base_url, now_ns)

    def _check_base_url(self) -> None:
        """The journal may be of a version that followed any URL, or of a unit that was told other origins."""
        base_url = self._records.journal.base_url
        if base_url and not self._is_allowed(base_url):
            self._note(f"journal: {self._expected_origin(base_url)}; the order waits for an instruction")
            self._records.ask_at("")

    def _go_on(self, boot: BootResult, now_ns: int) -> None:
        phase, is_new_master = self._records.phase, boot.slot == self._records.journal.slot
        if phase is Phase.ACCEPTED:
            self._enter(_S.WAITING_SAFE_STATE, now_ns)
        elif phase in {Phase.REVERTING, Phase.REPORT}:
            self._enter(_S.DISCOVERING, now_ns)
        elif phase is Phase.STAGED and is_new_master:
            # In test; or, after a boot that found the old image damaged, the only one there is.
            self._records.save(phase=Phase.TESTING)
            self._enter(_S.DISCOVERING, now_ns)
        elif phase is Phase.STAGED and boot.reason is BootReason.NORMAL:
            self._stay_staged(now_ns)
        elif phase is not Phase.STAGED and is_new_master:
            # Only a confirmed new image boots again: the pack was committed, and only its end is missing.
            self._records.save(phase=Phase.COMMITTING)
            self._enter(_S.RAISING_COUNTERS, now_ns)
        else:
            self._records.save(phase=Phase.REVERTING, reason=self._store.worn or _ROLLED_BACK_WITHOUT_REASON)
            self._enter(_S.DISCOVERING, now_ns)

    def _stay_staged(self, now_ns: int) -> None:
        """The journal says staged, the boot took the old image: either the switch is still to come, or it was refused."""
        if self._store.slots[self._store.spare_slot].state is SlotState.STAGED:
            self._enter(_S.WAITING_TO_SWITCH, now_ns)
        else:
            self._conclude(Outcome.FAILED, self._store.worn or "the staged image was refused at boot", now_ns)

    # -- inputs from the vehicle and the cloud link --------------------------------------------------------------------

    def instructed(self, base_url: str, now_ns: int) -> None:
        """The platform's instruction has come (0x82/0x01). It is only a hint: what counts is the signed order."""
        if not self._is_on:
            # The link may be faster than the slaves; what the journal says goes first.
            self._early_url = base_url
            return
        if not self._is_allowed(base_url):
            self._refuse_instruction(base_url)
            return
        if self.state is _S.IDLE:
            self._records.begin(base_url)
            self._exchange.tries = 0
            self._enter(_S.WAITING_SAFE_STATE, now_ns)
            return
        if self._records.phase is Phase.REPORT and self.state is _S.DISCOVERING:
            # The report is made first.
            self._early_url = base_url
        elif self.state is _S.REPORTING:
            # The platform has something for us, whatever became of the report.
            self._ask(base_url, now_ns)
            return
        is_homeless = not self._records.journal.base_url
        if (self.state is _S.WAITING_SAFE_STATE or is_homeless) and base_url != self._records.journal.base_url:
            self._records.move(base_url)
        if self._told is not None:
            # A repeated instruction means that the platform does not know how far we are.
            self._actions.append(self._told)
        if is_homeless:
            self._look_at_conditions(now_ns)

    def _is_allowed(self, base_url: str) -> bool:
        """Whether this unit signs for the platform at *base_url*: with TLS, or where it was told in production."""
        try:
            origin = device_api.origin_of(base_url)
        except ValueError:
            return False
        return origin.startswith("https:") or origin in self._origins

    def _refuse_instruction(self, base_url: str) -> None:
        problem = f"instruction: {self._expected_origin(base_url)}"
        self._note(problem)
        if self.state is _S.IDLE:
            self._actions.append(TellState("", Stage.REJECTED, 0, short_reason(problem)))

    @staticmethod
    def _expected_origin(base_url: str) -> str:
        return f"expected an https URL or the origin of this unit's platform, got {base_url[:80]!r}"

    def conditions_changed(self, conditions: PowerConditions, now_ns: int) -> None:
        """The vehicle started, stopped, was plugged in or switched off, or a value that an upgrade cares for is another.

        Call it also before the answers of the pack: each step is judged by what was last heard.
        """
        self._conditions = conditions
        self._look_at_conditions(now_ns)

    def logged_in(self, now_ns: int) -> None:
        """The cloud link is up: tell the platform what it may have missed."""
        self._has_asked = False
        if self._report:
            self._repeat_report(now_ns)
        elif self._told is not None:
            self._actions.append(self._told)

    def report_acknowledged(self, document: bytes, now_ns: int) -> None:
        """The platform has this signed report: if it is the one that is pending, the upgrade is over."""
        if self._report and document == self._report:
            self._end_report(now_ns)

    def report_refused(self, document: bytes, now_ns: int) -> None:
        """The platform has refused this signed report on the cloud link, or has not answered.

        That has no signature and ends nothing. Why it is so is asked over the device API, once a login.
        """
        if document != self._report:
            return
        if self.state is _S.REPORTING and not self._has_asked and self._records.journal.base_url:
            self._has_asked = True
            self._ask(self._records.journal.base_url, now_ns)

    # -- inputs from the connection to the device API --------------------------------------------------------------------

    def http_head(self, status: int, headers: Mapping[str, str], now_ns: int) -> None:
        """Status and headers of the response have come."""
        if not self._exchange.is_active:
            return
        if self._fetch.is_under_way:
            self._fetch.receive_head(status, headers, now_ns)
        else:
            self._exchange.receive_head(status, headers, now_ns)

    def http_body(self, data: bytes, now_ns: int) -> None:
        """Some of the response's body has come."""
        if not self._exchange.is_active:
            return
        if self._fetch.is_under_way:
            self._fetch.receive_body(data, now_ns)
        else:
            self._exchange.receive_body(data, now_ns)

    def http_ended(self, error: str | None, now_ns: int) -> None:
        """The exchange is over; *error* says why, if before its end."""
        if not self._exchange.is_active:
            return
        self._exchange.is_active = False
        if self._fetch.is_under_way:
            self._fetch.ended(error, now_ns)
        else:
            self._exchange.ended(error, self.state, now_ns)

    # -- inputs from the pack: each the answer to one action, and nothing in any other state -----------------------------

    def nodes_seen(self, nodes: Sequence[NodeDescription]) -> None:
        """Any discovery has found these: what their slots hold decides, before a download, whether images fit."""
        self._records.described = {node.position: node for node in nodes if node.position > 0}

    def nodes_discovered(
        self, nodes: Sequence[NodeDescription], now_ns: int, *, refused: Sequence[NodeResult] = ()
    ) -> None:
        """The answer to `DiscoverNodes`: who answered, and who did with an identity that cannot be; only the slaves count."""
        if self.state is _S.DISCOVERING:
            self._pack.nodes_discovered(nodes, now_ns, refused)

    def slave_staged(self, position: int) -> None:
        """One slave of `FlashSlaves` has the whole image."""
        if self.state is _S.FLASHING_SLAVES:
            self._pack.slave_staged(position)

    def slaves_flashed(self, outcomes: Sequence[NodeResult], now_ns: int) -> None:
        """The answer to `FlashSlaves`."""
        if self.state is _S.FLASHING_SLAVES:
            self._pack.slaves_flashed(outcomes, now_ns)

    def slaves_activated(self, outcomes: Sequence[NodeResult], now_ns: int) -> None:
        """The answer to `ActivateSlaves`."""
        if self.state is _S.ACTIVATING_SLAVES:
            self._pack.slaves_activated(outcomes, now_ns)

    def self_tested(self, *, passed: bool, reason: str, now_ns: int) -> None:
        """The answer to `RunSelfTest`."""
        if self.state is _S.SELF_TEST:
            self._pack.self_tested(passed=passed, reason=reason, now_ns=now_ns)

    def slaves_confirmed(self, outcomes: Sequence[NodeResult], now_ns: int) -> None:
        """The answer to `ConfirmSlaves`."""
        if self.state is _S.CONFIRMING_PACK:
            self._pack.slaves_confirmed(outcomes, now_ns)

    def counters_raised(self, _outcomes: Sequence[NodeResult], now_ns: int) -> None:
        """The answer to `RaiseCounters`. The report says what they really stand at."""
        if self.state is _S.RAISING_COUNTERS:
            self._enter(_S.DISCOVERING, now_ns)

    def slaves_reverted(self, _outcomes: Sequence[NodeResult], now_ns: int) -> None:
        """The answer to `RevertSlaves`."""
        if self.state is _S.REVERTING_SLAVES:
            self._pack.slaves_reverted(now_ns)

    # -- time ------------------------------------------------------------------------------------------------------------

    def handle_timeout(self, now_ns: int) -> None:
        """Do what is due; nothing before its time."""
        if self._exchange.retry_at_ns is not None and now_ns >= self._exchange.retry_at_ns:
            self._exchange.retry_at_ns = None
            if self.state is _S.WAITING_SAFE_STATE:
                self._try_upgrade_mode(now_ns)
        if self._look_ns is not None and now_ns >= self._look_ns:
            self._look_at_conditions(now_ns)
        self._exchange.handle_timeout(now_ns)
        self._fetch.handle_timeout(now_ns)
        self._pack.handle_timeout(self.state, now_ns)
        if self._report_at_ns is not None and now_ns >= self._report_at_ns:
            self._report_wait_ns = min(2 * self._report_wait_ns, REPORT_WAIT_NS_MAX)
            self._repeat_report(now_ns)

    # -- private: what the parts do to the whole (`Steering`) ------------------------------------------------------------

    def _go_to(self, state: UpdaterState, now_ns: int) -> None:
        """Where a part wants to go. Without a newer order there is no rest while a report is pending."""
        is_pending = self._records.phase is Phase.REPORT
        if not is_pending:
            # Delivered, given up, or superseded by an order that was accepted.
            self._report, self._report_at_ns = b"", None
        self._enter(_S.REPORTING if is_pending and state is _S.IDLE else state, now_ns)

    def _enter(self, state: UpdaterState, now_ns: int) -> None:
        if state not in TRANSITIONS[self.state]:
            raise LocalProtocolError(
                f"updater: expected a state that follows {self.state.value!r}, got {state.value!r}"
            )
        self.state = state
        self._look_ns = None
        if state in self._ON_ENTRY:
            self._ON_ENTRY[state](self, now_ns)
        for part in (self._exchange, self._fetch, self._pack):
            if self.state is state:  # A part may have gone on already.
                part.entered(state, now_ns)

    def _tell(self, progress_pct: int, reason: str = "") -> None:
        told = TellState(self.order_id, STAGE_OF[self.state], progress_pct, short_reason(reason))
        if told != self._told:
            self._told = told
            self._actions.append(told)

    def _act(self, action: Action) -> None:
        self._actions.append(action)

    def _note(self, text: str) -> None:
        self._act(LogNote(text))

    def _withdraw(self, now_ns: int) -> None:
        if not self._is_asking:
            self._records.close(is_withdrawn=True)
        self._forget_progress()
        self._go_to(_S.IDLE, now_ns)

    def _forget_order(self) -> None:
        if not self._is_asking:
            self._records.forget()
        self._forget_progress()

    def _forget_progress(self) -> None:
        self._told = None
        self._exchange.reset()
        self._fetch.reset()

    def _conclude(self, outcome: Outcome, reason: str, now_ns: int) -> None:
        """The outcome is known. The report is made from a fresh discovery."""
        self._exchange.retry_at_ns = None
        self._report, self._report_at_ns = b"", None
        self._records.save(phase=Phase.REPORT, outcome=outcome.value, reason=short_reason(reason))
        fresh = self.state is _S.DISCOVERING
        self._enter(_S.REPORTING if fresh else _S.DISCOVERING, now_ns)

    # -- private: the report that is pending ---------------------------------------------------------------------------

    def _ask(self, base_url: str, now_ns: int) -> None:
        """Deliver the report over the device API, and ask for a newer order, which supersedes it."""
        self._records.ask_at(base_url)
        self._told = None
        self._exchange.tries = 0
        self._exchange.report = self._report
        self._enter(_S.WAITING_SAFE_STATE, now_ns)

    def _end_report(self, now_ns: int) -> None:
        """It was delivered, or given up. How the order ended stays in the unit's records."""
        base_url = self._records.journal.base_url
        self._records.close()
        self._report, self._report_at_ns = b"", None
        if self.state is _S.REPORTING:
            self._forget_progress()
            self._enter(_S.IDLE, now_ns)
        else:
            # On the way to a newer order.
            self._exchange.report = b""
            self._records.begin(base_url)

    def _report_answered(self, receipt: bytes, now_ns: int) -> None:
        if not self._report:
            # It was taken on the cloud link meanwhile.
            return
        try:
            answer = self._trust.check_receipt(receipt, self._report)
        except TrustError as refusal:
            self._note(f"the answer to the report is not believed: {refusal}")
            return
        if answer.reason == Attack.REPLAY and self._records.raise_report_counter(answer.counter):
            # Our counter has begun anew: erased flash, or another master in this vehicle.
            self._note(
                f"the platform has taken reports up to {answer.counter} from this vehicle; the report is signed anew"
            )
            self._report = b""
            self._send_report(now_ns)
            return
        if answer.reason:
            self._note(f"the platform refuses the report for good: {answer.reason}: {answer.detail}")
        self._end_report(now_ns)

    def _report_ended_order(self, now_ns: int) -> None:
        """The platform offers the order whose end it should know."""
        if self._report:
            self._enter(_S.REPORTING, now_ns)
            self._repeat_report(now_ns)
        else:
            self._enter(_S.DISCOVERING, now_ns)

    # -- private: the states that belong to no part ----------------------------------------------------------------------

    def _refusals(self) -> tuple[str, ...]:
        if self._conditions is None:
            return ("the vehicle has not said what it does",)
        return self._conditions.refusals(self._limits)

    def _look_at_conditions(self, now_ns: int) -> None:
        if self.state is _S.WAITING_SAFE_STATE:
            self._try_upgrade_mode(now_ns)
        elif self.state is _S.WAITING_TO_SWITCH:
            self._try_switch(now_ns)
        elif self.state is _S.WAITING_FOR_REST:
            self._look_again(now_ns)
            self._pack.look_for_rest(now_ns)

    def _look_again(self, now_ns: int) -> None:
        self._look_ns = now_ns + CONDITIONS_LOOK_NS

    def _try_upgrade_mode(self, now_ns: int) -> None:
        """Ask the platform. A new order is taken at rest only; one that is accepted is downloaded while driving, too."""
        if self._exchange.retry_at_ns is not None:
            return
        if self._records.phase is Phase.STAGED:
            self._enter(_S.WAITING_TO_SWITCH, now_ns)
            return
        if not self._records.journal.base_url:
            self._tell(0, "waiting for an instruction")
            return
        if self._records.phase in {Phase.NONE, Phase.REPORT} and not self._is_at_rest(0, now_ns):
            return
        self._enter(_S.OPENING_SESSION, now_ns)

    def _is_at_rest(self, progress_pct: int, now_ns: int) -> bool:
        """Whether the pack rests; if not, the platform hears why, and it is looked at again."""
        refusals = self._refusals()
        if not refusals:
            return True
        self._look_again(now_ns)
        if self._conditions is not None:
            self._tell(progress_pct, ", ".join(refusals))
        return False

    def _try_switch(self, now_ns: int) -> None:
        """The image was staged before this power-on: to its test boot, if its order is still good and the pack rests."""
        if expired := self._exchange.expiry(now_ns):
            self._tell(100, expired)
            if self._records.journal.base_url:
                self._enter(_S.OPENING_SESSION, now_ns)
        elif self._is_at_rest(100, now_ns):
            self._request_test(now_ns)

    def _request_test(self, now_ns: int) -> None:
        """No switch on a journal that does not keep the request, or has no second copy of it."""
        with suppress(FlashWornError):
            self._store.request_test()
        if not self._store.worn:
            self._enter(_S.RESETTING, now_ns)
            return
        if self._store.slots[self._store.spare_slot].state is SlotState.TEST_REQUESTED:
            with suppress(FlashError):
                self._store.revert()
        self._conclude(Outcome.FAILED, self._store.worn, now_ns)

    def _send_report(self, now_ns: int) -> None:
        """Sign the report once for this power-on: repeated at a login it must be the same document to the platform."""
        if self._report:
            return
        now_s = now_ns // SECOND
        counter = self._records.next_report_counter(now_s)
        version, security_counter = self._master_version()
        master = NodeReport(
            position=0,
            role=ImageRole.MASTER,
            hwid=self._hwid,
            version=version,
            security_counter=security_counter,
            image_sha256=self._image_sha256,
        )
        report = PostBootReport(
            order_id=self._records.order_id,
            vin=self._vin,
            hwid=self._hwid,
            outcome=Outcome(self._records.journal.outcome),
            reason=self._records.journal.reason,
            counter=counter,
            time_s=now_s,
            nodes=(master, *self._pack.slaves),
            mixed_pack=self._mixed_pack(version),
            sequence=self._trust.state.sequence,
            manifest_sha256=None if self._records.order is None else self._records.order.manifest_sha256,
        )
        self._report = sign_report(report, self._device_key)
        self._report_wait_ns = REPORT_WAIT_NS
        self._repeat_report(now_ns)
        if self._early_url and self.state is _S.REPORTING:
            base_url, self._early_url = self._early_url, ""
            self._ask(base_url, now_ns)

    def _repeat_report(self, now_ns: int) -> None:
        self._actions.append(SendReport(self._report))
        self._report_at_ns = now_ns + self._options.wait_ns(self._report_wait_ns)

    def _mixed_pack(self, version: ImageVersion) -> str:
        """What the report says of it. A success is none: it was judged against the release itself."""
        if self._records.journal.outcome == Outcome.SUCCEEDED:
            return ""
        master = PackMaster(self._trust.hardware_class(0).class_id, version, self._image_sha256)
        return self.pack_watch.judge((master, *self._pack.nodes))

    _ON_ENTRY: ClassVar[Mapping[UpdaterState, Callable[[Updater, int], None]]] = {
        _S.WAITING_SAFE_STATE: _try_upgrade_mode,
        _S.WAITING_TO_SWITCH: _try_switch,
        _S.WAITING_FOR_REST: _look_again,
        _S.REPORTING: _send_report,
    }
