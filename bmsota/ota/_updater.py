"""The updater of a master BMS: from the platform's instruction to the signed post-boot report.

Sans-IO. The updater decides; the unit around it acts. Inputs are calls (`instructed`, `conditions_changed`,
`http_head`, `slaves_flashed`, ...), effects come out of `next_action()` as values. Flash is written through the stores
that are handed in; a power cut there ends the call, and `power_on` of the next updater continues from what the flash says.

How one upgrade goes::

    IDLE -- instruction --> WAITING_SAFE_STATE -- parked, not charging --> OPENING_SESSION (challenge, token)
      -> FETCHING_ORDER -> FETCHING_MANIFEST -> CONFIRMING_ORDER -> DOWNLOADING -> DOWNLOAD_COMPLETE
    power-on, new image in its test boot:
      DISCOVERING -> FLASHING_SLAVES -> ACTIVATING_SLAVES -> DISCOVERING -> SELF_TEST -> CONFIRMING_PACK
      -> RAISING_COUNTERS -> DISCOVERING -> REPORTING -> IDLE
    anything wrong after the switch, or a boot that fell back:
      REVERTING_SLAVES -> RESETTING (while the new master runs) -> DISCOVERING -> REPORTING "Rolled back" -> IDLE
    refused or failed before the switch:
      DISCOVERING -> REPORTING "Rejected", "Failed" -> IDLE

Every report is made from a discovery of its own: it says what the nodes run now, not what they ran at some time before.

What the journal says at each moment:

    phase      means                                         after a power cut
    accepted   order and manifest are stored                 the download is resumed
    staged     the new master image waits for its test boot  the next boot is the switch
    testing    the new master image runs in test             the boot falls back; slaves are reverted
    committing slaves are being confirmed                    as testing, unless the master has confirmed: success
    reverting  the pack goes back, with a reason             the pack still goes back
    report     the outcome is known and not yet delivered    it is reported at the next login

The parts: `_states` (the table), `_actions` (values in and out), `_journal` (what survives a power cut), `_exchange` (the
device API), `_fetch` (downloads and staging), `_pack` (after the switch); here is what ties them together.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, ClassVar

from bmsota.boot import BootReason, SlotState
from bmsota.errors import LocalProtocolError
from bmsota.image import ImageRole
from bmsota.node import running_image_sha256
from bmsota.ota._actions import LogNote, SendReport, TellState
from bmsota.ota._exchange import DeviceExchange
from bmsota.ota._fetch import ImageFetch
from bmsota.ota._journal import OrderRecords, Phase
from bmsota.ota._local_upgrades import OrderScope
from bmsota.ota._pack import PackUpgrade
from bmsota.ota._pack_watch import PackMaster
from bmsota.ota._report import NodeReport, Outcome, PostBootReport, short_reason, sign_report
from bmsota.ota._states import AT_REST, STAGE_OF, TRANSITIONS, UpdaterState
from bmsota.ota._steering import Steering

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from bmsota.boot import BootResult, BootStore
    from bmsota.image import ImageVersion
    from bmsota.node import NodeDescription, NodeResult
    from bmsota.ota._actions import Action, PowerConditions
    from bmsota.ota._image_store import ImageStore
    from bmsota.ota._pack_watch import PackWatch
    from bmsota.ota._trusted import DeviceTrust


SECOND = 1_000_000_000

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
        """
        self._hwid = hwid
        self._vin = vin
        self._device_key = device_key
        self._trust = trust
        self._store = store
        self._master_version = master_version
        self.state = UpdaterState.IDLE
        self._actions: deque[Action] = deque()
        self._conditions: PowerConditions | None = None
        self._is_on = False
        self._early_url = ""
        self._told: TellState | None = None
        self._report: bytes = b""
        self._image_sha256: bytes | None = None
        """Of the master image that runs."""
        self._records = OrderRecords(
            store=store, trust=trust, images=image_store, slave_positions=slave_positions, note=self._note
        )
        steering = Steering(
            enter=self._enter,
            act=self._act,
            tell=self._tell,
            conclude=self._conclude,
            close=self._close,
            forget=self._forget_order,
        )
        self._exchange = DeviceExchange(hwid=hwid, device_key=device_key, records=self._records, steering=steering)
        self._fetch = ImageFetch(records=self._records, exchange=self._exchange, steering=steering)
        self._pack = PackUpgrade(records=self._records, steering=steering)

    # -- outputs -----------------------------------------------------------------------------------------------------

    def next_action(self) -> Action | None:
        """What the unit must do next; None when there is nothing."""
        return self._actions.popleft() if self._actions else None

    def next_timeout(self) -> int | None:
        """When `handle_timeout` wants to be called."""
        times = [time for time in (self._exchange.retry_at_ns, self._fetch.next_timeout()) if time is not None]
        return min(times) if times else None

    @property
    def order_id(self) -> str:
        """Of the order under way; empty if there is none."""
        return self._records.order_id

    @property
    def pack_watch(self) -> PackWatch:
        """What tells whether the nodes run images that belong together."""
        return self._records.pack_watch

    @property
    def in_upgrade_mode(self) -> bool:
        """Whether the pack must stay at rest: contactors open, no drive."""
        return self.state in AT_REST

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
            order_id=self.order_id,
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
            self._go_on(boot, now_ns)
        if self._early_url:
            self.instructed(self._early_url, now_ns)

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
            self._records.save(phase=Phase.REVERTING, reason=_ROLLED_BACK_WITHOUT_REASON)
            self._enter(_S.DISCOVERING, now_ns)

    def _stay_staged(self, now_ns: int) -> None:
        """The journal says staged, the boot took the old image: either the switch is still to come, or it was refused."""
        if self._store.slots[self._store.spare_slot].state is SlotState.STAGED:
            # The power was cut between the two journal writes of staging.
            self._store.request_test()
            self._enter(_S.DOWNLOAD_COMPLETE, now_ns)
        else:
            self._conclude(Outcome.FAILED, "the staged image was refused at boot", now_ns)

    # -- inputs from the vehicle and the cloud link --------------------------------------------------------------------

    def instructed(self, base_url: str, now_ns: int) -> None:
        """The platform's instruction has come (0x82/0x01). It is only a hint: what counts is the signed order."""
        if not self._is_on:
            # The link may be faster than the slaves; what the journal says goes first.
            self._early_url = base_url
            return
        if self.state is _S.IDLE:
            self._records.begin(base_url)
            self._exchange.tries = 0
            self._enter(_S.WAITING_SAFE_STATE, now_ns)
            return
        if self.state is _S.WAITING_SAFE_STATE and base_url != self._records.journal.base_url:
            self._records.move(base_url)
        if self._told is not None:
            # A repeated instruction means that the platform does not know how far we are.
            self._actions.append(self._told)

    def conditions_changed(self, conditions: PowerConditions, now_ns: int) -> None:
        """The vehicle started, stopped, was plugged in or switched off."""
        self._conditions = conditions
        if self.state is _S.WAITING_SAFE_STATE:
            self._try_upgrade_mode(now_ns)

    def logged_in(self, now_ns: int) -> None:  # noqa: ARG002 - every input has the time
        """The cloud link is up: tell the platform what it may have missed."""
        if self.state is _S.REPORTING:
            self._actions.append(SendReport(self._report))
        elif self._told is not None:
            self._actions.append(self._told)

    def report_acknowledged(self, now_ns: int) -> None:
        """The platform has the signed report: the upgrade is over."""
        if self.state is _S.REPORTING:
            self._close(now_ns)

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
        self._fetch.handle_timeout(now_ns)

    # -- private: what the parts do to the whole (`Steering`) ------------------------------------------------------------

    def _enter(self, state: UpdaterState, now_ns: int) -> None:
        if state not in TRANSITIONS[self.state]:
            raise LocalProtocolError(
                f"updater: expected a state that follows {self.state.value!r}, got {state.value!r}"
            )
        self.state = state
        if state in self._ON_ENTRY:
            self._ON_ENTRY[state](self, now_ns)
        for part in (self._exchange, self._fetch, self._pack):
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

    def _close(self, now_ns: int) -> None:
        self._records.close()
        self._forget_progress()
        self._enter(_S.IDLE, now_ns)

    def _forget_order(self) -> None:
        self._records.forget()
        self._forget_progress()

    def _forget_progress(self) -> None:
        self._told = None
        self._report = b""
        self._exchange.reset()
        self._fetch.reset()

    def _conclude(self, outcome: Outcome, reason: str, now_ns: int) -> None:
        """The outcome is known. The report is made from a fresh discovery."""
        self._exchange.retry_at_ns = None
        self._records.save(phase=Phase.REPORT, outcome=outcome.value, reason=short_reason(reason))
        fresh = self.state is _S.DISCOVERING
        self._enter(_S.REPORTING if fresh else _S.DISCOVERING, now_ns)

    # -- private: the states that belong to no part ----------------------------------------------------------------------

    def _try_upgrade_mode(self, now_ns: int) -> None:
        if self._conditions is None or self._exchange.retry_at_ns is not None:
            return
        refusals = self._conditions.refusals()
        if refusals:
            self._tell(0, ", ".join(refusals))
            return
        self._enter(_S.OPENING_SESSION, now_ns)

    def _send_report(self, now_ns: int) -> None:
        """Sign the report once for this power-on: repeated at a login it must be the same document to the platform."""
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
            order_id=self.order_id,
            vin=self._vin,
            hwid=self._hwid,
            outcome=Outcome(self._records.journal.outcome),
            reason=self._records.journal.reason,
            counter=counter,
            time_s=now_s,
            nodes=(master, *self._pack.slaves),
            mixed_pack=self._mixed_pack(version),
        )
        self._report = sign_report(report, self._device_key)
        self._actions.append(SendReport(self._report))

    def _mixed_pack(self, version: ImageVersion) -> str:
        """What the report says of it. A success is none: it was judged against the release itself."""
        if self._records.journal.outcome == Outcome.SUCCEEDED:
            return ""
        master = PackMaster(self._trust.hardware_class(0).class_id, version, self._image_sha256)
        return self.pack_watch.judge((master, *self._pack.nodes))

    _ON_ENTRY: ClassVar[Mapping[UpdaterState, Callable[[Updater, int], None]]] = {
        _S.WAITING_SAFE_STATE: _try_upgrade_mode,
        _S.REPORTING: _send_report,
    }
