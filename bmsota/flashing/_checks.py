"""What is checked before anything is written to a node: each check, what must hold, and what overriding it means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Check(StrEnum):
    """What is checked before anything is written. The value is the check's name for users."""

    NODE_PRESENT = "node-present"
    HARDWARE_CLASS = "hardware-class"
    ROLE = "role"
    HWID = "hwid"
    ACCESS_KEY = "access-key"
    VERSION_DOWNGRADE = "version-downgrade"
    SAME_VERSION = "same-version"
    SECURITY_COUNTER = "security-counter"
    IMAGE_SIZE = "image-size"
    TEST_PENDING = "test-pending"
    IMAGE_SIGNATURE = "image-signature"
    MANIFEST_SIGNATURE = "manifest-signature"
    MANIFEST_EXPIRY = "manifest-expiry"
    MIXED_PACK = "mixed-pack"
    VEHICLE_STATE = "vehicle-state"


CHECKS: Mapping[Check, str] = {
    Check.NODE_PRESENT: "every named or expected node answers, and at least one node of each role that gets an image",
    Check.HARDWARE_CLASS: "there is an image for the node's hardware class",
    Check.ROLE: "the image is for this kind of node, master or slave",
    Check.HWID: "the node has the expected hardware id",
    Check.ACCESS_KEY: "an access key is given if the node is locked; only the node can tell whether it is the right one",
    Check.VERSION_DOWNGRADE: "the version is not older than the running one",
    Check.SAME_VERSION: "the node does not run this version yet; never refused: such a node is left alone",
    Check.SECURITY_COUNTER: "the image's security counter is not below the node's",
    Check.IMAGE_SIZE: "the image fits into the node's slot, if the node reports its size",
    Check.TEST_PENDING: "the node does not run another image that is still in test",
    Check.IMAGE_SIGNATURE: "the image is signed with one of the given keys",
    Check.MANIFEST_SIGNATURE: "the manifest is signed with one of the given keys",
    Check.MANIFEST_EXPIRY: "the release has not expired",
    Check.MIXED_PACK: "afterwards equal nodes run the same version, and the dependencies of every image are met",
    Check.VEHICLE_STATE: "the vehicle is at rest and no charger is connected; never refused, but stated in every plan",
}
"""Check -> what must hold."""

OVERRIDABLE: Mapping[Check, str] = {
    Check.NODE_PRESENT: "the nodes that answer are flashed; the others keep what they have",
    Check.HWID: "the node that answers is flashed, whatever its hardware id",
    Check.ACCESS_KEY: "the node is flashed without a key; it refuses if it requires one",
    Check.VERSION_DOWNGRADE: "an older version replaces a newer one, as far as the node's security counter allows",
    Check.SAME_VERSION: "a node that already runs this version is flashed again",
    Check.TEST_PENDING: "the image in test is reverted first",
    Check.IMAGE_SIGNATURE: "the image is sent; the node still verifies it with its own keys",
    Check.MANIFEST_EXPIRY: "an expired release is installed",
    Check.MIXED_PACK: "the pack may run versions that were not released together",
}
"""Check -> what overriding it means."""

NOT_OVERRIDABLE: Mapping[Check, str] = {
    Check.HARDWARE_CLASS: "the node itself refuses an image of another class",
    Check.ROLE: "the node itself refuses an image of another role",
    Check.SECURITY_COUNTER: "the node itself refuses an image with a lower counter",
    Check.IMAGE_SIZE: "the image does not fit",
    Check.MANIFEST_SIGNATURE: "a manifest that was changed cannot be trusted",
    Check.VEHICLE_STATE: "it is never refused, because the bus does not carry this information",
}
"""Check -> why it cannot be overridden."""


class Verdict(Enum):
    """What a check found."""

    PASSED = "passed"
    REFUSED = "refused"
    FORCED = "forced"
    """It would be refused, and the user overrides it."""
    UNKNOWN = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, about one node or (None) about the whole."""

    check: Check
    verdict: Verdict
    position: int | None = None
    detail: str = ""
    """What is wrong; empty if passed."""

    def __str__(self) -> str:
        """As people read it: "mixed-pack: node 2 would run 2.1.0, node 3 2.0.0"."""
        place = "" if self.position is None else f"node {self.position}: "
        return f"{self.check.value}: {place}{self.detail}"
