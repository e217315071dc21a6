"""The whole project on BigQuery's stand-in, by the pipeline: the same numbers as on Postgres.

Sources are loaded by dlt's own client and models run by dbt-bigquery's, both over HTTP, as the
account of the machine, with no key anywhere. The marts on Postgres are held against the source's
files in `test_marts.py`.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud.bigquery import Client
from sqlglot import exp, parse, parse_one

from tests.support.bigquery.emulator import BigQuery
from tests.support.bigquery.marts import MARTS, same_flights, same_mart
from tests.support.bigquery.stand_ins import MACHINE_TOKEN
from tests.support.project import REPOSITORY, Project, neighbour
from tests.support.pull_requests import PullRequest, rows

pytestmark = pytest.mark.nightly

TARGET = "emulated"


@pytest.fixture(scope="module")
def emulated(
    project: Project, bigquery: BigQuery, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """The project's own models, with a target on the stand-in."""
    folder = tmp_path_factory.mktemp("bigquery") / "millrace"
    emulated = neighbour(project, folder, REPOSITORY / "dbt")
    emulated.environment = bigquery.environment
    limits = {"maximum_bytes_billed": 10**10, "job_execution_timeout_seconds": 240}
    target = bigquery.target("emulated", priority="interactive", **limits)
    outputs = folder / "outputs.json"
    outputs.write_text(json.dumps({"dbt_targets": {"value": {TARGET: target}}}))
    done = emulated.setup("--outputs", str(outputs), "--target", TARGET)
    assert done.returncode == 0, done.stdout + done.stderr
    return emulated


@pytest.fixture(scope="module")
def run(emulated: Project, bigquery: BigQuery) -> subprocess.CompletedProcess[str]:
    """The pipeline's first run there: a year is loaded, and every model made and tested."""
    bigquery.proxy.clear()
    done = emulated.pipeline("--target", TARGET, "--skip", "docs")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def client(bigquery: BigQuery) -> Iterator[Client]:
    client = bigquery.client()
    yield client
    client.close()


def statement(bigquery: BigQuery, pattern: str) -> str:
    """The statement that dbt sent and that holds a pattern; there is one."""
    configured = [job["query"] for job in bigquery.proxy.jobs() if "labels" in job]
    (found,) = {job["query"] for job in configured if re.search(pattern, job["query"])}
    return str(found)


def test_everything_passes_and_is_counted(run: subprocess.CompletedProcess[str]) -> None:
    assert "raw_nyc__flights.flights: 336,776 new rows" in run.stdout + run.stderr


@pytest.mark.parametrize(("mart", "key"), MARTS.items())
def test_mart_is_the_same_as_on_postgres_row_by_row(
    run: subprocess.CompletedProcess[str], project: Project, client: Client, mart: str, key: str
) -> None:
    same_mart(project, client, "emulated_marts", mart, key)


def test_no_mart_is_left_out(run: subprocess.CompletedProcess[str], client: Client) -> None:
    assert sorted(table.table_id for table in client.list_tables("emulated_marts")) == sorted(
        [*MARTS, "fct_flights"]
    )


def test_each_flight_is_the_same_as_on_postgres(
    run: subprocess.CompletedProcess[str], project: Project, client: Client
) -> None:
    same_flights(project, client, "emulated_marts")


def test_the_fact_is_partitioned_by_day_and_clustered(
    run: subprocess.CompletedProcess[str], bigquery: BigQuery
) -> None:
    made = statement(bigquery, "create or replace table `[^`]+`.`[^`]+`.`fct_flights`")
    partitions = r"partition by flight_date\s+cluster by carrier_code, origin_airport_key"
    assert re.search(partitions, made)


def test_each_job_says_who_asks_and_keeps_to_the_limits(
    run: subprocess.CompletedProcess[str], project: Project, bigquery: BigQuery, tmp_path: Path
) -> None:
    """What dbt sent: labels to trace costs by, and the limits of the target."""
    jobs = [job for job in bigquery.proxy.jobs() if "labels" in job]
    (run_id,) = {job["labels"]["run"] for job in jobs}
    assert run_id == project.last_run(TARGET)["id"]
    assert {(job["labels"]["app"], job["labels"]["target"]) for job in jobs} == {
        ("millrace", TARGET)
    }
    nodes = {job["labels"].get("node", "") for job in jobs}
    assert {"model_millrace_fct_flights", "model_millrace_dim_dates"} <= nodes
    for job in jobs:
        query: dict[str, Any] = job["query"]
        assert int(query["maximumBytesBilled"]) == 10**10
        assert query["priority"] == "INTERACTIVE"
        assert int(job["jobTimeoutMs"]) == 240_000


def test_every_request_is_the_machine_s(
    run: subprocess.CompletedProcess[str], bigquery: BigQuery
) -> None:
    tokens = {asked.headers.get("authorization") for asked in bigquery.proxy.asked}
    assert tokens == {f"Bearer {MACHINE_TOKEN}"}


def test_batches_need_a_fifth_of_the_jobs(
    run: subprocess.CompletedProcess[str], emulated: Project, bigquery: BigQuery
) -> None:
    """All tests of the project, with and without batches; the stand-in counts no bytes of them."""
    others = ("ingest", "freshness", "seed", "snapshot", "run", "docs")
    arguments = [argument for stage in others for argument in ("--skip", stage)]
    jobs: dict[str, int] = {}
    for batched in ("true", "false"):
        bigquery.proxy.clear()
        done = emulated.pipeline("--target", TARGET, *arguments, MILLRACE_BATCH_TESTS=batched)
        assert done.returncode == 0, done.stdout + done.stderr
        jobs[batched] = len(bigquery.proxy.jobs())
    assert jobs["true"] * 5 <= jobs["false"], jobs


def test_a_pull_request_of_these_models_is_compared_with_them(
    run: subprocess.CompletedProcess[str], emulated: Project, client: Client, bigquery: BigQuery
) -> None:
    """A mart of other values, in a dataset that is gone afterwards; the fact is not built."""
    folder = emulated.folder.parent / "pull-request"
    clone = neighbour(emulated, folder, emulated.folder / "dbt")
    clone.environment, clone.patience = emulated.environment, emulated.patience
    of_pull_requests = bigquery.target("of_pull_requests")
    targets = {TARGET: bigquery.target(TARGET), "ci-emulated": of_pull_requests}
    outputs = folder / "outputs.json"
    outputs.write_text(json.dumps({"dbt_targets": {"value": targets}}))
    done = clone.setup("--outputs", str(outputs), "--target", "ci-emulated")
    assert done.returncode == 0, done.stdout + done.stderr
    state = str(emulated.local / "state")
    pull_request = PullRequest(clone, 45, "ci-emulated", TARGET, state)
    pull_request.edit(
        "models/marts/core/dim_airlines.sql", "        carrier_name\n",
        "        upper(carrier_name) as carrier_name\n",
    )  # fmt: skip
    build = pull_request.build()
    assert build["tests"] == {"pass": 14}
    comment, found = pull_request.compare()
    tables = {table.table_id for table in client.list_tables("ci_45")}
    assert tables == {"dim_airlines", "agg_carrier_performance_monthly"}
    assert rows(found["dim_airlines"]) == (16, 16, 0, 0, 16)
    # Averages over the same flights are the same, in whatever order they were added up.
    monthly = found["agg_carrier_performance_monthly"]
    assert monthly["changed_in"] == {"carrier_name": 185}
    assert "comparing read " in comment
    assert pull_request.close().stdout.strip() == "ci_45: dropped"


def test_an_incremental_run_rewrites_the_last_days_and_no_older_partition(
    run: subprocess.CompletedProcess[str], emulated: Project, client: Client, bigquery: BigQuery
) -> None:
    """A correction of the last days arrives; an older one does not, and the test of it says so."""
    bigquery.proxy.clear()
    for day in (30, 2):
        client.query(
            "update raw_nyc__flights.flights set dep_delay = dep_delay + 1000, "
            "arr_delay = arr_delay + 1000 "
            f"where month = 12 and day = {day} and carrier = 'B6' and origin = 'JFK'"
        ).result()
    done = emulated.pipeline(
        "--target", TARGET, "--select", "fct_flights", "--skip", "ingest", "--skip", "docs",
        "--skip", "freshness",
    )  # fmt: skip
    (line,) = client.query(
        "select count(*), count(distinct flight_id), "
        "count(case when flight_date = date '2013-12-30' and arrival_delay_minutes > 900 "
        "then 1 end), "
        "count(case when flight_date = date '2013-12-02' and arrival_delay_minutes > 900 "
        "then 1 end) "
        "from emulated_marts.fct_flights"
    ).result()
    rows, flights, corrected, missed = line.values()
    assert rows == flights == 336_776
    assert corrected > 100
    assert missed == 0
    assert done.returncode == 1
    assert "assert_fct_flights_matches_staging" in done.stdout + done.stderr

    # Its destination is read where the partitions are that came, and nowhere else.
    script = statement(bigquery, "declare dbt_partitions_for_replacement array<date>")
    (merge,) = (part for part in parse(script, read="bigquery") if isinstance(part, exp.Merge))
    assert merge.args["on"].sql() == "FALSE"
    deleted, inserted = merge.args["whens"].expressions
    condition = deleted.args["condition"].sql(dialect="bigquery")
    assert condition.lower() == (
        "date(dbt_internal_dest.flight_date) in unnest(dbt_partitions_for_replacement)"
    )
    assert (deleted.args["matched"], inserted.args["matched"]) == (False, False)
    # The rows that come are those of the lookback, read off the partitions' column alone.
    came = statement(bigquery, "create or replace table `[^`]+`.`[^`]+`.`fct_flights__dbt_tmp")
    (where,) = parse_one(came, read="bigquery").find_all(exp.Where)
    assert {column.name for column in where.find_all(exp.Column)} == {"flight_date"}
