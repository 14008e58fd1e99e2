"""What a bench is made of and what goes wrong on it; checked before anything is built."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from bmsota.errors import ConfigurationError
from bmsota_sim.devices.flash import ERASE_NS, PROGRAM_NS
from bmsota_sim.kernel import SECOND
from bmsota_sim.links.canbus import BusFaults
from bmsota_sim.profiles import PROFILES, SERIES

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from bmsota.image import PublicKey


SLAVES_MAX = 16
"""As many as `dbc/bms_internal.dbc` has messages for."""

ADAPTERS_MAX = 16
BITRATES_BPS = (10_000, 20_000, 50_000, 83_300, 100_000, 125_000, 250_000, 500_000, 750_000, 1_000_000)
DATA_BITRATES_BPS = (1_000_000, 2_000_000, 4_000_000, 5_000_000)
SLOT_KIB_MAX = 4096
TIME_NS_MAX = 10 * SECOND


class BenchTopology(Enum):
    """Where the adapters are."""

    DIRECT = "direct"
    """On the internal bus, beside master and slaves."""
    GATEWAY = "gateway"
    """On a diagnostic bus; the master passes what is for the slaves."""


class BenchProtocol(Enum):
    """How the nodes can be flashed."""

    BOOTLOADER = "bootloader"
    UDS = "uds"
    BOTH = "both"


_PROTOCOL_TEXTS = {
    BenchProtocol.BOOTLOADER: "bootloader",
    BenchProtocol.UDS: "UDS",
    BenchProtocol.BOTH: "bootloader and UDS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """One bench.

    Raises:
        ConfigurationError: an option is out of range, or two do not go together.
    """

    series: str = "F7"
    slaves: int | None = None
    """None: as many as the series has, and as UDS has ids for."""
    topology: BenchTopology = BenchTopology.DIRECT
    adapters: int = 1
    bitrate_bps: int = 500_000
    data_bitrate_bps: int | None = None
    """Of CAN FD; None: a classic bus."""
    ids: int = 11
    """Bits of the identifiers of bootloader and UDS."""
    protocol: BenchProtocol = BenchProtocol.BOOTLOADER
    access_keys: tuple[Ed25519PublicKey, ...] = ()
    """Not empty: a flasher must prove that it has one of their private keys."""
    faults: BusFaults = field(default_factory=BusFaults)
    """Of every bus and port; `bus_off` of the adapters alone."""
    echo: bool = False
    """The adapters hand the host its own frames back."""
    turnaround_ns: int = 0
    """From the bus to the host: what USB and drivers take."""
    boot_window_ns: int = 0
    """How long a node listens after a restart before its application starts; 0: it starts at once."""
    traffic: bool = True
    """The slaves send their measurements."""
    flash_erase_ns: int = ERASE_NS
    flash_program_ns: int = PROGRAM_NS
    slot_kib: int = 0
    """At least this much room for an image in every node; 0: as the series has it."""
    wrong_class: frozenset[int] = frozenset()
    """Positions where a node of another series is."""
    absent: frozenset[int] = frozenset()
    """Positions of nodes without power until they are switched on."""
    image_keys: tuple[PublicKey, ...] = ()
    """Trusted beside the key of the packaged sample images."""
    flash_file: Path | None = None
    """Where the contents of all flashes are kept between two benches."""
    seed: int = 1

    def __post_init__(self) -> None:
        if self.series not in SERIES:
            raise ConfigurationError(f"series: expected one of {', '.join(SERIES)}, got {self.series!r}")
        if not 1 <= self.slave_count <= SLAVES_MAX:
            raise ConfigurationError(f"slaves: expected 1 to {SLAVES_MAX}, got {self.slave_count}")
        if self._uds_slaves_max is not None and self.slave_count > self._uds_slaves_max:
            raise ConfigurationError(
                f"slaves: expected at most {self._uds_slaves_max} with UDS and 11-bit ids, got {self.slave_count}; "
                "29-bit ids have room for more"
            )
        if not 1 <= self.adapters <= ADAPTERS_MAX:
            raise ConfigurationError(f"adapters: expected 1 to {ADAPTERS_MAX}, got {self.adapters}")
        if self.bitrate_bps not in BITRATES_BPS:
            raise ConfigurationError(f"bit rate: expected one of {_listed(BITRATES_BPS)}, got {self.bitrate_bps}")
        data = self.data_bitrate_bps
        if data is not None and (data not in DATA_BITRATES_BPS or data < self.bitrate_bps):
            raise ConfigurationError(
                f"data bit rate: expected one of {_listed(DATA_BITRATES_BPS)} and not below {self.bitrate_bps}, got {data}"
            )
        if self.ids not in {11, 29}:
            raise ConfigurationError(f"ids: expected 11 or 29, got {self.ids}")
        times_ns = {
            "turnaround": self.turnaround_ns,
            "boot window": self.boot_window_ns,
            "flash erase": self.flash_erase_ns,
            "flash program": self.flash_program_ns,
        }
        for name, time_ns in times_ns.items():
            if not 0 <= time_ns <= TIME_NS_MAX:
                raise ConfigurationError(f"{name}: expected 0 to 10 s, got {time_ns / SECOND:g} s")
        if not 0 <= self.slot_kib <= SLOT_KIB_MAX:
            raise ConfigurationError(f"slot: expected 0 to {SLOT_KIB_MAX} KiB, got {self.slot_kib}")
        for name, positions in (("wrong class", self.wrong_class), ("absent", self.absent)):
            for position in positions:
                if not 0 <= position <= self.slave_count:
                    raise ConfigurationError(
                        f"{name}: expected a position from 0 (the master) to {self.slave_count}, got {position}"
                    )

    @property
    def slave_count(self) -> int:
        if self.slaves is not None:
            return self.slaves
        count = PROFILES[self.series].slave_count
        return count if self._uds_slaves_max is None else min(count, self._uds_slaves_max)

    @property
    def _uds_slaves_max(self) -> int | None:
        """UDS on 11-bit ids has ids for eight nodes (ISO 15765-4)."""
        return 7 if self.protocol is not BenchProtocol.BOOTLOADER and self.ids == 11 else None

    @property
    def bus_text(self) -> str:
        """The bus in a few words."""
        rate = f"{self.bitrate_bps / 1000:g} kbit/s"
        fd = "classic" if self.data_bitrate_bps is None else "CAN FD"
        data = "" if self.data_bitrate_bps is None else f" / {self.data_bitrate_bps / 1e6:g} Mbit/s"
        return f"{fd} {rate}{data}, {self.ids}-bit ids, {_PROTOCOL_TEXTS[self.protocol]}"


def _listed(rates_bps: tuple[int, ...]) -> str:
    return ", ".join(map(str, rates_bps))
