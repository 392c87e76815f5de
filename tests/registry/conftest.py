"""Catalogues to test on: each test has a home of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lorry_registry.catalogue import Catalogue
from lorry_registry.embedded import open_catalogue
from lorry_registry.sql.opening import open_database

from .buckets import new_bucket, s3_server
from .databases import emptied, postgres_url
from .helpers import KEY, adapter_bytes, make_base, publish


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL database with its tables, one for all tests; each takes it through `database`."""
    with postgres_url() as url:
        open_database(Path(), url).dispose()
        yield url


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The endpoint of an S3, which AWS's variables lead to."""
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database with its tables; "" is the one in the home."""
    return "" if request.param == "sqlite" else emptied(request.getfixturevalue("postgres"))


@pytest.fixture(params=["home", "shared"])
def stores(request: pytest.FixtureRequest) -> dict[str, str]:
    """Where a catalogue's stores are, but for its home: all in the home, or PostgreSQL and S3."""
    if request.param == "home":
        return {}
    request.getfixturevalue("s3")
    database = emptied(request.getfixturevalue("postgres"))
    return {"database": database, "blobs": new_bucket()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def catalogue(home: Path) -> Iterator[Catalogue]:
    """Empty: no adapter, no base."""
    opened = open_catalogue(home)
    yield opened
    opened.close()


@pytest.fixture
def stocked(catalogue: Catalogue) -> Catalogue:
    """Knows the base `tiny` and the adapter `support`, without versions."""
    catalogue.put_base(make_base())
    catalogue.create_adapter(KEY)
    return catalogue


@pytest.fixture
def deployment(home: Path, database: str) -> Iterator[Callable[[], Catalogue]]:
    """Opens the same stores again and again, as several registries on them do."""
    opened: list[Catalogue] = []

    def another() -> Catalogue:
        opened.append(open_catalogue(home, database=database))
        return opened[-1]

    yield another
    for catalogue in opened:
        catalogue.close()


@pytest.fixture
def published(deployment: Callable[[], Catalogue]) -> Catalogue:
    """The first registry of a deployment, where the adapter `support` has three versions."""
    catalogue = deployment()
    catalogue.put_base(make_base())
    catalogue.create_adapter(KEY)
    for seed in range(3):
        publish(catalogue, adapter_bytes(seed=seed))
    return catalogue
