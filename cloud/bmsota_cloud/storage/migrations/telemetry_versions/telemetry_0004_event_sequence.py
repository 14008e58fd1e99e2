"""The order of the events of one second: what began, ended and began again within it is three events.

Events that an older version has kept get the number 0: their order within a second is not known. New ones count from 1.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "telemetry_0004"
down_revision = "telemetry_0003"
branch_labels = None
depends_on = None

_OLD_KEY = ("vin", "at_s", "kind", "subject", "value")
_NEW_KEY = ("vin", "at_s", "sequence", "kind", "subject", "value")


def _make(name: str, key: tuple[str, ...]) -> None:
    types: dict[str, Any] = {
        "vin": sa.String(length=17),
        "at_s": sa.BigInteger(),
        "sequence": sa.Integer(),
        "kind": sa.String(length=32),
        "subject": sa.Text(),
        "value": sa.Text(),
        "detail": sa.Text(),
    }
    op.create_table(
        name,
        *[sa.Column(column, types[column], nullable=False) for column in (*key, "detail")],
        sa.PrimaryKeyConstraint(*key),
        sqlite_with_rowid=False,
    )


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.add_column("vehicle_event", sa.Column("sequence", sa.Integer(), nullable=False, server_default="0"))
        op.drop_constraint("vehicle_event_pkey", "vehicle_event")
        op.create_primary_key("vehicle_event_pkey", "vehicle_event", list(_NEW_KEY))
        op.alter_column("vehicle_event", "sequence", server_default=None)
        return
    _make("vehicle_event_new", _NEW_KEY)
    op.execute(
        "INSERT INTO vehicle_event_new SELECT vin, at_s, 0, kind, subject, value, detail FROM vehicle_event"
        " ORDER BY vin, at_s, kind, subject, value"
    )
    op.drop_table("vehicle_event")
    op.rename_table("vehicle_event_new", "vehicle_event")


def downgrade() -> None:
    """Of events that differ only in their number within a second, the last stays."""
    _make("vehicle_event_old", _OLD_KEY)
    op.execute(
        "INSERT INTO vehicle_event_old (vin, at_s, kind, subject, value, detail)"
        " SELECT vin, at_s, kind, subject, value, detail FROM vehicle_event ORDER BY sequence DESC"
        " ON CONFLICT DO NOTHING"
        if op.get_context().dialect.name == "postgresql"
        else "INSERT OR IGNORE INTO vehicle_event_old"
        " SELECT vin, at_s, kind, subject, value, detail FROM vehicle_event ORDER BY sequence DESC"
    )
    op.drop_table("vehicle_event")
    op.rename_table("vehicle_event_old", "vehicle_event")
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER INDEX vehicle_event_old_pkey RENAME TO vehicle_event_pkey")
