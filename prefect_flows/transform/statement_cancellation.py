"""Cancels the statements of hooks and of schemas as soon as the run is told to stop."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
from dbt.adapters.contracts.connection import ConnectionState
from dbt.task.run import RunTask
from dbt_common.exceptions import DbtBaseException

from prefect_flows.transform.monkeypatch import replaced

SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})
# A statement may be on its way when it is cancelled, and begin afterwards.
CANCEL_AGAIN_SECONDS = 0.5


@contextmanager
def hooks_cancelled_on_signal() -> Iterator[None]:
    """Cancel what dbt runs before its first and after its last node, when a signal arrives.

    dbt runs hooks in the main thread. Python calls the handler of a signal in the same thread, once
    libpq returns: the statement would end, and commit, after the run was cancelled. dbt's own
    cancellation covers its pool of threads, which it uses for nodes only.
    """
    before_run, after_run = RunTask.before_run, RunTask.after_run

    def before_cancellable(self: RunTask, adapter: Any, selected_uids: Any) -> Any:
        with statements_cancelled_on_signal(adapter):
            return before_run(self, adapter, selected_uids)

    def after_cancellable(self: RunTask, adapter: Any, results: Any) -> None:
        with statements_cancelled_on_signal(adapter):
            after_run(self, adapter, results)

    with (
        replaced(RunTask, "before_run", before_cancellable),
        replaced(RunTask, "after_run", after_cancellable),
    ):
        yield


@contextmanager
def statements_cancelled_on_signal(adapter: Any) -> Iterator[None]:
    """Cancel the adapter's statements from another thread, as long as the main thread is busy.

    Python writes a signal's number to the wakeup socket when the signal arrives; only the handler
    has to wait for the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # no signal reaches this thread
        return
    cancel = _cancel_jobs if adapter.type() == "bigquery" else _cancel_statements
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    over = threading.Event()

    def cancel_on_signal() -> None:
        while number := receiver.recv(1):
            if number[0] in SIGNALS:
                cancel(adapter.connections)
                while not over.wait(CANCEL_AGAIN_SECONDS):
                    cancel(adapter.connections)

    thread = threading.Thread(target=cancel_on_signal, name="millrace-cancel", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        over.set()
        sender.close()
        thread.join()
        receiver.close()


def _cancel_statements(connections: Any) -> None:
    """Send Postgres a cancel request for each open connection."""
    for connection in list(connections.thread_connections.values()):
        if connection.state == ConnectionState.OPEN:
            # It was closed meanwhile, or the server is away and ends the statement by itself.
            with suppress(psycopg2.Error):
                connection.handle.cancel()


def _cancel_jobs(connections: Any) -> None:
    """Cancel the last job of each thread in BigQuery."""
    for thread, connection in list(connections.thread_connections.items()):
        jobs = connections.jobs_by_thread.get(thread)
        if jobs and connection.state == ConnectionState.OPEN:
            # The job has not begun yet, or BigQuery is away.
            with suppress(DbtBaseException), connections.exception_handler("cancel a job"):
                connection.handle.cancel_job(jobs[-1])
