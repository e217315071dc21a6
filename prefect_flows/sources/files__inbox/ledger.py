"""The table `_files`: what became of each file, and so which files are new.

It is loaded in the same package as the rows, and read only where that package is complete. It says
in the warehouse, to people too, what dlt's state would say in a text that grows with each file and
is written anew by each load.
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
# Of the files whose names are no table's.
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
# Names in one statement.
_AT_ONCE = 500


@dataclass
class FileStatus:
    """What the ledger says of a file, all loads taken together.

    Attributes:
        stamp: of the file when it was last looked at.
        has_rows: it was loaded.
        digest: of the content that was loaded.
        is_quarantined: what was last looked at was refused.
        is_being_replaced: a load began to replace its rows, and did not end.
    """

    stamp: str = ""
    has_rows: bool = False
    digest: str = ""
    is_quarantined: bool = False
    is_being_replaced: bool = False


def known_files(pipeline: dlt.Pipeline, table: str) -> dict[str, FileStatus]:
    """The files of a table that completed loads took or refused, by name."""
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
    """Say that the rows of these files may be gone from now on, before they are.

    A load that is killed while it replaces them is then done again, whatever the files look like.
    """
    with pipeline.sql_client() as client:
        name = client.make_qualified_table_name(TABLE)
        for start in range(0, len(files), _AT_ONCE):
            some = files[start : start + _AT_ONCE]
            client.execute_sql(
                f"update {name} set status = %s where table_name = %s "  # noqa: S608
                f"and status = %s and file in ({', '.join(['%s'] * len(some))})",
                *(REPLACED, table, LOADED, *some),
            )


def entry(
    table: str, file: File, status: str, *, digest: str | None = None, rows: int = 0,
    line: int | None = None, reason: str | None = None,
) -> dict[str, object]:  # fmt: skip
    """A row of the ledger."""
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
