"""Every move of an alias is kept. What an alias points at now is its first."""

import sqlalchemy as sa
from alembic import op

from lorry_registry.sql.columns import UtcDateTime, text

revision = "0002_alias_moves"
down_revision = "0001_first"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moves = op.create_table(
        "alias_moves",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("alias", text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("time", UtcDateTime(), nullable=False),
        sa.Column("principal", text(), nullable=False),
        sa.Column("why", text(), nullable=False),
        sa.Column("before", sa.JSON(), nullable=False),
        sa.Column("after", sa.JSON(), nullable=False),
        sa.Column("restores", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["adapter_id"],
            ["adapters.id"],
            name=op.f("fk_alias_moves_adapter_id_adapters"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alias_moves")),
        sa.UniqueConstraint(
            "adapter_id", "alias", "number", name=op.f("uq_alias_moves_adapter_id_alias_number")
        ),
    )
    targets: dict[int, list[list[object]]] = {}
    connection = op.get_bind()
    for alias_id, number, digest, weight in connection.execute(
        sa.text(
            "SELECT alias_targets.alias_id, versions.number, versions.digest, alias_targets.weight "
            "FROM alias_targets JOIN versions ON versions.id = alias_targets.version_id "
            "ORDER BY alias_targets.alias_id, alias_targets.position"
        )
    ):
        targets.setdefault(alias_id, []).append([number, digest, weight])
    aliases = sa.table(
        "aliases",
        sa.column("id", sa.Integer()),
        sa.column("adapter_id", sa.Integer()),
        sa.column("name", sa.String()),
        sa.column("update_time", UtcDateTime()),
    )
    first = [
        {
            "adapter_id": adapter_id,
            "alias": name,
            "number": 1,
            "time": update_time,
            "principal": "",
            "why": "before moves were kept",
            "before": [],
            "after": targets.get(alias_id, []),
            "restores": 0,
        }
        for alias_id, adapter_id, name, update_time in connection.execute(sa.select(aliases))
    ]
    if first:
        op.bulk_insert(moves, first)
