"""The flow that every source shares: it loads one source into a target, as a run of the target."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

from prefect_flows.core.errors import MillraceError
from prefect_flows.flow_context import get_flow_context
from prefect_flows.ingest.arguments import source_arguments
from prefect_flows.ingest.destinations.target import loading_into
from prefect_flows.ingest.source_load import ingest_source
from prefect_flows.notifications.run_result import RunOutcome, notify_run_result
from prefect_flows.notifications.startup_failure import notify_on_startup_failure
from prefect_flows.runtime.parameters import Parameters
from prefect_flows.runtime.stages import say_expected_errors_without_stack
from prefect_flows.runtime.target_lock import target_lock


def ingest_target(source: str, target: str, **arguments: Any) -> dict[str, Any]:
    """Bring a source into a target, as two Prefect tasks with the retries of the settings.

    The body of a source's own flow. It is a run of the target like the pipeline's, and waits for
    one that is under way: two loads of a source at once would take each other's rows for a killed
    load's.

    Args:
        source: name of the source's folder.
        target: name of the target.
        arguments: of the source function; None leaves one to what is configured for the target.

    Raises:
        MillraceError: the target has no block, an argument is wrong, the source could not be read
            or loaded, or the run was told to stop.
    """
    say_expected_errors_without_stack()
    parameters = Parameters(target=target)
    start = get_flow_context(parameters)
    settings, store, runtime = start.settings, start.store, start.runtime
    tell = partial(notify_run_result, store=store, runtime=runtime, seconds=settings.notify_seconds)
    started = datetime.now(UTC)
    with runtime.stopping(), ExitStack() as held:
        with notify_on_startup_failure(parameters, store, runtime, settings.notify_seconds):
            held.enter_context(target_lock(parameters, store, runtime))
        try:
            given = {name: value for name, value in arguments.items() if value is not None}
            complete = source_arguments(source, target, given, runtime.secret)
            with loading_into(start.profile):
                done = ingest_source(
                    source, start.profile, complete, runtime.run_stage, settings.stages
                )
        except MillraceError as error:
            error.of_sources = {source: error}
            tell(RunOutcome(target, started, "failed", error, {}))
            raise
        tell(RunOutcome(target, started, "passed", None, {"ingest": {source: done}}))
        return done
