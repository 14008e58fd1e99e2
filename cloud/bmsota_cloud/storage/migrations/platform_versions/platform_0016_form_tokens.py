"""The form a task was created with, so that the same form sent twice makes one task; and which tasks bring a release."""

import sqlalchemy as sa
from alembic import op

revision = "platform_0016"
down_revision = "platform_0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ota_task", sa.Column("form_token", sa.String(length=32), nullable=True))
    op.create_index("ix_ota_task_form_token", "ota_task", ["form_token"], unique=True)
    op.create_index("ix_vehicle_upgrade_release_id_task_id", "vehicle_upgrade", ["release_id", "task_id"])


def downgrade() -> None:
    op.drop_index("ix_vehicle_upgrade_release_id_task_id", table_name="vehicle_upgrade")
    op.drop_index("ix_ota_task_form_token", table_name="ota_task")
    op.drop_column("ota_task", "form_token")
