"""`python -m lorry_registry.sql.migrations NAME "What it does"`: a new revision after the newest.

It holds what the models have and the revisions before it do not bring about: read it before it is committed.
"""

import sys
import tempfile
from pathlib import Path

from alembic import command

from lorry_registry.sql.database import sqlite_engine
from lorry_registry.sql.schema import alembic_config, head, migrate


def main(name: str, message: str) -> None:
    number = int(head().partition("_")[0]) + 1
    with tempfile.TemporaryDirectory() as folder:
        engine = sqlite_engine(Path(folder) / "registry.db")
        migrate(engine)
        with engine.connect() as connection:
            command.revision(
                alembic_config(connection),
                message,
                autogenerate=True,
                rev_id=f"{number:04d}_{name}",
            )
        engine.dispose()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
