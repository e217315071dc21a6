"""Compile the nodes of the dbt project in graph order, with an engine in the warehouse's place.

`warehouse_answers.py` answers what a node asks the warehouse while it is compiled (`run_query`,
`is_incremental`, `adapter.get_relation`).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, TypeVar

from dbt.adapters.factory import get_adapter
from dbt.clients.jinja import get_rendered
from dbt.compilation import Compiler
from dbt.config.runtime import RuntimeConfig
from dbt.contracts.graph.manifest import Manifest
from dbt.task.build import BuildTask
from dbt_common.clients import agate_helper, jinja
from dbt_common.exceptions import DbtBaseException
from jinja2 import TemplateError

from infrastructure.ci.check_models.engine import Engine
from infrastructure.ci.check_models.template_positions import (
    MarkTemplate,
    align,
    read_marks,
)
from infrastructure.ci.check_models.warehouse_answers import WarehouseAnswers
from prefect_flows.transform.monkeypatch import patched
from prefect_flows.transform.session import DbtSession
from prefect_flows.transform.test_batching.execution import reset_compilation

T = TypeVar("T")

# What a template can raise: dbt's errors, Jinja's, and those of Python's expressions in it.
TEMPLATE_ERRORS = (
    DbtBaseException, TemplateError, TypeError, ValueError, ArithmeticError, LookupError,
    AttributeError,
)  # fmt: skip


class CompileFault(Exception):
    """A node does not compile.

    Attributes:
        line: line of its template, from 1.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


@dataclass(frozen=True)
class Compiled:
    """The SQL of a node.

    Attributes:
        sql: SQL with the CTEs of ephemeral models.
        rendered: SQL without them.
    """

    sql: str
    rendered: str


class ProjectCompiler:
    """Compiles nodes of a project; lives inside an invocation of dbt.

    Attributes:
        manifest: the project.
        adapter: dbt's adapter.
        answers: answers what nodes ask the warehouse.
    """

    def __init__(self, manifest: Manifest, config: RuntimeConfig, engine: Engine) -> None:
        self.manifest = manifest
        self.adapter: Any = get_adapter(config)
        self._config = config
        self._compiler = Compiler(config)
        self._engine = engine
        self.answers = WarehouseAnswers(self.adapter, engine)

    def get_relation(self, node: Any) -> Any:
        """Return dbt's relation of a node."""
        return self.adapter.Relation.create_from(self._config, node)

    def compile(self, node: Any) -> Compiled:
        """Compile a node.

        Raises:
            NeedsData: its SQL depends on the result of a query over empty relations.
            NeedsWarehouse: it asks the warehouse something else.
            CompileFault: it does not compile.
        """
        reset_compilation(node)
        self.answers.forget_questions()
        try:
            compiled = self._compiler.compile_node(node, self.manifest, {}, write=False)
            sql = compiled.compiled_code or ""
            has_ctes = bool(compiled.extra_ctes)
            rendered = self._render(node) if has_ctes else sql
        except TEMPLATE_ERRORS as error:
            self.answers.refuse_unanswered(error)
            raise CompileFault(_get_message(error), _get_line(error)) from error
        self.answers.refuse_unanswered()
        return Compiled(sql, rendered)

    def map_positions(self, node: Any, compiled: Compiled) -> Callable[[int], int | None]:
        """Return a function from offsets in the SQL to offsets in the node's template.

        It returns None for the SQL of an ephemeral model, which is checked by itself.
        """
        text, positions = read_marks(self._render(node, marked=True))
        if text != compiled.rendered:
            positions = align(compiled.rendered, node.raw_code)
        start, end = _find_insertion(compiled.sql, compiled.rendered)

        def to_template(offset: int) -> int | None:
            if start <= offset < end:
                return None
            return positions.to_template(offset if offset < start else offset - (end - start))

        return to_template

    def get_seed_types(self, node: Any, file: str) -> dict[str, str]:
        """Return the types that dbt gives the columns of a seed."""
        overrides = {name: str(kind) for name, kind in (node.config.column_types or {}).items()}
        table = agate_helper.from_csv(file, text_columns=overrides, delimiter=node.config.delimiter)
        types = [self.adapter.convert_type(table, n) for n in range(len(table.column_names))]
        if self._engine.warehouse == "bigquery":
            # A load takes the names of BigQuery's API, such as FLOAT.
            translate = self.adapter.Column.translate_type
            overrides = {name: translate(kind) for name, kind in overrides.items()}
        return {
            name: overrides.get(name, kind)
            for name, kind in zip(table.column_names, types, strict=True)
        }

    def _render(self, node: Any, *, marked: bool = False) -> str:
        context = self._compiler._create_node_context(node, self.manifest, {})  # noqa: SLF001
        if not marked:
            return str(get_rendered(node.raw_code, context, node))
        base = jinja.get_environment(node)
        environment = _MarkingEnvironment(
            extensions=[*(type(each) for each in base.extensions.values()), MarkTemplate]
        )
        environment.filters.update(base.filters)
        template = environment.from_string(node.raw_code, globals=context)
        return str(jinja.render_template(template, context, node))


class _MarkingEnvironment(jinja.MacroFuzzEnvironment):
    """dbt's environment under another type: compiled templates are shared by type."""


def compile_in_dbt(session: DbtSession, engine: Engine, work: Callable[[ProjectCompiler], T]) -> T:
    """Run a function in place of the nodes of a `dbt build`, with the project's compiler."""
    results: list[T] = []

    def run(task: Any) -> list[Any]:
        compiler = ProjectCompiler(task.manifest, task.config, engine)
        with compiler.answers.answering():
            results.append(work(compiler))
        return []

    # Not `dbt compile`, for which macros write something else (`flags.WHICH`).
    with patched(BuildTask, "run", run):
        outcome = session.invoke(["build", "--no-populate-cache"])
    if outcome.exception is not None:
        raise outcome.exception
    (result,) = results
    return result


def sort_by_depth(manifest: Manifest) -> list[Any]:
    """Return all nodes, parents first, those of the same depth together."""
    sorter = TopologicalSorter(
        {
            node.unique_id: [each for each in node.depends_on_nodes if each in manifest.nodes]
            for node in manifest.nodes.values()
        }
    )
    sorter.prepare()
    ordered = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        ordered += [manifest.nodes[unique_id] for unique_id in ready]
        sorter.done(*ready)
    return ordered


def _find_insertion(sql: str, rendered: str) -> tuple[int, int]:
    """Return where dbt inserted CTEs into the rendered SQL; an empty range if it did not."""
    inserted = len(sql) - len(rendered)
    if inserted <= 0:
        return len(sql), len(sql)
    start = 0
    while start < len(rendered) and sql[start] == rendered[start]:
        start += 1
    return start, start + inserted


def _get_message(error: BaseException) -> str:
    """Return an error's message without dbt's lines about the place."""
    lines = [line.strip() for line in str(getattr(error, "msg", error)).splitlines()]
    kept = [line for line in lines if line and not line.startswith((">", "line "))]
    return " ".join(kept) or type(error).__name__


def _get_line(error: BaseException) -> int:
    """Return the line of the template in which an error was raised."""
    chain: BaseException | None = error
    while chain is not None:
        for frame, line in traceback.walk_tb(chain.__traceback__):
            if frame.f_code.co_filename == "<template>":
                return line
        chain = chain.__cause__ or chain.__context__
    return 1
