"""The commands of a running bench, for people and scripts, and their one-line answers.

A command is words; the answer is one line that begins with "ok" or "error". `status` puts a line for each node before it.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from bmsota.errors import ConfigurationError
from bmsota_sim.devices.bootloader_node import PowerCutPlan
from bmsota_sim.devices.flash import CutPhase
from bmsota_sim.kernel import MS
from bmsota_sim.links.canbus import BusFaults

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota_sim.bench._world import BenchWorld
    from bmsota_sim.devices.plain_master import PlainMaster
    from bmsota_sim.devices.slave import Slave


OFF_MS_DEFAULT = 1000
OFF_MS_MAX = 24 * 3600 * 1000
OPERATIONS_AHEAD_MAX = 1_000_000

HELP = (
    "cut POSITION [at-operation N | at-progress SHARE] [off MS]   cut the supply, now or then, for MS (1000)",
    "    at-operation N: in the N-th flash operation from now; at-progress SHARE: when SHARE (0 to 1) of an image is stored",
    "power POSITION on | off   switch one node",
    "loss | duplication | reordering | delay | corruption | bus-off CHANCE   set the chance of one fault",
    "faults off   turn all faults off",
    "busoff [POSITION] [for MS]   the adapters, or one node, go bus-off for MS (200)",
    "status   a line for each node",
    "quit   end the bench",
)

_FAULTS = {field.name.replace("_", "-"): field.name for field in fields(BusFaults) if not field.name.endswith("_ns")}


def with_chance(faults: BusFaults, name: str, chance: float) -> BusFaults:
    """The same faults but for one, named as in the commands."""
    values: dict[str, Any] = {_FAULTS[name]: chance}
    return replace(faults, **values)


class _Words:
    """The words of one command, taken one by one."""

    def __init__(self, line: str) -> None:
        self._words = line.split()

    def take(self, expected: str) -> str:
        if not self._words:
            raise ConfigurationError(f"missing: {expected}")
        return self._words.pop(0)

    def take_if(self, *words: str) -> str:
        """The next word if it is one of *words*, else nothing is taken."""
        return self._words.pop(0) if self._words and self._words[0] in words else ""

    def number(self, expected: str, lowest: float, highest: float) -> float:
        text = self.take(expected)
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not lowest <= value <= highest:
            raise ConfigurationError(f"expected {expected} from {lowest:g} to {highest:g}, got {text!r}")
        return value

    def whole_number(self, expected: str, lowest: int, highest: int) -> int:
        text = self.take(expected)
        if not text.isdecimal() or not text.isascii() or not lowest <= int(text) <= highest:
            raise ConfigurationError(f"expected {expected} from {lowest} to {highest}, got {text!r}")
        return int(text)

    def end(self) -> None:
        if self._words:
            raise ConfigurationError(f"unexpected {self._words[0]!r} at the end")

    @property
    def more(self) -> bool:
        return bool(self._words)


class BenchCommands:
    """Carries out command lines on a world."""

    def __init__(self, world: BenchWorld) -> None:
        self._world = world
        self.has_quit = False
        """`quit` was given."""
        self._commands: dict[str, Callable[[_Words], list[str]]] = {
            "cut": self._cut,
            "power": self._power,
            "faults": self._no_faults,
            "busoff": self._bus_off,
            "status": self._status,
            "help": self._help,
            "quit": self._quit,
        }

    def do(self, line: str) -> list[str]:
        """Carry out *line*; the lines of the answer, the last of which begins with "ok" or "error"."""
        words = _Words(line)
        try:
            name = words.take("a command")
            if name in _FAULTS:
                return self._fault(name, words)
            if name not in self._commands:
                known = ", ".join([*self._commands, *_FAULTS])
                raise ConfigurationError(f"no command {name!r}; there are {known}")  # noqa: TRY301 - one place answers
            return self._commands[name](words)
        except ConfigurationError as error:
            return [f"error: {error}"]

    def _node(self, words: _Words) -> PlainMaster | Slave:
        highest = len(self._world.nodes) - 1
        return self._world.nodes[words.whole_number("a position (0 is the master)", 0, highest)]

    def _cut(self, words: _Words) -> list[str]:
        device = self._node(words)
        node, name = device.node, device.name
        how = words.take_if("at-operation", "at-progress")
        ahead, share = 0, 0.0
        if how == "at-operation":
            ahead = words.whole_number("a number of flash operations", 1, OPERATIONS_AHEAD_MAX)
        elif how:
            share = words.number("a share", 0.0, 1.0)
        off_ms = OFF_MS_DEFAULT
        if words.take_if("off"):
            off_ms = words.whole_number("milliseconds", 0, OFF_MS_MAX)
        words.end()
        if not node.is_powered:
            raise ConfigurationError(f"{name} is off; switch it on first")
        node.power_cut_plan = plan = PowerCutPlan(share, off_ms * MS)
        node.flash.clear_cuts()
        if how == "at-progress":
            return [f"ok: {name} loses its supply for {off_ms} ms when {share:.0%} of an image is stored"]
        plan.happened = True  # By its time; the progress decides nothing any more.
        if how:
            node.flash.cut_at(node.flash.operations + ahead, CutPhase.INSIDE)
            return [f"ok: {name} loses its supply for {off_ms} ms in flash operation {ahead} from now"]
        device.power_off()
        self._world.kernel.call_in(off_ms * MS, device.power_on)
        return [f"ok: {name} has lost its supply for {off_ms} ms"]

    def _power(self, words: _Words) -> list[str]:
        device = self._node(words)
        state = words.take("on or off")
        words.end()
        if state == "on":
            device.power_on()
        elif state == "off":
            device.power_off()
        else:
            raise ConfigurationError(f"expected on or off, got {state!r}")
        return [f"ok: {device.name} is {state}"]

    def _fault(self, name: str, words: _Words) -> list[str]:
        chance = words.number("a chance", 0.0, 1.0)
        words.end()
        self._world.set_faults(with_chance(self._world.faults, name, chance))
        return [f"ok: {name} {chance:g}"]

    def _no_faults(self, words: _Words) -> list[str]:
        word = words.take("off")
        words.end()
        if word != "off":
            raise ConfigurationError(f"expected off, got {word!r}")
        self._world.set_faults(BusFaults())
        return ["ok: all faults off"]

    def _bus_off(self, words: _Words) -> list[str]:
        ports, name = [seat.port for seat in self._world.seats], "the adapters"
        has_duration = bool(words.take_if("for"))
        if words.more and not has_duration:
            device = self._node(words)
            ports, name = device.node.ports, device.name
            has_duration = bool(words.take_if("for"))
        duration_ms = BusFaults().bus_off_ns // MS
        if has_duration:
            duration_ms = words.whole_number("milliseconds", 1, OFF_MS_MAX)
        words.end()
        for port in ports:
            port.bus_off(duration_ms * MS)
        return [f"ok: {name} off the bus for {duration_ms} ms"]

    def _status(self, words: _Words) -> list[str]:
        words.end()
        world = self._world
        lines = [
            f"node {row.position}: {row.role} {row.hwid} {row.hardware_class} {row.version or '-'} {row.state} "
            f"{row.stored_bytes}/{row.size_bytes} bytes"
            for row in world.rows()
        ]
        seats = ", ".join(
            f"{seat.name}: {seat.port.sent} sent, {seat.port.received} received, {seat.port.lost} lost"
            for seat in world.seats
        )
        busy = world.bus.busy_ns / max(1, world.kernel.now_ns - world.start_ns)
        return [*lines, seats, f"ok: {len(lines)} nodes, {world.bus.frames} frames, internal bus {busy:.0%} busy"]

    def _help(self, words: _Words) -> list[str]:
        words.end()
        return [*HELP, "ok: end of help"]

    def _quit(self, words: _Words) -> list[str]:
        words.end()
        self.has_quit = True
        return ["ok: the bench ends"]
