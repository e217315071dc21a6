"""A pull request in a dataset of its own, on BigQuery's stand-in."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from google.cloud.bigquery import Client, Dataset, DatasetReference

from infrastructure.ci.pull_request import dataset_lease
from infrastructure.ci.pull_request.dataset_lease import HOLDER, UNTIL, Lease
from prefect_flows.core.errors import TargetBusy
from tests.support.bigquery.emulator import BigQuery
from tests.support.bigquery.stand_ins import PROJECT
from tests.support.project import REPOSITORY, SCRATCH_DBT, Project, neighbour
from tests.support.pull_requests import PullRequest, cells, rows

MACRO = "macros/generate_schema_name.sql"


@pytest.fixture
def client(bigquery: BigQuery) -> Iterator[Client]:
    client = bigquery.client()
    yield client
    for dataset in client.list_datasets():
        if dataset.dataset_id.startswith(("ci_", "made_of")):
            client.delete_dataset(dataset.reference, delete_contents=True)
    client.close()


@pytest.fixture
def pull_request(
    project: Project, bigquery: BigQuery, client: Client, tmp_path: Path
) -> PullRequest:
    """The scratch project with two targets on the stand-in."""
    folder = tmp_path / "millrace"
    clone = neighbour(project, folder, SCRATCH_DBT)
    clone.environment = bigquery.environment
    (folder / "dbt" / "macros").mkdir()
    (folder / "dbt" / MACRO).write_text((REPOSITORY / "dbt" / MACRO).read_text())
    targets = {
        "made-of-it": bigquery.target("made_of_it"),
        "ci-on-it": bigquery.target("of_the_target"),
    }
    outputs = folder / "outputs.json"
    outputs.write_text(json.dumps({"dbt_targets": {"value": targets}}))
    for target in targets:
        done = clone.setup("--outputs", str(outputs), "--target", target)
        assert done.returncode == 0, done.stdout + done.stderr
    return PullRequest(clone, 43, "ci-on-it", "made-of-it", str(clone.local / "state"))


def model(pull_request: PullRequest, name: str, select: str) -> None:
    text = "{{ config(materialized='table') }} " + select
    (pull_request.dbt / "models" / f"{name}.sql").write_text(text)


def test_it_is_built_priced_compared_and_dropped(
    pull_request: PullRequest, client: Client, bigquery: BigQuery
) -> None:
    row = (
        "select {id} as id, {total} as total, [{list}] as list, struct({list} as x) as pair, "
        "current_timestamp() as _loaded_at"
    )
    properties = "models: [{name: keyed, columns: [{name: id, data_tests: [unique, not_null]}]}]"
    (pull_request.dbt / "models" / "properties.yml").write_text(properties)
    model(
        pull_request,
        "keyed",
        " union all ".join(row.format(id=n, total=f"{n} / 3.0", list=n) for n in (1, 2, 3)),
    )
    done = pull_request.project.pipeline(
        "--target", "made-of-it", "--skip", "ingest", "--skip", "docs"
    )
    assert done.returncode == 0, done.stdout + done.stderr

    changed = [
        row.format(id=1, total="1 / 3.0 + 1e-12", list=1),
        row.format(id=2, total="2 / 3.0", list=20),
        row.format(id=4, total="0.5", list=4),
    ]
    model(pull_request, "keyed", " union all ".join(changed))
    model(pull_request, "fresh", "select id from {{ ref('keyed') }}")
    build = pull_request.build()
    assert build["tests"] == {"pass": 2}
    dataset = client.get_dataset("ci_43")
    assert dataset.location == "US"
    mark = json.loads(dataset.description)
    assert (mark["number"], mark["build"]) == (43, build["id"])
    assert {table.table_id for table in client.list_tables("ci_43")} == {"keyed", "fresh"}

    bigquery.proxy.clear()
    comment, found = pull_request.compare()
    assert rows(found["keyed"]) == (3, 3, 1, 1, 1)
    # An array and a struct are compared as text; the last digits of a number are no difference.
    assert found["keyed"]["changed_by_column"] == {"list": 1, "pair": 1}
    assert found["keyed"]["skipped_columns"] == ["_loaded_at"]
    assert found["fresh"]["rows_after"] == 3
    assert cells(comment, "keyed")[2:6] == ["3", "1", "1", "1"]
    assert "comparing read " in comment
    # Each question was priced before it was asked, and was not let read more.
    asked = [job for job in bigquery.proxy.jobs() if "query" in job]
    priced = {str(job["query"]["query"]) for job in asked if job.get("dryRun")}
    run = [job for job in asked if not job.get("dryRun")]
    texts = [q["query"] if isinstance(q := job["query"], dict) else q for job in run]
    assert texts
    assert set(texts) <= priced

    # Less than what it costs: rows are not compared, and it is said.
    comment, found = pull_request.compare("--gigabytes", "0.002")
    assert rows(found["keyed"])[2:] == (None, None, None)
    assert "it would read" in found["keyed"]["notes"][0]
    assert "rows are not compared: it would read" in comment

    # A second push leaves nothing of the first, and no change leaves no dataset.
    model(
        pull_request,
        "keyed",
        " union all ".join(row.format(id=n, total=f"{n} / 3.0", list=n) for n in (1, 2, 3)),
    )
    pull_request.build()
    assert {table.table_id for table in client.list_tables("ci_43")} == {"fresh"}
    assert pull_request.close().stdout.strip() == "ci_43: dropped"
    assert "ci_43" not in {each.dataset_id for each in client.list_datasets()}
    assert pull_request.close().stdout.strip() == "ci_43: there is none"

    # One with our name that is not ours.
    client.create_dataset("ci_43")
    done = pull_request.close()
    assert done.returncode == 2
    assert "has no Millrace owner for this pull request" in done.stderr
    client.get_dataset("ci_43")


@pytest.fixture
def dataset(client: Client) -> DatasetReference:
    reference = DatasetReference(PROJECT, "ci_44")
    client.create_dataset(Dataset(reference))
    return reference


def test_of_two_that_see_it_free_one_gets_it(
    client: Client, dataset: DatasetReference, bigquery: BigQuery
) -> None:
    ready = threading.Barrier(4)

    def take(_: int) -> bool:
        with bigquery.client() as own:
            mine = Lease(own, dataset)
            ready.wait()
            return mine.acquire()

    for _ in range(5):
        with ThreadPoolExecutor(4) as threads:
            assert sorted(threads.map(take, range(4))) == [False, False, False, True]
        fresh = client.get_dataset(dataset)
        fresh.labels = {UNTIL: "0"}
        client.update_dataset(fresh, ["labels"])


def lose(client: Client, dataset: DatasetReference) -> None:
    fresh = client.get_dataset(dataset)
    fresh.labels = {HOLDER: "somebody", UNTIL: str(round(time.time()) + 60)}
    client.update_dataset(fresh, ["labels"])
    time.sleep(2)


@pytest.mark.nightly
def test_a_lease_is_renewed_given_back_and_outlived(
    client: Client, dataset: DatasetReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_lease, "LEASE_SECONDS", 3)
    monkeypatch.setattr(dataset_lease, "RENEW_SECONDS", 0.5)
    first, second = Lease(client, dataset), Lease(client, dataset)
    assert first.acquire()
    with first.keep_renewed():
        time.sleep(4.5)
        assert not second.acquire(), "it is held for longer than one lease lasts"
        # A change of something else is no reason to lose it.
        fresh = client.get_dataset(dataset)
        fresh.description = "changed"
        client.update_dataset(fresh, ["description"])
        time.sleep(1)
    assert second.acquire(), "it was given back"
    # Its holder was killed: it ends by itself.
    assert not first.acquire()
    time.sleep(4)
    assert first.acquire()
    # A holder that lost it says so.
    with pytest.raises(TargetBusy, match="was lost: another one has it"):  # noqa: SIM117
        with first.keep_renewed():
            lose(client, dataset)
    assert client.get_dataset(dataset).labels[HOLDER] == "somebody"
