"""How often something may be tried: rates, the tries counted against them, and addresses that count as one.

A counter is a single moment, `free_at`: when it will be empty again. A try moves it on by one interval, and is refused if
that would lead further than one period from now (the generic cell rate algorithm, ITU-T I.371, annex A). So a counter needs
no list of times and no timer, and one that has run out can be forgotten without a loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from bmsota_cloud.domain.clock_guard import JUMP_S

__all__ = ["Level", "Rate", "address_groups", "in_words"]

# What one customer of an access provider has at the least (RFC 6177); every address below it is the same person's.
_IPV6_HOST_BITS = 64
# What a customer can get for the asking, with 65,536 of the above.
_IPV6_SITE_BITS = 48
# The sum of many intervals is rounded, and so is what the database keeps; in intervals.
_ROUNDING = 1e-3
# An address that is none (a proxy's unix socket) is kept as it is, up to here.
_ADDRESS_LENGTH_MAX = 64


@dataclass(frozen=True, slots=True)
class Level:
    """A counter as it was at its last try. Times are seconds since 1970."""

    free_at: float
    counted_at: float | None = None
    """When that was, by the platform's clock; None: an older version has not kept it."""

    def at(self, now: float) -> float:
        """`free_at` as it would be had the clock been right: a try that was counted in the future is counted now."""
        if self.counted_at is None or self.counted_at <= now + JUMP_S:
            return self.free_at
        return self.free_at - (self.counted_at - now)


@dataclass(frozen=True, slots=True)
class Rate:
    """*count* tries at once, and one more every *period_s* / *count* seconds.

    Times below are seconds since 1970, as a float.
    """

    count: int
    period_s: int

    @property
    def interval_s(self) -> float:
        return self.period_s / self.count

    @property
    def _rounding_s(self) -> float:
        return self.interval_s * _ROUNDING

    def bounded(self, free_at: float, now: float) -> float:
        """*free_at* as it can be at this time.

        One that is further away than it ever could have got was written by a clock that was ahead; `Level.at` puts it right, unless
        an older version has written it. It is cut to a full counter, and beyond `nonsense_from` to an empty one: a wrong
        clock must not lock anything for long.
        """
        if free_at >= self.nonsense_from(now):
            return now
        return min(max(free_at, now), now + self.period_s)

    def nonsense_from(self, now: float) -> float:
        """Two periods ahead: a clock that was set back by a little must not empty the counters of those who guess."""
        return now + 2 * self.period_s

    def taken(self, free_at: float, now: float) -> float | None:
        """*free_at* after one more try; None if there must be none now."""
        after = self.bounded(free_at, now) + self.interval_s
        return after if after <= now + self.period_s + self._rounding_s else None

    def wait_s(self, free_at: float, now: float) -> int:
        """In how many whole seconds a try is possible again; at least 1."""
        return max(1, math.ceil(self.bounded(free_at, now) + self.interval_s - self.period_s - now - self._rounding_s))

    def used(self, free_at: float, now: float) -> int:
        """How many tries count at this time."""
        return math.ceil((self.bounded(free_at, now) - now) / self.interval_s - _ROUNDING)


def address_groups(address: str) -> tuple[str, ...]:
    """The groups an address counts in, the narrowest first: an IPv4 address itself; of IPv6 its /64 and its /48.

    A network as `2001:db8::/64` counts as its addresses do.
    """
    try:
        parsed = ip_address(address.partition("%")[0].removesuffix(f"/{_IPV6_HOST_BITS}"))
    except ValueError:
        return (address[:_ADDRESS_LENGTH_MAX],)
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return (str(parsed.ipv4_mapped),)
        return tuple(_network(parsed, bits) for bits in (_IPV6_HOST_BITS, _IPV6_SITE_BITS))
    return (str(parsed),)


def _network(address: IPv6Address, bits: int) -> str:
    return f"{IPv6Address(int(address) >> (128 - bits) << (128 - bits))}/{bits}"


def in_words(seconds: int) -> str:
    """A wait as a person wants to read it, rounded up."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds > size:
            count = math.ceil(seconds / size)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"
