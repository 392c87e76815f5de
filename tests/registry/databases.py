"""Databases of a test's own: a file, or a PostgreSQL database that is made for it and dropped after it."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine
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
    except OperationalError as error:
        pytest.skip(f"needs a PostgreSQL at 127.0.0.1:5432 that trusts postgres ({error.orig})")
    try:
        yield f"{SERVER}/{name}"
    finally:
        with server.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        server.dispose()
