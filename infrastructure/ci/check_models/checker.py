"""Check all nodes of a project for one warehouse, parents first, on empty relations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from dbt.contracts.graph.nodes import GenericTestNode

from infrastructure.ci.check_models.columns import ColumnCheck, find_missing_columns
from infrastructure.ci.check_models.compilation import (
    Compiled,
    CompileFault,
    ProjectCompiler,
    sort_by_depth,
)
from infrastructure.ci.check_models.engine import Engine, SqlFault
from infrastructure.ci.check_models.findings import CheckResult, Finding, Place, Unchecked
from infrastructure.ci.check_models.node_sql import (
    WrappedSql,
    find_name,
    get_misspelt_column,
    wrap_node,
)
from infrastructure.ci.check_models.places import Places
from infrastructure.ci.check_models.plain_tests import PlainTests
from infrastructure.ci.check_models.source_columns import LOADS, SourceColumns
from infrastructure.ci.check_models.warehouse_answers import NeedsData, NeedsWarehouse


class Checker:
    """Checks the nodes of a project on an engine, and collects what it finds.

    Args:
        compiler: compiles the nodes.
        engine: checks their SQL.
        sources: columns of the sources.
        places: places in the files.
    """

    def __init__(
        self, compiler: ProjectCompiler, engine: Engine, sources: SourceColumns, places: Places
    ) -> None:
        self._compiler = compiler
        self._engine = engine
        self._sources = sources
        self._places = places
        self._columns = ColumnCheck(engine, places, compiler.adapter.Column.translate_type)
        self._plain_tests = PlainTests(compiler.manifest)
        self._findings: list[Finding] = []
        # Nodes that were not checked, or whose columns are unknown, and why.
        self._reasons: dict[str, str] = {}
        self._unchecked: dict[str, str] = {}
        self._checked: Counter[str] = Counter()
        # Nodes that YAML documents columns of that they lack: the columns' lower-case names.
        self._missing: dict[str, set[str]] = {}
        self.relations: dict[str, Any] = {}

    def run(self) -> CheckResult:
        """Check everything."""
        manifest = self._compiler.manifest
        for source in manifest.sources.values():
            self._add_source(source)
        for schema in {
            (s.database, s.schema): s for s in manifest.sources.values() if s.loader == "dlt"
        }.values():
            relation = self._compiler.get_relation(schema).incorporate(path={"identifier": LOADS})
            self._add(relation, self._sources.get_loads())
        # dbt switches off a test whose model is switched off.
        nodes = [node for node in sort_by_depth(manifest) if node.config.enabled]
        tests = _list_tests(nodes)
        for node in nodes:
            self._check_node(node, tests)
        for node in nodes:
            if _is_incremental(node) and node.unique_id not in self._reasons:
                self._check_incremental(node)
        for unit_test in manifest.unit_tests:
            self._unchecked[unit_test] = "unit tests need rows: dbt test runs them"
        warehouse = self._engine.warehouse
        return CheckResult(
            self._findings,
            [Unchecked(node, reason, (warehouse,)) for node, reason in self._unchecked.items()],
            {warehouse: self._checked.total()},
        )

    def _add_source(self, source: Any) -> None:
        table = self._sources.get_table(source)
        relation = self._compiler.get_relation(source)
        reason = table.unknown or self._add(relation, table.columns)
        if reason:
            self._reasons[source.unique_id] = self._unchecked[source.unique_id] = reason
            return
        self.relations[source.unique_id] = relation
        if table.is_loaded:
            for column in find_missing_columns(source, table.columns):
                self._report(
                    source,
                    self._places.of_column(source, column),
                    "source-column",
                    f"the loader of {source.source_name} loads no column {column} "
                    f"into {source.name}",
                    self._columns.suggest(column, table.columns),
                )

    def _add(self, relation: Any, columns: Mapping[str, str]) -> str:
        """Add a relation; return why that is not possible."""
        try:
            self._engine.add(relation, columns)
        except SqlFault as fault:
            return f"{relation} cannot be made: {fault.message}"
        self._compiler.answers.add_relation(relation, "table")
        return ""

    def _check_node(self, node: Any, tests: Mapping[str, list[Any]]) -> None:
        reason = self._get_reason(node)
        if reason:
            self._skip(node, reason)
            return
        kind = str(node.resource_type)
        if kind == "seed":
            self._check_seed(node)
        elif not (self._is_test_of_missing_column(node) or self._is_plain_test(node)):
            try:
                compiled = self._compiler.compile(node)
            except NeedsData:
                self._skip(node, "its SQL depends on rows: it runs a query while it is compiled")
                return
            except NeedsWarehouse as error:
                self._skip(node, str(error))
                return
            except CompileFault as fault:
                place = self._places.of_line(node, fault.line)
                self._fail(node, place, "compile", fault.message, "")
                return
            self._check_sql(node, kind, compiled)
        if node.unique_id in self.relations:
            self._check_columns(node, tests)
        if node.unique_id not in self._unchecked:
            self._checked[kind] += 1

    def _get_reason(self, node: Any) -> str:
        """Return why a node cannot be checked; empty if it can."""
        if (node.config.meta or {}).get("check") is False:
            return "its meta says check: false"
        if getattr(node, "language", "sql") != "sql":
            return f"it is written in {node.language}"
        if str(node.resource_type) in ("operation", "sql_operation"):
            return "it is a hook"
        if node.config.get("sql_header"):
            return "it has an sql_header"
        parents = node.depends_on_nodes
        if any(each in self._compiler.manifest.functions for each in parents):
            return "it calls a function of the project"
        return next((self._reasons[each] for each in parents if each in self._reasons), "")

    def _skip(self, node: Any, reason: str) -> None:
        self._unchecked[node.unique_id] = reason
        self._lose_columns(node, reason)

    def _lose_columns(self, node: Any, reason: str) -> None:
        """Take the columns of a node from its contract; without one they are unknown."""
        if str(node.resource_type) == "model" and node.contract.enforced:
            relation = self._compiler.get_relation(node)
            columns = {
                column.name: self._columns.translate(column.data_type)
                for column in node.columns.values()
            }
            if not self._add(relation, columns):
                self.relations[node.unique_id] = relation
                return
        self._reasons[node.unique_id] = reason

    def _check_seed(self, node: Any) -> None:
        file = self._places.get_file(node)
        relation = self._compiler.get_relation(node)
        reason = self._add(relation, self._compiler.get_seed_types(node, str(file)))
        if reason:
            self._skip(node, reason)
        else:
            self.relations[node.unique_id] = relation

    def _check_sql(self, node: Any, kind: str, compiled: Compiled) -> None:
        wrapped = wrap_node(node, compiled.sql, self._engine.warehouse)
        if wrapped is None:
            self._skip(node, "it is not one query")
            return
        try:
            if kind in ("test", "analysis") or node.is_ephemeral_model:
                self._engine.check(wrapped.text)
            else:
                self._create(node, wrapped.text)
        except SqlFault as fault:
            self._refuse(node, compiled, wrapped, fault)

    def _create(self, node: Any, sql: str) -> None:
        relation = self._compiler.get_relation(node)
        self._engine.create(relation, sql)
        is_view = node.config.materialized == "view"
        self._compiler.answers.add_relation(relation, "view" if is_view else "table")
        self.relations[node.unique_id] = relation

    def _check_incremental(self, node: Any) -> None:
        """Check the SQL of a later run, which finds the table of the first."""
        try:
            compiled = self._compiler.compile(node)
        except (NeedsData, NeedsWarehouse):
            reason = "the SQL of its later runs depends on rows"
            self._unchecked[node.unique_id] = reason
            return
        except CompileFault as fault:
            place = self._places.of_line(node, fault.line)
            self._report(node, place, "compile", fault.message, "")
            return
        try:
            self._engine.check(compiled.sql)
        except SqlFault as fault:
            if not fault.unknown:
                place = self._find_place(node, compiled, WrappedSql("", compiled.sql, ""), fault)
                self._report(node, place, "sql", fault.message, self._suggest(node, fault))

    def _refuse(self, node: Any, compiled: Compiled, wrapped: WrappedSql, fault: SqlFault) -> None:
        if fault.unknown:
            self._skip(node, f"it uses {fault.unknown}, which the project does not declare")
            return
        place = self._find_place(node, compiled, wrapped, fault)
        self._fail(node, place, "sql", fault.message, self._suggest(node, fault))

    def _find_place(
        self, node: Any, compiled: Compiled, wrapped: WrappedSql, fault: SqlFault
    ) -> Place:
        if isinstance(node, GenericTestNode):
            return self._places.of_node(node)
        offset = wrapped.to_node(fault.offset)
        if offset is None and fault.offset is None:
            offset = find_name(fault.message, wrapped.sql)
        if offset is None:
            return self._places.of_node(node)
        found = self._compiler.map_positions(node, compiled)(offset)
        return (
            self._places.of_node(node) if found is None else self._places.in_template(node, found)
        )

    def _check_columns(self, node: Any, tests: Mapping[str, list[Any]]) -> None:
        columns = self._engine.get_columns(self.relations[node.unique_id])
        missing = {name.lower() for name in find_missing_columns(node, columns)}
        self._missing[node.unique_id] = missing
        of_column = {
            name: [t.test_metadata.name for t in tests.get(node.unique_id, ()) if _tests(t, name)]
            for name in missing
        }
        for rule, place, message, suggestion in self._columns.check(node, columns, of_column):
            self._report(node, place, rule, message, suggestion)

    def _is_test_of_missing_column(self, node: Any) -> bool:
        """Return whether a test's column is missing, which the column's finding says."""
        return isinstance(node, GenericTestNode) and any(
            _tests(node, name) for name in self._missing.get(node.attached_node or "", ())
        )

    def _is_plain_test(self, node: Any) -> bool:
        """Return whether a test is right without asking the engine."""
        relation = self.relations.get(getattr(node, "attached_node", None) or "")
        if relation is None or not isinstance(node, GenericTestNode):
            return False
        return self._plain_tests.is_right(node, self._engine.get_columns(relation))

    def _fail(self, node: Any, place: Place, rule: str, message: str, suggestion: str) -> None:
        self._report(node, place, rule, message, suggestion)
        self._lose_columns(node, f"{node.name} has an error")

    def _suggest(self, node: Any, fault: SqlFault) -> str:
        """Return the engine's suggestion, or the most similar column of a parent."""
        misspelt = get_misspelt_column(fault.message)
        if fault.suggestion or not misspelt:
            return fault.suggestion
        known = {
            name
            for parent in node.depends_on_nodes
            if parent in self.relations
            for name in self._engine.get_columns(self.relations[parent])
        }
        return self._columns.suggest(misspelt, sorted(known))

    def _report(self, node: Any, place: Place, rule: str, message: str, suggestion: str) -> None:
        self._findings.append(
            Finding(place, rule, message, suggestion, node.unique_id, (self._engine.warehouse,))
        )


def _list_tests(nodes: Iterable[Any]) -> dict[str, list[Any]]:
    """Return unique id of a node → its generic tests."""
    found: dict[str, list[Any]] = {}
    for node in nodes:
        if isinstance(node, GenericTestNode) and node.attached_node:
            found.setdefault(node.attached_node, []).append(node)
    return found


def _tests(test: Any, column: str) -> bool:
    return (test.column_name or "").strip('"`').lower() == column


def _is_incremental(node: Any) -> bool:
    config = node.config
    return (
        str(node.resource_type) == "model"
        and config.materialized == "incremental"
        and config.incremental_strategy != "microbatch"
    )
