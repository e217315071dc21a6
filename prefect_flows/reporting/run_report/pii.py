"""PII detection: finds the columns of a query that may carry personal data (column-level lineage).

A marked name taints every column computed from it. Names are followed regardless of their scope in
the statement, so too many columns may be hidden, never too few. Every column is hidden if something
cannot be traced for certain: SQL that does not parse, column lists (`as t(a, b)`), functions in
`from`, pivots, unnamed expressions.

It cannot see what the query's text does not show: the definition of a view outside the project, or
a value in a JSON document under an unmarked name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from prefect_flows.transform.lineage import EVERY_COLUMN, LineageNode, get_parents, reach

# Postgres truncates longer names, so that a result's column may differ from the query's.
POSTGRES_NAME_BYTES = 63
# Supported arguments by expression type; anything else cannot be traced.
_SUPPORTED_ARGS: dict[type[exp.Expr], frozenset[str]] = {
    exp.Select: frozenset(
        {
            "with_", "expressions", "from_", "joins", "where", "group", "having", "qualify",
            "windows", "distinct", "order", "limit", "offset",
        }
    ),
    exp.SetOperation: frozenset(
        {"with_", "this", "expression", "distinct", "order", "limit", "offset"}
    ),
    exp.Subquery: frozenset({"with_", "this", "alias", "order", "limit", "offset"}),
    exp.With: frozenset({"expressions", "recursive"}),
    exp.CTE: frozenset({"this", "alias", "materialized"}),
    exp.From: frozenset({"this"}),
    exp.Join: frozenset({"this", "on", "using", "kind", "side", "method"}),
    exp.Table: frozenset({"this", "db", "catalog", "alias", "joins", "sample", "only"}),
    exp.TableAlias: frozenset({"this"}),
    exp.Values: frozenset({"expressions", "alias"}),
}  # fmt: skip
_UNKNOWN_FUNCTIONS = (
    exp.Anonymous,
    exp.AnonymousAggFunc,
    exp.CombinedAggFunc,
    exp.ParameterizedAgg,
)


class _NotTraceable(Exception):
    """A part of the statement cannot be traced."""


def hidden_columns(
    sql: str, dialect: str, columns: Sequence[str], pii: frozenset[str]
) -> frozenset[str]:
    """Return the columns of a query's result that may carry personal data.

    Args:
        sql: the compiled query.
        dialect: sqlglot dialect, which is the name of the dbt adapter.
        columns: names of the columns that the query returned.
        pii: names of personal columns in everything that the query may read, in any case.
    """
    tainted = tainted_names(sql, dialect, pii)
    if tainted is None:
        return frozenset(columns)
    return frozenset(column for column in columns if _is_tainted_output(column, tainted))


def tainted_names(sql: str, dialect: str, pii: frozenset[str]) -> frozenset[str] | None:
    """Return the names in a query that may hold personal data, lower case; None means all."""
    if not pii:
        return frozenset()
    if EVERY_COLUMN in pii:
        return None
    if "|>" in sql or re.search(r"""u&["']""", sql, re.IGNORECASE):
        return None  # BigQuery's pipe syntax; names written as code points
    try:
        (statement,) = sqlglot.parse(sql, read=dialect)
        return _trace_names(statement, _lower_names_with_parts(pii))
    except (SqlglotError, _NotTraceable, ValueError, RecursionError):
        return None


def propagate_pii(
    lineage: Mapping[str, LineageNode],
    unique_ids: Sequence[str],
    compiled: Mapping[str, str],
    dialect: str,
) -> dict[str, LineageNode]:
    """Return the lineage with personal columns propagated through renames to the given nodes.

    All columns of a model count as personal if it reads personal columns and its SQL is missing or
    cannot be traced.

    Args:
        compiled: compiled SQL by node id.
    """
    known = dict(lineage)
    for unique_id in _in_dependency_order(lineage, unique_ids):
        node = known[unique_id]
        inherited = frozenset[str]().union(
            *(known[p].pii_columns for p in node.parents if p in known)
        )
        if not inherited:
            continue
        sql = compiled.get(unique_id)
        names = None if sql is None else tainted_names(sql, dialect, inherited)
        found = frozenset({EVERY_COLUMN}) if names is None else names
        known[unique_id] = replace(node, pii_columns=node.pii_columns | found)
    return known


def _trace_names(statement: object, names: set[str]) -> frozenset[str]:
    if not isinstance(statement, exp.Query):
        raise _NotTraceable
    parts = list(statement.walk())
    for part in parts:
        _check_is_supported(part)
    relations = {
        part.name.lower() for part in parts if isinstance(part, (exp.Table, exp.TableAlias))
    }
    selects = [part for part in parts if isinstance(part, exp.Select)]
    unions = [part for part in parts if isinstance(part, exp.SetOperation)]
    before = -1
    while len(names) > before:
        before = len(names)
        for part in parts:
            if isinstance(part, exp.Table) and _has_tainted_identifier(part, names):
                raise _NotTraceable  # BigQuery's `from t, t.emails`: a column as a relation
        for select in selects:
            for projection in select.expressions:
                names |= _tainted_by(projection, names, relations)
        for union in unions:
            names |= _tainted_by_position(union, names, relations)
    return frozenset(names)


def _check_is_supported(part: exp.Expr) -> None:
    """Raise if a part of the statement cannot be traced."""
    kind = exp.SetOperation if isinstance(part, exp.SetOperation) else type(part)
    supported = _SUPPORTED_ARGS.get(kind)
    if supported is None:
        if isinstance(part, (exp.Query, exp.Command, exp.DML, exp.UDTF)):
            raise _NotTraceable
        return
    if any(value for name, value in part.args.items() if name not in supported):
        raise _NotTraceable
    inner = part.this
    if (
        (isinstance(part, exp.CTE) and not isinstance(inner, exp.Query))
        or (isinstance(part, exp.Table) and not isinstance(inner, exp.Identifier))
        or (isinstance(part, exp.Subquery) and not isinstance(inner, (exp.Query, exp.Table)))
        or (
            isinstance(part, (exp.From, exp.Join))
            and not isinstance(inner, (exp.Table, exp.Subquery, exp.Values))
        )
        or (isinstance(part, exp.Values) and part.find(exp.Column, exp.Query, exp.Func))
    ):
        raise _NotTraceable


def _tainted_by(projection: exp.Expr, names: set[str], relations: set[str]) -> frozenset[str]:
    """Return the names that a column of a `select` taints."""
    star = _get_star(projection)
    if star is not None:
        return _tainted_by_star(projection, star, names, relations)
    if not _may_carry(projection, names, relations):
        return frozenset()
    name = _output_name(projection)
    if name is None:
        raise _NotTraceable
    return frozenset({name})


def _tainted_by_star(
    projection: exp.Expr, star: exp.Star, names: set[str], relations: set[str]
) -> frozenset[str]:
    """Return the names that a star taints by its `replace`; refuse a star on a column's fields."""
    if isinstance(projection, exp.Column):
        qualifier = projection.table.lower()
        if qualifier not in relations or _has_tainted_identifier(projection, names):
            raise _NotTraceable
    if any(value for name, value in star.args.items() if name not in {"except_", "replace"}):
        raise _NotTraceable
    return frozenset[str]().union(
        *(_tainted_by(new, names, relations) for new in star.args.get("replace") or ())
    )


def _tainted_by_position(
    union: exp.SetOperation, names: set[str], relations: set[str]
) -> frozenset[str]:
    """Return the names that a union taints; it takes values from all of its queries."""
    branches = [select.expressions for select in _branches(union)]
    if any(_get_star(column) is not None for columns in branches for column in columns):
        raise _NotTraceable
    if len({len(columns) for columns in branches}) != 1:
        raise _NotTraceable
    found = set()
    for position_columns in zip(*branches, strict=True):
        if any(_may_carry(column, names, relations) for column in position_columns):
            outputs = {_output_name(column) for column in position_columns}
            if _output_name(position_columns[0]) is None:
                raise _NotTraceable
            found |= {name for name in outputs if name is not None}
    return frozenset(found)


def _branches(query: exp.Expr) -> Iterator[exp.Select]:
    if isinstance(query, exp.SetOperation):
        yield from _branches(query.this)
        yield from _branches(query.expression)
    elif isinstance(query, exp.Subquery):
        yield from _branches(query.this)
    elif isinstance(query, exp.Select):
        yield query
    else:
        raise _NotTraceable


def _may_carry(expression: exp.Expr, names: set[str], relations: set[str]) -> bool:
    """Return whether a value of an expression may hold personal data."""
    for part in expression.walk():
        if isinstance(part, exp.Star):
            if not isinstance(part.parent, exp.Count):
                return True  # a whole row
        elif isinstance(part, exp.Column) and part.name.lower() in relations:
            return True  # a whole row, by the name of its relation
        elif isinstance(part, _UNKNOWN_FUNCTIONS):
            return True  # it is not known what the function reads
        elif isinstance(part, exp.Literal):
            if part.is_string and names.intersection(re.findall(r"\w+", part.name.lower())):
                return True  # the key of a JSON document
        elif isinstance(part, (exp.Identifier, exp.Var, exp.JSONPathKey)) and (
            str(part.this).lower() in names
        ):
            return True
    return False


def _get_star(projection: exp.Expr) -> exp.Star | None:
    inner = projection.this if isinstance(projection, exp.Column) else projection
    return inner if isinstance(inner, exp.Star) else None


def _output_name(projection: exp.Expr) -> str | None:
    """Return the name of a column of a `select`, if the query states it."""
    if isinstance(projection, (exp.Alias, exp.Subquery)):
        return projection.alias.lower() or None
    return projection.name.lower() if isinstance(projection, exp.Column) else None


def _has_tainted_identifier(expression: exp.Expr, names: set[str]) -> bool:
    return any(part.name.lower() in names for part in expression.find_all(exp.Identifier))


def _lower_names_with_parts(pii: frozenset[str]) -> set[str]:
    """Return the names in lower case, with each part of a nested field (`profile.email`)."""
    lower = {name.lower() for name in pii}
    return lower | {part for name in lower for part in name.split(".")}


def _is_tainted_output(column: str, tainted: frozenset[str]) -> bool:
    """Return whether a result column is tainted, also if its name was cut or numbered."""
    name = column.lower()
    if {name, re.sub(r"_\d+$", "", name)} & tainted:
        return True
    cut = name.encode()
    return len(cut) >= POSTGRES_NAME_BYTES - 3 and any(
        long.encode().startswith(cut) for long in tainted
    )


def _in_dependency_order(
    lineage: Mapping[str, LineageNode], unique_ids: Sequence[str]
) -> Iterator[str]:
    """Yield the nodes and everything upstream of them, parents first."""
    edges = get_parents(lineage)
    selected = {i for i in (*unique_ids, *reach(edges, unique_ids)) if i in lineage}
    waiting = {i: len({p for p in edges[i] if p in selected}) for i in selected}
    children: dict[str, list[str]] = {i: [] for i in selected}
    for unique_id in selected:
        for parent in set(edges[unique_id]) & selected:
            children[parent].append(unique_id)
    ready = [i for i, count in waiting.items() if count == 0]
    while ready:
        unique_id = ready.pop()
        yield unique_id
        for child in children[unique_id]:
            waiting[child] -= 1
            if waiting[child] == 0:
                ready.append(child)
