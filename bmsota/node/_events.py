"""What flashers and nodes report to their drivers, in the past tense, and what a failure means.

`FAILURES` is the one place that says of each cause whether trying again can help, whether it is safe, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from bmsota.node._results import ResultCode

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Mapping

    from bmsota.boot import ImageFacts
    from bmsota.node._description import NodeDescription
    from bmsota.node._results import NodeCommand


class FailureCause(Enum):
    """Why a transfer or a command ended without success."""

    NODE_SILENT = "node silent"
    NO_PROGRESS = "no progress"
    PROTOCOL_VERSION = "protocol version"
    WRONG_NODE = "wrong node"
    BAD_IDENTITY = "impossible identity"
    WRONG_ROLE = "wrong role"
    WRONG_HARDWARE = "wrong hardware"
    TOO_LARGE = "image too large"
    COUNTER_TOO_LOW = "security counter too low"
    TEST_PENDING = "test pending"
    BAD_IMAGE = "bad image"
    DAMAGED = "image damaged in the node"
    NOT_TRUSTED = "image not trusted"
    NOTHING_TO_DO = "nothing to do"
    WRONG_VERSION = "wrong version"
    CAPABILITY_MISSING = "capability missing"
    ACCESS_NEEDED = "access key needed"
    ACCESS_DENIED = "access denied"
    IN_USE = "in use"
    FLASH_WORN = "flash worn"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Failure:
    """What a cause means for the user."""

    permanent: bool
    """Whether running the same thing again will fail again."""
    advice: str
    safe_to_run_again: bool = True
    """Whether running it again does no harm. It never does here: a transfer writes the spare slot only."""


FAILURES: Mapping[FailureCause, Failure] = {
    FailureCause.NODE_SILENT: Failure(
        False, "Check wiring, bit rate and the node's supply; run again, it resumes where the node stopped."
    ),
    FailureCause.NO_PROGRESS: Failure(
        False, "The node restarts again and again or the bus loses too much; check the supply and the bus, run again."
    ),
    FailureCause.PROTOCOL_VERSION: Failure(True, "Use the bmsota version that speaks this node's protocol."),
    FailureCause.WRONG_NODE: Failure(True, "Another node answers at this position; compare the hardware id."),
    FailureCause.BAD_IDENTITY: Failure(
        False,
        "The node says of itself what no node can be (the detail says what): another node may answer in its place, or its "
        "production data are damaged. Run again; if it stays, replace the node.",
    ),
    FailureCause.WRONG_ROLE: Failure(True, "The image is for the other kind of node; choose the right one."),
    FailureCause.WRONG_HARDWARE: Failure(True, "The image is for another hardware class; choose the right one."),
    FailureCause.TOO_LARGE: Failure(True, "The image does not fit the node's slot."),
    FailureCause.COUNTER_TOO_LOW: Failure(
        True, "The node has confirmed an image with a higher security counter; use a newer image."
    ),
    FailureCause.TEST_PENDING: Failure(
        False, "An unconfirmed image is in test; confirm or revert it (or restart the node) and run again."
    ),
    FailureCause.BAD_IMAGE: Failure(True, "The file is no valid image; get it again from its source."),
    FailureCause.DAMAGED: Failure(
        False,
        "The node has stored other bytes than the image says, twice. Get the image again from its source; if it stays, the node's "
        "flash is faulty: replace the node.",
    ),
    FailureCause.NOT_TRUSTED: Failure(
        True, "The node does not accept the image's signature, hardware or counter; get a release signed for it."
    ),
    FailureCause.NOTHING_TO_DO: Failure(
        True, "The node has no image in the state this command needs; stage one first."
    ),
    FailureCause.WRONG_VERSION: Failure(
        False, "The node runs another version than expected: it has not been restarted, or has reverted."
    ),
    FailureCause.CAPABILITY_MISSING: Failure(
        True, "The node cannot do what was asked, such as CAN FD; run it without that."
    ),
    FailureCause.ACCESS_NEEDED: Failure(
        True, "The node is locked; give the access key of this series (the detail names the node)."
    ),
    FailureCause.ACCESS_DENIED: Failure(
        True,
        "The node does not know this access key; take the one of its series. After several wrong keys in a row it answers more slowly.",
    ),
    FailureCause.IN_USE: Failure(
        False,
        "Another upgrade of the node is in progress, such as one over the air; wait until it has ended and run again.",
    ),
    FailureCause.FLASH_WORN: Failure(
        True,
        "The node's flash does not keep what is written to it: replace the node. It runs the image it ran before; if none ran, run this "
        "once more: the node then uses its other slot.",
    ),
    FailureCause.REFUSED: Failure(False, "The node refused; the detail says with which code."),
}

CAUSE_OF_RESULT: Mapping[ResultCode, FailureCause] = {
    ResultCode.WRONG_ROLE: FailureCause.WRONG_ROLE,
    ResultCode.WRONG_HARDWARE: FailureCause.WRONG_HARDWARE,
    ResultCode.TOO_LARGE: FailureCause.TOO_LARGE,
    ResultCode.COUNTER_TOO_LOW: FailureCause.COUNTER_TOO_LOW,
    ResultCode.TEST_PENDING: FailureCause.TEST_PENDING,
    ResultCode.BAD_OFFER: FailureCause.PROTOCOL_VERSION,
    ResultCode.BAD_IMAGE: FailureCause.BAD_IMAGE,
    ResultCode.NOT_TRUSTED: FailureCause.NOT_TRUSTED,
    ResultCode.NOTHING_TO_DO: FailureCause.NOTHING_TO_DO,
    ResultCode.ACCESS_NEEDED: FailureCause.ACCESS_NEEDED,
    ResultCode.ACCESS_DENIED: FailureCause.ACCESS_DENIED,
    ResultCode.WRONG_PROTOCOL: FailureCause.PROTOCOL_VERSION,
    ResultCode.IN_USE: FailureCause.IN_USE,
    ResultCode.WORN: FailureCause.FLASH_WORN,
}
"""Result codes that end a transfer or a command; all others interrupt it and are tried again, boundedly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failed:
    """What all ends without success say."""

    cause: FailureCause
    detail: str
    node: NodeDescription | None
    """What the node last said of itself."""

    @property
    def permanent(self) -> bool:
        """Whether running the same thing again will fail again."""
        return FAILURES[self.cause].permanent

    @property
    def safe_to_run_again(self) -> bool:
        """Whether running it again does no harm."""
        return FAILURES[self.cause].safe_to_run_again


# ---- a transfer


@dataclass(frozen=True, slots=True)
class TargetConnected:
    """The node answered and is the one expected. Comes again after every interruption."""

    node: NodeDescription


@dataclass(frozen=True, slots=True)
class TransferStarted:
    """The node wants the image from `offset`: 0, or more when part of it is already there."""

    offset: int
    size_bytes: int
    is_compressed: bool = False
    """Whether what goes over the wire is compressed, and not the image itself."""


@dataclass(frozen=True, slots=True)
class BlockAccepted:
    """The node has everything before `next_offset`."""

    next_offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class BlockRepeated:
    """The node missed `frames` data frames behind `offset`; they are sent again."""

    offset: int
    frames: int


@dataclass(frozen=True, slots=True)
class TransferInterrupted:
    """The node fell silent, restarted or lost its place; the client looks for it again and resumes."""

    detail: str


@dataclass(frozen=True, slots=True)
class ImageVerified:
    """The node has the whole image and has verified it. It is staged: nothing runs it yet."""

    node: NodeDescription


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferFailed(_Failed):
    """The client has given up."""

    next_offset: int
    """How far the node had confirmed."""


ClientEvent: TypeAlias = (
    TargetConnected
    | TransferStarted
    | BlockAccepted
    | BlockRepeated
    | TransferInterrupted
    | ImageVerified
    | TransferFailed
)


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """What one node of a broadcast is about."""

    position: int
    event: ClientEvent


# ---- commands and discovery


@dataclass(frozen=True, slots=True)
class CommandSucceeded:
    """The node did it. After RESET `node` is what it said after its restart, else before the command."""

    command: NodeCommand
    node: NodeDescription


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandFailed(_Failed):
    """The node refused, or could not be reached."""

    command: NodeCommand


CommandEvent: TypeAlias = CommandSucceeded | CommandFailed


@dataclass(frozen=True, slots=True)
class NodeFound:
    """A node has said all of itself."""

    node: NodeDescription


@dataclass(frozen=True, slots=True)
class NodeRefused:
    """A node answers, and says of itself what no node can be: it is not among the nodes that were found."""

    position: int
    detail: str
    """What is impossible: what was expected and what came."""


DiscoveryEvent: TypeAlias = NodeFound | NodeRefused


# ---- the node


@dataclass(frozen=True, slots=True)
class BootloaderEntered:
    """A flasher has taken the node over; the application should rest."""


@dataclass(frozen=True, slots=True)
class ApplicationStarted:
    """The boot window is over and no flasher has come: start the application now."""


@dataclass(frozen=True, slots=True)
class BootloaderLeft:
    """The flasher is done or gone; the application resumes."""


@dataclass(frozen=True, slots=True)
class AccessGranted:
    """The flasher has proved that it holds the key."""


@dataclass(frozen=True, slots=True)
class AccessDenied:
    """A flasher has tried, and does not hold the key."""


@dataclass(frozen=True, slots=True)
class StagingStarted:
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class BlockStored:
    next_offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ImageRefused:
    """The node does not take an image that was offered, or that it has verified."""

    code: ResultCode
    detail: str


@dataclass(frozen=True, slots=True)
class ImageStaged:
    """The whole image is in the spare slot, verified."""

    facts: ImageFacts


@dataclass(frozen=True, slots=True)
class TestRequested:
    """The next boot tries the staged image."""

    __test__ = False  # Not a test case, whatever pytest thinks of the name.


@dataclass(frozen=True, slots=True)
class ImageConfirmed:
    """The image in test is the active one now."""


@dataclass(frozen=True, slots=True)
class ImageReverted:
    """The next boot runs the image before."""


@dataclass(frozen=True, slots=True)
class ResetRequested:
    """The driver must restart the node now: new store, `boot()`, new target."""


@dataclass(frozen=True, slots=True)
class RepliesDropped:
    """More replies were waiting for the bus than a node holds; those behind them were not given."""

    count: int


@dataclass(frozen=True, slots=True)
class MessagesLost:
    """Messages that were not received or sent whole, and frames that belong to none."""

    count: int


def count_event(events: deque[TargetEvent], kind: type[RepliesDropped | MessagesLost], count: int = 1) -> None:
    """Say in *events* that it happened *count* times more: a flood of it stays one event until that is taken."""
    if events and isinstance(events[-1], kind):
        count += events.pop().count  # type: ignore[union-attr]
    events.append(kind(count))


TargetEvent: TypeAlias = (
    BootloaderEntered
    | ApplicationStarted
    | BootloaderLeft
    | AccessGranted
    | AccessDenied
    | StagingStarted
    | BlockStored
    | ImageRefused
    | ImageStaged
    | TestRequested
    | ImageConfirmed
    | ImageReverted
    | ResetRequested
    | RepliesDropped
    | MessagesLost
)
