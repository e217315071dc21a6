"""The ground that all contestants share: one Postgres, one Prefect server, a project a size.

Everything lies in one folder and has servers of its own, so that nothing of this clone is touched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import generated_project
import psycopg2
from generated_project import SCHEMA, Model

REPOSITORY = Path(__file__).resolve().parents[1]
THREADS = 4
TARGET = "bench"
# For runs that leave out what has not changed: a database that stays as it is between rounds.
KEPT_TARGET = "bench-kept"
PACKAGES = ("prefect_flows", "infrastructure")
# What a server has counted is written when a connection ends, which is a moment after the client.
STATISTICS_SECONDS = 10


class BenchmarkError(Exception):
    """The benchmark cannot go on, or a contestant has not done what its time would stand for."""


@dataclass(frozen=True)
class Place:
    """A generated project on the shared servers.

    Attributes:
        folder: the project's folder, with the packages, the blocks' API and `dbt/` in it.
        nodes: the number of tables and tests.
        models: the tables.
    """

    ground: Ground
    folder: Path
    nodes: int
    models: list[Model]

    @property
    def dbt_dir(self) -> Path:
        """The dbt project."""
        return self.folder / "dbt"

    def database(self, target: str = TARGET) -> str:
        """The database of a target."""
        return f"{target}_{self.nodes}".replace("-", "_")

    def empty(self, target: str = TARGET) -> None:
        """Make the target's database anew, with nothing in it."""
        name = self.database(target)
        self.ground.query(f"drop database if exists {name} with (force)")
        self.ground.query(f"create database {name}")
        self.ground.query(generated_project.MAKE_STARTED, name)

    def forget_reads(self, target: str = TARGET) -> None:
        """Set the server's counts of reads to zero, so that `prove` sees only what comes after."""
        self.ground.query("select pg_stat_reset()", self.database(target))

    def first_model_at(self, target: str = TARGET) -> float | None:
        """When the first model of the last run started, seconds since 1970; none if none did."""
        sql = f"select extract(epoch from min(at))::float8 from {generated_project.STARTED}"  # noqa: S608
        ((at,),) = self.ground.query(sql, self.database(target))
        return None if at is None else float(at)

    def prove(self, target: str = TARGET) -> None:
        """See that every table was built, and read as often as its children and tests read it.

        The counts are the server's own, since the database was made or `forget_reads`.

        Raises:
            BenchmarkError: a table is missing, or a test on it was not run.
        """
        expected = generated_project.scans(self.models)
        # SQLMesh keeps a table in a schema beside it, as built__table_0001__ and a number.
        sql = (
            "select substring(relname from 'table_[0-9]+') as name, sum(seq_scan)::int "  # noqa: S608
            "from pg_stat_user_tables "
            f"where schemaname in ('{SCHEMA}', 'sqlmesh__{SCHEMA}') group by name"
        )
        deadline = time.monotonic() + STATISTICS_SECONDS
        while True:
            found = dict(self.ground.query(sql, self.database(target)))
            missing = sorted(set(expected) - set(found))
            unread = sorted(name for name, n in found.items() if n < expected.get(name, 0))
            if not missing and not unread:
                return
            if time.monotonic() > deadline:
                raise BenchmarkError(
                    f"{len(missing)} of {len(expected)} tables were not built {missing[:3]}, "
                    f"{len(unread)} not tested or not read {unread[:3]}"
                )
            time.sleep(0.1)


class Ground:
    """The servers, started when the context begins and stopped when it ends."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.folder = work / "ground"

    def __enter__(self) -> Self:
        self.folder.mkdir()
        for package in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__", "terraform")
            shutil.copytree(REPOSITORY / package, self.folder / package, ignore=ignored)
        try:
            self.run(self.folder, "-m", "infrastructure.cli", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.folder, "-m", "infrastructure.cli", "down")

    @property
    def server(self) -> dict[str, Any]:
        """The Postgres server, as `infrastructure.local` says it in a target."""
        outputs = json.loads((self.folder / ".local" / "terraform-outputs.json").read_text())
        return dict(outputs["dbt_targets"]["value"]["dev"])

    @property
    def prefect_port(self) -> int:
        """The port of the Prefect server."""
        state = self.folder / ".local" / "prefect" / "millrace-server.json"
        return int(json.loads(state.read_text())["port"])

    @property
    def auth_string(self) -> str:
        """The user and the password of the Prefect server."""
        return (self.folder / ".local" / "prefect" / "auth-string").read_text().strip()

    def query(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Rows of a statement, each in a transaction of its own."""
        server = self.server
        connection = psycopg2.connect(
            host=server["host"], port=server["port"], user=server["user"], dbname=database
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def place(self, nodes: int) -> Place:
        """Make a project of so many nodes, its databases, its blocks and its `profiles.yml`."""
        folder = self.work / f"nodes-{nodes}"
        models = generated_project.models(nodes)
        generated_project.write(folder / "dbt", models)
        for package in PACKAGES:
            (folder / package).symlink_to(self.folder / package)
        (folder / "prefect.toml").symlink_to(self.folder / "prefect.toml")
        place = Place(self, folder, nodes, models)
        targets = {
            target: self.server
            | {"database": place.database(target), "schema": SCHEMA, "threads": THREADS}
            for target in (TARGET, KEPT_TARGET)
        }
        outputs = folder / "outputs.json"
        outputs.write_text(json.dumps({"dbt_targets": {"value": targets}}))
        for target in targets:
            place.empty(target)
        # The project of another size made the same targets; they belong to the one that runs now.
        taken = [option for target in targets for option in ("--target", target)]
        setup = ("setup", "--outputs", str(outputs), "--take-over", *taken)
        self.run(folder, "-m", "infrastructure.cli", *setup)
        return place

    def run(self, folder: Path, *arguments: str) -> str:
        """What `python ARGUMENTS` prints, run in a folder of the project's shape."""
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=self.environment(folder),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise BenchmarkError(f"python {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def environment(self, folder: Path) -> dict[str, str]:
        """None of this shell's settings, an empty home, and nobody waits for telemetry."""
        home = self.work / "home"
        home.mkdir(exist_ok=True)
        refused = (
            "PREFECT_", "DBT_", "MILLRACE_", "PG", "PYTHON", "DAGSTER_", "AIRFLOW_", "SQLMESH_",
        )  # fmt: skip
        return {k: v for k, v in os.environ.items() if not k.startswith(refused)} | {
            "HOME": str(home),
            "PYTHONPATH": str(folder),
            "MILLRACE_PROJECT_DIR": str(folder),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "200",
            "DO_NOT_TRACK": "1",
        }
