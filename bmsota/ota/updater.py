"""The updater of a master BMS: from the platform's instruction to the signed post-boot report.

Sans-IO. The updater decides; the unit around it acts. Inputs are calls (`instructed`, `conditions_changed`,
`http_head`, `slaves_flashed`, ...), effects come out of `next_action()` as values. Flash is written through the stores
that are handed in; a power cut there ends the call, and `power_on` of the next updater goes on from what the flash says.

How one upgrade goes (clauses of design.md, decisions 7 to 9)::

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

All or nothing: slaves first run the new image on trial. Only when every slave runs it and the pack has passed its
self-test is anything confirmed, leaves first, the master last. Until the master has confirmed, every power cut leads
back to the old pack; afterwards none does. The slaves' security counters rise only then, because a raised counter would
refuse the way back. What the journal says at each moment:

    phase      means                                         after a power cut
    accepted   order and manifest are stored                 the download goes on
    staged     the new master image waits for its test boot  the next boot is the switch
    testing    the new master image runs on trial            the boot falls back; slaves are reverted
    committing slaves are being confirmed                    as testing, unless the master has confirmed: success
    reverting  the pack goes back, with a reason             goes on going back
    report     the outcome is known and not yet delivered    it is reported at the next login
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import cbor2

from bmsota.boot import BootReason, SlotState
from bmsota.errors import BmsotaError, LocalProtocolError, TransferError, TrustError
from bmsota.image import ImageRole
from bmsota.ota import device_api
from bmsota.ota.download import (
    AttemptFailed,
    BlockRefused,
    BlockVerified,
    Download,
    DownloadCompleted,
    DownloadFailed,
    RestartedFromZero,
    Resumed,
)
from bmsota.ota.field_upgrades import OrderReach
from bmsota.ota.report import NodeReport, Outcome, PostBootReport, sign_report

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from bmsota.boot import BootResult, BootStore
    from bmsota.image import ImageVersion
    from bmsota.ota.http import HttpRequest
    from bmsota.ota.manifest import ReleaseImage, ReleaseManifest
    from bmsota.ota.order import UpgradeOrder
    from bmsota.ota.shelf import ImageShelf
    from bmsota.ota.trusted import DeviceTrust

__all__ = [
    "TRUST_RECORD",
    "AbortHttp",
    "Action",
    "ActivateSlaves",
    "ConfirmSlaves",
    "DiscoverNodes",
    "FlashSlaves",
    "NodeOutcome",
    "PowerConditions",
    "RaiseCounters",
    "Remark",
    "Reset",
    "RevertSlaves",
    "RunSelfTest",
    "SendReport",
    "SlaveJob",
    "Stage",
    "StartHttp",
    "TellState",
    "Updater",
    "UpdaterState",
]

SECOND = 1_000_000_000

# How often a failed exchange before the download is tried, with the wait doubling up to the maximum. Eight tries span
# about ten minutes; then the order is left for the next instruction, which the platform repeats at every login. Once the
# order is accepted, a unit without network waits on, until the platform withdraws the order or it has expired; but eight
# downloads in a row that bring no block at all, with a network, are a failure.
EXCHANGE_TRIES_MAX = 8
EXCHANGE_WAIT_NS = 5 * SECOND
EXCHANGE_WAIT_NS_MAX = 300 * SECOND

# An answer of the device API that is no image: a document of COSE is below 64 KiB (bmsota.ota bounds it again).
ANSWER_SIZE_BYTES_MAX = 64 * 1024

# The slaves of a pack may need a moment to boot before they answer; a slave that stays silent so often is absent.
DISCOVERY_TRIES_MAX = 3

# A pack whose state of charge is below this is not upgraded: flashing must not end in an empty 12 V supply.
SOC_PCT_MIN = 10.0

# A slave that could not be flashed, or taken back, is tried once more; then the pack goes back, or is reported as mixed.
ROUNDS_MAX = 2

# An image whose blocks were all verified on arrival and are not there afterwards lies on a flash that does not keep them.
SHELF_TRIES_MAX = 3

# What the cloud link's UpgradeState and the post-boot report both can carry: 255 bytes of UTF-8 and 256 characters.
REASON_SIZE_BYTES_MAX = 250

_ROLLED_BACK_WITHOUT_REASON = "the new image was not confirmed before the next boot"


class UpdaterState(StrEnum):
    """What the updater is doing."""

    IDLE = "idle"
    WAITING_SAFE_STATE = "waiting for safe state"
    OPENING_SESSION = "opening session"
    FETCHING_ORDER = "fetching order"
    FETCHING_MANIFEST = "fetching manifest"
    CONFIRMING_ORDER = "confirming order"
    DOWNLOADING = "downloading"
    DOWNLOAD_COMPLETE = "download complete"
    DISCOVERING = "discovering slaves"
    FLASHING_SLAVES = "flashing slaves"
    ACTIVATING_SLAVES = "activating slaves"
    SELF_TEST = "self-test"
    CONFIRMING_PACK = "confirming pack"
    RAISING_COUNTERS = "raising counters"
    REVERTING_SLAVES = "reverting slaves"
    RESETTING = "resetting"
    REPORTING = "reporting"


_S = UpdaterState
_BEFORE_DOWNLOAD = (_S.OPENING_SESSION, _S.FETCHING_ORDER, _S.FETCHING_MANIFEST, _S.CONFIRMING_ORDER)

TRANSITIONS: dict[UpdaterState, frozenset[UpdaterState]] = {
    _S.IDLE: frozenset({_S.WAITING_SAFE_STATE, _S.DOWNLOAD_COMPLETE, _S.DISCOVERING, _S.RAISING_COUNTERS}),
    _S.WAITING_SAFE_STATE: frozenset({_S.OPENING_SESSION}),
    _S.OPENING_SESSION: frozenset({_S.FETCHING_ORDER, _S.WAITING_SAFE_STATE, _S.IDLE}),
    _S.FETCHING_ORDER: frozenset(
        {_S.FETCHING_MANIFEST, _S.CONFIRMING_ORDER, _S.WAITING_SAFE_STATE, _S.DISCOVERING, _S.IDLE}
    ),
    _S.FETCHING_MANIFEST: frozenset({_S.CONFIRMING_ORDER, _S.WAITING_SAFE_STATE, _S.DISCOVERING, _S.IDLE}),
    _S.CONFIRMING_ORDER: frozenset({_S.DOWNLOADING, _S.WAITING_SAFE_STATE, _S.DISCOVERING, _S.IDLE}),
    _S.DOWNLOADING: frozenset({_S.DOWNLOAD_COMPLETE, _S.WAITING_SAFE_STATE, _S.DISCOVERING}),
    _S.DOWNLOAD_COMPLETE: frozenset(),
    _S.DISCOVERING: frozenset({_S.FLASHING_SLAVES, _S.SELF_TEST, _S.REVERTING_SLAVES, _S.REPORTING}),
    _S.FLASHING_SLAVES: frozenset({_S.ACTIVATING_SLAVES, _S.REVERTING_SLAVES}),
    _S.ACTIVATING_SLAVES: frozenset({_S.DISCOVERING, _S.REVERTING_SLAVES}),
    _S.SELF_TEST: frozenset({_S.CONFIRMING_PACK, _S.REVERTING_SLAVES}),
    _S.CONFIRMING_PACK: frozenset({_S.RAISING_COUNTERS, _S.REVERTING_SLAVES}),
    _S.RAISING_COUNTERS: frozenset({_S.DISCOVERING}),
    _S.REVERTING_SLAVES: frozenset({_S.RESETTING, _S.DISCOVERING}),
    _S.RESETTING: frozenset(),
    _S.REPORTING: frozenset({_S.IDLE}),
}
"""Which state may follow which. A power cut is no transition: a new updater starts from the journal."""


class Stage(StrEnum):
    """How far an order is, in the words of the cloud link (`bmsota.gbt32960.UpgradeStateCode` has the same names)."""

    WAITING_SAFE_STATE = "waiting for safe state"
    AUTHENTICATING = "authenticating"
    DOWNLOADING = "downloading"
    DOWNLOAD_COMPLETE = "download complete"
    SWITCHING = "switching"
    FLASHING_SLAVES = "flashing slaves"
    SELF_TEST = "self-test"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


_STAGE_OF: dict[UpdaterState, Stage] = {
    _S.WAITING_SAFE_STATE: Stage.WAITING_SAFE_STATE,
    **dict.fromkeys(_BEFORE_DOWNLOAD, Stage.AUTHENTICATING),
    _S.DOWNLOADING: Stage.DOWNLOADING,
    _S.DOWNLOAD_COMPLETE: Stage.DOWNLOAD_COMPLETE,
    _S.DISCOVERING: Stage.SWITCHING,
    _S.FLASHING_SLAVES: Stage.FLASHING_SLAVES,
    _S.SELF_TEST: Stage.SELF_TEST,
    _S.REVERTING_SLAVES: Stage.SWITCHING,
}


# -- values in and out ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PowerConditions:
    """What the vehicle is doing, as far as an upgrade cares."""

    ignition_on: bool
    speed_kmh: float
    is_charging: bool
    soc_pct: float

    def refusals(self) -> tuple[str, ...]:
        """Why upgrade mode must not be entered now; empty when it may."""
        rules = (
            (not self.ignition_on, "ignition off"),
            (self.speed_kmh > 0, "driving"),
            (self.is_charging, "charging"),
            (self.soc_pct < SOC_PCT_MIN, f"state of charge below {SOC_PCT_MIN:g} %"),
        )
        return tuple(reason for refused, reason in rules if refused)


@dataclass(frozen=True, slots=True)
class SlaveJob:
    """One slave and the image it must get."""

    position: int
    image: bytes
    target: ReleaseImage


@dataclass(frozen=True, slots=True)
class NodeOutcome:
    """What became of one slave in an operation over several."""

    position: int
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StartHttp:
    """Send *request* to the device API below *base_url*; one exchange at a time."""

    base_url: str
    request: HttpRequest


@dataclass(frozen=True, slots=True)
class AbortHttp:
    """Drop the exchange under way; nothing more of it is wanted."""


@dataclass(frozen=True, slots=True)
class TellState:
    """Tell the platform how far the order is. Only the newest matters when the link is down."""

    order_id: str
    """Empty before the order is known."""
    stage: Stage
    progress_pct: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Remark:
    """For the unit's log: a download that broke off, a block that arrived wrong. Nothing has to be done."""

    text: str


@dataclass(frozen=True, slots=True)
class SendReport:
    """Send the signed post-boot report; repeat at every login until `report_acknowledged`."""

    document: bytes


@dataclass(frozen=True, slots=True)
class DiscoverNodes:
    """Ask every node of the pack who it is and what it runs; answer with `nodes_discovered`."""


@dataclass(frozen=True, slots=True)
class FlashSlaves:
    """Flash these slaves; answer with `slaves_flashed`."""

    jobs: tuple[SlaveJob, ...]


@dataclass(frozen=True, slots=True)
class ActivateSlaves:
    """Let these slaves boot their new image on trial; answer with `slaves_activated`."""

    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunSelfTest:
    """Check the pack under the new image; answer with `self_tested`."""


@dataclass(frozen=True, slots=True)
class ConfirmSlaves:
    """Make the new image of these slaves permanent; answer with `slaves_confirmed`."""

    versions: tuple[tuple[int, ImageVersion], ...]
    """(position, what must run there): a slave that has fallen back meanwhile must not confirm its old image."""


@dataclass(frozen=True, slots=True)
class RaiseCounters:
    """Raise the security counters of these slaves to their images'; answer with `counters_raised`."""

    versions: tuple[tuple[int, ImageVersion], ...]
    """As in `ConfirmSlaves`."""


@dataclass(frozen=True, slots=True)
class RevertSlaves:
    """Take these slaves back to the image they had, and restart those; answer with `slaves_reverted`."""

    positions: tuple[int, ...]
    restart: tuple[int, ...]
    """Slaves that run what they always ran, and may still be in their bootloader, or may be about to try the new image."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Restart the master; the boot decides which image runs."""

    reason: str


Action = (
    StartHttp
    | AbortHttp
    | TellState
    | Remark
    | SendReport
    | DiscoverNodes
    | FlashSlaves
    | ActivateSlaves
    | RunSelfTest
    | ConfirmSlaves
    | RaiseCounters
    | RevertSlaves
    | Reset
)


# -- the journal ---------------------------------------------------------------------------------------------------------

_JOURNAL = "upgrade"
_ORDER = "order"
_MANIFEST = "manifest"
TRUST_RECORD = "trust"
"""Where the unit finds its `TrustState` when it builds its `DeviceTrust` at power-on."""
_COUNTER = "report-counter"


@dataclass(frozen=True, slots=True)
class _Journal:
    """What must survive a power cut, beside the two signed documents."""

    phase: str = ""
    base_url: str = ""
    outcome: str = ""
    reason: str = ""
    slot: int = -1
    """Where the new master image is staged. Which slot has booted tells old from new, also between equal versions."""
    changed: tuple[int, ...] = ()
    """The slaves that this order flashes; no other is ever taken back."""

    def dumps(self) -> bytes:
        return cbor2.dumps([self.phase, self.base_url, self.outcome, self.reason, self.slot, list(self.changed)])

    @classmethod
    def loads(cls, data: bytes) -> _Journal:
        phase, base_url, outcome, reason, slot, changed = cbor2.loads(data)
        return cls(phase, base_url, outcome, reason, slot, tuple(changed))


# -- the machine ---------------------------------------------------------------------------------------------------------


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
        shelf: ImageShelf,
        master_version: Callable[[], tuple[ImageVersion, int]],
    ) -> None:
        """Take the parts of the unit.

        Args:
            hwid: hardware id of the master.
            vin: the vehicle.
            slave_positions: the slaves the pack is configured for; one that stays silent stops an upgrade.
            device_key: signs session proofs and post-boot reports.
            trust: what the unit believes; its state is kept in *store*.
            store: slots and journal of the master.
            shelf: where downloaded images lie.
            master_version: version and security counter of the master image that is running.
        """
        self._hwid = hwid
        self._vin = vin
        self._slave_positions = tuple(slave_positions)
        self._device_key = device_key
        self._trust = trust
        self._store = store
        self._shelf = shelf
        self._master_version = master_version
        self.state = UpdaterState.IDLE
        self._actions: deque[Action] = deque()
        self._journal = _Journal()
        self._order: UpgradeOrder | None = None
        self._manifest: ReleaseManifest | None = None
        self._conditions: PowerConditions | None = None
        self._token = ""
        self._challenge_pending = False
        self._step: str = ""
        self._answer = bytearray()
        self._answer_head: tuple[int, Mapping[str, str]] | None = None
        self._tries = 0
        self._retry_at_ns: int | None = None
        self._downloads: deque[ReleaseImage] = deque()
        self._download: Download | None = None
        self._download_tries = 0
        self._shelf_tries = 0
        self._http_active = False
        self._boot_slot: int | None = None
        self._is_on = False
        self._early_url = ""
        self._nodes: dict[int, NodeReport] = {}
        self._on_trial: frozenset[int] = frozenset()
        self._in_bootloader: frozenset[int] = frozenset()
        self._discovery_tries = 0
        self._rounds = 0
        self._staged: set[int] = set()
        self._activated = False
        self._told: TellState | None = None
        self._report: bytes = b""

    # -- outputs -----------------------------------------------------------------------------------------------------

    def next_action(self) -> Action | None:
        """What the unit must do next; None when there is nothing."""
        return self._actions.popleft() if self._actions else None

    def next_timeout(self) -> int | None:
        """When `handle_timeout` wants to be called."""
        times = [time for time in (self._retry_at_ns, self._download_timeout()) if time is not None]
        return min(times) if times else None

    @property
    def order_id(self) -> str:
        return self._order.order_id if self._order is not None else ""

    @property
    def in_upgrade_mode(self) -> bool:
        """Whether the pack must stay at rest: contactors open, no drive."""
        return self.state in _UPGRADE_MODE

    @property
    def reach(self) -> OrderReach | None:
        """Which nodes the order under way answers for; None while no order is accepted.

        Raises:
            LocalProtocolError: before `power_on`, when nobody knows yet whether there is one.
        """
        if not self._is_on:
            raise LocalProtocolError("updater: expected to be asked for its reach after power_on, got it before")
        phase = self._journal.phase
        if not phase:
            return None
        nodes = frozenset({0, *self._journal.changed})
        return OrderReach(
            order_id=self.order_id,
            # Before the switch the order has written into the master's other slot at most.
            runs=frozenset() if phase == "accepted" else nodes,
            stages=nodes,
            is_concluded=phase == "report",
        )

    def _download_timeout(self) -> int | None:
        return self._download.next_timeout() if self._download is not None else None

    # -- power-on ----------------------------------------------------------------------------------------------------

    def power_on(self, boot: BootResult, now_ns: int) -> None:
        """Go on from what the flash says. Call once, after `BootStore.boot()`; an instruction before it is remembered."""
        self._is_on = True
        self._boot_slot = boot.slot
        stored = self._store.get_record(_JOURNAL)
        self._journal = _Journal.loads(stored) if stored else _Journal()
        if self._journal.phase and self._restore_documents():
            self._go_on(boot, now_ns)
        if self._early_url:
            self.instructed(self._early_url, now_ns)

    def _go_on(self, boot: BootResult, now_ns: int) -> None:
        phase = self._journal.phase
        if phase == "accepted":
            self._enter(UpdaterState.WAITING_SAFE_STATE, now_ns)
        elif phase in {"reverting", "report"}:
            self._enter(UpdaterState.DISCOVERING, now_ns)
        elif phase == "staged" and boot.slot == self._journal.slot:
            # On trial; or, after a boot that found the old image damaged, the only one there is.
            self._save(replace(self._journal, phase="testing"))
            self._enter(UpdaterState.DISCOVERING, now_ns)
        elif phase == "staged" and boot.reason is BootReason.NORMAL:
            self._stay_staged(now_ns)
        elif phase != "staged" and boot.slot == self._journal.slot:
            # Only a confirmed new image boots again: the pack was committed, and only its end is missing.
            self._save(replace(self._journal, phase="committing"))
            self._enter(UpdaterState.RAISING_COUNTERS, now_ns)
        else:
            self._save(replace(self._journal, phase="reverting", reason=_ROLLED_BACK_WITHOUT_REASON))
            self._enter(UpdaterState.DISCOVERING, now_ns)

    def _stay_staged(self, now_ns: int) -> None:
        """The journal says staged, the boot took the old image: either the switch is still to come, or it was refused."""
        if self._store.slots[self._store.spare_slot].state is SlotState.STAGED:
            # The power was cut between the two journal writes of `_stage`.
            self._store.request_test()
            self._enter(UpdaterState.DOWNLOAD_COMPLETE, now_ns)
        else:
            self._conclude(Outcome.FAILED, "the staged image was refused at boot", now_ns)

    def _restore_documents(self) -> bool:
        """Read the order and the manifest again. False: the order is over, and what was left of it is forgotten."""
        if not self._trust.state.order_is_open:
            # The power was cut while the order was being closed: its end has been told.
            self._forget_order()
            return False
        order, manifest = self._store.get_record(_ORDER), self._store.get_record(_MANIFEST)
        phase = self._journal.phase
        try:
            self._order = self._trust.reread_order(order or b"")
        except TrustError as problem:
            # Before the switch: the power was cut between two writes of a newer order, which is fetched again.
            return phase == "accepted" or self._give_up_documents(problem)
        try:
            self._manifest = self._trust.reread_manifest(manifest or b"", self._order)
            self._shelf.assign(self._images())
        except BmsotaError as problem:
            # The same; and a report needs no manifest, because that may be what was refused.
            self._manifest = None
            return phase in {"accepted", "report"} or self._give_up_documents(problem)
        return True

    def _give_up_documents(self, problem: BmsotaError) -> bool:
        """The records are damaged beyond the journal's own checks, and nothing can be flashed without the documents.

        An image on trial is reverted by the next boot. The platform hears nothing more, which it counts as a failure.
        """
        self._actions.append(Remark(f"the order under way is forgotten: {problem}"))
        self._forget_order()
        return False

    def _is_new_master(self) -> bool:
        """Whether the master image of this order runs."""
        return self._boot_slot == self._journal.slot

    def _can_fall_back(self) -> bool:
        """Whether a reset ends the new master image."""
        return self._is_new_master() and self._store.is_test_pending

    def _target(self, position: int) -> ReleaseImage:
        assert self._manifest is not None
        return self._trust.image_for(self._manifest, position)

    def _images(self) -> tuple[ReleaseImage, ...]:
        """The images of the release that this pack needs, each once, the master's first."""
        images = {self._target(position).sha256: self._target(position) for position in (0, *self._slave_positions)}
        return tuple(images.values())

    # -- inputs from the vehicle and the cloud link --------------------------------------------------------------------

    def instructed(self, base_url: str, now_ns: int) -> None:
        """The platform's instruction has come (0x82/0x01). It is only a hint: what counts is the signed order."""
        if not self._is_on:
            # The link may be faster than the slaves; what the journal says goes first.
            self._early_url = base_url
            return
        if self.state is UpdaterState.IDLE:
            self._journal = replace(_Journal(), base_url=base_url)
            self._tries = 0
            self._enter(UpdaterState.WAITING_SAFE_STATE, now_ns)
            return
        if self.state is UpdaterState.WAITING_SAFE_STATE and base_url != self._journal.base_url:
            # The platform has moved; the old address may never answer again.
            moved = replace(self._journal, base_url=base_url)
            if moved.phase:
                self._save(moved)
            self._journal = moved
        if self._told is not None:
            # A repeated instruction means that the platform does not know how far we are.
            self._actions.append(self._told)

    def conditions_changed(self, conditions: PowerConditions, now_ns: int) -> None:
        """The vehicle started, stopped, was plugged in or switched off."""
        self._conditions = conditions
        if self.state is UpdaterState.WAITING_SAFE_STATE:
            self._try_upgrade_mode(now_ns)

    def logged_in(self, now_ns: int) -> None:  # noqa: ARG002 - every input has the time
        """The cloud link is up: tell the platform what it may have missed."""
        if self.state is UpdaterState.REPORTING:
            self._actions.append(SendReport(self._report))
        elif self._told is not None:
            self._actions.append(self._told)

    def report_acknowledged(self, now_ns: int) -> None:
        """The platform has the signed report: the upgrade is over."""
        if self.state is not UpdaterState.REPORTING:
            return
        self._close(now_ns)

    def _close(self, now_ns: int) -> None:
        """The order is over and nothing of it is owed to anybody."""
        # In this order: a cut in between leaves a journal whose order is closed (`_restore_documents`).
        self._trust.close_order()
        self._store.put_record(TRUST_RECORD, self._trust.state.dumps())
        self._forget_order()
        self._enter(UpdaterState.IDLE, now_ns)

    def _forget_order(self) -> None:
        """Begin with the journal: without it, what is left behind of the documents means nothing."""
        self._save(_Journal())
        self._store.delete_record(_ORDER)
        self._store.delete_record(_MANIFEST)
        self._order = self._manifest = None
        self._told = None
        self._report = b""
        self._retry_at_ns = None
        self._tries = self._download_tries = 0

    # -- entering states -----------------------------------------------------------------------------------------------

    def _enter(self, state: UpdaterState, now_ns: int) -> None:
        if state not in TRANSITIONS[self.state]:
            raise LocalProtocolError(
                f"updater: expected a state that follows {self.state.value!r}, got {state.value!r}"
            )
        self.state = state
        _ON_ENTRY.get(state, _nothing)(self, now_ns)

    def _tell(self, progress_pct: int, reason: str = "") -> None:
        told = TellState(self.order_id, _STAGE_OF[self.state], progress_pct, _short(reason))
        if told != self._told:
            self._told = told
            self._actions.append(told)

    def _save(self, journal: _Journal) -> None:
        self._journal = journal
        if journal.phase:
            self._store.put_record(_JOURNAL, journal.dumps())
        else:
            self._store.delete_record(_JOURNAL)

    def _wait_safe_state(self, now_ns: int) -> None:
        self._try_upgrade_mode(now_ns)

    def _try_upgrade_mode(self, now_ns: int) -> None:
        if self._conditions is None or self._retry_at_ns is not None:
            return
        refusals = self._conditions.refusals()
        if refusals:
            self._tell(0, ", ".join(refusals))
            return
        self._enter(UpdaterState.OPENING_SESSION, now_ns)

    # -- the device API, one exchange a state ----------------------------------------------------------------------------

    def _open_session(self, _now_ns: int) -> None:
        self._tell(0)
        self._challenge_pending = True
        self._start(device_api.challenge_request(self._hwid))

    def _fetch_order(self, _now_ns: int) -> None:
        self._start(device_api.order_request(self._token))

    def _fetch_manifest(self, _now_ns: int) -> None:
        assert self._order is not None
        self._start(device_api.manifest_request(self._token, self._order.manifest_sha256))

    def _confirm_order(self, _now_ns: int) -> None:
        assert self._order is not None
        self._start(device_api.confirm_request(self._token, self._order.order_id, decision="accepted", reason=""))

    def _start(self, request: HttpRequest) -> None:
        self._answer = bytearray()
        self._answer_head = None
        self._http_active = True
        self._actions.append(StartHttp(self._journal.base_url, request))

    def http_head(self, status: int, headers: Mapping[str, str], now_ns: int) -> None:
        """Status and headers of the answer have come."""
        if not self._http_active:
            return
        if self.state is UpdaterState.DOWNLOADING and self._download is not None:
            self._download.receive_head(status, headers, now_ns)
            self._after_download_input(now_ns)
            return
        self._answer_head = (status, headers)

    def http_body(self, data: bytes, now_ns: int) -> None:
        """Some of the answer's body has come."""
        if not self._http_active:
            return
        if self.state is UpdaterState.DOWNLOADING and self._download is not None:
            self._download.receive_body(data, now_ns)
            self._after_download_input(now_ns)
        elif len(self._answer) + len(data) <= ANSWER_SIZE_BYTES_MAX:
            self._answer += data
        else:
            self._drop_exchange()
            self._exchange_failed(f"expected at most {ANSWER_SIZE_BYTES_MAX} bytes of answer, got more", now_ns)

    def http_ended(self, error: str | None, now_ns: int) -> None:
        """The exchange is over; *error* says why, if before its end."""
        if not self._http_active:
            return
        self._http_active = False
        if self.state is UpdaterState.DOWNLOADING and self._download is not None:
            self._download.response_ended(now_ns, error=error)
            self._after_download_input(now_ns)
            return
        if error is not None or self._answer_head is None:
            self._exchange_failed(error or "no answer", now_ns)
            return
        status, _ = self._answer_head
        try:
            _ON_ANSWER[self.state](self, status, bytes(self._answer), now_ns)
        except TrustError as refusal:
            self._refuse(str(refusal), now_ns)
        except TransferError as problem:
            if problem.permanent and self.state in {UpdaterState.FETCHING_MANIFEST, UpdaterState.CONFIRMING_ORDER}:
                # Asking again cannot help: the order's manifest does not exist, or its images do not fit this unit.
                self._conclude(Outcome.FAILED, str(problem), now_ns)
            else:
                self._exchange_failed(str(problem), now_ns)
        except BmsotaError as problem:
            self._exchange_failed(str(problem), now_ns)

    def _drop_exchange(self) -> None:
        if self._http_active:
            self._http_active = False
            self._actions.append(AbortHttp())

    def _exchange_failed(self, problem: str, now_ns: int) -> None:
        self._tries += 1
        self._tell(0, problem)
        if self._tries >= EXCHANGE_TRIES_MAX and self._journal.phase != "accepted":
            # Left for the next instruction: nothing has begun, the platform asks again at the next login.
            self._forget_order()
            self._enter(UpdaterState.IDLE, now_ns)
            return
        wait = min(EXCHANGE_WAIT_NS << min(self._tries - 1, 16), EXCHANGE_WAIT_NS_MAX)
        self._retry_at_ns = now_ns + wait
        self._enter(UpdaterState.WAITING_SAFE_STATE, now_ns)

    def _answered_session(self, status: int, body: bytes, now_ns: int) -> None:
        if self._challenge_pending:
            challenge = device_api.parse_challenge(status, body)
            signature = self._device_key.sign(device_api.session_proof(self._hwid, challenge))
            self._challenge_pending = False
            self._start(device_api.session_request(self._hwid, challenge, signature))
            return
        self._token = device_api.parse_session(status, body)
        # Also when an order is stored: it may have been withdrawn, or signed anew with a later expiry.
        self._enter(UpdaterState.FETCHING_ORDER, now_ns)

    def _answered_order(self, status: int, body: bytes, now_ns: int) -> None:
        document = device_api.parse_document(status, body)
        if document is None:
            # No order for us: it was withdrawn, or the instruction was old. Nothing was switched, nothing is owed.
            self._withdraw("the platform has no order for this unit", now_ns)
            return
        order = self._trust.accept_order(document, now_ns)
        self._store.put_record(TRUST_RECORD, self._trust.state.dumps())
        self._store.put_record(_ORDER, document)
        known = self._order is not None and self._order.manifest_sha256 == order.manifest_sha256
        self._order = order
        if known and self._manifest is not None:
            self._enter(UpdaterState.CONFIRMING_ORDER, now_ns)
        else:
            self._manifest = None
            self._enter(UpdaterState.FETCHING_MANIFEST, now_ns)

    def _answered_manifest(self, status: int, body: bytes, now_ns: int) -> None:
        assert self._order is not None
        document = device_api.parse_document(status, body)
        if document is None:
            raise TransferError("manifest: expected a document, got none", permanent=False)
        manifest = self._trust.accept_manifest(document, self._order, now_ns)
        self._manifest = manifest
        self._shelf.assign(self._images())
        self._store.put_record(_MANIFEST, document)
        self._save(replace(self._journal, phase="accepted"))
        self._enter(UpdaterState.CONFIRMING_ORDER, now_ns)

    def _answered_confirm(self, status: int, body: bytes, now_ns: int) -> None:
        if status == device_api.STATUS_CONFLICT:
            self._withdraw("the platform has cancelled the order", now_ns)
            return
        device_api.parse_confirmed(status, body)
        self._tries = 0
        self._enter(UpdaterState.DOWNLOADING, now_ns)

    def _withdraw(self, reason: str, now_ns: int) -> None:
        if self._order is not None:
            self._actions.append(TellState(self.order_id, Stage.CANCELLED, 0, _short(reason)))
        self._close(now_ns)

    def _refuse(self, reason: str, now_ns: int) -> None:
        """Trust said no: nothing is staged, the old pack runs on, and the platform hears the name of the attack."""
        if self._order is None:
            # Not even the order was believed, so there is no order to report on. The next instruction starts anew.
            self._actions.append(TellState("", Stage.REJECTED, 0, _short(reason)))
            self._forget_order()
            self._enter(UpdaterState.IDLE, now_ns)
            return
        self._conclude(Outcome.REJECTED, reason, now_ns)

    # -- the download --------------------------------------------------------------------------------------------------

    def _begin_download(self, now_ns: int) -> None:
        self._downloads = deque(self._images())
        self._shelf_tries = 0
        self._next_download(now_ns)

    def _next_download(self, now_ns: int) -> None:
        while self._downloads:
            image = self._downloads[0]
            intact = self._shelf.intact_blocks(image)
            if len(intact) == len(image.block_sha256):
                self._downloads.popleft()
                self._shelf_tries = 0
                continue
            if self._shelf_tries >= SHELF_TRIES_MAX:
                self._download = None
                lost = len(image.block_sha256) - len(intact)
                self._conclude(Outcome.FAILED, f"the image shelf does not keep {lost} blocks written to it", now_ns)
                return
            self._download = Download(image, have=intact)
            self._tell(self._progress_pct())
            self._pump_download(now_ns)
            return
        self._download = None
        self._stage(now_ns)

    def _pump_download(self, now_ns: int) -> None:
        assert self._download is not None
        if self._http_active:
            return
        request = self._download.next_request(now_ns)
        if request is not None:
            self._http_active = True
            self._actions.append(StartHttp(self._journal.base_url, device_api.authorised(request, self._token)))

    def _after_download_input(self, now_ns: int) -> None:
        download = self._download
        assert download is not None
        while (event := download.next_event()) is not None:
            if isinstance(event, BlockVerified):
                self._shelf.write_block(download.image, event.index, event.data)
                self._download_tries = 0
                self._tell(self._progress_pct())
            elif isinstance(event, BlockRefused):
                self._actions.append(Remark(f"block {event.index} arrived wrong and is fetched again"))
            elif isinstance(event, AttemptFailed):
                self._actions.append(Remark(f"download broke off: {event.reason}"))
            elif isinstance(event, Resumed):
                self._actions.append(Remark(f"download goes on at byte {event.offset}"))
            elif isinstance(event, RestartedFromZero):
                self._actions.append(Remark(f"download begins anew: {event.reason}"))
            elif isinstance(event, DownloadCompleted):
                self._drop_exchange()
                self._download = None
                self._shelf_tries += 1
                self._next_download(now_ns)
                return
            elif isinstance(event, DownloadFailed):
                self._drop_exchange()
                self._download = None
                self._download_failed(event, now_ns)
                return
        if download.wants_abort:
            self._drop_exchange()
        self._pump_download(now_ns)

    def _download_failed(self, event: DownloadFailed, now_ns: int) -> None:
        """What is on the shelf stays, and a new session goes on from there, unless asking again cannot help."""
        self._download_tries += 1
        if event.error.permanent or self._download_tries > EXCHANGE_TRIES_MAX:
            self._conclude(Outcome.FAILED, str(event.error), now_ns)
        elif event.status == device_api.STATUS_UNAUTHORIZED and self._download_tries == 1:
            # The session ran out in mid-download, which is no failure. A new one that is refused at once is.
            self._enter(UpdaterState.WAITING_SAFE_STATE, now_ns)
        else:
            self._tries = self._download_tries - 1
            self._exchange_failed(str(event.error), now_ns)

    def _progress_pct(self) -> int:
        """Verified bytes of all images this pack needs, in whole percent rounded down."""
        total = sum(image.size_bytes for image in self._images())
        rest = sum(image.size_bytes for image in self._downloads)
        if self._download is not None:
            rest -= self._download.progress_bytes
        return (total - rest) * 100 // total

    def _stage(self, now_ns: int) -> None:
        """Verify every image once more as a whole, then write the master's into the other slot."""
        assert self._manifest is not None
        try:
            images = [self._trust.check_image(self._shelf.read(image), image) for image in self._images()]
            self._trust.check_bundle(self._manifest, images)
            data = self._shelf.read(self._target(0))
            offset = self._store.begin_staging(len(data), self._target(0).sha256)
            if offset < len(data):
                self._store.write_staged(offset, data[offset:])
            self._store.finish_staging()
        except BmsotaError as refusal:
            self._conclude(Outcome.REJECTED, str(refusal), now_ns)
            return
        # In this order: a cut in between leaves a staged image and a journal that knows of it (`_stay_staged`).
        self._save(replace(self._journal, phase="staged", slot=self._store.spare_slot))
        self._store.request_test()
        self._enter(UpdaterState.DOWNLOAD_COMPLETE, now_ns)

    def _download_complete(self, _now_ns: int) -> None:
        self._tell(100)

    # -- after the switch ------------------------------------------------------------------------------------------------

    def _discover(self, _now_ns: int) -> None:
        if self._journal.phase == "testing":
            self._tell(100)
        self._actions.append(DiscoverNodes())

    def nodes_discovered(
        self,
        nodes: Sequence[NodeReport],
        now_ns: int,
        *,
        on_trial: Collection[int] = (),
        in_bootloader: Collection[int] = (),
    ) -> None:
        """The answer to `DiscoverNodes`.

        Args:
            nodes: who answered, and what it runs.
            now_ns: the time.
            on_trial: positions where an unconfirmed image runs, or will at the next boot.
            in_bootloader: positions whose application rests.
        """
        if self.state is not UpdaterState.DISCOVERING:
            return
        self._nodes = {node.position: node for node in nodes if node.role is ImageRole.SLAVE}
        self._on_trial = frozenset(on_trial)
        self._in_bootloader = frozenset(in_bootloader)
        missing = [position for position in self._slave_positions if position not in self._nodes]
        phase = self._journal.phase
        self._discovery_tries += 1
        if missing and self._discovery_tries < DISCOVERY_TRIES_MAX:
            self._actions.append(DiscoverNodes())
            return
        self._discovery_tries = 0
        if phase == "report":
            self._enter(UpdaterState.REPORTING, now_ns)
            return
        wrong = self._slaves_not_on_target()
        if phase == "reverting":
            self._after_revert_discovery(missing, now_ns)
        elif phase == "committing":
            self._finish_committed(missing, wrong, now_ns)
        elif missing:
            self._roll_back(f"slaves {_names(missing)} do not answer", now_ns)
        elif not wrong:
            self._enter(UpdaterState.SELF_TEST, now_ns)
        elif self._activated:
            self._roll_back(f"slaves {_names(wrong)} did not boot the new image", now_ns)
        else:
            self._enter(UpdaterState.FLASHING_SLAVES, now_ns)

    def _slaves_not_on_target(self) -> list[int]:
        return [
            position
            for position in self._slave_positions
            if position in self._nodes and self._nodes[position].version != self._target(position).version
        ]

    def _flash_slaves(self, _now_ns: int) -> None:
        self._tell(100)
        wrong = self._slaves_not_on_target()
        self._save(replace(self._journal, changed=tuple(wrong)))
        self._staged.clear()
        self._flash(wrong)

    def _flash(self, positions: Sequence[int]) -> None:
        self._rounds += 1
        jobs = [
            SlaveJob(position, self._shelf.read(self._target(position)), self._target(position))
            for position in positions
        ]
        self._actions.append(FlashSlaves(tuple(jobs)))

    def slave_staged(self, position: int) -> None:
        """One slave of `FlashSlaves` has the whole image: worth telling, the rest may take a while."""
        if self.state is UpdaterState.FLASHING_SLAVES:
            self._staged.add(position)
            self._tell(100, f"{len(self._staged)} of {len(self._journal.changed)}")

    def slaves_flashed(self, outcomes: Sequence[NodeOutcome], now_ns: int) -> None:
        """The answer to `FlashSlaves`."""
        if self.state is not UpdaterState.FLASHING_SLAVES:
            return
        failed = [outcome for outcome in outcomes if not outcome.ok]
        if failed and self._rounds < ROUNDS_MAX:
            self._flash([outcome.position for outcome in failed])
        elif failed:
            self._roll_back(_problems(failed), now_ns)
        else:
            self._enter(UpdaterState.ACTIVATING_SLAVES, now_ns)

    def _activate_slaves(self, _now_ns: int) -> None:
        self._activated = True
        self._actions.append(ActivateSlaves(tuple(self._slaves_not_on_target())))

    def slaves_activated(self, outcomes: Sequence[NodeOutcome], now_ns: int) -> None:
        """The answer to `ActivateSlaves`: what counts is what they run afterwards, so ask them."""
        if self.state is UpdaterState.ACTIVATING_SLAVES:
            failed = [item for item in outcomes if not item.ok]
            if failed:
                self._roll_back(_problems(failed), now_ns)
            else:
                self._enter(UpdaterState.DISCOVERING, now_ns)

    def _self_test(self, _now_ns: int) -> None:
        self._tell(100)
        self._actions.append(RunSelfTest())

    def self_tested(self, *, passed: bool, reason: str, now_ns: int) -> None:
        """The answer to `RunSelfTest`."""
        if self.state is not UpdaterState.SELF_TEST:
            return
        if passed:
            self._save(replace(self._journal, phase="committing"))
            self._enter(UpdaterState.CONFIRMING_PACK, now_ns)
        else:
            self._roll_back(reason, now_ns)

    def _confirm_pack(self, _now_ns: int) -> None:
        self._actions.append(ConfirmSlaves(self._target_versions()))

    def _target_versions(self) -> tuple[tuple[int, ImageVersion], ...]:
        return tuple((position, self._target(position).version) for position in self._slave_positions)

    def slaves_confirmed(self, outcomes: Sequence[NodeOutcome], now_ns: int) -> None:
        """The answer to `ConfirmSlaves`: the leaves are confirmed, now the master."""
        if self.state is not UpdaterState.CONFIRMING_PACK:
            return
        failed = [item for item in outcomes if not item.ok]
        if failed:
            self._roll_back(_problems(failed), now_ns)
            return
        # From here on no power cut leads back: this one journal write is the commit of the pack.
        self._store.confirm()
        self._enter(UpdaterState.RAISING_COUNTERS, now_ns)

    def _raise_counters(self, _now_ns: int) -> None:
        assert self._manifest is not None
        self._trust.confirmed(self._manifest, self._slave_positions)
        self._store.put_record(TRUST_RECORD, self._trust.state.dumps())
        self._actions.append(RaiseCounters(self._target_versions()))

    def counters_raised(self, _outcomes: Sequence[NodeOutcome], now_ns: int) -> None:
        """The answer to `RaiseCounters`. The report says what they really stand at."""
        if self.state is UpdaterState.RAISING_COUNTERS:
            self._enter(UpdaterState.DISCOVERING, now_ns)

    def _finish_committed(self, missing: list[int], wrong: list[int], now_ns: int) -> None:
        if missing or wrong:
            problem = f"mixed pack: slaves {_names(missing)} do not answer, {_names(wrong)} not on the new version"
            self._conclude(Outcome.FAILED, problem, now_ns)
        else:
            self._conclude(Outcome.SUCCEEDED, "", now_ns)

    # -- going back ------------------------------------------------------------------------------------------------------

    def _roll_back(self, reason: str, now_ns: int) -> None:
        self._save(replace(self._journal, phase="reverting", reason=_short(reason)))
        self._rounds = 0
        self._enter(UpdaterState.REVERTING_SLAVES, now_ns)

    def _revert_slaves(self, _now_ns: int) -> None:
        self._tell(100, self._journal.reason)
        new = self._slaves_to_revert()
        self._actions.append(RevertSlaves(new, tuple(sorted(set(self._nodes) - set(new)))))

    def _slaves_to_revert(self) -> tuple[int, ...]:
        """Those with an image on trial, and those that confirmed what this order flashed.

        Never a slave whose image is older than the order: it would go back by one release too many.
        """
        off_target = set(self._slaves_not_on_target())
        confirmed = set(self._journal.changed) - off_target
        return tuple(position for position in sorted(self._nodes) if position in self._on_trial | confirmed)

    def slaves_reverted(self, _outcomes: Sequence[NodeOutcome], now_ns: int) -> None:
        """The answer to `RevertSlaves`. Whether it worked is found by asking them, under the old master."""
        if self.state is not UpdaterState.REVERTING_SLAVES:
            return
        if self._can_fall_back():
            self._enter(UpdaterState.RESETTING, now_ns)
        else:
            self._enter(UpdaterState.DISCOVERING, now_ns)

    def _reset(self, _now_ns: int) -> None:
        self._actions.append(Reset(self._journal.reason))

    def _after_revert_discovery(self, missing: list[int], now_ns: int) -> None:
        """The old master runs: are its slaves back too? Ask them once more to go back, then say what is."""
        still_new = self._slaves_to_revert()
        unsettled = bool(still_new or self._in_bootloader & set(self._slave_positions))
        if self._can_fall_back() or (unsettled and self._rounds < ROUNDS_MAX):
            self._rounds += 1
            self._enter(UpdaterState.REVERTING_SLAVES, now_ns)
            return
        mixed = []
        if self._is_new_master():
            mixed.append("the master cannot go back to its old image")
        if still_new:
            mixed.append(f"slaves {_names(still_new)} run the new version")
        # The end of a long reason may be cut off; that the pack is mixed may not.
        parts = [f"mixed pack: {', '.join(mixed)}"] if mixed else []
        if missing:
            parts.append(f"slaves {_names(missing)} do not answer")
        reason = "; ".join([*parts, self._journal.reason] if mixed else [self._journal.reason, *parts])
        self._conclude(Outcome.FAILED if mixed else Outcome.ROLLED_BACK, reason, now_ns)

    # -- the report ------------------------------------------------------------------------------------------------------

    def _conclude(self, outcome: Outcome, reason: str, now_ns: int) -> None:
        """The outcome is known. The report is made from a fresh discovery."""
        self._retry_at_ns = None
        self._save(replace(self._journal, phase="report", outcome=outcome.value, reason=_short(reason)))
        fresh = self.state is UpdaterState.DISCOVERING
        self._enter(UpdaterState.REPORTING if fresh else UpdaterState.DISCOVERING, now_ns)

    def _send_report(self, now_ns: int) -> None:
        """Sign the report once for this power-on: repeated at a login it must be the same document to the platform."""
        assert self._order is not None
        # The counter first: a cut in between skips a number, and no two reports ever share one.
        self._store.put_record(_COUNTER, (self._report_counter() + 1).to_bytes(8, "big"))
        version, counter = self._master_version()
        master = NodeReport(
            position=0, role=ImageRole.MASTER, hwid=self._hwid, version=version, security_counter=counter
        )
        report = PostBootReport(
            order_id=self._order.order_id,
            vin=self._vin,
            hwid=self._hwid,
            outcome=Outcome(self._journal.outcome),
            reason=self._journal.reason,
            counter=self._report_counter(),
            time_s=now_ns // SECOND,
            nodes=(master, *(self._nodes[position] for position in sorted(self._nodes))),
        )
        self._report = sign_report(report, self._device_key)
        self._actions.append(SendReport(self._report))

    def _report_counter(self) -> int:
        return int.from_bytes(self._store.get_record(_COUNTER) or b"", "big")

    # -- time ------------------------------------------------------------------------------------------------------------

    def handle_timeout(self, now_ns: int) -> None:
        """Do what is due; nothing before its time."""
        if self._retry_at_ns is not None and now_ns >= self._retry_at_ns:
            self._retry_at_ns = None
            if self.state is UpdaterState.WAITING_SAFE_STATE:
                self._try_upgrade_mode(now_ns)
        timeout = self._download_timeout()
        if timeout is not None and now_ns >= timeout and self._download is not None:
            self._download.handle_timeout(now_ns)
            self._after_download_input(now_ns)


def _nothing(_updater: Updater, _now_ns: int) -> None:
    """Entering this state asks for nothing."""


def _problems(outcomes: Sequence[NodeOutcome]) -> str:
    return "; ".join(f"slave {outcome.position}: {outcome.detail}" for outcome in outcomes)


def _short(reason: str) -> str:
    """*reason* as every message can carry it: printable, and not too long. Part of it may come from a server."""
    printable = "".join(character if character.isprintable() else " " for character in reason)
    return printable.encode()[:REASON_SIZE_BYTES_MAX].decode(errors="ignore")


def _names(positions: Sequence[int]) -> str:
    return ", ".join(str(position) for position in positions) or "none"


# The table of what entering a state does, and of who reads the answer in it. Private methods of the class above.
_ON_ENTRY: dict[UpdaterState, Callable[[Updater, int], None]] = {
    _S.WAITING_SAFE_STATE: Updater._wait_safe_state,  # noqa: SLF001
    _S.OPENING_SESSION: Updater._open_session,  # noqa: SLF001
    _S.FETCHING_ORDER: Updater._fetch_order,  # noqa: SLF001
    _S.FETCHING_MANIFEST: Updater._fetch_manifest,  # noqa: SLF001
    _S.CONFIRMING_ORDER: Updater._confirm_order,  # noqa: SLF001
    _S.DOWNLOADING: Updater._begin_download,  # noqa: SLF001
    _S.DOWNLOAD_COMPLETE: Updater._download_complete,  # noqa: SLF001
    _S.DISCOVERING: Updater._discover,  # noqa: SLF001
    _S.FLASHING_SLAVES: Updater._flash_slaves,  # noqa: SLF001
    _S.ACTIVATING_SLAVES: Updater._activate_slaves,  # noqa: SLF001
    _S.SELF_TEST: Updater._self_test,  # noqa: SLF001
    _S.CONFIRMING_PACK: Updater._confirm_pack,  # noqa: SLF001
    _S.RAISING_COUNTERS: Updater._raise_counters,  # noqa: SLF001
    _S.REVERTING_SLAVES: Updater._revert_slaves,  # noqa: SLF001
    _S.RESETTING: Updater._reset,  # noqa: SLF001
    _S.REPORTING: Updater._send_report,  # noqa: SLF001
}
_ON_ANSWER: dict[UpdaterState, Callable[[Updater, int, bytes, int], None]] = {
    _S.OPENING_SESSION: Updater._answered_session,  # noqa: SLF001
    _S.FETCHING_ORDER: Updater._answered_order,  # noqa: SLF001
    _S.FETCHING_MANIFEST: Updater._answered_manifest,  # noqa: SLF001
    _S.CONFIRMING_ORDER: Updater._answered_confirm,  # noqa: SLF001
}
_UPGRADE_MODE = frozenset(
    {*_BEFORE_DOWNLOAD, _S.DOWNLOADING, _S.DISCOVERING, _S.FLASHING_SLAVES, _S.ACTIVATING_SLAVES, _S.SELF_TEST,
     _S.CONFIRMING_PACK, _S.RAISING_COUNTERS, _S.REVERTING_SLAVES, _S.RESETTING}
)  # fmt: skip
