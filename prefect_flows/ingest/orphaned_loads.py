"""Deletes rows of orphaned loads, which a killed run left without their row in `_dlt_loads`.

dlt writes a row of `_dlt_loads` once all rows of a load are in their tables, and restores its state
from such loads only. After a kill, the source therefore returns the same rows again, so the rows of
the killed load have to be deleted from append-only tables first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dlt

# Load ids are Unix seconds as text, which sorts by time until 2286 (ten digits before the point).
# The clocks of machines differ: a load of another machine may have an id that is older than the
# newest completed one, but not by more than this.
MAX_CLOCK_SKEW_SECONDS = 3600


def remove_orphaned_loads(pipeline: dlt.Pipeline, tables: Iterable[str]) -> dict[str, int]:
    """Delete rows of loads that never completed.

    Looks only at rows newer than the newest completed load, less an hour. On Postgres an index of a
    few kilobytes, created once per table, finds them.

    Args:
        pipeline: a pipeline that has been synchronized with the warehouse.
        tables: tables in which such rows would be counted twice; tables that do not exist are
            skipped.

    Returns:
        Deleted rows by table; tables without any are left out.
    """
    removed: dict[str, int] = {}
    with pipeline.destination_client() as destination:
        client: Any = destination.sql_client  # type: ignore[attr-defined]
        if not client.has_dataset():
            return removed
        stored = dict(destination.get_storage_tables(["_dlt_loads", *tables]))  # type: ignore[attr-defined]
        if not stored.pop("_dlt_loads", None):
            return removed
        for table, columns in stored.items():
            if "_dlt_load_id" in columns:
                rows = _delete_orphaned_rows(
                    client, table, postgres=pipeline.destination.destination_name == "postgres"
                )
                if rows:
                    removed[table] = rows
    return removed


def is_complete(pipeline: dlt.Pipeline, load_id: str) -> bool:
    """Return whether `_dlt_loads` marks a load as complete; its client may have missed that."""
    with pipeline.sql_client() as client:
        loads = client.make_qualified_table_name("_dlt_loads")
        sql = f"select count(*) from {loads} where load_id = %s and status = 0"  # noqa: S608
        found: Any = client.execute_sql(sql, load_id)
        ((marks,),) = found
    return bool(marks)


def _delete_orphaned_rows(client: Any, table: str, *, postgres: bool) -> int:
    name, loads = (client.make_qualified_table_name(relation) for relation in (table, "_dlt_loads"))
    completed = f"select load_id from {loads} where status = 0"  # noqa: S608 (dlt's own names)
    ((newest,),) = client.execute_sql(f"select max(load_id) from ({completed}) as completed")  # noqa: S608
    since = "" if newest is None else f"{float(newest) - MAX_CLOCK_SKEW_SECONDS:.6f}"
    if postgres:
        _create_index(client, table, name)
    # `not exists`, since a single null would make `not in` keep all rows.
    orphaned_rows = (
        f"from {name} as loaded where loaded._dlt_load_id > %s and not exists "  # noqa: S608
        f"(select 1 from {loads} as load where load.load_id = loaded._dlt_load_id "
        "and load.status = 0)"
    )
    ((rows,),) = client.execute_sql(f"select count(*) {orphaned_rows}", since)
    if rows:
        client.execute_sql(f"delete {orphaned_rows}", since)
    return int(rows)


def _create_index(client: Any, table: str, name: str) -> None:
    """Create a BRIN index on the load id, which records the loads of each megabyte."""
    index = client.escape_column_name(f"{table[:40]}__dlt_load_id_brin")
    client.execute_sql(f"create index if not exists {index} on {name} using brin (_dlt_load_id)")
    qualified = f"{client.fully_qualified_dataset_name()}.{index}"
    client.execute_sql("select brin_summarize_new_values(%s::regclass)", qualified)
