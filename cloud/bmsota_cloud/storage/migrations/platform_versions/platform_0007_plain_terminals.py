"""Vehicles without a device key or HWID: plain GB/T 32960 terminals, which are only monitored."""

import sqlalchemy as sa
from alembic import op

revision = "platform_0007"
down_revision = "platform_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("vehicle") as vehicle:
        vehicle.alter_column("hwid", existing_type=sa.String(length=24), nullable=True)
        vehicle.alter_column("device_public_key", existing_type=sa.LargeBinary(length=32), nullable=True)


def downgrade() -> None:
    # Any key that stood for "none" would be a key that signatures can be made for.
    count = op.get_bind().execute(sa.text("SELECT count(*) FROM vehicle WHERE device_public_key IS NULL")).scalar_one()
    if count:
        raise RuntimeError(f"{count} vehicles are registered without a device key; an older platform cannot keep them")
    with op.batch_alter_table("vehicle") as vehicle:
        vehicle.alter_column("hwid", existing_type=sa.String(length=24), nullable=False)
        vehicle.alter_column("device_public_key", existing_type=sa.LargeBinary(length=32), nullable=False)
