"""Cancellation of statements that dbt runs in the main thread: hooks, and creation of schemas."""

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

from prefect_flows.transform.monkeypatch import patched

SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})
# Cancel requests are repeated: a statement may start after the first one.
CANCEL_INTERVAL_SECONDS = 0.5


@contextmanager
def cancel_hooks_on_signal() -> Iterator[None]:
    """Cancel statements that run before the first or after the last node when a signal arrives.

    dbt runs hooks in the main thread. Python calls a signal handler in the same thread, after libpq
    returns: the statement would end and commit although the run is cancelled. dbt itself only
    cancels statements of nodes, which run in its thread pool.
    """
    before_run, after_run = RunTask.before_run, RunTask.after_run

    def before_cancellable(self: RunTask, adapter: Any, selected_uids: Any) -> Any:
        with cancel_statements_on_signal(adapter):
            return before_run(self, adapter, selected_uids)

    def after_cancellable(self: RunTask, adapter: Any, results: Any) -> None:
        with cancel_statements_on_signal(adapter):
            after_run(self, adapter, results)

    with (
        patched(RunTask, "before_run", before_cancellable),
        patched(RunTask, "after_run", after_cancellable),
    ):
        yield


@contextmanager
def cancel_statements_on_signal(adapter: Any) -> Iterator[None]:
    """Cancel the adapter's statements from another thread when a signal arrives.

    Python writes the number of a signal to the wakeup socket immediately. Only the handler has to
    wait for the main thread.
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
                while not over.wait(CANCEL_INTERVAL_SECONDS):
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
            # The connection is closed by now, or the server is down and ends the statement itself.
            with suppress(psycopg2.Error):
                connection.handle.cancel()


def _cancel_jobs(connections: Any) -> None:
    """Cancel the last job of each thread in BigQuery.

    A signal interrupts a request of the main thread at once, unlike a statement of libpq. The main
    thread may have closed its connection by now, but its job runs on. A closed client of Google can
    still send requests.
    """
    for thread, connection in list(connections.thread_connections.items()):
        _process, ident = thread
        is_main = ident == threading.main_thread().ident
        jobs = connections.jobs_by_thread.get(thread)
        if jobs and (is_main or connection.state == ConnectionState.OPEN):
            # The job has not started yet, or BigQuery does not answer.
            with suppress(DbtBaseException), connections.exception_handler("cancel a job"):
                connection.handle.cancel_job(jobs[-1])
