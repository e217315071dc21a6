"""The embedded Postgres alone: a warehouse in two seconds, for tests that need no Prefect API."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from infrastructure.local import postgres
from prefect_flows.core.profiles import Profile

TARGET = "embedded"


@dataclass
class Warehouse:
    """A target on it."""

    profile: Profile

    def connect(self) -> Any:
        output = self.profile.output
        return psycopg2.connect(
            host=output["host"],
            port=output["port"],
            user=output["user"],
            dbname=output["dbname"],
            options="-c timezone=UTC",
        )

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(self.connect()) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql, values or None)
                return cursor.fetchall() if cursor.description else []

    def empty(self, source: str) -> None:
        self.query(f"drop schema if exists raw_{source}, raw_{source}_staging cascade")


def on(server: postgres.Postgres, database: str) -> Warehouse:
    """A target in a database of a server."""
    output = {
        "type": "postgres", "host": str(server.host), "port": server.port, "user": postgres.USER,
        "dbname": database, "password": "", "schema": TARGET, "threads": 2,
    }  # fmt: skip
    return Warehouse(Profile.from_output("millrace", TARGET, output))


@contextmanager
def empty_database(server: postgres.Postgres) -> Iterator[Warehouse]:
    """A target in a database that exists while the context lasts."""
    name = f"test_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    admin = on(server, "postgres")
    admin.query(f"create database {name}")
    try:
        yield on(server, name)
    finally:
        admin.query(f"drop database {name} with (force)")


@contextmanager
def warehouse(folder: Path) -> Iterator[Warehouse]:
    """A server with one target, while the context lasts."""
    started = postgres.start(folder)
    try:
        yield on(started, started.to_outputs()["dbt_targets"]["value"]["dev"]["database"])
    finally:
        postgres.stop(folder)
