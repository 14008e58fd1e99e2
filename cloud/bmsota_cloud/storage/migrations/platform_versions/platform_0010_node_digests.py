"""Which bytes a node runs, how large its slot is, and mixed packs."""

import sqlalchemy as sa
from alembic import op

revision = "platform_0010"
down_revision = "platform_0009"
branch_labels = None
depends_on = None

_TEXTS = (
    ("node", "image_sha256"),
    ("reported_node", "image_sha256"),
    ("field_upgrade", "image_before"),
    ("field_upgrade", "image_after"),
)
_NODES = ("node", "reported_node")


def upgrade() -> None:
    for table, column in _TEXTS:
        op.add_column(table, sa.Column(column, sa.String(length=64), nullable=False, server_default=""))
    for table in _NODES:
        op.add_column(table, sa.Column("slot_size_kib", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("vehicle", sa.Column("mixed_pack", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("vehicle", "mixed_pack")
    for table in _NODES:
        op.drop_column(table, "slot_size_kib")
    for table, column in _TEXTS:
        op.drop_column(table, column)
