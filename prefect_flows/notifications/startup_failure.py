"""Notifies the owners of a target when a run fails before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from prefect_flows.core.errors import MillraceError, PrefectUnreachable, RunCancelled, TargetBusy
from prefect_flows.runtime.base import Runtime
from prefect_flows.runtime.parameters import Parameters
from prefect_flows.runtime.target_lock import target_lock
from prefect_flows.state.store import StateStore


@contextmanager
def notify_on_startup_failure(
    parameters: Parameters, store: StateStore, runtime: Runtime, seconds: float
) -> Iterator[None]:
    """Notify of an error before a run starts, unless it was cancelled or another run is active.

    Stores nothing for a target without recipients: no target of that name may exist.

    Args:
        seconds: time limit for the recipients.
    """
    started = datetime.now(UTC)
    try:
        yield
    except (RunCancelled, TargetBusy):
        raise
    except MillraceError as error:
        if _has_recipients(runtime):
            _notify(error, started, parameters, store, runtime, seconds)
        raise


def _notify(
    error: MillraceError,
    started: datetime,
    parameters: Parameters,
    store: StateStore,
    runtime: Runtime,
    seconds: float,
) -> None:
    # Imported here, since most runs start without an error.
    from prefect_flows.notifications.run_result import RunOutcome, notify_run_result

    with ExitStack() as lock_context:
        try:
            without_waiting = parameters.model_copy(update={"wait": False})
            lock_context.enter_context(target_lock(without_waiting, store, runtime))
        except TargetBusy as busy:
            runtime.log.warning("This run sends no notification: %s", busy.what)
            return
        except MillraceError as other:
            # Then no other run can hold the lock either; this may be the error to notify of.
            runtime.log.warning("Notifying without the lock of the target: %s", other.what)
        outcome = RunOutcome(parameters.target, started, "failed", error, {})
        notify_run_result(outcome, store, runtime, seconds)


def _has_recipients(runtime: Runtime) -> bool:
    try:
        return bool(runtime.recipients())
    except PrefectUnreachable as error:
        runtime.log.warning("Cannot read the notification blocks: %s", error.what)
        return False
