"""Adapters and versions that are deleted stay for a while."""

import sqlalchemy as sa
from alembic import op

from lorry_registry.sql.columns import UtcDateTime

revision = "0009_soft_delete"
down_revision = "0008_orders"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("adapters", "versions"):
        with op.batch_alter_table(table) as rows:
            rows.add_column(sa.Column("delete_time", UtcDateTime(), nullable=True))
            rows.add_column(sa.Column("purge_time", UtcDateTime(), nullable=True))
            rows.create_index(rows.f(f"ix_{table}_purge_time"), ["purge_time"])
