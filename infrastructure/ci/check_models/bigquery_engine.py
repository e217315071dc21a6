"""Check SQL for BigQuery with Google's analyzer, and a catalog that grows with each model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from zetasql.wasi._pb2.zetasql.local_service import local_service_pb2 as service

from infrastructure.ci.check_models.engine import Column, Columns, QueryResult, SqlFault
from infrastructure.ci.check_models.findings import ColumnOrigins, Warehouse
from infrastructure.ci.check_models.resolved_lineage import Origin, get_origins
from infrastructure.ci.check_models.template_positions import get_offset
from infrastructure.ci.check_models.wasm_service import SqlError
from infrastructure.ci.check_models.zetasql_client import (
    ZetaSqlClient,
    add_columns,
    add_table,
    get_output,
    get_sql_type,
    to_python,
    walk,
)

TablePath = tuple[str, str, str]

PLACE = re.compile(r" \[at (\d+):(\d+)\]$")
SUGGESTION = re.compile(r"; [Dd]id you mean (.+?)\?")
# Names in messages that BigQuery knows in a way that the analyzer does not see.
UNKNOWN = re.compile(
    r"Table not found: (?P<table>[^;]+)|Function not found: (?P<function>[\w`]+(?:\.[\w`]+)+)|"
    r"Unrecognized name: (?P<pseudo>_TABLE_SUFFIX|_PARTITION\w+|_FILE_NAME)",
    re.IGNORECASE,
)
# Columns of a tab in the analyzer's positions.
TAB = 8


class BigQueryEngine:
    """The analyzer, and the tables of its catalog."""

    warehouse: Warehouse = "bigquery"

    def __init__(self, client: ZetaSqlClient) -> None:
        self._client = client
        self._tables: dict[TablePath, Mapping[str, Any]] = {}
        self._registered: int | None = None
        self._types: dict[str, Any] = {}
        self._registered_tables = 0
        # Full name of a relation → origins of its columns.
        self._origins: dict[str, Mapping[str, Sequence[Origin]]] = {}

    def add(self, relation: Any, columns: Mapping[str, str]) -> None:
        """Add an empty table."""
        self._tables[_to_path(relation)] = {
            name: self._resolve(kind) for name, kind in columns.items()
        }

    def create(self, relation: Any, sql: str) -> Columns:
        """Check a query, and add a table with its columns."""
        resolved = self._analyze(sql)
        columns: dict[str, Any] = {}
        for number, found in enumerate(resolved.output_column_list, start=1):
            if not found.name or found.name.startswith("$"):
                raise SqlFault(f"column {number} has no name", None, "write `as` and a name")
            if found.name.lower() in {name.lower() for name in columns}:
                raise SqlFault(f"two columns are called {found.name}", None, "rename one of them")
            columns[found.name] = found.column.type
        path = _to_path(relation)
        self._tables[path] = columns
        self._origins[".".join(path)] = get_origins(resolved)
        return self.get_columns(relation)

    def check(self, sql: str) -> None:
        """Resolve a query."""
        self._analyze(sql)

    def get_columns(self, relation: Any) -> Columns:
        """Return the columns of a table."""
        found = self._tables[_to_path(relation)]
        return {
            name: Column(get_sql_type(kind), get_sql_type(kind)) for name, kind in found.items()
        }

    def resolve_type(self, data_type: str) -> Column:
        """Return a column of a type."""
        name = get_sql_type(self._resolve(data_type))
        return Column(name, name)

    def run_query(self, sql: str) -> QueryResult:
        """Run a query that reads no table, or return the columns of one that does.

        Raises:
            SqlFault: the analyzer refuses it.
        """
        resolved = self._analyze(sql)
        columns = list(get_output(resolved))
        if any(node.DESCRIPTOR.name == "ResolvedTableScanProto" for node in walk(resolved)):
            return QueryResult(columns, reads_data=True)
        request = service.EvaluateQueryRequest(
            sql=sql, options=self._client.options, registered_catalog_id=self._registered
        )
        try:
            response = self._client.call("EvaluateQuery", request, service.EvaluateQueryResponse)
        except SqlError as error:
            raise _to_fault(error, sql) from error
        try:
            rows = [
                [to_python(cell) for cell in row.cell] for row in response.content.table_data.row
            ]
        except TypeError as error:
            raise SqlFault("its result has a type that is not read here") from error
        return QueryResult(columns, rows)

    def get_lineage(self, relations: Mapping[str, Any]) -> dict[str, ColumnOrigins]:
        """Return the origins of the columns of nodes.

        Args:
            relations: unique id of a node → its relation.
        """
        ids = {".".join(_to_path(relation)): node for node, relation in relations.items()}
        return {
            ids[name]: {
                column: [(ids[parent], of) for parent, of in origins if parent in ids]
                for column, origins in columns.items()
            }
            for name, columns in self._origins.items()
            if name in ids
        }

    def _resolve(self, data_type: str) -> Any:
        if data_type not in self._types:
            resolved = self._analyze(f"select cast(null as {data_type}) as x", needs_tables=False)
            (self._types[data_type],) = get_output(resolved).values()
        return self._types[data_type]

    def _analyze(self, sql: str, *, needs_tables: bool = True) -> Any:
        """Resolve a query. The catalog is given to the analyzer anew only if a table is missing."""
        try:
            try:
                return self._client.analyze(sql, self._register())
            except SqlError as error:
                is_missing = "Table not found" in str(error) or "not found: Table" in str(error)
                if not (needs_tables and is_missing and self._is_stale):
                    raise
            self._forget()
            return self._client.analyze(sql, self._register())
        except SqlError as error:
            raise _to_fault(error, sql) from error

    @property
    def _is_stale(self) -> bool:
        return len(self._tables) != self._registered_tables

    def _register(self) -> int:
        if self._registered is None:
            request = self._client.new_catalog()
            root = request.simple_catalog
            for path, columns in sorted(self._tables.items()):
                add_table(root, path, columns)
                # A whole name in one pair of backquotes.
                name = ".".join(path)
                add_columns(root.table.add(name=name, full_name=name), columns)
            self._registered = self._client.register(request)
            self._registered_tables = len(self._tables)
        return self._registered

    def _forget(self) -> None:
        if self._registered is not None:
            self._client.unregister(self._registered)
        self._registered = None


def _to_path(relation: Any) -> TablePath:
    return relation.database, relation.schema, relation.identifier


def _to_fault(error: SqlError, sql: str) -> SqlFault:
    """Build a fault from the analyzer's message, which ends with line and column."""
    message = str(error).strip()
    offset = None
    if (place := PLACE.search(message)) is not None:
        message = message[: place.start()]
        offset = get_offset(sql, int(place[1]), int(place[2]), TAB)
    # The next lines are the analyzer's reasoning about signatures.
    message = message.partition("\n")[0]
    suggestion = ""
    if (similar := SUGGESTION.search(message)) is not None:
        suggestion = f"did you mean {similar[1]}?"
        message = message[: similar.start()] + message[similar.end() :]
    found = UNKNOWN.search(message)
    unknown = next((part for part in found.groups() if part), "") if found else ""
    if found and found["table"] and "." not in unknown:
        unknown = ""  # neither a CTE nor a relation: a misspelt name
    return SqlFault(message.strip(), offset, suggestion, unknown)
