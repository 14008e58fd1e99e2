"""Make frozen values fast.

A frozen dataclass sets each field through `object.__setattr__`: thirteen fields cost a microsecond, and a report has about
sixty. Decoding would spend a third of its time there. A draft of the same slots is filled by plain assignment and then
declared to be the frozen class, which Python allows for classes of equal layout; the result is that class, in every
respect. Classes where that would skip something (`__post_init__`) are refused.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def draft(cls: type) -> type:
    """Return a class with the slots of *cls* and nothing else: fill one, then set its `__class__` to *cls*."""
    assert not hasattr(cls, "__post_init__"), cls
    return type("Draft", cls.__bases__, {"__slots__": tuple(item.name for item in fields(cls))})


def maker(cls: type) -> Callable[..., Any]:
    """Return a function that makes a *cls* from all its fields, in their order, without checking anything."""
    names = [item.name for item in fields(cls)]
    arguments = ", ".join(f"v{i}" for i in range(len(names)))
    lines = [
        f"def make({arguments}):",
        "    o = new(draft)",
        *(f"    o.{name} = v{i}" for i, name in enumerate(names)),
        "    o.__class__ = cls",
        "    return o",
    ]
    names_in: dict[str, Any] = {"new": object.__new__, "draft": draft(cls), "cls": cls}
    # The source is made from our own field names; nothing from outside gets into it.
    exec("\n".join(lines), names_in)  # noqa: S102
    function: Callable[..., Any] = names_in["make"]
    return function
