"""Seeded randomness: one independent stream for each (run seed, owner, purpose).

Adding a unit, or drawing once more for one purpose, never changes what another unit or purpose draws. The stream is
seeded through SHA-256, not `hash()`, so that it is the same in every process and on every Python.
"""

from __future__ import annotations

import hashlib
import random

__all__ = ["stream", "stream_bytes"]


def _digest(seed: int, owner: str, purpose: str) -> bytes:
    return hashlib.sha256(f"{seed}/{owner}/{purpose}".encode()).digest()


def stream(seed: int, owner: str, purpose: str) -> random.Random:
    """A generator of its own for *owner* and *purpose* in the run with *seed*."""
    return random.Random(_digest(seed, owner, purpose))  # noqa: S311 - a simulation draws repeatable noise, not secrets.


def stream_bytes(seed: int, owner: str, purpose: str) -> bytes:
    """32 bytes that belong to *owner* and *purpose*: key material for virtual devices."""
    return _digest(seed, owner, purpose)
