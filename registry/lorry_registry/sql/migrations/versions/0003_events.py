"""A log of events, and versions that can be deprecated and blocked."""

import secrets

import sqlalchemy as sa
from alembic import op

from lorry_registry.sql.columns import UtcDateTime, text

revision = "0003_events"
down_revision = "0002_alias_moves"
branch_labels = None
depends_on = None


def upgrade() -> None:
    log = op.create_table(
        "event_log",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("log_id", text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event_log")),
    )
    op.bulk_insert(log, [{"id": 1, "log_id": secrets.token_hex(8), "position": 0, "dropped": 0}])
    op.create_table(
        "events",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", text(), nullable=False),
        sa.Column("time", UtcDateTime(), nullable=False),
        sa.Column("principal", text(), nullable=False),
        sa.Column("namespace", text(), nullable=False),
        sa.Column("adapter", text(), nullable=False),
        sa.Column("about", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_events")),
    )
    with op.batch_alter_table("versions") as versions:
        versions.add_column(sa.Column("deprecation_reason", text(), nullable=True))
        versions.add_column(sa.Column("replacement", text(), nullable=False, server_default=""))
        versions.add_column(sa.Column("block_reason", text(), nullable=True))
