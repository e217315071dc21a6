"""The lock of a target: one run at a time, by a lock file and a Prefect concurrency limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import filelock

from prefect_flows.core.errors import CorruptFileError
from prefect_flows.runtime.base import WAIT_LOG_SECONDS, Holder, Runtime, target_busy_error
from prefect_flows.runtime.parameters import Parameters
from prefect_flows.state.runs import get_last_run
from prefect_flows.state.store import StateStore


@contextmanager
def target_lock(parameters: Parameters, store: StateStore, runtime: Runtime) -> Iterator[None]:
    """Hold the target with a lock file in the state store and with the runtime's lease.

    The lock file separates runs with and without Prefect that share a state folder. The system
    releases it when its process ends.

    Raises:
        TargetBusy: another run holds the target, and the run has `--no-wait`.
    """
    target = parameters.target

    def holder() -> str:
        try:
            last = get_last_run(store, target)
        except CorruptFileError as error:
            return f"an unknown run: {error.where} is corrupt"
        if last is None or last[1].ended is not None:
            return "a run that has just begun, or was killed less than a minute ago"
        header = last[1]
        return (
            f"run {header.url or header.id} (process {header.process} on {header.host}, "
            f"since {header.started_at:%Y-%m-%d %H:%M:%S} UTC)"
        )

    with _file_lock(parameters, store, runtime, holder):  # noqa: SIM117 # in this order
        with runtime.lease(target, holder, wait=parameters.wait):
            yield


@contextmanager
def _file_lock(
    parameters: Parameters, store: StateStore, runtime: Runtime, holder: Holder
) -> Iterator[None]:
    file = store.lock_file(parameters.target)
    if file is None:
        yield
        return
    lock = filelock.FileLock(file)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        if not parameters.wait:
            raise target_busy_error(parameters.target, holder(), str(file)) from error
    while not lock.is_locked:
        runtime.log.info("Target %r is locked; waiting for %s.", parameters.target, holder())
        with suppress(filelock.Timeout):
            lock.acquire(timeout=WAIT_LOG_SECONDS, poll_interval=0.5)
    try:
        yield
    finally:
        lock.release()
