"""{{ cookiecutter.__source }} from a real database into both warehouses."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from prefect_flows.core.errors import ConfigurationError, IngestionError
from prefect_flows.ingest.source_load import ingest
from tests.support.warehouses import Warehouse

SOURCE = "{{ cookiecutter.__source }}"
ROWS = f"select id, name from raw_{SOURCE}.items order by id"


class Database:
    """A SQLite with the tables of the source."""

    def __init__(self, file: Path) -> None:
        self.url = f"sqlite:///{file}"
        self.execute(
            "create table items (id integer primary key, name text not null, updated_at timestamp)"
        )

    def execute(self, sql: str, **values: Any) -> None:
        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(sql), values)

    def write(self, number: int, name: str, day: int) -> None:
        self.execute(
            "insert or replace into items values (:number, :name, :at)",
            number=number, name=name, at=datetime(2026, 1, day, 10),  # noqa: DTZ001
        )  # fmt: skip


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(tmp_path / "source.db")
    for number in (1, 2, 3):
        database.write(number, f"item {number}", day=number)
    return database


def load(warehouse: Warehouse, database: Database, **arguments: Any) -> dict[str, int]:
    return ingest(SOURCE, warehouse.profile, url=database.url, **arguments).rows


def test_what_changed_is_loaded_and_merged(warehouse: Warehouse, database: Database) -> None:
    assert load(warehouse, database) == {"items": 3}
    database.write(1, "renamed", day=9)
    assert load(warehouse, database)["items"] >= 1
    assert warehouse.query(ROWS) == [(1, "renamed"), (2, "item 2"), (3, "item 3")]
    assert load(warehouse, database, full_refresh=True) == {"items": 3}
    assert len(warehouse.query(ROWS)) == 3


def test_the_staging_model_and_its_tests(warehouse: Warehouse, database: Database) -> None:
    load(warehouse, database)
    warehouse.dbt("source", "freshness", "--select", f"source:{SOURCE}")
    warehouse.dbt("build", "--select", f"stg_{SOURCE}__items")
    assert warehouse.count(f"stg_{SOURCE}__items") == 3


def test_an_empty_table_is_still_made(warehouse: Warehouse, database: Database) -> None:
    database.execute("delete from items")
    assert load(warehouse, database) == {"items": 0}
    assert warehouse.query(ROWS) == []


def test_a_new_column_is_refused_and_nothing_is_lost(
    warehouse: Warehouse, database: Database
) -> None:
    load(warehouse, database)
    before = warehouse.query(ROWS)
    database.execute("alter table items add column colour text")
    database.execute("update items set colour = 'red', updated_at = '2026-02-01 10:00:00.000000'")
    with pytest.raises(IngestionError, match="colour"):
        load(warehouse, database)
    assert warehouse.query(ROWS) == before


def test_a_table_that_is_gone_is_named(warehouse: Warehouse, database: Database) -> None:
    database.execute("drop table items")
    with pytest.raises(IngestionError, match="items") as error:
        load(warehouse, database)
    assert not error.value.retryable


def test_a_cursor_whose_order_is_not_known_is_refused(
    warehouse: Warehouse, database: Database
) -> None:
    database.execute("drop table items")
    database.execute("create table items (id integer primary key, name text, updated_at text)")
    with pytest.raises(ConfigurationError, match="'updated_at' of the table 'items' is a text"):
        load(warehouse, database)


def test_an_address_that_is_none_is_not_shown(warehouse: Warehouse) -> None:
    with pytest.raises(ConfigurationError) as error:
        ingest(SOURCE, warehouse.profile, url="made-up-password")
    assert "is not a URL that SQLAlchemy reads" in str(error.value)
    assert "made-up-password" not in str(error.value)
