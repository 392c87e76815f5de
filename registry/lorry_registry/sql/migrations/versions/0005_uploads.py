"""Which blobs a principal brought."""

import sqlalchemy as sa
from alembic import op

from lorry_registry.sql.columns import UtcDateTime, text

revision = "0005_uploads"
down_revision = "0004_access"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "uploads",
        sa.Column("principal", text(), nullable=False),
        sa.Column("digest", text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("create_time", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("principal", "digest", name=op.f("pk_uploads")),
    )
