"""A second BigQuery that is strict: its SQL goes through the analyzer that Google published.

bqemulator (`emulator.py`) carries the whole project, and takes what DuckDB takes. This one refuses
what GoogleSQL refuses: a type that does not fit, a function or a name that is not there. It cannot
carry the project (a missing table is no 404, and dbt then retries for minutes; load jobs crash),
so it only judges statements that dbt sent elsewhere.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud.bigquery import Client

from tests.support.bigquery.emulator import free_port, wait_until_it_answers
from tests.support.bigquery.stand_ins import PROJECT

VARIABLE = "MILLRACE_STRICT_EMULATOR"
MODULE = "github.com/goccy/bigquery-emulator/cmd/bigquery-emulator@v0.8.1"
BUILD = f"CGO_ENABLED=0 go install {MODULE}"


@dataclass(frozen=True)
class Answer:
    """Rows of a statement, and its columns: names in order, each with its type."""

    rows: list[tuple[Any, ...]]
    columns: list[tuple[str, str]]


@dataclass(frozen=True)
class Judge:
    """The strict BigQuery; what it refuses is raised as `GoogleAPICallError`."""

    client: Client

    def run(self, sql: str) -> Answer:
        # It answers a mistake as an internal error (500), which clients take for worth a retry.
        job = self.client.query(sql, retry=None, job_retry=None, timeout=60)
        result = job.result(retry=None, job_retry=None, timeout=120)
        return Answer(
            [row.values() for row in result],
            [(field.name, field.field_type) for field in result.schema],
        )


@contextmanager
def judging(binary: str, folder: Path) -> Iterator[Judge]:
    """Start the strict BigQuery, empty and in memory.

    Args:
        binary: the program, as `BUILD` makes it.
        folder: where its log goes.
    """
    ports = free_port(), free_port()
    log = folder / "strict.log"
    command = [binary, f"--project={PROJECT}", f"--port={ports[0]}", f"--grpc-port={ports[1]}"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--log-level=error"], stdout=output, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{ports[0]}"
    try:
        wait_until_it_answers(address, process, log)
        options = {"api_endpoint": address}
        yield Judge(Client(PROJECT, credentials=AnonymousCredentials(), client_options=options))
    finally:
        process.kill()
        process.wait()
