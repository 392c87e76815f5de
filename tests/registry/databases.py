"""Databases of a test's own: a file, or a PostgreSQL database that is made for it and dropped after it."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import OperationalError

SERVER = "postgresql+psycopg://postgres@127.0.0.1:5432"


@contextmanager
def postgres_url() -> Iterator[str]:
    """The URL of an empty database; skips the test where no PostgreSQL answers."""
    name = f"lorry_{secrets.token_hex(8)}"
    server = create_engine(
        f"{SERVER}/postgres", isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 5}
    )
    try:
        with server.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
            # No test turns the power off.
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    except OperationalError as error:
        pytest.skip(f"needs a PostgreSQL at 127.0.0.1:5432 that trusts postgres ({error.orig})")
    try:
        yield f"{SERVER}/{name}"
    finally:
        with server.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        server.dispose()


def emptied(url: str) -> str:
    """The database with its tables and no row in them, but for those that revisions put there."""
    engine = create_engine(url)
    with engine.begin() as connection:
        tables = set(inspect(connection).get_table_names()) - {"alembic_version", "event_log"}
        # Quicker than TRUNCATE, which makes every file anew; without the foreign keys' triggers, in any order.
        deletes = "".join(f"DELETE FROM {table};" for table in sorted(tables))
        connection.exec_driver_sql(f"SET session_replication_role = replica; {deletes}")
    engine.dispose()
    return url
