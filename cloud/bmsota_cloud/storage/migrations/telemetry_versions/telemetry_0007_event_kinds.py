"""An index of a vehicle's events by kind: runs and faults stand between many points of its track."""

from alembic import op

revision = "telemetry_0007"
down_revision = "telemetry_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("vehicle_event_by_kind", "vehicle_event", ["vin", "kind", "at_s"])


def downgrade() -> None:
    op.drop_index("vehicle_event_by_kind", "vehicle_event")
