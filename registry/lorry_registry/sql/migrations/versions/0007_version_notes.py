"""Labels, annotations and evaluations of versions; annotations of adapters."""

import sqlalchemy as sa
from alembic import op

from lorry_registry.sql.columns import UtcDateTime, text

revision = "0007_version_notes"
down_revision = "0006_base_parameters"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("adapters") as adapters:
        adapters.add_column(
            sa.Column("annotations", sa.JSON(), nullable=False, server_default="{}")
        )
    with op.batch_alter_table("versions") as versions:
        versions.add_column(
            sa.Column("annotations", sa.JSON(), nullable=False, server_default="{}")
        )
        versions.add_column(sa.Column("update_time", UtcDateTime(), nullable=True))
        versions.add_column(sa.Column("etag", text(), nullable=False, server_default=""))
    op.create_table(
        "version_labels",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("key", text(), nullable=False),
        sa.Column("value", text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["versions.id"],
            name=op.f("fk_version_labels_version_id_versions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", "key", name=op.f("pk_version_labels")),
    )
    with op.batch_alter_table("version_labels") as labels:
        labels.create_index(labels.f("ix_version_labels_key_value"), ["key", "value"])
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("title", text(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("dataset", sa.JSON(), nullable=False),
        sa.Column("description", text(), nullable=False),
        sa.Column("principal", text(), nullable=False),
        sa.Column("create_time", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["versions.id"],
            name=op.f("fk_evaluations_version_id_versions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
        sa.UniqueConstraint("version_id", "number", name=op.f("uq_evaluations_version_id_number")),
    )
