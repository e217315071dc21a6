"""Check SQL in a scratch database of an embedded Postgres, whose relations are empty."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import string_types

from infrastructure.ci.check_models.engine import Column, Columns, SqlFault
from infrastructure.ci.check_models.findings import Warehouse
from infrastructure.local import postgres

# dbt parses a project again if its database has another name.
DATABASE = "millrace_check"
NOT_A_QUERY = "the SQL is not one query"
# Messages of a relation or function with a schema in front of its name.
QUALIFIED = re.compile(
    r'(?:relation|schema) "([^"]+)" does not exist$|'
    r"function ((?:\w+\.)+\w+)\(.*\) does not exist$|"
    r'^cross-database references are not implemented: ("[^"]+"|\S+)'
)
PERHAPS = re.compile(r"Perhaps you meant to reference the column (.+)\.$")


class PostgresEngine:
    """A connection to the scratch database."""

    warehouse: Warehouse = "postgres"

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._type_names: dict[int, str] = {}
        self._types: dict[str, Column] = {}
        self._columns: dict[str, Columns] = {}

    def add(self, relation: Any, columns: Mapping[str, str]) -> None:
        """Create an empty table."""
        listed = ", ".join(f"{_quote(name)} {kind}" for name, kind in columns.items())
        self._create_schema(relation)
        self._run(f"create table {relation} (", listed + ")")

    def create(self, relation: Any, sql: str) -> Columns:
        """Create an empty table with the columns of a query, which Postgres does not plan."""
        self._create_schema(relation)
        self._run(f"create table {relation} as (\n", sql, "\n) with no data")
        return self.get_columns(relation)

    def check(self, sql: str) -> None:
        """Prepare a query, which resolves names and types."""
        self._run("prepare millrace_check as ", sql)
        self._run("deallocate millrace_check")

    def get_columns(self, relation: Any) -> Columns:
        """Return the columns of a table."""
        name = str(relation)
        if name not in self._columns:
            self._columns[name] = self._describe(f"select * from {name} limit 0")  # noqa: S608
        return self._columns[name]

    def resolve_type(self, data_type: str) -> Column:
        """Return a column of a type."""
        if data_type not in self._types:
            found = self._describe(f"select cast(null as {data_type}) as x")
            self._types[data_type] = found["x"]
        return self._types[data_type]

    def _create_schema(self, relation: Any) -> None:
        schema = relation.without_identifier().include(database=False)
        self._run(f"create schema if not exists {schema}")

    def _describe(self, query: str) -> Columns:
        with self._connection.cursor() as cursor:
            try:
                cursor.execute(query)
            except psycopg2.Error as error:
                raise _to_fault(error, 0, "") from error
            described = [(column.name, column.type_code) for column in cursor.description]
            unknown = [code for _, code in described if code not in self._type_names]
            if unknown:
                cursor.execute(
                    "select oid::int8, format_type(oid, null) from pg_type where oid = any(%s)",
                    (unknown,),
                )
                self._type_names.update(cursor.fetchall())
        return {name: self._to_column(code) for name, code in described}

    def _to_column(self, code: int) -> Column:
        # dbt compares the types of a contract by the names that psycopg2 has for them.
        name = string_types[code].name if code in string_types else code
        return Column(self._type_names[code], name)

    def _run(self, before: str, query: str = "", after: str = "") -> None:
        with self._connection.cursor() as cursor:
            try:
                cursor.execute(before + query + after)
            except psycopg2.Error as error:
                raise _to_fault(error, len(before), query) from error


@contextmanager
def scratch_database(local_dir: Path) -> Iterator[tuple[PostgresEngine, dict[str, Any]]]:
    """Make a database that exists while the context is open; yield it and its dbt output.

    The server is one of its own below `local_dir`, so that the one of `millrace up` stays as it is.
    It is stopped at the end.

    Raises:
        ServerError: Postgres does not start.
    """
    started = postgres.start(local_dir)
    output = {
        "type": "postgres", "host": started.host, "port": started.port, "user": postgres.USER,
        "dbname": DATABASE, "password": "", "schema": "check", "threads": 1,
    }  # fmt: skip
    try:
        drop = sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(DATABASE))
        with closing(_connect(started, postgres.DATABASE)) as admin, admin.cursor() as cursor:
            # A killed check leaves its database behind.
            cursor.execute(drop)
            cursor.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
            with closing(_connect(started, DATABASE)) as connection:
                yield PostgresEngine(connection), output
            cursor.execute(drop)
    finally:
        postgres.stop(local_dir)


def _connect(server: postgres.Postgres, database: str) -> Any:
    connection = psycopg2.connect(
        host=server.host, port=server.port, user=postgres.USER, dbname=database,
        options="-c synchronous_commit=off -c timezone=UTC",
    )  # fmt: skip
    connection.autocommit = True
    return connection


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _to_fault(error: psycopg2.Error, before: int, query: str) -> SqlFault:
    """Build a fault from Postgres' error; positions in our own text are none of the query."""
    detail = error.diag
    message = detail.message_primary or str(error)
    position = detail.statement_position
    offset = None if position is None else int(position) - 1 - before
    if offset is not None and not 0 <= offset <= len(query):
        offset = None if offset < 0 else len(query)
    hint = detail.message_hint or ""
    perhaps = PERHAPS.search(hint)
    suggestion = hint
    if perhaps is not None:
        column = perhaps[1].replace('"', "")
        suggestion = f"did you mean {column}?"
    if not suggestion and detail.message_detail:
        suggestion = detail.message_detail
    return SqlFault(message, offset, suggestion, _get_unknown(error, message))


def _get_unknown(error: psycopg2.Error, message: str) -> str:
    """Return the qualified name that Postgres does not know."""
    if not isinstance(
        error,
        (
            errors.UndefinedTable,
            errors.UndefinedFunction,
            errors.InvalidSchemaName,
            errors.FeatureNotSupported,
        ),
    ):
        return ""
    found = QUALIFIED.search(message)
    name = next((part for part in found.groups() if part), "") if found else ""
    is_qualified = "." in name or not isinstance(error, errors.UndefinedTable)
    return name if is_qualified else ""
