"""Runs of a target that publishes: what readers see of the marts after each of them.

A small shop: orders that are loaded between runs, a view, a dimension, an incremental fact, and an
aggregate that is a view in the project. No Prefect server takes part.

Nightly are the cases whose parts other tests have: nodes end alike (test_conformance_published.py),
which failures block a group (test_models.py), leftovers of a failed run and models that become
tables (test_postgres.py), and the second strategy.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from infrastructure.local import postgres
from tests.support.embedded_postgres import Warehouse, empty_database, on
from tests.support.project import REPOSITORY, Project

FILES = {
    "dbt_project.yml": "name: shop\nprofile: millrace\n"
    "flags: {send_anonymous_usage_stats: false}\n",
    "models/staging/stg_orders.sql": "select * from public.orders",
    "models/marts/dim_customers.sql": (
        "{{ config(materialized='table') }}"
        " select customer, max(run) as run from {{ ref('stg_orders') }} group by 1"
    ),
    "models/marts/fct_orders.sql": (
        "{{ config(materialized='incremental', unique_key='id') }}"
        " select id, customer, amount, run from {{ ref('stg_orders') }}"
        "{% if is_incremental() %} where run > (select coalesce(max(run), 0) from {{ this }})"
        "{% endif %}"
    ),
    "models/marts/agg_orders.sql": (
        "select f.customer, sum(f.amount) as amount, max(d.run) as run"
        " from {{ ref('fct_orders') }} as f join {{ ref('dim_customers') }} as d"
        " on f.customer = d.customer group by 1"
    ),
    "models/properties.yml": """
models:
- name: fct_orders
  columns:
  - name: id
    data_tests: [unique, not_null]
  - name: customer
    data_tests: [{relationships: {arguments: {to: ref('dim_customers'), field: customer}}}]
- name: agg_orders
  columns: [{name: customer, data_tests: [unique]}]
""",
    "tests/no_negative_amounts.sql": "select id from {{ ref('fct_orders') }} where amount < 0",
}
AS_TABLE = "{{ config(materialized='table') }} "
MARTS = ("dim_customers", "fct_orders", "agg_orders")


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


@pytest.fixture
def shop(server: postgres.Postgres, tmp_path: Path) -> Iterator[Shop]:
    with empty_database(server) as warehouse:
        yield open_shop(warehouse, tmp_path / "shop")


@dataclass
class Shop(Project):
    """The project, its warehouse, and what was loaded."""

    warehouse: Warehouse | None = None
    loads: int = 0

    def write(self, **files: str | None) -> None:
        """Write or remove files of the project by their path, for example `models/x.sql`."""
        for name, text in files.items():
            file = self.folder / "dbt" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                file.unlink()
            else:
                file.write_text(text)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        assert self.warehouse is not None
        return self.warehouse.query(sql)

    def load(self, *orders: tuple[int, str, int]) -> None:
        """Load new orders, or new versions of orders: id, customer, amount."""
        self.loads += 1
        for identity, customer, amount in orders:
            self.ask(f"delete from public.orders where id = {identity}")
            self.ask(
                f"insert into public.orders values ({identity}, '{customer}', {amount},"
                f" {self.loads})"
            )

    def pipe(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the pipeline, without docs and ingestion, and check its exit code."""
        done = self.pipeline(*self.arguments, *arguments)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("--target", "shop", "--no-prefect", "--skip", "ingest", "--skip", "docs")

    def killed(self, at: str, *arguments: str) -> None:
        """Run the pipeline, and kill it at a place."""
        done = self.run("crash.py", at, *self.arguments, *arguments)
        assert done.returncode == -9, done.stdout + done.stderr

    def seen(self, *marts: str) -> dict[str, list[tuple[Any, ...]]]:
        """What readers see."""
        return {mart: self.ask(f"select * from shop.{mart} order by 1") for mart in marts or MARTS}

    def truth(self) -> dict[str, list[tuple[Any, ...]]]:
        """What one complete run makes of the orders."""
        return {
            "dim_customers": self.ask(
                "select customer, max(run) from public.orders group by 1 order by 1"
            ),
            "fct_orders": self.ask(
                "select id, customer, amount, run from public.orders order by 1"
            ),
            "agg_orders": self.ask(
                "select customer, sum(amount), max(run) from public.orders group by 1 order by 1"
            ),
        }

    def relations(self) -> list[tuple[Any, ...]]:
        """All relations, with what changes when one is made again or gets rows."""
        return self.ask(
            "select c.oid, c.relname, c.relfilenode, pg_stat_get_tuples_inserted(c.oid)"
            " from pg_class as c join pg_namespace as n on n.oid = c.relnamespace"
            " where n.nspname like 'shop%' order by 1"
        )

    def publish(self, *arguments: str) -> None:
        """Run the pipeline and check that readers see what it should have made."""
        self.pipe(*arguments)
        assert self.seen() == self.truth()


# Runs the pipeline until it reaches a function, and kills it before or after that.
CRASH = """
import importlib, os, signal, sys

import typer

where, when = sys.argv.pop(1).rsplit(" ", 1)
module, _, path = where.partition(":")
owner = importlib.import_module(module)
*parents, name = path.split(".")
for parent in parents:
    owner = getattr(owner, parent)
original, calls = getattr(owner, name), []


def crash(*arguments, **options):
    calls.append(name)
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*arguments, **options)
    if when == "after" or len(calls) == int(when):
        os.kill(os.getpid(), signal.SIGKILL)
    return result


setattr(owner, name, crash)
from prefect_flows.pipeline import main
typer.run(main)
"""


def open_shop(warehouse: Warehouse, folder: Path, *, publish: bool = True) -> Shop:
    folder.mkdir(parents=True)
    for package in ("prefect_flows", "infrastructure"):
        (folder / package).symlink_to(REPOSITORY / package)
    (folder / "crash.py").write_text(CRASH)
    shop = Shop(folder, warehouse=warehouse)
    shop.write(**FILES)
    output = warehouse.profile.output | {"schema": "shop", "publish": publish}
    profiles = {"millrace": {"target": "shop", "outputs": {"shop": output}}}
    shop.write(**{"profiles.yml": yaml.safe_dump(profiles)})
    shop.ask("create table public.orders (id int primary key, customer text, amount int, run int)")
    shop.load((1, "ann", 10), (2, "bob", 20), (3, "ann", 30))
    return shop


def test_marts_are_published_after_their_tests(shop: Shop) -> None:
    done = shop.pipe()
    assert shop.seen() == shop.truth()
    assert "Published 3 models." in done.stderr
    shop.load((2, "bob", 25), (4, "cid", 40))
    shop.publish()
    shop.load((1, "cid", 1), (5, "eve", 5))
    shop.publish("--strategy", "build")
    kinds = shop.ask(
        "select nspname || '.' || relname, relkind::text from pg_class as c join pg_namespace as n"
        " on n.oid = relnamespace where nspname like 'shop%' and relkind in ('r', 'v')"
        " and nspname <> 'shop_publish' order by 1"
    )
    assert kinds == sorted(
        [("shop.stg_orders", "v")]
        + [(f"{schema}.{mart}", "r") for schema in ("shop", "shop__a", "shop__b") for mart in MARTS]
    )


@pytest.mark.parametrize(
    "strategy",
    [
        "run_then_test",
        pytest.param("build", marks=[pytest.mark.conformance, pytest.mark.nightly]),
    ],
)
def test_a_failed_test_keeps_the_published_rows(shop: Shop, strategy: str) -> None:
    shop.publish()
    before = shop.seen()
    shop.load((4, "cid", -1))

    done = shop.pipe("--strategy", strategy, status=1)

    assert shop.seen() == before
    assert "The models of group default are not published" in done.stderr
    assert "test no_negative_amounts: fail" in done.stderr

    shop.write(**{"tests/no_negative_amounts.sql": "select 1 where false"})
    shop.pipe("--failed")
    assert shop.seen() == shop.truth()


@pytest.mark.conformance
def test_a_failed_model_keeps_the_published_rows(shop: Shop) -> None:
    shop.publish()
    before = shop.seen()
    shop.load((4, "cid", 4))
    shop.write(**{"models/marts/agg_orders.sql": "select 1 / 0 as customer, 1 as amount, 1 as run"
                  " from {{ ref('fct_orders') }}"})  # fmt: skip

    shop.pipe(status=1)
    assert shop.seen() == before

    shop.write(**{"models/marts/agg_orders.sql": FILES["models/marts/agg_orders.sql"]})
    done = shop.pipe("--failed")
    assert shop.seen() == shop.truth()
    assert "3 nodes done" in done.stderr, "the fact was not built twice"


@pytest.mark.conformance
@pytest.mark.nightly
def test_a_failing_unit_test_keeps_the_published_rows(shop: Shop) -> None:
    shop.publish()
    before = shop.seen()
    shop.load((4, "cid", 4))

    def unit_test(amount: int) -> str:
        rows = "[{customer: ann, amount: 1}, {customer: ann, amount: 2}]"
        return f"""
unit_tests:
- name: adds_up
  model: agg_orders
  given:
  - {{input: ref('fct_orders'), rows: {rows}}}
  - {{input: ref('dim_customers'), rows: [{{customer: ann, run: 1}}]}}
  expect: {{rows: [{{customer: ann, amount: {amount}, run: 1}}]}}
"""

    shop.write(**{"models/unit_tests.yml": unit_test(4)})
    for strategy in ("run_then_test", "build"):
        shop.pipe("--strategy", strategy, status=1)
        assert shop.seen() == before

    shop.write(**{"models/unit_tests.yml": unit_test(3)})
    shop.publish("--failed")


@pytest.mark.conformance
def test_a_test_that_warns_does_not_keep_rows_from_readers(shop: Shop) -> None:
    test = FILES["tests/no_negative_amounts.sql"]
    shop.write(**{"tests/no_negative_amounts.sql": "{{ config(severity='warn') }} " + test})
    shop.load((4, "cid", -1))
    shop.publish()


@pytest.mark.conformance
def test_without_tests_nothing_is_published(shop: Shop) -> None:
    shop.publish()
    before = shop.seen()
    shop.load((4, "cid", 4))

    done = shop.pipe("--skip", "test")

    assert shop.seen() == before
    assert "the run left out the tests" in done.stderr
    shop.publish()


@pytest.mark.conformance
def test_tests_that_are_excluded_do_not_keep_rows_from_readers(shop: Shop) -> None:
    shop.load((4, "cid", -1))
    shop.publish("--exclude", "no_negative_amounts")


@pytest.mark.conformance
def test_a_selection_leaves_other_marts_as_they_are(shop: Shop) -> None:
    shop.publish()
    before = shop.seen()
    shop.load((4, "cid", 4), (1, "ann", 11))

    shop.pipe("--select", "fct_orders", "--exclude", "test_type:generic")
    assert shop.seen() == before | {"fct_orders": shop.truth()["fct_orders"]}

    # It reads the published rows of the others: the fact has the new ones, the dimension no cid.
    shop.pipe("--select", "agg_orders")
    assert shop.seen()["agg_orders"] == [("ann", 41, 1), ("bob", 20, 1)]
    shop.publish()


@pytest.mark.conformance
def test_a_full_refresh_and_changed(shop: Shop) -> None:
    shop.publish()
    shop.ask("update public.orders set amount = amount + 1")
    shop.load((4, "cid", 4))
    assert shop.pipe("--changed").stderr.count("Nothing changed") == 1
    shop.write(
        **{
            "models/marts/dim_customers.sql": FILES["models/marts/dim_customers.sql"]
            + " -- changed"
        }
    )
    shop.pipe("--changed")
    assert shop.seen("dim_customers")["dim_customers"] == shop.truth()["dim_customers"]
    assert shop.seen()["fct_orders"] != shop.truth()["fct_orders"], "the fact did not change"
    shop.publish("--full-refresh")
    shop.load((5, "eve", 5))
    shop.publish()


@pytest.mark.conformance
def test_a_mart_that_is_removed_or_renamed(shop: Shop) -> None:
    shop.publish()
    shop.publish()
    old = shop.seen("agg_orders")
    shop.write(**{"models/marts/agg_orders.sql": None,
                  "models/marts/totals.sql": FILES["models/marts/agg_orders.sql"],
                  "models/properties.yml": FILES["models/properties.yml"].replace(
                      "agg_orders", "totals")})  # fmt: skip
    shop.load((4, "cid", 4))

    shop.pipe()

    assert shop.seen("totals")["totals"] == shop.truth()["agg_orders"]
    assert shop.seen("agg_orders") == old
    slots = "select nspname from pg_tables, pg_namespace where nspname = schemaname and tablename ="
    assert len(shop.ask(f"{slots} 'agg_orders' and nspname like 'shop\\_\\_%'")) == 1


@pytest.mark.conformance
@pytest.mark.nightly
def test_a_mart_that_changes_its_materialization(shop: Shop) -> None:
    shop.publish()
    path, incremental = "models/marts/fct_orders.sql", FILES["models/marts/fct_orders.sql"]
    for text in (
        incremental.replace("incremental', unique_key='id'", "table'"),
        incremental,
        incremental.replace("incremental', unique_key='id'", "view'"),
        incremental,
    ):
        shop.write(**{path: text})
        shop.load((10 + shop.loads, "cid", 4), (1, "ann", shop.loads))
        # `is_incremental` is false in a table; it starts from all orders.
        shop.publish()


@pytest.mark.conformance
def test_seeds_snapshots_and_models_of_other_folders_are_published_if_they_say_so(
    shop: Shop,
) -> None:
    shop.write(**{
        "seeds/rates.csv": "name,rate\na,1\n",
        "seeds/properties.yml": "seeds: [{name: rates, config: {meta: {publish: true}},"
        " columns: [{name: rate, data_tests: [not_null]}]}]",
        "snapshots/history.sql": "{% snapshot history %}"
        "{{ config(unique_key='id', strategy='check', check_cols=['amount'],"
        " meta={'publish': true}) }}"
        " select id, amount from public.orders{% endsnapshot %}",
        "models/marts/internal.sql": "{{ config(materialized='table', meta={'publish': false}) }}"
        " select count(*) as n from {{ ref('fct_orders') }}",
        "tests/bad_rates.sql": "select * from {{ ref('rates') }} where rate::int < 0",
    })  # fmt: skip
    shop.pipe()
    history = "select id, amount, dbt_valid_to is null from shop.history order by id, 2"
    assert shop.ask("select * from shop.rates") == [("a", 1)]
    assert shop.ask(history) == [(1, 10, True), (2, 20, True), (3, 30, True)]
    assert shop.ask("select n from shop.internal") == [(3,)]

    shop.load((1, "ann", 11))
    shop.write(**{"seeds/rates.csv": "name,rate\na,-1\n"})
    shop.pipe(status=1)
    assert shop.ask("select * from shop.rates") == [("a", 1)]
    assert len(shop.ask(history)) == 3

    shop.write(**{"seeds/rates.csv": "name,rate\na,2\nb,3\n"})
    shop.pipe("--failed")
    assert shop.ask("select * from shop.rates order by 1") == [("a", 2), ("b", 3)]
    assert shop.ask(history) == [(1, 10, False), (1, 11, True), (2, 20, True), (3, 30, True)]
    shop.load((1, "ann", 12))
    shop.pipe()
    assert len(shop.ask(history)) == 5
    assert shop.ask("select to_regclass('shop__a.internal')::text") == [(None,)]


CAMPAIGNS = "models/marketing/marts/campaigns.sql"


def with_marketing(
    shop: Shop, select: str = "select count(*) as n from {{ ref('stg_orders') }}"
) -> None:
    config = "{{ config(materialized='table', meta={'publish_group': 'marketing'}) }} "
    shop.write(**{CAMPAIGNS: config + select})


@pytest.mark.conformance
@pytest.mark.parametrize(
    "strategy", ["run_then_test", pytest.param("build", marks=pytest.mark.nightly)]
)
def test_a_group_does_not_hold_back_another(shop: Shop, strategy: str) -> None:
    with_marketing(shop)
    shop.publish("--strategy", strategy)
    shop.load((4, "cid", 4))
    with_marketing(shop, "select 1 / count(*) * 0 / 0 as n from {{ ref('stg_orders') }}")

    done = shop.pipe("--strategy", strategy, status=1)

    assert shop.seen() == shop.truth(), done.stderr
    assert "The models of group marketing are not published" in done.stderr
    assert shop.ask("select n from shop.campaigns") == [(3,)]

    with_marketing(shop)
    shop.pipe("--failed")
    assert shop.ask("select n from shop.campaigns") == [(4,)]
    assert shop.seen() == shop.truth()
    # A model of the published group that is built again in the resumed run stays out of sight.
    shop.load((5, "eve", 5))
    with_marketing(shop, "select 1 / 0 as n from {{ ref('stg_orders') }}")
    shop.pipe("--strategy", strategy, status=1)
    assert shop.seen() == shop.truth()
    shop.write(**{"models/marts/dim_customers.sql": FILES["models/marts/dim_customers.sql"]
                  .replace("max(run)", "max(run) / 0")})  # fmt: skip
    before = shop.seen()
    shop.pipe("--failed", status=1)
    assert shop.seen() == before
    with_marketing(shop)
    changed = FILES["models/marts/dim_customers.sql"] + " -- changed"
    shop.write(**{"models/marts/dim_customers.sql": changed,
                  "tests/dim_is_bad.sql": "select * from {{ ref('dim_customers') }}"})  # fmt: skip
    shop.pipe("--failed", status=1)
    assert shop.seen() == before
    assert shop.ask("select n from shop.campaigns") == [(5,)]


@pytest.mark.conformance
def test_a_failing_test_of_a_common_parent_holds_back_both_groups(shop: Shop) -> None:
    with_marketing(shop)
    shop.write(**{"tests/parent.sql": "select id from {{ ref('stg_orders') }} where amount = 4"})
    shop.publish()
    before = shop.seen()
    shop.load((4, "cid", 4))

    done = shop.pipe(status=1)

    assert shop.seen() == before
    assert shop.ask("select n from shop.campaigns") == [(3,)]
    for group in ("default", "marketing"):
        assert f"The models of group {group} are not published" in done.stderr


@pytest.mark.conformance
def test_a_contract_with_keys_between_marts(shop: Shop) -> None:
    """The foreign key of a slot's fact does not keep its dimension from being built again."""
    shop.write(**{"models/contracts.yml": """
models:
- name: dim_customers
  config: {contract: {enforced: true}}
  columns:
  - {name: customer, data_type: text, constraints: [{type: primary_key}]}
  - {name: run, data_type: int, constraints: [{type: not_null}]}
""", "models/marts/fct_copy.sql": "{{ config(materialized='incremental', unique_key='id',"
         " on_schema_change='fail', contract={'enforced': true}) }}"
         " select id, customer from {{ ref('stg_orders') }}",
         "models/marts/fct_copy.yml": """
models:
- name: fct_copy
  columns:
  - {name: id, data_type: int, constraints: [{type: primary_key}]}
  - name: customer
    data_type: text
    constraints: [{type: foreign_key, to: ref('dim_customers'), to_columns: [customer]}]
"""})  # fmt: skip
    for _ in range(4):
        shop.publish()
        copy = shop.ask("select id, customer from shop.fct_copy order by 1")
        assert copy == shop.ask("select id, customer from public.orders order by 1")
        shop.load((10 + shop.loads, f"c{shop.loads}", 4))
        shop.ask(
            f"update public.orders set customer = 'c{shop.loads - 1}', run = {shop.loads}"
            " where id = 3"
        )
    shop.ask("insert into public.orders values (99, null, 1, 99)")
    before = shop.seen()
    shop.pipe(status=1)
    assert shop.seen() == before


@pytest.mark.conformance
def test_a_microbatch_model(shop: Shop) -> None:
    """A batch that fails leaves readers what they saw; what the others built is not lost."""
    events = (
        "{{ config(materialized='incremental', incremental_strategy='microbatch', unique_key='id',"
        " event_time='at', batch_size='day', begin='2026-01-01', lookback=40000) }}"
        " select id, at, 1 / (4 - id) as n from {{ ref('events') }}"
    )
    shop.write(**{"models/marts/by_day.sql": events, "models/events.sql":
                  "{{ config(event_time='at') }} select * from public.events"})  # fmt: skip
    shop.ask("create table public.events as select n as id, (now() at time zone 'utc')::date"
             " - n + time '10:00' as at from generate_series(1, 3) as n")  # fmt: skip
    begin = shop.ask("select (now() at time zone 'utc')::date - 5")[0][0]
    shop.write(**{"models/marts/by_day.sql": events.replace("2026-01-01", str(begin))
                  .replace("40000", "5")})  # fmt: skip
    shop.pipe()
    assert shop.ask("select id from shop.by_day order by 1") == [(1,), (2,), (3,)]
    shop.ask("insert into public.events select 4, at - 1 * interval '1 day' from public.events"
             " where id = 3")  # fmt: skip
    shop.ask("update public.events set id = 7 where id = 1")

    shop.pipe(status=1)
    assert shop.ask("select id from shop.by_day order by 1") == [(1,), (2,), (3,)]

    shop.ask("update public.events set id = 5 where id = 4")
    shop.pipe("--failed")
    assert shop.ask("select id from shop.by_day where id > 3 order by 1") == [(5,), (7,)]


# A place where the pipeline is killed, and whether readers see the new rows from then on.
PLACES = {
    "while rows are copied": (
        "prefect_flows.publish.postgres.warehouse:copy_published_rows after", False),
    "before dbt": ("prefect_flows.publish.publication:Publication.building before", False),
    "after the first model": ("prefect_flows.pipeline_run:_PipelineRun._save_results 1", False),
    "after some models": ("prefect_flows.pipeline_run:_PipelineRun._save_results 4", False),
    "after some tests": ("prefect_flows.pipeline_run:_PipelineRun._save_results 6", False),
    "before the switch": ("prefect_flows.publish.publication:Publication.publish before", False),
    "before the commit": ("prefect_flows.publish.postgres.warehouse:switch after", False),
    "after the commit": (
        "prefect_flows.publish.postgres.warehouse:PostgresPublisher._switch_once after", True),
    "before the end": ("prefect_flows.pipeline_run:_PipelineRun._count_marts before", True),
}  # fmt: skip


# The other places go each night.
EACH_TIME = ("while rows are copied", "after some models", "before the commit", "after the commit")


@pytest.mark.kills
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(place, marks=[] if place in EACH_TIME else [pytest.mark.nightly])
        for place in PLACES
    ],
)
def test_a_killed_run_is_resumed(shop: Shop, place: str) -> None:
    where, is_published = PLACES[place]
    shop.publish()
    shop.load((2, "bob", 25), (4, "cid", 40))
    shop.publish()
    before = shop.seen()
    shop.load((1, "cid", 1), (5, "eve", 5))

    shop.killed(where)

    assert shop.seen() == (shop.truth() if is_published else before)
    shop.publish()
    shop.load((2, "ann", 7))
    shop.publish()


@pytest.mark.kills
@pytest.mark.nightly
def test_a_killed_run_that_is_not_resumed(shop: Shop) -> None:
    shop.publish()
    shop.load((4, "cid", 40))
    shop.killed(PLACES["before the switch"][0])
    shop.load((4, "cid", 41))
    shop.publish("--no-resume")
    shop.load((5, "eve", 5))
    shop.publish()


@pytest.mark.kills
def test_a_run_of_a_selection_between_a_killed_run_and_its_resumption(shop: Shop) -> None:
    """What it has built over is built again; nothing of the killed run is published with it."""
    shop.publish()
    shop.load((4, "cid", 40))
    shop.killed(PLACES["before the switch"][0])
    shop.load((5, "eve", 5), (1, "ann", 11))
    shop.pipe("--select", "fct_orders", "--exclude", "test_type:generic")
    seen = shop.seen()
    assert seen["fct_orders"] == shop.truth()["fct_orders"]
    assert seen["agg_orders"] == [("ann", 40, 1), ("bob", 20, 1)]

    shop.pipe()

    assert shop.seen()["fct_orders"] == shop.truth()["fct_orders"]
    shop.publish()


@pytest.mark.conformance
@pytest.mark.nightly
def test_a_run_of_a_selection_between_a_failed_run_and_failed(shop: Shop) -> None:
    shop.publish()
    shop.load((4, "cid", -1))
    shop.pipe(status=1)
    before = shop.seen()
    shop.pipe("--select", "dim_customers", "--exclude", "test_type:generic")
    assert shop.seen() == before | {"dim_customers": shop.truth()["dim_customers"]}
    assert "has no run that failed" in shop.pipe("--failed", status=2).stderr
    shop.load((4, "cid", 1))
    shop.publish()


@pytest.mark.conformance
@pytest.mark.nightly
def test_nodes_end_alike_with_and_without_publishing(
    server: postgres.Postgres, tmp_path: Path
) -> None:
    """And so do the rows, and the names that dbt's documentation has for them."""
    found = []
    for publish in (False, True):
        with empty_database(server) as warehouse:
            shop = open_shop(warehouse, tmp_path / str(publish), publish=publish)
            shop.pipe("--skip", "docs")
            shop.load((4, "cid", -4))
            shop.write(**{
                "tests/warns.sql": "{{ config(severity='warn') }} select 1",
                "models/marts/broken.sql": AS_TABLE + "select 1 / 0 as n from"
                " {{ ref('fct_orders') }}",
                "models/marts/behind.sql": AS_TABLE + "select n from {{ ref('broken') }}",
                "tests/of_broken.sql": "select n from {{ ref('broken') }}",
            })  # fmt: skip
            for strategy in ("build", "run_then_test"):
                shop.pipe("--strategy", strategy, status=1)
                found.append((publish, strategy, statuses(shop)))
            shop.write(**{"models/marts/broken.sql": AS_TABLE + "select 1 as n from"
                          " {{ ref('fct_orders') }}",
                          "tests/of_broken.sql": "select n from {{ ref('broken') }} where n > 1",
                          "tests/no_negative_amounts.sql": "select 1 where false"})  # fmt: skip
            done = shop.pipeline(*shop.arguments[:-2])
            assert done.returncode == 0, done.stdout + done.stderr
            manifest = shop.local / "dbt" / "shop" / "manifest.json"
            nodes = json.loads(manifest.read_text())["nodes"]
            documented = json.loads((manifest.parent / "catalog.json").read_text())["nodes"]
            found.append((publish, "rows", shop.seen()))
            found.append((publish, "nodes", statuses(shop)))
            found.append((
                publish,
                "names",
                {i: (node["schema"], node.get("relation_name", "").replace(warehouse.profile.output[
                    "dbname"], "database"), node["config"]["materialized"])
                 for i, node in nodes.items() if node["resource_type"] == "model"},
            ))  # fmt: skip
            found.append((
                publish,
                "columns",
                {i: (node["metadata"]["schema"], list(node["columns"])) for i, node
                 in documented.items()},
            ))  # fmt: skip
    without, with_publishing = found[: len(found) // 2], found[len(found) // 2 :]
    for (_, what, left), (_, _, right) in zip(without, with_publishing, strict=True):
        assert left == right, what
    assert without[1][2]["broken"] == "error"
    assert "fail" in without[0][2].values()


def statuses(shop: Shop) -> dict[str, str]:
    """Node → status in the last run."""
    run = max((shop.local / "state" / "runs" / "shop").iterdir())
    entries = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    return {
        entry["result"]["name"]: entry["result"]["status"] for entry in entries if "node" in entry
    }
