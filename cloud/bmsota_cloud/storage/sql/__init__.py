"""The one implementation of the stores: SQLAlchemy Core on SQLite (default) or PostgreSQL, a file for each area.

Rows and dataclasses have the same names, so reading is `Kind(**row)` and writing is one dictionary; what a column does
to its value (UTC, enumeration by name) is in `bmsota_cloud.storage.schema`.
"""

from bmsota_cloud.storage.sql._engine import MEMORY
from bmsota_cloud.storage.sql.store import SqlStore, SqlWork
from bmsota_cloud.storage.sql.telemetry import SqlTelemetryStore

__all__ = ["MEMORY", "SqlStore", "SqlTelemetryStore", "SqlWork"]
