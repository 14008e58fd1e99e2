"""A mark for each process that writes frames, in place of one for all of them.

What an older version has stored and not derived belongs to writer 0, which no process is: the first that starts takes it over.
"""

import sqlalchemy as sa
from alembic import op

revision = "telemetry_0005"
down_revision = "telemetry_0004"
branch_labels = None
depends_on = None

_EVERYTHING = 2**63 - 1


def upgrade() -> None:
    is_postgresql = op.get_context().dialect.name == "postgresql"
    writer = op.create_table(
        "report_writer",
        sa.Column("number", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("newest_position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.bulk_insert(writer, [{"number": 0, "name": "", "newest_position": _EVERYTHING}])
    op.create_table(
        "report_mark",
        sa.Column("writer", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("place", sa.String(length=32), nullable=False),
        sa.Column("derived_to", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("writer", "place"),
    )
    op.create_table(
        "takeover",
        sa.Column("count", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("count"),
    )
    op.execute("INSERT INTO takeover (count) VALUES (0)")
    if is_postgresql:
        op.execute("INSERT INTO report_mark SELECT 0, 'frame', position FROM frame_mark WHERE writer = ''")
        op.drop_table("frame_mark")
        for table in ("frame", "frame_other"):
            op.add_column(table, sa.Column("writer", sa.Integer(), nullable=False, server_default="0"))
    else:
        op.execute("INSERT INTO report_mark SELECT 0, name, derived_to FROM report_partition")


def downgrade() -> None:
    """Back to one mark, that of the writer that has derived least."""
    if op.get_context().dialect.name == "postgresql":
        op.create_table(
            "frame_mark",
            sa.Column("writer", sa.Text(), nullable=False),
            sa.Column("position", sa.BigInteger(), nullable=False),
            sa.PrimaryKeyConstraint("writer"),
        )
        op.execute("INSERT INTO frame_mark SELECT '', min(derived_to) FROM report_mark HAVING count(*) > 0")
        for table in ("frame", "frame_other"):
            op.drop_column(table, "writer")
    for table in ("takeover", "report_mark", "report_writer"):
        op.drop_table(table)
