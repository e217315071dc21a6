"""Column lineage of a statement, from the tree in which the analyzer resolved it.

Only values count: a column that filters or joins rows, and whose value goes nowhere, is no origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from infrastructure.ci.check_models.zetasql_client import get_field, unwrap, walk

# Full name of a table in the catalog, and column.
Origin = tuple[str, str]


def get_origins(statement: Any) -> dict[str, list[Origin]]:
    """Return the columns of tables that each column of a query comes from, by its name."""
    graph = _ColumnGraph(statement)
    return {
        column.name: sorted(graph.origins(column.column.column_id))
        for column in statement.output_column_list
    }


class _ColumnGraph:
    """Columns of a statement by their numbers, and the columns that each comes from."""

    def __init__(self, statement: Any) -> None:
        self._edges: dict[int, set[int]] = {}
        self._tables: dict[int, Origin] = {}
        nodes = list(walk(statement))
        queries = {
            node.with_query_name: _get_columns(node.with_subquery)
            for node in nodes
            if node.DESCRIPTOR.name == "ResolvedWithEntryProto"
        }
        for node in nodes:
            self._add(node, queries)

    def origins(self, column: int) -> set[Origin]:
        """Return the columns of tables that a column comes from."""
        seen, queue, found = {column}, [column], set()
        while queue:
            number = queue.pop()
            if number in self._tables:
                found.add(self._tables[number])
            for other in self._edges.get(number, ()):
                if other not in seen:
                    seen.add(other)
                    queue.append(other)
        return found

    def _add(self, node: Any, queries: Mapping[str, list[int]]) -> None:  # noqa: C901 (a table)
        match node.DESCRIPTOR.name:
            case "ResolvedTableScanProto":
                for column in node.parent.column_list:
                    self._tables[column.column_id] = node.table.full_name, column.name
            case "ResolvedComputedColumnProto" | "ResolvedDeferredComputedColumnProto":
                self._link([node.column.column_id], _get_references(node.expr))
            case "ResolvedWithRefScanProto":
                self._pair(_get_numbers(node.parent.column_list), queries[node.with_query_name])
            case "ResolvedSetOperationScanProto":
                for item in node.input_item_list:
                    self._pair(
                        _get_numbers(node.parent.column_list),
                        _get_numbers(item.output_column_list),
                    )
            case "ResolvedRecursiveScanProto":
                for item in (node.non_recursive_term, node.recursive_term):
                    self._pair(
                        _get_numbers(node.parent.column_list),
                        _get_numbers(item.output_column_list),
                    )
            case "ResolvedArrayScanProto":
                for element, array in zip(
                    node.element_column_list, node.array_expr_list, strict=False
                ):
                    self._link([element.column_id], _get_references(array))
            case "ResolvedPivotScanProto":
                for column in node.pivot_column_list:
                    value = node.pivot_expr_list[column.pivot_expr_index]
                    self._link([column.column.column_id], _get_references(value))

    def _pair(self, columns: Iterable[int], others: Iterable[int]) -> None:
        for column, other in zip(columns, others, strict=False):
            self._link([column], [other])

    def _link(self, columns: Iterable[int], others: Iterable[int]) -> None:
        found = set(others)
        for column in columns:
            self._edges.setdefault(column, set()).update(found)


def _get_references(expression: Any) -> Iterator[int]:
    """Yield the columns that an expression reads; of a subquery, those that it returns."""
    node = unwrap(expression)
    match node.DESCRIPTOR.name:
        case "ResolvedColumnRefProto":
            yield node.column.column_id
        case "ResolvedSubqueryExprProto":
            yield from _get_columns(node.subquery)
        case _:
            for description, value in node.ListFields():
                if description.message_type is None:
                    continue
                for below in value if isinstance(value, Iterable) else [value]:
                    yield from _get_references(below)


def _get_columns(scan: Any) -> list[int]:
    """Return the columns of a query in a statement."""
    return _get_numbers(get_field(unwrap(scan), "column_list"))


def _get_numbers(columns: Iterable[Any]) -> list[int]:
    return [column.column_id for column in columns]
