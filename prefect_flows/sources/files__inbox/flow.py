"""Flow and command line of the source files__inbox.

uv run millrace ingest files__inbox --target dev
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from prefect import flow

from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.names import TargetName
from prefect_flows.ingest.arguments import refuse_secrets
from prefect_flows.source_flow import ingest_target, name_source_run


@flow(name="ingest-files-inbox", flow_run_name=name_source_run, persist_result=False)
def ingest_files_inbox(
    target: TargetName = "dev", url: str | None = None,
    tables: dict[str, str] | None = None,
    types: dict[str, dict[str, str]] | None = None,
    delimiter: str | None = None,
    nulls: list[str] | None = None, escape: str | None = None,
    min_age_seconds: float | None = None,
    retry_quarantined: bool = False, full_refresh: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Load the new files of a folder or bucket into `raw_files__inbox`; returns a plain record.

    Args:
        target: Name of the target; its block `dbt-cli-profile-<target>` is made by setup.
        url: Folder, s3://bucket/folder or gs://bucket/folder; default: from prefect.yaml.
        tables: Glob pattern of each table's files; by default the first folder names the table.
        types: Types of columns by table, as in {"orders": {"amount": "decimal(18,2)"}}.
        delimiter: Between the values of CSV files, the comma by default.
        nulls: What stands for null in CSV files besides the empty value.
        escape: The character of CSV files that makes the one after it an ordinary one.
        min_age_seconds: Files changed later than this long ago (5) are left for the next run.
        retry_quarantined: Look again at files that were refused and have not changed.
        full_refresh: Load every file again, in place of the rows that it gave before.
    """
    return ingest_target("files__inbox", **locals())


@exits_with_expected_errors
def main(
    target: Annotated[str, typer.Option(help="Name of the target.")] = "dev",
    url: Annotated[str | None, typer.Option(help="Default: from prefect.yaml.")] = None,
    full_refresh: Annotated[bool, typer.Option(help="Load every file again.")] = False,
    retry_quarantined: Annotated[bool, typer.Option(help="Look at refused files again.")] = False,
) -> None:
    """Load the new files of a folder or bucket; further parameters are set in a deployment."""
    refuse_secrets({"files__inbox": {"url": url}}, target)  # Prefect stores the parameters of a run
    ingest_files_inbox(target, url, full_refresh=full_refresh, retry_quarantined=retry_quarantined)


if __name__ == "__main__":
    typer.run(main)
