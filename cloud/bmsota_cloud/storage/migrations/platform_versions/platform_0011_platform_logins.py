"""Where other platforms have logged in from, and when a try was counted."""

import sqlalchemy as sa
from alembic import op

revision = "platform_0011"
down_revision = "platform_0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "platform_login_address",
        sa.Column("code", sa.String(length=17), nullable=False),
        sa.Column("address_digest", sa.LargeBinary(length=16), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("code", "address_digest"),
    )
    op.add_column("rate_limit", sa.Column("counted_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("rate_limit", "counted_at")
    op.drop_table("platform_login_address")
