"""Columns of the sources' tables, with the types that loading gives them in a warehouse.

A source declares them in its `source.py`: `DECLARED_TABLES`, table name → Arrow schema. Tables that
no source of the project loads have the `data_type` that YAML declares for their columns.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dlt
import pyarrow as pa
from dlt.common.libs.pyarrow import py_arrow_to_table_schema_columns

from prefect_flows.ingest import source_registry

DECLARATION = "DECLARED_TABLES"
# dlt adds this column to each table, and this table to each schema.
LOAD_ID = pa.field("_dlt_load_id", pa.string())
LOADS = "_dlt_loads"
LOADS_SCHEMA = pa.schema(
    {
        "load_id": pa.string(),
        "schema_name": pa.string(),
        "status": pa.int64(),
        "inserted_at": pa.timestamp("us", tz="UTC"),
        "schema_version_hash": pa.string(),
    }
)
DESTINATIONS = {"postgres": dlt.destinations.postgres, "bigquery": dlt.destinations.bigquery}


@dataclass(frozen=True)
class SourceTable:
    """The columns of a table of a source.

    Attributes:
        columns: type by name; empty if they are unknown.
        unknown: why they are unknown.
        is_loaded: whether a source of the project loads the table.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    unknown: str = ""
    is_loaded: bool = False


class SourceColumns:
    """Columns of sources in one warehouse.

    Args:
        warehouse: `postgres` or `bigquery`.
    """

    def __init__(self, warehouse: str) -> None:
        self._mapper = DESTINATIONS[warehouse]().capabilities().get_type_mapper()
        self._declared: dict[str, Mapping[str, pa.Schema] | str] = {}

    def get_table(self, source: Any) -> SourceTable:
        """Return the columns of a dbt source's table."""
        name, table = source.source_name, source.identifier
        if name in source_registry.source_names():
            declared = self._get_declaration(name)
            if isinstance(declared, str):
                return SourceTable(unknown=declared)
            if table in declared:
                return SourceTable(self._to_types(table, declared[table]), is_loaded=True)
            return SourceTable(unknown=f"{DECLARATION} of {name}/source.py has no {table}")
        types = {column.name: column.data_type for column in source.columns.values()}
        if types and all(types.values()):
            return SourceTable(types)
        return SourceTable(unknown=f"YAML declares no data_type for the columns of {name}.{table}")

    def get_loads(self) -> Mapping[str, str]:
        """Return the columns of dlt's table of loads."""
        return self._to_types(LOADS, LOADS_SCHEMA, is_dlt=True)

    def _get_declaration(self, name: str) -> Mapping[str, pa.Schema] | str:
        """Return what a source declares, or why that is unknown."""
        if name not in self._declared:
            self._declared[name] = _read_declaration(name)
        return self._declared[name]

    def _to_types(
        self, table: str, schema: pa.Schema, *, is_dlt: bool = False
    ) -> Mapping[str, str]:
        fields = [*schema] if is_dlt else [*schema, LOAD_ID]
        hints = py_arrow_to_table_schema_columns(pa.schema(fields))
        return {
            name: self._mapper.to_destination_type(hint, {"name": table})
            for name, hint in hints.items()
        }


def _read_declaration(name: str) -> Mapping[str, pa.Schema] | str:
    module = f"{source_registry.PACKAGE}.{name}.source"
    try:
        found: Mapping[str, pa.Schema] | None = getattr(
            importlib.import_module(module), DECLARATION, None
        )
    except ModuleNotFoundError as error:
        return f"source {name} needs {error.name}, which is not installed (uv sync --all-packages)"
    if found is None:
        return f"{name}/source.py declares no columns ({DECLARATION})"
    return found
