"""`bmsota-sim`: the entry point. It loads the commands, and says which extra to install where that fails."""

from __future__ import annotations

import sys

from bmsota._extras import needs_extra
from bmsota.cli.extras import answers_version, open_closed_streams
from bmsota.errors import MissingExtraError
from bmsota_sim._exit_codes import INTERRUPTED, WRONG_USAGE
from bmsota_sim._signals import holding_signals

__all__ = ["main"]


def main() -> None:
    """Run the command line. It ends with `SystemExit`, except for `--version`."""
    open_closed_streams()
    if answers_version("bmsota-sim"):
        return
    try:
        # A run writes its report however early it is told to end.
        with holding_signals(for_later=sys.argv[1:2] == ["run"]), needs_extra("the simulator", "sim"):
            from bmsota_sim._commands import run  # noqa: PLC0415 - takes a second, and needs the extra
    except MissingExtraError as error:
        print(f"bmsota-sim: {error}", file=sys.stderr)  # noqa: T201 - rich may be what is missing
        raise SystemExit(WRONG_USAGE) from error
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    raise SystemExit(run())


if __name__ == "__main__":
    main()
