"""`bmsota-sim`: the entry point. It loads the commands, and says which extra to install where that fails."""

from __future__ import annotations

import sys

from bmsota_sim._exit_codes import INTERRUPTED, WRONG_USAGE
from bmsota_sim._extras import missing_extra_text

__all__ = ["main"]


def main() -> None:
    """Run the command line. It ends with `SystemExit`."""
    try:
        from bmsota_sim._commands import run  # noqa: PLC0415 - takes a second, and needs the extra
    except ModuleNotFoundError as error:
        print(f"bmsota-sim: {missing_extra_text('bmsota-sim', error, 'sim')}", file=sys.stderr)  # noqa: T201 - see above
        raise SystemExit(WRONG_USAGE) from error
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    raise SystemExit(run())


if __name__ == "__main__":
    main()
