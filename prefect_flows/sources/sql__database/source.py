"""Any table or query of a database, whole or from where the last load ended, its types kept.

A SQLAlchemy URL says where. Postgres is read by COPY into Arrow, other databases row by row through
SQLAlchemy. Either way a batch is in memory at a time, whatever the size of the table.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import dlt
from dlt.extract import DltResource

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.ingest.source_load import has_loaded
from prefect_flows.sources.sql__database.copy_export import can_copy, copied
from prefect_flows.sources.sql__database.readers.base import JSON, Column, IncrementalCursor, Reader
from prefect_flows.sources.sql__database.readers.choice import get_reader
from prefect_flows.sources.sql__database.table_config import TableConfig

# Of the table that holds the keys which the source has, when deletes are to be seen.
PRESENT = "_present_keys"
# Names that mean something else in a JSONPath, which is how dlt takes a cursor's name.
JSON_PATH_WORDS = frozenset({"where", "wherenot"})


@dlt.source(name="sql__database")
def sql__database(
    url: dlt.TSecretStrValue,
    tables: dict[str, TableConfig | None],
    schema_name: str | None = None,
    rows_at_once: int = 50_000,
) -> list[DltResource]:
    """Tables and queries of a database.

    Args:
        url: SQLAlchemy URL of the database, its password included.
        tables: name of the table here → what is read into it; nothing for the table of that name.
        schema_name: the source's schema; the database's default one when not given.
        rows_at_once: rows of a batch, of databases other than Postgres.

    Raises:
        ConfigurationError: a table does not exist, has no such column, or lacks the key it needs.
        IngestionError: the database does not answer, or holds a value that cannot be kept.
    """
    reader = get_reader(url, schema_name, rows_at_once)
    resources = []
    for name, dump in tables.items():
        asked = TableConfig.model_validate(dump or {})
        columns, key = reader.describe(name, asked)
        if not _into_postgres():
            # No other warehouse takes JSON from Parquet: it comes as the text that it is.
            columns = {
                column: replace(wanted, hints={}) if wanted.hints == JSON else wanted
                for column, wanted in columns.items()
            }
        _check(name, asked, columns, key)
        resources.append(_rows(reader, name, asked, columns, key))
        if asked.deletes:
            resources.append(_present_keys(reader, name, asked, columns, key))
    return resources


def after_load(pipeline: dlt.Pipeline, loaded: Collection[str]) -> dict[str, int]:
    """Take away the rows whose keys the source does not have any more; rows removed, by table.

    Only of tables whose keys were read in this very load: older ones know nothing of newer rows.
    """
    schema = pipeline.default_schema
    removed = {}
    with pipeline.sql_client() as client:
        for keys in [name for name in loaded if name.endswith(PRESENT)]:
            table = keys.removesuffix(PRESENT)
            mine, theirs = (client.make_qualified_table_name(name) for name in (table, keys))
            same = " and ".join(
                f"present.{column} = mine.{column}"
                for column in map(client.escape_column_name, schema.tables[keys]["columns"])
                if not column.strip('"`').startswith("_dlt")
            )
            gone = (
                f"from {mine} as mine where not exists "  # noqa: S608 (dlt's own names)
                f"(select 1 from {theirs} as present where {same})"
            )
            found: Any = client.execute_sql(f"select count(*) {gone}")
            ((rows,),) = found
            if rows:
                client.execute_sql(f"delete {gone}")
                removed[table] = int(rows)
    return removed


def _check(name: str, dump: TableConfig, columns: Mapping[str, Column], key: list[str]) -> None:
    """Refuse what would lose rows or count them twice, before anything is read."""
    faults = [
        f"there is no column {column!r}; there are {', '.join(columns)}"
        for column in [*key, *([dump.cursor] if dump.cursor else [])]
        if column not in columns
    ]
    if not key and (dump.deletes or dump.lag_seconds is not None):
        faults.append("`deletes` and `lag_seconds` need a key, and the table has none")
    described = columns.get(dump.cursor or "")
    if described is not None and described.ordered is None:
        faults.append(
            f"the cursor {dump.cursor!r} is of a type whose order may be another one in the source "
            "than here; a number, date or timestamp can be one, and text, uuid of Postgres"
        )
    if dump.cursor == "*":
        faults.append("a cursor cannot be called '*'")
    naming = dlt.current.source_schema().naming
    if (here := naming.normalize_identifier(name)) != name:
        faults.append(f"it would be called {here!r} here; write {here}: {{table: …}}")
    named: dict[str, list[str]] = {}
    for column in columns:
        named.setdefault(naming.normalize_identifier(column), []).append(column)
    faults += [
        f"columns {', '.join(map(repr, same))} would all be called {here!r} here"
        for here, same in named.items()
        if len(same) > 1
    ]
    if faults:
        raise ConfigurationError(
            f"Table {name!r} cannot be dumped: {'; '.join(faults)}.",
            where=f"tables.{name} of the arguments of source 'sql__database'",
            fix="correct it there; a query can rename columns: select a as b from …",
        )


def _rows(
    reader: Reader, name: str, dump: TableConfig, columns: Mapping[str, Column], key: list[str]
) -> DltResource:
    incremental: dlt.sources.incremental[Any] | None = None
    if dump.cursor is not None:
        incremental = dlt.sources.incremental(
            _json_path(dump.cursor),
            lag=dump.lag_seconds,
            # With a key, a row that comes twice is one row. Without, none is read again.
            range_start="closed" if key else "open",
            on_cursor_value_missing="include" if key else "raise",
            # Rows with the last value are read again and merged: no need to know which they were.
            primary_key=(),
        )
    later: Any = "replace" if dump.cursor is None else "merge" if key else "append"

    def rows() -> Iterator[Any]:
        # The first load has nothing to replace and nobody to hide from: rows are simply added, and
        # taken away again should it not complete.
        disposition: Any = later if has_loaded(name) else "append"
        since = None
        if incremental is not None and incremental.last_value is not None:
            since = IncrementalCursor(str(dump.cursor), incremental.last_value, again=bool(key))
            _check_last_value(name, since, columns)
        as_text = _goes_as_text(name, columns)
        hints = dlt.mark.make_hints(
            write_disposition=disposition,
            file_format="insert_values" if as_text else "parquet",
        )
        if dump.cursor is None and _into_postgres() and not as_text and can_copy(reader):
            yield from copied(reader, name, dump, columns, hints)
            return
        for batch in reader.read(name, dump, columns, since, as_text=as_text):
            yield dlt.mark.with_hints(batch, hints)

    contract: Any = {"tables": "evolve", "columns": dump.columns, "data_type": "freeze"}
    resource: DltResource = dlt.resource(
        rows,
        name=name,
        primary_key=tuple(key),
        columns=_hints(columns),
        incremental=incremental,
        write_disposition=later,
        schema_contract=contract,
    )
    return resource


def _json_path(column: str) -> str:
    """The path by which dlt finds a column: its name, quoted where that is no path or another."""
    if re.fullmatch("[A-Za-z_][A-Za-z0-9_-]*", column) and column not in JSON_PATH_WORDS:
        return column
    return '"' + re.sub(r'(["\\])', r"\\\1", column) + '"'


def _check_last_value(name: str, since: IncrementalCursor, columns: Mapping[str, Column]) -> None:
    """Refuse to go on from a number that was kept as text: the highest text is another value.

    Raises:
        ConfigurationError: the load before was one of a version that compared such numbers as text.
    """
    if isinstance(since.value, str) and columns[since.cursor].arrow is not None:
        raise ConfigurationError(
            f"Table {name!r}: the loads before compared the cursor {since.cursor!r} as text, in "
            "which 9 is more than 12. Rows may be missing.",
            where=f"tables.{name} of the arguments of source 'sql__database'",
            fix=f"load it whole under another name: {name}_again: {{table: …, cursor: …}}",
        )


def _hints(columns: Mapping[str, Column]) -> Any:
    """What dlt is told of columns, where Arrow does not say it."""
    return {
        name: {"name": name, **column.hints} for name, column in columns.items() if column.hints
    }


def _into_postgres() -> bool:
    """Whether the warehouse that is loaded into is a Postgres."""
    return bool(dlt.current.pipeline().destination.destination_name == "postgres")


def _goes_as_text(name: str, columns: Mapping[str, Column]) -> bool:
    """Whether Postgres is to be given text: of a number with more than 38 digits.

    ADBC takes 0.7 ms for each such value, 500 times as long as for others. A table that had such
    a column keeps to text, since dlt makes another type of JSON columns for it.
    """
    if not _into_postgres():
        return False
    before = dlt.current.source_schema().tables.get(name, {}).get("columns", {})
    known: list[Mapping[str, Any]] = [c.hints for c in columns.values()]
    return any(
        c.get("data_type") == "decimal" and (c.get("precision") or 0) > 38
        for c in (*known, *before.values())
    )


def _present_keys(
    reader: Reader, name: str, dump: TableConfig, columns: Mapping[str, Column], key: list[str]
) -> DltResource:
    """The keys that the source has. Read after the rows: a row that comes meanwhile is not lost."""
    of_key = {column: columns[column] for column in key}

    def keys() -> Iterator[Any]:
        yield from reader.read(name, dump, of_key, None)

    return dlt.resource(
        keys,
        name=f"{name}{PRESENT}",
        columns=_hints(of_key),
        write_disposition="replace",
    )
