"""How the process divides its file descriptors: to links, to HTTP, and to everything else.

A link costs a descriptor, and the usual soft limit of 1,024 ends at about a thousand vehicles. So the soft limit is raised at the
start as far as it may be, and a part of what there is never goes to links: databases, mails and pages need some when the platform
is full as well.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DescriptorPlan", "raise_descriptor_limit"]

# Beyond that a fleet is divided among several processes.
DESCRIPTORS_MAX = 20_000
# Where the operating system does not say: what Windows' C library allows.
_UNKNOWN_LIMIT = 8_192
_KEPT_MIN = 100
_KEPT_MAX = 1_200


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorPlan:
    """Who may have how many."""

    limit: int
    """All there are."""
    links_max: int
    """Accept no link while so many descriptors are open, whatever for."""
    http_connections_max: int

    @classmethod
    def of(cls, limit: int) -> DescriptorPlan:
        """A fifth is kept back from links, and three fifths of that are for HTTP; the rest is for databases, mails and files."""
        kept = min(max(limit // 5, _KEPT_MIN), _KEPT_MAX, limit - 1)
        return cls(limit=limit, links_max=limit - kept, http_connections_max=max(8, kept * 3 // 5))


def raise_descriptor_limit(most: int = DESCRIPTORS_MAX) -> int:
    """Raise the soft limit to the hard one, at most to *most*; the limit there is then. It is never lowered."""
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ImportError:
        return _UNKNOWN_LIMIT
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return most
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft
