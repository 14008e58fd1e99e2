"""Whether an image and a node belong together, as seen from either end before anything is erased.

`ExpectedNode` is the flasher's view of a node, `offer_objection` the node's view of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota.node._events import FailureCause
from bmsota.node._results import ResultCode

if TYPE_CHECKING:
    from uuid import UUID

    from bmsota.boot import BootStore
    from bmsota.image import HardwareClass, ImageRole
    from bmsota.node._description import NodeDescription, TargetIdentity

__all__ = ["ExpectedNode", "offer_objection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedNode:
    """Who must answer before anything is written."""

    hardware_class: HardwareClass
    role: ImageRole
    hwid: str | None = None
    """None: any node of this class and role."""

    def objection(self, node: NodeDescription) -> tuple[FailureCause, str] | None:
        """Why *node* is not the expected one; None: it is."""
        class_id = self.hardware_class.class_id
        if node.role is not self.role:
            return FailureCause.WRONG_ROLE, f"expected {self.role.name}, got {node.role.name}"
        if node.class_id != class_id:
            return FailureCause.WRONG_HARDWARE, f"expected hardware class {class_id}, got {node.class_id}"
        if self.hwid is not None and node.hwid != self.hwid:
            return FailureCause.WRONG_NODE, f"expected hardware id {self.hwid}, got {node.hwid}"
        return None


def offer_objection(
    store: BootStore, identity: TargetIdentity, *, role: int, class_id: UUID, size_bytes: int, security_counter: int
) -> tuple[ResultCode, str] | None:
    """Why the node refuses an image that was offered, before the first erase; None: it takes it.

    The one place for every protocol a node speaks. The image itself is judged again when all of it is there.
    """
    if role != identity.role:
        return ResultCode.WRONG_ROLE, f"expected role {int(identity.role)}, got {role}"
    if class_id != identity.hardware_class.class_id:
        return ResultCode.WRONG_HARDWARE, f"expected hardware class {identity.hardware_class.class_id}, got {class_id}"
    if not 0 < size_bytes <= store.slot_size_bytes:
        return ResultCode.TOO_LARGE, f"expected at most {store.slot_size_bytes} bytes, got {size_bytes}"
    if security_counter < store.security_counter:
        detail = f"expected a security counter of at least {store.security_counter}, got {security_counter}"
        return ResultCode.COUNTER_TOO_LOW, detail
    if store.is_spare_running:
        return ResultCode.TEST_PENDING, "the image that runs is in test or reverted, and must not be overwritten"
    return None
