"""The body of every source's flow: ingests one source into a target, as a run of the target."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from prefect.context import FlowRunContext

from prefect_flows.core.errors import MillraceError
from prefect_flows.flow_context import get_flow_context
from prefect_flows.ingest.arguments import build_source_arguments
from prefect_flows.ingest.destinations.target import configure_dlt
from prefect_flows.ingest.source_load import ingest_source
from prefect_flows.notifications.run_result import RunOutcome, notify_run_result
from prefect_flows.notifications.startup_failure import notify_on_startup_failure
from prefect_flows.runtime.parameters import Parameters
from prefect_flows.runtime.run_names import name_run
from prefect_flows.runtime.stages import hide_tracebacks_of_expected_errors
from prefect_flows.runtime.target_lock import target_lock


def name_source_run() -> str:
    """Return the name of the current run of a source's flow; one that was given stays."""
    context = FlowRunContext.get()
    if context is None or context.flow is None:
        raise RuntimeError("A flow run is named inside of its run.")
    # The module has another name if Prefect loads it from its file.
    source = Path(context.flow.fn.__code__.co_filename).parent.name
    return name_run(lambda given: f"{given['target']} · ingest {source}")


def ingest_target(source: str, target: str, **arguments: Any) -> dict[str, Any]:
    """Ingest a source into a target, as two Prefect tasks with the retries of the settings.

    This is a run of the target like the pipeline's, and waits for another run of the target: each
    of two concurrent loads of a source would take the other's rows for those of a killed load.

    Args:
        source: name of the source's folder.
        target: name of the target.
        arguments: arguments of the source function; None stands for what is configured for the
            target.

    Returns:
        The record of the source.

    Raises:
        MillraceError: the target has no block, an argument is wrong, the source could not be read
            or loaded, or the run was cancelled.
    """
    hide_tracebacks_of_expected_errors()
    parameters = Parameters(target=target)
    context = get_flow_context(parameters)
    settings, store, runtime = context.settings, context.store, context.runtime
    notify = partial(
        notify_run_result, store=store, runtime=runtime, seconds=settings.notify_seconds
    )
    started = datetime.now(UTC)
    with runtime.stopping(), ExitStack() as contexts:
        with notify_on_startup_failure(parameters, store, runtime, settings.notify_seconds):
            contexts.enter_context(target_lock(parameters, store, runtime))
        try:
            given = {name: value for name, value in arguments.items() if value is not None}
            resolved = build_source_arguments(source, target, given, runtime.secret)
            with configure_dlt(context.profile):
                record = ingest_source(
                    source, context.profile, resolved, runtime.run_stage, settings.stages
                )
        except MillraceError as error:
            error.source_errors = {source: error}
            notify(RunOutcome(target, started, "failed", error, {}))
            raise
        notify(RunOutcome(target, started, "passed", None, {"ingest": {source: record}}))
        return record
