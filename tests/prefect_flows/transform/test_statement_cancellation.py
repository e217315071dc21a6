"""Which jobs of BigQuery are cancelled. Runs that are cancelled: `test_bigquery_faults`."""

from __future__ import annotations

import multiprocessing
import threading
from types import SimpleNamespace

import pytest
from dbt.adapters.bigquery import BigQueryCredentials
from dbt.adapters.bigquery.connections import BigQueryConnectionManager
from dbt.adapters.contracts.connection import Connection, ConnectionState
from google.auth.credentials import AnonymousCredentials
from google.cloud.bigquery import Client

from prefect_flows.transform.statement_cancellation import _cancel_jobs


@pytest.mark.parametrize(
    ("is_main", "is_closed", "cancelled"),
    [(True, True, True), (True, False, True), (False, True, False), (False, False, True)],
)
def test_jobs_that_may_run_are_cancelled(is_main: bool, is_closed: bool, cancelled: bool) -> None:
    """dbt may have closed the main thread's connection: the signal interrupts its request."""
    asked: list[str] = []

    class Recorder(Client):
        def cancel_job(self, job_id: str, *_: object, **__: object) -> None:
            asked.append(job_id)

    credentials = BigQueryCredentials(database="p", schema="s", method="oauth")
    connections = BigQueryConnectionManager(
        SimpleNamespace(credentials=credentials),
        multiprocessing.get_context("spawn"),
    )
    process, ident = connections.get_thread_identifier()
    assert ident == threading.main_thread().ident
    thread = (process, ident if is_main else ident + 1)
    connection = Connection("bigquery", "hook", credentials, ConnectionState.OPEN)
    connection.handle = Recorder("p", credentials=AnonymousCredentials())
    connections.thread_connections[thread] = connection
    connections.jobs_by_thread[thread] = ["hook-1", "hook-2"]
    if is_closed:
        connections.close(connection)
    _cancel_jobs(connections)
    assert asked == ["hook-2"] * cancelled
