"""Customers, the scope of accounts, accounts that are disabled, and from where a session was opened."""

import sqlalchemy as sa
from alembic import op

revision = "platform_0012"
down_revision = "platform_0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "customer",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    with op.batch_alter_table("account") as batch:
        # Until now every account saw every vehicle; those that are there go on so.
        batch.add_column(sa.Column("sees", sa.String(length=32), nullable=False, server_default="EVERYTHING"))
        batch.add_column(sa.Column("projects", sa.JSON(), nullable=False, server_default="[]"))
        batch.add_column(sa.Column("customer", sa.String(length=64), nullable=True))
        batch.add_column(sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True))
        batch.create_foreign_key("account_customer_fkey", "customer", ["customer"], ["name"])
    op.add_column("login_session", sa.Column("address", sa.String(length=64), nullable=False, server_default=""))
    with op.batch_alter_table("vehicle") as batch:
        batch.add_column(sa.Column("customer", sa.String(length=64), nullable=True))
        batch.create_foreign_key("vehicle_customer_fkey", "customer", ["customer"], ["name"])
        batch.create_index("ix_vehicle_customer", ["customer"])


def downgrade() -> None:
    # An older platform shows everything to whoever can log in: who must not see everything loses the account's password and sessions,
    # and who belongs to a customer the account, for which the older platform has no role.
    limited = "SELECT name FROM account WHERE sees <> 'EVERYTHING' OR role = 'CUSTOMER' OR disabled_at IS NOT NULL"
    op.execute(f"DELETE FROM login_session WHERE account_name IN ({limited})")  # noqa: S608 - our own words
    op.execute("UPDATE account SET password_hash = '!' WHERE sees <> 'EVERYTHING' OR disabled_at IS NOT NULL")
    op.execute("DELETE FROM login_address WHERE account_name IN (SELECT name FROM account WHERE role = 'CUSTOMER')")
    op.execute("DELETE FROM account WHERE role = 'CUSTOMER'")
    with op.batch_alter_table("vehicle") as batch:
        batch.drop_index("ix_vehicle_customer")
        batch.drop_constraint("vehicle_customer_fkey", type_="foreignkey")
        batch.drop_column("customer")
    op.drop_column("login_session", "address")
    with op.batch_alter_table("account") as batch:
        batch.drop_constraint("account_customer_fkey", type_="foreignkey")
        batch.drop_column("disabled_at")
        batch.drop_column("customer")
        batch.drop_column("projects")
        batch.drop_column("sees")
    op.drop_table("customer")
