"""What `bmsota flash` shows while it works: a bar for each transfer and one for the whole run, or plain lines without a terminal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn
from rich.text import Text

from bmsota.cli.faults import error_console, say
from bmsota.cli.flash_output import rate_sentence
from bmsota.flashing import (
    Action,
    FlashPhase,
    FramesRepeated,
    NodeDone,
    PhaseBegun,
    PlanMade,
    TransferBegun,
    TransferBroken,
    TransferProgressed,
    node_words,
)
from bmsota.node import Capability

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Task, TaskID

    from bmsota.flashing import FlashEvent, FlashPlan

__all__ = ["FlashScreen"]

# With the longest rate behind it, a line of bars has 80 columns.
_BAR_COLUMNS = 20


class _Tail(ProgressColumn):
    """The rate of a transfer; the time left of the whole."""

    def render(self, task: Task) -> Text:
        if not task.fields["is_whole"]:
            return Text(task.fields["rate"])
        left_s = task.time_remaining
        return Text("" if left_s is None or task.finished else f"about {left_s:.0f} s left to send")


class _Transfer:
    """One transfer under way, to one node or to all of a broadcast."""

    def __init__(self, size_bytes: int, *, is_compressed: bool, now_ns: int, offset: int) -> None:
        self.size_bytes = size_bytes
        self.is_compressed = is_compressed
        self.begun_ns = now_ns
        self.begun_offset = offset
        self.offsets: dict[int, int] = {}

    @property
    def offset(self) -> int:
        """What the slowest node has."""
        return min(self.offsets.values(), default=self.begun_offset)


class FlashScreen:
    """Bars on a terminal, one line for each notable event elsewhere."""

    def __init__(self, ceiling_bytes_per_s: float | None, *, may_broadcast: bool) -> None:
        self._console = error_console()
        self._ceiling = ceiling_bytes_per_s
        self._may_broadcast = may_broadcast
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(_BAR_COLUMNS),
            TaskProgressColumn(),
            _Tail(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._whole: TaskID | None = None
        self._tasks: dict[tuple[int, ...], TaskID] = {}
        self._transfers: dict[tuple[int, ...], _Transfer] = {}
        self._stream_of: dict[int, tuple[int, ...]] = {}
        self._groups: list[tuple[list[int], int]] = []
        """Nodes that will share a transfer, with the size of their image."""
        self._done: dict[int, int] = {}

    @contextmanager
    def bars(self) -> Iterator[None]:
        """Show bars inside."""
        with self._progress:
            yield

    def show(self, event: FlashEvent, now_ns: int) -> None:
        """Show an event."""
        match event:
            case PlanMade(plan):
                self._groups = _groups(plan, may_broadcast=self._may_broadcast)
                total = sum(size for _, size in self._groups)
                self._whole = self._progress.add_task("whole run", total=total, rate="", is_whole=True)
            case PhaseBegun(phase) if phase not in {FlashPhase.DECIDE, FlashPhase.OVER}:
                self._say(f"{phase.value} ...")
            case TransferBegun(position, offset, size_bytes, is_compressed, stream):
                self._begin(position, stream or (position,), offset, size_bytes, now_ns, is_compressed=is_compressed)
            case TransferProgressed(position, next_offset, _):
                self._advance(position, next_offset, now_ns)
            case TransferBroken(position, detail):
                self._say(f"node {position}: transfer interrupted, resuming: {detail}")
            case NodeDone(result) if not result.ok:
                self._forget(result.position)
                self._say(f"node {result.position}: {result.detail}", style="red")
            case FramesRepeated() | _:
                pass  # The end says how many.

    def _say(self, text: str, *, style: str | None = None) -> None:
        say(text, style=style, console=self._console)

    def _begin(
        self, position: int, stream: tuple[int, ...], offset: int, size_bytes: int, now_ns: int, *, is_compressed: bool
    ) -> None:
        self._stream_of[position] = stream
        if stream not in self._transfers:
            self._transfers[stream] = _Transfer(size_bytes, is_compressed=is_compressed, now_ns=now_ns, offset=offset)
            self._tasks[stream] = self._progress.add_task(node_words(stream), total=size_bytes, rate="", is_whole=False)
        self._advance(position, offset, now_ns)

    def _advance(self, position: int, offset: int, now_ns: int) -> None:
        stream = self._stream_of.get(position)
        if stream is None:
            return
        transfer = self._transfers[stream]
        transfer.offsets[position] = self._done[position] = offset
        sent = transfer.offset - transfer.begun_offset
        rate = rate_sentence(
            sent, (now_ns - transfer.begun_ns) / 1e9, self._ceiling, is_compressed=transfer.is_compressed
        )
        self._progress.update(self._tasks[stream], completed=transfer.offset, rate=rate)
        self._update_whole()

    def _forget(self, position: int) -> None:
        """A node that has failed holds up nothing any more."""
        stream = self._stream_of.get(position)
        if stream is not None:
            self._transfers[stream].offsets.pop(position, None)
        self._groups = [([each for each in nodes if each != position], size) for nodes, size in self._groups]
        self._update_whole()

    def _update_whole(self) -> None:
        if self._whole is not None:
            done = sum(min((self._done.get(each, 0) for each in nodes), default=size) for nodes, size in self._groups)
            self._progress.update(self._whole, completed=done)


def _groups(plan: FlashPlan, *, may_broadcast: bool) -> list[tuple[list[int], int]]:
    """Which nodes will share a transfer, as far as the plan tells."""
    shared: dict[bytes, list[int]] = {}
    groups: list[tuple[list[int], int]] = []
    for node in plan.with_action(Action.FLASH):
        if node.image is None:
            continue
        if may_broadcast and Capability.BROADCAST in node.node.capabilities:
            if node.image in shared:
                shared[node.image].append(node.position)
                continue
            shared[node.image] = [node.position]
            groups.append((shared[node.image], node.size_bytes))
        else:
            groups.append(([node.position], node.size_bytes))
    return groups
