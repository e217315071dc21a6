"""What the emulator is patched for, value by value; and that nothing reaches the real service."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from google.api_core.exceptions import BadRequest, Conflict, NotFound, PreconditionFailed
from google.cloud.bigquery import Client, CopyJobConfig, LoadJobConfig, QueryJobConfig, Table
from pyarrow import parquet

from tests.support.bigquery.emulator import BigQuery
from tests.support.project import PATIENCE


@pytest.fixture(scope="module")
def client(bigquery: BigQuery) -> Iterator[Client]:
    client = bigquery.client()
    client.create_dataset("values_of_types")
    yield client
    client.delete_dataset("values_of_types", delete_contents=True)
    client.close()


def run(client: Client, sql: str) -> None:
    client.query(sql).result()


def local(*parts: int) -> dt.datetime:
    """A reading of a clock somewhere, in no zone."""
    return dt.datetime(*parts)  # type: ignore[arg-type, misc] # noqa: DTZ001


def rows(client: Client, sql: str) -> list[tuple[Any, ...]]:
    return [row.values() for row in client.query(sql).result()]


def test_a_time_zone_may_be_a_column(client: Client) -> None:
    """Both directions, in winter, in summer, and in the hour that clocks show twice."""
    sql = """
    select datetime(instant, zone), timestamp(reading, zone)
    from (
        select timestamp '2013-01-01 05:00:00+00' as instant, 'America/New_York' as zone,
            datetime '2013-07-01 10:00:00' as reading
        union all
        select timestamp '2013-11-03 06:30:00+00', 'America/New_York',
            datetime '2013-11-03 02:30:00'
        union all
        select timestamp '2013-07-01 00:00:00+00', 'Asia/Kathmandu', datetime '2013-07-01 00:00:00'
    )
    order by instant, zone
    """
    assert rows(client, sql) == [
        (local(2013, 1, 1), dt.datetime(2013, 7, 1, 14, tzinfo=dt.UTC)),
        (local(2013, 7, 1, 5, 45), dt.datetime(2013, 6, 30, 18, 15, tzinfo=dt.UTC)),
        (local(2013, 11, 3, 1, 30), dt.datetime(2013, 11, 3, 7, 30, tzinfo=dt.UTC)),
    ]


def test_an_instant_is_formatted_in_utc(client: Client) -> None:
    sql = "select format_timestamp('%Y-%m-%dT%H', timestamp '2013-11-03 01:59:00-05', 'UTC')"
    assert rows(client, sql) == [("2013-11-03T06",)]


def test_a_numeric_has_nine_digits_behind_the_point(client: Client) -> None:
    large = Decimal("12345678901234567890.123456789")
    assert rows(client, f"select cast('{large}' as numeric), numeric '0.1' * 3") == [
        (large, Decimal("0.3"))
    ]
    run(client, "create table values_of_types.prices (price numeric)")
    run(client, f"insert into values_of_types.prices values (numeric '{large}')")
    assert rows(client, "select sum(price) from values_of_types.prices") == [(large,)]


def test_a_table_with_declared_columns_is_made_of_a_query(client: Client) -> None:
    """As dbt makes a model under contract. What does not fit its declared type is refused."""
    run(
        client,
        "create table values_of_types.declared (id int64, price numeric) as "
        "(select id, price from (select '7' as id, 1.25 as price))",
    )
    table = client.get_table("values_of_types.declared")
    assert [(field.name, field.field_type) for field in table.schema] == [
        ("id", "INTEGER"),
        ("price", "NUMERIC"),
    ]
    assert rows(client, "select * from values_of_types.declared") == [(7, Decimal("1.25"))]
    with pytest.raises(BadRequest):
        run(client, "create table values_of_types.refused (id int64) as (select 'seven' as id)")


def test_a_script_replaces_the_partitions_that_it_gathered(client: Client) -> None:
    """As dbt's `insert_overwrite` does: days that come are replaced, others stay."""
    run(client, "create table values_of_types.days (day date, amount int64)")
    run(
        client,
        "insert into values_of_types.days values "
        "(date '2024-01-01', 1), (date '2024-01-02', 2), (date '2024-01-02', 3), (null, 4)",
    )
    run(
        client,
        """
        declare replaced array<date>;
        set (replaced) = (
            select as struct array_agg(distinct day ignore nulls)
            from unnest([date '2024-01-02', date '2024-01-02', date '2024-01-03', null]) as day
        );
        merge into values_of_types.days as old
        using (select date '2024-01-02' as day, 20 as amount) as new
        on false
        when not matched by source and old.day in unnest(replaced) then delete
        when not matched then insert (day, amount) values (day, amount)
        """,
    )
    assert rows(client, "select day, amount from values_of_types.days order by amount") == [
        (dt.date(2024, 1, 1), 1),
        (None, 4),
        (dt.date(2024, 1, 2), 20),
    ]


def test_partitions_are_replaced_as_by_a_microbatch(client: Client) -> None:
    """The script that dbt sends: partitions of the new rows go, and those of others stay."""
    run(client, "create table values_of_types.hours (day timestamp, id int64)")
    run(
        client,
        "insert into values_of_types.hours values "
        "(timestamp '2026-01-01', 1), (timestamp '2026-01-02', 2), (timestamp '2026-01-02', 3)",
    )
    run(
        client,
        """
        declare replaced array<timestamp>;
        create or replace table values_of_types.new_days as (
            select timestamp '2026-01-02 05:00:00' as day, 4 as id
            union all select timestamp '2026-01-02 06:00:00', 5
            union all select null, 6
        );
        set (replaced) = (
            select as struct array_agg(distinct timestamp_trunc(day, day) ignore nulls)
            from values_of_types.new_days
        );
        merge into values_of_types.hours as old
        using (select * from values_of_types.new_days) as new
        on false
        when not matched by source and timestamp_trunc(old.day, day) in unnest(replaced)
            then delete
        when not matched then insert (day, id) values (day, id);
        drop table if exists values_of_types.new_days
        """,
    )
    left = rows(client, "select id from values_of_types.hours order by id")
    assert left == [(1,), (4,), (5,), (6,)]


def test_loads_of_gzipped_json_and_of_parquet_in_another_order(client: Client) -> None:
    run(client, "create table values_of_types.loaded (id int64, name string)")
    zipped = io.BytesIO(gzip.compress(b'{"id": 1, "name": "Ada"}\n{"id": 2, "name": null}\n'))
    table = pa.table({"name": ["Grace"], "id": [3]})
    columnar = io.BytesIO()
    parquet.write_table(table, columnar)
    columnar.seek(0)
    for file, kind in ((zipped, "NEWLINE_DELIMITED_JSON"), (columnar, "PARQUET")):
        job = client.load_table_from_file(
            file, "values_of_types.loaded", job_config=LoadJobConfig(source_format=kind)
        )
        job.result()
    sql = "select id, name from values_of_types.loaded order by id"
    assert rows(client, sql) == [(1, "Ada"), (2, None), (3, "Grace")]


def test_a_table_knows_its_layout_and_a_view_its_statement(client: Client) -> None:
    run(
        client,
        "create table values_of_types.laid_out partition by timestamp_trunc(at, hour) "
        "cluster by a, b as (select timestamp '2026-01-01' as at, 1 as a, 2 as b)",
    )
    run(client, "create view values_of_types.seen as select a from values_of_types.laid_out")
    table = client.get_table("values_of_types.laid_out")
    assert (table.time_partitioning.field, table.time_partitioning.type_) == ("at", "HOUR")
    assert table.clustering_fields == ["a", "b"]
    view = client.get_table("values_of_types.seen")
    assert view.view_query == "SELECT a FROM values_of_types.laid_out"


def test_a_job_runs_once_however_often_it_is_sent(client: Client) -> None:
    run(client, "create table values_of_types.sent (id int64)")
    sql = "insert into values_of_types.sent values (1)"
    client.query(sql, job_id="sent-twice", job_retry=None).result()
    with pytest.raises(Conflict, match="Already Exists: Job"):
        client.query(sql, job_id="sent-twice", job_retry=None)
    assert rows(client, "select id from values_of_types.sent") == [(1,)]


def test_a_dataset_is_not_changed_from_an_old_state_of_it(client: Client) -> None:
    client.create_dataset("changed_twice", exists_ok=True)
    first, second = (client.get_dataset("changed_twice") for _ in range(2))
    first.labels = {"by": "first"}
    client.update_dataset(first, ["labels"])
    second.labels = {"by": "second"}
    with pytest.raises(PreconditionFailed) as stale:
        client.update_dataset(second, ["labels"])
    assert stale.value.errors[0]["reason"] == "conditionNotMet"
    assert client.get_dataset("changed_twice").labels == {"by": "first"}


def test_a_dry_run_has_a_price_and_reads_nothing(client: Client) -> None:
    run(client, "create or replace table values_of_types.priced as select 1 as id")
    sql = "select count(*) from values_of_types.priced as a cross join values_of_types.priced as b"
    job = client.query(sql, job_config=QueryJobConfig(dry_run=True))
    assert job.total_bytes_processed == 2_000_000


def test_errors_carry_the_words_of_google(client: Client) -> None:
    """Causes are told apart by them, so the emulator has to use the service's own."""
    with pytest.raises(NotFound) as missing:
        run(client, "select * from values_of_types.missing")
    with pytest.raises(BadRequest) as misspelled:
        run(client, "selekt 1")
    assert [error.value.errors[0]["reason"] for error in (missing, misspelled)] == [
        "notFound",
        "invalidQuery",
    ]


def test_a_client_of_the_real_service_is_refused_and_seen(bigquery: BigQuery) -> None:
    """The guard itself: a client that nobody points at the emulator does not get out."""
    # What it clears at the end is its own.
    assert not bigquery.google.refused
    code = (
        "from google.cloud.bigquery import Client\n"
        "Client('millrace-test').query('select 1', retry=None, job_retry=None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=bigquery.environment | {"PATH": "", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert "Nobody stands in for this host" in done.stderr or "403" in done.stderr, done.stderr
    assert bigquery.google.refused
    assert set(bigquery.google.refused) == {"bigquery.googleapis.com"}
    bigquery.google.refused.clear()


def copy(client: Client, source: str, target: str, job_id: str | None = None) -> None:
    config = CopyJobConfig(write_disposition="WRITE_TRUNCATE")
    names = (f"{client.project}.values_of_types.{name}" for name in (source, target))
    client.copy_table(*names, job_id=job_id, location="US", job_config=config).result()


def test_a_copy_job_replaces_rows_and_columns_once_and_keeps_the_description(
    client: Client,
) -> None:
    run(client, "create table values_of_types.copied (id int64)")
    table = Table(f"{client.project}.values_of_types.copied")
    table.description, table.labels = "Described.", {"kept": "yes"}
    client.update_table(table, ["description", "labels"])
    run(client, "create table values_of_types.newer as select 1 as id, 'a' as name")
    copy(client, "newer", "copied", "copy-once")
    assert rows(client, "select id, name from values_of_types.copied") == [(1, "a")]
    found = client.get_table("values_of_types.copied")
    assert [field.name for field in found.schema] == ["id", "name"]
    assert (found.description, found.labels) == ("Described.", {"kept": "yes"})
    run(client, "insert into values_of_types.newer values (2, 'b')")
    with pytest.raises(Conflict):
        copy(client, "newer", "copied", "copy-once")
    assert rows(client, "select id from values_of_types.copied") == [(1,)]


def test_a_copy_job_writes_no_view_and_no_table_with_other_partitions(client: Client) -> None:
    run(client, "create table values_of_types.by_day (day date) partition by day")
    run(client, "create table values_of_types.flat as select date '2024-01-01' as day")
    run(client, "create view values_of_types.shown as select 1 as id")
    for target in ("by_day", "shown"):
        with pytest.raises(BadRequest):
            copy(client, "flat", target)
    client.delete_table(f"{client.project}.values_of_types.shown")
    copy(client, "flat", "shown")
    assert client.get_table("values_of_types.shown").table_type == "TABLE"


def test_clones_are_three_deep_at_most(client: Client) -> None:
    run(client, "create table values_of_types.clone_0 as select 1 as id")
    for depth in range(3):
        names = f"values_of_types.clone_{depth + 1} clone values_of_types.clone_{depth}"
        run(client, f"drop table if exists {names.split(maxsplit=1)[0]}; create table {names};")
    assert rows(client, "select id from values_of_types.clone_3") == [(1,)]
    with pytest.raises(BadRequest):
        run(client, "create table values_of_types.clone_4 clone values_of_types.clone_3")


def test_a_table_tells_when_its_rows_were_changed(client: Client) -> None:
    run(client, "create table values_of_types.changed as select 1 as id")
    before = client.get_table("values_of_types.changed").modified
    run(client, "delete from values_of_types.changed where id = 1")
    after = client.get_table("values_of_types.changed").modified
    assert before is not None
    assert after is not None
    assert after > before


def test_json_is_loaded_in_one_request(client: Client) -> None:
    """As `load_table_from_json` uploads it: an instant, and a value that is not there."""
    instant = dt.datetime(2024, 1, 2, 3, 4, 5, 678_000, tzinfo=dt.UTC)
    run(client, "create table values_of_types.loaded_json (id int64, at_time timestamp)")
    target = client.get_table("values_of_types.loaded_json")
    lines = [{"id": 1, "at_time": instant.isoformat()}, {"id": 2}]
    config = LoadJobConfig(schema=target.schema, write_disposition="WRITE_TRUNCATE")
    client.load_table_from_json(lines, target, job_config=config).result()
    assert [row.values() for row in client.list_rows(target)] == [(1, instant), (2, None)]
