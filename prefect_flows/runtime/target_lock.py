"""One run of a target at a time, from whatever door."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import filelock

from prefect_flows.core.errors import DamagedFile
from prefect_flows.runtime.base import SAY_SECONDS, Holder, Runtime, busy
from prefect_flows.runtime.parameters import Parameters
from prefect_flows.state.runs import last_run
from prefect_flows.state.store import StateStore


@contextmanager
def target_lock(parameters: Parameters, store: StateStore, runtime: Runtime) -> Iterator[None]:
    """Hold the target: by a lock in the folder of the state store, and by the runtime's lease.

    The lock keeps runs with and without Prefect apart that share a state folder; it ends with the
    process that holds it.
    """
    target = parameters.target

    def holder() -> str:
        try:
            last = last_run(store, target)
        except DamagedFile as error:
            return f"a run of which nothing is known: {error.where} is damaged"
        if last is None or last[1].ended is not None:
            return "a run that has just begun, or was killed less than a minute ago"
        header = last[1]
        return (
            f"run {header.url or header.id} (process {header.process} on {header.host}, "
            f"since {header.started_at:%Y-%m-%d %H:%M:%S} UTC)"
        )

    with _locked(parameters, store, runtime, holder):  # noqa: SIM117 # in this order
        with runtime.lease(target, holder, wait=parameters.wait):
            yield


@contextmanager
def _locked(
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
            raise busy(parameters.target, holder(), str(file)) from error
    while not lock.is_locked:
        runtime.log.info("Target %r is taken. Waiting for %s.", parameters.target, holder())
        with suppress(filelock.Timeout):
            lock.acquire(timeout=SAY_SECONDS, poll_interval=0.5)
    try:
        yield
    finally:
        lock.release()
