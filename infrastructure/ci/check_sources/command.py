"""`millrace check sources`: check that every source follows the conventions."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from infrastructure.ci.check_sources.check import CheckResult, check_across_sources, check_source
from infrastructure.ci.check_sources.folder import list_sources, new_source_command
from prefect_flows.core.command_line import EXIT_FAILED, exits_with_expected_errors
from prefect_flows.core.errors import ConfigurationError, did_you_mean
from prefect_flows.core.settings import load_settings

app = typer.Typer(add_completion=False)


@app.command()
@exits_with_expected_errors
def check_sources(
    source: Annotated[
        list[str] | None, typer.Option(help="Only this source; repeatable. All by default.")
    ] = None,
) -> None:
    """List every fault of the sources' folders, with its file and what fixes it."""
    console = Console(soft_wrap=True, markup=False, highlight=False)
    settings = load_settings()
    known = {each.name: each for each in list_sources(settings)}
    unknown = [name for name in source or [] if name not in known]
    if unknown:
        raise ConfigurationError(
            f"There is no source {', '.join(map(repr, unknown))}; there are: "
            f"{', '.join(known) or 'none'}."
            f"{did_you_mean(unknown[0], known)}",
            where=str(settings.sources_dir),
            fix=f"name one of them, or make it: {new_source_command(settings)}",
        )
    results = [check_source(known[name]) for name in source or known]
    if not source and (shared := list(check_across_sources(settings))):
        results.append(CheckResult("all", shared))
    for result in results:
        if not result.faults:
            console.print(f"{result.name}: in order: {result.summary}")
        for fault in result.faults:
            console.print(f"{result.name}: {fault}")
    faults = sum(len(each.faults) for each in results)
    if faults:
        console.print(f"{faults} fault(s); documentation/sources.md says what a source is.")
        raise typer.Exit(EXIT_FAILED)
