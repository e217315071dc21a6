"""Answer what nodes ask the warehouse while they are compiled, from empty relations.

On Postgres, dbt asks the scratch database. On BigQuery, the engine answers in place of dbt's
adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dbt_common.clients import agate_helper
from dbt_common.exceptions import DbtBaseException

from infrastructure.ci.check_models.engine import Engine, QueryResult, SqlFault
from infrastructure.ci.check_models.template_positions import remove_marks
from prefect_flows.transform.monkeypatch import patched


class NeedsWarehouse(DbtBaseException):
    """A node asks the warehouse something that the engine cannot answer."""


class NeedsData(Exception):
    """The text of a node depends on rows, and the relations are empty."""


class WarehouseAnswers:
    """Answers for the nodes of a project, one node after the other.

    Args:
        adapter: dbt's adapter.
        engine: has the relations.
    """

    def __init__(self, adapter: Any, engine: Engine) -> None:
        self._adapter = adapter
        self._engine = engine
        # What the node that is being compiled asked and got no right answer to. dbt may wrap the
        # errors that say so.
        self._needs_data: list[str] = []
        self._needs_warehouse: list[str] = []
        # Relations that exist by now: (database, schema, identifier) → kind.
        self._relations: dict[tuple[str, str, str], str] = {}

    def add_relation(self, relation: Any, kind: str) -> None:
        """Let nodes find a relation; kind is `table` or `view`."""
        self._relations[_key(relation.database, relation.schema, relation.identifier)] = kind

    def forget_questions(self) -> None:
        """Begin with another node."""
        self._needs_data, self._needs_warehouse = [], []

    def refuse_unanswered(self, error: Exception | None = None) -> None:
        """Refuse the node if it asked something that has no right answer.

        Args:
            error: the error with which it did not compile.

        Raises:
            NeedsData: it depends on the result of a query over empty relations.
            NeedsWarehouse: it asked the warehouse something else.
        """
        if self._needs_data:
            raise NeedsData(self._needs_data[0]) from error
        if self._needs_warehouse:
            raise NeedsWarehouse(self._needs_warehouse[0]) from error

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Answer what nodes ask the warehouse while the context is open."""
        kind = type(self._adapter)

        def get_relation(adapter: Any, database: str, schema: str, identifier: str) -> Any:
            found = self._relations.get(_key(database, schema, identifier))
            if found is None:
                return None
            return adapter.Relation.create(
                database=database, schema=schema, identifier=identifier, type=found,
                quote_policy=adapter.config.quoting,
            )  # fmt: skip

        run = getattr(self._engine, "run_query", None)
        answers = self._answer_in_warehouse(kind) if run is None else self._answer(kind, run)
        with (
            patched(kind, "get_relation", get_relation),
            answers,
            self._adapter.connection_named("check"),
        ):
            yield

    @contextmanager
    def _answer_in_warehouse(self, kind: Any) -> Iterator[None]:
        """Let dbt ask the scratch database, and notice the queries that read relations."""
        execute = kind.execute

        def watch(adapter: Any, sql: str, *arguments: Any, **options: Any) -> Any:
            if self._reads_data(sql):
                self._needs_data.append(sql)
            return execute(adapter, remove_marks(sql), *arguments, **options)

        with patched(kind, "execute", watch):
            yield

    @contextmanager
    def _answer(self, kind: Any, run: Callable[[str], QueryResult]) -> Iterator[None]:
        """Let the engine run queries; refuse to open a connection."""

        def execute(
            adapter: Any,  # noqa: ARG001
            sql: str,
            auto_begin: bool = False,  # noqa: ARG001
            fetch: bool = False,  # noqa: ARG001
            limit: int | None = None,  # noqa: ARG001
        ) -> Any:
            return "OK", self._to_table(self._run(run, remove_marks(sql)))

        def refuse(manager: Any, connection: Any) -> Any:  # noqa: ARG001
            raise self._need_warehouse("it asks the warehouse while it is compiled")

        def get_columns_in_relation(adapter: Any, relation: Any) -> list[Any]:
            key = _key(relation.database, relation.schema, relation.identifier)
            if key not in self._relations:
                return []
            return [
                adapter.Column.create(name, column.type_name)
                for name, column in self._engine.get_columns(relation).items()
            ]

        def close(manager: Any, connection: Any) -> Any:  # noqa: ARG001
            return connection

        connections = kind.ConnectionManager
        with (
            patched(kind, "execute", execute),
            patched(kind, "get_columns_in_relation", get_columns_in_relation),
            patched(connections, "open", classmethod(refuse)),
            # dbt opens a connection to close it.
            patched(connections, "close", classmethod(close)),
        ):
            yield
            self._adapter.cleanup_connections()

    def _run(self, run: Callable[[str], QueryResult], sql: str) -> QueryResult:
        try:
            result = run(sql)
        except SqlFault as fault:
            raise self._need_warehouse(
                f"a query that it runs while it is compiled fails: {fault.message}"
            ) from fault
        if result.reads_data:
            self._needs_data.append(sql)
        return result

    def _need_warehouse(self, reason: str) -> NeedsWarehouse:
        self._needs_warehouse.append(reason)
        return NeedsWarehouse(reason)

    def _reads_data(self, sql: str) -> bool:
        """Return whether a query reads a relation of the project, or lists relations.

        The columns of relations are right.
        """
        lower = sql.lower()
        if "information_schema.columns" in lower:
            return False
        if "information_schema" in lower or "pg_catalog" in lower:
            return True
        return any(identifier in lower for _, _, identifier in self._relations)

    @staticmethod
    def _to_table(result: QueryResult) -> Any:
        rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
        return agate_helper.table_from_data_flat(rows, list(result.columns))


def _key(database: str | None, schema: str | None, identifier: str | None) -> tuple[str, str, str]:
    first, second, third = (
        str(part).strip('"`').lower() for part in (database, schema, identifier)
    )
    return first, second, third
