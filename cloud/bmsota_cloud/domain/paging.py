"""A page of a list. Every list query of the platform is paged: a fleet of 100,000 must not be one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from bmsota_cloud.domain.errors import InvalidInputError

__all__ = ["ID_MAX", "PAGE_NUMBER_MAX", "PAGE_SIZE_MAX", "Page", "PageRequest"]

# A list of 500 rows renders and serialises in well under 100 ms; no one reads further on one page.
PAGE_SIZE_MAX = 500
PAGE_NUMBER_MAX = 1_000_000
# What a column of numbers given by the database holds.
ID_MAX = 2**31 - 1

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which part of a list is wanted; numbers start at 1."""

    number: int = 1
    size: int = 50

    def __post_init__(self) -> None:
        if not 1 <= self.number <= PAGE_NUMBER_MAX:
            raise InvalidInputError("bad-page", f"page: expected 1 to {PAGE_NUMBER_MAX}, got {self.number}")
        if not 1 <= self.size <= PAGE_SIZE_MAX:
            raise InvalidInputError("bad-page", f"page size: expected 1 to {PAGE_SIZE_MAX}, got {self.size}")

    @property
    def offset(self) -> int:
        return (self.number - 1) * self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Item]):
    """The part, and how much there is in all."""

    items: tuple[Item, ...]
    total: int
    number: int
    size: int

    @property
    def pages(self) -> int:
        """How many pages there are; an empty list has one."""
        return max(1, -(-self.total // self.size))
