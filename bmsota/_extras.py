"""What to say when a package is not installed that an extra brings."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from bmsota.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator


_OURS = frozenset({"bmsota", "bmsota_cloud", "bmsota_sim"})


@contextmanager
def needs(feature: str, package: str, extra: str) -> Iterator[None]:
    """Around imports: if *package* is not installed, `MissingExtraError` is raised.

    >>> with needs("decode_batch", "numpy", "can"):
    ...     import numpy
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise MissingExtraError(feature, package, extra) from error


@contextmanager
def needs_extra(feature: str, extra: str) -> Iterator[None]:
    """As `needs`, around imports that need a whole extra: whichever of its packages is not installed.

    >>> with needs_extra("bmsota-sim", "sim"):
    ...     import yaml
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OURS:
            raise
        raise MissingExtraError(feature, package, extra) from error
