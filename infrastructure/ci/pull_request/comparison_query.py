"""Build the SQL that compares two relations in the warehouse and returns one row of counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from infrastructure.ci.pull_request.warehouse import Dialect, Relation

# Floating-point sums depend on the order of rows, which no warehouse guarantees. A smaller
# relative difference counts as equal.
FLOAT_TOLERANCE = "1e-9"

Types = Mapping[str, str]


@dataclass(frozen=True)
class Sides:
    """Relations of production (before) and the pull request (after), with column types."""

    before: Relation
    after: Relation
    before_types: Types
    after_types: Types

    @property
    def common_columns(self) -> list[str]:
        """Columns that both relations have, in production's order."""
        return [name for name in self.before_types if name in self.after_types]


def rows_and_keys_sql(
    dialect: Dialect, relation: Relation, types: Types, key: Sequence[str]
) -> str:
    """Build a query for the number of rows, and of distinct keys without nulls."""
    columns = [dialect.cast_to_comparable(dialect.quote(name), types[name]) for name in key]
    named = ", ".join(f"{column} as k{place}" for place, column in enumerate(columns))
    grouped = ", ".join(f"k{place}" for place in range(len(columns)))
    present = " and ".join(f"{dialect.quote(name)} is not null" for name in key)
    name = dialect.quote_relation(relation)
    return (
        f"select (select count(*) from {name}) as row_count, "  # noqa: S608 (dbt's own names)
        f"(select count(*) from (select {grouped} from "
        f"(select {named} from {name} where {present}) as named group by {grouped}) as grouped) "
        "as key_count"
    )


def row_count_sql(dialect: Dialect, relation: Relation) -> str:
    """Build a query for the number of rows."""
    return f"select count(*) as row_count from {dialect.quote_relation(relation)}"  # noqa: S608


def comparison_sql(
    dialect: Dialect, sides: Sides, key: Sequence[str], columns: Sequence[str]
) -> str:
    """Build a query for the rows added, removed and changed, and the changed rows per column.

    The result has the columns `added`, `removed`, `changed`, and `c0`, `c1`, … for `columns`.
    """
    joined, differing = [], []
    for place, name in enumerate(key):
        before, after = _comparable_pair(dialect, sides, name, f"k{place}")
        joined.append(f"{before} = {after}")
    for place, name in enumerate(columns):
        before, after = _comparable_pair(dialect, sides, name, f"v{place}")
        different = f"{before} is distinct from {after}"
        if dialect.is_float(sides.before_types[name]) and dialect.is_float(sides.after_types[name]):
            different = (
                f"({different} and not coalesce(abs({before} - {after}) <= {FLOAT_TOLERANCE} * "
                f"greatest(abs({before}), abs({after})), false))"
            )
        differing.append(different)
    both = "b.is_there = 1 and a.is_there = 1"
    counts = [
        "sum(case when b.is_there is null then 1 else 0 end) as added",
        "sum(case when a.is_there is null then 1 else 0 end) as removed",
        f"sum(case when {both} and ({' or '.join(differing) or 'false'}) then 1 else 0 end) "
        "as changed",
        *(
            f"sum(case when {both} and {each} then 1 else 0 end) as c{place}"
            for place, each in enumerate(differing)
        ),
    ]
    return (
        f"select {', '.join(counts)} from {_subquery(dialect, sides.before, key, columns)} as b "  # noqa: S608
        f"full outer join {_subquery(dialect, sides.after, key, columns)} as a "
        f"on {' and '.join(joined)}"
    )


def _subquery(
    dialect: Dialect, relation: Relation, key: Sequence[str], columns: Sequence[str]
) -> str:
    named = [f"{dialect.quote(name)} as k{place}" for place, name in enumerate(key)]
    named += [f"{dialect.quote(name)} as v{place}" for place, name in enumerate(columns)]
    return f"(select 1 as is_there, {', '.join(named)} from {dialect.quote_relation(relation)})"  # noqa: S608


def _comparable_pair(dialect: Dialect, sides: Sides, name: str, column: str) -> tuple[str, str]:
    """Return a column of both sides as comparable expressions; as text if their types differ."""
    before, after = sides.before_types[name], sides.after_types[name]
    to = (
        dialect.cast_to_comparable
        if dialect.get_type_family(before) == dialect.get_type_family(after)
        else dialect.cast_to_text
    )
    return to(f"b.{column}", before), to(f"a.{column}", after)
