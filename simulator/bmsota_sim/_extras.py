"""What to say when a package is not installed that an extra brings."""

from __future__ import annotations

__all__ = ["missing_extra_text"]


def missing_extra_text(feature: str, error: ModuleNotFoundError, extra: str) -> str:
    """One line for the user of *feature*.

    Raises:
        ModuleNotFoundError: *error* itself, if what is missing is ours: a bug.
    """
    package = (error.name or "").partition(".")[0]
    if package.startswith("bmsota"):
        raise error
    return f"{feature} needs {package}: pip install 'bmsota[{extra}]'"
