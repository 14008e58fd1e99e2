"""What people know a vehicle by: battery number, frame number, model, plate, city."""

import sqlalchemy as sa
from alembic import op

revision = "platform_0013"
down_revision = "platform_0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("battery_number", "frame_number", "model", "plate", "city"):
        op.add_column("vehicle", sa.Column(name, sa.String(length=64), nullable=False, server_default=""))
    op.create_index("ix_vehicle_city", "vehicle", ["city"])


def downgrade() -> None:
    op.drop_index("ix_vehicle_city", "vehicle")
    for name in ("city", "plate", "model", "frame_number", "battery_number"):
        op.drop_column("vehicle", name)
