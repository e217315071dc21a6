"""Flow and command line of the source youtube__channels.

uv run millrace ingest youtube__channels --target dev @GoogleDevelopers
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from prefect import flow

from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.names import TargetName
from prefect_flows.source_flow import ingest_target, name_source_run


@flow(name="ingest-youtube-channels", flow_run_name=name_source_run, persist_result=False)
def ingest_youtube_channels(
    channels: list[str],
    target: TargetName = "dev",
    quota_budget: int = 10_000,
    statistics_days: int | None = None,
    full_refresh: bool = False,
) -> dict[str, Any]:
    """Load channels, videos, and the statistics of the day into `raw_youtube__channels`.

    Args:
        channels: Ids (UC…) or handles (@…).
        target: Name of the target; its block `dbt-cli-profile-<target>` is made by setup.
        quota_budget: Units of YouTube's quota that the load may spend; a call costs one.
        statistics_days: Age up to which a video's statistics are requested; all by default.
        full_refresh: Read all videos again, whatever was loaded before.

    Returns:
        A plain record: new rows per table, seconds, load ids.
    """
    arguments = {
        "channels": channels,
        "statistics_days": statistics_days,
        "full_refresh": full_refresh,
    }
    return ingest_target("youtube__channels", target, quota_budget=quota_budget, **arguments)


@exits_with_expected_errors
def main(
    channels: Annotated[list[str], typer.Argument(help="Ids (UC…) or handles (@…).")],
    target: Annotated[str, typer.Option(help="Name of the target.")] = "dev",
    quota_budget: Annotated[int, typer.Option(help="Units to spend at most.")] = 10_000,
    statistics_days: Annotated[int | None, typer.Option(help="Age in days; all.")] = None,
    full_refresh: Annotated[bool, typer.Option("--full-refresh", help="Read all again.")] = False,
) -> None:
    """Load channels, videos, and the statistics of the day."""
    ingest_youtube_channels(channels, target, quota_budget, statistics_days, full_refresh)


if __name__ == "__main__":
    typer.run(main)
