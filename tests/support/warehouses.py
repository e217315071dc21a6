"""A warehouse of each kind, empty of a source: what the tests of sources load into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psycopg2
import yaml

from infrastructure.local.postgres import Postgres
from prefect_flows.core.profiles import Profile
from tests.support import fork_server
from tests.support.project import REPOSITORY

if TYPE_CHECKING:
    from tests.support.bigquery.emulator import BigQuery

NAME = "warehouse"


class Query(Protocol):
    """Asks the warehouse itself."""

    def __call__(self, sql: str) -> list[tuple[Any, ...]]: ...


@dataclass(frozen=True)
class Warehouse:
    """A target on an empty warehouse.

    Attributes:
        profile: as the pipeline has it.
        query: answers as rows of Python values.
        folder: for what dbt writes.
    """

    profile: Profile
    query: Query
    folder: Path

    def dbt(self, *arguments: str) -> str:
        """A command of dbt on the project's models, which has to pass; what it printed."""
        profiles = {"millrace": {"target": NAME, "outputs": {NAME: self.profile.dbt_output()}}}
        (self.folder / "profiles.yml").write_text(yaml.safe_dump(profiles))
        done = fork_server.run(
            ["-m", "dbt.cli.main", "--no-use-colors", *arguments,
             "--profiles-dir", str(self.folder), "--target-path", str(self.folder / "target"),
             "--log-path", str(self.folder / "logs")],
            cwd=REPOSITORY / "dbt", env=os.environ | self.profile.environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def count(self, model: str) -> int:
        """Rows of a staging model."""
        ((rows,),) = self.query(f"select count(*) from {NAME}_staging.{model}")
        return int(rows)


@contextmanager
def on_postgres(server: Postgres, folder: Path) -> Iterator[Warehouse]:
    """A database of its own on the embedded server."""

    def run(sql: str, database: str) -> list[tuple[Any, ...]]:
        with closing(
            psycopg2.connect(host=server.host, port=server.port, user="postgres", dbname=database)
        ) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []

    run(f"drop database if exists {NAME} with (force)", "postgres")
    run(f"create database {NAME}", "postgres")
    output = {
        "type": "postgres", "host": server.host, "port": server.port, "user": "postgres",
        "dbname": NAME, "password": "", "schema": NAME, "threads": 2,
    }  # fmt: skip
    profile = Profile.from_output("millrace", NAME, output)
    yield Warehouse(profile, lambda sql: run(sql, NAME), folder)
    run(f"drop database {NAME} with (force)", "postgres")


@contextmanager
def on_bigquery(bigquery: BigQuery, folder: Path) -> Iterator[Warehouse]:
    """The emulator, emptied."""
    output = bigquery.target(NAME, threads=2)
    output["schema"] = output.pop("dataset")
    # A login that is given: no test of a source asks Google for one.
    output |= {"method": "oauth-secrets", "token": "made-up"}
    profile = Profile.from_output("millrace", NAME, output)
    with closing(bigquery.client()) as client:
        for dataset in client.list_datasets():
            client.delete_dataset(dataset.reference, delete_contents=True)
        yield Warehouse(
            profile,
            lambda sql: [tuple(row.values()) for row in client.query(sql).result()],
            folder,
        )
