"""The doors to the world: files, CAN adapters, sockets. Thin, and not imported by anything that only computes."""

from __future__ import annotations

__all__: list[str] = []
