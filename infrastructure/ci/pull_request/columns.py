"""Read a model's key and volatile columns from dbt's manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Load time and load id: they change at every build.
VOLATILE = frozenset({"_loaded_at", "_dlt_load_id", "_dlt_id"})

Node = Mapping[str, Any]


def get_key(manifest: Mapping[str, Any], unique_id: str) -> tuple[str, ...]:
    """Return the columns that identify a row, or an empty tuple if the project declares none.

    In this order: a primary key constraint; a column with a `unique` test over all rows, preferably
    one that is also `not_null`; a unique combination of columns; the model's `unique_key`.
    """
    node = manifest["nodes"][unique_id]
    for constraint in node.get("constraints") or []:
        if constraint["type"] == "primary_key" and constraint["columns"]:
            return tuple(constraint["columns"])
    for name, column in node["columns"].items():
        if any(each["type"] == "primary_key" for each in column.get("constraints") or []):
            return (name,)
    tests = list(_tests(manifest, unique_id))
    unique = [a["column_name"] for name, a in tests if name == "unique" and "column_name" in a]
    present = {a.get("column_name") for name, a in tests if name == "not_null"}
    for column in sorted(unique, key=lambda column: column not in present):
        return (column,)
    for name, arguments in tests:
        together = arguments.get("combination_of_columns")
        if name == "unique_combination_of_columns" and together:
            return tuple(together)
    configured = node["config"].get("unique_key")
    if isinstance(configured, str):
        return (configured,)
    return tuple(configured or ())


def get_volatile_columns(node: Node) -> frozenset[str]:
    """Return the columns that change at every build: known ones and `meta: {volatile: true}`."""
    marked = {name for name, column in node["columns"].items() if _meta(column).get("volatile")}
    return VOLATILE | {name.lower() for name in marked}


def _tests(manifest: Mapping[str, Any], unique_id: str) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """Return name and arguments of each generic test of a model that has no `where`."""
    found = []
    for child in manifest["child_map"].get(unique_id, []):
        node = manifest["nodes"].get(child)
        about = node and node.get("attached_node") == unique_id and node.get("test_metadata")
        if about and not node["config"].get("where"):
            found.append((about["name"], about["kwargs"]))
    return found


def _meta(column: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**(column.get("meta") or {}), **((column.get("config") or {}).get("meta") or {})}
