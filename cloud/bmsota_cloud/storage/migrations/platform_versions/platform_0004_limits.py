"""Counters of tries, known addresses of accounts, and challenges that are kept only once they are spent."""

import sqlalchemy as sa
from alembic import op

revision = "platform_0004"
down_revision = "platform_0003_trust"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rate_limit",
        sa.Column("key", sa.LargeBinary(length=16), nullable=False),
        sa.Column("free_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index(op.f("ix_rate_limit_free_at"), "rate_limit", ["free_at"], unique=False)
    op.create_table(
        "login_address",
        sa.Column("account_name", sa.String(length=64), nullable=False),
        sa.Column("address_digest", sa.LargeBinary(length=16), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_name"],
            ["account.name"],
        ),
        sa.PrimaryKeyConstraint("account_name", "address_digest"),
    )
    op.create_table(
        "spent_challenge",
        sa.Column("challenge", sa.LargeBinary(length=32), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("challenge"),
    )
    op.create_index(op.f("ix_spent_challenge_expires_at"), "spent_challenge", ["expires_at"], unique=False)
    # A challenge is good for a minute: a unit that holds one over the update of the platform asks for another.
    op.drop_table("device_challenge")


def downgrade() -> None:
    op.create_table(
        "device_challenge",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("hwid", sa.String(length=24), nullable=False),
        sa.Column("challenge", sa.LargeBinary(length=32), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_device_challenge_expires_at"), "device_challenge", ["expires_at"], unique=False)
    op.create_index(op.f("ix_device_challenge_hwid"), "device_challenge", ["hwid"], unique=False)
    op.drop_table("spent_challenge")
    op.drop_table("login_address")
    op.drop_table("rate_limit")
