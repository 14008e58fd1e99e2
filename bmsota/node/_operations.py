"""What several nodes of a pack are asked to do at once, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bmsota.node._events import FailureCause


@dataclass(frozen=True, slots=True)
class FlashJob:
    """One node and the image it must get."""

    position: int
    image: bytes


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What became of one node."""

    position: int
    ok: bool
    detail: str = ""
    """Empty, or "cause: what was expected and what came"."""
    safe_to_run_again: bool = True
    cause: FailureCause | None = None
    """None if `ok`. `bmsota.node.FAILURES` says what to do about it."""
