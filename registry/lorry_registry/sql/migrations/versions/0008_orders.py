"""Indexes for the orders of lists."""

from alembic import op

revision = "0008_orders"
down_revision = "0007_version_notes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("adapters") as adapters:
        adapters.create_index(adapters.f("ix_adapters_create_time"), ["create_time"])
        adapters.create_index(adapters.f("ix_adapters_update_time"), ["update_time"])
    with op.batch_alter_table("versions") as versions:
        versions.create_index(versions.f("ix_versions_create_time"), ["create_time"])
