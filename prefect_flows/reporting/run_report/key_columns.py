"""Adds the key columns of a model to the query of a failed test, so that its rows can be found."""

from __future__ import annotations

from collections.abc import Sequence

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError


def with_key_columns(sql: str, dialect: str, keys: Sequence[str]) -> str:
    """Return the query with the key columns in front, if it is a plain selection of rows.

    dbt's test `not_null`, for example, selects only the column that it tests. A query that groups,
    joins or has common table expressions is returned as it is: its rows are not those of the model.

    Args:
        sql: compiled SQL of a test.
        dialect: sqlglot dialect, which is the name of the dbt adapter.
        keys: names of the key columns of what it tests.
    """
    try:
        (statement,) = sqlglot.parse(sql, read=dialect)
    except (SqlglotError, ValueError):
        return sql
    if not isinstance(statement, exp.Select) or not _selects_rows(statement):
        return sql
    names = {each.output_name.lower() for each in statement.expressions}
    # A name with capitals or other characters is written differently in each warehouse.
    missing = [k for k in keys if k == k.lower() and k.isidentifier() and k not in names]
    if not missing or statement.is_star:
        return sql
    statement.set(
        "expressions", [*(exp.column(k, quoted=True) for k in missing), *statement.expressions]
    )
    return statement.sql(dialect=dialect)


def _selects_rows(select: exp.Select) -> bool:
    """Return whether each row of the result is a row of the only relation that it reads."""
    if any(select.args.get(part) for part in ("with_", "joins", "group", "distinct", "having")):
        return False
    if any(select.find_all(exp.AggFunc, exp.Window)):
        return False
    start = select.args.get("from_")
    relation = start.this if start is not None else None
    if isinstance(relation, exp.Subquery) and isinstance(inner := relation.this, exp.Select):
        return inner.is_star and _selects_rows(inner)
    return isinstance(relation, exp.Table)
