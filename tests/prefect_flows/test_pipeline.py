"""The pipeline as a person runs it: what it does, what fails in it, what it tries again."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from prefect_flows.core.names import concurrency_limit
from tests.support.project import Project, Scratch, until


def test_stages_are_tasks_and_summaries_are_artifacts(project: Project, scratch: Scratch) -> None:
    scratch.properties(
        models=[{"name": "numbers", "columns": [{"name": "id", "data_tests": ["unique"]}]}]
    )
    # Long enough for a heartbeat.
    scratch.model("numbers", "{{ config(materialized='table') }} select 1 as id from pg_sleep(5)")

    done = scratch.run_pipeline()

    assert done.returncode == 0, done.stdout + done.stderr
    run = project.last_run(scratch.target)
    assert run["state"]["type"] == "COMPLETED"
    assert run["tags"] == [f"millrace:{scratch.target}"]
    # Its heartbeats are known by the same tag. Prefect's server keeps an event some seconds later.
    beats = {"event": {"name": ["prefect.flow-run.heartbeat"]}}
    beats["any_resource"] = {"id": [f"prefect.flow-run.{run['id']}"]}
    url = f"{project.api_url}/events/filter"
    found = until(lambda: project.http.post(url, json={"filter": beats}).json()["events"])
    assert f"prefect.tag.millrace:{scratch.target}" in str(found[0]["related"])
    tasks = project.task_runs(run)
    assert {name: task["state_name"] for name, task in tasks.items()} == {
        "dbt-run": "Completed",
        "dbt-test": "Completed",
        "dbt-docs": "Completed",
    }
    texts = project.artifacts(run)
    stages = ("extraction", "load", "transformation", "validation")
    assert set(texts) == {
        f"{scratch.target}-{key}" for key in (*stages, "run", "report", "progress")
    }
    assert "| dbt-run | 2 | 2 success | 1 |" in texts[f"{scratch.target}-transformation"]
    assert "| dbt-test | 1 | 1 pass | 1 |" in texts[f"{scratch.target}-validation"]


def test_policies_and_what_no_selector_matches_are_seen(project: Project, scratch: Scratch) -> None:
    done = scratch.run_pipeline(
        *("--select", "numbers no_such_model", "--exclude", "tag:no_such_tag"),
        *("--from", "2026-01-01", "--to", "2026-01-02"),
        MILLRACE_STAGES__DBT_RUN__RETRIES="5",
    )

    # A selector that matches nothing beside one that matches is part of the result.
    assert done.returncode == 0, done.stdout + done.stderr
    assert scratch.relations() == {"numbers"}
    last = project.last_run(scratch.target)
    assert last["name"].endswith(", 2026-01-01 to 2026-01-02")
    assert last["parameters"]["to_date"] == "2026-01-02"
    run = project.artifacts(last)[f"{scratch.target}-run"]
    for name in ("no_such_model", "tag:no_such_tag"):
        assert f"nothing matches {name} " in done.stdout
        assert f"| selection | nothing matches {name} |" in run
    assert "No node of the dbt project matches: no_such_model, tag:no_such_tag." in done.stderr
    tasks = project.task_runs(project.last_run(scratch.target))
    policy = tasks["dbt-run"]["empirical_policy"]
    assert (policy["retries"], policy["retry_delay"]) == (5, [60, 120, 240, 480, 600])
    assert policy["retry_jitter_factor"] == 0.2


@pytest.mark.kills
def test_a_run_holds_its_target_until_it_ends(project: Project, scratch: Scratch) -> None:
    url = f"{project.api_url}/v2/concurrency_limits/{concurrency_limit(scratch.target)}"

    def slots() -> int | None:
        """Runs that hold the target; none while the server's SQLite is locked."""
        return project.http.get(url).json().get("active_slots")

    scratch.model("numbers", "{{ config(materialized='table') }} select 1 as id from pg_sleep(5)")
    process = scratch.start_pipeline("--skip", "docs")
    held = set()
    while process.poll() is None:
        held.add(slots())
        time.sleep(0.2)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert 1 in held
    until(lambda: slots() == 0)


def test_a_model_with_a_sql_error_fails_at_once_and_names_it(
    project: Project, scratch: Scratch
) -> None:
    scratch.model("broken", "select id / (id - 1) as id from {{ ref('numbers') }}")
    scratch.model("behind", "select * from {{ ref('broken_table') }}")
    scratch.model(
        "broken_table",
        "{{ config(materialized='table') }} select * from {{ ref('broken') }}",
    )

    done = scratch.run_pipeline()

    assert done.returncode == 1
    assert "StageFailed: dbt-run: 1 of 5 nodes failed, 1 skipped." in done.stderr
    assert "First cause (code), model broken_table: division by zero\n" in done.stderr
    assert "where: dbt/models/broken_table.sql" in done.stderr
    again = f"cd dbt && uv run dbt run --target {scratch.target} --select scratch.broken_table"
    assert again in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "skipped  model behind" in done.stdout + done.stderr
    # The words of the database are in the terminal once, with their line breaks.
    shown = done.stderr[done.stderr.index("Failed (1):\n") :]
    error = "Database Error in model broken_table (models/broken_table.sql)"
    lines = f"  model broken_table, code\n    {error}\n      division by zero\n"
    assert shown.startswith(f"Failed (1):\n{lines}")
    assert (done.stdout + done.stderr).count("Database Error in model broken_table") == 1
    assert f"\n    reproduce: {again}" in shown
    assert "\nSkipped (1): model behind\nReport: " in shown
    assert Path(shown.partition("Report: ")[2].partition("\n")[0]).is_file()
    # What does not depend on it was built, and nothing else.
    assert scratch.relations() == {"numbers", "doubled", "broken"}
    run = project.last_run(scratch.target)
    assert run["state"]["type"] == "FAILED"
    assert "model broken_table" in run["state"]["message"]
    texts = project.artifacts(run)
    assert "**Failed.**" in texts["scratch-run"]
    assert "| error | model.scratch.broken_table | code |" in texts["scratch-transformation"]
    tasks = project.task_runs(run)
    assert tasks["dbt-run"]["run_count"] == 1, "a failure that cannot pass was tried again"
    assert "dbt-test" not in tasks


def test_a_hook_that_fails_fails_the_run(scratch: Scratch) -> None:
    with (scratch.folder / "dbt" / "dbt_project.yml").open("a") as project_file:
        project_file.write('on-run-end: ["select 1 / 0"]\n')

    done = scratch.run_pipeline()

    assert done.returncode == 1
    assert "operation scratch-on-run-end-0" in done.stderr
    assert "division by zero" in done.stderr
    assert "cd dbt && uv run dbt run --target scratch\n" in done.stderr


def test_a_failing_test_fails_the_run_and_is_not_tried_again(
    project: Project, scratch: Scratch
) -> None:
    scratch.properties(
        models=[
            {
                "name": "numbers",
                "columns": [
                    {
                        "name": "id",
                        "data_tests": [{"accepted_values": {"arguments": {"values": [1]}}}],
                    }
                ],
            }
        ]
    )

    done = scratch.run_pipeline()

    assert done.returncode == 1
    assert "StageFailed: dbt-test: 1 of 1 nodes failed, 0 skipped." in done.stderr
    assert "First cause (data), test accepted_values_numbers_id__1" in done.stderr
    assert "Got 1 result, configured to fail if != 0" in done.stderr
    assert project.task_runs(project.last_run(scratch.target))["dbt-test"]["run_count"] == 1


def test_a_test_that_warns_is_seen_and_does_not_fail(scratch: Scratch) -> None:
    test = {"accepted_values": {"arguments": {"values": [1]}, "config": {"severity": "warn"}}}
    scratch.properties(
        models=[{"name": "numbers", "columns": [{"name": "id", "data_tests": [test]}]}]
    )

    done = scratch.run_pipeline()

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 warn" in done.stdout
    assert "WARNING" in done.stderr


DEADLOCK = "do $$ begin raise exception 'made up' using errcode = '40P01'; end $$"
LOST_CONNECTION = "select pg_terminate_backend(pg_backend_pid())"


def failing_once(fault: str) -> str:
    """The head of a model that fails for a passing cause the first time it is built."""
    return (
        "{% set attempts = run_query(\"select nextval('attempts')\").columns[0][0] "
        f'if execute else 2 %}}{{% if attempts == 1 %}}{{% do run_query("{fault}") %}}{{% endif %}}'
    )


@pytest.mark.parametrize("fault", [DEADLOCK, LOST_CONNECTION], ids=["deadlock", "lost connection"])
def test_a_passing_fault_is_retried_with_what_is_left_only(
    project: Project, scratch: Scratch, fault: str
) -> None:
    scratch.query("create sequence attempts; create sequence built", scratch.database)
    scratch.model(
        "numbers",
        "{{ config(materialized='table', post_hook=\"select nextval('built')\") }} select 1 as id",
    )
    ephemeral = "{{ config(materialized='ephemeral') }} select id from {{ ref('numbers') }}"
    scratch.model("inside", ephemeral)
    scratch.model("faulty", failing_once(fault) + "select id from {{ ref('inside') }}")
    scratch.model("behind", "select id from {{ ref('faulty') }}")

    done = scratch.run_pipeline(MILLRACE_STAGES__DBT_RUN__RETRY_DELAY_SECONDS="0.1")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Attempt 2 runs 2 of 4 nodes." in done.stderr
    assert "4 success, in 2 attempts" in done.stdout
    assert {"numbers", "doubled", "faulty", "behind"} == scratch.relations()
    built = scratch.query("select last_value from built", scratch.database)
    assert built == [(1,)], "a model that had been built was built again"
    assert project.task_runs(project.last_run(scratch.target))["dbt-run"]["run_count"] == 2
    # dbt's artifact has each node once, as its last attempt left it.
    artifact = scratch.local / "state" / "targets" / "scratch" / "run_results.json"
    results = json.loads(artifact.read_text())["results"]
    assert sorted(
        (each["unique_id"].rpartition(".")[2], each["status"], each["millrace"]["attempts"])
        for each in results
    ) == [
        ("behind", "success", 1), ("doubled", "success", 1), ("faulty", "success", 2),
        ("numbers", "success", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("door", [(), ("--no-prefect",)], ids=["prefect", "no prefect"])
def test_a_stage_that_takes_too_long_is_stopped_in_the_warehouse_too(
    project: Project, scratch: Scratch, door: tuple[str, ...]
) -> None:
    scratch.model("slow", "{{ config(materialized='table') }} select 1 as id from pg_sleep(120)")

    started = time.monotonic()
    done = scratch.run_pipeline(*door, MILLRACE_STAGES__DBT_RUN__TIMEOUT_SECONDS="2")

    assert time.monotonic() - started < 100
    sleeping = "select count(*) from pg_stat_activity where query like '%pg_sleep(120)%'"
    assert project.query(f"{sleeping} and pid <> pg_backend_pid()") == [(0,)]
    if not door:
        assert project.last_run(scratch.target)["state"]["name"] == "TimedOut"
    assert done.returncode == 1
    assert "StageTimedOut: dbt-run did not end within 2 s." in done.stderr
    assert "MILLRACE_STAGES__DBT_RUN__TIMEOUT_SECONDS" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_without_prefect_it_does_the_same(scratch: Scratch) -> None:
    scratch.query("create sequence attempts", scratch.database)
    scratch.model("faulty", failing_once(DEADLOCK) + "select id from {{ ref('numbers') }}")

    done = scratch.run_pipeline(
        "--no-prefect",
        MILLRACE_STAGES__DBT_RUN__RETRY_DELAY_SECONDS="0.1",
        PREFECT_API_URL="http://127.0.0.1:9/api",
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Trying again in 0.1 s." in done.stderr
    assert "3 success, in 2 attempts" in done.stdout


def test_packages_are_installed_before_the_parse(scratch: Scratch, tmp_path: Path) -> None:
    package = tmp_path / "package"
    shutil.copytree(scratch.folder / "dbt", package)
    (package / "dbt_project.yml").write_text("name: package\n")
    (package / "models" / "doubled.sql").unlink()
    (package / "models" / "numbers.sql").rename(package / "models" / "from_package.sql")
    (package / "profiles.yml").unlink()
    packages = scratch.folder / "dbt" / "packages.yml"
    packages.write_text(f"packages: [{{local: {package}}}]\n")

    done = scratch.run_pipeline()

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Task run 'dbt-deps'" in done.stderr
    assert "from_package" in scratch.relations()


def test_the_dbt_folder_is_left_as_it_was(project: Project, scratch: Scratch) -> None:
    before = sorted(path.name for path in (scratch.folder / "dbt").rglob("*"))

    assert scratch.run_pipeline().returncode == 0

    assert sorted(path.name for path in (scratch.folder / "dbt").rglob("*")) == before
