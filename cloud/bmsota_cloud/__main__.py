"""The console script `bmsota-cloud`. Free of third-party imports, so that it can name the extra that brings them."""

from __future__ import annotations

from bmsota.cli.extras import run_script

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    run_script("bmsota-cloud", _run, extra="cloud")


def _run() -> None:
    from bmsota_cloud.cli import main as run  # noqa: PLC0415 - needs the extra `cloud`

    run()


if __name__ == "__main__":
    main()
