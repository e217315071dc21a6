"""The page over all targets and the metrics, after real runs on a real warehouse."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from infrastructure.local import postgres
from tests.support.project import REPOSITORY, SCRATCH_DBT, Project

pytestmark = pytest.mark.operations

SOURCES = {
    "version": 2,
    "sources": [
        {"name": "raw", "schema": "public", "loaded_at_field": "loaded_at",
         "freshness": {"warn_after": {"count": 1, "period": "hour"}},
         "tables": [{"name": "events"}]},
    ],
    "models": [
        {"name": "fct_events", "columns": [{"name": "id", "data_tests": ["unique"]}],
         "config": {"meta": {"owner": "ann@example.org"}}},
    ],
}  # fmt: skip
MART = "{{ config(materialized='table') }} select id from {{ source('raw', 'events') }}"


@dataclass
class Three:
    """A project after three runs: good, failed, and good with a page that cannot be written."""

    store: Path
    textfile: str
    pages: list[str]
    done: list[subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    root = tmp_path_factory.mktemp("pages")
    server = postgres.start(root / "server")
    try:
        yield _three_runs(root, server)
    finally:
        postgres.stop(root / "server")


def _three_runs(root: Path, server: postgres.Postgres) -> Three:
    folder = root / "millrace"
    shutil.copytree(SCRATCH_DBT, folder / "dbt")
    for package in ("prefect_flows", "infrastructure"):
        (folder / package).symlink_to(REPOSITORY / package)
    place = {"host": server.host, "port": server.port, "user": "postgres", "dbname": "postgres"}
    output = place | {"type": "postgres", "password": "", "schema": "dev", "threads": 2}
    profiles = {"millrace": {"target": "dev", "outputs": {"dev": output}}}
    (folder / "dbt" / "profiles.yml").write_text(yaml.safe_dump(profiles))
    (folder / "dbt" / "models" / "properties.yml").write_text(yaml.safe_dump(SOURCES))
    mart = folder / "dbt" / "models" / "marts" / "fct_events.sql"
    mart.parent.mkdir()
    mart.write_text(MART)
    with closing(psycopg2.connect(**place)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "create table events as select 1 as id, now() - interval '2 hours' as loaded_at"
        )
        connection.commit()
    project = Project(folder)
    store, metrics = folder / ".local" / "state", root / "textfile"
    metrics.mkdir()
    pages, done = [], []

    def run(**environment: str) -> None:
        done.append(project.pipeline("--no-prefect", "--skip", "ingest", **environment))
        pages.append((store / "index.html").read_text() if (store / "index.html").is_file() else "")

    run(MILLRACE_METRICS_DIR=str(metrics))
    textfile = (metrics / "millrace_dev.prom").read_text()
    mart.write_text(MART.replace("id", "no_such_column"))
    with socket.create_server(("127.0.0.1", 0)) as never_answers:
        port = never_answers.getsockname()[1]
        run(MILLRACE_METRICS_PUSH_URL=f"http://127.0.0.1:{port}", MILLRACE_METRICS_DIR="/no/such")
    mart.write_text(MART)
    (store / "index.html").unlink()
    (store / "index.html").mkdir()
    run()
    return Three(store, textfile, pages, done)


def test_a_good_run_is_on_the_page(three: Three) -> None:
    assert three.done[0].returncode == 0, three.done[0].stdout + three.done[0].stderr
    page = three.pages[0]
    for part in (
        'class="target is-warned"', "1 open incident", "1 passed", "raw.events", "1 warn",
        "fct_events", 'href="targets/dev/report.html"', 'href="targets/dev/docs.html"',
        "1 run of dev",
    ):  # fmt: skip
        assert part in page, part


def test_a_failed_run_keeps_what_was_known_and_opens_an_incident(three: Three) -> None:
    assert three.done[1].returncode == 1
    page = three.pages[1]
    for part in (
        'class="target is-failed"', "First cause.", "no_such_column", "ann@example.org",
        "fct_events,file:fct_events.sql", "2 runs of dev",
    ):  # fmt: skip
        assert part in page, part
    history = json.loads((three.store / "targets" / "dev" / "history.json").read_text())
    assert [run["outcome"] for run in history["runs"]] == ["passed", "failed", "passed"]
    assert history["last"]["marts"]["fct_events"]["rows"] == 1


def test_the_metrics_of_a_run_are_written(three: Three) -> None:
    found = {
        (sample.name, sample.labels.get("mart") or sample.labels.get("source")): sample.value
        for family in text_string_to_metric_families(three.textfile)
        for sample in family.samples
    }
    assert found["millrace_mart_rows", "fct_events"] == 1
    assert found["millrace_source_status", "raw.events"] == 1
    assert found["millrace_run_last_success_timestamp_seconds", None] > time.time() - 600


def test_a_gateway_that_never_answers_is_given_up(three: Three) -> None:
    log = three.done[1].stderr
    assert "Metrics could not be pushed: no answer within 5 s" in log or "timed out" in log
    assert "fix:   see that the Pushgateway answers" in log
    assert "Metrics could not be written: FileNotFoundError" in log
    assert "/no/such/millrace_dev.prom" in log


def test_a_page_that_cannot_be_written_fails_no_run(three: Three) -> None:
    last = three.done[2]
    assert last.returncode == 0, last.stdout + last.stderr
    assert "The overview page could not be written." in last.stderr
    assert f"where: {three.store}/index.html" in last.stderr
    assert "Traceback" not in last.stderr
