"""What tests of sources share: each is run on both warehouses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infrastructure.local import postgres
from infrastructure.local.postgres import Postgres
from tests.support import embedded_postgres
from tests.support.warehouses import Warehouse, on_bigquery, on_postgres


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """An embedded server alone, without Prefect's beside it."""
    folder = tmp_path_factory.mktemp("postgres")
    yield postgres.start(folder)
    postgres.stop(folder)


@pytest.fixture(params=["postgres", "bigquery"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Warehouse]:
    """A target on an empty warehouse: Postgres, and BigQuery's stand-in."""
    if request.param == "postgres":
        with on_postgres(request.getfixturevalue("postgres_server"), tmp_path) as warehouse:
            yield warehouse
    else:
        with on_bigquery(request.getfixturevalue("bigquery"), tmp_path) as warehouse:
            yield warehouse


@pytest.fixture
def database(postgres_server: Postgres) -> Iterator[embedded_postgres.Warehouse]:
    """A target on an empty database of Postgres."""
    with embedded_postgres.empty_database(postgres_server) as database:
        yield database


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder
