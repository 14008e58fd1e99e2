"""Vehicle lists that are entered slice by slice."""

import sqlalchemy as sa
from alembic import op

revision = "platform_0009"
down_revision = "platform_0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "task_list",
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("vins", sa.JSON(), nullable=False),
        sa.Column("release_ids", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["ota_task.id"]),
        sa.PrimaryKeyConstraint("task_id"),
    )


def downgrade() -> None:
    op.drop_table("task_list")
