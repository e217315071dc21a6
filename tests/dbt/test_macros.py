"""Macros of the project, rendered by dbt and run by a real Postgres."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from infrastructure.local import postgres
from tests.support.warehouses import Warehouse, on_postgres

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    folder = tmp_path_factory.mktemp("postgres")
    try:
        with on_postgres(postgres.start(folder), tmp_path_factory.mktemp("dbt")) as warehouse:
            yield warehouse
    finally:
        postgres.stop(folder)


def test_rows_that_differ_have_different_keys(warehouse: Warehouse) -> None:
    rows = "(values ('a', 'bc'), ('ab', 'c'), (null, 'c'), ('', 'c')) as pairs (first, second)"
    query = f"select {{{{ surrogate_key(['first', 'second']) }}}} as id from {rows}"
    shown = warehouse.dbt("show", "--quiet", "--inline", query, "--output", "json")
    ids = [row["id"] for row in json.loads(shown)["show"]]
    assert len(ids) == len(set(ids)) == 4
