"""Where each vehicle was last. Of vehicles that are silent it stays unknown until their next report with a position."""

import sqlalchemy as sa
from alembic import op

revision = "telemetry_0006"
down_revision = "telemetry_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("newest_state", sa.Column("latitude_deg", sa.Float(), nullable=True))
    op.add_column("newest_state", sa.Column("longitude_deg", sa.Float(), nullable=True))
    op.add_column("newest_state", sa.Column("is_position_valid", sa.Boolean(), nullable=True))


def downgrade() -> None:
    for column in ("is_position_valid", "longitude_deg", "latitude_deg"):
        op.drop_column("newest_state", column)
