"""Gateways' leases and vehicles' links, claims on mails, an index for the filter by series."""

import sqlalchemy as sa
from alembic import op

revision = "platform_0006"
down_revision = "platform_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gateway",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "presence",
        sa.Column("vin", sa.String(length=17), nullable=False),
        sa.Column("gateway_id", sa.String(length=80), nullable=False),
        sa.Column("link_id", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("login_serial", sa.Integer(), nullable=False),
        sa.Column("left_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("vin"),
    )
    op.create_index("ix_presence_left_at_gateway_id", "presence", ["left_at", "gateway_id"])
    op.create_index("ix_vehicle_series", "vehicle", ["series"])
    op.add_column("mail", sa.Column("claimed_by", sa.String(length=80), nullable=False, server_default=""))
    op.add_column("mail", sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("mail") as mail:
        mail.drop_column("claimed_until")
        mail.drop_column("claimed_by")
    op.drop_index("ix_vehicle_series", "vehicle")
    op.drop_table("presence")
    op.drop_table("gateway")
