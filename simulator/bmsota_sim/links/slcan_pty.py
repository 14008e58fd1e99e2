"""A virtual slcan adapter behind a pseudo terminal: a serial port that any slcan program opens.

adapter = SlcanAdapter()                                   # `bmsota.slcan`: the firmware
port = bus.attach(adapter.receive_frame, name="adapter")   # a `CanBus`; or `join(adapter, other)` without a bus
adapter.transmit = port.send
cable = SlcanPty(adapter)
print(cable.path)                                          # /dev/pts/7
loop.add_reader(cable.fileno(), cable.pump, now_ns)        # and pump after the bus has run
"""

from __future__ import annotations

import contextlib
import os
import select
import tty
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bmsota.canframe import CanFrame
    from bmsota.slcan import SlcanAdapter

__all__ = ["SlcanPty", "join", "serve"]


def join(*adapters: SlcanAdapter, now_ns: Callable[[], int]) -> None:
    """Connect adapters directly: what one transmits, the others receive at once. A bus without timing."""
    for sender in adapters:
        others = [each for each in adapters if each is not sender]

        def transmit(frame: CanFrame, others: list[SlcanAdapter] = others) -> bool:
            for other in others:
                other.receive_frame(frame, now_ns())
            return True

        sender.transmit = transmit


class SlcanPty:
    """An adapter at one end of a pseudo terminal; the other end, `path`, is the serial port programs open."""

    def __init__(self, adapter: SlcanAdapter) -> None:
        self.adapter = adapter
        self._near, self._far = os.openpty()
        # Our own hold on the far end keeps the line up while no program has it open, and between two.
        tty.setraw(self._far)
        os.set_blocking(self._near, False)
        self.path: str = os.ttyname(self._far)
        self._is_closed = False

    def fileno(self) -> int:
        return self._near

    def pump(self, now_ns: int) -> None:
        """Carry what is waiting, both ways, without waiting."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._near, 65_536):
                self.adapter.receive_data(data, now_ns)
        self.flush()

    def flush(self) -> None:
        """Write what the adapter has to say, as far as the line takes it."""
        while self.adapter.has_output:
            data = self.adapter.data_to_send(4096)
            try:
                taken = os.write(self._near, data)
            except BlockingIOError:
                taken = 0
            if taken < len(data):
                self.adapter.give_back(data[taken:])
                return

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            os.close(self._near)
            os.close(self._far)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def serve(cables: Iterable[SlcanPty], clock: Callable[[], int], *, until: int) -> None:
    """Pump *cables* until the descriptor *until* becomes readable. For a thread or a process of its own."""
    lines = {cable.fileno(): cable for cable in cables}
    while True:
        waiting = [at for at, line in lines.items() if line.adapter.has_output]
        readable, _, _ = select.select([*lines, until], waiting, [])
        if until in readable:
            return
        now_ns = clock()
        for at in readable:
            lines[at].pump(now_ns)
        for line in lines.values():
            line.flush()
