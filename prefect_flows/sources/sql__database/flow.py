"""Flow and command line of the source sql__database.

uv run millrace ingest sql__database --target dev --tables '{"orders": null}'
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from prefect import flow

from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.names import TargetName
from prefect_flows.source_flow import ingest_target, name_source_run
from prefect_flows.sources.sql__database.table_config import parse_tables


@flow(name="ingest-sql-database", flow_run_name=name_source_run, persist_result=False)
def ingest_sql_database(
    tables: dict[str, dict[str, Any] | None],
    target: TargetName = "dev",
    schema_name: str | None = None,
) -> dict[str, Any]:
    """Load tables and queries of a database into `raw_sql__database`.

    Args:
        tables: Name of the table here, and what is read into it: nothing for the table of that
            name, or table, schema_name, query, key, cursor, lag_seconds, deletes, columns.
        target: Name of the target; its block `dbt-cli-profile-<target>` is made by setup. The
            database is that of the block `sql-database-url-<target>`.
        schema_name: The source's schema; the database's default one when not given.

    Returns:
        A plain record: new rows per table, seconds, load ids.
    """
    return ingest_target("sql__database", target, tables=tables, schema_name=schema_name)


@exits_with_expected_errors
def main(
    tables: Annotated[
        Any,
        typer.Option(parser=parse_tables, help="What is read, as JSON: table, and its options."),
    ],
    target: Annotated[str, typer.Option(help="Name of the target.")] = "dev",
    schema_name: Annotated[str | None, typer.Option(help="The source's schema.")] = None,
) -> None:
    """Load tables and queries of a database."""
    ingest_sql_database(tables, target, schema_name)


if __name__ == "__main__":
    typer.run(main)
