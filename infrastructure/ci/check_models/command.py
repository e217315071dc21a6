"""`millrace check models` and `millrace check lineage`: check all SQL without a warehouse."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Literal

import typer
from rich.console import Console

from infrastructure.ci.check_models.check import check_project
from infrastructure.ci.check_models.findings import Warehouse
from infrastructure.ci.check_models.formats import format_json, format_sarif, format_text
from infrastructure.ci.dbt_vars import parse_vars
from prefect_flows.core.command_line import EXIT_FAILED, exits_with_expected_errors
from prefect_flows.core.settings import load_settings
from prefect_flows.ingest.source_registry import DISABLED_VARIABLE

app = typer.Typer(add_completion=False)

Vars = Annotated[
    str, typer.Option(help="Variables of the dbt project, as JSON. By default no source is off.")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Check again, even if nothing changed.")]


@app.callback()
def main() -> None:
    """Check the SQL of the dbt project without a warehouse: documentation/check_models.md."""


@app.command()
@exits_with_expected_errors
def models(
    warehouse: Annotated[
        Warehouse | None,
        typer.Option(help="Check for this one only; by default, see check_warehouses."),
    ] = None,
    format: Annotated[  # the name of the option
        Literal["text", "json", "sarif"], typer.Option(help="How to write the errors.")
    ] = "text",
    vars: Vars = "{}",
    no_cache: NoCache = False,
) -> None:
    """Check types, names and columns of all models, tests, snapshots and analyses."""
    settings = load_settings()
    result = check_project(
        settings.dbt_dir,
        settings.local_dir,
        {DISABLED_VARIABLE: []} | parse_vars(vars),
        settings.check_warehouses if warehouse is None else (warehouse,),
        use_cache=not no_cache,
    )
    if format == "text":
        text = format_text(result, settings.project_dir)
    elif format == "json":
        text = format_json(result)
    else:
        text = format_sarif(result, version("millrace"))
    Console(soft_wrap=True, markup=False, highlight=False, emoji=False).print(text)
    if result.findings:
        raise typer.Exit(EXIT_FAILED)


@app.command()
@exits_with_expected_errors
def lineage(
    column: Annotated[str, typer.Argument(metavar="MODEL.COLUMN", help="A column of a model.")],
    vars: Vars = "{}",
    no_cache: NoCache = False,
) -> None:
    """Show where a column comes from, and what uses it."""
    from infrastructure.ci.check_models.lineage import format_lineage

    settings = load_settings()
    result = check_project(
        settings.dbt_dir,
        settings.local_dir,
        {DISABLED_VARIABLE: []} | parse_vars(vars),
        use_cache=not no_cache,
    )
    text = format_lineage(result, column)
    Console(soft_wrap=True, markup=False, highlight=False, emoji=False).print(text)
