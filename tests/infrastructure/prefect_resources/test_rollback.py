"""Back to the version before: with a real worker, a run in progress, and the real health check."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.deploying import (
    FIRST,
    SECOND,
    deploy,
    deployments,
    of_target,
    prepared_for_deployments,
)
from tests.support.project import PATIENCE, Project, until

pytestmark = pytest.mark.delivery

# What a supervisor does: end the worker that is there, start one in the version it is told.
RESTART = """\
import os, subprocess, sys
from pathlib import Path
import psutil
folder = Path(__file__).parent
pid = folder / "pid"
if pid.exists():
    old = psutil.Process(int(pid.read_text()))
    old.terminate()
    old.wait(600)
with (folder / "worker.log").open("ab") as log:
    worker = subprocess.Popen(
        [sys.executable, "-m", "infrastructure.cli", "worker", "--pool", "default-pool"],
        stdout=log, stderr=log, start_new_session=True,
    )
pid.write_text(str(worker.pid))
(folder / "version").write_text(os.environ["MILLRACE_VERSION"] + " " + os.environ["MILLRACE_IMAGE"])
"""


class Worker:
    """A real worker of the process pool, and the command that replaces it."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project, self.folder = project, folder
        (folder / "restart.py").write_text(RESTART)

    @property
    def command(self) -> str:
        return f"{sys.executable} {self.folder / 'restart.py'}"

    @property
    def version(self) -> str:
        return (self.folder / "version").read_text()

    def start(self) -> None:
        done = self.project.run(str(self.folder / "restart.py"), **SECOND)
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        file = self.folder / "pid"
        if file.exists():
            worker = psutil.Process(int(file.read_text()))
            worker.terminate()
            worker.wait(PATIENCE)
            file.unlink()


@pytest.fixture(scope="module")
def prepared(other_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with prepared_for_deployments(other_project, tmp_path_factory.mktemp("outputs")) as prepared:
        yield prepared


@pytest.fixture
def two_releases(prepared: Project) -> Project:
    """The second of two releases; what an earlier test left of them is taken up."""
    found = deployments(prepared).get("dbt-dev", {"version": None})["version"]
    missing = {
        None: (FIRST, SECOND),
        FIRST["MILLRACE_VERSION"]: (SECOND,),
        SECOND["MILLRACE_VERSION"]: (),
    }
    for version in missing[found]:
        done = deploy(prepared, "dev", **version)
        assert done.returncode == 0, done.stdout
    return prepared


@pytest.fixture
def worker(two_releases: Project, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(two_releases, tmp_path)
    try:
        worker.start()
        yield worker
    finally:
        worker.stop()


def rollback(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return project.run("-m", "infrastructure.cli", "rollback", *arguments)


def pool(project: Project) -> dict[str, Any]:
    return project.http.get("/work_pools/default-pool").json()


@pytest.mark.example
@pytest.mark.nightly
def test_a_run_in_progress_ends_well_and_the_version_before_is_back(worker: Worker) -> None:
    # GIVEN a run of the newer version that waits for a transaction which makes the same schema
    project = worker.project
    dev = deployments(project)["dbt-dev"]["id"]

    def run() -> dict[str, Any]:
        found = project.asked(
            "flow_runs", deployments={"id": {"any_": [dev]}}, sort="START_TIME_DESC", limit=1
        )
        return found[0]

    with closing(project.connect()) as connection, ThreadPoolExecutor() as threads:
        connection.autocommit = False
        connection.cursor().execute(f"create schema {project.dev['schema']}_seeds")
        done = project.run(
            "-m", "prefect", "deployment", "run", "dbt-full-pipeline/dbt-dev",
            "-p", 'skip=["ingest", "test", "docs"]', "-p", 'select=["weather_bands"]',
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        until(lambda: run()["state"]["type"] == "RUNNING")

        # WHEN the target is taken back, and the run goes on while it is waited for
        command = threads.submit(rollback, project, "dev", "--restart", worker.command)
        until(lambda: pool(project)["is_paused"] or command.done())
        connection.rollback()
        done = command.result()

    # THEN it was waited for, it is whole, and all is at the version before
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bbbbbbbbbbbb → aaaaaaaaaaaa" in done.stdout
    assert "Waiting for 1 run(s): dev (" in done.stdout
    assert "dev is at aaaaaaaaaaaa, and the health check passes." in done.stdout
    assert run()["state"]["type"] == "COMPLETED", run()["state"]["message"]
    assert worker.version == f"{FIRST['MILLRACE_VERSION']} {FIRST['MILLRACE_IMAGE']}"
    versions = {
        name: each["version"] for name, each in deployments(project).items() if "dev" in name
    }
    assert versions == dict.fromkeys(of_target("dev"), "aaaaaaaaaaaa")
    assert not pool(project)["is_paused"]
    (newest, *_) = project.asked(
        "artifacts", artifacts={"key": {"any_": ["releases-dev"]}}, sort="CREATED_DESC"
    )
    assert newest["description"] == "aaaaaaaaaaaa: rolled back from bbbbbbbbbbbb"

    # AND there is nothing before that, forward is only gone to by name
    done = rollback(project, "dev", "--restart", worker.command)
    assert done.returncode == 2
    assert "to go back to; it is at aaaaaaaaaaaa, recorded are bbbbbbbbbbbb, aaaaaaaaaaaa." in (
        done.stderr
    )
    done = rollback(project, "dev", "--to", "bbbbbbbbbbbb", "--restart", worker.command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert deployments(project)["dbt-dev"]["version"] == "bbbbbbbbbbbb"


@pytest.mark.nightly
def test_runs_that_do_not_end_in_time_are_left_alone(worker: Worker) -> None:
    project = worker.project
    dev = deployments(project)["dbt-dev"]["id"]
    made = project.http.post(f"/deployments/{dev}/create_flow_run", json={}).json()
    url = f"{project.api_url}/flow_runs/{made['id']}/set_state"
    state = {"state": {"type": "RUNNING", "name": "Running"}, "force": True}
    project.http.post(url, json=state).raise_for_status()
    try:
        done = rollback(project, "dev", "--restart", worker.command, "--drain-timeout", "1")
    finally:
        state["state"] = {"type": "CANCELLED"}
        project.http.post(url, json=state).raise_for_status()
    assert done.returncode == 2
    assert "TargetBusy: Runs are still in progress after 1 s:" in done.stderr
    assert "it takes new runs again, nothing was changed" in done.stderr
    assert deployments(project)["dbt-dev"]["version"] == "bbbbbbbbbbbb"
    assert worker.version.startswith("bbbb")
    assert not pool(project)["is_paused"]


def test_a_worker_that_does_not_come_back_is_reported(two_releases: Project) -> None:
    done = rollback(two_releases, "dev", "--restart", "true", "--verify-timeout", "1")
    assert done.returncode == 1
    assert "The deployments are back, and the health check fails:" in done.stdout
    assert "worker default-pool: none has reported since the restart" in done.stdout
    assert not pool(two_releases)["is_paused"]


def test_a_restart_that_fails(two_releases: Project) -> None:
    done = rollback(two_releases, "dev", "--restart", "false")
    assert done.returncode == 1
    assert "ServerError: The worker was not restarted: it exits with 1." in done.stderr
    assert "run the command with MILLRACE_VERSION=aaaaaaaaaaaa" in done.stderr
    assert not pool(two_releases)["is_paused"]


def test_what_is_refused_before_anything_is_changed(two_releases: Project) -> None:
    without = rollback(two_releases, "dev")
    assert without.returncode == 2
    assert "Its runs are processes of a worker and use the worker's code" in without.stderr
    assert "--restart" in without.stderr
    unknown = rollback(two_releases, "dev", "--to", "cccccccccccc")
    assert unknown.returncode == 2
    assert "There is no release of the target 'dev' to go back to in version cc" in unknown.stderr
    assert "it is at bbbbbbbbbbbb, recorded are bbbbbbbbbbbb, aaaaaaaaaaaa." in unknown.stderr
    nowhere = rollback(two_releases, "nowhere")
    assert nowhere.returncode == 2
    assert "No release of the target 'nowhere' is recorded." in nowhere.stderr
    assert deployments(two_releases)["dbt-dev"]["version"] == "bbbbbbbbbbbb"


def test_runs_in_containers_need_no_restart_and_get_their_image_back(prepared: Project) -> None:
    for version in (FIRST, SECOND):
        assert deploy(prepared, "prod", **version).returncode == 0
    planned = rollback(prepared, "prod", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "job_variables.image: registry.example.com/m:bbbb → registry.example.com/m:aaaa" in (
        planned.stdout
    )
    assert deployments(prepared)["dbt-prod"]["version"] == "bbbbbbbbbbbb"

    done = rollback(prepared, "prod", "--verify-timeout", "1")
    # No Docker worker is here, and the target's warehouse is a made-up one.
    assert done.returncode == 1
    prod = deployments(prepared)["dbt-prod"]
    assert prod["version"] == "aaaaaaaaaaaa"
    assert prod["job_variables"]["image"] == FIRST["MILLRACE_IMAGE"]
    assert "password" not in json.dumps(prod["job_variables"])
