"""Rows of loads that never completed: a run was killed between loading and marking.

dlt writes a row of `_dlt_loads` when all of a load is in its tables, and restores its state from
such loads only. So after a kill the source gives the same rows again; what the killed load left
behind in a table that only grows has to go first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dlt

# Load ids are seconds since 1970, as text: of the same number of digits before the point until
# 2286, so that their order as text is that of time. Machines' clocks differ: a load that another
# machine began may have an older id than the newest completed one, but not by more than this.
CLOCKS_DIFFER_SECONDS = 3600


def remove_orphaned_loads(pipeline: dlt.Pipeline, tables: Iterable[str]) -> dict[str, int]:
    """Delete rows of loads that never completed.

    Only rows newer than the newest completed load, less an hour, are looked at. On Postgres they
    are found through an index of a few kilobytes, which is made once a table.

    Args:
        pipeline: knows the warehouse, and has been synchronized with it.
        tables: names of tables whose rows would be counted twice; those that do not exist are
            left out.

    Returns:
        Rows deleted, by table; tables without any are left out.
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
                rows = _remove(
                    client, table, postgres=pipeline.destination.destination_name == "postgres"
                )
                if rows:
                    removed[table] = rows
    return removed


def is_complete(pipeline: dlt.Pipeline, load_id: str) -> bool:
    """Whether a load has its mark: whoever began it may not have heard."""
    with pipeline.sql_client() as client:
        loads = client.make_qualified_table_name("_dlt_loads")
        sql = f"select count(*) from {loads} where load_id = %s and status = 0"  # noqa: S608
        found: Any = client.execute_sql(sql, load_id)
        ((marks,),) = found
    return bool(marks)


def _remove(client: Any, table: str, *, postgres: bool) -> int:
    name, loads = (client.make_qualified_table_name(of) for of in (table, "_dlt_loads"))
    completed = f"select load_id from {loads} where status = 0"  # noqa: S608 (dlt's own names)
    ((newest,),) = client.execute_sql(f"select max(load_id) from ({completed}) as completed")  # noqa: S608
    since = "" if newest is None else f"{float(newest) - CLOCKS_DIFFER_SECONDS:.6f}"
    if postgres:
        _index(client, table, name)
    # `not exists`, since `not in` would keep all rows for one null.
    unfinished = (
        f"from {name} as loaded where loaded._dlt_load_id > %s and not exists "  # noqa: S608
        f"(select 1 from {loads} as load where load.load_id = loaded._dlt_load_id "
        "and load.status = 0)"
    )
    ((rows,),) = client.execute_sql(f"select count(*) {unfinished}", since)
    if rows:
        client.execute_sql(f"delete {unfinished}", since)
    return int(rows)


def _index(client: Any, table: str, name: str) -> None:
    """An index that knows of each megabyte of the table which loads it holds."""
    index = client.escape_column_name(f"{table[:40]}__dlt_load_id_brin")
    client.execute_sql(f"create index if not exists {index} on {name} using brin (_dlt_load_id)")
    qualified = f"{client.fully_qualified_dataset_name()}.{index}"
    client.execute_sql("select brin_summarize_new_values(%s::regclass)", qualified)
