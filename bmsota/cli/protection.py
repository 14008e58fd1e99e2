"""What `bmsota dbc decode` says of message protection: every protected frame is judged, and the verdicts are counted.

A frame that fails is decoded and written all the same: a log is looked at to find such frames. Each channel has its own senders, so
the counters of a message are followed channel by channel.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from bmsota._words import counted
from bmsota.signals import E2EChecker, E2EStatus

if TYPE_CHECKING:
    from bmsota.adapters.canlogs import DecodedMessage, LogBlock

__all__ = ["ProtectionCounts"]

# More lines would hide the rest of the summary; the total counts them all.
_MESSAGES_SHOWN_MAX = 20


class ProtectionCounts:
    """The protected frames of one log, block by block."""

    def __init__(self) -> None:
        self._checkers: dict[tuple[str, int, int, str], E2EChecker] = {}

    def add(self, block: LogBlock) -> None:
        """Judge the protected frames of *block*, which follows the one before."""
        for each in block.decoded:
            # A shorter frame does not match its message: it is counted as that.
            if each.message.protection is not None and each.data.shape[1] == each.message.length:
                self._add(each)

    def _add(self, decoded: DecodedMessage) -> None:
        message = decoded.message
        for channel in dict.fromkeys(decoded.channels):
            # With J1939, several senders have one message.
            key = (message.name, message.can_id, decoded.can_id, channel)
            checker = self._checkers.get(key)
            if checker is None:
                checker = self._checkers[key] = E2EChecker(message)
            if len(set(decoded.channels)) == 1:
                checker.check_batch(decoded.data)
            else:
                checker.check_batch(decoded.data[[each == channel for each in decoded.channels]])

    @property
    def has_failures(self) -> bool:
        """Whether a frame had a wrong CRC, a repeated counter or one that jumped. Lost frames alone are none."""
        return any(
            number
            for checker in self._checkers.values()
            for status, number in checker.counts.items()
            if not status.is_usable
        )

    def lines(self) -> list[str]:
        """The summary: one line for all, and one for each message with something to say. Empty if nothing is protected."""
        if not self._checkers:
            return []
        total: Counter[E2EStatus] = Counter()
        by_message: dict[tuple[str, int], tuple[Counter[E2EStatus], int]] = {}
        for (name, can_id, _, _), checker in self._checkers.items():
            statuses, lost = by_message.get((name, can_id), (Counter(), 0))
            by_message[name, can_id] = (statuses + checker.counts, lost + checker.lost)
            total += checker.counts
        missing = sum(lost for _, lost in by_message.values())
        lines = [
            f"protection: {counted(total.total(), 'frame')} of {counted(len(by_message), 'message')}: {_said(total, missing)}"
        ]
        spoken = {key: _said(*found) for key, found in by_message.items() if _has_news(*found)}
        if len(by_message) > 1:
            lines += [f"protection: {name}: {said}" for (name, _), said in list(spoken.items())[:_MESSAGES_SHOWN_MAX]]
            if len(spoken) > _MESSAGES_SHOWN_MAX:
                lines.append(f"protection: and {counted(len(spoken) - _MESSAGES_SHOWN_MAX, 'more message')}")
        return lines


def _has_news(statuses: Counter[E2EStatus], lost: int) -> bool:
    return bool(lost) or any(not status.is_usable and number for status, number in statuses.items())


def _said(statuses: Counter[E2EStatus], lost: int) -> str:
    right = sum(number for status, number in statuses.items() if status.is_usable)
    parts = [f"{right} ok"]
    for status, what in (
        (E2EStatus.ERROR, "wrong CRC"),
        (E2EStatus.REPEATED, "repeated"),
        (E2EStatus.WRONG_SEQUENCE, "jumped counter"),
    ):
        if statuses[status]:
            parts.append(f"{statuses[status]} {what}")
    if lost:
        parts.append(f"{lost} lost")
    return ", ".join(parts)
