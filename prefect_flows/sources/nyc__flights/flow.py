"""Flow and command line of the source nyc__flights.

uv run millrace ingest nyc__flights --target dev
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from prefect import flow

from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.names import TargetName
from prefect_flows.source_flow import ingest_target, name_source_run


@flow(name="ingest-nyc-flights", flow_run_name=name_source_run, persist_result=False)
def ingest_nyc_flights(target: TargetName = "dev", full_refresh: bool = False) -> dict[str, Any]:
    """Load a year of flights out of New York City into `raw_nyc__flights`.

    Args:
        target: Name of the target; its block `dbt-cli-profile-<target>` is made by setup.
        full_refresh: Load every file as a whole, whatever was loaded before.

    Returns:
        A plain record: new rows per table, seconds, load ids.
    """
    return ingest_target("nyc__flights", target, full_refresh=full_refresh)


@exits_with_expected_errors
def main(
    target: Annotated[str, typer.Option(help="Name of the target.")] = "dev",
    full_refresh: Annotated[
        bool, typer.Option("--full-refresh", help="Load every file as a whole.")
    ] = False,
) -> None:
    """Load a year of flights out of New York City."""
    ingest_nyc_flights(target, full_refresh)


if __name__ == "__main__":
    typer.run(main)
