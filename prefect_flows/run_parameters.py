"""What a run was asked to do: sources, parameters of the run that it repeats, secrets."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

from pydantic import ValidationError

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.formatting import one_line
from prefect_flows.core.logger import Logger
from prefect_flows.core.passwords import find_passwords
from prefect_flows.core.profiles import Profile
from prefect_flows.core.settings import Settings
from prefect_flows.ingest import source_registry
from prefect_flows.runtime.parameters import Parameters
from prefect_flows.state.runs import find_failed_run, runs_folder
from prefect_flows.state.store import StateStore

_RUN_PARAMETERS = "the parameters of the run"


def check_parameters(parameters: Parameters) -> None:
    """Refuse parameters that are not valid, or contradict one another.

    Raises:
        ConfigurationError: the dates of a backfill are not two days in order or come with
            `full_refresh`, the sample is not a time, or two of dates, empty and sample are given.
    """
    first, last = parameters.from_date, parameters.to_date
    dates = [day for day in (first, last) if day is not None]
    if bool(dates) + parameters.empty + (parameters.sample is not None) > 1:
        raise ConfigurationError(
            "A backfill, `--empty` and `--sample` exclude one another.",
            where=_RUN_PARAMETERS,
            fix=f"give one of them: {pipeline_command(parameters.target, '--sample', '3 days')}",
        )
    if parameters.sample is not None:
        _check_sample(parameters.sample, parameters.target)
    if dates:
        _check_dates(parameters, dates)


def _check_dates(parameters: Parameters, dates: Sequence[date]) -> None:
    first, last = parameters.from_date, parameters.to_date
    today = datetime.now(UTC).date()
    if first is None or last is None:
        fault = f"`--{'to' if first is None else 'from'}` is given without the other date"
    elif first > last:
        fault = f"`--from {first}` is after `--to {last}`"
    elif last > today:
        fault = f"`--to {last}` is in the future, today is {today} in UTC"
    elif parameters.full_refresh:
        fault = "`--full-refresh` would leave only the rows of these days in microbatch models"
    else:
        return
    days = [min(day, today) for day in dates]
    example = ("--from", str(min(days)), "--to", str(max(days)))
    raise ConfigurationError(
        f"The backfill is not possible: {fault}.",
        where=f"{_RUN_PARAMETERS}, `from_date` and `to_date`",
        fix=f"give the first and the last day: {pipeline_command(parameters.target, *example)}",
    )


def _check_sample(sample: str, target: str) -> None:
    import click
    from dbt.cli.option_types import SampleType

    try:
        SampleType().convert(sample, click.Option(["--sample"]), None)
    except click.BadParameter as error:
        raise ConfigurationError(
            f"The sample {sample!r} is not a time: {one_line(error.message)}",
            where=f"{_RUN_PARAMETERS}, `sample`",
            fix=f"give a number of hours, days, months or years before now: "
            f"{pipeline_command(target, '--sample', '3 days')}; or begin and end: "
            "--sample \"{start: '2026-11-01', end: '2026-11-02'}\"",
        ) from error


def refuse_on_production(parameters: Parameters, profile: Profile, settings: Settings) -> None:
    """Refuse runs for development on a target whose tables somebody relies on.

    Raises:
        ConfigurationError: the run is one, and the target publishes or is a production target.
    """
    if not parameters.is_development:
        return
    option = "--empty" if parameters.empty else "--sample"
    named = [name.strip() for name in settings.production_targets.split(",")]
    if profile.publishes:
        where = f"`publish = true` of target {parameters.target!r} in Terraform's outputs"
    elif parameters.target in named:
        where = f"MILLRACE_PRODUCTION_TARGETS={settings.production_targets}"
    else:
        return
    value = () if parameters.sample is None else (parameters.sample,)
    raise ConfigurationError(
        f"`{option}` is for development, and target {parameters.target!r} is for production: its "
        "tables would lose their rows.",
        where=where,
        fix=f"run it on another target: {pipeline_command('dev', option, *value)}",
    )


def refuse_plaintext_secrets(parameters: Parameters) -> None:
    """Refuse secrets in the parameters of a run, before anything stores them.

    Raises:
        ConfigurationError: there is a secret, or a named source does not exist.
    """
    if not parameters.source_arguments and not any(find_passwords(parameters.vars, "vars")):
        return
    for name in parameters.source_arguments:
        source_registry.require_source(name)
    # This imports dlt and Arrow, which takes half a second and 75 MB; most runs do not need it.
    from prefect_flows.ingest.arguments import refuse_secrets

    refuse_secrets(parameters.source_arguments, parameters.target, parameters.vars)


def load_failed_parameters(parameters: Parameters, store: StateStore, log: Logger) -> Parameters:
    """Return the parameters of the target's last run, which failed, for `--failed`.

    Raises:
        ConfigurationError: the last run passed, or other parameters than its own were given.
    """
    target = parameters.target
    failed = find_failed_run(store, target, log.warning)
    if failed is None:
        raise ConfigurationError(
            f"Target {target!r} has no run that failed: its last run passed, or it never ran.",
            where=f"{store.url}/{runs_folder(target)}",
            fix=f"run all of it: {pipeline_command(target)}",
        )
    try:
        previous = Parameters.model_validate(failed.header.parameters)
    except ValidationError as error:
        raise ConfigurationError(
            f"The last run of target {target!r} had parameters that this version does not know.",
            where=f"{store.url}/{failed.folder}/run.json",
            fix=f"run all of it: {pipeline_command(target)}",
        ) from error
    given, before = parameters.identity(), previous.identity()
    defaults = Parameters(target=target).identity()
    differing = [name for name in given if given[name] not in (defaults[name], before[name])]
    if differing:
        raise ConfigurationError(
            "`--failed` uses the parameters of the last run, which differ in "
            f"{', '.join(differing)}.",
            where=f"{store.url}/{failed.folder}/run.json",
            fix=f"leave that out: {pipeline_command(target, '--failed')}",
        )
    return previous.model_copy(
        update={"failed": True, "wait": parameters.wait, "verbose": parameters.verbose}
    )


def pipeline_command(target: str, *options: str) -> str:
    """Return the command that runs the pipeline of a target."""
    return shlex.join(["uv", "run", "millrace", "run", "--target", target, *options])


def choose_sources(parameters: Parameters, settings: Settings) -> tuple[list[str], dict[str, Any]]:
    """Return the sources to ingest, and dbt's variables, which enable named disabled sources."""
    off = source_registry.disabled_sources(settings.dbt_project_file, parameters.vars)
    if parameters.sources is None:
        return [name for name in source_registry.source_names() if name not in off], dict(
            parameters.vars
        )
    chosen = list(dict.fromkeys(parameters.sources))
    enabled = set(off) & set(chosen)
    still_off = {source_registry.DISABLED_VARIABLE: [name for name in off if name not in enabled]}
    return chosen, parameters.vars | (still_off if enabled else {})
