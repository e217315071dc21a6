"""BigQuery's SQL, checked and run by ZetaSQL, the analyzer that Google publishes.

The wheel `zetasql` is that analyzer as WebAssembly. It refuses what BigQuery refuses: types that do
not fit, unknown names and functions, reserved words. The emulator (`emulator.py`) accepts what
DuckDB accepts. The analyzer also runs queries, on tables in memory.

The wheel's own Python classes copy each message field by field, which takes longer than the
analysis. This module calls the analyzer with its messages instead.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import wasmtime
from filelock import FileLock
from google.protobuf.message import Message
from zetasql.core import ServerError, wasm_client
from zetasql.wasi import get_wasm_path
from zetasql.wasi._pb2.zetasql.local_service import local_service_pb2 as service
from zetasql.wasi._pb2.zetasql.proto.options_pb2 import LanguageOptionsProto
from zetasql.wasi._pb2.zetasql.proto.simple_catalog_pb2 import SimpleCatalogProto
from zetasql.wasi._pb2.zetasql.public.options_pb2 import ERROR_MESSAGE_ONE_LINE, PRODUCT_EXTERNAL
from zetasql.wasi._pb2.zetasql.public.type_pb2 import TYPE_INT64, TypeKind, TypeProto
from zetasql.wasi._pb2.zetasql.public.value_pb2 import ValueProto

TablePath = tuple[str, str, str]

# BigQuery's other names of INT64: https://cloud.google.com/bigquery/docs/reference/standard-sql
INTEGER_NAMES = ("INT", "SMALLINT", "INTEGER", "BIGINT", "TINYINT", "BYTEINT")
# What BigQuery's API calls a type, where the analyzer calls it something else.
API_NAMES = {"INT64": "INTEGER", "DOUBLE": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD"}
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
EPOCH = dt.date(1970, 1, 1)


class SqlError(Exception):
    """The analyzer refuses the SQL; the message is the analyzer's."""


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
        return [[_to_python(cell) for cell in row.cell] for row in self.content.table_data.row]

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

    def __init__(self, client: wasm_client.WasmClient) -> None:
        self._client = client
        self._lock = threading.RLock()
        self._tables: dict[TablePath, Table] = {}
        # The type of each variable of the script that runs.
        self._variables: dict[str, TypeProto] = {}
        # The analyzer's number for the catalog; none while a table is not yet in it.
        self._catalog: int | None = None
        known = self._call(
            "GetLanguageOptions",
            service.LanguageOptionsRequest(maximum_features=True),
            LanguageOptionsProto,
        )
        # PRODUCT_EXTERNAL leaves out types that BigQuery does not have, such as INT32.
        self._language = LanguageOptionsProto(
            enabled_language_features=known.enabled_language_features,
            product_mode=PRODUCT_EXTERNAL,
        )
        self._options = {
            "language_options": self._language,
            "default_timezone": "UTC",
            "error_message_mode": ERROR_MESSAGE_ONE_LINE,
        }

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
                sql_statement=sql, options=self._language, allow_script=True
            )
            script = self._call("Parse", request, service.ParseResponse).parsed_script
            nodes = [_unwrap(found) for found in script.statement_list_node.statement_list]
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
                kind = _get_text(script, _unwrap(node.type))
                (found,) = self._get_columns(f"select cast(null as {kind}) as x").values()
                self._variables |= dict.fromkeys(names, found)
                self._forget_catalog()
            case "ASTAssignmentFromStructProto":
                names = [name.id_string for name in node.variables.identifier_list]
                value = _get_text(script, _unwrap(node.struct_expression))
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
            result = self._evaluate(script, _get(node, "query"))
            path = _to_path(_get(resolved, "name_path"))
            if statement == "CREATE_VIEW":
                self._set_table(path, Table(result.columns, result.content, "VIEW"))
            else:
                columns = {c.name: c.type for c in _get(resolved, "column_definition_list")}
                self._set_table(path, Table(columns, result.content))
            return Answer(statement, result, path)
        if name == "ResolvedDropStmtProto":
            self.drop_table(_to_path(resolved.name_path))
        return Answer(statement)

    def _analyze(self, sql: str) -> Any:
        request = service.AnalyzeRequest(
            sql_statement=sql, options=self._options, registered_catalog_id=self._register_catalog()
        )
        return _unwrap(self._call("Analyze", request, service.AnalyzeResponse).resolved_statement)

    def _get_columns(self, sql: str) -> dict[str, TypeProto]:
        return {c.name: c.column.type for c in self._analyze(sql).output_column_list}

    def _evaluate(self, script: str, query: Any) -> Table:
        """Check and run a query."""
        request = service.EvaluateQueryRequest(
            sql=_write_flat_names(script, query),
            options=self._options,
            registered_catalog_id=self._register_catalog(),
        )
        response = self._call("EvaluateQuery", request, service.EvaluateQueryResponse)
        return Table({c.name: c.type for c in response.prepared.columns}, response.content)

    def _set_table(self, path: TablePath, table: Table) -> None:
        self._tables[path] = table
        self._forget_catalog()

    def _forget_catalog(self) -> None:
        if self._catalog is not None:
            self._call("UnregisterCatalog", service.UnregisterRequest(registered_id=self._catalog))
        self._catalog = None

    def _register_catalog(self) -> int:
        """Give the analyzer the catalog, unless it has it.

        Only tables at the top of a catalog can have rows. So each table is there twice: by project
        and dataset, for the analysis, and at the top by a name with dots, for running queries.
        """
        if self._catalog is not None:
            return self._catalog
        request = service.RegisterCatalogRequest()
        root = request.simple_catalog
        root.name = "root"
        root.builtin_function_options.language_options.CopyFrom(self._language)
        for name in INTEGER_NAMES:
            root.named_type.add(name=name).type.type_kind = TYPE_INT64
        for name, kind in self._variables.items():
            root.constant.add(name_path=[name], type=kind)
        catalogs: dict[tuple[str, ...], SimpleCatalogProto] = {(): root}
        for path, table in self._tables.items():
            for parent in (path[:1], path[:2]):
                if parent not in catalogs:
                    catalogs[parent] = catalogs[parent[:-1]].catalog.add(name=parent[-1])
            for catalog, name in (catalogs[path[:2]], path[2]), (root, ".".join(path)):
                added = catalog.table.add(name=name)
                for column, kind in table.columns.items():
                    added.column.add(name=column, type=kind, is_writable_column=True)
            content = request.table_content[".".join(path)]
            content.CopyFrom(table.content)
            # Without it, the analyzer takes an empty table for one that it cannot read.
            content.table_data.SetInParent()
        self._catalog = self._call(
            "RegisterCatalog", request, service.RegisterResponse
        ).registered_id
        return self._catalog

    def _call(self, name: str, request: Message, *response: type[Message]) -> Any:
        try:
            return self._client.call_grpc_func(f"ZetaSqlLocalService_{name}", request, *response)
        except ServerError as error:
            # The error's own `message` ends with its first line.
            raise SqlError(error.raw_error.partition("Message: ")[2]) from error


def start_analyzer(cache: Path) -> Analyzer:
    """Start an analyzer with an empty catalog.

    Args:
        cache: folder for the compiled WebAssembly, which spares the next start 20 s.
    """
    cache.mkdir(parents=True, exist_ok=True)
    settings = cache / "wasmtime.toml"

    def configure() -> wasmtime.Config:
        config = wasmtime.Config()
        config.cache = str(settings)
        return config

    with FileLock(cache / "lock"), mock.patch.object(wasm_client, "Config", configure):
        settings.write_text(f"[cache]\ndirectory = '{cache.resolve()}'\n")
        return Analyzer(_Client(str(get_wasm_path())))


class _Client(wasm_client.WasmClient):
    """The wheel's client, without its copying of each message byte by byte."""

    @property
    def _base(self) -> int:
        return ctypes.addressof(self.memory.data_ptr().contents)

    def write_bytes(self, ptr: int, data: bytes) -> None:
        ctypes.memmove(self._base + ptr, data, len(data))

    def read_bytes(self, ptr: int, size: int) -> bytes:
        return ctypes.string_at(self._base + ptr, size)


def _unwrap(message: Any) -> Any:
    """Return the node in a message that can hold one of many kinds."""
    while (name := message.WhichOneof("node") if _has(message, "node") else None) is not None:
        message = getattr(message, name)
    return message


def _has(message: Any, oneof: str) -> bool:
    return oneof in message.DESCRIPTOR.oneofs_by_name


def _get(node: Any, name: str) -> Any:
    """Return a field of a node or of the kinds that its own kind derives from."""
    while name not in node.DESCRIPTOR.fields_by_name:
        node = node.parent
    return getattr(node, name)


def _walk(node: Any) -> Iterator[Any]:
    """Yield a node and all nodes below it."""
    yield node
    for description, value in node.ListFields():
        if description.message_type is not None:
            for below in value if isinstance(value, Iterable) else [value]:
                yield from _walk(below)


def _get_span(node: Any) -> tuple[int, int]:
    where = _get(node, "parse_location_range")
    return where.start, where.end


def _get_text(script: str, node: Any) -> str:
    start, end = _get_span(node)
    return script.encode()[start:end].decode()


def _write_flat_names(script: str, query: Any) -> str:
    """Write a query with the names that the tables have at the top of the catalog."""
    text = script.encode()
    start, end = _get_span(query)
    found = {_get_span(n.path_expr): n for n in _walk(query) if _is_table(n)}
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
    for wrapped in _get(resolved, "partition_by_list"):
        found = _unwrap(wrapped)
        kind = get_type_name(_get(found, "type"))
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


def _to_python(value: ValueProto) -> Any:
    match value.WhichOneof("value"):
        case None:
            return None
        case "int64_value" | "double_value" | "string_value" | "bool_value" as name:
            return getattr(value, name)
        case "date_value":
            return EPOCH + dt.timedelta(days=value.date_value)
        case "timestamp_value":
            return value.timestamp_value.ToDatetime(tzinfo=dt.UTC)
        case "datetime_value":
            return _to_datetime(value.datetime_value)
        case "array_value":
            return [_to_python(element) for element in value.array_value.element]
    raise TypeError(value)


def _to_datetime(value: ValueProto.Datetime) -> dt.datetime:
    """Convert a DATETIME, which the analyzer packs into one number."""
    packed = value.bit_field_datetime_seconds
    day = packed >> 26, packed >> 22 & 15, packed >> 17 & 31
    time = packed >> 12 & 31, packed >> 6 & 63, packed & 63
    return dt.datetime(*day, *time, value.nanos // 1000)  # noqa: DTZ001 a DATETIME has no zone


def get_type_name(kind: TypeProto) -> str:
    """Return the name of a type, as BigQuery's API writes it."""
    name = TypeKind.Name(kind.type_kind).removeprefix("TYPE_")
    if name == "ARRAY":
        return f"ARRAY<{get_type_name(kind.array_type.element_type)}>"
    return API_NAMES.get(name, name)


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
