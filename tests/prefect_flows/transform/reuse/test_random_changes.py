"""Random changes: after each run, the warehouse has the rows that a run of everything makes.

Two targets read the same sources. One of them reuses, the other one builds and tests everything in
each run. Between runs, rows, code, variables and seeds change, tests break, relations disappear,
and runs are killed. The seeds of the random changes are fixed.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from infrastructure.local import postgres
from tests.support.embedded_postgres import Warehouse, empty_database, on
from tests.support.project import REPOSITORY, Project

FILES = {
    "dbt_project.yml": """
name: shop
profile: millrace
flags: {send_anonymous_usage_stats: false}
vars: {factor: 2}
seeds: {shop: {+column_types: {rate: int}}}
""",
    "models/sources.yml": """
sources:
- name: raw
  schema: raw_shop
  tables: [{name: orders, columns: [{name: id, data_tests: [unique]}]}, {name: customers}]
""",
    "models/staging/stg_orders.sql": "select * from {{ source('raw', 'orders') }}",
    "models/staging/stg_customers.sql": (
        "{{ config(materialized='ephemeral') }}"
        " select id, name, 1 as marker from {{ source('raw', 'customers') }}"
    ),
    "models/staging/int_orders.sql": (
        "{{ config(materialized='table') }}"
        " select o.id, c.name, o.changed, o.amount * r.rate * {{ var('factor') }} as amount"
        " from {{ ref('stg_orders') }} as o join {{ ref('stg_customers') }} as c"
        " on o.customer = c.id join {{ ref('rates') }} as r on r.currency = o.currency"
    ),
    "models/marts/fct_orders.sql": (
        "{{ config(materialized='incremental', unique_key='id') }}"
        " select id, name, amount, changed from {{ ref('int_orders') }}"
        "{% if is_incremental() %}"
        " where changed > (select coalesce(max(changed), 0) from {{ this }}){% endif %}"
    ),
    "models/marts/fct_days.sql": (
        "{{ config(materialized='incremental', incremental_strategy='microbatch', unique_key='id',"
        " event_time='ordered_at', batch_size='day', lookback=2, begin='BEGIN') }}"
        " select id, amount, ordered_at from {{ ref('stg_orders') }}"
    ),
    "models/marts/agg_names.sql": (
        "{{ config(materialized='table') }}"
        " select name, sum(amount) as amount, count(*) as orders from {{ ref('int_orders') }}"
        " group by 1"
    ),
    "models/marts/top_names.sql": "select name from {{ ref('agg_names') }} where amount > 100",
    "models/marts/history_of_names.sql": (
        "{{ config(materialized='table') }}"
        " select id, name, dbt_valid_to is null as is_current from {{ ref('customers_history') }}"
    ),
    "models/other/today.sql": (
        "{{ config(materialized='table') }}"
        " select count(*) as orders from {{ ref('int_orders') }} where current_date > '2020-01-01'"
    ),
    "models/other/undeclared.sql": (
        "{{ config(materialized='table') }} select count(*) as orders from raw_shop.orders"
    ),
    "snapshots/customers_history.sql": (
        "{% snapshot customers_history %}{{ config(unique_key='id', strategy='check',"
        " check_cols='all') }} select * from {{ source('raw', 'customers') }}{% endsnapshot %}"
    ),
    "seeds/rates.csv": "currency,rate\neur,1\nusd,2\n",
    "models/properties.yml": """
models:
- name: stg_orders
  columns: [{name: id, data_tests: [not_null]}]
- name: int_orders
  columns:
  - name: id
    data_tests: [unique, not_null]
- name: agg_names
  columns: [{name: name, data_tests: [unique]}]
- name: fct_orders
  columns: [{name: amount, data_tests: [{not_null: {config: {severity: warn}}}]}]
unit_tests:
- name: amounts_are_multiplied
  model: int_orders
  given:
  - {input: ref('stg_orders'), rows: [{id: 1, customer: 1, currency: eur, amount: 3, changed: 1}]}
  - {input: ref('stg_customers'), format: sql, rows: "select 1 as id, 'ann' as name"}
  - {input: ref('rates'), rows: [{currency: eur, rate: 5}]}
  overrides: {vars: {factor: 1}}
  expect: {rows: [{id: 1, amount: 15}]}
""",
    "tests/no_negative_amounts.sql": "select id from {{ ref('int_orders') }} where amount < 0",
    "tests/names_have_orders.sql": "select name from {{ ref('top_names') }} where name is null",
}
# Columns of a snapshot that hold the time of the run.
TIMES = frozenset({"dbt_scd_id", "dbt_updated_at", "dbt_valid_from", "dbt_valid_to"})
NEVER_REUSED = {"today", "undeclared"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Postgres]:
    folder = tmp_path_factory.mktemp("postgres")
    try:
        server = postgres.start(folder)
        on(server, "postgres").query("alter system set fsync = off")
        on(server, "postgres").query("select pg_reload_conf()")
        yield server
    finally:
        postgres.stop(folder)


@dataclass
class Shop(Project):
    """Two targets with one dbt project: `reuse`, and `whole`, which builds everything."""

    warehouse: Warehouse | None = None
    random: random.Random = field(default_factory=random.Random)
    changes: int = 0
    log: list[str] = field(default_factory=list)
    output: dict[str, str] = field(default_factory=dict)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        assert self.warehouse is not None
        return self.warehouse.query(sql)

    def write(self, name: str, text: str) -> None:
        file = self.folder / "dbt" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def edit(self, name: str, pattern: str, text: str) -> None:
        file = self.folder / "dbt" / name
        edited, count = re.subn(pattern, text, file.read_text())
        assert count, f"{pattern} is not in {name}"
        file.write_text(edited)

    def arguments(self, target: str, *options: str) -> list[str]:
        return ["--target", target, "--no-prefect", "--skip", "ingest", "--skip", "docs", *options]

    def pipe(self, target: str, *options: str) -> int:
        done = self.pipeline(
            *self.arguments(target, *options), MILLRACE_REUSE=str(target == "reuse").lower()
        )
        self.output[target] = done.stdout + done.stderr
        assert done.returncode in (0, 1), "\n".join([*self.log, self.output[target]])
        return done.returncode

    def kill(self, at: int, *options: str) -> None:
        """Kill a run after it has written its journal for the given time, if it gets there."""
        killed = self.run(
            "crash.py", str(at), *self.arguments("reuse", *options), MILLRACE_REUSE="true"
        )
        assert killed.returncode in (-9, 0, 1), killed.stdout + killed.stderr

    def results(self, target: str) -> dict[str, tuple[str, str]]:
        """Node id → status and message in the last run."""
        file = self.local / "state" / "targets" / target / "run_results.json"
        results = json.loads(file.read_text())["results"]
        return {r["unique_id"]: (r["status"], r["message"]) for r in results}

    def failures(self, target: str) -> dict[str, tuple[str, str]]:
        results = self.results(target)
        return {i: r for i, r in results.items() if r[0] not in ("success", "pass", "no-op")}

    def rows(self, schema: str) -> dict[str, list[tuple[Any, ...]]]:
        """Relation → its rows, without what differs in each run."""
        columns: dict[str, list[str]] = {}
        for table, column in self.ask(
            "select table_name, column_name from information_schema.columns"
            f" where table_schema = '{schema}' order by 1, ordinal_position"
        ):
            columns.setdefault(table, []).extend([column] * (column not in TIMES))
        return {
            table: sorted(self.ask(f"select {', '.join(names)} from {schema}.{table}"), key=repr)
            for table, names in columns.items()
        }


# Runs the pipeline, and kills it after it has written its journal a number of times.
CRASH = """
import os, signal, sys

import typer

from prefect_flows.state.journal import Journal

left, add = int(sys.argv.pop(1)), Journal.add


def add_and_crash(*arguments):
    global left
    add(*arguments)
    left -= 1
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)


Journal.add = add_and_crash
from prefect_flows.pipeline import main
typer.run(main)
"""


def open_shop(warehouse: Warehouse, folder: Path, seed: int, *, publish: bool) -> Shop:
    folder.mkdir(parents=True)
    for package in ("prefect_flows", "infrastructure"):
        (folder / package).symlink_to(REPOSITORY / package)
    (folder / "crash.py").write_text(CRASH)
    shop = Shop(folder, warehouse=warehouse, random=random.Random(seed))
    begin = datetime.now(UTC) - timedelta(days=2)
    for name, text in FILES.items():
        shop.write(name, text.replace("BEGIN", f"{begin:%Y-%m-%d}"))
    output = dict(warehouse.profile.output)
    outputs = {
        "reuse": output | {"schema": "reuse", "publish": publish},
        "whole": output | {"schema": "whole", "publish": publish},
    }
    shop.write(
        "profiles.yml", yaml.safe_dump({"millrace": {"target": "reuse", "outputs": outputs}})
    )
    shop.ask("create schema raw_shop")
    shop.ask("create table raw_shop.customers (id int primary key, name text)")
    shop.ask("insert into raw_shop.customers values (1, 'ann'), (2, 'bob'), (3, 'eve')")
    shop.ask(
        "create table raw_shop.orders (id int, customer int, currency text, amount int,"
        " changed int, ordered_at timestamptz)"
    )
    for _ in range(5):
        insert_order(shop)
    return shop


def insert_order(shop: Shop, amount: int | None = None) -> None:
    shop.changes += 1
    amount = shop.random.randint(1, 90) if amount is None else amount
    shop.ask(
        f"insert into raw_shop.orders values ({shop.changes}, {shop.random.randint(1, 3)},"
        f" '{shop.random.choice(['eur', 'usd'])}', {amount}, {shop.changes},"
        f" now() - interval '{shop.random.randint(0, 1)} hours')"
    )


def correct_order(shop: Shop) -> None:
    shop.changes += 1
    shop.ask(
        f"update raw_shop.orders set amount = {shop.random.randint(1, 90)},"
        f" changed = {shop.changes} where id = (select min(id) from raw_shop.orders)"
    )


def delete_order(shop: Shop) -> None:
    shop.ask("delete from raw_shop.orders where id = (select max(id) from raw_shop.orders)")


def replace_orders(shop: Shop) -> None:
    """As a load does that replaces a table."""
    shop.ask("create table raw_shop.new as select * from raw_shop.orders")
    shop.ask("truncate raw_shop.orders")
    shop.ask("insert into raw_shop.orders select * from raw_shop.new; drop table raw_shop.new")


def rename_customer(shop: Shop) -> None:
    shop.changes += 1
    shop.ask(
        f"update raw_shop.customers set name = 'name {shop.changes}'"
        f" where id = {shop.random.randint(1, 3)}"
    )


def change_code(shop: Shop) -> None:
    name = shop.random.choice(
        ["staging/stg_orders", "staging/int_orders", "marts/agg_names", "marts/top_names"]
    )
    file = shop.folder / "dbt" / "models" / f"{name}.sql"
    shop.changes += 1
    text = re.sub(r" -- .*", "", file.read_text())
    shop.write(f"models/{name}.sql", f"{text} -- {shop.changes}")


def change_ephemeral(shop: Shop) -> None:
    shop.changes += 1
    shop.edit("models/staging/stg_customers.sql", r"\d+ as marker", f"{shop.changes} as marker")


def change_variable(shop: Shop) -> None:
    shop.edit("dbt_project.yml", r"factor: \d+", f"factor: {shop.random.randint(1, 5)}")


def change_seed(shop: Shop) -> None:
    shop.edit("seeds/rates.csv", r"usd,\d+", f"usd,{shop.random.randint(2, 9)}")


def break_test(shop: Shop) -> None:
    insert_order(shop, amount=-5)


def repair_test(shop: Shop) -> None:
    shop.changes += 1
    shop.ask(
        f"update raw_shop.orders set amount = -amount, changed = {shop.changes} where amount < 0"
    )


def loosen_test(shop: Shop) -> None:
    shop.edit("tests/no_negative_amounts.sql", r"amount < -?\d+", "amount < -100000")


def tighten_test(shop: Shop) -> None:
    shop.edit("tests/no_negative_amounts.sql", r"amount < -?\d+", "amount < 0")


def break_model(shop: Shop) -> None:
    shop.edit("models/marts/agg_names.sql", r"sum\(amount\w*\)", "sum(amountx)")


def repair_model(shop: Shop) -> None:
    shop.edit("models/marts/agg_names.sql", r"sum\(amount\w*\)", "sum(amount)")


def drop_relation(shop: Shop) -> None:
    table = shop.random.choice(["int_orders", "agg_names", "rates"])
    for schema in ("reuse", "whole"):
        shop.ask(f"drop table if exists {schema}.{table} cascade")


def change_rows_by_hand(shop: Shop) -> None:
    table = shop.random.choice(["int_orders", "agg_names"])
    for schema in ("reuse", "whole"):
        if shop.ask(f"select to_regclass('{schema}.{table}')")[0][0] is not None:
            shop.ask(f"delete from {schema}.{table}")


def nothing(_shop: Shop) -> None:
    """The next run finds everything as the last one left it."""


CHANGES: list[Callable[[Shop], None]] = [
    insert_order, correct_order, delete_order, replace_orders, rename_customer, change_code,
    change_ephemeral, change_variable, change_seed, break_test, repair_test, repair_test,
    loosen_test, tighten_test, break_model, repair_model, repair_model, drop_relation,
    change_rows_by_hand, nothing, nothing,
]  # fmt: skip
OPTIONS: list[list[str]] = [[]] * 6 + [
    ["--strategy", "build"],
    ["--select", "int_orders+"],
    ["--exclude", "agg_names"],
    ["--full-refresh"],
]


def run_random_changes(shop: Shop, steps: int) -> int:
    """Change and run for a number of steps; return how many nodes were reused."""
    reused = 0
    statuses = shop.pipe("reuse"), shop.pipe("whole")
    assert statuses == (0, 0), shop.failures("reuse")
    for step in range(steps):
        for change in shop.random.sample(CHANGES, shop.random.randint(1, 2)):
            shop.log.append(f"{step}: {change.__name__}")
            change(shop)
        options = shop.random.choice(OPTIONS)
        shop.log.append(f"{step}: run {' '.join(options)}")
        if shop.random.random() < 0.25:
            at = shop.random.randint(1, 12)
            shop.log.append(f"{step}: kill at {at}")
            shop.kill(at, *options)
            if shop.random.random() < 0.5:
                # Another run than the killed one: it does not resume.
                shop.log.append(f"{step}: not resumed")
                insert_order(shop)
                options = [*options, "--no-resume"]
        status = shop.pipe("reuse", *options)
        whole = shop.pipe("whole", *options)
        seen = "\n".join([*shop.log, *shop.output.values()])
        assert status == whole, seen
        failed = [
            {i: status for i, (status, _) in shop.failures(target).items()}
            for target in ("reuse", "whole")
        ]
        assert failed[0] == failed[1], seen
        assert shop.rows("reuse") == shop.rows("whole"), seen
        reused += len(shop.results("whole")) - len(shop.results("reuse"))
    return reused


@pytest.mark.parametrize(
    ("seed", "steps", "publish"),
    [
        pytest.param(1, 7, False, marks=pytest.mark.nightly),
        pytest.param(2, 7, True, marks=pytest.mark.conformance),
        *(
            pytest.param(seed, 25, seed % 3 == 0, marks=pytest.mark.nightly)
            for seed in range(10, 22)
        ),
    ],
)
def test_rows_equal_those_of_a_run_of_everything(
    server: postgres.Postgres, tmp_path: Path, seed: int, steps: int, publish: bool
) -> None:
    with empty_database(server) as warehouse:
        shop = open_shop(warehouse, tmp_path / "shop", seed, publish=publish)
        assert run_random_changes(shop, steps) > 0
