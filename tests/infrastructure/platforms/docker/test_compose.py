"""The image and compose in a real engine, which `.ci/containers` starts: a story in its order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.project import PATIENCE, REPOSITORY, api_client

pytestmark = pytest.mark.containers

if "CONTAINERS_TEST_FOLDER" not in os.environ:
    pytest.skip("needs an engine: .ci/containers starts one", allow_module_level=True)

FOLDER = Path(os.environ["CONTAINERS_TEST_FOLDER"])
IMAGE = os.environ["MILLRACE_IMAGE"]
PORT = os.environ["SERVER_PORT"]
FLOW = "dbt-full-pipeline/dbt-dev"
HARDENED = [
    "--network=none", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
]  # fmt: skip
STAGING = {
    "SECRETS_DIR": str(FOLDER / "secrets-staging"),
    "WAREHOUSE_PORT": os.environ["STAGING_WAREHOUSE_PORT"],
    "SERVER_PORT": os.environ["STAGING_SERVER_PORT"],
}


def docker(*arguments: str, **environment: str) -> str:
    """Output of a docker command, which has to pass."""
    done = subprocess.run(
        ["docker", *arguments],
        cwd=REPOSITORY,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def compose(*arguments: str) -> str:
    return docker("compose", "--profile=warehouse", "--profile=docker", *arguments)


def in_setup(*command: str) -> str:
    """A command in a container like `setup`'s, which knows how to reach the API."""
    return docker("compose", "run", "--rm", "--no-TTY", "setup", *command)


def states(*files: str, **environment: str) -> dict[str, str]:
    """Service → its health, as compose knows it."""
    text = docker("compose", *files, "ps", "--format=json", **environment)
    found = [json.loads(line) for line in text.splitlines()]
    return {each["Service"]: each["Health"] for each in found}


def api(path: str, body: dict[str, Any] | None = None) -> Any:
    """What Prefect's API answers from the machine's side of the port."""
    given = (FOLDER / "secrets" / "api-auth-string").read_text()
    client = api_client(f"http://127.0.0.1:{PORT}/api", given)
    response = client.request("GET" if body is None else "POST", f"/{path}", json=body)
    response.raise_for_status()
    return response.json()


# A run that asks the API, the blocks and the warehouse, and takes no longer than that.
SHORT = {"select": ["dim_airlines"], "skip": ["ingest", "docs"]}


def start_run(**parameters: Any) -> str:
    """Ask for a run of the deployment; its id."""
    deployment = api(f"deployments/name/{FLOW}")
    body = {"state": {"type": "SCHEDULED"}, "parameters": {"target": "dev", **parameters}}
    return str(api(f"deployments/{deployment['id']}/create_flow_run", body)["id"])


def logs_of(run: str) -> list[str]:
    """What a run has said so far."""
    lines: list[str] = []
    while True:
        body = {
            "logs": {"flow_run_id": {"any_": [run]}},
            "sort": "TIMESTAMP_ASC",
            "limit": 200,
            "offset": len(lines),
        }
        page = [entry["message"] for entry in api("logs/filter", body)]
        lines += page
        if len(page) < 200:
            return lines


def ended(run: str) -> dict[str, Any]:
    """The run when it has ended."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = api(f"flow_runs/{run}")
        if found["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
            return dict(found)
        time.sleep(1)
    pytest.fail("The run does not end:\n" + "\n".join(logs_of(run)[-30:]))


def completed(run: str) -> list[str]:
    """What a run said that has to complete."""
    found = ended(run)
    said = logs_of(run)
    assert found["state_type"] == "COMPLETED", "\n".join(said[-40:])
    return said


@pytest.fixture(scope="module", autouse=True)
def _taken_down() -> Iterator[None]:
    yield
    down = ["down", "--volumes", "--remove-orphans", "--timeout=20"]
    docker("compose", "--file=compose.staging.yaml", "--profile=*", *down, **STAGING)
    docker("compose", "--profile=*", *down)
    assert docker("ps", "--all", "--quiet") == ""
    assert docker("volume", "ls", "--quiet") == ""


@pytest.mark.parametrize(
    ("command", "prints"),
    [
        ("id -u", "10001"),
        ("touch /opt/millrace/x || echo refused", "refused"),
        ("touch /opt/venv/x || echo refused", "refused"),
        ("touch /var/lib/millrace/x /tmp/x && echo written", "written"),
        # dash looks for each; none may be found.
        ("command -v gcc cc make git uv; echo $?", "127"),
        ("python -c 'import pip' 2> /dev/null || echo none in the environment", "none in"),
        ("find ~/.cache /root/.cache /var/lib/apt/lists -type f 2> /dev/null | wc -l", "0"),
        ("grep CapEff /proc/self/status", "0000000000000000"),
        ("python -c 'from prefect_flows.pipeline import dbt_full_pipeline as f; print(f.name)'",
         "dbt-full-pipeline"),
        ("python -m infrastructure.platforms.docker.health", "other: healthy"),
        ("ls parsed", "dev prod staging"),
    ],
)  # fmt: skip
def test_the_image_non_root_and_read_only(command: str, prints: str) -> None:
    assert prints in " ".join(docker("run", "--rm", *HARDENED, IMAGE, "sh", "-c", command).split())


def test_the_image_says_what_it_is() -> None:
    (image,) = json.loads(docker("image", "inspect", IMAGE))
    labels = image["Config"]["Labels"]
    version = IMAGE.partition(":")[2]
    assert labels["org.opencontainers.image.version"] == version
    assert f"MILLRACE_VERSION={version}" in image["Config"]["Env"]
    assert labels["org.opencontainers.image.revision"].startswith(version.partition("-")[0])
    assert image["Config"]["User"] == "10001:10001"


@pytest.mark.example
def test_a_source_has_an_image_of_its_own_in_the_same_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infrastructure.cli", "image", "--source", "nyc__flights",
         "--tag", IMAGE, "--quiet"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    name, _, version = IMAGE.partition(":")
    own = done.stdout.split()[-1]
    assert own == f"{name}-nyc-flights:{version}"
    (image,) = json.loads(docker("image", "inspect", own))
    assert image["Config"]["User"] == "10001:10001"
    labels = image["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == version
    assert labels["org.opencontainers.image.base.name"] == IMAGE
    module = "prefect_flows.sources.nyc__flights.flow"
    said = docker("run", "--rm", *HARDENED, own, "python", "-m", module, "--help")
    assert "Load a year of flights out of New York City." in said


def test_a_secret_that_cannot_be_read_is_reported_and_not_run() -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", *HARDENED, "--env=PGPASSWORD_FILE=/nowhere", IMAGE, "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "PGPASSWORD_FILE: /nowhere cannot be read by user 10001." in done.stderr


def test_up_ends_with_all_healthy() -> None:
    docker("compose", "--profile=warehouse", "up", "--detach", "--wait")
    assert states() == dict.fromkeys(["database", "server", "warehouse", "worker"], "healthy")


def test_the_api_asks_who_is_there() -> None:
    url = f"http://127.0.0.1:{PORT}/api"
    refused = httpx.get(f"{url}/admin/version", timeout=PATIENCE)
    assert refused.status_code == 401
    # What a page could send for its reader without asking the server first
    forged = httpx.post(
        f"{url}/flows/filter",
        content="{}",
        headers={"Content-Type": "text/plain"},
        timeout=PATIENCE,
    )
    assert forged.status_code == 403
    assert api("flows/filter", {}) == []


def test_pages_of_other_origins_may_not_call_the_api() -> None:
    def allowed(origin: str) -> str | None:
        answer = httpx.get(
            f"http://127.0.0.1:{PORT}/api/health", headers={"Origin": origin}, timeout=PATIENCE
        )
        return answer.headers.get("Access-Control-Allow-Origin")

    assert allowed("https://evil.example") is None
    assert allowed(f"http://127.0.0.1:{PORT}") == f"http://127.0.0.1:{PORT}"


def test_setup_and_setup_again() -> None:
    docker("compose", "run", "--rm", "--no-TTY", "setup")
    again = docker("compose", "run", "--rm", "--no-TTY", "setup")
    assert "Blocks: 0 created, 0 updated" in again
    assert "Work pools and queues: 0 created, 0 updated" in again
    assert "Automations: 0 created, 0 updated" in again


def test_the_pipeline_by_the_process_worker() -> None:
    said = completed(start_run())
    assert "Copied the partial parse from the image." in said
    log = docker(
        "compose", "exec", "--no-TTY", "worker", "sh", "-c",
        "cat /var/lib/millrace/state/runs/dev/*/dbt.log",
    )  # fmt: skip
    assert "Registered adapter" in log
    assert "Unable to do partial parsing" not in log


def test_the_health_check_finds_nothing_wrong() -> None:
    said = in_setup("python", "-m", "infrastructure.cli", "health", "dev", "--json")
    checks = json.loads(said[said.index("{") :])["checks"]
    assert [check for check in checks if check["status"] == "failed"] == []
    sound = {check["name"] for check in checks if check["status"] == "ok"}
    assert {"api", "database", "pool", "worker", "last run", "warehouse"} <= sound


def test_a_killed_container_and_the_run_that_goes_on() -> None:
    compose("up", "--detach", "--wait")
    in_setup(
        "python",
        "-m",
        "infrastructure.cli",
        "deploy",
        "dev",
        "--pool",
        "docker-pool",
    )
    # Without reuse, since nothing changed after the first run.
    killed = start_run(verbose=True, reuse=False)
    deadline = time.monotonic() + PATIENCE
    # In the tests: every model is there, and there is something left to do.
    while not any(line.startswith("20 of ") and " test " in line for line in logs_of(killed)):
        assert time.monotonic() < deadline, "\n".join(logs_of(killed)[-20:])
        time.sleep(0.5)
    (container,) = docker(
        "ps", "--quiet", "--filter=label=io.millrace.pool=docker-pool"
    ).split()  # fmt: skip
    docker("kill", container)
    assert ended(killed)["state_type"] == "CRASHED"
    said = completed(start_run(verbose=True, reuse=False))
    (resumed,) = (line for line in said if line.startswith("Resuming run"))
    assert killed in resumed
    # No model is built again.
    assert not any(" of " in line and " model " in line for line in said)
    assert any(line.startswith("Resuming with ") for line in said)


def test_prefects_database_is_backed_up_and_restored() -> None:
    """With the lines of documentation/containers.md."""
    runs = len(api("flow_runs/filter", {}))
    assert runs >= 3
    backup = FOLDER / "prefect.dump"
    database = ["docker", "compose", "exec", "-T", "database"]
    with backup.open("wb") as file:
        dump = [*database, "pg_dump", "--username=prefect", "--format=custom", "prefect"]
        subprocess.run(dump, cwd=REPOSITORY, stdout=file, check=True)
    completed(start_run(**SHORT))
    assert len(api("flow_runs/filter", {})) > runs

    compose("stop", "server", "worker", "docker-worker")
    docker(
        "compose", "exec", "-T", "database", "dropdb", "--username=prefect", "--force", "prefect"
    )
    docker("compose", "exec", "-T", "database", "createdb", "--username=prefect", "prefect")
    with backup.open("rb") as file:
        restore = [*database, "pg_restore", "--username=prefect", "--exit-on-error",
                   "--dbname=prefect"]  # fmt: skip
        subprocess.run(restore, cwd=REPOSITORY, stdin=file, check=True)
    compose("up", "--detach", "--wait")

    assert len(api("flow_runs/filter", {})) == runs
    # The blocks open: setup reads their secrets, and a worker resolves them for the next run.
    again = docker("compose", "run", "--rm", "--no-TTY", "setup")
    assert "Blocks: 0 created, 0 updated" in again
    completed(start_run(**SHORT))


def test_staging_beside_it() -> None:
    staging = "--file=compose.staging.yaml"
    docker("compose", staging, "up", "--detach", "--wait", **STAGING)
    assert set(states(staging, **STAGING).values()) == {"healthy"}
    assert set(states().values()) == {"healthy"}
    port = STAGING["SERVER_PORT"]
    assert httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=PATIENCE).json() is True
    # Its own secrets: the password of one does not open the other.
    user, _, password = (FOLDER / "secrets" / "api-auth-string").read_text().partition(":")
    url = f"http://127.0.0.1:{port}/api/admin/version"
    assert httpx.get(url, auth=(user, password), timeout=PATIENCE).status_code == 401


def test_no_secret_is_in_what_the_engine_tells() -> None:
    values = [
        (FOLDER / folder / name).read_text().rpartition(":")[2]
        for folder in ("secrets", "secrets-staging")
        for name in ("database-password", "api-auth-string", "warehouse-password")
    ]
    containers = docker("ps", "--all", "--quiet").split()
    told = {
        "docker inspect": docker("inspect", *containers),
        "docker history": docker("history", "--no-trunc", IMAGE),
        "docker image inspect": docker("image", "inspect", IMAGE),
        "docker top": "".join(docker("top", name, "-eo", "pid,args") for name in containers),
        "docker logs": "".join(_logs(name) for name in containers),
    }
    for where, text in told.items():
        assert len(text) > 100, where
        assert not [value for value in values if value in text], where


def _logs(container: str) -> str:
    done = subprocess.run(
        ["docker", "logs", container], capture_output=True, text=True, check=True
    )  # fmt: skip
    return done.stdout + done.stderr
