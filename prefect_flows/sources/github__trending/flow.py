"""Flow and command line of the source github__trending.

uv run millrace ingest github__trending --target dev --language Rust
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from prefect import flow

from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.names import TargetName
from prefect_flows.source_flow import ingest_target, name_source_run


@flow(name="ingest-github-trending", flow_run_name=name_source_run, persist_result=False)
def ingest_github_trending(
    target: TargetName = "dev",
    language: str | None = "Python",
    days: int = 7,
    stars_min: int = 100,
    full_refresh: bool = False,
) -> dict[str, Any]:
    """Load repositories of the last days that gathered stars into `raw_github__trending`.

    Args:
        target: Name of the target; its block `dbt-cli-profile-<target>` is made by setup.
        language: As GitHub names it; empty for all of them.
        days: How many days before today a repository may have been made.
        stars_min: How many stars it has at least.
        full_refresh: Write every repository, also those that did not change.

    Returns:
        A plain record: new rows per table, seconds, load ids.
    """
    search = {"language": language, "days": days, "stars_min": stars_min}
    return ingest_target("github__trending", target, **search, full_refresh=full_refresh)


@exits_with_expected_errors
def main(
    target: Annotated[str, typer.Option(help="Name of the target.")] = "dev",
    language: Annotated[str, typer.Option(help="As GitHub names it; '' for all.")] = "Python",
    days: Annotated[int, typer.Option(help="Age in days of the oldest repository.")] = 7,
    stars_min: Annotated[int, typer.Option(help="Stars it has at least.")] = 100,
    full_refresh: Annotated[bool, typer.Option("--full-refresh", help="Write all again.")] = False,
) -> None:
    """Load repositories of the last days that gathered stars."""
    ingest_github_trending(target, language, days, stars_min, full_refresh)


if __name__ == "__main__":
    typer.run(main)
