"""What the gateway refused."""

import sqlalchemy as sa
from alembic import op

revision = "platform_0008"
down_revision = "platform_0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "refusal",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("vin", sa.String(length=17), nullable=False),
        sa.Column("cause", sa.String(32), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.LargeBinary(length=64), nullable=False),
        sa.Column("answered", sa.Integer(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("address", "vin", "cause"),
    )
    op.create_index(op.f("ix_refusal_vin"), "refusal", ["vin"], unique=False)
    op.create_index(op.f("ix_refusal_last_at"), "refusal", ["last_at"], unique=False)
    op.create_table(
        "refusal_total",
        sa.Column("cause", sa.String(32), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("cause"),
    )


def downgrade() -> None:
    op.drop_table("refusal_total")
    op.drop_index(op.f("ix_refusal_last_at"), table_name="refusal")
    op.drop_index(op.f("ix_refusal_vin"), table_name="refusal")
    op.drop_table("refusal")
