"""API tokens."""

import sqlalchemy as sa
from alembic import op

revision = "platform_0017"
down_revision = "platform_0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_token",
        sa.Column("token_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("account_name", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("permissions", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_address", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["account_name"], ["account.name"]),
        sa.PrimaryKeyConstraint("token_sha256"),
        sa.UniqueConstraint("account_name", "name"),
    )


def downgrade() -> None:
    op.drop_table("api_token")
