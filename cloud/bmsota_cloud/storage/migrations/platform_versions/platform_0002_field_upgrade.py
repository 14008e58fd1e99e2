"""Field upgrades, for the upgrade history of a vehicle."""

import sqlalchemy as sa
from alembic import op

revision = "platform_0002"
down_revision = "platform_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "field_upgrade",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("vin", sa.String(length=17), nullable=False),
        sa.Column("upgraded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("hwid", sa.String(length=24), nullable=False),
        sa.Column("version_before", sa.String(length=32), nullable=False),
        sa.Column("version_after", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["vin"],
            ["vehicle.vin"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("vin", "upgraded_at", "position", "hwid", "version_before", "version_after", "status"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("field_upgrade")
