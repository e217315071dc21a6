"""What the check needs of a warehouse's SQL engine, and an error that an engine reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from infrastructure.ci.check_models.findings import Warehouse


@dataclass(frozen=True)
class Column:
    """A column of a relation.

    Attributes:
        type_name: its type, as the warehouse writes it.
        comparable: equal for two columns if dbt takes their types for the same in a contract.
    """

    type_name: str
    comparable: Any


Columns = Mapping[str, Column]


class SqlFault(Exception):
    """The engine refuses the SQL.

    Attributes:
        offset: where in the SQL; None if the engine does not say.
        suggestion: what may fix it; empty if the engine does not know.
        unknown: name of a relation or function that the SQL qualifies with a schema and that the
            engine does not know. The project may create it in a way that the check does not see.
    """

    def __init__(
        self, message: str, offset: int | None = None, suggestion: str = "", unknown: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.suggestion = suggestion
        self.unknown = unknown


@dataclass(frozen=True)
class QueryResult:
    """The result of a query that a node runs while it is compiled.

    Attributes:
        reads_data: whether it read a relation, which is empty here.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]] = field(default_factory=list)
    reads_data: bool = False


class Engine(Protocol):
    """An SQL engine with empty relations. Relations are dbt's `BaseRelation`."""

    warehouse: Warehouse

    def add(self, relation: Any, columns: Mapping[str, str]) -> None:
        """Add an empty relation with columns of the given types, in the warehouse's DDL.

        Raises:
            SqlFault: there is no such type.
        """

    def create(self, relation: Any, sql: str) -> Columns:
        """Check a query, and add an empty relation with the columns that it returns.

        Raises:
            SqlFault: the engine refuses the query.
        """

    def check(self, sql: str) -> None:
        """Check a query.

        Raises:
            SqlFault: the engine refuses it.
        """

    def get_columns(self, relation: Any) -> Columns:
        """Return the columns of a relation that was added or created."""

    def resolve_type(self, data_type: str) -> Column:
        """Return a column of a type that is written as in DDL.

        Raises:
            SqlFault: there is no such type.
        """
