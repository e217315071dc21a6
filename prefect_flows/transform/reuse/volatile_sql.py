"""Finds compiled SQL whose result changes although neither code nor inputs do.

A module of its own, so that only runs with new code import the parser.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator

from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError

from prefect_flows.transform.reuse.volatility import VOLATILE_WORDS

_VOLATILE_EXPRESSIONS: dict[type[exp.Expr], str] = {
    exp.CurrentDate: "current_date",
    exp.CurrentDatetime: "current_datetime",
    exp.CurrentTime: "current_time",
    exp.CurrentTimestamp: "current_timestamp",
    exp.Localtime: "localtime",
    exp.Localtimestamp: "localtimestamp",
    exp.Rand: "random",
    exp.Uuid: "a random UUID",
    exp.TableSample: "tablesample",
    exp.Version: "an earlier version of a table",
}
# Postgres reads these texts as a date relative to now.
_RELATIVE_DATES = frozenset({"now", "today", "tomorrow", "yesterday"})

Relation = tuple[str, str]


def find_in_sql(sql: str, dialect: str, inputs: Collection[Relation]) -> str | None:
    """Return why the result of compiled SQL may change by itself; None if nothing is found.

    Args:
        sql: a query.
        dialect: name of the dbt adapter, which is also sqlglot's name of the dialect.
        inputs: lower-case schema and name of each relation that the node declares to read, and of
            its own.
    """
    # sqlglot logs what it does not support, and parses it as a command.
    logging.getLogger("sqlglot").setLevel(logging.ERROR)
    try:
        query = parse_one(sql, dialect=dialect)
    except SqlglotError:
        return "its SQL cannot be parsed"
    if isinstance(query, exp.Command):
        return "its SQL cannot be parsed"
    for found in _find_volatile(query):
        return f"it uses {found}"
    for found in _find_undeclared(query, inputs):
        return f"it reads {found}, which is neither a ref() nor a source()"
    return None


def _find_volatile(query: exp.Expr) -> Iterator[str]:
    for node in query.walk():
        name = _VOLATILE_EXPRESSIONS.get(type(node))
        if name is not None:
            yield name
        elif isinstance(node, exp.Anonymous):
            name = node.name.lower()
            if VOLATILE_WORDS.match(f"{name}("):
                yield name
            elif name == "age" and len(node.expressions) == 1:
                yield "age() of the current date"
        elif (
            isinstance(node, exp.Cast)
            and isinstance(node.this, exp.Literal)
            and node.this.is_string
            and node.this.name.strip().lower() in _RELATIVE_DATES
        ):
            yield f"'{node.this.name}'"


def _find_undeclared(query: exp.Expr, inputs: Collection[Relation]) -> Iterator[str]:
    ctes = {cte.alias.lower() for cte in query.find_all(exp.CTE)}
    tables = list(query.find_all(exp.Table))
    aliases = {table.alias_or_name.lower() for table in tables}
    for table in tables:
        schema, name = table.db.lower(), table.name.lower()
        if not isinstance(table.this, exp.Identifier):
            continue  # a function
        if not schema and name in ctes:
            continue
        if not table.catalog and schema in aliases:
            continue  # BigQuery: an array of a table, for example `from orders, orders.items`
        if (schema, name) not in inputs:
            yield ".".join(part for part in (table.catalog, table.db, table.name) if part)
