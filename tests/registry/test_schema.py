"""The revisions of the schema: one line of them, the same tables as the models, and no row lost on the way."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine
from typer.testing import CliRunner

from lorry_client.cli.main import build_app
from lorry_registry.embedded import open_catalogue
from lorry_registry.errors import FailedPrecondition
from lorry_registry.sql import schema
from lorry_registry.sql.database import sqlite_engine
from lorry_registry.sql.migrations import __file__ as migrations

from .databases import postgres_url
from .helpers import KEY


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """On an empty database."""
    if request.param == "sqlite":
        opened = sqlite_engine(tmp_path / "registry.db")
        yield opened
        opened.dispose()
        return
    with postgres_url() as url:
        opened = create_engine(url)
        yield opened
        opened.dispose()


def test_the_revisions_are_one_line() -> None:
    """Two that were added after the same one would leave no newest: the README in migrations/ says what to do."""
    script = ScriptDirectory.from_config(schema.alembic_config())
    assert len(script.get_heads()) == 1
    line = [revision.revision for revision in script.walk_revisions()][::-1]
    files = sorted(p.stem for p in (Path(migrations).parent / "versions").glob("[!_]*.py"))
    assert line == files  # the numbers follow the line, and no two files are one revision
    assert [name[:4] for name in line] == [f"{number:04d}" for number in range(1, len(line) + 1)]


def test_models_and_revisions_agree(engine: Engine) -> None:
    assert schema.differences(engine) != []
    done = schema.migrate(engine)
    assert (done.before, done.after) == (None, schema.head())
    assert schema.differences(engine) == []


def test_a_database_at_the_newest_schema_stays_untouched(engine: Engine) -> None:
    schema.migrate(engine)
    assert schema.migrate(engine) == schema.Migration(schema.head(), schema.head())
    schema.require_newest(engine)


def test_two_that_start_at_once_make_the_tables_once(engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: schema.migrate(engine), range(4)))
    assert sorted(migration.changed for migration in done) == [False, False, False, True]


def test_an_empty_database_is_not_at_the_newest_schema(engine: Engine) -> None:
    with pytest.raises(FailedPrecondition, match="lorry registry migrate") as caught:
        schema.require_newest(engine)
    assert caught.value.reason == "SCHEMA_OLDER"


def test_a_database_that_a_newer_lorry_has_written_is_refused(engine: Engine) -> None:
    schema.migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999_later'"))
    for refuses in (schema.migrate, schema.require_newest):
        with pytest.raises(FailedPrecondition, match="9999_later") as caught:
            refuses(engine)
        assert caught.value.reason == "SCHEMA_NEWER"


def test_a_failed_migration_changes_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no power")

    with monkeypatch.context() as patched:
        patched.setattr(schema, "_check_foreign_keys", fail)
        with pytest.raises(RuntimeError):
            schema.migrate(engine)
    assert schema.current(engine) is None
    assert schema.migrate(engine).before is None


class TestHomes:
    """The database of a home, which is brought to the newest schema whenever it is opened."""

    @pytest.fixture
    def old_home(self, home: Path) -> Path:
        """As it was before there were revisions: the first one's tables and rows, and no word of a revision."""
        home.mkdir()
        with sqlite3.connect(home / "registry.db") as database:
            database.executescript((Path(__file__).parent / "before_revisions.sql").read_text())
        database.close()
        return home

    def test_one_from_before_there_were_revisions_is_adopted(self, old_home: Path) -> None:
        catalogue = open_catalogue(old_home)
        try:
            version = catalogue.resolve("support")
            assert (version.number, version.spec.max_rank) == (2, 4)
            assert [file.path for file in version.files] == [
                "adapter_config.json",
                "adapter_model.safetensors",
            ]
            assert version.lineage.metrics == {"exact": 0.5}
            assert catalogue.get_adapter(KEY).labels == {"team": "search"}
            assert catalogue.get_alias(KEY, "production").targets[0].version == 2
            assert catalogue.get_alias(KEY, "previous").targets[0].version == 1
            assert catalogue.get_base(version.lineage.base_fingerprint).modules
        finally:
            catalogue.close()

    def test_the_command_says_what_it_did(self, old_home: Path) -> None:
        said = [
            CliRunner().invoke(build_app(), ["registry", "migrate", "--home", str(old_home)])
            for _ in range(2)
        ]
        assert [result.exit_code for result in said] == [0, 0]
        assert schema.head() in said[0].output
        assert "newest already" in said[1].output
