"""DBC text in, `Database` out, with every fault named and everything else loaded."""

from __future__ import annotations

from bmsota.errors import SignalError
from bmsota.signals._database import Database

__all__ = ["loads"]


def loads(text: str) -> Database:
    try:
        from bmsota.signals._parse import parse_messages  # noqa: PLC0415 - cantools is an extra
    except ImportError as error:
        raise SignalError("expected the extra 'can' (pip install 'bmsota[can]') for reading a DBC") from error
    messages, version = parse_messages(text)
    return Database(messages, version=version)
