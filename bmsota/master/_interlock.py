"""Who may change the pack: the platform by an order, or a technician with a flasher. Never both at a time.

While the updater carries out an order, the nodes are locked against flashers (`is_upgrading`). While a flasher is at work, or what
it left is still being tested, an instruction of the platform is postponed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bmsota.boot import BootStore
    from bmsota.ota import Updater


SECOND = 1_000_000_000

# A flasher that has sent nothing for this long has gone: the longest pause in its work is a node's restart.
FLASHER_QUIET_NS = 10 * SECOND
# How often a postponed instruction is looked at: the end of a test boot has no event of its own.
LOOK_NS = SECOND


class Interlock:
    """Between one master's updater and the flashers on its buses, from one power-on to the next."""

    def __init__(self, updater: Updater, store: BootStore, *, has_open_order: bool) -> None:
        """*has_open_order*: an order was under way when the power went; the updater takes it up at `begin`."""
        self._updater = updater
        self._store = store
        self._has_open_order = has_open_order
        self._heard_ns: int | None = None
        self._is_in_bootloader = False
        self._postponed_url = ""
        self._look_ns = 0

    @property
    def is_upgrading(self) -> bool:
        """Whether the updater has an order, or is about to go on with one: no flasher may change anything.

        An order whose report is pending has ended (`Updater.locks_pack`).
        """
        return self._has_open_order or self._updater.locks_pack

    @property
    def is_in_bootloader(self) -> bool:
        """Whether a flasher has the master in its bootloader."""
        return self._is_in_bootloader

    def begin(self) -> None:
        """The updater has been powered on, and knows its order."""
        self._has_open_order = False

    # -- the workshop ----------------------------------------------------------------------------------------------------

    def flasher_heard(self, now_ns: int) -> None:
        """A flasher has sent a request on one of the master's buses."""
        self._heard_ns = now_ns
        self._look_ns = now_ns + LOOK_NS

    def bootloader_entered(self) -> None:
        """A flasher has the master in its bootloader."""
        self._is_in_bootloader = True

    def bootloader_left(self) -> None:
        """The master's application runs again."""
        self._is_in_bootloader = False

    def is_flasher_at_work(self, now_ns: int) -> bool:
        """Whether a flasher has sent something a moment ago, or has the master in its bootloader."""
        heard_ns = self._heard_ns
        return self._is_in_bootloader or (heard_ns is not None and now_ns - heard_ns < FLASHER_QUIET_NS)

    # -- the platform ----------------------------------------------------------------------------------------------------

    def instructed(self, url: str, now_ns: int) -> bool:
        """The platform asks for an upgrade: hand that to the updater. False: it is postponed."""
        if self._is_workshop(now_ns):
            self._postponed_url = url
            self._look_ns = now_ns + LOOK_NS
            return False
        self._updater.instructed(url, now_ns)
        return True

    def _is_workshop(self, now_ns: int) -> bool:
        return not self.is_upgrading and (self.is_flasher_at_work(now_ns) or self._store.is_test_pending)

    # -- time ------------------------------------------------------------------------------------------------------------

    def next_timeout(self) -> int | None:
        """When `handle_timeout` wants to be called."""
        if self._heard_ns is not None:
            return max(self._heard_ns + FLASHER_QUIET_NS, self._look_ns)
        return self._look_ns if self._postponed_url else None

    def handle_timeout(self, now_ns: int) -> bool:
        """Follow what was postponed, when its time has come. True: a flasher has gone, and may have changed the slaves."""
        self._look_ns = now_ns + LOOK_NS
        has_gone = self._heard_ns is not None and not self.is_flasher_at_work(now_ns)
        if has_gone:
            self._heard_ns = None
        if self._postponed_url and not self._is_workshop(now_ns):
            url, self._postponed_url = self._postponed_url, ""
            self._updater.instructed(url, now_ns)
        return has_gone
