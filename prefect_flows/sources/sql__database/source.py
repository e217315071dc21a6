"""dlt source for SQL databases: tables and queries, in full or incrementally by a cursor.

The database is given by a SQLAlchemy URL. Postgres is read by COPY into Arrow, other databases row
by row through SQLAlchemy. Only one batch is in memory at a time.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import dlt
from dlt.extract import DltResource

from prefect_flows.core.date_window import DateWindow
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.ingest.rest.transport import run_logger
from prefect_flows.ingest.source_load import has_loaded
from prefect_flows.sources.sql__database.copy_export import can_copy, copy_rows
from prefect_flows.sources.sql__database.readers.base import JSON, Column, IncrementalCursor, Reader
from prefect_flows.sources.sql__database.readers.choice import get_reader
from prefect_flows.sources.sql__database.table_config import TableConfig

# Suffix of the table of current keys, which is loaded to detect deleted rows.
PRESENT_KEYS_SUFFIX = "_present_keys"
# Names with a meaning in JSONPath, as which dlt parses a cursor's name.
JSON_PATH_WORDS = frozenset({"where", "wherenot"})


@dlt.source(name="sql__database")
def sql__database(
    url: dlt.TSecretStrValue,
    tables: dict[str, TableConfig | None],
    schema_name: str | None = None,
    rows_at_once: int = 50_000,
    window: DateWindow | None = None,
) -> list[DltResource]:
    """Tables and queries of a database.

    Args:
        url: SQLAlchemy URL of the database, with its password.
        tables: what to read, by name of the table here; None for the source table of that name.
        schema_name: schema of the source; by default that of the database.
        rows_at_once: rows per batch, for databases other than Postgres.
        window: days that are read again in tables with a key and a cursor of dates or timestamps.
            Other tables are read as always.

    Raises:
        ConfigurationError: a table or column does not exist, or a required key is missing.
        IngestionError: the database does not answer, or holds an unsupported value.
    """
    reader = get_reader(url, schema_name, rows_at_once)
    resources = []
    for name, config in tables.items():
        validated = TableConfig.model_validate(config or {})
        columns, key = reader.describe(name, validated)
        if not _is_postgres_target():
            # Other warehouses do not load JSON from Parquet, so it stays text.
            columns = {
                column: replace(source_column, hints={})
                if source_column.hints == JSON
                else source_column
                for column, source_column in columns.items()
            }
        _validate(name, validated, columns, key)
        resources.append(_rows_resource(reader, name, validated, columns, key, window))
        if validated.deletes:
            resources.append(_present_keys_resource(reader, name, validated, columns, key))
    return resources


def after_load(pipeline: dlt.Pipeline, loaded: Collection[str]) -> dict[str, int]:
    """Delete rows whose keys no longer exist in the source; return the deleted rows by table.

    Covers only tables whose keys were read in this load: older keys lack newer rows.
    """
    schema = pipeline.default_schema
    removed = {}
    with pipeline.sql_client() as client:
        for keys in [name for name in loaded if name.endswith(PRESENT_KEYS_SUFFIX)]:
            table = keys.removesuffix(PRESENT_KEYS_SUFFIX)
            target_table, keys_table = (
                client.make_qualified_table_name(name) for name in (table, keys)
            )
            same = " and ".join(
                f"present.{column} = mine.{column}"
                for column in map(client.escape_column_name, schema.tables[keys]["columns"])
                if not column.strip('"`').startswith("_dlt")
            )
            missing_rows = (
                f"from {target_table} as mine where not exists "  # noqa: S608 (dlt's own names)
                f"(select 1 from {keys_table} as present where {same})"
            )
            found: Any = client.execute_sql(f"select count(*) {missing_rows}")
            ((rows,),) = found
            if rows:
                client.execute_sql(f"delete {missing_rows}")
                removed[table] = int(rows)
    return removed


def _validate(
    name: str, config: TableConfig, columns: Mapping[str, Column], key: list[str]
) -> None:
    """Refuse a configuration that would lose rows or count them twice, before anything is read."""
    faults = [
        f"there is no column {column!r}; there are {', '.join(columns)}"
        for column in [*key, *([config.cursor] if config.cursor else [])]
        if column not in columns
    ]
    if not key and (config.deletes or config.lag_seconds is not None):
        faults.append("`deletes` and `lag_seconds` need a key, and the table has none")
    described = columns.get(config.cursor or "")
    if described is not None and described.ordered is None:
        faults.append(
            f"the cursor {config.cursor!r} is of a type whose order may be another one in the "
            "source than here; a number, date or timestamp can be one, and text, uuid of Postgres"
        )
    if config.cursor == "*":
        faults.append("a cursor cannot be called '*'")
    naming = dlt.current.source_schema().naming
    if (here := naming.normalize_identifier(name)) != name:
        faults.append(f"its table name would be {here!r}; write {here}: {{table: …}}")
    columns_by_name: dict[str, list[str]] = {}
    for column in columns:
        columns_by_name.setdefault(naming.normalize_identifier(column), []).append(column)
    faults += [
        f"columns {', '.join(map(repr, same))} would all be called {here!r} here"
        for here, same in columns_by_name.items()
        if len(same) > 1
    ]
    if faults:
        raise ConfigurationError(
            f"Table {name!r} cannot be loaded: {'; '.join(faults)}.",
            where=f"tables.{name} of the arguments of source 'sql__database'",
            fix="correct it there; a query can rename columns: select a as b from …",
        )


def _rows_resource(
    reader: Reader,
    name: str,
    config: TableConfig,
    columns: Mapping[str, Column],
    key: list[str],
    window: DateWindow | None,
) -> DltResource:
    incremental: dlt.sources.incremental[Any] | None = None
    days: IncrementalCursor | None = None
    if window is not None and config.cursor is not None:
        if key and columns[config.cursor].days is not None:
            days = IncrementalCursor.from_window(config.cursor, columns[config.cursor], window)
        else:
            run_logger().info(
                "%s: cannot read single days, and is read as always: that needs a key, and a "
                "cursor of dates or timestamps.",
                name,
            )
    # Without the incremental, a load of single days leaves the position of the last load as it is.
    if config.cursor is not None and days is None:
        incremental = dlt.sources.incremental(
            _json_path(config.cursor),
            lag=config.lag_seconds,
            # With a key, rows that are read twice are merged. Without one, none is read twice.
            range_start="closed" if key else "open",
            on_cursor_value_missing="include" if key else "raise",
            # Rows with the last value are merged, so dlt need not remember which were loaded.
            primary_key=(),
        )
    disposition_after_first: Any = (
        "replace" if config.cursor is None else "merge" if key else "append"
    )

    def rows() -> Iterator[Any]:
        # The first load has nothing to replace: its rows are appended, and deleted if the load does
        # not complete.
        disposition: Any = disposition_after_first if has_loaded(name) else "append"
        since = days
        if incremental is not None and incremental.last_value is not None:
            since = IncrementalCursor(
                str(config.cursor), incremental.last_value, is_inclusive=bool(key)
            )
            _check_last_value(name, since, columns)
        as_text = _loads_as_text(name, columns)
        hints = dlt.mark.make_hints(
            write_disposition=disposition,
            file_format="insert_values" if as_text else "parquet",
        )
        if config.cursor is None and _is_postgres_target() and not as_text and can_copy(reader):
            yield from copy_rows(reader, name, config, columns, hints)
            return
        for batch in reader.read(name, config, columns, since, as_text=as_text):
            yield dlt.mark.with_hints(batch, hints)

    contract: Any = {"tables": "evolve", "columns": config.columns, "data_type": "freeze"}
    resource: DltResource = dlt.resource(
        rows,
        name=name,
        primary_key=tuple(key),
        columns=_column_hints(columns),
        incremental=incremental,
        write_disposition=disposition_after_first,
        schema_contract=contract,
    )
    return resource


def _json_path(column: str) -> str:
    """Return the JSONPath by which dlt finds a column: its name, quoted if needed."""
    if re.fullmatch("[A-Za-z_][A-Za-z0-9_-]*", column) and column not in JSON_PATH_WORDS:
        return column
    return '"' + re.sub(r'(["\\])', r"\\\1", column) + '"'


def _check_last_value(name: str, since: IncrementalCursor, columns: Mapping[str, Column]) -> None:
    """Refuse to continue from a number that was stored as text, whose order differs.

    Raises:
        ConfigurationError: an earlier version compared the cursor's numbers as text.
    """
    if isinstance(since.value, str) and columns[since.cursor].arrow is not None:
        raise ConfigurationError(
            f"Table {name!r}: the loads before compared the cursor {since.cursor!r} as text, in "
            "which 9 is more than 12. Rows may be missing.",
            where=f"tables.{name} of the arguments of source 'sql__database'",
            fix=f"load it whole under another name: {name}_again: {{table: …, cursor: …}}",
        )


def _column_hints(columns: Mapping[str, Column]) -> Any:
    """Return dlt hints for columns whose Arrow type does not say everything."""
    return {
        name: {"name": name, **column.hints} for name, column in columns.items() if column.hints
    }


def _is_postgres_target() -> bool:
    """Return whether the warehouse is a Postgres."""
    return bool(dlt.current.pipeline().destination.destination_name == "postgres")


def _loads_as_text(name: str, columns: Mapping[str, Column]) -> bool:
    """Return whether to load a table into Postgres as text, for numbers with more than 38 digits.

    ADBC takes 0.7 ms for each such value, 500 times as long as for others. A table that once had
    such a column stays with text, since dlt would use another type for its JSON columns otherwise.
    """
    if not _is_postgres_target():
        return False
    before = dlt.current.source_schema().tables.get(name, {}).get("columns", {})
    known: list[Mapping[str, Any]] = [c.hints for c in columns.values()]
    return any(
        c.get("data_type") == "decimal" and (c.get("precision") or 0) > 38
        for c in (*known, *before.values())
    )


def _present_keys_resource(
    reader: Reader, name: str, config: TableConfig, columns: Mapping[str, Column], key: list[str]
) -> DltResource:
    """Build a resource of the source's current keys, read after the rows to keep new rows."""
    key_columns = {column: columns[column] for column in key}

    def keys() -> Iterator[Any]:
        yield from reader.read(name, config, key_columns, None)

    return dlt.resource(
        keys,
        name=f"{name}{PRESENT_KEYS_SUFFIX}",
        columns=_column_hints(key_columns),
        write_disposition="replace",
    )
