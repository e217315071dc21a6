"""BigQuery's SQL, checked and run by ZetaSQL, the analyzer that Google publishes.

The wheel `zetasql` is that analyzer as WebAssembly. It refuses what BigQuery refuses: types that do
not fit, unknown names and functions, reserved words. The emulator (`emulator.py`) accepts what
DuckDB accepts. The analyzer also runs queries, on tables in memory.

`millrace check models` has the analyzer too; this adds rows, scripts and running queries.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zetasql.wasi._pb2.zetasql.local_service import local_service_pb2 as service
from zetasql.wasi._pb2.zetasql.public.type_pb2 import TypeProto
from zetasql.wasi._pb2.zetasql.public.value_pb2 import ValueProto

from infrastructure.ci.check_models.wasm_service import SqlError
from infrastructure.ci.check_models.zetasql_client import (
    EPOCH,
    ZetaSqlClient,
    add_columns,
    add_table,
    get_field,
    get_output,
    get_type_name,
    to_python,
    unwrap,
    walk,
)

TablePath = tuple[str, str, str]

PARTITION_TYPES = {"DATE", "DATETIME", "TIMESTAMP"}
# How BigQuery's API names the analyzer's statements; all others are written as the analyzer does.
STATEMENTS = {
    "ResolvedCreateTableAsSelectStmtProto": "CREATE_TABLE_AS_SELECT",
    "ResolvedCreateViewStmtProto": "CREATE_VIEW",
    "ResolvedMergeStmtProto": "MERGE",
}
# The field that holds a value of a Python type.
VALUE_FIELDS = {
    bool: "bool_value",
    int: "int64_value",
    float: "double_value",
    str: "string_value",
    dt.datetime: "timestamp_value",
}


@dataclass(frozen=True)
class Table:
    """A table or view of the catalog, or the result of a query.

    Attributes:
        columns: the type of each column, by name.
        content: its rows, as the analyzer keeps them.
        kind: TABLE or VIEW.
    """

    columns: Mapping[str, TypeProto] = field(default_factory=dict)
    content: service.TableContent = field(default_factory=service.TableContent)
    kind: str = "TABLE"

    @property
    def rows(self) -> list[list[Any]]:
        return [[to_python(cell) for cell in row.cell] for row in self.content.table_data.row]

    @property
    def types(self) -> dict[str, str]:
        """The name of each column's type."""
        return {name: get_type_name(kind) for name, kind in self.columns.items()}


@dataclass(frozen=True)
class Answer:
    """The answer to a statement.

    Attributes:
        statement: its kind, as BigQuery's API names it.
        result: the columns and rows of a query, also of the one that makes a table.
        created: the table that the statement makes.
    """

    statement: str
    result: Table = field(default_factory=Table)
    created: TablePath | None = None


class Analyzer:
    """A catalog of tables, and statements that read and make them."""

    def __init__(self, client: ZetaSqlClient) -> None:
        self._client = client
        self._lock = threading.RLock()
        self._tables: dict[TablePath, Table] = {}
        # The type of each variable of the script that runs.
        self._variables: dict[str, TypeProto] = {}
        # The analyzer's number for the catalog; none while a table is not yet in it.
        self._catalog: int | None = None

    @property
    def tables(self) -> dict[TablePath, Table]:
        with self._lock:
            return dict(self._tables)

    def add_table(
        self, path: TablePath, columns: Mapping[str, str], rows: Iterable[Sequence[Any]] = ()
    ) -> None:
        """Add a table with the given types, as BigQuery's DDL writes them."""
        with self._lock:
            casts = ", ".join(f"cast(null as {kind}) as {name}" for name, kind in columns.items())
            self._set_table(path, Table(self._get_columns(f"select {casts}"), _to_content(rows)))

    def drop_table(self, path: TablePath) -> None:
        with self._lock:
            self._tables.pop(path, None)
            self._forget_catalog()

    def run(self, sql: str) -> Answer:
        """Check a statement or a script, and run its queries.

        DML is checked and changes nothing.

        Raises:
            SqlError: the analyzer refuses the SQL.
        """
        with self._lock:
            request = service.ParseRequest(
                sql_statement=sql, options=self._client.language, allow_script=True
            )
            script = self._client.call("Parse", request, service.ParseResponse).parsed_script
            nodes = [unwrap(found) for found in script.statement_list_node.statement_list]
            if len(nodes) == 1:
                return self._run(sql, nodes[0])
            try:
                for node in nodes:
                    self._run_in_script(sql, node)
            finally:
                if self._variables:
                    self._variables.clear()
                    self._forget_catalog()
            return Answer("SCRIPT")

    def _run_in_script(self, script: str, node: Any) -> None:
        match node.DESCRIPTOR.name:
            case "ASTVariableDeclarationProto":
                names = [name.id_string for name in node.variable_list.identifier_list]
                kind = _get_text(script, unwrap(node.type))
                (found,) = self._get_columns(f"select cast(null as {kind}) as x").values()
                self._variables |= dict.fromkeys(names, found)
                self._forget_catalog()
            case "ASTAssignmentFromStructProto":
                names = [name.id_string for name in node.variables.identifier_list]
                value = _get_text(script, unwrap(node.struct_expression))
                (struct,) = self._get_columns(f"select {value} as x").values()
                found = [get_type_name(part.field_type) for part in struct.struct_type.field]
                expected = [get_type_name(self._variables[name]) for name in names]
                if found != expected:
                    raise SqlError(
                        f"Cannot assign values of types {found} to variables of {expected}"
                    )
            case _:
                self._run(script, node)

    def _run(self, script: str, node: Any) -> Answer:
        sql = _get_text(script, node)
        if node.DESCRIPTOR.name == "ASTQueryStatementProto":
            try:
                return Answer("SELECT", self._evaluate(script, node))
            except SqlError:
                # The message for the query as it was written, unless only its values are wrong.
                self._analyze(sql)
                raise
        resolved = self._analyze(sql)
        name = resolved.DESCRIPTOR.name
        statement = STATEMENTS.get(name, name)
        if statement in ("CREATE_TABLE_AS_SELECT", "CREATE_VIEW"):
            _check_partition(resolved)
            result = self._evaluate(script, get_field(node, "query"))
            path = _to_path(get_field(resolved, "name_path"))
            if statement == "CREATE_VIEW":
                self._set_table(path, Table(result.columns, result.content, "VIEW"))
            else:
                columns = {c.name: c.type for c in get_field(resolved, "column_definition_list")}
                self._set_table(path, Table(columns, result.content))
            return Answer(statement, result, path)
        if name == "ResolvedDropStmtProto":
            self.drop_table(_to_path(resolved.name_path))
        return Answer(statement)

    def _analyze(self, sql: str) -> Any:
        return self._client.analyze(sql, self._register_catalog())

    def _get_columns(self, sql: str) -> dict[str, TypeProto]:
        return get_output(self._analyze(sql))

    def _evaluate(self, script: str, query: Any) -> Table:
        """Check and run a query."""
        request = service.EvaluateQueryRequest(
            sql=_write_flat_names(script, query),
            options=self._client.options,
            registered_catalog_id=self._register_catalog(),
        )
        response = self._client.call("EvaluateQuery", request, service.EvaluateQueryResponse)
        return Table({c.name: c.type for c in response.prepared.columns}, response.content)

    def _set_table(self, path: TablePath, table: Table) -> None:
        self._tables[path] = table
        self._forget_catalog()

    def _forget_catalog(self) -> None:
        if self._catalog is not None:
            self._client.unregister(self._catalog)
        self._catalog = None

    def _register_catalog(self) -> int:
        """Give the analyzer the catalog, unless it has it.

        Only tables at the top of a catalog can have rows. So each table is there twice: by project
        and dataset, for the analysis, and at the top by a name with dots, for running queries.
        """
        if self._catalog is not None:
            return self._catalog
        request = self._client.new_catalog()
        root = request.simple_catalog
        for name, kind in self._variables.items():
            root.constant.add(name_path=[name], type=kind)
        for path, table in self._tables.items():
            add_table(root, path, table.columns)
            add_columns(root.table.add(name=".".join(path)), table.columns)
            content = request.table_content[".".join(path)]
            content.CopyFrom(table.content)
            # Without it, the analyzer takes an empty table for one that it cannot read.
            content.table_data.SetInParent()
        self._catalog = self._client.register(request)
        return self._catalog


def start_analyzer() -> Analyzer:
    """Start an analyzer with an empty catalog."""
    return Analyzer(ZetaSqlClient())


def _get_span(node: Any) -> tuple[int, int]:
    where = get_field(node, "parse_location_range")
    return where.start, where.end


def _get_text(script: str, node: Any) -> str:
    start, end = _get_span(node)
    return script.encode()[start:end].decode()


def _write_flat_names(script: str, query: Any) -> str:
    """Write a query with the names that the tables have at the top of the catalog."""
    text = script.encode()
    start, end = _get_span(query)
    found = {_get_span(n.path_expr): n for n in walk(query) if _is_table(n)}
    for (first, last), node in sorted(found.items(), reverse=True):
        names = [name.id_string for name in node.path_expr.names]
        # Without an alias, columns are read by the last part of the name.
        alias = "" if node.HasField("alias") else f" as `{names[-1]}`"
        written = f"`{'.'.join(names)}`{alias}".encode()
        text = text[:first] + written + text[last:]
        end += len(written) - (last - first)
    return text[start:end].decode()


def _is_table(node: Any) -> bool:
    return node.DESCRIPTOR.name == "ASTTablePathExpressionProto" and len(node.path_expr.names) == 3


def _check_partition(resolved: Any) -> None:
    """Refuse partitions that BigQuery refuses, and for which the analyzer has no rule."""
    if resolved.DESCRIPTOR.name == "ResolvedCreateViewStmtProto":
        return
    for wrapped in get_field(resolved, "partition_by_list"):
        found = unwrap(wrapped)
        kind = get_type_name(get_field(found, "type"))
        if kind not in PARTITION_TYPES and "range_bucket" not in str(found):
            raise SqlError(f"PARTITION BY expression must not be of type {kind}")


def _to_path(names: Sequence[str]) -> TablePath:
    project, dataset, name = names
    return project, dataset, name


def _to_content(rows: Iterable[Sequence[Any]]) -> service.TableContent:
    content = service.TableContent()
    for row in rows:
        content.table_data.row.add(cell=[_to_value(value) for value in row])
    return content


def _to_value(value: Any) -> ValueProto:
    if value is None:
        return ValueProto()
    if type(value) is dt.date:
        return ValueProto(date_value=(value - EPOCH).days)
    return ValueProto(**{VALUE_FIELDS[type(value)]: value})


def to_fields(columns: Mapping[str, TypeProto]) -> Iterator[dict[str, Any]]:
    """Write columns as a schema of BigQuery's API."""
    for name, kind in columns.items():
        repeated = kind.HasField("array_type")
        inner = kind.array_type.element_type if repeated else kind
        found: dict[str, Any] = {"name": name, "type": get_type_name(inner)}
        if inner.HasField("struct_type"):
            parts = {part.field_name: part.field_type for part in inner.struct_type.field}
            found["fields"] = list(to_fields(parts))
        yield found | {"mode": "REPEATED" if repeated else "NULLABLE"}
