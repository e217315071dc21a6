"""`millrace worker --pool POOL`: a Prefect worker that lets its runs finish.

`prefect worker start` of Prefect 3.9 does not. On SIGTERM or SIGINT, a process worker immediately
sends SIGKILL to every flow run, before any of them can report, and Prefect shows such a run as
Running forever. Leaving the runs behind does not help: a run whose worker is gone crashes at its
next log line, since nobody reads the pipe.

On the first signal, this worker stops polling and waits for its runs, and still sends heartbeats.
Runs that are active after `--patience`, or at a second signal, get SIGTERM. The pipeline then
releases its locks and records where the next run resumes.

It works for every worker type, and can be removed when Prefect's own worker waits for its runs.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import psutil
import typer
from rich.console import Console

from prefect_flows.core.command_line import exits_with_expected_errors, finite
from prefect_flows.core.environment import set_variables
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.prefect_api import prefect_client
from prefect_flows.core.project_folder import VARIABLE, find_project_dir
from prefect_flows.transform.monkeypatch import patched

if TYPE_CHECKING:
    from prefect.workers.base import BaseWorker

    Worker = BaseWorker[Any, Any, Any]

DEFAULT_RUN_LIMIT = 4
PATIENCE_SECONDS = 3600.0
# How long a run may take after SIGTERM to report to the API.
SHUTDOWN_GRACE_SECONDS = 60.0
POLL_SECONDS = 0.5
# Packages of Prefect with blocks or workers declare themselves as entry points of this group.
COLLECTIONS = "prefect.collections"
# The type of work pools whose runs are processes of the worker's machine.
PROCESS = "process"

app = typer.Typer(add_completion=False)


class PollGate:
    """Gate in front of a worker's polls: once closed, the worker takes no more runs.

    It replaces the method on the instance, since Prefect would register a subclass as the worker
    of its type.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._poll = worker.get_and_submit_flow_runs
        self._open = True
        self._polling = False
        setattr(worker, "get_and_submit_flow_runs", self._poll_if_open)  # noqa: B010

    async def _poll_if_open(self) -> list[Any]:
        if not self._open:
            return []
        self._polling = True
        try:
            return await self._poll()
        finally:
            self._polling = False

    def close(self) -> None:
        """Stop taking runs."""
        self._open = False

    @property
    def active_runs(self) -> int:
        """Number of active flow runs; each holds a token of the worker's limiter."""
        return self._worker.limiter.borrowed_tokens

    async def wait_until_idle(self) -> None:
        """Wait until all runs, and a poll in progress, have finished."""
        while self._polling or self.active_runs:  # noqa: ASYNC110 - Prefect's limiter tells nobody
            await anyio.sleep(POLL_SECONDS)


def terminate_runs() -> int:
    """Send SIGTERM to every child process; return their number."""
    children = psutil.Process().children()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    return len(children)


async def run_worker(
    worker: Worker, *, patience: float, healthcheck: bool, console: Console
) -> None:
    """Run the worker until the first signal, and then until its runs have finished."""
    gate = PollGate(worker)
    async with anyio.create_task_group() as group:

        async def work() -> None:
            await worker.start(with_healthcheck=healthcheck, printer=console.print)
            group.cancel_scope.cancel()

        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            group.start_soon(work)
            await anext(signals)
            gate.close()
            if not worker.is_setup:
                group.cancel_scope.cancel()
                return
            console.print(
                f"Stopping: no new runs; waiting for {gate.active_runs} in progress,"
                f" {patience:.0f} s at most."
            )
            async with anyio.create_task_group() as waiting:

                async def until_emptied() -> None:
                    await gate.wait_until_idle()
                    waiting.cancel_scope.cancel()

                waiting.start_soon(until_emptied)
                with anyio.move_on_after(patience):
                    await anext(signals)
                console.print(f"Timeout: sent SIGTERM to {terminate_runs()} process(es).")
                with anyio.move_on_after(SHUTDOWN_GRACE_SECONDS):
                    await anyio.sleep_forever()
                waiting.cancel_scope.cancel()
        console.print("Stopped." if not gate.active_runs else f"Left {gate.active_runs} run(s).")
        group.cancel_scope.cancel()


def get_worker_type(pool: str) -> str:
    """Return the type of a work pool.

    Raises:
        ConfigurationError: there is no such work pool.
        PrefectUnreachable: the API does not respond, or denies access.
    """
    from prefect.exceptions import ObjectNotFound

    with prefect_client() as client:
        try:
            return client.read_work_pool(pool).type
        except ObjectNotFound as exc:
            raise ConfigurationError(
                f"There is no work pool {pool!r}.",
                where=f"the Prefect API at {client.api_url}",
                fix="millrace pools",
            ) from exc


def get_worker_class(pool: str, kind: str) -> type[Worker]:
    """Return Prefect's worker class for a type.

    Only the package of this type is imported if its name says so: all of them, dbt and Google's
    included, take 400 MB.

    Raises:
        ConfigurationError: its package is not installed.
    """
    import prefect.workers.process  # noqa: F401 # registers its type, as the packages do
    from prefect.utilities.dispatch import get_registry_for_type
    from prefect.workers.base import BaseWorker

    for package in entry_points(group=COLLECTIONS, name=f"prefect_{kind}"):
        package.load()
    registered = get_registry_for_type(BaseWorker) or {}
    found = registered.get(kind) or BaseWorker.get_worker_class_from_type(kind)
    if found is None:
        raise ConfigurationError(
            f"No worker of type {kind!r} is installed here.",
            where=f"work pool {pool!r}",
            fix=f"uv pip install prefect-{kind}",
        )
    return found


@contextmanager
def report_integrations_without_import() -> Iterator[None]:
    """Name the installed packages of Prefect to the API, for which Prefect imports them all."""
    import prefect.workers.base

    packages = {package.name: package for package in entry_points(group=COLLECTIONS)}
    with patched(prefect.workers.base, "load_prefect_collections", lambda: packages):
        yield


@app.command()
@exits_with_expected_errors
def main(
    pool: Annotated[str, typer.Option(help="The work pool whose runs it takes.")],
    name: Annotated[str | None, typer.Option(help="Its name; one that stays is one row.")] = None,
    queue: Annotated[list[str] | None, typer.Option(help="Only these queues.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = DEFAULT_RUN_LIMIT,
    patience: Annotated[
        float,
        typer.Option(min=0, callback=finite, help="Seconds that runs may take after a signal."),
    ] = PATIENCE_SECONDS,
    healthcheck: Annotated[bool, typer.Option(help="Answer /health on port 8080.")] = False,
) -> None:
    """A Prefect worker that lets its runs finish when you stop it."""
    kind = get_worker_type(pool)
    worker = get_worker_class(pool, kind)(
        work_pool_name=pool, name=name, work_queues=queue or [], limit=limit,
        create_pool_if_not_found=False,
    )  # fmt: skip
    console = Console(soft_wrap=True)
    # Prefect starts the processes of runs in an empty temporary folder; those of containers have
    # the environment of their image.
    project = {VARIABLE: str(find_project_dir())} if kind == PROCESS else {}
    with set_variables(project), report_integrations_without_import():
        anyio.run(
            lambda: run_worker(worker, patience=patience, healthcheck=healthcheck, console=console)
        )
