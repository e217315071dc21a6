"""Key columns in front of a failed test's rows."""

from __future__ import annotations

import pytest

from prefect_flows.reporting.run_report.build import failing_rows
from prefect_flows.reporting.run_report.key_columns import with_key_columns

NOT_NULL = 'select email\nfrom "db"."s"."people"\nwhere email is null'


@pytest.mark.parametrize("dialect", ["postgres", "bigquery"])
def test_the_rows_of_not_null_can_be_told_apart(dialect: str) -> None:
    sql = NOT_NULL if dialect == "postgres" else NOT_NULL.replace('"', "`")
    quote = '"' if dialect == "postgres" else "`"
    changed = with_key_columns(sql, dialect, ["id", "day"])
    assert changed.startswith(f"SELECT {quote}id{quote}, {quote}day{quote}, email FROM")
    assert changed.endswith("WHERE email IS NULL")


def test_a_filtered_relation_is_looked_through() -> None:
    filtered = "select email from (select * from t where day > '2026-01-01') dbt_subquery"
    changed = with_key_columns(filtered, "postgres", ["id"])
    assert changed.startswith('SELECT "id", email FROM (SELECT * FROM t')


@pytest.mark.parametrize(
    "sql",
    [
        "select * from t where x is null",
        "select id, email from t",
        "select email, count(*) from t group by email",
        "select count(*) as n from t",
        "select distinct email from t",
        "with a as (select 1 as email) select email from a",
        "select t.email from t join u on t.a = u.a",
        "select email from (select email from t) as narrow",
        "select 1 as x from t union all select 2",
        "this is no sql (",
    ],
)
def test_other_queries_stay_as_they_are(sql: str) -> None:
    assert with_key_columns(sql, "postgres", ["id"]) == sql


def test_a_key_that_needs_other_quotes_is_left_out() -> None:
    assert with_key_columns(NOT_NULL, "postgres", ["Id", "a b"]) == NOT_NULL


def test_key_columns_come_first_and_personal_ones_stay_hidden() -> None:
    rows = failing_rows(
        ("email", "Amount", "ID"), [("a@b", 3, 7)], "select * from t", "postgres",
        frozenset({"email"}), ["id"],
    )  # fmt: skip
    assert rows.columns == ("ID", "Amount")
    assert rows.rows == [("7", "3")]
    assert rows.hidden_columns == ("email",)
