"""The health check, with real servers, workers and warehouses in every state it tells of."""

from __future__ import annotations

import json
import re
import shlex
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from infrastructure.operate.health_check.evaluate import find_plaintext_secrets
from tests.support.bigquery.emulator import BigQuery
from tests.support.bigquery.proxy import Fault
from tests.support.prefect_servers import server
from tests.support.project import Project, until

PREFECT_YAML = """
name: health
prefect-version: 3.9.1
pull: []
deployments:
  - name: dbt-dev
    entrypoint: prefect_flows.pipeline.dbt_full_pipeline
    parameters: {target: dev}
    work_pool: {name: default-pool, work_queue_name: dev}
    schedules:
      - {cron: 0 2 * * *, timezone: UTC}
"""
# As reference documents write it: Prefect puts the block's content in its place.
WITH_REGISTRY = PREFECT_YAML.replace(
    "work_queue_name: dev}",
    "work_queue_name: dev, job_variables: "
    '{registry_credentials: "{{ prefect.blocks.secret.registry }}"}}',
)
REGISTRY_PASSWORD = "the registry's own"
LATE = """
import datetime
from prefect.client.orchestration import get_client
from prefect.states import Scheduled
with get_client(sync_client=True) as client:
    deployment = client.read_deployment_by_name("dbt-full-pipeline/dbt-dev")
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=10)
    state = Scheduled(scheduled_time=past)
    run = client.create_flow_run_from_deployment(deployment.id, state=state)
    print(run.id)
"""
LOST = """
import sys
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType

@flow(name="dbt-full-pipeline")
def pipeline(): ...

with get_client(sync_client=True) as client:
    state = State(type=StateType(sys.argv[1]))
    print(client.create_flow_run(pipeline, name="dev", state=state, tags=["millrace:dev"]).id)
"""


def health(project: Project, *arguments: str, **environment: str):
    return project.run("-m", "infrastructure.cli", "health", *arguments, **environment)


def checks(
    project: Project, *arguments: str, code: int, **environment: str
) -> dict[tuple[str, str], dict[str, Any]]:
    """The document of `--json`, by name and subject, after a look at its shape."""
    for _ in range(3):
        done = health(project, *arguments, "--json", **environment)
        document = json.loads(done.stdout)
        # A busy server's SQLite is locked now and then: it answers 503, and the check asks once.
        if not any(each["name"] == "runs" for each in document["checks"]):
            break
    assert done.returncode == code, done.stdout + done.stderr
    assert set(document) == {"status", "checks"}
    for check in document["checks"]:
        assert set(check) == {"name", "subject", "status", "message", "fix", "seconds"}
        assert "\n" not in check["message"]
        assert (check["fix"] is not None) == (check["status"] in ("warning", "failed")), check
    assert (document["status"] == "failed") == (code == 1)
    return {(check["name"], check["subject"]): check for check in document["checks"]}


def prefect(project: Project, *arguments: str) -> str:
    done = project.run("-m", "prefect", "--no-prompt", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fixed(project: Project, check: dict[str, Any]) -> None:
    """Type the command that the check gives."""
    words = shlex.split(check["fix"])
    assert words[:3] == ["uv", "run", "prefect"]
    prefect(project, *words[3:])


def deploy(project: Project, text: str) -> None:
    file = project.folder / "health.yaml"
    file.write_text(text)
    prefect(project, "deploy", "--prefect-file", str(file), "--all")


def ten_minutes_pass(project: Project, run: str) -> None:
    """For a flow run, in the server's database: the API takes no time but its own."""
    with closing(sqlite3.connect(project.local / "prefect" / "prefect.db", timeout=30)) as database:
        for statement in (
            "update flow_run set start_time = datetime(start_time, '-10 minutes') where id = ?",
            "update flow_run_state set timestamp = datetime(timestamp, '-10 minutes') "
            "where flow_run_id = ?",
        ):
            assert database.execute(statement, (run,)).rowcount == 1
        database.commit()


@contextmanager
def worker(project: Project) -> Iterator[psutil.Process]:
    """A process worker whose heartbeat comes every second; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "infrastructure.cli", "worker", "--pool", "default-pool",
         "--name", "laptop", "--queue", "none-of-the-used"],
        cwd=project.folder, env=project.variables(PREFECT_WORKER_HEARTBEAT_SECONDS="1"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def ground(other_project: Project) -> Project:
    """A project after setup: servers and blocks, nothing deployed."""
    done = other_project.setup()
    assert done.returncode == 0, done.stderr
    return other_project


@pytest.fixture(scope="module")
def deployed(ground: Project) -> Project:
    """With the pool, its queue, and a deployment of dev."""
    prefect(ground, "work-pool", "create", "default-pool", "--type", "process")
    prefect(ground, "work-queue", "create", "dev", "--pool", "default-pool")
    deploy(ground, PREFECT_YAML)
    return ground


def test_a_laptop_after_setup(ground: Project) -> None:
    seen = checks(ground, code=0)
    assert {key: check["status"] for key, check in seen.items()} == {
        ("api", ""): "ok",
        ("disk", ""): "ok",
        ("database", ""): "ok",
        ("pool", ""): "skipped",
        ("worker", ""): "skipped",
        ("deployment", "dev"): "warning",
        ("last run", "dev"): "warning",
        ("late runs", "dev"): "ok",
        ("stuck runs", "dev"): "ok",
        ("running", "dev"): "ok",
        ("state store", ""): "ok",
        ("notices", "dev"): "ok",
        ("warehouse", "dev"): "ok",
    }
    assert seen["deployment", "dev"]["fix"] == "uv run millrace deploy dev"
    assert seen["last run", "dev"]["message"] == "never ran"
    assert re.search(r"Prefect (\S+), client \1$", seen["api", ""]["message"])


def test_the_table_names_what_fixes(ground: Project) -> None:
    done = health(ground)
    assert done.returncode == 0, done.stderr
    assert "deployment dev: uv run millrace deploy dev" in done.stdout
    assert done.stdout.rstrip().endswith("warning: 2 warning, 9 ok, 2 skipped")


def test_a_target_that_setup_does_not_know(ground: Project) -> None:
    seen = checks(ground, "prod", code=1)
    blocks = seen["blocks", "prod"]
    assert blocks["message"] == "no profile block; targets that exist: dev"
    assert blocks["fix"] == "uv run millrace setup --target prod"
    assert ("warehouse", "dev") not in seen

    done = health(ground, "No Target", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Not a target's name: 'No Target'." in done.stderr


@pytest.mark.nightly
@pytest.mark.operations
def test_a_worker_that_comes_and_is_killed(deployed: Project) -> None:
    seen = checks(deployed, code=1)
    assert seen["pool", "default-pool"]["status"] == "ok"
    assert seen["queues", "default-pool"]["message"] == "dev"
    assert seen["worker", "default-pool"]["message"] == "no worker ever asked this pool"
    fix = seen["worker", "default-pool"]["fix"]
    assert "uv run millrace worker --pool default-pool" in fix
    name = "dbt-full-pipeline/dbt-dev"
    assert re.fullmatch(
        r"(version \w+, )?(next run \d{4}-\d\d-\d\d 02:00 UTC|its runs are being scheduled)",
        seen["deployment", name]["message"],
    )
    assert seen["secrets", name]["status"] == "ok"

    with worker(deployed):
        workers = f"{deployed.api_url}/work_pools/default-pool/workers/filter"
        until(lambda: deployed.http.post(workers, json={}).json())
        online = checks(deployed, code=0)["worker", "default-pool"]
        assert re.fullmatch(r"1 online; last heartbeat: laptop [\d.]+ s ago", online["message"])
    time.sleep(4)
    gone = checks(deployed, code=1)["worker", "default-pool"]
    assert re.fullmatch(
        r"none online; the last heartbeat, of laptop, came [\d.]+ s ago", gone["message"]
    )


@pytest.mark.operations
def test_what_is_paused_is_resumed_by_the_command_that_is_given(deployed: Project) -> None:
    name = "dbt-full-pipeline/dbt-dev"
    deployment = deployed.http.get(f"/deployments/name/{name}").json()["id"]
    prefect(deployed, "work-pool", "pause", "default-pool")
    prefect(deployed, "work-queue", "pause", "dev", "--pool", "default-pool")
    prefect(deployed, "api", "POST", f"/deployments/{deployment}/pause_deployment")

    paused = checks(deployed, code=1)
    assert paused["pool", "default-pool"]["message"] == "is paused: no run of it begins"
    assert paused["queues", "default-pool"]["message"] == "dev paused: no run of it begins"
    assert paused["deployment", name]["message"] == "is paused"
    for key in (("pool", "default-pool"), ("queues", "default-pool"), ("deployment", name)):
        assert paused[key]["status"] == "warning"
        fixed(deployed, paused[key])

    inactive = checks(deployed, code=1)
    assert inactive["pool", "default-pool"]["status"] == "ok"
    assert inactive["queues", "default-pool"]["status"] == "ok"
    # Prefect resumes the deployment, and leaves its schedule as it is.
    if inactive["deployment", name]["status"] == "warning":
        fixed(deployed, inactive["deployment", name])
    assert checks(deployed, code=1)["deployment", name]["status"] == "ok"


@pytest.mark.operations
def test_a_block_s_secret_in_a_deployment(deployed: Project) -> None:
    saved = deployed.run(
        "-c",
        "from prefect.blocks.system import Secret\n"
        f'Secret(value={{"username": "u", "password": "{REGISTRY_PASSWORD}"}}).save("registry")',
    )
    assert saved.returncode == 0, saved.stderr
    deploy(deployed, WITH_REGISTRY)
    done = health(deployed)
    assert done.returncode == 1
    assert "job_variables.registry_credentials.password" in " ".join(done.stdout.split())
    assert REGISTRY_PASSWORD not in done.stdout + done.stderr
    deploy(deployed, PREFECT_YAML)


@pytest.mark.operations
def test_a_run_that_failed(deployed: Project) -> None:
    done = deployed.pipeline("--target", "dev", "--skip", "ingest", "--select", "no_such_model")
    assert done.returncode != 0
    last = checks(deployed, code=1)["last run", "dev"]
    assert re.match(r"Failed [\d.]+ s ago, took [\d.]+ s; no success is known: ", last["message"])
    assert last["message"].endswith(
        "SelectionError: The selection matches no node of the dbt project."
    )
    fixed(deployed, last)


@pytest.mark.operations
def test_a_run_that_is_late(deployed: Project) -> None:
    created = deployed.run("-c", LATE)
    assert created.returncode == 0, created.stderr
    late = checks(deployed, code=1)["late runs", "dev"]
    assert re.match(rf"1 late, by up to 10 min.*: \S+ \({created.stdout.strip()}", late["message"])
    assert f"prefect flow-run cancel {created.stdout.strip()}" in late["fix"]
    deployed.http.delete(f"/flow_runs/{created.stdout.strip()}").raise_for_status()


@pytest.mark.operations
@pytest.mark.parametrize(
    ("state", "name", "seen"),
    [
        ("PENDING", "stuck runs", r"Pending for 10 min( \d+ s)?: dev \({}\)"),
        ("RUNNING", "running", r"lost: dev \({}\) without the target's lease: killed, or waiting "
                               "for a run that was started with --no-prefect"),
    ],
)  # fmt: skip
def test_a_run_that_is_stuck_or_lost(deployed: Project, state: str, name: str, seen: str) -> None:
    created = deployed.run("-c", LOST, state)
    assert created.returncode == 0, created.stderr
    run = created.stdout.strip()
    ten_minutes_pass(deployed, run)
    found = checks(deployed, code=1)[name, "dev"]
    assert re.fullmatch(seen.format(run), found["message"])
    assert found["status"] == "failed"
    assert run in found["fix"]
    deployed.http.delete(f"/flow_runs/{run}").raise_for_status()


@pytest.mark.operations
def test_a_warehouse_that_refuses_and_one_that_hangs(ground: Project, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        far = {"database": "d", "user": "u", "schema": "s", "type": "postgres", "threads": 1}
        targets = {
            "hangs": far | {"host": "127.0.0.1", "port": hanging.getsockname()[1]},
            "refuses": far | {"host": "127.0.0.1", "port": closed.getsockname()[1]},
        }
        outputs = {
            "dbt_targets": {"value": {"dev": ground.dev} | targets},
            "dbt_target_secrets": {"value": {"hangs": {"password": "pass-of-hangs"}}},
        }
        file = tmp_path / "outputs.json"
        file.write_text(json.dumps(outputs))
        done = ground.setup("--outputs", str(file), "--blocks-only")
        assert done.returncode == 0, done.stderr
        started = time.monotonic()
        done = health(ground, "--json", "--timeout", "10")
        assert time.monotonic() - started < 20
    assert done.returncode == 1
    assert "pass-of-hangs" not in done.stdout + done.stderr
    seen = {(c["name"], c["subject"]): c for c in json.loads(done.stdout)["checks"]}
    assert "Connection refused" in seen["warehouse", "refuses"]["message"]
    assert seen["warehouse", "refuses"]["fix"].endswith("uv run millrace setup --target refuses")
    assert re.search("timeout expired|no answer within", seen["warehouse", "hangs"]["message"])
    assert seen["warehouse", "dev"]["status"] == "ok"
    assert seen["state store", ""]["status"] == "ok"
    done = ground.setup("--blocks-only", "--prune")
    assert done.returncode == 0, done.stderr


def test_bigquery_that_answers_and_refuses(
    ground: Project, bigquery: BigQuery, tmp_path: Path
) -> None:
    target = bigquery.target("scratch", project="health")
    file = tmp_path / "outputs.json"
    file.write_text(json.dumps({"dbt_targets": {"value": {"lake": target}}}))
    google = dict(bigquery.environment)
    done = ground.setup("--outputs", str(file), "--blocks-only", "--target", "lake", **google)
    assert done.returncode == 0, done.stderr
    lake = checks(ground, "lake", code=0, **google)["warehouse", "lake"]
    assert lake["message"] == "bigquery health answers"
    bigquery.proxy.fault(
        Fault("POST /bigquery/v2/projects/health/", 403, "accessDenied", times=None)
    )
    lake = checks(ground, "lake", code=1, **google)["warehouse", "lake"]
    bigquery.proxy.clear()
    assert "accessDenied" in lake["message"] or "403" in lake["message"]
    assert "roles/bigquery.jobUser in project health" in lake["fix"]
    done = ground.setup("--blocks-only", "--prune")
    assert done.returncode == 0, done.stderr


def test_a_state_store_that_does_not_answer(ground: Project) -> None:
    store = checks(ground, code=1, MILLRACE_STATE_URL="/dev/null/state")["state store", ""]
    assert store["message"].startswith("The state store cannot be listed: NotADirectoryError")


@pytest.mark.operations
def test_an_api_that_does_not_answer(ground: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for there, timeout in ((closed, "30"), (hanging, "6")):
            url = f"http://u:pass-of-url@127.0.0.1:{there.getsockname()[1]}/api"
            started = time.monotonic()
            seen = checks(ground, "dev", "--timeout", timeout, code=1, PREFECT_API_URL=url)
            assert time.monotonic() - started < 20
            assert seen["api", ""]["status"] == "failed"
            assert "start it: uv run millrace up" in seen["api", ""]["fix"]
            assert seen["warehouse", ""]["status"] == "skipped"
            assert seen["warehouse", ""]["message"] == "the API has to answer first"
            assert "pass-of-url" not in str(seen)


def test_no_api_is_configured(ground: Project, tmp_path: Path) -> None:
    done = ground.run(
        "-m",
        "infrastructure.cli",
        "health",
        "--json",
        cwd=tmp_path,
        PREFECT_HOME=str(tmp_path),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "No Prefect API is configured." in done.stderr


@pytest.mark.nightly
@pytest.mark.operations
def test_a_server_that_asks_who_is_there(ground: Project, tmp_path: Path) -> None:
    right = "admin:a-long-password"
    settings = {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_API_AUTH_STRING": right}
    with server(ground, tmp_path / "log", **settings) as url:
        api = {"PREFECT_API_URL": url}
        nobody = checks(ground, code=1, **api)["api", ""]
        assert "401 Unauthorized" in nobody["message"]
        assert nobody["message"].endswith("Sent as credentials: nothing.")
        wrong = health(ground, "--json", **api, PREFECT_API_AUTH_STRING="admin:a-wrong-password")
        assert wrong.returncode == 1
        assert "Sent as credentials: PREFECT_API_AUTH_STRING." in wrong.stdout
        assert "wrong-password" not in wrong.stdout + wrong.stderr
        seen = checks(ground, code=0, **api, PREFECT_API_AUTH_STRING=right)
        assert seen["api", ""]["status"] == "ok"
        assert seen["blocks", ""]["message"] == "setup has made no target's blocks"


def test_secrets_are_distinguished_from_references_and_names() -> None:
    variables = {
        "env": {
            "PREFECT_API_KEY": "{{ prefect.blocks.secret.prefect-api-key }}",
            "PGPASSWORD": "in clear",
            "TOKEN_FILE": "/run/secrets/token",
            "URL": "postgresql://u:in-clear@db/x",
            "OTHER_URL": "postgresql://u@db/x",
            "EMPTY_PASSWORD": "",
            "FROM_SHELL_TOKEN": "$TOKEN",
            "HEADER_TOKEN": "Bearer {{ prefect.blocks.secret.token }}",
        },
        "secretName": "prefect-jobs-secrets",
        "volumes": [{"api_key": "in clear"}],
    }
    assert list(find_plaintext_secrets(variables, "v")) == [
        "v.env.PGPASSWORD",
        "v.env.URL",
        "v.volumes[0].api_key",
    ]
