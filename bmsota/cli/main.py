"""The console script `bmsota`. Free of third-party imports, so that it can name the extra that brings them."""

from __future__ import annotations

from bmsota.cli.extras import answers_version, run_script

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    run_script("bmsota", _run)


def _run() -> None:
    if answers_version("bmsota"):
        return
    from bmsota.cli.app import run  # noqa: PLC0415 - needs the extra `cli`

    run()


if __name__ == "__main__":
    main()
