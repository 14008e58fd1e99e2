"""Projects with an audit mailbox, retries, acts that go in slices, and every signed report as evidence."""

import sqlalchemy as sa
from alembic import op

revision = "platform_0005"
down_revision = "platform_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    project = op.create_table(
        "project",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("audit_mailbox", sa.String(length=254), nullable=False),
        sa.Column("approval", sa.String(length=32), nullable=False),
        sa.Column("starters", sa.JSON(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("changed_by", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    # Until now only the named auditor could approve: a project that is there already stays as strict as it was.
    known = op.get_bind().execute(sa.text("SELECT DISTINCT project FROM vehicle ORDER BY project")).scalars()
    strict = {"audit_mailbox": "", "approval": "NAMED_AUDITOR", "starters": [], "changed_by": ""}
    op.bulk_insert(project, [{"name": name, **strict} for name in list(known)])
    op.create_table(
        "task_act",
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("who", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("statuses", sa.JSON(), nullable=False),
        sa.Column("places", sa.JSON(), nullable=False),
        sa.Column("place_done", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["ota_task.id"]),
        sa.PrimaryKeyConstraint("task_id"),
    )
    op.create_table(
        "order_report",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("vin", sa.String(length=17), nullable=False),
        sa.Column("order_id", sa.String(length=64), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("versions", sa.JSON(), nullable=False),
        sa.Column("is_late", sa.Boolean(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["ota_task.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_order_report_task_id_vin", "order_report", ["task_id", "vin"])
    op.create_index("ix_order_report_vin", "order_report", ["vin"])
    # The signed reports that are kept with their vehicles: what a vehicle runs is known from them.
    op.execute(
        "INSERT INTO order_report (task_id, vin, order_id, received_at, outcome, reason, versions, is_late, document)"
        " SELECT task_id, vin, 'OTA-' || task_id || '-' || place, heard_at, CASE status WHEN 'SUCCEEDED' THEN 'succeeded'"
        " WHEN 'ROLLED_BACK' THEN 'rolled-back' WHEN 'REJECTED' THEN 'rejected' ELSE 'failed' END, reason,"
        " versions_after, false, report_document FROM vehicle_upgrade WHERE ended_by_report AND heard_at IS NOT NULL"
        " ORDER BY task_id, place"
    )
    op.add_column("ota_task", sa.Column("approval", sa.String(length=32), nullable=True))
    op.add_column(
        "ota_task", sa.Column("code_mailbox", sa.String(length=254), nullable=False, server_default=sa.text("''"))
    )
    op.add_column("ota_task", sa.Column("supersedes", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute("UPDATE ota_task SET approval = 'NAMED_AUDITOR' WHERE approved_at IS NOT NULL")
    op.add_column("vehicle_upgrade", sa.Column("attempt", sa.Integer(), nullable=False, server_default=sa.text("1")))
    op.add_column(
        "approval_code", sa.Column("recipient", sa.String(length=254), nullable=False, server_default=sa.text("''"))
    )


def downgrade() -> None:
    op.drop_column("approval_code", "recipient")
    op.drop_column("vehicle_upgrade", "attempt")
    op.drop_column("ota_task", "supersedes")
    op.drop_column("ota_task", "code_mailbox")
    op.drop_column("ota_task", "approval")
    op.drop_index("ix_order_report_vin", "order_report")
    op.drop_index("ix_order_report_task_id_vin", "order_report")
    op.drop_table("order_report")
    op.drop_table("task_act")
    op.drop_table("project")
