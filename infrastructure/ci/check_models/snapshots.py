"""SQL around the query of a snapshot, with which it returns the columns of the snapshot's table."""

from __future__ import annotations

from typing import Any

# dbt's names, unless `snapshot_meta_column_names` has others.
META_COLUMNS = ("dbt_scd_id", "dbt_updated_at", "dbt_valid_from", "dbt_valid_to", "dbt_is_deleted")
TEXT = {"postgres": "text", "bigquery": "string"}
# What `snapshot_get_time()` returns.
NOW = {"postgres": "timestamp without time zone", "bigquery": "timestamp"}


def wrap_snapshot(node: Any, warehouse: str) -> tuple[str, str]:
    """Return the SQL before and after the query of a snapshot.

    It reads the columns that the configuration names, so that the engine refuses one that the query
    does not return.
    """
    config = node.config
    names = config.snapshot_meta_column_names
    scd_id, updated_at, valid_from, valid_to, is_deleted = (
        getattr(names, name, None) or name for name in META_COLUMNS
    )
    text, now = TEXT[warehouse], NOW[warehouse]
    keys = config.unique_key if isinstance(config.unique_key, list) else [config.unique_key]
    read = [str(key) for key in keys if key]
    if isinstance(config.check_cols, list):
        read += map(str, config.check_cols)
    when = str(config.updated_at) if config.updated_at else f"cast(null as {now})"
    added = [
        # A concatenation of texts would not show which columns are missing.
        f"case when {' is null or '.join(read)} is null then cast(null as {text}) end as {scd_id}"
        if read
        else f"cast(null as {text}) as {scd_id}",
        f"{when} as {updated_at}",
        f"{when} as {valid_from}",
        f"nullif({when}, {when}) as {valid_to}",
    ]
    if config.get("hard_deletes") == "new_record":
        added.append(f"cast(null as {text}) as {is_deleted}")
    return f"select *, {', '.join(added)} from (\n", "\n) sbq"  # noqa: S608 (only analyzed)
