"""`--from` and `--to`: what a backfill means for each kind of node and source."""

from __future__ import annotations

import json
import logging
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_flows.core.date_window import DateWindow
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.ingest.arguments import build_source_arguments
from prefect_flows.pipeline import _parse
from prefect_flows.run_parameters import check_parameters, load_failed_parameters
from prefect_flows.runtime.parameters import Parameters
from prefect_flows.state.runs import Run, RunHeader, find_interrupted_run
from prefect_flows.state.store import StateStore
from tests.prefect_flows.publish.test_publish_run import Shop, server, shop

__all__ = ["server", "shop"]  # fixtures

MARCH = {"from_date": "2013-03-01", "to_date": "2013-03-31"}
TODAY = datetime.now(UTC).date()
FILES = {
    "models/sources.yml": """
sources:
- name: app
  schema: public
  tables: [{name: events, config: {event_time: at}}]
""",
    "models/marts/as_view.sql": "select * from {{ source('app', 'events') }}",
    "models/marts/as_table.sql": (
        "{{ config(materialized='table') }} select * from {{ source('app', 'events') }}"
    ),
    "models/marts/by_id.sql": (
        "{{ config(materialized='incremental') }} select * from {{ source('app', 'events') }}"
        "{% if is_incremental() %} where id > (select max(id) from {{ this }}) {% endif %}"
    ),
    "models/marts/by_day.sql": (
        "{{ config(materialized='incremental', incremental_strategy='microbatch', unique_key='id',"
        f" event_time='at', batch_size='day', begin='{TODAY - timedelta(days=9)}') }}}}"
        " select * from {{ source('app', 'events') }}"
    ),
    "snapshots/history.sql": (
        "{% snapshot history %}{{ config(unique_key='id', strategy='check', check_cols=['version'])"
        " }} select * from {{ source('app', 'events') }}{% endsnapshot %}"
    ),
    "seeds/rates.csv": "id,rate\n1,2\n",
}


@pytest.mark.parametrize(
    ("given", "fault", "command"),
    [
        ({"from_date": "2013-03-01"}, "`--from` is given without the other date",
         "--from 2013-03-01 --to 2013-03-01"),
        ({"to_date": "2013-03-31"}, "`--to` is given without the other date",
         "--from 2013-03-31 --to 2013-03-31"),
        ({"from_date": "2013-04-01", "to_date": "2013-03-31"},
         "`--from 2013-04-01` is after `--to 2013-03-31`",
         "--from 2013-03-31 --to 2013-04-01"),
        (MARCH | {"to_date": "9999-12-31"}, "`--to 9999-12-31` is in the future", f"--to {TODAY}"),
        (MARCH | {"full_refresh": True}, "would leave only the rows of these days in microbatch",
         "--from 2013-03-01 --to 2013-03-31"),
    ],
)  # fmt: skip
def test_dates_that_are_no_days_in_order_are_refused(
    given: dict[str, Any], fault: str, command: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_parameters(Parameters(**given))
    assert fault in refused.value.what
    assert "`from_date` and `to_date`" in refused.value.where
    assert command in refused.value.fix


def test_a_date_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="to_date: must be a valid date"):
        _parse({}, {"from_date": "2013-03-01", "to_date": "31.3.2013"})


def test_the_last_day_is_included() -> None:
    window = Parameters(**MARCH).window
    assert window == DateWindow(date(2013, 3, 1), date(2013, 3, 31))
    assert (window.end, str(window)) == (date(2013, 4, 1), "2013-03-01 to 2013-03-31")
    assert [moment.isoformat() for moment in window.moments()] == [
        "2013-03-01T00:00:00+00:00", "2013-04-01T00:00:00+00:00",
    ]  # fmt: skip


@pytest.mark.example
def test_only_sources_that_can_load_days_get_them() -> None:
    window = Parameters(**MARCH).window

    def arguments(name: str, **given: Any) -> dict[str, Any]:
        return build_source_arguments(name, "dev", given, lambda _: "secret", window)

    assert arguments("nyc__flights")["window"] == window
    assert arguments("github__trending")["window"] == window
    assert arguments("sql__database", tables={})["window"] == window
    assert "window" not in arguments("files__inbox", url="x")
    assert "window" not in arguments("youtube__channels", channels=["x"])
    # The dates of the run are the only way to give them.
    with pytest.raises(ConfigurationError, match="window: there is no such field"):
        arguments("nyc__flights", window={"first": "2013-03-01", "last": "2013-03-31"})


def test_a_run_that_resumes_has_the_same_dates(tmp_path: Path) -> None:
    store, log = StateStore(str(tmp_path)), logging.getLogger("test")
    march, whole = Parameters(**MARCH), Parameters()
    run = Run(store, RunHeader(id="1", target="dev", parameters=march.identity(), url=None,
                               started_at=datetime.now(UTC)))  # fmt: skip
    run.begin(None, [])

    def find(parameters: Parameters) -> object:
        return find_interrupted_run(
            store, "dev", parameters.identity(), timedelta(hours=1), log.warning
        )

    assert find(march) is not None
    assert find(whole) is None
    run.end("failed")
    assert load_failed_parameters(whole, store, log).window == march.window


@pytest.mark.example
@pytest.mark.conformance
def test_each_kind_of_node(shop: Shop, tmp_path: Path) -> None:
    # GIVEN a run that built version 1 of one event on each of nine days, at the begin of the day
    shop.write(**FILES)
    shop.ask(
        "create table public.events as select n as id, 1 as version,"
        f" (date '{TODAY}' - 10 + n)::timestamp as at from generate_series(1, 9) as n"
    )
    arguments = ("--target", "shop", "--no-prefect", "--verbose", "--skip", "docs")

    def run(*options: str) -> str:
        done = shop.pipeline(*arguments, *options, MILLRACE_REUSE="true")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr

    def versions(relation: str) -> dict[int, int]:
        return dict(shop.ask(f"select id, version from {relation} order by 1, 2"))

    run("--skip", "ingest")

    # WHEN all have version 2, one more comes late for the last day, and three days are built again
    shop.ask("update public.events set version = 2")
    shop.ask("insert into public.events select 10, 2, at + interval '23:59' from public.events"
             " where id = 5")  # fmt: skip
    first, last = TODAY - timedelta(days=7), TODAY - timedelta(days=5)
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "refunds.csv").write_text("id,amount\n1,5\n")
    inbox = {"files__inbox": {"url": str(tmp_path / "inbox"), "min_age_seconds": 0}}
    source = ("--source", "files__inbox", "--source-arguments", json.dumps(inbox))
    log = run(*source, "--from", str(first), "--to", str(last))

    # THEN a microbatch model has the new rows of these days alone
    assert versions("shop.by_day") == dict.fromkeys((1, 2, 6, 7, 8, 9), 1) | dict.fromkeys(
        (3, 4, 5, 10), 2
    )
    # AND views and tables are built whole, an incremental model adds what its own SQL finds new
    assert set(versions("shop.as_view").values()) == {2}
    assert set(versions("shop.as_table").values()) == {2}
    assert versions("shop.by_id") == dict.fromkeys(range(1, 10), 1) | {10: 2}
    # AND a snapshot records the rows of now: its past stays
    assert shop.ask("select version, count(*) from shop.history where dbt_valid_to is null"
                    " group by 1") == [(2, 10)]  # fmt: skip
    assert shop.ask("select count(*) from shop.history where version = 1") == [(9,)]
    # AND a source that knows no days loads as always
    assert "Source files__inbox cannot load single days, and is loaded as always." in log
    assert shop.ask("select amount from raw_files__inbox.refunds") == [(5,)]
    # AND nothing is reused, the seed neither
    assert "seed rates" in log
    assert f"because the run builds {first} to {last} again" in log
    assert "are reused" not in log

    # WHEN the next run comes
    log = run("--skip", "ingest")

    # THEN it builds the microbatch model, whose other days it does not know, and reuses the others
    assert "model by_day" in log
    assert "model as_table" not in log
    header = max((shop.local / "state" / "runs" / "shop").iterdir())
    assert '"from_date":null' in (header / "run.json").read_text()
