"""The statement of a batch: each test gets the values of the statement that dbt sends for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg2
import pytest

from infrastructure.local import postgres
from prefect_flows.transform.test_batching.statement import (
    COUNT_ROWS,
    DataTest,
    build_statement,
    read_rows,
)
from tests.support.embedded_postgres import Warehouse, empty_database

TABLE, VIEW = '"shop"."orders"', '"shop"."open_orders"'
FILTERED = f"(select * from {VIEW} where amount <> 20) dbt_subquery"
SETUP = """
create schema shop;
create table shop.customers (id int);
insert into shop.customers values (1), (2), (null);
create table shop.orders (id int, customer int, amount numeric, state text);
insert into shop.orders values
    (1, 1, 5, 'new'), (2, 2, null, 'paid'), (2, 3, 20, 'lost'), (4, null, 30.5, 'lost'),
    (null, 9, 40, null), (null, 9, 'NaN', 'odd');
create view shop.open_orders as select *, amount * 2 as doubled from shop.orders;
"""
# Compiled SQL of dbt, dbt_utils and dbt_expectations, and of tests that select rows.
FORMS = {
    "not_null": "\n\n\nselect id\nfrom {source}\nwhere id is null\n\n\n",
    "not_null, its rows": "select *\nfrom {source}\nwhere amount is null",
    "unique": (
        "\nselect\n    id as unique_field,\n    count(*) as n_records\n\nfrom {source}\n"
        "where id is not null\ngroup by id\nhaving count(*) > 1\n"
    ),
    "accepted_values": (
        "with all_values as (\n\n    select\n        state as value_field,\n"
        "        count(*) as n_records\n\n    from {source}\n    group by state\n\n)\n\n"
        "select *\nfrom all_values\nwhere value_field not in (\n    'new','paid (all)'\n)\n"
    ),
    "relationships": (
        "with child as (\n    select customer as from_field\n    from {source}\n"
        "    where customer is not null\n),\n\nparent as (\n    select id as to_field\n"
        '    from "shop"."customers"\n)\n\nselect\n    from_field\n\nfrom child\n'
        "left join parent\n    on child.from_field = parent.to_field\n\n"
        "where parent.to_field is null\n"
    ),
    "accepted_range": (
        "with meet_condition as(\n  select *\n  from {source}\n),\n\nvalidation_errors as (\n"
        "  select *\n  from meet_condition\n  where\n    -- never true\n    1 = 2\n"
        "    or not amount >= 10\n)\n\nselect *\nfrom validation_errors\n"
    ),
    "expect_column_values_to_be_between": (
        "with grouped_expression as (\n    select\n        ( 1=1 and amount >= 6 and amount <= 30"
        ")\n as expression\n\n\n    from {source}\n    \n\n),\nvalidation_errors as (\n\n"
        "    select\n        *\n    from\n        grouped_expression\n    where\n"
        "        not(expression = true)\n\n)\n\nselect *\nfrom validation_errors\n"
    ),
    "expression_is_true": "select\n    1\nfrom {source}\nwhere not(amount > 5)",
    "a comment at its end": "select id from {source} where amount < 20 -- small or new",
    "words of other clauses": "-- Intent\nselect id, state from {source} where state = 'order by'",
    "a subquery": "select * from {source} where amount > (select avg(amount) from {source})",
    "an aggregate": "select state from {source} group by state having count(*) > 1",
    "a join": (
        "with o as (select * from {source}) select o.id from o "
        'left join "shop"."customers" as c on o.customer = c.id where c.id is null'
    ),
    "one row": "select count(*) as n from {source} where id is null having count(*) > 1",
    "two relations": "select id from {source} where id > 1 union all select id from {source}",
}
CONFIGS = {
    "dbt's default": {},
    "thresholds": {"warn_if": "> 1", "error_if": "between 2 and 3"},
    "limit": {"limit": 1, "error_if": "> 1"},
    "fail_calc": {"fail_calc": "coalesce(sum(1), 0)", "error_if": ">= 2"},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    folder = tmp_path_factory.mktemp("shop")
    server = postgres.start(folder)
    try:
        with empty_database(server) as warehouse:
            warehouse.query(SETUP)
            yield warehouse
    finally:
        postgres.stop(folder)


def all_forms(source: str) -> list[DataTest]:
    return [
        DataTest(form.replace("{source}", source), **config)
        for form in FORMS.values()
        for config in CONFIGS.values()
    ]


def of_dbt(warehouse: Warehouse, test: DataTest) -> tuple[int, bool, bool]:
    """The values of the statement that dbt's macro `get_test_sql` makes."""
    limit = "" if test.limit is None else f"limit {test.limit}"
    (row,) = warehouse.query(
        f"select {test.fail_calc} as failures, {test.fail_calc} {test.warn_if} as should_warn, "
        f"{test.fail_calc} {test.error_if} as should_error "
        f"from (\n{test.sql}\n{limit}\n) dbt_internal_test"
    )
    return row


@pytest.mark.parametrize("source", [TABLE, VIEW, FILTERED], ids=["table", "view", "where"])
def test_every_test_gets_the_values_of_its_own_statement(shop: Warehouse, source: str) -> None:
    tests = all_forms(source)
    expected = [of_dbt(shop, test) for test in tests]
    assert {failures for failures, _, _ in expected} >= {0, 1, 2}, "the rows tell tests apart"

    for views in ([], [VIEW]):
        statement = build_statement(tests, "postgres", views)
        assert read_rows(shop.query(statement), len(tests)) == expected


def test_tests_of_several_relations_keep_apart(shop: Warehouse) -> None:
    tests = [test for source in (VIEW, TABLE, FILTERED) for test in all_forms(source)]

    found = read_rows(shop.query(build_statement(tests, "postgres", [VIEW])), len(tests))

    assert found == [of_dbt(shop, test) for test in tests]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_alone_gets_the_same_values(shop: Warehouse, form: str) -> None:
    """Whether a form is counted in a scan depends on its neighbours, and its values do not."""
    test = DataTest(FORMS[form].replace("{source}", VIEW))
    other = DataTest(f"select amount from {VIEW} where amount > 30")

    found = read_rows(shop.query(build_statement([other, test], "postgres", [VIEW])), 2)

    assert found == [of_dbt(shop, other), of_dbt(shop, test)]


@pytest.mark.parametrize(
    ("forms", "source", "reads"),
    [
        (["not_null", "not_null, its rows", "expression_is_true"], TABLE, 1),
        (["accepted_values", "accepted_range", "a comment at its end"], TABLE, 1),
        # `unique` needs the values themselves.
        (["not_null", "unique", "expression_is_true"], TABLE, 2),
        (["not_null", "unique", "expression_is_true", "relationships"], VIEW, 1),
        (["not_null", "unique", "expect_column_values_to_be_between"], FILTERED, 1),
        (["not_null", "a join", "an aggregate"], VIEW, 3),
        (["not_null", "words of other clauses"], TABLE, 2),
    ],
)
def test_tests_share_a_scan(forms: list[str], source: str, reads: int) -> None:
    tests = [DataTest(FORMS[form].replace("{source}", source)) for form in forms]

    assert build_statement(tests, "postgres", [VIEW]).count(source) == reads


def test_a_selected_column_that_does_not_exist_is_an_error(shop: Warehouse) -> None:
    tests = [
        DataTest(f"select {column} from {VIEW} where amount > 30") for column in ("id", "no_column")
    ]

    with pytest.raises(psycopg2.errors.UndefinedColumn, match="no_column"):
        shop.query(build_statement(tests, "postgres", [VIEW]))


def test_only_what_is_compared_of_a_view_is_kept() -> None:
    tests = [DataTest(FORMS[form].replace("{source}", VIEW)) for form in ("not_null", "unique")]

    statement = build_statement(tests, "postgres", [VIEW])

    assert "select (\nid is null\n) and (id is null or true) as c0,\nid as c1\nfrom" in statement
    assert "select *" not in statement


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [("0", "1", "true", "true"), ("0", "2", "true", "true")],
        [("0", None, "true", "true")],
        [("0", "1.5", "true", "true")],
        [("0", "1", None, "true")],
        [("0", "1", "7", "true")],
    ],
    ids=["no row", "two rows", "null", "a fraction", "no verdict", "a number for a verdict"],
)
def test_what_dbt_must_judge_itself_is_left_to_it(rows: list[tuple[str | None, ...]]) -> None:
    assert read_rows([*rows, ("1", "3", "true", "false")], 2) == [None, (3, True, False)]


def test_a_fail_calc_of_several_rows_or_none_is_left_to_dbt(shop: Warehouse) -> None:
    test = DataTest(FORMS["not_null, its rows"].replace("{source}", TABLE))
    tests = [
        replace(test, fail_calc="id"),
        DataTest(f"select * from {TABLE} where id > 1", fail_calc="id"),
        replace(test, fail_calc="sum(amount)"),
        replace(test, fail_calc=COUNT_ROWS),
    ]

    found = read_rows(shop.query(build_statement(tests, "postgres")), len(tests))

    assert found == [(2, True, True), None, None, (1, True, True)]
