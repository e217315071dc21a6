"""Google's SQL analyzer (ZetaSQL) in this process: start it, send it messages, read its trees.

The wheel `zetasql` is the extra `millrace[check]`: import this module only where it is needed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from zetasql.wasi._pb2.zetasql.local_service import local_service_pb2 as service
from zetasql.wasi._pb2.zetasql.proto.options_pb2 import LanguageOptionsProto
from zetasql.wasi._pb2.zetasql.public.options_pb2 import ERROR_MESSAGE_ONE_LINE, PRODUCT_EXTERNAL
from zetasql.wasi._pb2.zetasql.public.type_pb2 import TYPE_INT64, TypeKind

from infrastructure.ci.check_models.wasm_service import WasmService

# BigQuery's other names of INT64: https://cloud.google.com/bigquery/docs/reference/standard-sql
INTEGER_NAMES = ("INT", "SMALLINT", "INTEGER", "BIGINT", "TINYINT", "BYTEINT")
# What BigQuery's API calls a type, where the analyzer calls it something else.
API_NAMES = {"INT64": "INTEGER", "DOUBLE": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD"}

# What BigQuery's SQL calls a type, where the analyzer calls it something else.
SQL_NAMES = {"DOUBLE": "FLOAT64"}
EPOCH = dt.date(1970, 1, 1)


class ZetaSqlClient(WasmService):
    """The analyzer with BigQuery's options."""

    def __init__(self) -> None:
        super().__init__()
        known = self.call(
            "GetLanguageOptions",
            service.LanguageOptionsRequest(maximum_features=True),
            LanguageOptionsProto,
        )
        # PRODUCT_EXTERNAL leaves out types that BigQuery does not have, such as INT32.
        self.language = LanguageOptionsProto(
            enabled_language_features=known.enabled_language_features,
            product_mode=PRODUCT_EXTERNAL,
        )
        self.options = {
            "language_options": self.language,
            "default_timezone": "UTC",
            "error_message_mode": ERROR_MESSAGE_ONE_LINE,
        }

    def analyze(self, sql: str, catalog: int) -> Any:
        """Resolve a statement against a registered catalog.

        Raises:
            SqlError: the analyzer refuses the SQL.
        """
        request = service.AnalyzeRequest(
            sql_statement=sql, options=self.options, registered_catalog_id=catalog
        )
        return unwrap(self.call("Analyze", request, service.AnalyzeResponse).resolved_statement)

    def new_catalog(self) -> service.RegisterCatalogRequest:
        """Build an empty catalog with BigQuery's functions and names of types."""
        request = service.RegisterCatalogRequest()
        root = request.simple_catalog
        root.name = "root"
        root.builtin_function_options.language_options.CopyFrom(self.language)
        for name in INTEGER_NAMES:
            root.named_type.add(name=name).type.type_kind = TYPE_INT64
        return request

    def register(self, request: service.RegisterCatalogRequest) -> int:
        """Give the analyzer a catalog; return its number."""
        response = self.call("RegisterCatalog", request, service.RegisterResponse)
        return int(response.registered_id)

    def unregister(self, catalog: int) -> None:
        """Let the analyzer forget a catalog."""
        self.call("UnregisterCatalog", service.UnregisterRequest(registered_id=catalog))


def add_table(root: Any, path: tuple[str, ...], columns: Mapping[str, Any]) -> None:
    """Add a table to a catalog: its project, dataset and name, and the type of each column."""
    catalog = root
    for part in path[:-1]:
        # Tables of a dataset follow each other, so the last one is the most likely.
        found = next((each for each in reversed(catalog.catalog) if each.name == part), None)
        catalog = catalog.catalog.add(name=part) if found is None else found
    add_columns(catalog.table.add(name=path[-1], full_name=".".join(path)), columns)


def add_columns(table: Any, columns: Mapping[str, Any]) -> None:
    """Add columns to a table of a catalog."""
    for column, kind in columns.items():
        table.column.add(name=column, type=kind, is_writable_column=True)


def unwrap(message: Any) -> Any:
    """Return the node in a message that can hold one of many kinds."""
    while (name := message.WhichOneof("node") if _has(message, "node") else None) is not None:
        message = getattr(message, name)
    return message


def _has(message: Any, oneof: str) -> bool:
    return oneof in message.DESCRIPTOR.oneofs_by_name


def get_field(node: Any, name: str) -> Any:
    """Return a field of a node or of the kinds that its own kind derives from."""
    while name not in node.DESCRIPTOR.fields_by_name:
        node = node.parent
    return getattr(node, name)


def walk(node: Any) -> Iterator[Any]:
    """Yield a node and all nodes below it."""
    yield node
    for description, value in node.ListFields():
        if description.message_type is not None:
            for below in value if isinstance(value, Iterable) else [value]:
                yield from walk(below)


def get_output(statement: Any) -> dict[str, Any]:
    """Return the type of each column that a query returns, by name."""
    return {c.name: c.column.type for c in statement.output_column_list}


def get_type_name(kind: Any) -> str:
    """Return the name of a type, as BigQuery's API writes it."""
    name: str = TypeKind.Name(kind.type_kind).removeprefix("TYPE_")
    if name == "ARRAY":
        return f"ARRAY<{get_type_name(kind.array_type.element_type)}>"
    return API_NAMES.get(name, name)


def get_sql_type(kind: Any) -> str:
    """Return a type as BigQuery's SQL writes it, with the types in it."""
    if kind.HasField("array_type"):
        return f"ARRAY<{get_sql_type(kind.array_type.element_type)}>"
    if kind.HasField("struct_type"):
        parts = ", ".join(
            f"{part.field_name} {get_sql_type(part.field_type)}".strip()
            for part in kind.struct_type.field
        )
        return f"STRUCT<{parts}>"
    name: str = TypeKind.Name(kind.type_kind).removeprefix("TYPE_")
    return SQL_NAMES.get(name, name)


def to_python(value: Any) -> Any:
    """Convert a value of the analyzer.

    Raises:
        TypeError: there is no conversion for its type.
    """
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
            return [to_python(element) for element in value.array_value.element]
    raise TypeError(value)


def _to_datetime(value: Any) -> dt.datetime:
    """Convert a DATETIME, which the analyzer packs into one number."""
    packed = value.bit_field_datetime_seconds
    day = packed >> 26, packed >> 22 & 15, packed >> 17 & 31
    time = packed >> 12 & 31, packed >> 6 & 63, packed & 63
    return dt.datetime(*day, *time, value.nanos // 1000)  # noqa: DTZ001 a DATETIME has no zone
