"""What goes wrong between the pipeline and BigQuery, by a proxy in front of its stand-in.

A fault that may pass is waited out: by Google's client where it knows the reason, else by the
stage. One that cannot is said at once, after one request. And whatever is lost on the way, no row
is written twice.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from itertools import pairwise

import pytest

from tests.support.bigquery.emulator import BigQuery
from tests.support.bigquery.proxy import Fault
from tests.support.project import PATIENCE, SCRATCH_DBT, Project, neighbour, until

TARGET = "faulty"
INSERTED = "POST /bigquery/v2/projects/faults/jobs"
# Of the model alone, whichever way dbt sends it.
NUMBERS = INSERTED + r".*create or replace table `faults`.`scratch`.`numbers`"
# dlt's script that puts the loaded flights in the place of the old ones.
REPLACED = r"POST [^\n]*/queries(\?[^\n]*)?\n.*INSERT INTO [^;]*raw_nyc__flights`.`flights`"
NOT_LONG = {
    "MILLRACE_STAGES__DBT_RUN__RETRY_DELAY_SECONDS": "0.5",
    "MILLRACE_STAGES__EXTRACT__RETRY_DELAY_SECONDS": "0.5",
    "MILLRACE_STAGES__LOAD__RETRY_DELAY_SECONDS": "0.5",
}


@pytest.fixture(scope="module")
def faulty(
    project: Project, bigquery: BigQuery, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """The small project, with a target in a Google project of its own."""
    folder = tmp_path_factory.mktemp("faults") / "millrace"
    faulty = neighbour(project, folder, SCRATCH_DBT)
    faulty.environment = bigquery.environment | NOT_LONG
    outputs = folder / "outputs.json"
    target = bigquery.target("scratch", project="faults", threads=1)
    outputs.write_text(json.dumps({"dbt_targets": {"value": {TARGET: target}}}))
    done = faulty.setup("--outputs", str(outputs), "--target", TARGET)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "dbt" / "models" / "appended.sql").write_text(
        "{{ config(materialized='incremental') }}\nselect id from {{ ref('numbers') }}"
    )
    return faulty


@pytest.fixture(autouse=True)
def no_fault(bigquery: BigQuery) -> None:
    bigquery.proxy.clear()


def run(faulty: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return faulty.pipeline(
        *("--target", TARGET, "--no-prefect", "--no-resume"),
        *(f"--skip={stage}" for stage in ("ingest", "freshness", "seed", "snapshot", "docs")),
        *arguments,
    )


def ids(bigquery: BigQuery, table: str) -> list[int]:
    client = bigquery.client()
    try:
        rows = client.query(f"select id from faults.scratch.{table} order by id").result()
        return [row["id"] for row in rows]
    finally:
        client.close()


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (429, "rateLimitExceeded"),
        pytest.param(403, "rateLimitExceeded", marks=pytest.mark.nightly),
        pytest.param(500, "internalError", marks=pytest.mark.nightly),
        pytest.param(500, "backendError", marks=pytest.mark.nightly),
        (503, "backendError"),
    ],
)
def test_a_refusal_that_passes_is_waited_out_by_google_s_client(
    faulty: Project, bigquery: BigQuery, status: int, reason: str
) -> None:
    """It repeats the request itself, later each time; the stage never hears of it."""
    fault = bigquery.proxy.fault(Fault(NUMBERS, status, reason, times=2))
    done = run(faulty, "--select", "numbers")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(fault.met) == 2
    assert "Trying again" not in done.stdout + done.stderr
    assert ids(bigquery, "numbers") == [1, 2]


def test_a_quota_is_waited_out_by_the_stage(faulty: Project, bigquery: BigQuery) -> None:
    """Google's client takes it for final. The stage comes back, later each time."""
    fault = bigquery.proxy.fault(Fault(NUMBERS, 403, "quotaExceeded", times=2))
    done = run(faulty, "--select", "numbers")
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert said.count("Trying again in") == 2
    assert "transient" in said
    first, second = fault.met
    assert second - first > 0.4
    assert ids(bigquery, "numbers") == [1, 2]


def test_a_quota_that_stays_fails_with_its_reason(faulty: Project, bigquery: BigQuery) -> None:
    fault = bigquery.proxy.fault(Fault(NUMBERS, 403, "quotaExceeded", times=None))
    done = run(faulty, "--select", "numbers")
    assert done.returncode == 1
    assert "quotaExceeded" in done.stdout + done.stderr
    # The first attempt and its two retries, each half a second or more after the other.
    assert len(fault.met) == 3
    waited = [later - earlier for earlier, later in pairwise(fault.met)]
    assert waited[0] > 0.4
    assert waited[1] > 0.8


@pytest.mark.parametrize(
    ("status", "reason", "cause", "fix"),
    [
        (400, "invalidQuery", "code", "fix:   correct it; to reproduce: cd dbt && uv run dbt"),
        (403, "accessDenied", "configuration", "roles/bigquery.dataEditor on its datasets"),
        (404, "notFound", "configuration", "correct project (faults), dataset (scratch) or"),
    ],
)
def test_what_cannot_pass_is_asked_once(
    faulty: Project, bigquery: BigQuery, status: int, reason: str, cause: str, fix: str
) -> None:
    fault = bigquery.proxy.fault(Fault(NUMBERS, status, reason, times=None))
    done = run(faulty, "--select", "numbers")
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert len(fault.met) == 1
    assert "Trying again" not in said
    assert f"First cause ({cause}), model numbers" in said
    assert fix in said


@pytest.mark.parametrize("after", [False, True], ids=["asked", "answered"])
def test_a_lost_connection_leaves_each_row_once(
    faulty: Project, bigquery: BigQuery, after: bool
) -> None:
    """Before the job was made, and after it ran: what appends must not append twice."""
    first = run(faulty, "--full-refresh")
    assert first.returncode == 0, first.stdout + first.stderr
    fault = bigquery.proxy.fault(
        Fault(INSERTED + r".*(insert into|merge into) `faults`.`scratch`.`appended`", after=after)
    )
    done = run(faulty, "--select", "appended")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(fault.met) == 1
    assert ids(bigquery, "appended") == [1, 1, 2, 2]


def test_a_slow_answer_is_waited_for(faulty: Project, bigquery: BigQuery) -> None:
    fault = bigquery.proxy.fault(Fault(NUMBERS, delay=5))
    done = run(faulty, "--select", "numbers")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(fault.met) == 1


def test_the_job_of_a_hook_is_cancelled(faulty: Project, bigquery: BigQuery) -> None:
    """The emulator has carried a job out before it answers, so the request alone is seen here."""
    project_file = faulty.folder / "dbt" / "dbt_project.yml"
    text = project_file.read_text()
    project_file.write_text(f'{text}on-run-end: ["select 1 as hooked"]\n')
    proxy = bigquery.proxy
    # Long enough for a busy machine: the cancellation comes while the request waits.
    hook = proxy.fault(Fault(INSERTED + ".*select 1 as hooked", delay=30))
    command = (sys.executable, "prefect_flows/pipeline.py", "--no-prefect", "--no-resume")
    process = subprocess.Popen(
        [*command, "--target", TARGET, "--skip", "ingest", "--select", "numbers"],
        cwd=faulty.folder, env=faulty.variables(), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        until(lambda: bool(hook.met) or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        project_file.write_text(text)
    assert process.returncode == 130, output
    (job,) = (
        asked.json["jobReference"]["jobId"]
        for asked in proxy.asked
        if asked.method == "POST" and "select 1 as hooked" in asked.line
    )
    cancelled = [asked.path for asked in proxy.asked if "/cancel" in asked.path]
    assert cancelled
    assert all(f"/jobs/{job}/cancel" in path for path in cancelled), cancelled


def test_a_dataset_that_may_not_be_made_names_the_line_of_terraform(
    faulty: Project, bigquery: BigQuery
) -> None:
    """Datasets are Terraform's: dbt asks whether one is there, and may not make it."""
    bigquery.proxy.fault(
        Fault(r"/datasets(/scratch)?(\?[^\n]*)?\n", 403, "accessDenied", times=None)
    )
    done = run(faulty, "--select", "numbers")
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "accessDenied" in said
    assert "infrastructure/terraform/gcp" in said


def test_an_unreadable_catalog_is_a_failure(faulty: Project) -> None:
    """The emulator lacks the view that dbt reads it from."""
    done = faulty.pipeline(
        *("--target", TARGET, "--no-prefect", "--no-resume", "--select", "numbers"),
        *(f"--skip={stage}" for stage in ("ingest", "freshness", "seed", "snapshot", "test")),
    )
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "dbt's catalog is incomplete: Database Error" in said
    assert "dbt docs generate --target faulty" in said


def flights(bigquery: BigQuery) -> tuple[int, int]:
    """Rows, and rows that differ in their key."""
    client = bigquery.client()
    sql = """
    select
        count(*),
        count(distinct concat(cast(time_hour as string), carrier, cast(flight as string)))
    from faults.raw_nyc__flights.flights
    """
    try:
        (row,) = client.query(sql).result()
    finally:
        client.close()
    return row[0], row[1]


@pytest.mark.example
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            Fault(r"POST /upload/", 503, "backendError", times=2),
            id="refused",
            marks=pytest.mark.nightly,
        ),
        pytest.param(Fault(r"POST /upload/", times=1), id="dropped"),
        pytest.param(
            Fault(REPLACED, times=1, after=True),
            id="replacement answered",
            marks=pytest.mark.nightly,
        ),
        pytest.param(Fault(REPLACED, 403, "quotaExceeded"), id="replacement over quota"),
    ],
)
def test_a_load_that_is_tried_again_leaves_each_row_once(
    faulty: Project, bigquery: BigQuery, fault: Fault
) -> None:
    """A lost answer to the upload itself is not here: the emulator forgets it, Google does not."""
    bigquery.proxy.fault(fault)
    done = faulty.run(
        *("-m", "prefect_flows.sources.nyc__flights.flow", "--target", TARGET, "--full-refresh")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert fault.met
    assert flights(bigquery) == (336_776, 336_776)
