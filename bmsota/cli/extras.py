"""What happens without an extra: one line that names it, and exit code 2. Needs nothing but the standard library."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from bmsota import __version__
from bmsota.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["answers_version", "extra_error", "missing_extra", "open_closed_streams", "run_script"]

# What an extra is for, what it brings, and the modules of that.
_EXTRAS: Final[dict[str, tuple[str, str, set[str]]]] = {
    "cli": ("the command line", "typer and rich", {"typer", "rich", "dpkt"}),
    "trust": ("this command", "cryptography and cbor2", {"cbor2", "construct", "cryptography"}),
    "can": (
        "this command",
        "python-can and cantools",
        {"bincopy", "can", "cantools", "crcmod", "heatshrink2", "isotp", "numpy", "serial", "udsoncan"},
    ),
    "parquet": ("Parquet", "pyarrow", {"pyarrow"}),
    "mf4": ("MF4", "asammdf", {"asammdf"}),
}


def extra_error(extra: str) -> MissingExtraError:
    """The error for what *extra* is for."""
    feature, package, _ = _EXTRAS[extra]
    return MissingExtraError(feature, package, extra)


def missing_extra(error: BaseException | None) -> MissingExtraError | None:
    """The extra for want of which *error* was raised; None if it has another reason."""
    while error is not None:
        if isinstance(error, MissingExtraError):
            return error
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            module = error.name.partition(".")[0]
            return next((extra_error(extra) for extra, (_, _, modules) in _EXTRAS.items() if module in modules), None)
        error = error.__cause__ or error.__context__
    return None


def open_closed_streams() -> None:
    """Let what a shell has closed (`>&-`) lead nowhere: else the next file that is opened takes its place, and its output."""
    for number, (name, flags, mode) in enumerate(
        (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_WRONLY, "w"), ("stderr", os.O_WRONLY, "w"))
    ):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # The lowest free number is this one.
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def answers_version(program: str) -> bool:
    """Whether the command line is `PROGRAM --version`, which is then answered: what the commands import takes a second or two."""
    if sys.argv[1:] != ["--version"]:
        return False
    sys.stdout.write(f"{program} {__version__}\n")
    return True


def run_script(program: str, main: Callable[[], None]) -> None:
    """Run a console script. *main* imports what it needs.

    Raises:
        SystemExit: 2 after the line about a missing extra; and whatever *main* raises.
    """
    open_closed_streams()
    try:
        main()
    except ImportError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        sys.stderr.write(f"{program}: {missing}\n")
        raise SystemExit(2) from None
