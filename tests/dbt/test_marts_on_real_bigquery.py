"""The same on Google's own BigQuery, for whoever names a project of theirs.

MILLRACE_BIGQUERY_PROJECT is a Google Cloud project in which whoever is logged in may make datasets
and run jobs, and that holds no dataset `raw_nyc__flights`. Everything goes to datasets that are
made here and removed at the end; it reads and writes a few hundred megabytes.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.cloud.bigquery import Client

from tests.support.bigquery.marts import MARTS, same_flights, same_mart
from tests.support.project import REPOSITORY, Project, neighbour

PROJECT = os.environ.get("MILLRACE_BIGQUERY_PROJECT")
LOCATION = os.environ.get("MILLRACE_BIGQUERY_LOCATION", "US")
# What Google's libraries and dbt's adapter take from a person's environment.
OF_GOOGLE = ("GOOGLE_", "CLOUDSDK_", "GCE_", "BIGQUERY_")
RAW = ("raw_nyc__flights", "raw_nyc__flights_staging")

pytestmark = [
    pytest.mark.skipif(
        PROJECT is None,
        reason="NOT CHECKED: Google's own BigQuery. Log in (gcloud auth application-default login) "
        "and set MILLRACE_BIGQUERY_PROJECT to a project without a dataset raw_nyc__flights.",
    ),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client(PROJECT)
    yield client
    client.close()


@pytest.fixture(scope="module")
def real(
    project: Project, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Project, str]]:
    """The project's models with a target there, and the prefix of its datasets."""
    there = {dataset.dataset_id for dataset in client.list_datasets()}
    assert not there & set(RAW), f"{PROJECT} holds {there & set(RAW)}: take another project"
    prefix = f"millrace_test_{uuid.uuid4().hex[:8]}"
    folder = tmp_path_factory.mktemp("real") / "millrace"
    real = neighbour(project, folder, REPOSITORY / "dbt")
    real.patience = 3000
    real.environment = {k: v for k, v in os.environ.items() if k.startswith(OF_GOOGLE)}
    # A login lies in the home of who logged in.
    login = Path.home() / ".config" / "gcloud"
    real.environment = {"CLOUDSDK_CONFIG": str(login), **real.environment}
    target = {
        "type": "bigquery", "project": PROJECT, "dataset": prefix, "location": LOCATION,
        "threads": 8, "maximum_bytes_billed": 10**10,
    }  # fmt: skip
    outputs = folder / "outputs.json"
    outputs.write_text(json.dumps({"dbt_targets": {"value": {"real": target}}}))
    done = real.setup("--outputs", str(outputs), "--target", "real")
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        yield real, prefix
    finally:
        for dataset in client.list_datasets():
            if dataset.dataset_id in RAW or dataset.dataset_id.startswith(prefix):
                client.delete_dataset(dataset.reference, delete_contents=True)


def test_the_project_runs_there_and_its_marts_are_those_of_postgres(
    real: tuple[Project, str], project: Project, client: Client
) -> None:
    pipeline, prefix = real
    done = pipeline.pipeline("--target", "real")
    assert done.returncode == 0, done.stdout + done.stderr
    for mart, key in MARTS.items():
        same_mart(project, client, f"{prefix}_marts", mart, key)
    same_flights(project, client, f"{prefix}_marts")
    again = pipeline.pipeline("--target", "real")
    assert again.returncode == 0, again.stdout + again.stderr
    same_flights(project, client, f"{prefix}_marts")
