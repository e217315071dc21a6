"""The pipeline: one parameterized flow that ingests, runs and tests the models of a target.

uv run millrace run --target dev --select +fct_flights
"""

from __future__ import annotations

import gc
import sys

from prefect_flows.core.project_folder import find_project_dir
from prefect_flows.transform.dbt_imports import import_dbt

if __name__ == "__main__":
    # Imported objects are never garbage: collections meanwhile take a quarter of the start time.
    gc.disable()

if "dbt.cli" not in sys.modules:
    import_dbt()

import atexit
import logging
from datetime import date
from typing import Annotated, Any

import typer
from prefect import flow, tags
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Cancelled
from prefect.utilities.urls import url_for
from pydantic import ValidationError
from rich.console import Console

from prefect_flows.core.command_line import CommandWithLists, exits_with_expected_errors
from prefect_flows.core.documents import DocumentError, check_storable, parse_json_or_yaml
from prefect_flows.core.errors import ConfigurationError, PrefectUnreachable, RunCancelled
from prefect_flows.core.names import PIPELINE, TargetName, run_tag
from prefect_flows.core.prefect_api import prefect_client, require_target
from prefect_flows.core.profiles import profile_from_file
from prefect_flows.core.settings import STAGES, Stage, load_settings
from prefect_flows.core.validation_messages import format_faults
from prefect_flows.flow_context import get_flow_context
from prefect_flows.ingest import source_registry
from prefect_flows.pipeline_run import run_pipeline
from prefect_flows.reporting.run_report import stage_summaries
from prefect_flows.run_parameters import check_parameters, refuse_plaintext_secrets
from prefect_flows.runtime.base import LocalRuntime
from prefect_flows.runtime.parameters import Parameters, Strategy
from prefect_flows.runtime.prefect_patches import patched_prefect
from prefect_flows.runtime.progress import API_ERRORS
from prefect_flows.runtime.run_names import name_pipeline_run
from prefect_flows.runtime.stages import hide_tracebacks_of_expected_errors
from prefect_flows.state.store import StateStore


@flow(name=PIPELINE, flow_run_name=name_pipeline_run, persist_result=False)
def dbt_full_pipeline(
    target: TargetName = "dev",
    sources: list[str] | None = None,
    source_arguments: dict[str, dict[str, Any]] = {},  # noqa: B006
    # Empty rather than None, so that the form in Prefect's UI shows a list. Never mutated.
    select: list[str] = [],  # noqa: B006
    exclude: list[str] = [],  # noqa: B006
    full_refresh: bool = False,
    from_date: date | None = None,
    to_date: date | None = None,
    empty: bool = False,
    sample: str | None = None,
    vars: dict[str, Any] = {},  # noqa: B006
    skip: list[Stage] = [],  # noqa: B006
    strategy: Strategy = "run_then_test",
    changed: bool = False,
    reuse: bool = True,
    resume: bool = True,
    failed: bool = False,
    wait: bool = True,
    verbose: bool = False,
) -> dict[str, Any] | State[Any]:
    """Ingest the sources, then run and test the dbt models of a target.

    Args:
        target: Name of the target; its block `dbt-cli-profile-<target>` is made by setup.
        sources: Sources to ingest, by the names of their folders. When not given, all but those
            that `disabled_sources` of dbt_project.yml names.
        source_arguments: Arguments of sources: name of a source, and its arguments.
            Secrets are refused: they come from blocks.
        select: Nodes to run, in dbt's selection syntax. Everything when not given.
        exclude: Nodes to leave out, in dbt's selection syntax.
        full_refresh: Rebuild incremental models and seeds from nothing.
        from_date: First day of a backfill, in UTC: sources that can load single days load these
            days again, and microbatch models replace their batches. Needs `to_date`.
        to_date: Last day of a backfill, included.
        empty: For development: build with no rows of the inputs (dbt's `--empty`). Refused for
            production targets.
        sample: For development: build with the rows of a time, for example `3 days` (dbt's
            `--sample`). Refused for production targets.
        vars: Variables of the dbt project.
        skip: Stages to leave out: ingest, freshness, seed, snapshot, run, test, docs.
        strategy: run_then_test runs all models, then all tests; build goes through the project
            once, and a failed test stops what is downstream of it.
        changed: Only nodes that changed since the target's last good run, and what depends on them.
        reuse: Build only what has new data or new code, and run only tests of that and tests that
            did not pass; if false, build and test everything.
        resume: Continue a run that was interrupted; start over if false.
        failed: Run what failed or was skipped in the target's last run, with the parameters of that
            run. Other parameters than those of that run are refused.
        wait: Wait for another run of the target; fail immediately if false.
        verbose: Log each node that passes, and why it ran.

    Returns:
        A plain record: the target, and what each stage did. A cancelled run returns its state.

    Raises:
        MillraceError: a setting is wrong, a server does not answer, or a stage failed.
    """
    hide_tracebacks_of_expected_errors()
    parameters = Parameters(
        target=target,
        sources=sources,
        source_arguments=source_arguments,
        select=select,
        exclude=exclude,
        full_refresh=full_refresh,
        from_date=from_date,
        to_date=to_date,
        empty=empty,
        sample=sample,
        vars=vars,
        skip=skip,
        strategy=strategy,
        changed=changed,
        reuse=reuse,
        resume=resume,
        failed=failed,
        wait=wait,
        verbose=verbose,
    )
    context = get_flow_context(parameters)
    try:
        return run_pipeline(
            parameters, context.profile, context.settings, context.store, context.runtime
        )
    except RunCancelled as error:
        return Cancelled(message=str(error))


@exits_with_expected_errors
def main(
    target: Annotated[str, typer.Option(help="Name of the target.")] = "dev",
    source: Annotated[
        list[str] | None,
        typer.Option(help="Sources to ingest, one or more. By default all enabled sources."),
    ] = None,
    source_arguments: Annotated[
        str,
        typer.Option(help="Arguments of sources, as JSON or YAML, by source; no secrets."),
    ] = "{}",
    select: Annotated[
        list[str] | None, typer.Option(help="Nodes to run, in dbt's syntax, one or more.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Nodes to leave out, in dbt's syntax, one or more.")
    ] = None,
    full_refresh: Annotated[
        bool, typer.Option("--full-refresh", help="Rebuild incremental models and seeds.")
    ] = False,
    from_date: Annotated[
        str | None,
        typer.Option("--from", metavar="DATE", help="First day to load and build again, in UTC."),
    ] = None,
    to_date: Annotated[
        str | None, typer.Option("--to", metavar="DATE", help="Last day of it, included.")
    ] = None,
    empty: Annotated[
        bool, typer.Option("--empty", help="For development: build with no rows of the inputs.")
    ] = False,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="For development: build with rows of a time, such as '3 days'."
        ),
    ] = None,
    vars: Annotated[
        str, typer.Option(help="Variables of the dbt project, as JSON or YAML.")
    ] = "{}",
    skip: Annotated[
        list[str] | None, typer.Option(help=f"Stages to leave out: {', '.join(STAGES)}.")
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="run_then_test, or build: a failed test stops what is downstream.")
    ] = "run_then_test",
    changed: Annotated[
        bool, typer.Option("--changed", help="Only what changed since the last good run, and on.")
    ] = False,
    no_reuse: Annotated[
        bool,
        typer.Option("--no-reuse", help="Build and test also what has no new data and code."),
    ] = False,
    no_resume: Annotated[
        bool, typer.Option("--no-resume", help="Start over instead of resuming an interrupted run.")
    ] = False,
    failed: Annotated[
        bool,
        typer.Option(
            "--failed",
            help="Run what failed or was skipped in the last run, with the options of that run.",
        ),
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Fail immediately if another run holds the target.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log each node that passes, and why it ran.")
    ] = False,
    no_prefect: Annotated[
        bool,
        typer.Option("--no-prefect", help="Without a Prefect API: the target of profiles.yml."),
    ] = False,
) -> None:
    """Ingest the sources, then run and test the dbt models of a target."""
    gc.freeze()
    gc.enable()
    # A last collection when the process exits would take two seconds for a project of a thousand
    # models.
    atexit.register(gc.freeze)
    console = Console()
    parameters = _parse(
        {"vars": vars, "source_arguments": source_arguments},
        {
            "target": target,
            "sources": source or None,
            "select": select or [],
            "exclude": exclude or [],
            "full_refresh": full_refresh,
            "from_date": from_date,
            "to_date": to_date,
            "empty": empty,
            "sample": sample,
            "skip": skip or [],
            "strategy": strategy,
            "changed": changed,
            "reuse": not no_reuse,
            "resume": not no_resume,
            "failed": failed,
            "wait": not no_wait,
            "verbose": verbose,
        },
    )
    find_project_dir()
    for name in (*(parameters.sources or ()), *parameters.source_arguments):
        source_registry.require_source(name)
    check_parameters(parameters)
    # Before Prefect stores the parameters with the flow run.
    refuse_plaintext_secrets(parameters)
    if no_prefect:
        record = _run_without_prefect(parameters)
    else:
        record = _run_with_prefect(parameters, console)
    stage_summaries.print_run(console, record)


def _parse(documents: dict[str, str], options: dict[str, Any]) -> Parameters:
    name = "options"
    try:
        check_storable(options)
        for name, text in documents.items():
            options |= {name: parse_json_or_yaml(text)}
        return Parameters.model_validate(options)
    except (ValidationError, DocumentError) as error:
        faults = format_faults(error) if isinstance(error, ValidationError) else f"{name}: {error}"
        raise ConfigurationError(
            f"Invalid parameters: {faults}.",
            where="the command line",
            fix="uv run millrace run --help lists what can be given",
        ) from error


def _run_with_prefect(parameters: Parameters, console: Console) -> dict[str, Any]:
    with patched_prefect():
        state = _run_flow(parameters)
    url = url_for("flow-run", obj_id=state.state_details.flow_run_id)
    console.print(f"Flow run: {url}", soft_wrap=True)
    if state.is_cancelled():
        what, _, rest = (state.message or "").partition("\n")
        raise RunCancelled(what, where="the stage that ran", fix=rest.rpartition("fix:")[2].strip())
    result = state.data if isinstance(state.data, BaseException) else state.result()
    if isinstance(result, BaseException):
        raise result
    return dict(result)


def _run_flow(parameters: Parameters) -> State[Any]:
    # If the API is down, fail immediately and not after Prefect's retries.
    with prefect_client() as client:
        require_target(client, parameters.target)
    try:
        # A run would wait up to a second for Prefect's heartbeat thread at its end. The progress
        # reporter sends heartbeats as well.
        with (
            temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
            tags(run_tag(parameters.target)),
        ):
            return dbt_full_pipeline(**parameters.model_dump(mode="json"), return_state=True)
    except API_ERRORS as error:
        unreachable = PrefectUnreachable(
            f"The run is over, and its end could not be reported: {type(error).__name__}: {error}.",
            where="the Prefect API",
            fix="the log above says how it ended, and the state store holds its report; start "
            "the API again",
        )
        unreachable.after_changes()
        raise unreachable from error


def _run_without_prefect(parameters: Parameters) -> dict[str, Any]:
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S"
    )
    log = logging.getLogger("millrace")
    log.setLevel(logging.INFO)
    settings = load_settings()
    profile = profile_from_file(settings.profiles_file, parameters.target, settings.dbt_dir)
    store = StateStore(settings.state_url or settings.default_state_url)
    return run_pipeline(parameters, profile, settings, store, LocalRuntime())


app = typer.Typer(add_completion=False)
app.command(cls=CommandWithLists)(main)

if __name__ == "__main__":
    app()
