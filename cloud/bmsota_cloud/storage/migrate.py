"""Bring a database to the newest schema, by Alembic, at the start of every process.

There are two histories, "platform" and "telemetry", with a version table each, so that both can share one database or
have one each.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["migrate"]


def migrate(connection: Connection, history: str, *, revision: str = "head", down: bool = False) -> None:
    """Upgrade the tables of *history* to *revision* inside the transaction of *connection*; with *down*, or to "base", downgrade them."""
    folder = Path(__file__).parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    # The path separator is named, because Alembic otherwise warns about guessing it.
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(folder / f"{history}_versions").replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = f"alembic_version_{history}"
    if down or revision == "base":
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)
