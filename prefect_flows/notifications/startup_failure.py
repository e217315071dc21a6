"""What keeps a run from beginning is told to whoever is told how it ends."""

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
    """Tell of what is wrong before a run begins; not that another one has the target.

    Nothing is kept of a target that nobody is told of: there may be none of its name.

    Args:
        seconds: how long those who are told are waited for.
    """
    started = datetime.now(UTC)
    try:
        yield
    except (RunCancelled, TargetBusy):
        raise
    except MillraceError as error:
        if _somebody_is_told(runtime):
            _tell(error, started, parameters, store, runtime, seconds)
        raise


def _tell(
    error: MillraceError,
    started: datetime,
    parameters: Parameters,
    store: StateStore,
    runtime: Runtime,
    seconds: float,
) -> None:
    # Imported here, since most runs can begin.
    from prefect_flows.notifications.run_result import RunOutcome, notify_run_result

    with ExitStack() as held:
        try:
            at_once = parameters.model_copy(update={"wait": False})
            held.enter_context(target_lock(at_once, store, runtime))
        except TargetBusy as busy:
            runtime.log.warning("Nobody is told by this run: %s", busy.what)
            return
        except MillraceError as other:
            # Then no other run can hold it either; it may be what is told of.
            runtime.log.warning("Told without holding the target: %s", other.what)
        ended = RunOutcome(parameters.target, started, "failed", error, {})
        notify_run_result(ended, store, runtime, seconds)


def _somebody_is_told(runtime: Runtime) -> bool:
    try:
        return bool(runtime.receivers())
    except PrefectUnreachable as error:
        runtime.log.warning("Who is to be told cannot be asked: %s", error.what)
        return False
