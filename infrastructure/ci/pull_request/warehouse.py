"""What is asked of a warehouse beside dbt: schemas of pull requests, and questions of relations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from infrastructure.ci.pull_request.names import SchemaOwner
from prefect_flows.core.errors import MillraceError, TargetBusy


@dataclass(frozen=True)
class Relation:
    """A table or view, by the names that dbt's manifest gives."""

    database: str
    schema: str
    name: str


class QueryLimitExceeded(MillraceError):
    """A question would take longer, or read more, than it may."""


class QueryFailed(MillraceError):
    """The warehouse refuses a question."""

    exit_code = 1


class Dialect(Protocol):
    """How the warehouse writes what the comparison asks."""

    def quoted(self, name: str) -> str:
        """A column's name."""

    def relation(self, relation: Relation) -> str:
        """A relation's whole name."""

    def family(self, type_name: str) -> str:
        """Types of one family are compared as they are; others as text."""

    def is_float(self, type_name: str) -> bool:
        """Whether the last digits of a value depend on the order of a sum."""

    def comparable(self, expression: str, type_name: str) -> str:
        """A value as one that has an equality: documents and lists become text."""

    def text(self, expression: str, type_name: str) -> str:
        """A value as text."""


class Warehouse(Protocol):
    """A warehouse that holds production and the schemas of pull requests.

    Every method raises `WarehouseUnreachable` or `QuestionFailed` where the warehouse does not
    answer, or refuses.
    """

    @property
    def dialect(self) -> Dialect:
        """How it writes."""

    @property
    def at_once(self) -> int:
        """How many questions may be asked side by side."""

    def held(
        self, schema: str, mark: SchemaOwner | None, wait: float
    ) -> AbstractContextManager[None]:
        """Hold a schema, so that nobody else builds, compares or drops it.

        The hold ends with the process that has it, however it ends.

        Args:
            mark: of a build, for which the schema may have to be made.
            wait: seconds to wait for whoever has it.

        Raises:
            TargetBusy: it is still held.
        """

    def mark(self, schema: str) -> SchemaOwner | None:
        """The mark of a schema; none where there is no such schema.

        Raises:
            ConfigurationError: it exists, and is not ours.
        """

    def renew(self, schema: str, mark: SchemaOwner) -> None:
        """Leave a schema of ours empty, with the mark; it is held."""

    def drop(self, schema: str) -> None:
        """Drop a schema of ours with all in it; it is held."""

    def marked(self) -> dict[str, SchemaOwner | None]:
        """Every schema with the name of a pull request's, and its mark, where it has one."""

    def columns(self, relations: Sequence[Relation]) -> dict[Relation, dict[str, str]]:
        """Names and types of the columns of those relations that exist."""

    def price(self, sql: str) -> int | None:
        """Bytes that a question would read; none where the warehouse does not sell by them."""

    def ask(self, sql: str) -> Mapping[str, Any]:
        """The only row of a question.

        Raises:
            TooMuch: it takes longer, or reads more, than one question may.
        """

    def close(self) -> None:
        """Give back what it holds open."""


@dataclass(frozen=True)
class Limits:
    """What one question may take.

    Attributes:
        seconds: until it is cancelled.
        bytes: that it may read, where the warehouse sells by them.
    """

    seconds: float
    bytes: int


def busy(schema: str, where: str) -> TargetBusy:
    """The error of who waited in vain."""
    return TargetBusy(
        f"The schema {schema} is held: another build, comparison or removal of the same pull "
        "request is under way.",
        where=where,
        fix="wait for it to end, and do this again; or give it more time with --wait SECONDS",
    )
