"""What is told and what is signed, kept apart; the login before, to compare with; lines of the audit log that count."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "platform_0003_trust"
down_revision = "platform_0002"
branch_labels = None
depends_on = None

_NODE = (
    ("kind", sa.String(32)),
    ("hwid", sa.String(24)),
    ("hardware_class", sa.String(36)),
    ("version", sa.String(32)),
    ("security_counter", sa.BigInteger()),
    ("serial", sa.String(64)),
    ("state", sa.String(16)),
    ("updated_at", sa.DateTime(timezone=True)),
)


def _source(status: sa.ColumnElement[str], *signed: sa.ColumnElement[bool]) -> sa.ColumnElement[str]:
    """By whom a status was set, for rows of before: a report marks itself, the rest follows from the status."""
    return sa.case(
        *((condition, "SIGNED") for condition in signed),
        (status.in_(["SUCCEEDED", "ROLLED_BACK"]), "SIGNED"),
        (status.in_(["UNAPPROVED", "APPROVED", "CANCELLED"]), "OPERATOR"),
        (status == "TIMED_OUT", "PLATFORM"),
        else_="UNSIGNED",
    )


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    _add(
        "vehicle",
        sa.Column("identity_counter", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("identity_sha256", sa.LargeBinary(32), nullable=False, server_default=""),
        sa.Column("confirmed_at", time),
    )
    _add("node", sa.Column("confirmed_at", time))
    op.create_table(
        "reported_node",
        sa.Column("vin", sa.String(17), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False, autoincrement=False),
        *(sa.Column(name, kind, nullable=False) for name, kind in _NODE),
        sa.ForeignKeyConstraint(["vin"], ["vehicle.vin"]),
        sa.PrimaryKeyConstraint("vin", "position"),
    )
    op.create_table(
        "last_login",
        sa.Column("vin", sa.String(17), nullable=False),
        sa.Column("iccid", sa.String(20), nullable=False),
        sa.Column("login_serial", sa.Integer(), nullable=False),
        sa.Column("login_at", time, nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("received_at", time, nullable=False),
        sa.ForeignKeyConstraint(["vin"], ["vehicle.vin"]),
        sa.PrimaryKeyConstraint("vin"),
    )
    _add(
        "equipment_change",
        sa.Column("status", sa.String(32), nullable=False, server_default="EARLIER"),
        sa.Column("decided_at", time),
    )
    _add("field_upgrade", sa.Column("confirmed_at", time))
    _add(
        "vehicle_upgrade",
        sa.Column("source", sa.String(32), nullable=False, server_default="UNSIGNED"),
        sa.Column("images_fetched", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("fetched_at", time),
    )
    _add("transition", sa.Column("source", sa.String(32), nullable=False, server_default="UNSIGNED"))
    columns = {name: [sa.column("status", sa.String()), sa.column("source", sa.String())] for name in ("u", "t")}
    upgrades = sa.table("vehicle_upgrade", *columns["u"], sa.column("ended_by_report", sa.Boolean()))
    transitions = sa.table("transition", *columns["t"])
    op.execute(sa.update(upgrades).values(source=_source(upgrades.c.status, upgrades.c.ended_by_report)))
    op.execute(sa.update(transitions).values(source=_source(transitions.c.status)))
    # What is downloaded already can't be seen any more; the word of the unit has to do for these.
    op.execute("UPDATE vehicle_upgrade SET fetched_at = heard_at WHERE status = 'DOWNLOAD_COMPLETE'")
    _add(
        "audit_entry",
        sa.Column("count", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("last_at", time),
        sa.Column("repeat_key", sa.String(128)),
    )
    with op.batch_alter_table("audit_entry") as batch:
        batch.create_unique_constraint("uq_audit_entry_repeat_key", ["repeat_key"])


def _add(table: str, *columns: sa.Column[Any]) -> None:
    for column in columns:
        op.add_column(table, column)


def downgrade() -> None:
    with op.batch_alter_table("audit_entry") as batch:
        batch.drop_constraint("uq_audit_entry_repeat_key", type_="unique")
    for table, columns in (
        ("audit_entry", ("count", "last_at", "repeat_key")),
        ("transition", ("source",)),
        ("vehicle_upgrade", ("source", "images_fetched", "fetched_at")),
        ("field_upgrade", ("confirmed_at",)),
        ("equipment_change", ("status", "decided_at")),
        ("node", ("confirmed_at",)),
        ("vehicle", ("identity_counter", "identity_sha256", "confirmed_at")),
    ):
        with op.batch_alter_table(table) as batch:
            for column in columns:
                batch.drop_column(column)
    op.drop_table("last_login")
    op.drop_table("reported_node")
