"""Loads the sources of a run in parallel; one failure does not stop the others."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from prefect_flows.core.errors import MillraceError
from prefect_flows.core.logger import Logger
from prefect_flows.core.parallel import run_parallel
from prefect_flows.core.profiles import Profile
from prefect_flows.core.settings import Settings
from prefect_flows.ingest.destinations.target import configure_dlt
from prefect_flows.ingest.source_load import ingest_source
from prefect_flows.runtime.stages import RunStage


def ingest_sources(
    profile: Profile,
    arguments: Mapping[str, Mapping[str, Any]],
    run_stage: RunStage,
    settings: Settings,
    save: Callable[[str, dict[str, Any]], None],
    log: Logger,
) -> None:
    """Load sources into a target in parallel; one that fails does not stop the others.

    Args:
        profile: target to load into.
        arguments: arguments by source.
        run_stage: runs a stage, from any thread.
        settings: retries and timeouts of the stages, and how many sources load in parallel.
        keep: called with each source and its record when it succeeds, in the caller's thread.
        log: logger of the run.

    Raises:
        MillraceError: sources could not be read or loaded. Raised when all have been tried: the
            first one's error, which names the others.
    """
    failed: dict[str, MillraceError] = {}
    tasks = {
        source: partial(
            ingest_source, source, profile, source_arguments, run_stage, settings.stages
        )
        for source, source_arguments in arguments.items()
    }
    with configure_dlt(profile):
        if len(tasks) == 1:
            # In the main thread, where a timeout and an interrupt stop it immediately.
            ((source, task),) = tasks.items()
            try:
                save(source, task())
            except MillraceError as error:
                error.source_errors = {source: error}
                raise
            return
        # pyarrow imports pandas lazily, and dlt checks each object against its classes. In parallel
        # threads, dlt could find the module half imported.
        if importlib.util.find_spec("pandas") is not None:
            importlib.import_module("pandas")
        for source, future in run_parallel(tasks, settings.max_parallel_sources):
            try:
                save(source, future.result())
            except MillraceError as error:
                failed[source] = error
                log.error("%s", error)  # noqa: TRY400 # expected: no traceback
    if failed:
        first, *others = failed
        if others:
            failed[first].what += f" Others failed too, see the log: {', '.join(others)}."
        failed[first].source_errors = failed
        raise failed[first]
