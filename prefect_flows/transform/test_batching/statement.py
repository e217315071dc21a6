"""The statement of a batch of data tests, for Postgres and BigQuery.

Each test returns one row of four texts: its number, and the three values of dbt's own statement:
`failures`, `should_warn` and `should_error`. A statement consists of

- scans: a relation is read once for all tests that look for rows (`select … from relation where …`)
  or for values (`accepted_values`): they become conditional counts;
- branches: every other test, wrapped as dbt's macro `get_test_sql` wraps it;
- views: on Postgres, a view with several tests is computed once. A materialized common table
  expression holds only what the tests compare: to materialize all columns takes longer than to
  compute the view twice.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Warehouse = Literal["postgres", "bigquery"]

COUNT_ROWS = "count(*)"
# Words of what is no condition on a single row. A condition that contains one in a literal or a
# comment becomes a branch, which does no harm.
_NOT_A_CONDITION = re.compile(
    r"\b(group|having|order|limit|offset|fetch|union|intersect|except|window|qualify|over|for)\b",
    re.IGNORECASE,
)
_LEADING_COMMENTS = re.compile(r"\A(?:\s*--[^\n]*\n|\s*/\*.*?\*/)*", re.DOTALL)
_NAME = r'(?:"[^"]+"|`[^`]+`|[A-Za-z_]\w*)'
_RELATION = rf"{_NAME}(?:\.{_NAME}){{1,2}}"
# A relation, or what dbt makes of one for a test with the config `where`.
_FROM = (
    rf"(?P<source>(?P<relation>{_RELATION})"  # noqa: S608
    rf"|\(\s*select \* from (?P<filtered>{_RELATION}) where .+?\) dbt_subquery)"
)


def _pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern: a space stands for white space, two spaces for optional white space."""
    spaced = text.replace("  ", r"\s*").replace(" ", r"\s+")
    whole = spaced.replace("{from}", _FROM).replace("{name}", _NAME)
    return re.compile(whole, re.DOTALL | re.IGNORECASE)


# not_null, expression_is_true, between and all other tests that select the rows that are wrong.
_ROWS = _pattern(
    r"  select (?:\*|1|(?P<columns>{name}(?:  ,  {name})*)) from {from} where\b(?P<condition>.+)"
)
_ACCEPTED_VALUES = _pattern(
    r"  with all_values as  \(  select (?P<column>.+?) as value_field, "
    r"count\(\*\) as n_records from {from} group by (?P=column)  \)  "
    r"select \* from all_values where value_field (?P<condition>not in  \(.+\))  "
)
# dbt_utils.accepted_range.
_ACCEPTED_RANGE = _pattern(
    r"  with meet_condition as  \(  select \* from {from}  \),  "
    r"validation_errors as  \(  select \* from meet_condition where\b(?P<condition>.+)\)  "
    r"select \* from validation_errors  "
)
# dbt_expectations' tests of one row.
_EXPRESSION = _pattern(
    r"  with grouped_expression as  \(  select (?P<expression>.+?) as expression from {from}  \),  "
    r"validation_errors as  \(  select \* from grouped_expression "
    r"where not\(expression = true\)  \)  select \* from validation_errors  "
)
_UNIQUE = _pattern(
    r"  select (?P<column>{name}) as unique_field, count\(\*\) as n_records "
    r"from {from} where (?P=column) is not null group by (?P=column) having count\(\*\) > 1  "
)
_RELATIONSHIPS = _pattern(
    r"  with child as  \(  select (?P<column>{name}) as from_field from {from} "
    r"where (?P=column) is not null  \),(?P<parent>  parent as  \(.+\)  "
    r"select from_field from child left join parent on child\.from_field = parent\.to_field "
    r"where parent\.to_field is null  )"
)


@dataclass(frozen=True)
class DataTest:
    """A compiled data test, with the configs from which dbt makes its statement.

    Attributes:
        sql: its compiled SQL, which returns the rows that are wrong.
        fail_calc: dbt's config: the expression that counts the failures.
        warn_if: dbt's config: the condition on the count for a warning.
        error_if: dbt's config: the condition on the count for a failure.
        limit: dbt's config: the largest number of rows to read; None for all.
    """

    sql: str
    fail_calc: str = COUNT_ROWS
    warn_if: str = "!= 0"
    error_if: str = "!= 0"
    limit: int | None = None


@dataclass(frozen=True)
class _Read:
    """How a test reads its relation, if it reads it once and row by row.

    Attributes:
        kind: `rows` counts the rows where `expression` is true; `values`, the distinct values of
            `expression`; `unique` and `relationships` read the values of the column `expression`.
        source: a relation, or the subquery of dbt's config `where`.
        relation: the relation.
        expression: an expression on a row.
        rest: for `relationships`, the SQL after the CTE `child`.
    """

    kind: Literal["rows", "values", "unique", "relationships"]
    source: str
    relation: str
    expression: str
    rest: str = ""

    @property
    def is_count(self) -> bool:
        """Whether a single aggregate function counts the failures."""
        return self.kind in ("rows", "values")

    def aggregate(self, expression: str, warehouse: Warehouse) -> str:
        """Return the function that counts the failures, of the expression or its column."""
        if self.kind == "values":
            return f"count(distinct {expression})"
        if warehouse == "bigquery":
            return f"countif({expression})"
        return f"count(*) filter (where {expression})"

    def sql_of_column(self, column: str, source: str) -> str:
        """Return the SQL of `unique` or `relationships` that reads a column of another relation."""
        not_null = f"from {source} where {column} is not null"
        if self.kind == "unique":
            return (
                f"select {column} as unique_field, count(*) as n_records {not_null} "
                f"group by {column} having count(*) > 1"
            )
        return f"with child as (select {column} as from_field {not_null}),{self.rest}"


def build_statement(
    tests: Sequence[DataTest], warehouse: Warehouse, views: Collection[str] = ()
) -> str:
    """Return the statement that runs tests together; its rows are for `read_rows`.

    Args:
        tests: the tests; a test's number is its position.
        warehouse: the dialect of SQL.
        views: relations that are views, as dbt quotes them. They are computed once on Postgres.
    """
    builder = _Builder(tests, warehouse)
    by_source: dict[str, dict[int, _Read]] = defaultdict(dict)
    for number, test in enumerate(tests):
        if (read := _find_read(test)) is not None:
            by_source[read.source][number] = read
    for source, reads in by_source.items():
        is_view = next(iter(reads.values())).relation in views
        counts = [read.is_count for read in reads.values()]
        if warehouse == "postgres" and is_view and len(reads) > 1 and not all(counts):
            builder.compute_once(source, reads)
        elif sum(counts) > 1:
            # One count reads no more than dbt's own statement, which may use an index.
            builder.scan(source, reads, {n: read.expression for n, read in reads.items()})
    return builder.statement()


def shares_scan(test: DataTest) -> bool:
    """Return whether a test reads one relation in a form that can share a scan with others."""
    return _find_read(test) is not None


class _Builder:
    """Collects the parts of a statement; a test that no scan counts stays a branch."""

    def __init__(self, tests: Sequence[DataTest], warehouse: Warehouse) -> None:
        self._tests = tests
        self._warehouse: Warehouse = warehouse
        self._branches = dict(enumerate(tests))
        self._scans: list[str] = []
        self._computed: list[str] = []

    def scan(self, source: str, reads: Mapping[int, _Read], columns: Mapping[int, str]) -> None:
        """Count the failures of tests in one scan, where a scan can count them.

        Args:
            source: what is read.
            reads: number of a test → how it reads.
            columns: number of a test → its expression, or the column that holds it.
        """
        counts = {n: read for n, read in reads.items() if read.is_count}
        if not counts:
            return
        aggregates = {n: read.aggregate(columns[n], self._warehouse) for n, read in counts.items()}
        self._scans.append(_scan(aggregates, self._tests, self._warehouse, source))
        for number in counts:
            del self._branches[number]

    def compute_once(self, source: str, reads: Mapping[int, _Read]) -> None:
        """Compute what tests compare of a view once, and let all of them read that."""
        name = f"millrace_view_{len(self._computed)}"
        expressions = list(dict.fromkeys(read.expression for read in reads.values()))
        columns = {n: f"c{expressions.index(read.expression)}" for n, read in reads.items()}
        selected = ",\n".join(f"{text} as c{n}" for n, text in enumerate(expressions))
        # dbt has quoted the relations.
        query = f"select {selected}\nfrom {source}"
        self._computed.append(f"{name} as materialized (\n{query}\n)")
        for number, read in reads.items():
            if not read.is_count:
                sql = read.sql_of_column(columns[number], name)
                self._branches[number] = replace(self._tests[number], sql=sql)
        self.scan(name, reads, columns)

    def statement(self) -> str:
        """Return the statement of all tests."""
        branches = [_branch(n, test, self._warehouse) for n, test in self._branches.items()]
        statement = "\nunion all\n".join([*self._scans, *branches])
        if self._computed:
            statement = f"with {', '.join(self._computed)}\n{statement}"
        if self._warehouse == "postgres":
            # The costs of the tests add up until Postgres compiles the statement to machine code,
            # which takes longer than to run it.
            statement = f"set local jit = off;\n{statement}"
        return statement


def read_rows(rows: Iterable[Sequence[object]], tests: int) -> list[tuple[int, bool, bool] | None]:
    """Return the number of failures of each test, and whether they are a warning and a failure.

    None stands for a test whose row dbt may understand or reject in its own way: there is not one
    row, or one of its values is null, or not of the expected type.

    Args:
        rows: the rows of the statement.
        tests: number of tests of the statement.
    """
    found: dict[int, list[Sequence[object]]] = defaultdict(list)
    for number, *values in rows:
        found[int(str(number))].append(values)
    return [_read_verdict(found[number]) for number in range(tests)]


def _read_verdict(rows: Sequence[Sequence[object]]) -> tuple[int, bool, bool] | None:
    if len(rows) != 1:
        return None
    failures, *verdicts = (str(value) for value in rows[0])
    if not re.fullmatch(r"-?\d+", failures) or not {"true", "false"}.issuperset(verdicts):
        return None
    should_warn, should_error = (verdict == "true" for verdict in verdicts)
    return int(failures), should_warn, should_error


def _find_read(test: DataTest) -> _Read | None:
    """Return how a test reads its relation, or None if its SQL is of no known form."""
    sql = _LEADING_COMMENTS.sub("", test.sql, count=1)
    read = None
    if match := _UNIQUE.fullmatch(sql):
        read = _read(match, "unique", match["column"])
    elif match := _RELATIONSHIPS.fullmatch(sql):
        read = _read(match, "relationships", match["column"], match["parent"])
    elif test.fail_calc == COUNT_ROWS and test.limit is None:
        read = _find_count(sql)
    return read


def _find_count(sql: str) -> _Read | None:
    """Return how a test reads its relation whose failures a single aggregate function counts."""
    if match := _ACCEPTED_VALUES.fullmatch(sql):
        column = match["column"]
        return _read(match, "values", f"case when {column} {match['condition']} then {column} end")
    if match := _EXPRESSION.fullmatch(sql):
        return _read(match, "rows", _in_lines(f"not({match['expression']} = true)"))
    match = _ACCEPTED_RANGE.fullmatch(sql) or _ROWS.fullmatch(sql)
    if match is None or _NOT_A_CONDITION.search(match["condition"]):
        return None
    condition = _in_lines(match["condition"])
    for column in re.findall(_NAME, match.groupdict().get("columns") or ""):
        # A column that does not exist is an error, also if only the list of columns names it.
        condition += f" and ({column} is null or true)"
    return _read(match, "rows", condition)


def _read(
    match: re.Match[str],
    kind: Literal["rows", "values", "unique", "relationships"],
    expression: str,
    rest: str = "",
) -> _Read:
    relation = match["relation"] or match["filtered"]
    return _Read(kind, match["source"], relation, expression, rest)


def _in_lines(condition: str) -> str:
    """Put a condition into parentheses; it may end with a comment."""
    return f"(\n{condition.strip()}\n)"


def _scan(
    aggregates: Mapping[int, str], tests: Sequence[DataTest], warehouse: Warehouse, source: str
) -> str:
    """Return the query that counts the failures of several tests in one scan."""
    columns = ",\n".join(f"{aggregate} as n{n}" for n, aggregate in aggregates.items())
    values = [
        (n, f"n{n}", f"n{n} {tests[n].warn_if}", f"n{n} {tests[n].error_if}") for n in aggregates
    ]
    if warehouse == "bigquery":
        rows = ", ".join(
            f"struct({n} as test, {failures} as failures, {warn} as should_warn, "
            f"{error} as should_error)"
            for n, failures, warn, error in values
        )
        each = f"unnest([{rows}]) as result"
    else:
        rows = ", ".join(f"({', '.join(map(str, row))})" for row in values)
        each = f"lateral (values {rows}) as result (test, failures, should_warn, should_error)"
    counted = f"select {columns}\nfrom {source}"
    return f"{_select(warehouse)} from (\n{counted}\n) as scan cross join {each}"


def _branch(number: int, test: DataTest, warehouse: Warehouse) -> str:
    """Return a test's own query, wrapped as dbt wraps it."""
    limit = "" if test.limit is None else f"limit {test.limit}"
    return (
        f"{_select(warehouse)} from (\n"
        f"select {number} as test, {test.fail_calc} as failures, "
        f"{test.fail_calc} {test.warn_if} as should_warn, "
        f"{test.fail_calc} {test.error_if} as should_error\n"
        f"from (\n{test.sql}\n{limit}\n) dbt_internal_test\n) as result"
    )


def _select(warehouse: Warehouse) -> str:
    text = "string" if warehouse == "bigquery" else "text"
    names = ("test", "failures", "should_warn", "should_error")
    return "select " + ", ".join(f"cast(result.{name} as {text}) as {name}" for name in names)
