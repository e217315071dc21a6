"""The pipeline as a person runs it, and every way in which it can go wrong."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import httpx
import pytest
from conftest import Project, Scratch

from prefect_flows.targets import secret_variable


def last_run(project: Project, target: str) -> dict:
    runs = httpx.post(
        f"{project.api_url}/flow_runs/filter",
        json={"flow_runs": {"name": {"any_": [target]}}, "sort": "START_TIME_DESC", "limit": 1},
    ).json()
    return runs[0]


def task_runs(project: Project, run: dict) -> dict[str, dict]:
    found = httpx.post(
        f"{project.api_url}/task_runs/filter", json={"flow_runs": {"id": {"any_": [run["id"]]}}}
    ).json()
    return {task["name"]: task for task in found}


def artifacts(project: Project, run: dict) -> dict[str, str]:
    found = httpx.post(
        f"{project.api_url}/artifacts/filter",
        json={"artifacts": {"flow_run_id": {"any_": [run["id"]]}}},
    ).json()
    return {artifact["key"]: artifact["data"] for artifact in found}


def test_stages_are_tasks_and_summaries_are_artifacts(project: Project, scratch: Scratch) -> None:
    scratch.properties(
        models=[{"name": "numbers", "columns": [{"name": "id", "data_tests": ["unique"]}]}]
    )

    done = scratch.run_pipeline()

    assert done.returncode == 0, done.stdout + done.stderr
    run = last_run(project, scratch.target)
    assert run["state"]["type"] == "COMPLETED"
    tasks = task_runs(project, run)
    assert {name: task["state_name"] for name, task in tasks.items()} == {
        "dbt-run": "Completed",
        "dbt-test": "Completed",
    }
    texts = artifacts(project, run)
    assert set(texts) == {
        f"{scratch.target}-{key}" for key in ("extraction", "transformation", "tests", "run")
    }
    assert "| dbt-run | 2 | 2 success | 1 |" in texts[f"{scratch.target}-transformation"]
    assert "| dbt-test | 1 | 1 pass | 1 |" in texts[f"{scratch.target}-tests"]


def test_policies_of_the_settings_reach_the_tasks(project: Project, scratch: Scratch) -> None:
    done = scratch.run_pipeline(MILLRACE_STAGES__DBT_RUN__RETRIES="5")

    assert done.returncode == 0, done.stdout + done.stderr
    tasks = task_runs(project, last_run(project, scratch.target))
    policy = tasks["dbt-run"]["empirical_policy"]
    assert (policy["retries"], policy["retry_delay"]) == (5, 30)


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
    assert "First cause (code), model broken_table:" in done.stderr
    assert "division by zero" in done.stderr
    assert "where: dbt/models/broken_table.sql" in done.stderr
    again = f"cd dbt && uv run dbt run --target {scratch.target} --select broken_table"
    assert again in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "skipped  model behind" in done.stdout + done.stderr
    # What does not depend on it was built, and nothing else.
    assert scratch.relations() == {"numbers", "doubled", "broken"}
    run = last_run(project, scratch.target)
    assert run["state"]["type"] == "FAILED"
    assert "model broken_table" in run["state"]["message"]
    texts = artifacts(project, run)
    assert "**Failed.**" in texts["scratch-run"]
    assert "| error | model.scratch.broken_table | code |" in texts["scratch-transformation"]
    tasks = task_runs(project, run)
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
    assert task_runs(project, last_run(project, scratch.target))["dbt-test"]["run_count"] == 1


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
    scratch.model("faulty", failing_once(fault) + "select id from {{ ref('numbers') }}")
    scratch.model("behind", "select id from {{ ref('faulty') }}")

    done = scratch.run_pipeline(MILLRACE_STAGES__DBT_RUN__RETRY_DELAY_SECONDS="0.1")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Attempt 2 runs the 2 nodes that are left." in done.stderr
    assert "4 success, in 2 attempts" in done.stdout
    assert {"numbers", "doubled", "faulty", "behind"} == scratch.relations()
    built = scratch.query("select last_value from built", scratch.database)
    assert built == [(1,)], "a model that had been built was built again"
    assert task_runs(project, last_run(project, scratch.target))["dbt-run"]["run_count"] == 2


@pytest.mark.parametrize("door", [(), ("--no-prefect",)], ids=["prefect", "no prefect"])
def test_a_stage_that_takes_too_long_is_stopped_in_the_warehouse_too(
    project: Project, scratch: Scratch, door: tuple[str, ...]
) -> None:
    scratch.model("slow", "{{ config(materialized='table') }} select 1 as id from pg_sleep(120)")

    started = time.monotonic()
    done = scratch.run_pipeline(*door, MILLRACE_STAGES__DBT_RUN__TIMEOUT_SECONDS="2")

    assert time.monotonic() - started < 30
    sleeping = "select count(*) from pg_stat_activity where query like '%pg_sleep(120)%'"
    assert project.query(f"{sleeping} and pid <> pg_backend_pid()") == [(0,)]
    if not door:
        assert last_run(project, scratch.target)["state"]["name"] == "TimedOut"
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


def test_an_unknown_target_names_the_block_the_command_and_those_that_exist(
    project: Project,
) -> None:
    done = project.pipeline("--target", "nowhere")

    assert done.returncode == 2
    assert "BlockMissing: Block 'dbt-cli-profile-nowhere' does not exist" in done.stderr
    assert "setup has not been run for target 'nowhere'" in done.stderr
    assert re.search(r"targets that exist: dev(, scratch)?\)", done.stderr)
    assert "uv run python -m infrastructure.setup_profiles --target nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_target_that_is_no_name_is_refused_before_a_run_begins(project: Project) -> None:
    done = project.pipeline("--target", "Dev_1", "--skip", "tests", "--vars", "[1]")

    assert done.returncode == 2
    for fault in ("target: String should match", "skip.0: Input should be", "vars: Input should"):
        assert fault in done.stderr
    assert "Beginning flow run" not in done.stderr


def test_an_unknown_source_stops_before_anything_is_run(scratch: Scratch) -> None:
    done = scratch.pipeline("--target", scratch.target, "--source", "nyc__trains")

    assert done.returncode == 2
    assert "Source 'nyc__trains' does not exist; there are: nyc__flights." in done.stderr
    assert scratch.relations() == set()


def test_a_selection_of_nothing_stops_before_anything_is_run(scratch: Scratch) -> None:
    done = scratch.run_pipeline("--select", "fct_nothing")

    assert done.returncode == 2
    assert "SelectionError: The selection matches no node of the dbt project." in done.stderr
    assert "where: --select fct_nothing" in done.stderr
    assert scratch.relations() == set()


def test_a_project_that_does_not_parse_stops_before_anything_is_run(scratch: Scratch) -> None:
    scratch.model("broken", "select * from {{ ref('nothing_of_this_name') }}")

    done = scratch.run_pipeline()

    assert done.returncode == 2
    assert "ProjectError: The dbt project does not parse:" in done.stderr
    assert "nothing_of_this_name" in done.stderr
    assert "uv run dbt parse" in done.stderr
    assert scratch.relations() == set()


@pytest.mark.parametrize("retries", ["many", "-1"])
def test_a_setting_that_is_none_is_named(scratch: Scratch, retries: str) -> None:
    done = scratch.run_pipeline(MILLRACE_STAGES__DBT_RUN__RETRIES=retries)

    assert done.returncode == 2
    assert "MILLRACE_STAGES__DBT_RUN__RETRIES: Input should be" in done.stderr


def test_a_setting_that_does_not_exist_is_named(scratch: Scratch) -> None:
    done = scratch.run_pipeline(MILLRACE_STAGE__DBT_RUN__RETRIES="1")

    assert done.returncode == 2
    assert "Unknown settings: MILLRACE_STAGE__DBT_RUN__RETRIES." in done.stderr


def test_an_api_that_is_down_is_said_at_once(scratch: Scratch) -> None:
    started = time.monotonic()
    done = scratch.run_pipeline(PREFECT_API_URL="http://127.0.0.1:9/api")

    assert done.returncode == 2
    assert "PrefectUnreachable: The Prefect API does not answer" in done.stderr
    assert "where: PREFECT_API_URL=http://127.0.0.1:9/api" in done.stderr
    assert "--no-prefect" in done.stderr
    assert time.monotonic() - started < 20
    assert scratch.relations() == set()


def test_no_api_at_all_is_said_instead_of_starting_a_private_one(scratch: Scratch) -> None:
    (scratch.folder / "prefect.toml").unlink()

    done = scratch.run_pipeline()

    assert done.returncode == 2
    assert "ConfigurationError: No Prefect API is configured." in done.stderr
    assert "uv run python -m infrastructure.local up" in done.stderr


def point_target_at(scratch: Scratch, **fields: object) -> None:
    """Change the target's address, or give it a password, by way of setup."""
    outputs = json.loads((scratch.folder / "outputs.json").read_text())
    password = fields.pop("password", None)
    outputs["dbt_targets"]["value"][scratch.target] |= fields
    if password is not None:
        outputs["dbt_target_secrets"] = {"value": {scratch.target: {"password": password}}}
    (scratch.folder / "outputs.json").write_text(json.dumps(outputs))
    done = scratch.setup(
        "--outputs", str(scratch.folder / "outputs.json"), "--target", scratch.target
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_warehouse_that_is_down_is_said_before_anything_is_run(scratch: Scratch) -> None:
    point_target_at(scratch, host="127.0.0.1", port=9)

    done = scratch.pipeline("--target", scratch.target)

    assert done.returncode == 2
    assert f"WarehouseUnreachable: The warehouse of target '{scratch.target}'" in done.stderr
    assert "Connection refused" in done.stderr
    assert "where: postgres postgres@127.0.0.1:9" in done.stderr
    assert f"setup_profiles --target {scratch.target}" in done.stderr


def test_a_database_that_does_not_exist_is_named(scratch: Scratch) -> None:
    point_target_at(scratch, database="nowhere")

    done = scratch.pipeline("--target", scratch.target)

    assert done.returncode == 2
    assert 'database "nowhere" does not exist' in done.stderr


def test_wrong_credentials_are_said_and_a_secret_is_nowhere(
    project: Project, scratch: Scratch
) -> None:
    # GIVEN a role that has to give a password, which the embedded server asks of no other
    rules = project.local / "postgres" / "pg_hba.conf"
    before = rules.read_text()
    role = f"role_{scratch.database}"
    project.query(f"create role {role} login password 'right-made-up' superuser")
    rules.write_text(f"local all {role} scram-sha-256\n{before}")
    project.query("select pg_reload_conf()")
    try:
        # WHEN the block holds another one
        point_target_at(scratch, user=role, password="wrong-made-up")
        wrong = scratch.run_pipeline()
        # THEN it is said, and nothing was built
        assert wrong.returncode == 2
        assert f'password authentication failed for user "{role}"' in wrong.stderr
        assert scratch.relations() == set()

        # WHEN the block holds the right one THEN all works, and the password is nowhere
        point_target_at(scratch, password="right-made-up")
        right = scratch.run_pipeline()
        assert right.returncode == 0, right.stdout + right.stderr
        for password in ("wrong-made-up", "right-made-up"):
            assert password not in wrong.stdout + wrong.stderr + right.stdout + right.stderr
            for folder in (scratch.folder / ".local", scratch.folder / "dbt"):
                found = [
                    file
                    for file in folder.rglob("*")
                    if file.is_file() and password.encode() in file.read_bytes()
                ]
                assert found == []
        run = last_run(project, scratch.target)
        logs = httpx.post(
            f"{project.api_url}/logs/filter",
            json={"logs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200},
        ).text
        assert "dbt-run" in logs or "numbers" in logs
        assert "made-up" not in logs

        # AND by hand, dbt takes it from the variable that profiles.yml names
        variable = secret_variable(scratch.target, "password")
        profiles = (scratch.folder / "dbt" / "profiles.yml").read_text()
        assert f"password: '{{{{ env_var(''{variable}'') }}}}'" in profiles
        by_hand = scratch.dbt("run", "--target", scratch.target, **{variable: "right-made-up"})
        assert by_hand.returncode == 0, by_hand.stdout
    finally:
        rules.write_text(before)
        project.query("select pg_reload_conf()")
        project.query(f"drop database {scratch.database} with (force); ")
        project.query(f"drop role {role}")


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
