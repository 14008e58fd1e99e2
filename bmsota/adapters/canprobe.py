"""Inspect adapters and buses without disturbing them: which adapters there are, and whether a bus has traffic at a bit rate.

Everything here only listens. An adapter at the wrong bit rate that takes part in the bus disturbs every node on it, the
vehicle's control units included; so the rate is checked with an adapter that neither acknowledges nor sends.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmsota.errors import MissingExtraError

try:
    import can
except ImportError as error:
    raise MissingExtraError("bmsota.adapters.canprobe", "python-can", "can") from error

from bmsota.adapters.slcan import SlcanBus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "LISTEN_ONLY",
    "USUAL_BITRATES",
    "Adapter",
    "Heard",
    "listen",
    "listen_only_arguments",
    "probe_slcan",
    "python_can_adapters",
    "serial_adapters",
    "usb_adapters",
]

USUAL_BITRATES = (500_000, 250_000, 1_000_000, 125_000, 100_000, 50_000, 83_300, 20_000, 10_000)
"""In the order in which they are met in vehicles."""

# More than one of these at the right bit rate is no accident: a frame has a checksum of 15 bits.
FRAMES_ENOUGH = 20

_PASSIVE: Any = can.BusState.PASSIVE

LISTEN_ONLY: Mapping[str, Mapping[str, Any]] = {
    "bmsota_slcan": {"listen_only": True},
    "slcan": {"listen_only": True},
    "vector": {"listen_only": True},
    "nixnet": {"listen_only": True},
    "pcan": {"state": _PASSIVE},
    "systec": {"state": _PASSIVE},
    "kvaser": {"driver_mode": False},
    "seeedstudio": {"operation_mode": "silent"},
    # Opening these changes nothing on the bus: the channel is up already, or there is no wire.
    "socketcan": {},
    "socketcand": {},
    "virtual": {},
    "udp_multicast": {},
}
"""Interface of python-can -> the arguments with which it neither sends nor acknowledges (from their sources, 4.6.1)."""

# USB ids of CAN adapters, from their makers' documents and Linux's drivers: (vendor, product) -> (name, speaks slcan).
_USB_IDS: Mapping[tuple[int, int], tuple[str, bool]] = {
    (0x16D0, 0x117E): ("CANable (slcan firmware)", True),
    (0xAD50, 0x60C4): ("CANtact / CANable (slcan firmware)", True),
    (0x0403, 0xFFA8): ("LAWICEL CANUSB", True),
    (0x04D8, 0x000A): ("USBtin", True),
    (0x1D50, 0x606F): ("candleLight / CANable (gs_usb firmware)", False),
    (0x1209, 0x2323): ("candleLight (gs_usb firmware)", False),
    (0x1209, 0xCA01): ("CANnectivity (gs_usb firmware)", False),
    (0x1CD2, 0x606F): ("CES CANext FD (gs_usb firmware)", False),
    (0x16D0, 0x10B8): ("ABE CANdebugger FD (gs_usb firmware)", False),
}

_SYSFS = Path("/sys/bus/usb/devices")


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter: interface and channel are python-can's."""

    interface: str
    channel: str
    name: str
    """What is known about it; empty if nothing."""
    note: str = ""
    """What to know before using it."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The result of listening."""

    seconds: float
    frames: int
    errors: int
    """Error frames, and lines of a serial adapter that made no sense."""
    has_bus_errors: bool | None
    """What the adapter itself reports; None if it cannot."""

    @property
    def is_silent(self) -> bool:
        """Neither a frame nor an error: no traffic, or nothing connected."""
        return not self.frames and not self.is_wrong

    @property
    def is_wrong(self) -> bool:
        """Errors and not one frame: not this bus's bit rate, or a broken wire."""
        return not self.frames and (self.errors > 0 or bool(self.has_bus_errors))

    @property
    def is_right(self) -> bool:
        """Frames: this is the bus's bit rate."""
        return self.frames > 0


def listen_only_arguments(interface: str) -> Mapping[str, Any] | None:
    """Arguments that open *interface* listen-only; None if it has no such mode, or it is not known."""
    return LISTEN_ONLY.get(interface)


def listen(bus: can.BusABC, seconds: float, clock: Callable[[], float] = time.monotonic) -> Heard:
    """Count frames for *seconds*, or until there are enough. *bus* should be opened listen-only.

    Raises:
        can.CanError: the adapter fails.
    """
    begin = now = clock()
    frames = errors = 0
    while frames < FRAMES_ENOUGH and (now := clock()) < begin + seconds:
        message = bus.recv(timeout=begin + seconds - now)
        if message is None:
            continue
        if message.is_error_frame:
            errors += 1
        else:
            frames += 1
    has_bus_errors: bool | None = None
    if isinstance(bus, SlcanBus):
        errors += bus.garbage
        has_bus_errors = bus.has_heard_errors()
    return Heard(now - begin, frames, errors, has_bus_errors)


def probe_slcan(channel: str) -> str:
    """Query the version of the adapter on this serial port; "" if it answers without one.

    Opens it listen-only for a moment.

    Raises:
        can.CanError: it cannot be opened, or does not answer.
    """
    with SlcanBus(channel, bitrate=USUAL_BITRATES[0], listen_only=True) as bus:
        return (bus.version or "").strip()


def python_can_adapters(timeout_s: float = 5.0) -> list[Adapter]:
    """The adapters python-can detects; its serial back ends detect none, see `serial_adapters`."""
    found: list[Adapter] = []
    # Ours lists serial ports, and so does python-can's "serial" (a protocol of its own, which is not slcan). socketcand
    # listens for three seconds for servers in the network: those are not adapters of this machine.
    interfaces = sorted(set(can.VALID_INTERFACES) - {"bmsota_slcan", "serial", "socketcand"})
    for config in can.detect_available_configs(interfaces, timeout=timeout_s):
        interface, channel = str(config["interface"]), str(config.get("channel", ""))
        if interface in {"virtual", "udp_multicast"}:
            continue  # Always there, without an adapter behind them.
        found.append(Adapter(interface, channel, ""))
    return found


def serial_adapters(ports: Iterable[str] = ()) -> list[Adapter]:
    """Serial ports an slcan adapter may be behind: USB ones, and *ports* (pseudo terminals are in no list)."""
    from serial.tools import list_ports  # noqa: PLC0415 - slow to import on some platforms

    found = [Adapter("bmsota_slcan", port, "serial port") for port in ports]
    for port in sorted(list_ports.comports(), key=lambda each: str(each.device)):
        if port.vid is None:
            continue
        name, speaks_slcan = _USB_IDS.get((port.vid, port.pid), (port.description or "USB serial port", True))
        note = "" if (port.vid, port.pid) in _USB_IDS and speaks_slcan else "unknown firmware, may not speak slcan"
        found.append(Adapter("bmsota_slcan", str(port.device), f"{name} [{port.vid:04x}:{port.pid:04x}]", note))
    return found


def usb_adapters(root: Path = _SYSFS) -> list[Adapter]:
    """gs_usb adapters by their USB ids (Linux). The kernel drives them: they are used as socketcan."""
    found: list[Adapter] = []
    for device in sorted(root.glob("*")) if root.is_dir() else []:
        with contextlib.suppress(OSError, ValueError):
            ids = tuple(int((device / name).read_text("ascii"), 16) for name in ("idVendor", "idProduct"))
            name, speaks_slcan = _USB_IDS.get((ids[0], ids[1]), ("", True))
            if not speaks_slcan:
                networks = sorted(path.name for path in device.glob("*/net/*"))
                note = "" if networks else "no network interface: load the module gs_usb"
                note = note or f"first: ip link set {networks[0]} up type can bitrate 500000"
                found += [
                    Adapter("socketcan", network, f"{name} [{ids[0]:04x}:{ids[1]:04x}]", note)
                    for network in networks or ["can0"]
                ]
    return found
