"""The updater after the switch: all slaves flashed, activated, tested, confirmed; or all of them reverted.

All or nothing: slaves first run the new image in test. Only when every slave runs it and the pack has passed its self-test
is anything confirmed, leaves first, the master last. Slaves are flashed and activated at rest only; a pack that does not come
to rest in time goes back. Until the master has confirmed, every power cut leads back to the old
pack; afterwards none does. The slaves' security counters rise only then, because a raised counter would refuse the way back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from bmsota.errors import FlashError, FlashWornError
from bmsota.image import ImageRole
from bmsota.node import FailureCause, FlashJob, NodeMode, NodeResult
from bmsota.ota._actions import (
    DRIVING,
    ActivateSlaves,
    ConfirmSlaves,
    DiscoverNodes,
    FlashSlaves,
    RaiseCounters,
    Reset,
    RevertSlaves,
    RunSelfTest,
)
from bmsota.ota._journal import Phase
from bmsota.ota._report import NodeReport, Outcome, short_reason
from bmsota.ota._states import UpdaterState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bmsota.node import NodeDescription
    from bmsota.ota._journal import OrderRecords
    from bmsota.ota._steering import Steering


SECOND: Final = 1_000_000_000

# The slaves of a pack may need a moment to boot before they answer; a slave that stays silent so often is absent.
DISCOVERY_TRIES_MAX: Final = 3

# How long the pack may take for what it was asked. The buses have time-outs of their own, which are far shorter: this is for
# an answer that is never given.
PACK_WAIT_NS: Final = 600 * SECOND
# Sixteen slaves, one after the other, over a slow diagnostic protocol, twice.
FLASH_WAIT_NS: Final = 7200 * SECOND

# A slave that could not be flashed, or reverted, is tried once more; then the pack goes back, or is reported as mixed.
ROUNDS_MAX: Final = 2

_S = UpdaterState


class PackUpgrade:
    """The slaves of one pack, from one power-on to the next. Its methods are called in the state they belong to."""

    def __init__(self, *, records: OrderRecords, steering: Steering, rest_wait_ns: int) -> None:
        self._records = records
        self._steering = steering
        self._rest_wait_ns = rest_wait_ns
        self.boot_slot: int | None = None
        self._nodes: dict[int, NodeDescription] = {}
        self._refused: dict[int, str] = {}
        """Slaves that answer and are not counted, and why."""
        self._discovery_tries = 0
        self._rounds = 0
        self._staged: set[int] = set()
        self._activated = False
        self._confirm_rounds = 0
        self._unconfirmed = ""
        """Why not every slave was heard to confirm."""
        self._flashing: tuple[int, ...] = ()
        self._step = _S.FLASHING_SLAVES
        """What is done when the pack has come to rest."""
        self._deadline_ns: int | None = None
        """When the pack must have done what it was asked."""

    @property
    def nodes(self) -> tuple[NodeDescription, ...]:
        """The same, as they described themselves."""
        return tuple(node for _, node in sorted(self._nodes.items()))

    @property
    def slaves(self) -> tuple[NodeReport, ...]:
        """The slaves that answered the last discovery, by position."""
        return tuple(
            NodeReport(
                position=position,
                role=ImageRole.SLAVE,
                hwid=node.hwid,
                version=node.version,
                security_counter=node.security_counter,
                image_sha256=node.image_sha256,
            )
            for position, node in sorted(self._nodes.items())
        )

    def entered(self, state: UpdaterState, now_ns: int) -> None:
        """Do what entering *state* asks for here."""
        self._deadline_ns = None
        if state in self._ON_ENTRY:
            self._wait(now_ns)
            self._ON_ENTRY[state](self, now_ns)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _wait(self, now_ns: int, wait_ns: int = PACK_WAIT_NS) -> None:
        self._deadline_ns = now_ns + wait_ns

    def next_timeout(self) -> int | None:
        """When `handle_timeout` wants to be called."""
        return self._deadline_ns

    def handle_timeout(self, state: UpdaterState, now_ns: int) -> None:
        """The pack has not answered: go on as if it had failed."""
        if self._deadline_ns is None or now_ns < self._deadline_ns:
            return
        self._deadline_ns = None
        if state is _S.DISCOVERING:
            self.nodes_discovered((), now_ns)
        elif state is _S.WAITING_FOR_REST:
            self._rest_did_not_come(now_ns)
        elif state is _S.FLASHING_SLAVES:
            self.slaves_flashed(_no_answer(self._flashing), now_ns)
        elif state is _S.ACTIVATING_SLAVES:
            self.slaves_activated(_no_answer(self._not_on_target()), now_ns)
        elif state is _S.SELF_TEST:
            self.self_tested(passed=False, reason="the self-test did not end", now_ns=now_ns)
        elif state is _S.CONFIRMING_PACK:
            self.slaves_confirmed(_no_answer(self._records.slave_positions), now_ns)
        elif state is _S.RAISING_COUNTERS:
            self._steering.enter(_S.DISCOVERING, now_ns)
        elif state is _S.REVERTING_SLAVES:
            self.slaves_reverted(now_ns)
        elif state is _S.RESETTING:
            self._wait(now_ns)
            self._reset(now_ns)

    # -- discovery -----------------------------------------------------------------------------------------------------

    def _discover(self, _now_ns: int) -> None:
        if self._records.phase is Phase.TESTING:
            self._steering.tell(100, "")
        self._steering.act(DiscoverNodes())

    def nodes_discovered(
        self, nodes: Sequence[NodeDescription], now_ns: int, refused: Sequence[NodeResult] = ()
    ) -> None:
        """The answer to `DiscoverNodes`: what must happen next follows from what the nodes run, and from the journal."""
        self._refused = {result.position: result.detail for result in refused}
        self._nodes = {node.position: node for node in nodes if node.position > 0}
        missing = [position for position in self._records.slave_positions if position not in self._nodes]
        self._discovery_tries += 1
        if missing and self._discovery_tries < DISCOVERY_TRIES_MAX:
            self._wait(now_ns)
            self._steering.act(DiscoverNodes())
            return
        self._discovery_tries = 0
        if self._records.phase is Phase.REPORT:
            self._steering.enter(_S.REPORTING, now_ns)
            return
        wrong = self._not_on_target()
        if self._records.phase is Phase.REVERTING:
            self._after_revert_discovery(missing, now_ns)
        elif self._records.phase is Phase.COMMITTING and self._can_fall_back():
            self._after_confirm_discovery(missing, wrong, now_ns)
        elif self._records.phase is Phase.COMMITTING:
            self._finish_committed(missing, wrong, now_ns)
        elif missing:
            self._roll_back(self._silent(missing), now_ns)
        elif not wrong:
            self._steering.enter(_S.SELF_TEST, now_ns)
        elif self._activated:
            self._roll_back(f"slaves {_names(wrong)} did not boot the new image", now_ns)
        else:
            self._do_at_rest(_S.FLASHING_SLAVES, now_ns)

    # -- conditions ----------------------------------------------------------------------------------------------------

    def _do_at_rest(self, step: UpdaterState, now_ns: int) -> None:
        """To *step*, now or when the pack has come to rest."""
        self._step = step
        self._steering.enter(_S.WAITING_FOR_REST if self._steering.refusals() else step, now_ns)

    def _wait_for_rest(self, now_ns: int) -> None:
        self._wait(now_ns, self._rest_wait_ns)
        self.look_for_rest(now_ns)

    def look_for_rest(self, now_ns: int) -> None:
        """The conditions may have changed: go on if the pack rests."""
        refusals = self._steering.refusals()
        if refusals:
            self._steering.tell(100, ", ".join(refusals))
        else:
            self._steering.enter(self._step, now_ns)

    def _rest_did_not_come(self, now_ns: int) -> None:
        """Go back. Not while the vehicle drives: that restarts the master. The end of the drive, or of the power, comes."""
        refusals = self._steering.refusals()
        if DRIVING in refusals:
            self._wait(now_ns, self._rest_wait_ns)
        else:
            self._roll_back(f"the pack did not come to rest: {', '.join(refusals)}", now_ns)

    def _not_on_target(self) -> list[int]:
        return [
            position
            for position in self._records.slave_positions
            if position in self._nodes and not self._is_on_target(position)
        ]

    def _is_on_target(self, position: int) -> bool:
        """Whether the node runs the bytes of the release: another build of the same version is another image."""
        target = self._records.target(position)
        return self._nodes[position].runs(target.version, target.sha256)

    def _silent(self, missing: Sequence[int]) -> str:
        """Who does not answer, and who answers with an identity that cannot be."""
        silent = [position for position in missing if position not in self._refused]
        parts = [f"slaves {_names(silent)} do not answer"] if silent else []
        parts += [f"slave {at}: {self._refused[at]}" for at in missing if at in self._refused]
        return "; ".join(parts)

    # -- forward -------------------------------------------------------------------------------------------------------

    def _flash_slaves(self, now_ns: int) -> None:
        self._steering.tell(100, "")
        wrong = self._not_on_target()
        self._records.save(changed=tuple(wrong))
        if self._records.store.worn:
            # A roll-back after the next power cut would not know what to revert; nothing is changed yet.
            self._roll_back(self._records.store.worn, now_ns)
            return
        self._staged.clear()
        self._flash(wrong, now_ns)

    def _flash(self, positions: Sequence[int], now_ns: int) -> None:
        self._rounds += 1
        self._flashing = tuple(positions)
        self._wait(now_ns, FLASH_WAIT_NS)
        read, target = self._records.image_store.read, self._records.target
        try:
            jobs = tuple(FlashJob(position, read(target(position))) for position in positions)
        except FlashError as worn:
            self._roll_back(str(worn), now_ns)
        else:
            self._steering.act(FlashSlaves(jobs))

    def slave_staged(self, position: int) -> None:
        """One slave of `FlashSlaves` has the whole image: worth telling, the rest may take a while."""
        self._staged.add(position)
        self._steering.tell(100, f"{len(self._staged)} of {len(self._records.journal.changed)}")

    def slaves_flashed(self, outcomes: Sequence[NodeResult], now_ns: int) -> None:
        """The answer to `FlashSlaves`."""
        failed = [outcome for outcome in outcomes if not outcome.ok]
        if failed and self._rounds < ROUNDS_MAX:
            self._flash([outcome.position for outcome in failed], now_ns)
        else:
            self._go_on(outcomes, _S.ACTIVATING_SLAVES, now_ns)

    def _go_on(self, outcomes: Sequence[NodeResult], state: UpdaterState, now_ns: int) -> None:
        """To *state* if every slave could do it, else back."""
        failed = [outcome for outcome in outcomes if not outcome.ok]
        if failed:
            self._roll_back(_problems(failed), now_ns)
        elif state is _S.ACTIVATING_SLAVES:
            self._do_at_rest(state, now_ns)
        else:
            self._steering.enter(state, now_ns)

    def _activate_slaves(self, _now_ns: int) -> None:
        self._activated = True
        self._steering.act(ActivateSlaves(tuple(self._not_on_target())))

    def slaves_activated(self, outcomes: Sequence[NodeResult], now_ns: int) -> None:
        """The answer to `ActivateSlaves`: what counts is what they run afterwards, so ask them."""
        self._go_on(outcomes, _S.DISCOVERING, now_ns)

    def _self_test(self, _now_ns: int) -> None:
        self._steering.tell(100, "")
        self._steering.act(RunSelfTest())

    def self_tested(self, *, passed: bool, reason: str, now_ns: int) -> None:
        """The answer to `RunSelfTest`."""
        if passed:
            self._records.save(phase=Phase.COMMITTING)
            reason = self._records.store.worn
        if reason:
            self._roll_back(reason, now_ns)
        else:
            self._steering.enter(_S.CONFIRMING_PACK, now_ns)

    def _confirm_pack(self, _now_ns: int) -> None:
        self._confirm_rounds += 1
        self._steering.act(ConfirmSlaves(self._records.slave_versions()))

    def slaves_confirmed(self, outcomes: Sequence[NodeResult], now_ns: int) -> None:
        """The answer to `ConfirmSlaves`. A slave whose answer was lost may have confirmed, so ask what is true."""
        failed = [outcome for outcome in outcomes if not outcome.ok]
        if failed:
            self._unconfirmed = _problems(failed)
            self._steering.enter(_S.DISCOVERING, now_ns)
        else:
            self._commit(now_ns)

    def _after_confirm_discovery(self, missing: list[int], wrong: list[int], now_ns: int) -> None:
        """What the slaves are decides, not what was heard of their answers."""
        in_test = any(node.has_unconfirmed_image or node.is_spare_running for node in self._nodes.values())
        if missing or wrong:
            silent = [f"slaves {_names(missing)} do not answer"] if missing else []
            back = [f"slaves {_names(wrong)} do not run the new image"] if wrong else []
            self._roll_back("; ".join([self._unconfirmed, *silent, *back]), now_ns)
        elif not in_test:
            self._commit(now_ns)
        elif self._confirm_rounds < ROUNDS_MAX:
            self._steering.enter(_S.CONFIRMING_PACK, now_ns)
        else:
            self._roll_back(self._unconfirmed, now_ns)

    def _commit(self, now_ns: int) -> None:
        """The leaves are confirmed, now the master. From here on no power cut leads back: this one journal write is the commit."""
        try:
            self._records.store.confirm()
        except FlashWornError as worn:
            self._roll_back(str(worn), now_ns)
        else:
            self._steering.enter(_S.RAISING_COUNTERS, now_ns)

    def _raise_counters(self, _now_ns: int) -> None:
        self._records.pack_confirmed()
        self._steering.act(RaiseCounters(self._records.slave_versions()))

    def _finish_committed(self, missing: list[int], wrong: list[int], now_ns: int) -> None:
        if missing or wrong:
            parts = [f"slaves {_names(wrong)} not on the new version"] if wrong else []
            parts += [self._silent(missing)] if missing else []
            problem = f"mixed pack: {', '.join(parts)}"
            self._steering.conclude(Outcome.FAILED, problem, now_ns)
        else:
            self._steering.conclude(Outcome.SUCCEEDED, "", now_ns)

    # -- back ----------------------------------------------------------------------------------------------------------

    def _roll_back(self, reason: str, now_ns: int) -> None:
        self._records.save(phase=Phase.REVERTING, reason=short_reason(reason))
        self._rounds = 0
        self._steering.enter(_S.REVERTING_SLAVES, now_ns)

    def _revert_slaves(self, _now_ns: int) -> None:
        self._steering.tell(100, self._records.journal.reason)
        new = self._slaves_to_revert()
        self._steering.act(RevertSlaves(new, tuple(sorted(set(self._nodes) - set(new)))))

    def _slaves_to_revert(self) -> tuple[int, ...]:
        """Those with an image in test, and those that confirmed what this order flashed.

        Never a slave whose image is older than the order: it would go back by one release too many.
        """
        confirmed = set(self._records.journal.changed) - set(self._not_on_target())
        return tuple(
            position
            for position, node in sorted(self._nodes.items())
            if node.has_unconfirmed_image or position in confirmed
        )

    def slaves_reverted(self, now_ns: int) -> None:
        """The answer to `RevertSlaves`. Whether it worked is found by asking them, under the old master."""
        self._steering.enter(_S.RESETTING if self._can_fall_back() else _S.DISCOVERING, now_ns)

    def _reset(self, _now_ns: int) -> None:
        # Without a reason to go back it is the switch.
        self._steering.act(Reset(self._records.journal.reason or "switches to the new image"))

    def _is_new_master(self) -> bool:
        """Whether the master image of this order runs."""
        return self.boot_slot == self._records.journal.slot

    def _can_fall_back(self) -> bool:
        """Whether a reset ends the new master image."""
        return self._is_new_master() and self._records.store.is_test_pending

    def _after_revert_discovery(self, missing: list[int], now_ns: int) -> None:
        """The old master runs: are its slaves back too? Ask them once more to go back, then say what is."""
        still_new = self._slaves_to_revert()
        resting = {position for position, node in self._nodes.items() if node.state is not NodeMode.APPLICATION}
        unsettled = bool(still_new or resting & set(self._records.slave_positions))
        if self._can_fall_back() or (unsettled and self._rounds < ROUNDS_MAX):
            self._rounds += 1
            self._steering.enter(_S.REVERTING_SLAVES, now_ns)
            return
        mixed = []
        if self._is_new_master():
            mixed.append("the master cannot go back to its old image")
        if still_new:
            mixed.append(f"slaves {_names(still_new)} run the new version")
        # The end of a long reason may be cut off; that the pack is mixed may not.
        parts = [f"mixed pack: {', '.join(mixed)}"] if mixed else []
        if missing:
            parts.append(self._silent(missing))
        why = self._records.journal.reason
        reason = "; ".join([*parts, why] if mixed else [why, *parts])
        self._steering.conclude(Outcome.FAILED if mixed else Outcome.ROLLED_BACK, reason, now_ns)

    _ON_ENTRY: ClassVar[Mapping[UpdaterState, Callable[[PackUpgrade, int], None]]] = {
        _S.DISCOVERING: _discover,
        _S.WAITING_FOR_REST: _wait_for_rest,
        _S.FLASHING_SLAVES: _flash_slaves,
        _S.ACTIVATING_SLAVES: _activate_slaves,
        _S.SELF_TEST: _self_test,
        _S.CONFIRMING_PACK: _confirm_pack,
        _S.RAISING_COUNTERS: _raise_counters,
        _S.REVERTING_SLAVES: _revert_slaves,
        _S.RESETTING: _reset,
    }


def _problems(failed: Sequence[NodeResult]) -> str:
    """Who could not do it, and why. A worn flash is told with what to do about it: no order can mend it."""
    return "; ".join(
        f"slave {outcome.position}: flash worn: replace the node ({outcome.detail})"
        if outcome.cause is FailureCause.FLASH_WORN
        else f"slave {outcome.position}: {outcome.detail}"
        for outcome in failed
    )


def _no_answer(positions: Sequence[int]) -> tuple[NodeResult, ...]:
    return tuple(NodeResult(position, False, "no answer") for position in positions)


def _names(positions: Sequence[int]) -> str:
    return ", ".join(str(position) for position in positions) or "none"
