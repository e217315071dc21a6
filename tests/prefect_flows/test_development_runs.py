"""`--empty` and `--sample`: what they build, where they are refused; nothing relies on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infrastructure.local import postgres
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.profiles import Profile
from prefect_flows.core.settings import Settings
from prefect_flows.run_parameters import check_parameters, refuse_on_production
from prefect_flows.runtime.parameters import Parameters
from tests.prefect_flows.publish.test_publish_run import Shop, open_shop, server
from tests.support.embedded_postgres import empty_database

__all__ = ["server"]  # fixture

DAYS = {"from_date": "2026-01-01", "to_date": "2026-01-02"}

AGGREGATE = (
    "with orders as (select * from {{ ref('fct_orders') }})"
    " select customer, sum(amount) as amount from orders group by 1"
)


@pytest.fixture
def unpublished(server: postgres.Postgres, tmp_path: Path) -> Iterator[Shop]:
    """The shop on a target that does not publish."""
    with empty_database(server) as warehouse:
        yield open_shop(warehouse, tmp_path / "shop", publish=False)


@pytest.mark.parametrize(
    ("given", "fault", "fix"),
    [
        ({"empty": True, "sample": "3 days"}, "exclude one another", "--sample '3 days'"),
        (DAYS | {"empty": True}, "exclude one another", "give one of them"),
        (DAYS | {"sample": "1 hour"}, "exclude one another", "give one of them"),
        ({"sample": "3 dozens"}, "'3 dozens' is not a time: Runtime Error Invalid grain size",
         "'3 days'"),
        ({"sample": ""}, "'' is not a time", "'3 days'"),
        ({"sample": "{start: 2026-01-01}"}, "is not a time", "{start: '2026-11-01', end: "),
    ],
)  # fmt: skip
def test_parameters_that_contradict_one_another_are_refused(
    given: dict[str, Any], fault: str, fix: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_parameters(Parameters(**given))
    assert fault in refused.value.what
    assert "the parameters of the run" in refused.value.where
    assert fix in refused.value.fix


@pytest.mark.parametrize("sample", ["3 days", "1 hour", "{start: '2026-01-01', end: '2026-01-02'}"])
def test_a_sample_is_given_as_to_dbt(sample: str) -> None:
    check_parameters(Parameters(sample=sample))


@pytest.mark.parametrize(
    ("target", "publish", "setting", "where"),
    [
        ("prod", False, "prod", "MILLRACE_PRODUCTION_TARGETS=prod"),
        ("live", False, "prod, live", "MILLRACE_PRODUCTION_TARGETS=prod, live"),
        ("dev", True, "prod", "`publish = true` of target 'dev' in Terraform's outputs"),
        ("dev", False, "prod", None),
        ("prod", False, "live", None),
    ],
)
def test_they_are_refused_for_production(
    target: str, publish: bool, setting: str, where: str | None
) -> None:
    profile = Profile("millrace", target, {"type": "postgres", "publish": publish})
    settings = Settings(production_targets=setting)
    refuse_on_production(Parameters(target=target), profile, settings)
    for given, option in (
        ({"empty": True}, "--empty"),
        ({"sample": "3 days"}, "--sample '3 days'"),
    ):
        parameters = Parameters(target=target, **given)
        if where is None:
            refuse_on_production(parameters, profile, settings)
            continue
        with pytest.raises(ConfigurationError) as refused:
            refuse_on_production(parameters, profile, settings)
        assert f"target {target!r} is for production" in refused.value.what
        assert refused.value.where == where
        assert refused.value.fix.endswith(f"uv run millrace run --target dev {option}")


@pytest.mark.conformance
def test_nothing_relies_on_a_run_without_rows(unpublished: Shop) -> None:
    shop = unpublished
    state = shop.local / "state" / "targets" / "shop"

    def run(*options: str, status: int = 0) -> str:
        arguments = (*shop.arguments, "--verbose", *options)
        done = shop.pipeline(*arguments, MILLRACE_REUSE="true")
        assert done.returncode == status, done.stdout + done.stderr
        return done.stderr

    def count(*relations: str) -> list[int]:
        return [shop.ask(f"select count(*) from shop.{name}")[0][0] for name in relations]

    # dbt puts a name of its own behind each input that it leaves the rows out of.
    failed = run("--empty", "--select", "+agg_orders", status=1)
    assert "--select shop.marts.agg_orders,file:agg_orders.sql --empty\n" in failed
    shop.write(**{"models/marts/agg_orders.sql": AGGREGATE})

    # GIVEN a good run, and one in which a test fails
    run()
    last_good = json.loads((state / "history.json").read_text())["last_good"]
    shop.load((4, "cid", -5))
    run(status=1)
    incidents = (state / "incidents.json").read_text()
    assert "no_negative_amounts" in incidents

    # WHEN all is built without rows, and the tests see none
    log = run("--empty", "--strategy", "build")

    # THEN tables are empty, and an incremental model keeps its rows
    assert count("dim_customers", "fct_orders") == [0, 4]
    assert "because the run builds from no rows, or from a sample" in log
    # AND neither the incident is resolved, nor is it the last good run
    assert (state / "incidents.json").read_text() == incidents
    assert json.loads((state / "history.json").read_text())["last_good"] == last_good

    # WHEN the row is corrected, and the next run comes
    shop.load((4, "cid", 5))
    log = run("--strategy", "build")

    # THEN it reuses nothing of it
    assert count("dim_customers", "fct_orders") == [3, 4]
    assert "because the last run did not finish it" in log
    assert "are reused" not in log


def test_a_sample_has_the_rows_of_its_time(unpublished: Shop) -> None:
    shop = unpublished
    shop.ask("create table public.events as select n as id,"
             " (now() at time zone 'utc') - n * interval '1 day' as at"
             " from generate_series(0, 9) as n")  # fmt: skip
    sources = "sources: [{name: app, schema: public, tables: "
    shop.write(**{
        "models/sources.yml": sources + "[{name: events, config: {event_time: at}}]}]",
        "models/marts/fct_flights.sql":
            "{{ config(materialized='table') }} select * from {{ source('app', 'events') }}",
    })  # fmt: skip

    shop.pipe("--select", "fct_flights", "--sample", "3 days")

    assert shop.ask("select id from shop.fct_flights order by 1") == [(0,), (1,), (2,)]
