"""`millrace deploy`, as a person types it; its runs by a real process worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule

from infrastructure.prefect_resources.deployments.command import _read as read_files
from infrastructure.prefect_resources.deployments.prefect_yaml import read_deployments
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.settings import Settings
from tests.support.deploying import (
    ALL,
    FIRST,
    PASSWORD,
    SECOND,
    deploy,
    deployments,
    of_target,
    prepared_for_deployments,
)
from tests.support.project import REPOSITORY, Project, until


@pytest.fixture(scope="module")
def prepared(other_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with prepared_for_deployments(other_project, tmp_path_factory.mktemp("outputs")) as prepared:
        yield prepared


@pytest.fixture(scope="module")
def deployed(prepared: Project) -> dict[str, dict[str, Any]]:
    done = deploy(prepared)
    assert done.returncode == 0, done.stdout + done.stderr
    return deployments(prepared)


@pytest.fixture
def edited_file(prepared: Project) -> Iterator[Path]:
    """The root's file, which a test changes, and which comes back."""
    file = prepared.folder / "prefect.yaml"
    text = file.read_text()
    yield file
    file.write_text(text)


@pytest.fixture
def changed_file(prepared: Project, edited_file: Path) -> Iterator[Path]:
    """The same, with the deployments that it made."""
    text = edited_file.read_text()
    yield edited_file
    edited_file.write_text(text)
    done = deploy(prepared, "--prune")
    assert done.returncode == 0, done.stdout


def change(file: Path, name: str, /, **changes: Any) -> None:
    document = yaml.safe_load(file.read_text())
    (deployment,) = (each for each in document["deployments"] if each["name"] == name)
    deployment.update(changes)
    file.write_text(yaml.safe_dump(document, sort_keys=False))


def test_one_a_target_and_prod_at_two(deployed: dict[str, dict[str, Any]]) -> None:
    assert set(deployed) == ALL
    for name, deployment in deployed.items():
        target = name.rsplit("-", 1)[1]
        assert deployment["parameters"]["target"] == target
        form = deployment["parameter_openapi_schema"]["properties"]["target"]
        assert (form["enum"], form["default"]) == ([target], target)
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        assert deployment["work_queue_name"] == target
        assert deployment["version"] == FIRST["MILLRACE_VERSION"]
        assert {"millrace", f"millrace:{target}"} <= set(deployment["tags"])
        in_container = target != "dev"
        assert deployment["work_pool_name"] == ("docker-pool" if in_container else "default-pool")
        image = FIRST["MILLRACE_IMAGE"] if in_container else None
        assert deployment["job_variables"].get("image") == image
    schedules = {name: d["schedules"] for name, d in deployed.items() if d["schedules"]}
    # Sources may have schedules of their own.
    assert [name for name in schedules if name.startswith("dbt-")] == ["dbt-prod"]
    assert all(name.endswith("-prod") for name in schedules)
    (schedule,) = schedules["dbt-prod"]
    assert CronSchedule(**schedule["schedule"]) == CronSchedule(cron="0 2 * * *", timezone="UTC")


def test_the_server_schedules_runs_of_a_deployment(
    prepared: Project, deployed: dict[str, dict[str, Any]]
) -> None:
    scheduled = {
        "deployments": {"id": {"any_": [deployed["dbt-prod"]["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    runs = until(lambda: prepared.asked("flow_runs", **scheduled))
    assert {run["auto_scheduled"] for run in runs} == {True}
    assert {run["expected_start_time"][10:16] for run in runs} == {"T02:00"}


def test_the_registrys_password_stays_in_its_block(
    prepared: Project, deployed: dict[str, dict[str, Any]]
) -> None:
    reference = "{{ prefect.blocks.docker-registry-credentials.millrace-registry }}"
    assert deployed["dbt-prod"]["job_variables"]["registry_credentials"] == reference
    assert PASSWORD not in json.dumps(deployed)
    assert PASSWORD not in json.dumps(prepared.asked("artifacts"))


def test_no_folder_of_a_machine_is_in_a_deployment(
    prepared: Project, deployed: dict[str, dict[str, Any]]
) -> None:
    assert str(prepared.folder) not in json.dumps(deployed)


def test_the_form_in_the_ui_says_what_each_parameter_is(
    deployed: dict[str, dict[str, Any]],
) -> None:
    fields = deployed["dbt-dev"]["parameter_openapi_schema"]["properties"]
    assert set(fields) == {
        "target", "sources", "source_arguments", "select", "exclude", "full_refresh",
        "from_date", "to_date", "empty", "sample", "vars", "skip", "strategy", "changed", "reuse",
        "resume", "failed", "wait", "verbose",
    }  # fmt: skip
    for name, field in fields.items():
        assert field.get("description"), f"{name} is not described"
    stages = json.dumps(fields["skip"])
    for stage in ("ingest", "freshness", "seed", "snapshot", "run", "test", "docs"):
        assert f'"{stage}"' in stages


@pytest.mark.example
@pytest.mark.operations
def test_a_worker_runs_it_with_the_settings_of_the_deployment(
    prepared: Project, deployed: dict[str, dict[str, Any]]
) -> None:
    prepared.query(
        "drop schema if exists raw_nyc__flights cascade; create schema raw_nyc__flights;"
        "create table raw_nyc__flights.airlines as select 'AA' as carrier, 'American' as name, "
        "now() as _loaded_at, '1' as _dlt_load_id"
    )
    environment = json.dumps({"MILLRACE_STAGES__DBT_RUN__RETRIES": "4"})
    created = prepared.run(
        "-m", "prefect", "deployment", "run", "dbt-full-pipeline/dbt-dev",
        "-p", 'select=["stg_nyc__flights__airlines"]', "-p", 'skip=["ingest"]',
        "--job-variable", f"env={environment}",
    )  # fmt: skip
    assert created.returncode == 0, created.stdout + created.stderr

    worker = prepared.run(
        "-m", "prefect", "worker", "start", "--pool", "default-pool", "--run-once"
    )

    assert worker.returncode == 0, worker.stdout + worker.stderr
    (run,) = prepared.asked("flow_runs", deployments={"id": {"any_": [deployed["dbt-dev"]["id"]]}})
    assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
    tasks = prepared.task_runs(run)
    policies = {name: task["empirical_policy"]["retries"] for name, task in tasks.items()}
    assert policies == {"dbt-run": 4, "dbt-test": 2, "dbt-docs": 1}
    prepared.query("drop schema raw_nyc__flights, dev_staging cascade")


def test_a_value_that_is_none_is_refused_by_the_api(
    prepared: Project, deployed: dict[str, dict[str, Any]]
) -> None:
    refused = prepared.http.post(
        f"/deployments/{deployed['dbt-dev']['id']}/create_flow_run",
        json={"parameters": {"target": "No Target"}},
    )
    assert refused.status_code == httpx.codes.CONFLICT
    assert "No Target" in refused.text

    # Another target would run in the queue of this one.
    refused = prepared.http.post(
        f"/deployments/{deployed['dbt-dev']['id']}/create_flow_run",
        json={"parameters": {"target": "prod"}},
    )
    assert refused.status_code == httpx.codes.CONFLICT

    # Nor is there a parameter of this name; the run of it would crash in the worker.
    unknown = prepared.http.post(
        f"/deployments/{deployed['dbt-dev']['id']}/create_flow_run",
        json={"parameters": {"selct": ["fct_flights"]}},
    )
    assert unknown.status_code == httpx.codes.CONFLICT
    assert "'selct' was unexpected" in unknown.text


@pytest.mark.operations
def test_deploying_the_same_version_again_changes_nothing(
    prepared: Project, deployed: dict[str, dict[str, Any]]
) -> None:
    before = prepared.asked("artifacts", artifacts={"key": {"any_": ["releases-prod"]}})
    done = deploy(prepared)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("unchanged") == 2 * len(ALL), "in the plan and in the table"
    after = prepared.asked("artifacts", artifacts={"key": {"any_": ["releases-prod"]}})
    assert len(after) == len(before) >= 1


def test_a_dry_run_shows_and_does_not(
    prepared: Project, deployed: dict[str, dict[str, Any]]
) -> None:
    done = deploy(prepared, "prod", "--dry-run", **SECOND)
    assert done.returncode == 0, done.stdout
    assert "version: aaaaaaaaaaaa → bbbbbbbbbbbb" in done.stdout
    assert "would be updated" in done.stdout
    assert "dbt-dev" not in done.stdout
    assert deployments(prepared)["dbt-prod"]["version"] == "aaaaaaaaaaaa"


@pytest.mark.operations
def test_what_an_operator_switched_off_stays_off(
    prepared: Project, deployed: dict[str, dict[str, Any]], changed_file: Path
) -> None:
    prod = deployed["dbt-prod"]
    url = f"{prepared.api_url}/deployments/{prod['id']}"
    schedule = prod["schedules"][0]["id"]
    prepared.http.patch(f"{url}/schedules/{schedule}", json={"active": False}).raise_for_status()
    prepared.http.post(f"{url}/pause_deployment").raise_for_status()
    try:
        assert deploy(prepared, "prod", **SECOND).returncode == 0
        after = deployments(prepared)["dbt-prod"]
        assert after["version"] == "bbbbbbbbbbbb"
        assert after["paused"]
        assert [each["active"] for each in after["schedules"]] == [False]
    finally:
        prepared.http.post(f"{url}/resume_deployment").raise_for_status()
        schedule = deployments(prepared)["dbt-prod"]["schedules"][0]["id"]
        prepared.http.patch(f"{url}/schedules/{schedule}", json={"active": True}).raise_for_status()


@pytest.mark.operations
def test_a_schedule_that_is_taken_out_is_gone(
    prepared: Project, deployed: dict[str, dict[str, Any]], changed_file: Path
) -> None:
    change(changed_file, "dbt-prod", schedules=[])
    assert deploy(prepared, "prod").returncode == 0
    assert deployments(prepared)["dbt-prod"]["schedules"] == []


@pytest.mark.operations
def test_it_goes_on_after_failures_and_names_them(
    prepared: Project, deployed: dict[str, dict[str, Any]], changed_file: Path
) -> None:
    change(changed_file, "dbt-staging", work_pool={"name": "nowhere"})
    change(changed_file, "dbt-prod", entrypoint="prefect_flows.pipeline.no_such_flow")
    done = deploy(prepared, **SECOND)
    assert done.returncode == 1
    out = done.stdout.replace("\n", " ")
    assert "dbt-staging: there is no work pool 'nowhere'" in out
    assert "uv run millrace pools --pool nowhere" in out
    assert "dbt-prod: The flow cannot be loaded" in out
    assert "Failed: dbt-staging, dbt-prod." in out
    versions = {name: each["version"] for name, each in deployments(prepared).items()}
    assert {name for name, version in versions.items() if version == "bbbbbbbbbbbb"} == ALL - {
        "dbt-staging", "dbt-prod",
    }  # fmt: skip


@pytest.mark.operations
def test_job_variables_are_those_of_the_pool(
    prepared: Project, deployed: dict[str, dict[str, Any]], edited_file: Path
) -> None:
    elsewhere = deploy(prepared, "prod", "--pool", "default-pool", "--dry-run")
    assert elsewhere.returncode == 0, elsewhere.stdout
    assert "work_pool_name: docker-pool → default-pool" in elsewhere.stdout
    assert "job_variables.image: registry.example.com/m:aaaa → none" in elsewhere.stdout

    change(edited_file, "dbt-dev", work_pool={"name": "default-pool", "job_variables": {"im": "x"}})
    wrong = deploy(prepared, "dev", "--dry-run")
    assert wrong.returncode == 1
    assert "dbt-dev: runs in 'default-pool' have no job variable im; take it out" in wrong.stdout


@pytest.fixture
def sources_file(prepared: Project) -> Iterator[Path]:
    file = prepared.folder / "prefect_flows" / "sources" / "nyc__flights" / "prefect.yaml"
    text = file.read_text()
    yield file
    file.write_text(text)
    done = deploy(prepared)
    assert done.returncode == 0, done.stdout


@pytest.mark.example
@pytest.mark.operations
def test_a_sources_own_image_follows_the_version(
    prepared: Project, deployed: dict[str, dict[str, Any]], sources_file: Path
) -> None:
    own = {"name": "docker-pool", "job_variables": {"image": "{{ source_image }}"}}
    change(sources_file, "nyc--flights--prod", work_pool=own)
    for environment in (FIRST, SECOND):
        assert deploy(prepared, "prod", **environment).returncode == 0
        image = deployments(prepared)["nyc--flights--prod"]["job_variables"]["image"]
        assert image == environment["MILLRACE_IMAGE"].replace("/m:", "/m-nyc-flights:")
        assert deployments(prepared)["dbt-prod"]["job_variables"]["image"] != image
    releases = prepared.asked("artifacts", artifacts={"key": {"any_": ["releases-prod"]}})
    assert any("registry.example.com/m-nyc-flights:bbbb |" in each["data"] for each in releases)

    digest = deploy(prepared, "prod", "--dry-run", MILLRACE_IMAGE="r.example.com/m@sha256:00")
    assert digest.returncode == 1
    assert "The image of source 'nyc__flights' is named after" in digest.stdout
    assert "has no tag: a digest is of one image alone." in digest.stdout


@pytest.mark.operations
def test_the_pipeline_has_no_source_to_take_an_image_of(
    prepared: Project, deployed: dict[str, dict[str, Any]], edited_file: Path
) -> None:
    own = {"name": "docker-pool", "job_variables": {"image": "{{ source_image }}"}}
    change(edited_file, "dbt-prod", work_pool=own)
    done = deploy(prepared, "prod", "--dry-run")
    assert done.returncode == 1
    assert "prefect_flows.pipeline.dbt_full_pipeline is no source's flow." in done.stdout


@pytest.mark.operations
def test_what_the_api_refuses_is_reported(
    prepared: Project, deployed: dict[str, dict[str, Any]], changed_file: Path
) -> None:
    change(changed_file, "dbt-dev", parameters={"target": "dev", "strategy": "sideways"})
    done = deploy(prepared, "dev")
    assert done.returncode == 1
    assert "dbt-dev: the Prefect API refuses it: 409" in done.stdout
    assert "Failed: dbt-dev." in done.stdout
    assert deployments(prepared)["dbt-dev"]["parameters"] == {"target": "dev"}


@pytest.mark.operations
def test_a_target_without_blocks_and_an_unknown_one(
    prepared: Project, deployed: dict[str, dict[str, Any]], edited_file: Path
) -> None:
    change(edited_file, "dbt-staging", name="dbt-qa", parameters={"target": "qa"})
    done = deploy(prepared, "qa")
    assert done.returncode == 1
    assert "the target 'qa' has no block dbt-cli-profile-qa" in done.stdout
    assert "uv run millrace setup --target qa" in done.stdout

    unknown = deploy(prepared, "nowhere")
    assert unknown.returncode == 2
    assert "No deployment is for the target 'nowhere'." in unknown.stderr


@pytest.mark.operations
def test_a_target_that_no_deployment_is_for(
    prepared: Project, deployed: dict[str, dict[str, Any]], changed_file: Path
) -> None:
    files = (prepared.folder / "prefect_flows" / "sources").glob("*/prefect.yaml")
    texts = {file: file.read_text() for file in files}
    try:
        for each in (changed_file, *texts):
            document = yaml.safe_load(each.read_text())
            document["deployments"] = [
                d for d in document["deployments"] if d["parameters"]["target"] != "staging"
            ]
            each.write_text(yaml.safe_dump(document))
        done = deploy(prepared)
        assert done.returncode == 0
        assert "Target staging: setup has made it, and no deployment is for it" in done.stdout
        orphans = len(of_target("staging"))
        assert done.stdout.count("nothing asks for it; --prune removes it") == orphans
        assert "dbt-staging" in deployments(prepared)
        removed = deploy(prepared, "--prune")
        assert removed.stdout.count("removed") == orphans
        assert set(deployments(prepared)) == {name for name in ALL if "staging" not in name}
    finally:
        for file, text in texts.items():
            file.write_text(text)


@pytest.mark.operations
def test_an_image_that_nobody_names(prepared: Project, deployed: dict[str, dict[str, Any]]) -> None:
    done = prepared.run("-m", "infrastructure.cli", "deploy", "prod", MILLRACE_VERSION="cccc")
    assert done.returncode == 1
    assert "runs in 'docker-pool' need an image; name it with --image or" in done.stdout


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nmae": "x"}, "dbt-dev.nmae: there is no such field (prefect.yaml, line "),
        ({"name": "dbt-prod2"}, "name: end it with -dev, its target"),
        ({"parameters": {}}, "parameters.target: give the name of a target"),
        ({"entrypoint": "pipeline.py:flow"}, "dbt-dev.entrypoint: must match"),
        ({"schedules": [{"timezone": "UTC"}]}, "give one of cron, interval and rrule"),
        ({"schedules": [{"cron": "0 25 * * *"}]}, '0.cron: Invalid cron string: "0 25 * * *" (p'),
        ({"schedules": [{"interval": 0}]}, "schedules.0.interval: must be greater than 0"),
        ({"schedules": [{"rrule": "FREQ=OFTEN"}]}, "schedules.0.rrule: Invalid RRule string"),
        (
            {"schedules": [{"cron": "0 2 * * *", "timezone": "Europe/Berln"}]},
            "there is no time zone 'Europe/Berln'. Did you mean 'Europe/Berlin'?",
        ),
        (
            {"work_pool": {"name": "p", "job_variables": {"env": {"API_KEY": "made-up-5"}}}},
            "API_KEY: a secret is named here, never written",
        ),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    file = tmp_path / "prefect.yaml"
    file.write_text((REPOSITORY / "prefect.yaml").read_text())
    change(file, "dbt-dev", **changes)
    with pytest.raises(ConfigurationError) as error:
        read_deployments(file)
    assert said in str(error.value)
    assert "made-up-5" not in str(error.value)


@pytest.fixture
def folder_with_faults(tmp_path: Path) -> Path:
    """A project whose prod runs at no hour, and whose staging has an unknown field."""
    text = (REPOSITORY / "prefect.yaml").read_text()
    for right, wrong in (
        ("cron: 0 2 * * *, timezone: UTC", "cron: 0 25 * * *, timezone: Europe/Berln"),
        ("tags: [dbt, staging]", "tgas: [dbt, staging]"),
    ):
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    (tmp_path / "prefect.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("targets", "declared", "failed"),
    [
        ([], ["dbt-dev"], {"dbt-staging": 1, "dbt-prod": 2}),
        (["dev", "staging"], ["dbt-dev"], {"dbt-staging": 1}),
        (["dev"], ["dbt-dev"], {}),
    ],
)
def test_a_deployment_that_is_wrong_does_not_keep_the_others_of_its_file_back(
    folder_with_faults: Path, targets: list[str], declared: list[str], failed: dict[str, int]
) -> None:
    work = read_files(Settings(project_dir=folder_with_faults), targets)

    assert [each.name for each in work.declared] == declared
    assert {name: len(said) for name, said in work.failures.items()} == failed
    file = folder_with_faults / "prefect.yaml"
    lines = file.read_text().splitlines()
    for said in (each for some in work.failures.values() for each in some):
        assert said.endswith(f"; correct {file}")
        field = said.partition(":")[0].rpartition(".")[2]
        assert field in lines[int(said.partition("line ")[2].partition(")")[0]) - 1]


def test_a_target_that_no_file_has_is_compared_with_those_that_they_have() -> None:
    with pytest.raises(ConfigurationError, match=r"target 'prdo'\. Did you mean 'prod'\?"):
        read_files(Settings(), ["prdo"])


@pytest.mark.example
@pytest.mark.operations
def test_a_file_that_is_wrong_does_not_keep_the_others_back(
    prepared: Project, deployed: dict[str, dict[str, Any]], edited_file: Path
) -> None:
    change(edited_file, "dbt-dev", schedules=[{"cron": "0 2 * * *", "timezone": "Europe/Berln"}])
    done = deploy(prepared, "dev", "--dry-run")
    assert done.returncode == 1
    assert "Did you mean 'Europe/Berlin'? (prefect.yaml, line " in done.stdout
    assert "Traceback" not in done.stderr
    assert "Failed: dbt-dev." in done.stdout
    assert "nyc--flights--dev" in done.stdout
    assert "orphaned" not in done.stdout


def test_a_version_that_is_not_known(prepared: Project) -> None:
    done = prepared.run("-m", "infrastructure.cli", "deploy", "dev", GIT_DIR="/nowhere")
    assert done.returncode == 2
    assert "The version of the code is not known: " in done.stderr
    assert "set MILLRACE_VERSION to the commit" in done.stderr


def test_every_source_has_a_file_of_its_own() -> None:
    sources = REPOSITORY / "prefect_flows" / "sources"
    folders = {file.parent for file in sources.glob("*/source.py")}
    assert folders == {file.parent for file in sources.glob("*/prefect.yaml")}
    assert folders == {file.parent for file in sources.glob("*/pyproject.toml")}
    names = {each.name for folder in folders for each in read_deployments(folder / "prefect.yaml")}
    assert names == {name for name in ALL if not name.startswith("dbt-")}
