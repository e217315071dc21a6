"""The pipeline: one parameterized flow that ingests, runs and tests the models of a target.

uv run python prefect_flows/pipeline.py --target dev --select +fct_flights
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.utilities.urls import url_for
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console

from prefect_flows import ingestion
from prefect_flows.command_line import exits_with_expected_errors
from prefect_flows.errors import ConfigurationError, MillraceError, StageFailed
from prefect_flows.reporting import summaries
from prefect_flows.settings import (
    STAGES,
    Settings,
    Stage,
    StagePolicies,
    StagePolicy,
    load_settings,
)
from prefect_flows.stages import (
    Logger,
    RunStage,
    as_function,
    as_task,
    say_expected_errors_without_stack,
)
from prefect_flows.targets import (
    Profile,
    TargetName,
    load_profile,
    prefect_client,
    profile_from_file,
)
from prefect_flows.transform.dbt_stage import DbtStage
from prefect_flows.transform.session import DbtSession, Selection

# Stage → dbt's command, and the resource types it runs.
DBT_STAGES: dict[Stage, tuple[list[str], tuple[str, ...]]] = {
    "freshness": (["source", "freshness"], ("source",)),
    "seed": (["seed"], ("seed",)),
    "snapshot": (["snapshot"], ("snapshot",)),
    "run": (["run"], ("model",)),
    "test": (["test"], ("test", "unit_test")),
}


class Parameters(BaseModel):
    """The pipeline's parameters, validated. The flow's docstring says what each is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: TargetName = "dev"
    sources: list[str] | None = None
    select: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)
    full_refresh: bool = False
    vars: dict[str, Any] = Field(default_factory=dict)
    skip: list[Stage] = Field(default_factory=list)


@flow(name="dbt-full-pipeline", flow_run_name="{target}", persist_result=False)
def dbt_full_pipeline(
    target: TargetName = "dev",
    sources: list[str] | None = None,
    # Empty rather than none, so that the form in the UI asks for a list; never changed here.
    select: list[str] = [],  # noqa: B006
    exclude: list[str] = [],  # noqa: B006
    full_refresh: bool = False,
    vars: dict[str, Any] = {},  # noqa: B006
    skip: list[Stage] = [],  # noqa: B006
) -> dict[str, Any]:
    """Ingest the sources, then run and test the dbt models of a target.

    Args:
        target: Name of the target; its block `dbt-cli-profile-<target>` is made by setup.
        sources: Sources to ingest, by the names of their folders. All when not given.
        select: Nodes to run, in dbt's selection syntax. Everything when not given.
        exclude: Nodes to leave out, in dbt's selection syntax.
        full_refresh: Rebuild incremental models and seeds from nothing.
        vars: Variables of the dbt project.
        skip: Stages to leave out: ingest, freshness, seed, snapshot, run, test.

    Returns:
        A plain record: the target, and what each stage did.

    Raises:
        MillraceError: a setting is wrong, a server does not answer, or a stage failed.
    """
    say_expected_errors_without_stack()
    parameters = Parameters(
        target=target,
        sources=sources,
        select=select,
        exclude=exclude,
        full_refresh=full_refresh,
        vars=vars,
        skip=skip,
    )
    settings = load_settings()
    with prefect_client() as client:
        profile = load_profile(client, target)
    return run_pipeline(parameters, profile, settings, as_task, _publish, get_run_logger())


def run_pipeline(
    parameters: Parameters,
    profile: Profile,
    settings: Settings,
    run_stage: RunStage,
    publish: Callable[[str, str], None],
    log: Logger,
) -> dict[str, Any]:
    """Run the stages in their order, and return the record of what they did.

    Everything that can be wrong before a row is written (the warehouse, the project, the
    selection, the names of the sources) is looked at before the first stage.

    Args:
        run_stage: runs a stage with its retries and its timeout.
        publish: takes the key and the Markdown of each summary.
    """
    started = time.monotonic()
    record: dict[str, Any] = {"target": parameters.target}
    target_path = settings.target_path(parameters.target)
    failure: str | None = "The run ended before its last stage did; its log says why."
    try:
        with DbtSession(settings.dbt_dir, profile, target_path, parameters.vars) as session:
            _run_stages(session, parameters, settings.stages, run_stage, record)
        failure = None
    except MillraceError as error:
        failure = str(error)
        raise
    finally:
        record["seconds"] = round(time.monotonic() - started, 2)
        publish(f"{parameters.target}-extraction", summaries.extraction(record))
        publish(f"{parameters.target}-transformation", summaries.transformation(record))
        publish(f"{parameters.target}-tests", summaries.tests(record))
        publish(f"{parameters.target}-run", summaries.run(record, failure))
    log.info("Target %s is done in %.1f s.", parameters.target, record["seconds"])
    return record


def _run_stages(
    session: DbtSession,
    parameters: Parameters,
    policies: StagePolicies,
    run_stage: RunStage,
    record: dict[str, Any],
) -> None:
    """Look at what can be wrong, then run each stage; the record grows as they end."""
    names = ingestion.sources() if parameters.sources is None else parameters.sources
    for name in names:
        ingestion.source_function(name)
    session.check_connection()
    if session.has_packages():
        run_stage("dbt-deps", policies.dbt_deps, lambda _: session.install_packages())
    selection = Selection(parameters.select, parameters.exclude)
    selected = session.selected(selection)

    record["ingest"] = {}
    for name in [] if "ingest" in parameters.skip else names:
        work = ingestion.ingest_work(name, session.profile)
        record["ingest"][name] = run_stage(f"ingest-{name}", policies.ingest, work)
    for stage, (command, types) in DBT_STAGES.items():
        nodes = [node for kind in types for node in selected.get(kind, [])]
        if stage in parameters.skip or not nodes:
            why = "as asked" if stage in parameters.skip else "nothing selected"
            record[stage] = {"skipped": why}
            continue
        flags = ["--full-refresh"] if _refreshes(stage, parameters) else []
        arguments = selection.arguments()
        dbt = DbtStage(session, f"dbt-{stage}", command, arguments, len(nodes), flags)
        try:
            policy: StagePolicy = getattr(policies, f"dbt_{stage}")
            record[stage] = run_stage(dbt.name, policy, dbt.attempt)
        except StageFailed as error:
            record[stage] = error.record
            raise
    if "run" not in parameters.skip:
        marts = [node for node in selected.get("model", []) if _is_mart(session, node)]
        record["marts"] = session.row_counts(marts)


def _refreshes(stage: Stage, parameters: Parameters) -> bool:
    return parameters.full_refresh and stage in ("seed", "run")


def _is_mart(session: DbtSession, unique_id: str) -> bool:
    return "marts" in session.manifest.nodes[unique_id].fqn


def _publish(key: str, markdown: str) -> None:
    create_markdown_artifact(markdown, key=key)


@exits_with_expected_errors
def main(
    target: Annotated[str, typer.Option(help="Name of the target.")] = "dev",
    source: Annotated[
        list[str] | None, typer.Option(help="Source to ingest; repeatable. All by default.")
    ] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="Nodes to run, in dbt's syntax; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Nodes to leave out, in dbt's syntax; repeatable.")
    ] = None,
    full_refresh: Annotated[
        bool, typer.Option("--full-refresh", help="Rebuild incremental models and seeds.")
    ] = False,
    vars: Annotated[str, typer.Option(help="Variables of the dbt project, as JSON.")] = "{}",
    skip: Annotated[
        list[str] | None, typer.Option(help=f"Stage to leave out; repeatable: {', '.join(STAGES)}.")
    ] = None,
    no_prefect: Annotated[
        bool,
        typer.Option("--no-prefect", help="Without a Prefect API: the target of dbt/profiles.yml."),
    ] = False,
) -> None:
    """Ingest the sources, then run and test the dbt models of a target."""
    console = Console()
    parameters = _parse(target, source, select, exclude, full_refresh, vars, skip)
    if no_prefect:
        record = _run_without_prefect(parameters)
    else:
        record = _run_with_prefect(parameters, console)
    summaries.print_run(console, record)


def _parse(
    target: str,
    source: list[str] | None,
    select: list[str] | None,
    exclude: list[str] | None,
    full_refresh: bool,
    vars: str,
    skip: list[str] | None,
) -> Parameters:
    try:
        return Parameters.model_validate(
            {
                "target": target,
                "sources": source or None,
                "select": select or [],
                "exclude": exclude or [],
                "full_refresh": full_refresh,
                "vars": json.loads(vars),
                "skip": skip or [],
            }
        )
    except (ValidationError, json.JSONDecodeError) as error:
        faults = (
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            if isinstance(error, ValidationError)
            else f"vars: not JSON: {error}"
        )
        raise ConfigurationError(
            f"Invalid parameters: {faults}.",
            where="the command line",
            mend="uv run python prefect_flows/pipeline.py --help lists what can be given",
        ) from error


def _run_with_prefect(parameters: Parameters, console: Console) -> dict[str, Any]:
    with prefect_client():
        pass  # an API that is down is said at once, and not after Prefect's own retries
    state = dbt_full_pipeline(**parameters.model_dump(), return_state=True)
    url = url_for("flow-run", obj_id=state.state_details.flow_run_id)
    result = state.data if isinstance(state.data, BaseException) else state.result()
    console.print(f"Flow run: {url}", soft_wrap=True)
    if isinstance(result, BaseException):
        raise result
    return dict(result)


def _run_without_prefect(parameters: Parameters) -> dict[str, Any]:
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S"
    )
    log = logging.getLogger("millrace")
    log.setLevel(logging.INFO)
    settings = load_settings()
    profile = profile_from_file(settings.profiles_file, parameters.target)
    return run_pipeline(parameters, profile, settings, as_function, lambda _key, _text: None, log)


if __name__ == "__main__":
    typer.run(main)
