"""Publishing on BigQuery, against its emulator: what readers see before, while and after.

What the emulator lacks is proved by the requests that were sent: that a copy job keeps a table's
own access policy, that clones and copies are free, and how long they take.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from google.cloud.bigquery import Client, Table

from prefect_flows.core.errors import PublishError
from prefect_flows.core.profiles import Profile
from prefect_flows.publish.bigquery.warehouse import BigQueryPublisher
from prefect_flows.publish.models import PublishedModel
from tests.support.bigquery.emulator import BigQuery
from tests.support.bigquery.proxy import Fault
from tests.support.bigquery.stand_ins import PROJECT
from tests.support.project import PATIENCE, REPOSITORY, SCRATCH_DBT, Project, until

TARGET = "shown"
LOG = logging.getLogger("tests")
# A copy job into a table that readers query.
COPY = r'POST [^\n]*/jobs\?[^\n]*\n.*"copy".*"destinationTable".*"datasetId": "{}".*"tableId": "{}"'


@dataclass
class Warehouse:
    """An empty dataset `shown`, and questions to it that do not pass by the proxy."""

    bigquery: BigQuery
    client: Client

    def run(self, sql: str) -> None:
        self.client.query(sql).result()

    def ids(self, table: str) -> list[int]:
        return [row["id"] for row in self.client.query(f"select id from {table} order by id")]

    def tables(self, dataset: str) -> list[str]:
        return sorted(item.table_id for item in self.client.list_tables(dataset))

    def copied(self) -> list[str]:
        """The tables that copy jobs wrote, in the order in which these were sent."""
        places = [job["copy"]["destinationTable"] for job in self.jobs("copy")]
        return [f"{place['datasetId']}.{place['tableId']}" for place in places]

    def cloned(self) -> list[str]:
        return [
            job["query"]["query"] for job in self.jobs("query") if "clone" in job["query"]["query"]
        ]

    def jobs(self, kind: str) -> list[dict[str, Any]]:
        return [job for job in self.bigquery.proxy.jobs() if kind in job]


@pytest.fixture
def warehouse(bigquery: BigQuery) -> Iterator[Warehouse]:
    """The emulator without datasets of the target, before and after: other tests share it."""

    def remove_datasets(client: Client) -> None:
        for dataset in client.list_datasets():
            if dataset.dataset_id.startswith(TARGET):
                client.delete_dataset(dataset.reference, delete_contents=True)
        bigquery.proxy.clear()

    with closing(bigquery.client()) as client:
        remove_datasets(client)
        yield Warehouse(bigquery, client)
        bigquery.proxy.clear()
        remove_datasets(client)


def model(name: str, *, keeps_rows: bool = False) -> PublishedModel:
    return PublishedModel(f"model.scratch.{name}", PROJECT, TARGET, name, "default", keeps_rows, ())


def publisher(
    warehouse: Warehouse, *models: PublishedModel, parents: dict[str, list[str]] | None = None
) -> BigQueryPublisher:
    profile = Profile.from_output("millrace", TARGET, output(warehouse.bigquery))

    @contextmanager
    def connect() -> Iterator[Client]:
        client = Client(
            PROJECT,
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": warehouse.bigquery.proxy.url},
        )
        with closing(client):
            yield client

    return BigQueryPublisher(profile, connect, models, parents or {})


def output(bigquery: BigQuery) -> dict[str, Any]:
    given = {"method": "oauth-secrets", "token": "made-up", "job_retries": 0, "publish": True}
    return bigquery.target(TARGET, threads=2) | given


def publish(
    warehouse: Warehouse,
    published: BigQueryPublisher,
    run: str,
    *builds: str,
    resumes: str | None = None,
) -> None:
    """Do what a run does, with these statements in place of dbt."""
    executed = {m.unique_id for m in published.models}
    published.prepare(published.models, executed, run, resumes, full_refresh=False, log=LOG)
    for statement in builds:
        warehouse.run(statement)
    published.switch(published.models, run, LOG)


def build(name: str, number: int) -> str:
    return f"create or replace table {TARGET}__build.{name} as select {number} as id"


def test_a_published_table_keeps_its_description_and_labels(warehouse: Warehouse) -> None:
    published = publisher(warehouse, model("fct"))
    publish(warehouse, published, "one", build("fct", 1))
    table = Table(f"{PROJECT}.{TARGET}.fct")
    table.description, table.labels = "By a reader.", {"owner": "ann"}
    warehouse.client.update_table(table, ["description", "labels"])
    publish(
        warehouse,
        published,
        "two",
        f"create or replace table {TARGET}__build.fct as select 2 as id, 'a' as name",
    )
    found = warehouse.client.get_table(f"{TARGET}.fct")
    assert (found.description, found.labels) == ("By a reader.", {"owner": "ann"})
    assert [field.name for field in found.schema] == ["id", "name"]
    state = published.read_states()["model.scratch.fct"]
    assert (state.live_run, state.previous_run, state.build_run) == ("two", "one", None)


def test_access_to_a_published_table_stays_and_follows_the_grants_of_dbt(
    warehouse: Warehouse,
) -> None:
    granted = replace(model("agg"), has_grants=True)
    published = publisher(warehouse, model("fct"), granted)
    publish(warehouse, published, "one", build("fct", 1), build("agg", 1))
    viewer = "roles/bigquery.dataViewer"

    def grant(table: str, member: str) -> None:
        policy = warehouse.client.get_iam_policy(f"{PROJECT}.{table}")
        policy.bindings = [{"role": viewer, "members": {member}}]
        warehouse.client.set_iam_policy(f"{PROJECT}.{table}", policy)

    def members(table: str) -> set[str]:
        policy = warehouse.client.get_iam_policy(f"{PROJECT}.{TARGET}.{table}")
        return {member for binding in policy.bindings for member in binding["members"]}

    for name in ("fct", "agg"):
        grant(f"{TARGET}.{name}", "user:ann@example.org")
    executed = {m.unique_id for m in published.models}
    published.prepare(published.models, executed, "two", None, full_refresh=False, log=LOG)
    for name in ("fct", "agg"):
        warehouse.run(build(name, 2))
    grant(f"{TARGET}__build.agg", "user:bob@example.org")
    published.switch(published.models, "two", LOG)
    assert members("fct") == {"user:ann@example.org"}
    assert members("agg") == {"user:bob@example.org"}


def test_what_publishing_adds_to_a_run(warehouse: Warehouse) -> None:
    """Nothing reads rows: the statements are DDL, and the other jobs are copies and loads."""
    published = publisher(warehouse, model("fct", keeps_rows=True), model("agg"))
    publish(warehouse, published, "one", build("fct", 1), build("agg", 1))
    warehouse.bigquery.proxy.clear()
    publish(warehouse, published, "two", build("agg", 2))
    assert warehouse.copied() == [f"{TARGET}.agg", f"{TARGET}.fct"]
    statements = warehouse.cloned()
    assert len(statements) == 3  # the rows that `fct` starts from, and both versions before
    assert not any("select" in statement for statement in statements)
    # A readers' table that was replaced would lose its access policy.
    assert not any(f"create table `{PROJECT}`.`{TARGET}`." in s for s in statements)
    loads = [a for a in warehouse.bigquery.proxy.asked if a.path.startswith("/upload/")]
    assert len(loads) == 3
    assert warehouse.tables(f"{TARGET}__build") == []


def test_a_view_and_a_table_with_other_partitions_are_replaced(warehouse: Warehouse) -> None:
    warehouse.client.create_dataset(TARGET)
    warehouse.run(f"create view {TARGET}.fct as select 1 as id")
    published = publisher(warehouse, model("fct"))
    publish(warehouse, published, "one", build("fct", 2))
    assert warehouse.ids(f"{TARGET}.fct") == [2]
    assert published.read_states()["model.scratch.fct"].previous_run is None
    by_day = "partition by day as select 3 as id, date '2024-01-01' as day"
    publish(warehouse, published, "two", f"create table {TARGET}__build.fct {by_day}")
    assert warehouse.client.get_table(f"{TARGET}.fct").time_partitioning is not None
    published.show_previous(LOG)
    assert warehouse.ids(f"{TARGET}.fct") == [2]
    published.show_previous(LOG)
    assert warehouse.ids(f"{TARGET}.fct") == [3]


def test_the_way_back_undoes_only_the_last_publication(warehouse: Warehouse) -> None:
    """A run of a selection has left the other model as it was."""
    published = publisher(warehouse, model("fct"), model("agg"))
    publish(warehouse, published, "one", build("fct", 1), build("agg", 1))
    publish(warehouse, published, "two", build("fct", 2), build("agg", 2))
    publish(warehouse, publisher(warehouse, model("fct")), "three", build("fct", 3))
    for shown in (2, 3):
        assert [str(m) for m in published.show_previous(LOG)] == [f"{TARGET}.fct"]
        assert warehouse.ids(f"{TARGET}.fct") == [shown]
        assert warehouse.ids(f"{TARGET}.agg") == [2]


def test_rows_that_change_while_a_run_builds_are_not_overwritten(warehouse: Warehouse) -> None:
    published = publisher(warehouse, model("fct", keeps_rows=True))
    publish(warehouse, published, "one", build("fct", 1))
    with pytest.raises(PublishError, match=f"{TARGET}.fct were changed while the run built"):
        publish(warehouse, published, "two", f"insert into {TARGET}.fct values (9)")
    assert warehouse.ids(f"{TARGET}.fct") == [1, 9]
    publish(warehouse, published, "three", f"insert into {TARGET}__build.fct values (10)")
    assert warehouse.ids(f"{TARGET}.fct") == [1, 9, 10]


@pytest.mark.parametrize("after", [False, True], ids=["asked", "answered"])
def test_an_attempt_whose_answer_was_lost_is_completed(warehouse: Warehouse, after: bool) -> None:
    """At each request of the switch that changes something; each job runs once."""
    published = publisher(warehouse, model("fct", keeps_rows=True), model("agg"))
    publish(warehouse, published, "one", build("fct", 1), build("agg", 1))
    for number, asked in enumerate(
        (r"POST /upload/", r"POST .*clone", COPY.format(TARGET, "fct"), r"PATCH|DELETE"), start=2
    ):
        run = f"run {number}"
        published.prepare(
            published.models,
            {m.unique_id for m in published.models},
            run,
            None,
            full_refresh=False,
            log=LOG,
        )
        warehouse.run(f"insert into {TARGET}__build.fct values ({number})")
        warehouse.run(build("agg", number))
        refused = Fault(asked, 403, "accessDenied", after=after)
        warehouse.bigquery.proxy.fault(refused)
        try:
            published.switch(published.models, run, LOG)
        except PublishError:
            published.switch(published.models, run, LOG)
        assert refused.met
        assert warehouse.ids(f"{TARGET}.fct") == list(range(1, number + 1))
        assert warehouse.ids(f"{TARGET}__previous.fct") == list(range(1, number))
        assert warehouse.ids(f"{TARGET}.agg") == [number]
        assert warehouse.ids(f"{TARGET}__previous.agg") == [number - 1]


def test_a_refusal_says_what_to_do_and_whether_it_may_pass(warehouse: Warehouse) -> None:
    published = publisher(warehouse, model("fct"))
    warehouse.bigquery.proxy.fault(Fault(r"POST /bigquery[^\n]*/datasets", 403, "accessDenied"))
    with pytest.raises(PublishError, match="BigQuery refuses to publish") as refused:
        publish(warehouse, published, "one", build("fct", 1))
    assert not refused.value.retryable
    assert "roles/bigquery" in refused.value.fix
    publish(warehouse, published, "two", build("fct", 1))
    warehouse.bigquery.proxy.fault(Fault(COPY.format(TARGET, "fct"), 403, "quotaExceeded"))
    with pytest.raises(PublishError) as refused:
        publish(warehouse, published, "three", build("fct", 2))
    assert refused.value.retryable


def test_what_cannot_be_published_is_said_before_anything_changes(warehouse: Warehouse) -> None:
    published = publisher(warehouse, model("fct"))
    published.check(published.models)
    warehouse.client.create_dataset(TARGET)
    other_place = Client(
        PROJECT,
        credentials=AnonymousCredentials(),
        location="EU",
        client_options={"api_endpoint": warehouse.bigquery.address},
    )
    with closing(other_place):
        other_place.create_dataset(f"{TARGET}__build")
    with pytest.raises(PublishError, match=f"the dataset {TARGET}__build is in EU and not in US"):
        published.check(published.models)
    hyphened = PublishedModel(
        "m", PROJECT, "marts-eu", "fct", "default", keeps_rows=False, unique_key=()
    )
    with pytest.raises(PublishError, match="'marts-eu__build' has other characters"):
        published.check([hyphened])
    assert warehouse.tables(TARGET) == []


def test_a_resumed_run_publishes_what_the_killed_one_built(warehouse: Warehouse) -> None:
    published = publisher(warehouse, model("fct"), model("agg"))
    publish(warehouse, published, "one", build("fct", 1), build("agg", 1))
    executed = {m.unique_id for m in published.models}
    published.prepare(published.models, executed, "two", None, full_refresh=False, log=LOG)
    warehouse.run(build("fct", 2))
    published.prepare(
        published.models, {"model.scratch.agg"}, "three", "two", full_refresh=False, log=LOG
    )
    assert warehouse.tables(f"{TARGET}__build") == ["fct"]
    assert set(published.get_schemas(executed, "three").values()) == {f"{TARGET}__build"}
    assert published.get_schemas({"model.scratch.fct"}, "three") == {
        "model.scratch.fct": f"{TARGET}__build"
    }
    warehouse.run(build("agg", 2))
    published.switch(published.models, "three", LOG)
    assert (warehouse.ids(f"{TARGET}.fct"), warehouse.ids(f"{TARGET}.agg")) == ([2], [2])
    # The resumed run has published all, and one of its models is built again.
    published.prepare(
        published.models, {"model.scratch.agg"}, "four", "three", full_refresh=False, log=LOG
    )
    assert published.get_schemas(executed, "four") == {"model.scratch.agg": f"{TARGET}__build"}
    warehouse.run(build("agg", 3))
    published.switch(published.models, "four", LOG)
    assert (warehouse.ids(f"{TARGET}.fct"), warehouse.ids(f"{TARGET}.agg")) == ([2], [3])
    assert {s.live_run for s in published.read_states().values()} == {"four"}


@dataclass
class Marts:
    """A small dbt project whose mart `agg` reads the incremental mart `fct`."""

    project: Project
    warehouse: Warehouse

    def number(self, number: int) -> None:
        """Let the source hold one row; the tests refuse a negative one."""
        file = self.project.folder / "dbt" / "models" / "numbers.sql"
        file.write_text(f"select {number} as id")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.project.pipeline(*self.arguments(*arguments))

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "prefect_flows/pipeline.py", *self.arguments()],
            cwd=self.project.folder,
            env=self.project.variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def arguments(self, *arguments: str) -> list[str]:
        left_out = ("ingest", "freshness", "seed", "snapshot", "docs")
        skipped = (f"--skip={stage}" for stage in left_out)
        return ["--target", TARGET, "--no-prefect", *skipped, *arguments]

    def seen(self) -> tuple[list[int], list[int]]:
        return self.warehouse.ids(f"{TARGET}.fct"), self.warehouse.ids(f"{TARGET}.agg")


MODELS = {
    "marts/fct.sql": "{{ config(materialized='incremental', unique_key='id') }}"
    "select id from {{ ref('numbers') }}",
    "marts/agg.sql": "select max(id) as id from {{ ref('fct') }}",
}
# A test of the first mart and one of the last one.
TESTS = {
    f"{name}_is_positive.sql": f"select id from {{{{ ref('{name}') }}}} where id < 0"
    for name in ("fct", "agg")
}


@pytest.fixture
def marts(warehouse: Warehouse, tmp_path: Path) -> Marts:
    folder = tmp_path / "millrace"
    shutil.copytree(SCRATCH_DBT, folder / "dbt")
    shutil.rmtree(folder / "dbt" / "models")
    for package in ("prefect_flows", "infrastructure"):
        (folder / package).symlink_to(REPOSITORY / package)
    for kind, files in (("models", MODELS), ("tests", TESTS)):
        for name, text in files.items():
            file = folder / "dbt" / kind / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    profiles = {"millrace": {"outputs": {TARGET: output(warehouse.bigquery)}}}
    (folder / "dbt" / "profiles.yml").write_text(yaml.safe_dump(profiles))
    no_waits = {"MILLRACE_STAGES__PUBLISH__RETRIES": "0"}
    return Marts(Project(folder, {**warehouse.bigquery.environment, **no_waits}), warehouse)


@contextmanager
def reading(warehouse: Warehouse) -> Iterator[list[tuple[str, int]]]:
    """Query both marts again and again, as a dashboard does; yield what was seen."""
    seen: list[tuple[str, int]] = []
    over = threading.Event()

    def read() -> None:
        with closing(warehouse.bigquery.client()) as client:
            while not over.wait(0.2):
                sql = f"select 'fct' as mart, id from {TARGET}.fct union all "
                sql += f"select 'agg', id from {TARGET}.agg"
                seen.extend((row["mart"], row["id"]) for row in client.query(sql).result())

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def test_readers_see_only_what_passed_its_tests(marts: Marts) -> None:
    marts.number(1)
    done = marts.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert marts.seen() == ([1], [1])
    with reading(marts.warehouse) as seen:
        marts.number(-1)
        failed = marts.run()
        assert failed.returncode == 1, failed.stdout + failed.stderr
        assert "readers see what they saw before" in failed.stdout + failed.stderr
        assert marts.seen() == ([1], [1])
        marts.warehouse.bigquery.proxy.clear()
        marts.number(2)
        done = marts.run("--no-resume")
        assert done.returncode == 0, done.stdout + done.stderr
    # The incremental mart began with the published rows, not with those of the failed run.
    assert marts.seen() == ([1, 2], [2])
    assert marts.warehouse.copied() == [f"{TARGET}.fct", f"{TARGET}.agg"]
    assert {("fct", 1), ("agg", 1)} <= set(seen)
    assert {number for _, number in seen} <= {1, 2}
    command = ("-m", "infrastructure.cli", "publish", "--target", TARGET, "--no-prefect")
    done = marts.project.run(*command, "--previous")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Readers see the previous version of 2 models again." in done.stdout
    assert marts.seen() == ([1], [1])


@pytest.mark.parametrize(
    "resumed",
    [
        pytest.param(True, id="resumed", marks=pytest.mark.nightly),
        pytest.param(False, id="not resumed"),
    ],
)
def test_the_next_run_completes_a_switch_that_was_killed(marts: Marts, resumed: bool) -> None:
    marts.number(1)
    done = marts.run()
    assert done.returncode == 0, done.stdout + done.stderr
    marts.number(2)
    lost = Fault(COPY.format(TARGET, "agg"), 503, "backendError", delay=5)
    marts.warehouse.bigquery.proxy.fault(lost)
    process = marts.start()
    try:
        until(lambda: lost.met or process.poll() is not None)
    finally:
        process.kill()
        printed = process.communicate(timeout=PATIENCE)[0]
    assert lost.met, printed
    assert marts.seen() == ([1, 2], [1])
    marts.warehouse.bigquery.proxy.clear()
    if resumed:
        done = marts.run()
        assert done.returncode == 0, done.stdout + done.stderr
        statements = [job["query"]["query"] for job in marts.warehouse.jobs("query")]
        assert not any("merge into" in statement for statement in statements)
    else:
        # What this run builds is never shown, but what the killed one had tested is.
        marts.number(-1)
        done = marts.run("--no-resume")
        assert done.returncode == 1, done.stdout + done.stderr
    assert f"Completing a publication that was interrupted: {TARGET}.agg" in (
        done.stdout + done.stderr
    )
    assert marts.seen() == ([1, 2], [2])
    # No job ran twice: a second clone would have kept the new rows.
    assert marts.warehouse.ids(f"{TARGET}__previous.fct") == [1]
