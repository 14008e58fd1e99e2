"""The data folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_folder"]


def make_folder(path: Path) -> None:
    """Make the folder, and those above it, unless it is there.

    Raises:
        ConfigurationError: it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        at = next((each for each in (path, *path.parents) if each.is_file()), path)
        raise ConfigurationError(f"cannot create the folder {path}: {at} is a file") from error
    except OSError as error:
        raise ConfigurationError(f"cannot create the folder {path}: {error.strerror}") from error
