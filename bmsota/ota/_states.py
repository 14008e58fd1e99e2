"""The states of the updater, which may follow which, and the stage that the platform sees in each."""

from __future__ import annotations

from enum import StrEnum


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
    WAITING_TO_SWITCH = "waiting to switch"
    DISCOVERING = "discovering slaves"
    WAITING_FOR_REST = "waiting for rest"
    FLASHING_SLAVES = "flashing slaves"
    ACTIVATING_SLAVES = "activating slaves"
    SELF_TEST = "self-test"
    CONFIRMING_PACK = "confirming pack"
    RAISING_COUNTERS = "raising counters"
    REVERTING_SLAVES = "reverting slaves"
    RESETTING = "resetting"
    REPORTING = "reporting"


_S = UpdaterState
BEFORE_DOWNLOAD = (_S.OPENING_SESSION, _S.FETCHING_ORDER, _S.FETCHING_MANIFEST, _S.CONFIRMING_ORDER)

TRANSITIONS: dict[UpdaterState, frozenset[UpdaterState]] = {
    _S.IDLE: frozenset({_S.WAITING_SAFE_STATE, _S.WAITING_TO_SWITCH, _S.DISCOVERING, _S.RAISING_COUNTERS}),
    _S.WAITING_SAFE_STATE: frozenset({_S.OPENING_SESSION, _S.WAITING_TO_SWITCH}),
    _S.OPENING_SESSION: frozenset({_S.FETCHING_ORDER, _S.WAITING_SAFE_STATE, _S.REPORTING, _S.IDLE}),
    _S.FETCHING_ORDER: frozenset(
        {_S.FETCHING_MANIFEST, _S.CONFIRMING_ORDER, _S.WAITING_SAFE_STATE, _S.DISCOVERING, _S.REPORTING, _S.IDLE}
    ),
    _S.FETCHING_MANIFEST: frozenset({_S.CONFIRMING_ORDER, _S.WAITING_SAFE_STATE, _S.DISCOVERING, _S.IDLE}),
    _S.CONFIRMING_ORDER: frozenset(
        {_S.DOWNLOADING, _S.WAITING_TO_SWITCH, _S.WAITING_SAFE_STATE, _S.DISCOVERING, _S.IDLE}
    ),
    _S.DOWNLOADING: frozenset({_S.DOWNLOAD_COMPLETE, _S.WAITING_SAFE_STATE, _S.DISCOVERING}),
    _S.DOWNLOAD_COMPLETE: frozenset(),
    _S.WAITING_TO_SWITCH: frozenset({_S.RESETTING, _S.OPENING_SESSION, _S.DISCOVERING}),
    _S.DISCOVERING: frozenset(
        {
            _S.FLASHING_SLAVES,
            _S.WAITING_FOR_REST,
            _S.SELF_TEST,
            _S.CONFIRMING_PACK,
            _S.RAISING_COUNTERS,
            _S.REVERTING_SLAVES,
            _S.REPORTING,
        }
    ),
    _S.WAITING_FOR_REST: frozenset({_S.FLASHING_SLAVES, _S.ACTIVATING_SLAVES, _S.REVERTING_SLAVES}),
    _S.FLASHING_SLAVES: frozenset({_S.ACTIVATING_SLAVES, _S.WAITING_FOR_REST, _S.REVERTING_SLAVES}),
    _S.ACTIVATING_SLAVES: frozenset({_S.DISCOVERING, _S.REVERTING_SLAVES}),
    _S.SELF_TEST: frozenset({_S.CONFIRMING_PACK, _S.REVERTING_SLAVES}),
    _S.CONFIRMING_PACK: frozenset({_S.RAISING_COUNTERS, _S.DISCOVERING, _S.REVERTING_SLAVES}),
    _S.RAISING_COUNTERS: frozenset({_S.DISCOVERING}),
    _S.REVERTING_SLAVES: frozenset({_S.RESETTING, _S.DISCOVERING}),
    _S.RESETTING: frozenset(),
    # An instruction is followed while the report is pending: a newer order supersedes it.
    _S.REPORTING: frozenset({_S.IDLE, _S.WAITING_SAFE_STATE}),
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


STAGE_OF: dict[UpdaterState, Stage] = {
    _S.WAITING_SAFE_STATE: Stage.WAITING_SAFE_STATE,
    **dict.fromkeys(BEFORE_DOWNLOAD, Stage.AUTHENTICATING),
    _S.DOWNLOADING: Stage.DOWNLOADING,
    _S.DOWNLOAD_COMPLETE: Stage.DOWNLOAD_COMPLETE,
    _S.WAITING_TO_SWITCH: Stage.DOWNLOAD_COMPLETE,
    _S.DISCOVERING: Stage.SWITCHING,
    _S.WAITING_FOR_REST: Stage.SWITCHING,
    _S.FLASHING_SLAVES: Stage.FLASHING_SLAVES,
    _S.SELF_TEST: Stage.SELF_TEST,
    _S.REVERTING_SLAVES: Stage.SWITCHING,
}
"""The stage that the platform sees in a state; of the other states it hears nothing."""

# -- what must be at rest ------------------------------------------------------------------------------------------------

MUST_REST = frozenset(
    {_S.DISCOVERING, _S.FLASHING_SLAVES, _S.ACTIVATING_SLAVES, _S.SELF_TEST, _S.CONFIRMING_PACK, _S.RAISING_COUNTERS,
     _S.REVERTING_SLAVES, _S.RESETTING}
)  # fmt: skip
"""The states in which the pack must rest: nodes are flashed, switched or tested. Discovering only when it is for that, and
not for a report."""
