"""SQL whose result changes by itself is found; what only looks like it is not."""

from __future__ import annotations

import pytest

from prefect_flows.transform.reuse.volatile_sql import find_in_sql
from prefect_flows.transform.reuse.volatility import find_in_code

INPUTS = {("shop", "orders"), ("shop", "customers")}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("select current_date", "current_date"),
        ("select NOW() as at", "now"),
        ("select {{ dbt.current_timestamp() }}", "current_timestamp"),
        ("{% if is_incremental() %} where day > current_date - 3 {% endif %}", "current_date"),
        ("select '{{ run_started_at }}'", None),  # in quotes, so that only the parser sees it
        ("select {{ run_started_at.year }}", "run_started_at"),
        ("{% set day = modules.datetime.date.today() %}", "modules.datetime"),
        ("{% for node in graph.nodes.values() %}", "graph"),
        ("select gen_random_uuid ()", "gen_random_uuid"),
        ("{% set found = run_query('x') %} from information_schema.tables", "information_schema"),
        ("select graph.id from graph", None),
        ("select now, random from orders", None),
        ('select "current_date" from orders', None),
        ("select 1 -- until current_date\n, 2 /* now() */ {# random() #}", None),
        ("select 'current_date' as word", None),
    ],
)
def test_names_in_code(code: str, found: str | None) -> None:
    assert find_in_code(["select 1", code]) == found


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("select 1 from shop.orders where current_date > day", "it uses current_date"),
        ("select * from shop.orders where day > 'today'::date", "it uses 'today'"),
        ("select age(day) from shop.orders", "it uses age() of the current date"),
        ("select age(day, other) from shop.orders", None),
        ("select random()", "it uses random"),
        ("select clock_timestamp()", "it uses clock_timestamp"),
        ("select uuidv7()", "it uses uuidv7"),
        ("select * from shop.orders tablesample system (1)", "it uses tablesample"),
        ("with orders as (select * from shop.orders) select * from orders", None),
        ("select extract(year from orders.day) from shop.orders as orders", None),
        ("select * from generate_series(1, 3) as n", None),
        ('select * from "warehouse"."shop"."Orders"', None),
        (
            "select * from shop.refunds",
            "it reads shop.refunds, which is neither a ref() nor a source()",
        ),
        ("select * from refunds", "it reads refunds, which is neither a ref() nor a source()"),
        ("select ~~~ from", "its SQL cannot be parsed"),
    ],
)
def test_compiled_sql(sql: str, found: str | None) -> None:
    assert find_in_sql(sql, "postgres", INPUTS) == found


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("select i.sku from `p`.`shop`.`orders` as o, o.items as i", None),
        ("select x from `p.shop.orders`, unnest(list) as x", None),
        ("select current_datetime()", "it uses current_datetime"),
        ("select generate_uuid()", "it uses a random UUID"),
        (
            "select * from `p`.`shop`.`orders` for system_time as of timestamp '2026-01-01'",
            "it uses an earlier version of a table",
        ),
        (
            "select * from `p.shop.refunds`",
            "it reads p.shop.refunds, which is neither a ref() nor a source()",
        ),
    ],
)
def test_compiled_sql_of_bigquery(sql: str, found: str | None) -> None:
    assert find_in_sql(sql, "bigquery", INPUTS) == found
