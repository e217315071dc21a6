"""The rehearsal's forge and host, as `.ci/rehearsal` made them, and what is asked of both."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.project import PATIENCE, api_client

ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
PSQL = [
    "psql", "--tuples-only", "--no-align", "--username=millrace", "--dbname=warehouse", "--command",
]  # fmt: skip
SOMEBODY = "from pg_stat_activity where application_name = 'somebody'"
LABELS = "label=com.docker.compose.service="


def docker(*arguments: str) -> str:
    """Output of a docker command of the forge's side, which has to pass."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Pushed:
    """How a push ended: the delivery's exit code, and all that was said."""

    code: str
    said: str
    version: str
    image: str


@dataclass
class Forge:
    """A clone whose pushes are delivered."""

    folder: Path

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=Rehearsal", "-c", "user.email=rehearsal@example.com"]
        done = subprocess.run(
            ["git", "-C", str(self.folder / "work"), *identity, *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def push(self, message: str, file: str = "", old: str = "", new: str = "") -> Pushed:
        """Commit a change of one file, and push it to main."""
        if file:
            path = self.folder / "work" / file
            text = path.read_text()
            assert old in text, file
            path.write_text(text.replace(old, new, 1))
        self.git("commit", "--all", "--allow-empty", "--message", message)
        said = self.git("push", "--force", "origin", "HEAD:main")
        said = "\n".join(line.removeprefix("remote: ").rstrip() for line in said.splitlines())
        print(f"\n{said}")  # noqa: T201 # what a person would see
        commit = self.git("rev-parse", "HEAD").strip()
        image = (self.folder / "image").read_text().strip()
        return Pushed((self.folder / "result").read_text().strip(), said, commit[:12], image)

    def deliver(
        self, command: str, *options: str, checkout: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """`millrace deliver`, as somebody calls it by hand."""
        done = subprocess.run(
            self.command(command, *options), cwd=checkout or self.folder / "work",
            env=self.environment(checkout) | environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        print(f"\n{done.stdout}{done.stderr}")  # noqa: T201 # what a person would see
        return done

    def command(self, command: str, *options: str) -> list[str]:
        given = dict(zip(options[::2], options[1::2], strict=True))
        usual = {
            "--target": "dev", "--host": f"{os.environ['REHEARSAL_USER']}@127.0.0.1",
            "--port": os.environ["SSH_PORT"], "--identity": str(self.folder / "identity"),
            "--known-hosts": str(self.folder / "known_hosts"), "--health-timeout": "240",
        }  # fmt: skip
        line = [part for pair in (usual | given).items() for part in pair]
        return [os.environ["PYTHON"], "-m", "infrastructure.cli", "deliver", command, *line]

    def environment(self, checkout: Path | None = None) -> dict[str, str]:
        folder = str(checkout or self.folder / "work")
        return os.environ | {"PYTHONPATH": folder, "MILLRACE_PROJECT_DIR": folder}


@dataclass
class Host:
    """The host, seen over the SSH of its user, and through its Prefect's API."""

    ground: Path
    folder: Path

    def sh(self, script: str) -> str:
        """Output of a script that the user runs there, which has to pass."""
        done = subprocess.run(
            ["ssh", "-F", "none", "-p", os.environ["SSH_PORT"], "-i", str(self.ground / "identity"),
             "-o", f"UserKnownHostsFile={self.ground}/known_hosts", "-o", "BatchMode=yes",
             f"{os.environ['REHEARSAL_USER']}@127.0.0.1", script],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def api(self, path: str, body: dict[str, Any] | None = None) -> Any:
        given = (self.folder / ".local/secrets/api-auth-string").read_text()
        client = api_client(f"http://127.0.0.1:{os.environ['SERVER_PORT']}/api", given)
        response = client.request("GET" if body is None else "POST", f"/{path}", json=body)
        response.raise_for_status()
        return response.json()

    def records(self) -> list[dict[str, Any]]:
        """Of all deliveries, the latest last."""
        return [
            json.loads(file.read_text())
            for file in sorted(self.folder.glob("deliveries/*/record.json"))
        ]

    def images(self) -> dict[str, set[str]]:
        """Service → images of its containers that run and are not draining."""
        draining = self.folder / "draining.json"
        gone = json.loads(draining.read_text()) if draining.exists() else []
        found: dict[str, set[str]] = {}
        for service in ("server", "worker"):
            names = docker(
                "ps", "--quiet", "--no-trunc", f"--filter={LABELS}{service}",
                "--filter=label=com.docker.compose.oneoff=False",
            ).split()  # fmt: skip
            found[service] = {
                docker("inspect", "--format", "{{.Config.Image}}", name).strip()
                for name in names
                if name not in gone
            }
        return found

    def deployments(self) -> dict[str, dict[str, Any]]:
        """What Prefect holds of deployments, but for when it was written."""
        kept = ("version", "work_pool_name", "entrypoint", "parameters", "job_variables", "tags",
                "paused", "concurrency_limit", "work_queue_name")  # fmt: skip
        found = self.api("deployments/filter", {})
        return {each["name"]: {key: each[key] for key in kept} for each in found}

    def start_run(self) -> str:
        deployment = self.api("deployments/name/dbt-full-pipeline/dbt-dev")
        # Without reuse, a run takes long enough to meet a delivery in its middle.
        parameters = {"target": "dev", "skip": ["docs"], "reuse": False}
        body = {"state": {"type": "SCHEDULED"}, "parameters": parameters}
        return str(self.api(f"deployments/{deployment['id']}/create_flow_run", body)["id"])

    def running(self, run: str) -> None:
        """Wait until a run is in the middle of its work."""
        deadline = time.monotonic() + PATIENCE
        while not any(" rows" in line or line.startswith("dbt-") for line in self.said(run)):
            assert time.monotonic() < deadline, "\n".join(self.said(run))
            time.sleep(0.5)

    def said(self, run: str) -> list[str]:
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        return [entry["message"] for entry in self.api("logs/filter", body)]

    def ended(self, run: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = self.api(f"flow_runs/{run}")
            if found["state_type"] in ENDED:
                return dict(found)
            time.sleep(1)
        raise AssertionError("The run does not end:\n" + "\n".join(self.said(run)[-30:]))

    def rows(self) -> dict[str, int]:
        """Rows of each table that the pipeline builds, in compose's warehouse."""
        query = (
            "select string_agg(format('select %L, count(*) from %I.%I', schemaname || '.' || "
            "tablename, schemaname, tablename), ' union all ') from pg_tables "
            "where schemaname like 'dbt%'"
        )
        pairs = (line.split("|") for line in self.sql(self.sql(query).strip()).split())
        return {name: int(count) for name, count in pairs}

    def sql(self, query: str) -> str:
        """What the warehouse answers."""
        return docker("exec", self._container("warehouse"), *PSQL, query)

    @contextmanager
    def held(self, table: str) -> Iterator[None]:
        """Somebody has a table of the warehouse, so that a run waits in the middle of its work."""
        lock = f"begin; lock table {table} in access exclusive mode; select pg_sleep(3000)"
        line = ["docker", "exec", "--env=PGAPPNAME=somebody", self._container("warehouse")]
        with subprocess.Popen(
            [*line, *PSQL, lock], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as holding:
            try:
                yield
            finally:
                self.sql(f"select pg_terminate_backend(pid) {SOMEBODY}")
                holding.wait(PATIENCE)

    def until_a_run_waits(self) -> None:
        """Wait until a statement of a run waits for the table that somebody has."""
        deadline = time.monotonic() + PATIENCE
        query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        while self.sql(query).strip() == "0":
            assert time.monotonic() < deadline, "no run came to the table"
            time.sleep(0.5)

    def _container(self, service: str) -> str:
        return docker("ps", "--quiet", f"--filter={LABELS}{service}").split()[0]


@dataclass
class Receiver:
    """Whoever is told: an HTTP server, to which a webhook of Prefect's posts."""

    notices: list[str] = field(default_factory=list)
    url: str = ""

    def serve(self, address: str) -> http.server.ThreadingHTTPServer:
        notices = self.notices

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                notices.append(json.loads(body)["text"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer((address, 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://{address}:{server.server_port}/"
        return server
