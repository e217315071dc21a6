"""Rows of loads that never completed, on Postgres and on BigQuery's stand-in."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import dlt
import pytest

from infrastructure.local import postgres
from prefect_flows.core.environment import set_variables
from prefect_flows.core.profiles import Profile
from prefect_flows.ingest.destinations.target import build_destination
from prefect_flows.ingest.orphaned_loads import remove_orphaned_loads

# It warns that it has no faster way to read rows.
pytestmark = pytest.mark.filterwarnings("ignore:Cannot create BigQuery Storage client")


@pytest.fixture(params=["postgres", "bigquery"])
def pipeline(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dlt.Pipeline]:
    """A pipeline into an empty dataset."""
    if request.param == "postgres":
        server = postgres.start(tmp_path / "local")
        try:
            yield made({"type": "postgres", "host": server.host, "port": server.port,
                        "user": "postgres", "password": "", "dbname": "millrace"},
                       tmp_path)  # fmt: skip
        finally:
            postgres.stop(tmp_path / "local")
    else:
        bigquery = request.getfixturevalue("bigquery")
        endpoint = {"BIGQUERY_EMULATOR_HOST": bigquery.proxy.url}
        project = f"unfinished-{uuid.uuid4().hex[:8]}"
        with set_variables(bigquery.environment | endpoint):
            yield made({"type": "bigquery", "method": "oauth-secrets", "token": "made-up",
                        "schema": "dev",
                        "project": project, "location": "US",
                        "api_endpoint": bigquery.proxy.url}, tmp_path)  # fmt: skip


def made(output: dict[str, object], folder: Path) -> dlt.Pipeline:
    profile = Profile.from_output("millrace", "test", output)
    return dlt.pipeline(
        "loads",
        destination=build_destination(profile),
        dataset_name="raw",
        pipelines_dir=str(folder / "dlt"),
    )


def load(pipeline: dlt.Pipeline, table: str, *ids: int) -> str:
    rows = [{"id": number} for number in ids]
    return pipeline.run(rows, table_name=table, write_disposition="append").loads_ids[0]


def execute(pipeline: dlt.Pipeline, sql: str) -> list:
    with pipeline.sql_client() as client:
        return [tuple(row) for row in client.execute_sql(sql) or []]


def table(pipeline: dlt.Pipeline, name: str) -> str:
    with pipeline.sql_client() as client:
        return client.make_qualified_table_name(name)


def test_only_rows_of_loads_that_never_completed_go(pipeline: dlt.Pipeline) -> None:
    assert remove_orphaned_loads(pipeline, ["numbers"]) == {}, "there is nothing yet"
    load(pipeline, "numbers", 1, 2)
    load(pipeline, "numbers", 3)
    killed = load(pipeline, "numbers", 4, 5)
    load(pipeline, "others", 6)
    numbers, loads = table(pipeline, "numbers"), table(pipeline, "_dlt_loads")
    assert remove_orphaned_loads(pipeline, ["numbers", "others", "not_there"]) == {}
    # An older one than the newest completed: another machine's clock was behind.
    execute(pipeline, f"delete from {loads} where load_id = '{killed}'")
    newer = f"{time.time() + 60:.6f}"
    columns = "_dlt_load_id, _dlt_id, id"
    execute(pipeline, f"insert into {numbers} ({columns}) values ('{newer}', 'x', 7)")

    assert remove_orphaned_loads(pipeline, ["numbers", "others", "not_there"]) == {"numbers": 3}

    assert execute(pipeline, f"select id from {numbers} order by id") == [(1,), (2,), (3,)]
    assert execute(pipeline, f"select id from {table(pipeline, 'others')}") == [(6,)]
    assert remove_orphaned_loads(pipeline, ["numbers", "others"]) == {}


def test_without_any_completed_load_nothing_stays(pipeline: dlt.Pipeline) -> None:
    load(pipeline, "numbers", 1, 2)
    execute(pipeline, f"delete from {table(pipeline, '_dlt_loads')} where true")
    assert remove_orphaned_loads(pipeline, ["numbers"]) == {"numbers": 2}


def test_load_ids_are_in_the_order_of_time() -> None:
    from dlt.common.storages.load_package import create_load_id

    ids = [create_load_id() for _ in range(1_000)]
    assert ids == sorted(ids)
    assert {name.index(".") for name in ids} == {10}
