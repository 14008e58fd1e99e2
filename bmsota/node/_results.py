"""What a node can be asked to do, and what comes of it.

The numbers of both are those of the value tables in `dbc/bms_bootloader*.dbc`; a test compares them.
"""

from __future__ import annotations

from enum import IntEnum


class NodeCommand(IntEnum):
    """What a node can be asked to do."""

    DISCOVER = 1
    ENTER_BOOTLOADER = 2
    BEGIN_TRANSFER = 3
    CHECK_BLOCK = 4
    FINISH_TRANSFER = 5
    ACTIVATE_TEST = 6
    RESET = 7
    CONFIRM = 8
    REVERT = 9
    LEAVE_BOOTLOADER = 10
    OPEN_BLOCK = 11
    """The next data frames belong to this block: of a new stream, of one that is repaired, or of the stream again."""
    REQUEST_CHALLENGE = 12
    UNLOCK = 13
    """The signature over the challenge was sent as data frames."""


class ResultCode(IntEnum):
    """What became of a command."""

    OK = 0
    WRONG_STATE = 1
    """The node is not in a state for this command; it may have restarted."""
    WRONG_ROLE = 2
    WRONG_HARDWARE = 3
    TOO_LARGE = 4
    COUNTER_TOO_LOW = 5
    TEST_PENDING = 6
    """What runs must not be overwritten: it is in test, or has been reverted and the node has not restarted."""
    BAD_OFFER = 7
    """The offer record cannot be read: another layout."""
    INCOMPLETE = 8
    """Bytes of the image are missing, or a block has an impossible size."""
    BAD_IMAGE = 9
    """The image is malformed."""
    NOT_TRUSTED = 10
    """The image's signature, hardware or counter is refused."""
    NOTHING_TO_DO = 11
    """There is no staged image to test, none in test to confirm, or none to go back to."""
    DAMAGED = 12
    """The image in the flash is not the one that was offered; sending it again can help."""
    ACCESS_NEEDED = 13
    """The node must be unlocked first."""
    ACCESS_DENIED = 14
    """The signature is not one of a key the node knows, over the challenge it gave."""
    ACCESS_WAIT = 15
    """The node gives no challenge yet; the detail says how many milliseconds to wait."""
    WRONG_PROTOCOL = 16
    """The node does not speak the version named in ENTER_BOOTLOADER."""
    IN_USE = 17
    """Another upgrade of the node is in progress, such as one by a master's own updater."""
    WORN = 18
    """The flash does not keep what is written to it, or cannot be read: sending it again does not help. Nodes from before this
    code say DAMAGED."""
