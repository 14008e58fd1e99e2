"""What differs from one kind of node to the next. The default is our own `UdsServer`; `plain` describes others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from bmsota.errors import ConfigurationError
from bmsota.image import ImageRole
from bmsota.uds._identifiers import Did, Routine

if TYPE_CHECKING:
    from collections.abc import Mapping


_NO_CLASS = UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class UdsDialect:
    """How a node wants to be flashed.

    Raises:
        ConfigurationError: a length is out of its range.
    """

    has_profile: bool = True
    """Whether the node has our identifiers, offers and vendor routines. Then it is identified before anything is erased,
    transfers resume where they broke off, and the boot id shows a restart."""
    session_first: bool = True
    """Whether the extended session is opened before the programming session (ISO 14229-1, 15.2.1)."""
    needs_access: bool = True
    """Whether to request a seed. A node that is not locked answers with zeros and gets no key."""
    functional_tester_present: bool = True
    """Whether TesterPresent goes to all nodes at once (0x7DF), which does not disturb a message under way. False: to this
    node alone, between messages."""
    erase_routine: int | None = Routine.ERASE_MEMORY
    erase_record: bytes | None = None
    """What goes with the erase routine. None: an offer, or for nodes without our profile 0x44, address and size."""
    extra_requests: tuple[bytes, ...] = ()
    """Whole requests before the erase routine that must be answered positively: a fingerprint (2E F15A ...), precondition routines."""
    address: int = 0
    """Where the download begins; our own nodes count from the start of the image."""
    address_bytes: int = 4
    size_field_bytes: int = 4
    check_routine: int | None = Routine.CHECK_MEMORY
    check_record: bytes = b""
    """What goes with the check routine: some nodes want a checksum here."""
    dependencies_routine: int | None = None
    """Run at the end of a transfer. Our own nodes want it as the command ACTIVATE_TEST instead."""
    block_length_max: int = 0xFFF
    """Our own limit of a TransferData request; the node's may be lower."""
    reset_type: int = 1
    """hardReset."""
    expected_values: Mapping[int, bytes] = field(default_factory=dict)
    """Identifiers that must have these values before anything is erased, for nodes without our profile."""
    version_did: int = Did.SOFTWARE_VERSION
    role: ImageRole = ImageRole.MASTER
    """What a node without our profile is taken for."""
    class_id: UUID = _NO_CLASS

    def __post_init__(self) -> None:
        if self.block_length_max < 3 or not 1 <= self.address_bytes <= 5 or not 1 <= self.size_field_bytes <= 4:
            raise ConfigurationError(
                "UDS dialect: expected blocks of 3 bytes or more, an address of 1 to 5 and a size of 1 to 4 bytes, got "
                f"{self.block_length_max}, {self.address_bytes}, {self.size_field_bytes}"
            )

    @classmethod
    def plain(
        cls,
        *,
        address: int,
        check_routine: int | None = None,
        dependencies_routine: int | None = Routine.CHECK_DEPENDENCIES,
        functional_tester_present: bool = False,
        needs_access: bool = True,
        erase_routine: int | None = Routine.ERASE_MEMORY,
        expected_values: Mapping[int, bytes] | None = None,
    ) -> UdsDialect:
        """The usual order of ISO 14229-1 for a node that knows nothing of us; the rest by `dataclasses.replace`."""
        return cls(
            has_profile=False,
            address=address,
            check_routine=check_routine,
            dependencies_routine=dependencies_routine,
            functional_tester_present=functional_tester_present,
            needs_access=needs_access,
            erase_routine=erase_routine,
            expected_values=expected_values or {},
        )
