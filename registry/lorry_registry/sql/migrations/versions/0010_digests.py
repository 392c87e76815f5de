"""An index to find versions by their digest, whosever they are."""

from alembic import op

revision = "0010_digests"
down_revision = "0009_soft_delete"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("versions") as versions:
        versions.create_index(versions.f("ix_versions_digest"), ["digest"])
