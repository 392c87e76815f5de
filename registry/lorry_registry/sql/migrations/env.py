"""What Alembic runs for each command: on the connection, and in the transaction, of whoever calls."""

from typing import Any, Literal

from alembic import context

from lorry_registry.sql.columns import UtcDateTime, text
from lorry_registry.sql.models import Row


def render_type(kind: str, item: Any, autogenerate: Any) -> str | Literal[False]:
    """How our own column types stand in a revision that is written by comparison."""
    if kind == "type" and isinstance(item, UtcDateTime):
        autogenerate.imports.add("from lorry_registry.sql.columns import UtcDateTime")
        return "UtcDateTime()"
    if kind == "type" and repr(item) == repr(text()):
        autogenerate.imports.add("from lorry_registry.sql.columns import text")
        return "text()"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Row.metadata,
    render_as_batch=True,  # SQLite alters a table by making it anew
    render_item=render_type,
    compare_type=True,
)
context.run_migrations()
