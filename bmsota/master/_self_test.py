"""The self-test of a pack under a new image: every slave sends fresh values, and every cell is known.

It is the least that tells a working pack from one whose slaves no longer measure. What else a product must check (contactors,
insulation, current sensor) is added by the *check* that is handed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.master._internal_bus import MeasurementTable


SECOND = 1_000_000_000

# A pack that is not whole by then has failed: ten rounds of its slaves, and never less than those of slaves that send every second.
SELF_TEST_ROUNDS = 10
SELF_TEST_LIMIT_NS = SELF_TEST_ROUNDS * SECOND


class SelfTest:
    """Runs when it is asked to, and ends with `look`."""

    def __init__(self, measured: MeasurementTable, *, look_period_ns: int, check: Callable[[], str]) -> None:
        self._measured = measured
        self._look_period_ns = look_period_ns
        self._check = check
        self._since_ns: int | None = None
        self._look_ns = 0

    def begin(self, now_ns: int) -> None:
        """Begin, or begin again: only what is measured from now on counts."""
        self._since_ns = now_ns
        self._look_ns = now_ns + self._look_period_ns

    def next_timeout(self) -> int | None:
        """When to look again; None while no test is running."""
        return None if self._since_ns is None else self._look_ns

    def look(self, now_ns: int) -> str | None:
        """How the test has ended: empty for passed, or why it failed. None: it has not, or none is running."""
        since_ns = self._since_ns
        if since_ns is None:
            return None
        self._look_ns = now_ns + self._look_period_ns
        failure = self._check() or self._failure(since_ns, now_ns)
        if failure is not None:
            self._since_ns = None
        return failure

    def _failure(self, since_ns: int, now_ns: int) -> str | None:
        silent = self._measured.unheard(since_ns)
        if not silent and None not in self._measured.cell_voltages_v:
            return ""
        # It looks twice a round.
        if now_ns - since_ns < max(SELF_TEST_LIMIT_NS, 2 * SELF_TEST_ROUNDS * self._look_period_ns):
            return None
        if silent:
            return f"no fresh values from slaves {silent}"
        unknown = [number for number, value in enumerate(self._measured.cell_voltages_v, start=1) if value is None]
        return f"no valid voltage of cells {unknown}"
