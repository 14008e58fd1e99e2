"""`bmsota-cloud`: the entry point. It loads the commands, and says which extra to install where that fails."""

from __future__ import annotations

import sys

from bmsota._extras import needs_extra
from bmsota.cli.extras import answers_version, open_closed_streams
from bmsota.errors import MissingExtraError

__all__ = ["main"]


def main() -> None:
    """Run the command line. It ends with `SystemExit`, except for `--version`."""
    open_closed_streams()
    if answers_version("bmsota-cloud"):
        return
    try:
        with needs_extra("the platform", "cloud"):
            from bmsota_cloud.cli import main as run  # noqa: PLC0415 - needs the extra
    except MissingExtraError as error:
        print(f"bmsota-cloud: {error}", file=sys.stderr)  # noqa: T201 - typer may be what is missing
        raise SystemExit(2) from error
    run()


if __name__ == "__main__":
    main()
