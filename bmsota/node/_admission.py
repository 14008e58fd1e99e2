"""Whether an image and a node belong together, as the flasher sees it before anything is written.

The node judges for itself: `NodeStaging`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota.node._events import FailureCause

if TYPE_CHECKING:
    from bmsota.image import HardwareClass, ImageRole
    from bmsota.node._description import NodeDescription


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
