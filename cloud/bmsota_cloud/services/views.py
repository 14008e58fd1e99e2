"""Views: values that the services show to the REST API and the pages, never written back."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    View = TypeVar("View", bound=DataclassInstance)

__all__ = ["view_of"]


def view_of(kind: type[View], source: object, **more: Any) -> View:
    """A *kind* whose fields are *more*, and for the rest what *source* has under the same names."""
    names = [field.name for field in fields(kind) if field.name not in more]
    return kind(**{name: getattr(source, name) for name in names}, **more)
