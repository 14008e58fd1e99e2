"""Refusals of the gateway, kept so that an operator finds them: per vehicle, and as the list "heard but not admitted".

Strategy: `record` only counts in memory, whatever a link's thread throws at it; `flush`, called every few seconds, writes what
has gathered in one transaction. Both are bounded: a stranger can fill neither memory nor database, and cannot push
other addresses out by inventing VINs. What does not fit is counted and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address
from threading import Lock
from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.refusals import HEAD_SIZE_BYTES_MAX, Refusal, RefusalCause
from bmsota_cloud.services.scoped import vehicle_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.paging import Page, PageRequest
    from bmsota_cloud.domain.refusals import RefusalRow
    from bmsota_cloud.services.context import Context

__all__ = [
    "REFUSALS_MAX",
    "REFUSALS_OF_ADDRESS_MAX",
    "RefusalService",
    "network_of",
]

REFUSALS_MAX = 10_000
"""Records that are kept, the newest; a record is below 500 bytes."""
REFUSALS_OF_ADDRESS_MAX = 1_000
"""Of one address. A mobile operator may have a whole fleet behind one; a stranger needs ten to fill the list."""

# Between two flushes, all addresses together, and each of them.
_GATHERED_MAX = 1_024
_GATHERED_OF_ADDRESS_MAX = 128

_DETAIL_LENGTH_MAX = 200
_ADDRESS_LENGTH_MAX = 64
_VIN_LENGTH_MAX = 17
_SHOWN_OF_VEHICLE = 10


@dataclass(slots=True)
class _Gathered:
    """What has repeated since the last flush."""

    count: int
    first_at: datetime
    last_at: datetime
    head: bytes
    answered: int | None
    detail: str


class RefusalService:
    """`record` and `flush` may be called from different threads."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = Lock()
        self._gathered: dict[tuple[str, str, RefusalCause], _Gathered] = {}
        self._keys_of: dict[str, int] = {}
        self._left_out: dict[RefusalCause, int] = {}

    def record(
        self,
        cause: RefusalCause,
        *,
        address: str,
        vin: str = "",
        head: bytes = b"",
        answered: int | None = None,
        detail: str = "",
        now: datetime,
    ) -> None:
        """Remember a refusal until the next `flush`. Costs about a microsecond, never waits and never raises."""
        key = (address, vin, cause)
        with self._lock:
            known = self._gathered.get(key)
            if known is not None:
                known.count += 1
                known.last_at, known.head = now, head[:HEAD_SIZE_BYTES_MAX]
                known.answered, known.detail = answered, detail
                return
            keys = self._keys_of.get(address, 0)
            if keys >= _GATHERED_OF_ADDRESS_MAX or len(self._gathered) >= _GATHERED_MAX:
                self._left_out[cause] = self._left_out.get(cause, 0) + 1
                return
            self._keys_of[address] = keys + 1
            self._gathered[key] = _Gathered(1, now, now, head[:HEAD_SIZE_BYTES_MAX], answered, detail)

    def flush(self) -> int:
        """Write what has gathered, in one transaction, and forget what is beyond the limits; how many records were written.

        If the store is away, what has gathered stays for the next time, within the same bounds.
        """
        with self._lock:
            gathered, self._gathered = self._gathered, {}
            left_out, self._left_out = self._left_out, {}
            self._keys_of.clear()
        if not gathered and not left_out:
            return 0
        counts = dict(left_out)
        for (_, _, cause), item in gathered.items():
            counts[cause] = counts.get(cause, 0) + item.count
        records = _records(gathered)
        try:
            with self._context.store.transaction() as work:
                work.refusals.add(records, counts)
                work.refusals.trim(
                    sorted({record.address for record in records}),
                    keep=REFUSALS_MAX,
                    keep_of_address=REFUSALS_OF_ADDRESS_MAX,
                )
        except BaseException:
            self._put_back(gathered, left_out)
            raise
        return len(records)

    def _put_back(
        self, gathered: dict[tuple[str, str, RefusalCause], _Gathered], left_out: dict[RefusalCause, int]
    ) -> None:
        with self._lock:
            for key, old in gathered.items():
                new = self._gathered.get(key)
                if new is not None:
                    new.count += old.count
                    new.first_at = old.first_at
                elif len(self._gathered) < _GATHERED_MAX:
                    self._gathered[key] = old
                    self._keys_of[key[0]] = self._keys_of.get(key[0], 0) + 1
                else:
                    self._left_out[key[2]] = self._left_out.get(key[2], 0) + old.count
            for cause, count in left_out.items():
                self._left_out[cause] = self._left_out.get(cause, 0) + count

    # -- for people ----------------------------------------------------------------------------------------------------

    def page(
        self,
        request: PageRequest,
        *,
        by: Account,
        text: str = "",
        cause: RefusalCause | None = None,
        is_registered: bool | None = None,
    ) -> Page[RefusalRow]:
        """The list "heard but not admitted", newest first. *text* is looked for in VIN and address.

        *is_registered*: only records whose VIN is registered now, or only the others; None lets both pass.
        """
        require(by, Permission.REFUSAL_READ)
        with self._context.store.reading() as work:
            return work.refusals.page(request, text=text, cause=cause, is_registered=is_registered)

    def totals(self, *, by: Account) -> Mapping[RefusalCause, int]:
        """How often each cause was refused since the platform exists, also what is not kept any more."""
        require(by, Permission.REFUSAL_READ)
        with self._context.store.reading() as work:
            return work.refusals.totals()

    def of_vehicle(self, vin: str, *, by: Account) -> tuple[Refusal, ...]:
        """The newest refusals under the VIN of a registered vehicle, at most 10.

        Raises:
            NotFoundError: there is no such vehicle. What strangers were refused is for fewer people: `page`.
        """
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            vehicle_for(work, vin, by)
            return work.refusals.of_vehicle(vin, _SHOWN_OF_VEHICLE)


def network_of(peer: str) -> str:
    """The address to count by: an IPv4 address itself, of an IPv6 address its /64, which is one customer.

    *peer* is an address; whatever cannot be read as one is kept as it is.
    """
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


def _records(gathered: Mapping[tuple[str, str, RefusalCause], _Gathered]) -> list[Refusal]:
    """Ready for the store: without characters that are none, and no longer than the columns. Keys that look alike then are one."""
    made: dict[tuple[str, str, RefusalCause], Refusal] = {}
    for (address, vin, cause), item in gathered.items():
        record = Refusal(
            address=_printable(address, _ADDRESS_LENGTH_MAX),
            vin=_printable(vin, _VIN_LENGTH_MAX),
            cause=cause,
            first_at=item.first_at,
            last_at=item.last_at,
            count=item.count,
            head=item.head,
            answered=item.answered,
            detail=_printable(item.detail, _DETAIL_LENGTH_MAX),
        )
        key = (record.address, record.vin, cause)
        made[key] = record if key not in made else replace(record, count=made[key].count + record.count)
    return list(made.values())


def _printable(text: str, length_max: int) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:length_max])
