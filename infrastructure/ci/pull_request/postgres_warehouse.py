"""Postgres warehouse of pull requests: CI schemas and comparison queries."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2 import errors, sql
from psycopg2.extras import RealDictCursor

from infrastructure.ci.pull_request.names import SchemaOwner, foreign_schema_error, parse_number
from infrastructure.ci.pull_request.warehouse import (
    Limits,
    QueryFailed,
    QueryLimitExceeded,
    Relation,
    lock_error,
)
from prefect_flows.core.errors import ConfigurationError, WarehouseUnreachable
from prefect_flows.core.formatting import one_line
from prefect_flows.core.profiles import Profile

# First half of the advisory lock's key; the second is the pull request's number.
LOCK_NAMESPACE = 7_646_723
POLL_SECONDS = 0.5

_NUMBERS = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
_TEXTS = ("text", "character varying", "character")
# Types without an equality operator.
_WITHOUT_EQUALITY = ("json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle")

_OWNERS_QUERY = """
select nspname as schema, obj_description(oid, 'pg_namespace') as owner
from pg_namespace where nspname ~ '^ci_[1-9][0-9]*$' order by 1
"""
_COLUMNS_QUERY = """
select n.nspname as schema, c.relname as relation, a.attname as name,
    format_type(a.atttypid, a.atttypmod) as type
from pg_attribute as a
inner join pg_class as c on c.oid = a.attrelid
inner join pg_namespace as n on n.oid = c.relnamespace
where
    c.relkind in ('r', 'p', 'v', 'm', 'f') and a.attnum > 0 and not a.attisdropped
    and (n.nspname, c.relname) in %s
order by n.nspname, c.relname, a.attnum
"""
# Objects in other schemas that `drop … cascade` would drop: views and foreign keys.
_DEPENDENTS_QUERY = """
select distinct d_n.nspname || '.' || d.relname as name
from pg_depend as dep
inner join pg_rewrite as r on dep.classid = 'pg_rewrite'::regclass and r.oid = dep.objid
inner join pg_class as d on d.oid = r.ev_class
inner join pg_namespace as d_n on d_n.oid = d.relnamespace
inner join pg_class as o on dep.refclassid = 'pg_class'::regclass and o.oid = dep.refobjid
inner join pg_namespace as o_n on o_n.oid = o.relnamespace
where o_n.nspname = %(schema)s and d_n.nspname <> %(schema)s
union
select d_n.nspname || '.' || d.relname
from pg_constraint as k
inner join pg_class as d on d.oid = k.conrelid
inner join pg_namespace as d_n on d_n.oid = d.relnamespace
inner join pg_class as o on o.oid = k.confrelid
inner join pg_namespace as o_n on o_n.oid = o.relnamespace
where k.contype = 'f' and o_n.nspname = %(schema)s and d_n.nspname <> %(schema)s
order by 1
"""


class PostgresDialect:
    """SQL dialect of Postgres."""

    def quote(self, name: str) -> str:
        """Quote a column's name."""
        return '"' + name.replace('"', '""') + '"'

    def quote_relation(self, relation: Relation) -> str:
        """Format a relation's name; the connection determines the database."""
        return f"{self.quote(relation.schema)}.{self.quote(relation.name)}"

    def get_type_family(self, type_name: str) -> str:
        """Return `number` or `text` for such types, otherwise the type without its modifiers."""
        bare = re.sub(r"\(.*?\)", "", type_name)
        if bare in _NUMBERS:
            return "number"
        return "text" if bare in _TEXTS else bare

    def is_float(self, type_name: str) -> bool:
        """Return whether the type is floating point, whose sums depend on the order of rows."""
        return type_name in ("real", "double precision")

    def cast_to_comparable(self, expression: str, type_name: str) -> str:
        """Convert an expression to a type with equality."""
        without = type_name.removesuffix("[]") in _WITHOUT_EQUALITY
        return self.cast_to_text(expression, type_name) if without else expression

    def cast_to_text(self, expression: str, type_name: str) -> str:  # noqa: ARG002
        """Cast an expression to text."""
        return f"cast({expression} as text)"


class PostgresWarehouse:
    """The Postgres database that contains production and the schemas of pull requests.

    Raises:
        WarehouseUnreachable: the database does not respond, or refuses the connection.
    """

    def __init__(self, profile: Profile, limits: Limits) -> None:
        self.dialect = PostgresDialect()
        self.max_parallel_queries = 1  # there is only one connection
        self._profile = profile
        self._limits = limits
        self._connection = self._connect()

    @contextmanager
    def lock(self, schema: str, owner: SchemaOwner | None, wait: float) -> Iterator[None]:  # noqa: ARG002
        """Lock a schema with an advisory lock, which Postgres releases when the session ends."""
        number = parse_number(schema)
        deadline = time.monotonic() + wait
        while not self._one("select pg_try_advisory_lock(%s, %s) as got", LOCK_NAMESPACE, number)[
            "got"
        ]:
            if time.monotonic() >= deadline:
                raise lock_error(schema, self._profile.address)
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            # Fails if the session, and with it the lock, was lost meanwhile.
            self._one("select pg_advisory_unlock(%s, %s)", LOCK_NAMESPACE, number)

    def get_owner(self, schema: str) -> SchemaOwner | None:
        """Return the owner of a schema, or None if there is no such schema."""
        found = self._rows(
            "select obj_description(oid, 'pg_namespace') as owner from pg_namespace "
            "where nspname = %s",
            schema,
        )
        if not found:
            return None
        owner = SchemaOwner.parse(found[0]["owner"], schema)
        if owner is None:
            raise foreign_schema_error(schema, self._profile.address)
        return owner

    def reset(self, schema: str, owner: SchemaOwner) -> None:
        """Recreate a schema with its owner, in one transaction."""
        name = sql.Identifier(schema)
        self._require_no_dependents(schema)
        statements = [
            sql.SQL("create schema {}").format(name),
            sql.SQL("comment on schema {} is {}").format(
                name, sql.Literal(owner.model_dump_json())
            ),
        ]
        if self.get_owner(schema) is not None:
            statements.insert(0, sql.SQL("drop schema {} cascade").format(name))
        # Postgres runs statements that are sent together as one transaction.
        self._run(sql.SQL("; ").join(statements))

    def drop(self, schema: str) -> None:
        """Drop a schema and its contents, unless objects in other schemas depend on it."""
        self._require_no_dependents(schema)
        if self.get_owner(schema) is not None:
            self._run(sql.SQL("drop schema {} cascade").format(sql.Identifier(schema)))

    def list_owners(self) -> dict[str, SchemaOwner | None]:
        """Return every schema named like one of a pull request, with its owner if it has one."""
        return {
            row["schema"]: SchemaOwner.parse(row["owner"], row["schema"])
            for row in self._rows(_OWNERS_QUERY)
        }

    def get_column_types(self, relations: Sequence[Relation]) -> dict[Relation, dict[str, str]]:
        """Return names and types of the columns of the relations that exist."""
        if not relations:
            return {}
        by_name = {(each.schema, each.name): each for each in relations}
        found: dict[Relation, dict[str, str]] = {}
        for row in self._rows(_COLUMNS_QUERY, tuple(by_name)):
            columns = found.setdefault(by_name[row["schema"], row["relation"]], {})
            columns[row["name"]] = row["type"]
        return found

    def estimate_bytes(self, sql: str) -> None:
        """Return None: Postgres has no price per byte; the time limit bounds a query."""

    def fetch_row(self, sql: str) -> Mapping[str, Any]:
        """Run a query that returns one row, and return the row."""
        try:
            self._one("select set_config('statement_timeout', %s, false)", self._milliseconds)
            return self._one(sql)
        finally:
            if not self._connection.closed:
                self._one("select set_config('statement_timeout', '0', false)")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @property
    def _milliseconds(self) -> str:
        return str(round(self._limits.seconds * 1000))

    def _connect(self) -> Any:
        given = self._profile.credentials()
        try:
            connection = psycopg2.connect(
                host=given["host"], port=given["port"], user=given["user"],
                password=given.get("password") or None, dbname=given["dbname"],
                connect_timeout=10, application_name="millrace pull request",
                **({"sslmode": given["sslmode"]} if given.get("sslmode") else {}),
            )  # fmt: skip
        except psycopg2.OperationalError as error:
            raise WarehouseUnreachable(
                f"Cannot connect to the warehouse of target {self._profile.target!r}: "
                f"{one_line(str(error))}",
                where=self._profile.address,
                fix=self._profile.address_hint,
            ) from error
        connection.autocommit = True
        return connection

    def _require_no_dependents(self, schema: str) -> None:
        names = [row["name"] for row in self._rows(_DEPENDENTS_QUERY, {"schema": schema})]
        if names:
            raise ConfigurationError(
                f"Objects in other schemas depend on the schema {schema}, and would go with it: "
                f"{', '.join(names)}.",
                where=self._profile.address,
                fix=f"drop or change {names[0]}, then try again",
            )

    def _one(self, statement: str, *values: Any) -> Mapping[str, Any]:
        (row,) = self._rows(statement, *values)
        return row

    def _rows(self, statement: str, *values: Any) -> list[Mapping[str, Any]]:
        given: Any = values[0] if values and isinstance(values[0], dict) else values or None
        with (
            self._translate_errors(),
            self._connection.cursor(cursor_factory=RealDictCursor) as cursor,
        ):
            cursor.execute(statement, given)
            return list(cursor.fetchall())

    def _run(self, statement: sql.Composed) -> None:
        with self._translate_errors(), self._connection.cursor() as cursor:
            cursor.execute(statement)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        profile = self._profile
        try:
            yield
        except errors.QueryCanceled as error:
            raise QueryLimitExceeded(
                f"It takes longer than {self._limits.seconds:g} s.",
                where=profile.address,
                fix="give it more time with --seconds SECONDS",
            ) from error
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            raise WarehouseUnreachable(
                f"The warehouse of target {profile.target!r} went away: {one_line(str(error))}",
                where=profile.address,
                fix=profile.address_hint,
            ) from error
        except errors.InsufficientPrivilege as error:
            raise ConfigurationError(
                f"{profile.output['user']} may not do this: {one_line(str(error))}",
                where=profile.address,
                fix="documentation/pull_requests.md lists what the target of pull requests needs: "
                "create on the database, and select on what it reads",
            ) from error
        except psycopg2.Error as error:
            raise QueryFailed(
                f"The warehouse refuses: {error.diag.message_primary or type(error).__name__}",
                where=profile.address,
                fix="correct what it names, and try again",
            ) from error
