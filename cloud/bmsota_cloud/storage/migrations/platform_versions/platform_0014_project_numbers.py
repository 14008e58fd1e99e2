"""Projects have a number, as the customer orders by it, and a class."""

import sqlalchemy as sa
from alembic import op

revision = "platform_0014"
down_revision = "platform_0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("project") as batch:
        batch.add_column(sa.Column("number", sa.String(length=32), nullable=True))
        batch.add_column(
            sa.Column("classification", sa.String(length=32), nullable=False, server_default="UNSPECIFIED")
        )
        batch.create_unique_constraint("project_number_key", ["number"])


def downgrade() -> None:
    with op.batch_alter_table("project") as batch:
        batch.drop_constraint("project_number_key", type_="unique")
        batch.drop_column("classification")
        batch.drop_column("number")
