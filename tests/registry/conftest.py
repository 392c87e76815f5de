"""Catalogues to test on: each test has a home of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lorry_registry.catalogue import Catalogue
from lorry_registry.embedded import open_catalogue

from .helpers import KEY, make_base


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
