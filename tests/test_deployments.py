"""prefect.yaml: deployed as a person deploys it, run by a real process worker."""

from __future__ import annotations

import json

import httpx
import pytest
from conftest import REPOSITORY, Project
from prefect.client.schemas.schedules import CronSchedule

SOURCE_FILE = "prefect_flows/sources/nyc__flights/prefect.yaml"


@pytest.fixture(scope="module")
def deployed(project: Project) -> dict[str, dict]:
    """Every deployment by name, as the API gives it."""
    done = project.run(
        "-m", "prefect", "work-pool", "create", "default-pool", "--type", "process", "--overwrite"
    )
    assert done.returncode == 0, done.stderr
    for arguments in ([], ["--prefect-file", SOURCE_FILE]):
        done = project.run("-m", "prefect", "--no-prompt", "deploy", *arguments, "--all")
        assert done.returncode == 0, done.stdout + done.stderr
    return {deployment["name"]: deployment for deployment in project.asked("deployments")}


def test_one_a_target_and_prod_at_two(deployed: dict[str, dict]) -> None:
    assert set(deployed) == {
        f"{name}{target}" for name in ("dbt-", "nyc--flights--") for target in
        ("dev", "staging", "prod")
    }  # fmt: skip
    for name, deployment in deployed.items():
        assert deployment["parameters"] == {"target": name.rsplit("-", 1)[1]}
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["work_pool_name"] == "default-pool"
    schedules = {name: d["schedules"] for name, d in deployed.items() if d["schedules"]}
    assert list(schedules) == ["dbt-prod"]
    (schedule,) = schedules["dbt-prod"]
    assert CronSchedule(**schedule["schedule"]) == CronSchedule(cron="0 2 * * *", timezone="UTC")


def test_the_form_in_the_ui_says_what_each_parameter_is(deployed: dict[str, dict]) -> None:
    fields = deployed["dbt-dev"]["parameter_openapi_schema"]["properties"]
    assert set(fields) == {
        "target", "sources", "select", "exclude", "full_refresh", "vars", "skip", "strategy",
        "changed", "fresh", "wait",
    }  # fmt: skip
    for name, field in fields.items():
        assert field.get("description"), f"{name} is not described"
    stages = json.dumps(fields["skip"])
    for stage in ("ingest", "freshness", "seed", "snapshot", "run", "test", "docs"):
        assert f'"{stage}"' in stages


def test_a_worker_runs_it_with_the_settings_of_the_deployment(
    project: Project, deployed: dict[str, dict]
) -> None:
    environment = json.dumps({"MILLRACE_STAGES__DBT_RUN__RETRIES": "4"})
    created = project.run(
        "-m", "prefect", "deployment", "run", "dbt-full-pipeline/dbt-dev",
        "-p", 'select=["dim_airlines"]', "-p", 'skip=["ingest"]',
        "--job-variable", f"env={environment}",
    )  # fmt: skip
    assert created.returncode == 0, created.stdout + created.stderr

    worker = project.run("-m", "prefect", "worker", "start", "--pool", "default-pool", "--run-once")

    assert worker.returncode == 0, worker.stdout + worker.stderr
    (run,) = project.asked("flow_runs", deployments={"id": {"any_": [deployed["dbt-dev"]["id"]]}})
    assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
    tasks = project.task_runs(run)
    policies = {name: task["empirical_policy"]["retries"] for name, task in tasks.items()}
    assert policies == {"dbt-run": 4, "dbt-test": 1, "dbt-docs": 1}


def test_a_value_that_is_none_is_refused_by_the_api(
    project: Project, deployed: dict[str, dict]
) -> None:
    refused = httpx.post(
        f"{project.api_url}/deployments/{deployed['dbt-dev']['id']}/create_flow_run",
        json={"parameters": {"target": "No Target"}},
    )
    assert refused.status_code == httpx.codes.CONFLICT
    assert "No Target" in refused.text


def test_a_source_has_a_deployment_file_for_every_folder() -> None:
    sources = REPOSITORY / "prefect_flows" / "sources"
    folders = {file.parent for file in sources.glob("*/source.py")}
    assert folders == {file.parent for file in sources.glob("*/prefect.yaml")}
    assert folders == {file.parent for file in sources.glob("*/pyproject.toml")}
