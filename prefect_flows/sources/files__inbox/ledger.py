"""Ledger table `_files`: status of each file (loaded, quarantined), which decides what is new.

It is loaded in the same load package as the rows, and only ledger rows of complete packages count.
Unlike dlt's state, users can query it in the warehouse, and it does not rewrite a text that grows
with each file.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import dlt
import pyarrow as pa
from dlt.destinations.exceptions import DatabaseUndefinedRelation

from prefect_flows.sources.files__inbox.column_types import BIGINT, TEXT, TIMESTAMP
from prefect_flows.sources.files__inbox.inbox import File

TABLE = "_files"
# Table name of files that belong to no table.
NO_TABLE = ""
SCHEMA = pa.schema(
    {
        "table_name": TEXT,
        "file": TEXT,
        "status": TEXT,
        "stamp": TEXT,
        "sha256": TEXT,
        "reason": TEXT,
        "size_bytes": BIGINT,
        "row_count": BIGINT,
        "line_number": BIGINT,
        "modified_at": TIMESTAMP,
        "_loaded_at": TIMESTAMP,
    }
)
LOADED, UNCHANGED, QUARANTINED, REPLACED = "loaded", "unchanged", "quarantined", "replaced"
# Files per statement.
_FILES_PER_UPDATE = 500


@dataclass
class FileStatus:
    """Status of a file over all completed loads.

    Attributes:
        stamp: stamp of the file when it was last read.
        has_rows: whether it was loaded.
        digest: SHA-256 of the content that was loaded.
        is_quarantined: whether its last content was refused.
        is_being_replaced: whether a load started to replace its rows, and did not finish.
    """

    stamp: str = ""
    has_rows: bool = False
    digest: str = ""
    is_quarantined: bool = False
    is_being_replaced: bool = False


def read_known_files(pipeline: dlt.Pipeline, table: str) -> dict[str, FileStatus]:
    """Return the files of a table that completed loads have loaded or refused, by name."""
    with pipeline.sql_client() as client:
        files, loads = (client.make_qualified_table_name(name) for name in (TABLE, "_dlt_loads"))
        try:
            rows = client.execute_sql(
                f"select file, status, stamp, sha256 from {files} "  # noqa: S608 (dlt's own names)
                f"where table_name = %s and _dlt_load_id in "
                f"(select load_id from {loads} where status = 0) order by _dlt_load_id",
                table,
            )
        except DatabaseUndefinedRelation:
            return {}
    known: dict[str, FileStatus] = {}
    for file, status, stamp, digest in rows or ():
        entry = known.setdefault(file, FileStatus())
        entry.stamp = stamp
        entry.is_quarantined = status == QUARANTINED
        if status in (LOADED, REPLACED):
            entry.has_rows = True
            entry.digest = digest
            entry.is_being_replaced = status == REPLACED
    return known


def mark_replaced(pipeline: dlt.Pipeline, table: str, files: list[str]) -> None:
    """Mark files as being replaced, before their rows are deleted.

    If the load is then killed, the next one loads these files again even if they did not change.
    """
    with pipeline.sql_client() as client:
        name = client.make_qualified_table_name(TABLE)
        for start in range(0, len(files), _FILES_PER_UPDATE):
            some = files[start : start + _FILES_PER_UPDATE]
            client.execute_sql(
                f"update {name} set status = %s where table_name = %s "  # noqa: S608
                f"and status = %s and file in ({', '.join(['%s'] * len(some))})",
                *(REPLACED, table, LOADED, *some),
            )


def build_entry(
    table: str, file: File, status: str, *, digest: str | None = None, rows: int = 0,
    line: int | None = None, reason: str | None = None,
) -> dict[str, object]:  # fmt: skip
    """Build a row of the ledger."""
    return {
        "table_name": table,
        "file": file.name,
        "status": status,
        "stamp": file.stamp,
        "sha256": digest,
        "reason": reason,
        "size_bytes": file.size,
        "row_count": rows,
        "line_number": line,
        "modified_at": file.modified_at,
        "_loaded_at": datetime.now(UTC),
    }
