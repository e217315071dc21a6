"""Names of flow runs: what they do, for example `dev · whole` or `dev · ingest nyc__flights`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from prefect.context import FlowRunContext

from prefect_flows.core.formatting import shorten_middle
from prefect_flows.runtime.parameters import Parameters

# A name that Prefect made up, such as `brave-otter`; any other name was given by a person.
_MADE_UP = re.compile(r"[a-z]+-[a-z]+")
_MAX_SELECTION = 60


def name_pipeline_run() -> str:
    """Return the name of the current run of the pipeline; one that was given stays."""
    return name_run(lambda given: describe_run(Parameters.model_validate(given)))


def describe_run(parameters: Parameters) -> str:
    """Describe what a run does: its target, and which part of the project."""
    if parameters.failed:
        what = "what failed"
    elif parameters.select:
        what = " ".join(parameters.select)
    else:
        what = "whole"
    if parameters.exclude:
        what += f" without {' '.join(parameters.exclude)}"
    if parameters.sources is not None:
        what += f", loads {' '.join(parameters.sources) or 'nothing'}"
    if parameters.changed:
        what += ", changed"
    if parameters.full_refresh:
        what += ", full refresh"
    if parameters.window is not None:
        what += f", {parameters.window}"
    if parameters.empty:
        what += ", empty"
    if parameters.sample is not None:
        what += f", sample of {parameters.sample}"
    return f"{parameters.target} · {shorten_middle(what, _MAX_SELECTION)}"


def name_run(build: Callable[[dict[str, Any]], str]) -> str:
    """Return the name of the current run: the given one, or one built from its parameters."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise RuntimeError("A flow run is named inside of its run.")
    given = context.flow_run.name
    return build(context.parameters or {}) if _MADE_UP.fullmatch(given) else given
