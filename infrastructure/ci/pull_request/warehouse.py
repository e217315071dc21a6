"""Warehouse protocol of `millrace pr`: lock, create and drop CI schemas, run comparison queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from infrastructure.ci.pull_request.names import SchemaOwner
from prefect_flows.core.errors import MillraceError, TargetBusy


@dataclass(frozen=True)
class Relation:
    """A table or view, named as in dbt's manifest."""

    database: str
    schema: str
    name: str


class QueryLimitExceeded(MillraceError):
    """A query would exceed its limit of time or bytes."""


class QueryFailed(MillraceError):
    """The warehouse rejected a query."""

    exit_code = 1


class Dialect(Protocol):
    """SQL dialect of a warehouse."""

    def quote(self, name: str) -> str:
        """Quote a column's name."""

    def quote_relation(self, relation: Relation) -> str:
        """Format the full name of a relation."""

    def get_type_family(self, type_name: str) -> str:
        """Return the family of a type; two families are compared as text."""

    def is_float(self, type_name: str) -> bool:
        """Return whether the type is floating point, whose sums depend on the order of rows."""

    def cast_to_comparable(self, expression: str, type_name: str) -> str:
        """Convert an expression to a type with equality, for example JSON to text."""

    def cast_to_text(self, expression: str, type_name: str) -> str:
        """Cast an expression to text."""


class Warehouse(Protocol):
    """A warehouse that contains production and the schemas of pull requests.

    Every method raises `WarehouseUnreachable` if the warehouse does not respond or refuses the
    connection, and `QueryFailed` if it rejects a statement.
    """

    @property
    def dialect(self) -> Dialect:
        """SQL dialect."""

    @property
    def max_parallel_queries(self) -> int:
        """Maximum number of concurrent queries."""

    def lock(
        self, schema: str, owner: SchemaOwner | None, wait: float
    ) -> AbstractContextManager[None]:
        """Lock a schema, so that nobody else builds, compares or drops it.

        The lock ends with the process that holds it, even if the process is killed.

        Args:
            schema: name of the schema.
            owner: owner of a build, which creates a missing schema; None otherwise.
            wait: seconds to wait for the lock.

        Raises:
            TargetBusy: another process still holds the lock.
        """

    def get_owner(self, schema: str) -> SchemaOwner | None:
        """Return the owner of a schema, or None if there is no such schema.

        Raises:
            ConfigurationError: Millrace did not create the schema.
        """

    def reset(self, schema: str, owner: SchemaOwner) -> None:
        """Empty a locked schema and set its owner."""

    def drop(self, schema: str) -> None:
        """Drop a locked schema and its contents."""

    def list_owners(self) -> dict[str, SchemaOwner | None]:
        """Return every schema named like one of a pull request, with its owner if it has one."""

    def get_column_types(self, relations: Sequence[Relation]) -> dict[Relation, dict[str, str]]:
        """Return names and types of the columns of the relations that exist."""

    def estimate_bytes(self, sql: str) -> int | None:
        """Return the bytes that a query would scan; None if they are not billed."""

    def fetch_row(self, sql: str) -> Mapping[str, Any]:
        """Run a query that returns one row, and return the row.

        Raises:
            QueryLimitExceeded: the query exceeds its limit of time or bytes.
        """

    def close(self) -> None:
        """Close the connection."""


@dataclass(frozen=True)
class Limits:
    """Limits of a query.

    Attributes:
        seconds: time until it is cancelled.
        bytes: maximum bytes scanned, if the warehouse bills by bytes.
    """

    seconds: float
    bytes: int


def lock_error(schema: str, where: str) -> TargetBusy:
    """Build the error for a schema that is still locked after the wait."""
    return TargetBusy(
        f"The schema {schema} is held: another build, comparison or removal of the same pull "
        "request is in progress.",
        where=where,
        fix="wait for it to end, and try again; or give it more time with --wait SECONDS",
    )
