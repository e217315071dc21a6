"""A copy of the project, the commands that people run in it, and what its servers answer."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import httpx
import psycopg2
import pytest
import yaml

from tests.support import fork_server

if TYPE_CHECKING:
    from prefect.client.base import PrefectHttpxSyncClient

REPOSITORY = Path(__file__).resolve().parents[2]
SCRATCH_DBT = REPOSITORY / "tests" / "support" / "dbt_projects" / "scratch"
# The list of the shipped example, which `millrace adopt` removes with all that is in it.
EXAMPLE = REPOSITORY / "infrastructure" / "config" / "example.yaml"
CONFORMANCE_DBT = REPOSITORY / "tests" / "support" / "dbt_projects" / "conformance"
# Seconds after which a wait has failed: enough for a slow machine that does other work too.
PATIENCE = 600
# What a clone has, and no more: nothing of a run that somebody made by hand.
NOT_IN_A_CLONE = shutil.ignore_patterns(
    ".git", ".venv", ".local", "target", "logs", "profiles.yml", "prefect.toml", "uv.lock", ".env",
    ".terraform", "*.tfstate*", "__pycache__", ".*_cache", "terraform-outputs.json",
)  # fmt: skip


@dataclass
class Project:
    """A copy of the project, and commands run in it as a person runs them."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    # Seconds that a command may take.
    patience: int = PATIENCE

    @property
    def local(self) -> Path:
        return self.folder / ".local"

    def run(
        self, *arguments: str, cwd: Path | None = None, text: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """`uv run python ARGUMENTS` in the project's folder."""
        return fork_server.run(
            arguments,
            cwd=cwd or self.folder,
            env=self.variables(**environment),
            input=text,
            timeout=self.patience,
        )

    def variables(self, **environment: str) -> dict[str, str]:
        """A clean environment: an empty home, nothing of this shell's Prefect, dbt or dlt."""
        home = self.folder.parent / "home"
        home.mkdir(exist_ok=True)
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "DBT_", "MILLRACE_", "PG", "RUNTIME__", "FORK_"))
        }
        return inherited | {
            "HOME": str(home),
            "PYTHONPATH": str(self.folder),
            "MILLRACE_PROJECT_DIR": str(self.folder),
            "COLUMNS": "200",
            # All copies of the project are clones of one project; what they make is each other's.
            "MILLRACE_PROJECT": "tests",
            # Tests start a run to see it build; those of reuse switch it on.
            "MILLRACE_REUSE": "false",
            **self.environment,
            **environment,
        }

    def pipeline(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("prefect_flows/pipeline.py", *arguments, **environment)

    def setup(self, *arguments: str, **environment: Any) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "infrastructure.cli", "setup", *arguments, **environment)

    def dbt(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`cd dbt && uv run dbt ARGUMENTS`."""
        return self.run("-m", "dbt.cli.main", *arguments, cwd=self.folder / "dbt", **environment)

    @property
    def dev(self) -> dict[str, Any]:
        """The embedded target, as the embedded default's outputs give it."""
        outputs = json.loads((self.local / "terraform-outputs.json").read_text())
        return outputs["dbt_targets"]["value"]["dev"]

    @property
    def server(self) -> dict[str, Any]:
        """The Prefect server that `millrace up` started: process and port."""
        return json.loads((self.local / "prefect" / "millrace-server.json").read_text())

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.server['port']}/api"

    @property
    def auth_string(self) -> str:
        """The user and the password of the Prefect server that `millrace up` started."""
        return (self.local / "prefect" / "auth-string").read_text().strip()

    @property
    def http(self) -> PrefectHttpxSyncClient:
        """A client of the Prefect API; it calls again while the server's SQLite is locked."""
        return api_client(self.api_url, self.auth_string)

    def asked(self, path: str, **body: Any) -> Any:
        """What the Prefect API answers to a filter."""
        return self.http.post(f"/{path}/filter", json=body).json()

    def prefect_settings(self) -> list[Any]:
        """Blocks with their secrets, variables and concurrency limits, as they are stored."""
        limits = self.asked("v2/concurrency_limits")
        return [
            self.asked("block_documents", include_secrets=True),
            self.asked("variables"),
            [(each["name"], each["limit"], each["active"]) for each in limits],
        ]

    def delete(self, path: str) -> None:
        """Delete an object of the Prefect API; one that is gone with another is no fault."""
        answer = self.http.delete(f"/{path}")
        assert answer.is_success or answer.status_code == httpx.codes.NOT_FOUND, answer.text

    def last_run(self, target: str) -> dict[str, Any]:
        """The flow run of a target that started last."""
        return self.runs(target)[0]

    def runs(self, target: str) -> list[dict[str, Any]]:
        """The flow runs of a target, the last one first; their names begin with it."""
        begin = f"{target} · "
        named = {"name": {"like_": begin}}
        found = self.asked("flow_runs", flow_runs=named, sort="START_TIME_DESC")
        return [run for run in found if run["name"].startswith(begin)]

    def set_state(self, run: dict[str, Any], state: str) -> None:
        """Set the state of a flow run, as the UI does when a person cancels it."""
        body = {"state": {"type": state, "name": state.capitalize()}, "force": True}
        self.http.post(f"/flow_runs/{run['id']}/set_state", json=body).raise_for_status()

    def task_runs(self, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The tasks of a flow run, by name."""
        found = self.asked("task_runs", flow_runs={"id": {"any_": [run["id"]]}})
        return {task["name"]: task for task in found}

    def artifacts(self, run: dict[str, Any]) -> dict[str, str]:
        """The text of a flow run's artifacts, by key."""
        found = self.asked("artifacts", artifacts={"flow_run_id": {"any_": [run["id"]]}})
        return {artifact["key"]: artifact["data"] for artifact in found}

    def connect(self, database: str = "millrace") -> Any:
        dev = self.dev
        connection = psycopg2.connect(
            host=dev["host"], port=dev["port"], user=dev["user"], dbname=database
        )
        connection.autocommit = True
        return connection

    def query(self, sql: str, database: str = "millrace") -> list[tuple[Any, ...]]:
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


@cache
def api_client(api_url: str, auth_string: str) -> PrefectHttpxSyncClient:
    """Prefect's own HTTP client, which does what CSRF protection asks for; it raises no status."""
    from prefect.client.base import PrefectHttpxSyncClient

    return PrefectHttpxSyncClient(
        base_url=api_url,
        auth=tuple(auth_string.split(":", 1)),
        timeout=60,
        trust_env=False,
        enable_csrf_support=True,
        raise_on_all_errors=False,
    )


def copy_of_the_project(folder: Path, prefect_database: Path | None = None) -> Project:
    """A clone; with a migrated database, its Prefect server starts in half the time."""
    shutil.copytree(REPOSITORY, folder, ignore=NOT_IN_A_CLONE)
    if not EXAMPLE.exists():
        # An adopted project and its settings say nothing of the engine.
        shutil.rmtree(folder / "dbt")
        shutil.copytree(SCRATCH_DBT, folder / "dbt", ignore=NOT_IN_A_CLONE)
        (folder / "millrace.toml").unlink()
    project = Project(folder)
    if prefect_database is not None:
        (project.local / "prefect").mkdir(parents=True)
        shutil.copy(prefect_database, project.local / "prefect")
    return project


def neighbour(project: Project, folder: Path, models: Path) -> Project:
    """A folder of its own with the code and the servers of a project, and other models."""
    shutil.copytree(models, folder / "dbt", ignore=NOT_IN_A_CLONE)
    for package in ("prefect_flows", "infrastructure"):
        (folder / package).symlink_to(project.folder / package)
    # The API is found as a person's client finds it: through the file that `millrace up` wrote.
    (folder / "prefect.toml").symlink_to(project.folder / "prefect.toml")
    return Project(folder)


def stop_servers(project: Project) -> None:
    done = project.run("-m", "infrastructure.cli", "down")
    assert done.returncode == 0, done.stderr


@dataclass
class Quickstart:
    """The project after `uv run quickstart`, and what that printed."""

    project: Project
    done: subprocess.CompletedProcess[str]


def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder that the workers of a test run have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


@dataclass
class Scratch(Project):
    """A small dbt project with a database and a target of its own, on the quickstart's servers."""

    target: str = ""
    database: str = ""

    def model(self, name: str, sql: str) -> None:
        (self.folder / "dbt" / "models" / f"{name}.sql").write_text(sql)

    def properties(self, **document: Any) -> None:
        file = self.folder / "dbt" / "models" / "properties.yml"
        file.write_text(yaml.safe_dump(document, sort_keys=False))

    def run_pipeline(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.pipeline("--target", self.target, "--skip", "ingest", *arguments, **environment)

    def start_pipeline(
        self,
        *arguments: str,
        folder: Path | None = None,
        output: int | IO[str] = subprocess.PIPE,
        **environment: str,
    ) -> subprocess.Popen[str]:
        """The pipeline in the background, in this folder or another one of the same shape."""
        command = [sys.executable, "prefect_flows/pipeline.py", "--target", self.target]
        return subprocess.Popen(
            [*command, "--skip", "ingest", *arguments],
            cwd=folder or self.folder,
            env=self.variables(**environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            # A shell's background job is started with Ctrl-C ignored, and so are its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )

    def relations(self) -> set[str]:
        return {
            name
            for (name,) in self.query(
                "select table_name from information_schema.tables where table_schema = 'scratch'",
                self.database,
            )
        }


def until(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What it is, as soon as it is something."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)
    return found


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """A real HTTP server on loopback, quiet; its address."""
    quiet = type(handler.__name__, (handler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
