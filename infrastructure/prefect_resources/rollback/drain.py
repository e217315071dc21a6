"""Drain work pools: pause them and wait until their runs have finished."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from prefect_flows.core.errors import TargetBusy

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

POLL_SECONDS = 3.0
# A worker reports a run to the API a moment after taking it, so one idle poll proves nothing.
IDLE_POLLS = 2


@contextmanager
def pause_pools(client: SyncPrefectClient, pools: Sequence[str]) -> Iterator[None]:
    """Pause the work pools while the context is open; pools that were paused before stay paused."""
    from prefect.client.schemas.actions import WorkPoolUpdate

    unpaused = [name for name in pools if not client.read_work_pool(name).is_paused]
    try:
        for name in unpaused:
            client.update_work_pool(name, WorkPoolUpdate(is_paused=True))
        yield
    finally:
        for name in unpaused:
            client.update_work_pool(name, WorkPoolUpdate(is_paused=False))


def wait_until_idle(
    client: SyncPrefectClient, pools: Sequence[str], seconds: float, console: Console
) -> None:
    """Wait until the runs that have started in the work pools have finished.

    Raises:
        TargetBusy: runs are still active after the timeout.
    """
    deadline = time.monotonic() + seconds
    quiet, printed = 0, ""
    while pools and quiet < IDLE_POLLS:
        running = _find_active_runs(client, pools)
        quiet = 0 if running else quiet + 1
        text = f"Waiting for {len(running)} run(s): {', '.join(running)}"
        if running and text != printed:
            console.print(text, highlight=False, soft_wrap=True)
            printed = text
        if running and time.monotonic() > deadline:
            raise TargetBusy(
                f"Runs are still in progress after {seconds:.0f} s: {', '.join(running)}.",
                where=f"work pool {', '.join(pools)}; it takes new runs again, nothing was changed",
                fix="wait for them with a longer --drain-timeout, or cancel them: "
                "uv run prefect flow-run cancel ID",
            )
        time.sleep(POLL_SECONDS)


def _find_active_runs(client: SyncPrefectClient, pools: Sequence[str]) -> list[str]:
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType

    begun = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    found = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=begun))
        ),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=list(pools))),
    )
    # A run that waits for its turn has not started; it starts when the pool is resumed.
    return sorted(f"{run.name} ({run.id})" for run in found)
