"""Frames, and what is derived from them.

On SQLite frames are in files of their own (`storage/sql/telemetry_sqlite.py`); on PostgreSQL they are in a table with a partition
for each day of report time.

Reports that older versions kept as JSON, for 72 hours, go with this: the frames they came in were not kept. So do newest values; they
are there again with a vehicle's next report. When a vehicle was last seen is kept; who is online is the platform's presence now.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "telemetry_0002"
down_revision = "telemetry_0001"
branch_labels = None
depends_on = None

# Fixed sizes first: 375 bytes for the usual frame of 342, of which 311 are here, so that 21 rows fill a page. None may be NULL,
# because the row would begin 8 bytes later. A sequence that hands out blocks is cheap, and rises within one connection.
_POSTGRESQL = (
    "CREATE SEQUENCE frame_position CACHE 1000",
    "CREATE TABLE frame_vehicle (number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, vin text NOT NULL UNIQUE)",
    """CREATE TABLE frame (
        digest bigint NOT NULL,
        position bigint NOT NULL DEFAULT nextval('frame_position'),
        arrived_at_ns bigint NOT NULL,
        vehicle integer NOT NULL,
        reported_s2000 integer NOT NULL,
        form smallint NOT NULL,
        received bytea NOT NULL,
        fault text NOT NULL,
        clear bytea NOT NULL
    ) PARTITION BY RANGE (reported_s2000)""",
    "CREATE UNIQUE INDEX frame_key ON frame (vehicle, reported_s2000, digest)",
    "CREATE INDEX frame_position_key ON frame USING brin (position) WITH (pages_per_range = 16, autosummarize = on)",
    """CREATE TABLE frame_other (
        digest bigint NOT NULL,
        position bigint NOT NULL DEFAULT nextval('frame_position'),
        arrived_at_ns bigint NOT NULL,
        vehicle integer NOT NULL,
        reported_s2000 bigint NOT NULL,
        form smallint NOT NULL,
        received bytea NOT NULL,
        fault text NOT NULL,
        clear bytea NOT NULL
    )""",
    "CREATE UNIQUE INDEX frame_other_key ON frame_other (vehicle, reported_s2000, digest)",
    "CREATE INDEX frame_other_position_key ON frame_other (position)",
    "CREATE TABLE frame_mark (writer text NOT NULL PRIMARY KEY, position bigint NOT NULL)",
    # A state is replaced once a second: with room in the page, no index has to be touched.
    "ALTER TABLE newest_state SET (fillfactor = 60)",
)


def _seen(vin: str, last_seen_at: datetime) -> dict[str, object]:
    """A state of which nothing is known but that the vehicle was there."""
    at = last_seen_at if last_seen_at.tzinfo else last_seen_at.replace(tzinfo=UTC)
    return {
        "vin": vin,
        "last_seen_at_ns": int(at.timestamp()) * 1_000_000_000 + at.microsecond * 1000,
        "is_time_plausible": True,
        "frames": b"",
        "memory": b"",
    }


def upgrade() -> None:
    op.drop_index("ix_report_reported_at", table_name="report")
    op.drop_table("report")
    newest = op.create_table(
        "newest_state",
        sa.Column("vin", sa.String(length=17), nullable=False),
        sa.Column("last_seen_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("reported_at_s", sa.BigInteger(), nullable=True),
        sa.Column("heard_at_ns", sa.BigInteger(), nullable=True),
        sa.Column("is_time_plausible", sa.Boolean(), nullable=False),
        sa.Column("soc_pct", sa.Float(), nullable=True),
        sa.Column("speed_kmh", sa.Float(), nullable=True),
        sa.Column("alarm_level", sa.Integer(), nullable=True),
        sa.Column("frames", sa.LargeBinary(), nullable=False),
        sa.Column("memory", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("vin"),
    )
    seen = sa.table("vehicle_state", sa.column("vin", sa.String), sa.column("last_seen_at", sa.DateTime(timezone=True)))
    rows = op.get_bind().execute(sa.select(seen).where(seen.c.last_seen_at.is_not(None))).all()
    if rows:
        op.bulk_insert(newest, [_seen(vin, last_seen_at) for vin, last_seen_at in rows])
    op.drop_table("vehicle_state")
    op.create_table(
        "vehicle_event",
        sa.Column("vin", sa.String(length=17), nullable=False),
        sa.Column("at_s", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("vin", "at_s", "kind", "subject", "value"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "report_partition",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("derived_to", sa.BigInteger(), nullable=False),
        sa.Column("newest_arrival_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    if op.get_context().dialect.name == "postgresql":
        for statement in _POSTGRESQL:
            op.execute(statement)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        for table in ("frame", "frame_other", "frame_vehicle", "frame_mark"):
            op.drop_table(table)
        op.execute("DROP SEQUENCE frame_position")
    for table in ("report_partition", "vehicle_event", "newest_state"):
        op.drop_table(table)
    op.create_table(
        "vehicle_state",
        sa.Column("vin", sa.String(length=17), nullable=False),
        sa.Column("is_online", sa.Boolean(), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("login_serial", sa.Integer(), nullable=False),
        sa.Column("soc_pct", sa.Float(), nullable=True),
        sa.Column("speed_kmh", sa.Float(), nullable=True),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("vin"),
    )
    op.create_table(
        "report",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("vin", sa.String(length=17), nullable=False),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_backfill", sa.Boolean(), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("vin", "reported_at"),
    )
    op.create_index("ix_report_reported_at", "report", ["reported_at"], unique=False)
