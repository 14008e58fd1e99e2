"""Frames in compressed blocks, an hour of a vehicle each.

On SQLite they are in files of their own, beside those of the frames (`storage/sql/blocks_sqlite.py`); there is nothing to do for
them, but a platform of before this would not look for them, so it must not open this database. On PostgreSQL they are in a table with a
partition for each day of report time.
"""

import sqlalchemy as sa
from alembic import op

revision = "telemetry_0003"
down_revision = "telemetry_0002"
branch_labels = None
depends_on = None

# Compressed already: the server must not try again.
_POSTGRESQL = (
    """CREATE TABLE block (
        vehicle integer NOT NULL,
        since_s2000 integer NOT NULL,
        until_s2000 integer NOT NULL,
        frames integer NOT NULL,
        data bytea NOT NULL
    ) PARTITION BY RANGE (since_s2000)""",
    "ALTER TABLE block ALTER COLUMN data SET STORAGE EXTERNAL",
    "CREATE UNIQUE INDEX block_key ON block (vehicle, since_s2000)",
)


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        for statement in _POSTGRESQL:
            op.execute(statement)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        frames = op.get_bind().execute(sa.text("SELECT coalesce(sum(frames), 0) FROM block")).scalar_one()
        if frames:
            raise RuntimeError(
                f"{frames} reports are in blocks, which an older bmsota-cloud cannot read; nothing was changed"
            )
        op.drop_table("block")
