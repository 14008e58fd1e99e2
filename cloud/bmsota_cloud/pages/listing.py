"""The vehicle list with the filters the service does not have: series, online or not.

The service filters by project and text in the database. Until it also takes these two, this module reads its rows in
order and keeps those that fit. That is bounded: a fleet beyond the bound is filtered only as far as it was read, and
the page says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota_cloud.domain.paging import PAGE_SIZE_MAX, Page, PageRequest

if TYPE_CHECKING:
    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.services import VehicleRow, VehicleService

__all__ = ["Listing", "list_vehicles"]

# About half a second of reading; a page that takes longer is worse than one that says how far it got.
SCAN_ROWS_MAX = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A page of the list."""

    page: Page[VehicleRow]
    scanned_max: int = 0
    """Not 0: only so many vehicles were looked at, there are more."""


def list_vehicles(
    service: VehicleService,
    request: PageRequest,
    *,
    by: Account,
    project: str,
    text: str,
    series: str,
    is_online: bool | None,
) -> Listing:
    """The vehicles that pass all filters; None as *is_online* lets both pass."""
    if not series and is_online is None:
        return Listing(page=service.rows(request, by=by, project=project, text=text))
    found: list[VehicleRow] = []
    scanned = 0
    number = 1
    total = 1
    while scanned < min(total, SCAN_ROWS_MAX):
        # The service's text also looks at the series, so it narrows the reading where no other text is asked for.
        page = service.rows(PageRequest(number, PAGE_SIZE_MAX), by=by, project=project, text=text or series)
        found.extend(
            row
            for row in page.items
            if (not series or row.series == series) and (is_online is None or row.is_online is is_online)
        )
        scanned += PAGE_SIZE_MAX
        number += 1
        total = page.total
    items = tuple(found[request.offset : request.offset + request.size])
    return Listing(
        page=Page(items=items, total=len(found), number=request.number, size=request.size),
        scanned_max=SCAN_ROWS_MAX if total > SCAN_ROWS_MAX else 0,
    )
