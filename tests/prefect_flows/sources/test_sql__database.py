"""Dumping a real Postgres into another database: types, odd tables, cursors, deletes, changes."""

from __future__ import annotations

import datetime as dt
import logging
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pytest
from dlt.common.exceptions import SignalReceivedException
from dlt.common.runtime import signals

from prefect_flows.core.date_window import DateWindow
from prefect_flows.core.errors import ConfigurationError, IngestionError
from prefect_flows.ingest.destinations.target import configure_dlt, postgres_url
from prefect_flows.ingest.source_load import LoadRecord, SourceLoad, ingest
from prefect_flows.sources.sql__database import source
from prefect_flows.sources.sql__database.readers import postgres
from prefect_flows.sources.sql__database.readers.base import Column, IncrementalCursor
from prefect_flows.sources.sql__database.readers.choice import get_reader
from prefect_flows.sources.sql__database.table_config import TableConfig
from tests.support.embedded_postgres import Warehouse, warehouse
from tests.support.ingesting import ended, start_ingesting
from tests.support.ordinary_postgres import ordinary_postgres
from tests.support.project import until

SCHEMA = "raw_sql__database"
MOMENT = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
LAST_MOMENT = dt.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    with warehouse(tmp_path_factory.mktemp("dump")) as target:
        target.query("create database shop")
        yield target


@pytest.fixture
def url(target: Warehouse) -> str:
    address = postgres_url(target.profile).set(database="shop")
    return address.render_as_string(hide_password=False)


@pytest.fixture
def shop(target: Warehouse) -> Iterator[Callable[[str], list]]:
    """The source: an empty schema of another database; and an empty target."""
    output = target.profile.output

    def query(sql: str) -> list:
        with closing(
            psycopg2.connect(
                host=output["host"], port=output["port"], user=output["user"], dbname="shop"
            )
        ) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []

    query("drop schema public cascade; create schema public")
    target.empty("sql__database")
    return query


@pytest.fixture
def dump(target: Warehouse, url: str) -> Callable[..., LoadRecord]:
    return lambda **tables: ingest("sql__database", target.profile, url=url, tables=tables)


@pytest.fixture
def rows(target: Warehouse) -> Callable[..., list]:
    return lambda table, columns="*": target.query(f"select {columns} from {SCHEMA}.{table}")


COLUMNS = {  # declaration → value in SQL, and as it is read in the target
    "bigint primary key": ("1", 1),
    "smallint": ("-32768", -32768),
    "integer": ("2147483647", 2147483647),
    "real": ("1.5", 1.5),
    "double precision": ("2.5e300", 2.5e300),
    "boolean": ("true", True),
    "numeric(38,0)": ("1" * 38, Decimal("1" * 38)),
    "numeric(38,38)": ("0." + "1" * 38, Decimal("0." + "1" * 38)),
    "text": ("'süß \U0001d11e \\n'", "süß \U0001d11e \\n"),
    "varchar(9)": ("''", ""),
    "char(5)": ("'ab'", "ab   "),
    "date": ("'9999-12-31'", dt.date(9999, 12, 31)),
    "time": ("'23:59:59.999999'", dt.time(23, 59, 59, 999999)),
    "timestamp": ("'1970-01-01 00:00:00.000001'", MOMENT.replace(microsecond=1, tzinfo=None)),
    "timestamptz": ("'9999-12-31 23:59:59.999999+00'", LAST_MOMENT),
    "timestamptz(3)": ("'1969-12-31 19:00-05'", MOMENT),
    "json": ("'{\"a\": [1, null]}'", {"a": [1, None]}),
    "jsonb": ("'{\"ü\": 1.50}'", {"ü": 1.5}),
    "integer[]": ("'{1,null,3}'", [1, None, 3]),
    "text[][]": ("'{{a,\"b,c\"},{d,e}}'", [["a", "b,c"], ["d", "e"]]),
    "timetz": ("'12:34:56+02'", "12:34:56+02"),
    "interval": ("'1 day 2 hours'", "1 day 02:00:00"),
    "uuid": ("'00000000-0000-0000-0000-0000000000ff'", "00000000-0000-0000-0000-0000000000ff"),
    "inet": ("'10.0.0.1'", "10.0.0.1/32"),
    "int4range": ("'[1,5)'", "[1,5)"),
    "bit(3)": ("'101'", "101"),
    "mood": ("'ok'", "ok"),
    "positive": ("7", 7),
    "pair": ("row(1, 'x')", {"a": 1, "b": "x"}),
    "oid": ("4294967295", 4294967295),
}  # fmt: skip
# They are why a whole table goes as inserts.
WIDE_NUMBERS = {
    "numeric(50,10)": ("1" * 40 + "." + "2" * 10, Decimal("1" * 40 + "." + "2" * 10)),
    "numeric": ("3." + "1" * 38, Decimal("3." + "1" * 38)),
}


@pytest.mark.parametrize("with_wide_numbers", [False, True], ids=["copied", "as inserts"])
def test_every_type_is_kept(shop, dump, rows, types_of, with_wide_numbers: bool) -> None:
    # GIVEN a column of each type, a row of values at the edges, and a row of nulls
    columns_of = COLUMNS | (WIDE_NUMBERS if with_wide_numbers else {})
    shop("create type mood as enum ('sad', 'ok'); create domain positive as int check (value > 0);"
         "create type pair as (a int, b text)")  # fmt: skip
    columns = ", ".join(f"c{n} {declared}" for n, declared in enumerate(columns_of))
    values = ", ".join(sql for sql, _ in columns_of.values())
    shop(f"create table types ({columns}, raw bytea)")
    shop(f"insert into types values ({values}, '\\x00ff')")
    shop("insert into types values (2)")

    loaded = dump(types=None)

    assert loaded.rows == {"types": 2}
    names = ", ".join(f"c{n}" for n in range(len(columns_of)))
    first, second = sorted(rows("types", f"{names}, encode(raw, 'hex')"))
    assert dict(zip(columns_of, first, strict=False)) == {
        declared: value for declared, (_, value) in columns_of.items()
    }
    assert first[-1] == "00ff"
    assert second == (2, *[None] * len(columns_of))
    # AND the target's own types are as near as the warehouse has them
    kinds = dict(types_of("types"))
    of = {declared: kinds[f"c{n}"] for n, declared in enumerate(columns_of)}
    assert of["timestamp"] == "timestamp without time zone"
    assert of["timestamptz"] == "timestamp with time zone"
    assert {of[declared] for declared in of if declared.startswith("numeric")} == {"numeric"}
    assert of["smallint"] == "smallint"
    json = "jsonb" if with_wide_numbers else "json"
    assert of["integer[]"] == of["jsonb"] == of["pair"] == json


@pytest.fixture
def types_of(target: Warehouse) -> Callable[[str], list]:
    return lambda table: target.query(
        "select column_name, data_type from information_schema.columns where table_name = "
        f"'{table}' and table_schema = '{SCHEMA}' and column_name not like '\\_dlt%'"
    )


def test_wide_empty_and_odd_tables(shop, dump, rows, types_of) -> None:
    wide = [f"c{n}" for n in range(400)]
    shop(f"create table wide ({', '.join(f'{c} int' for c in wide)})")
    shop(f"insert into wide values ({', '.join(map(str, range(400)))})")
    shop("create table empty (id bigint primary key, body jsonb, amount numeric(10,2))")
    shop(
        'create table "Order" ("select" int primary key, "Größe" text, "two  words" text, '
        '"Quote""d" text, "100%" text)'
    )
    shop("""insert into "Order" values (1, 'a', 'b', 'c', 'd')""")

    loaded = dump(wide=None, empty=None, orders={"table": "Order"})

    assert loaded.rows == {"wide": 1, "empty": 0, "orders": 1}
    assert rows("wide", ", ".join(wide)) == [tuple(range(400))]
    assert types_of("empty") == [("id", "bigint"), ("body", "json"), ("amount", "numeric")]
    assert [name for name, _ in types_of("orders")] == [
        "select", "gr_e", "two_words", "quote_d", "_100x",
    ]  # fmt: skip
    # AND rows that come later find the empty table as it is
    shop("""insert into empty values (1, '{"a": 1}', 1.5)""")
    assert dump(empty=None).rows == {"empty": 1}
    assert rows("empty", "id, body, amount") == [(1, {"a": 1}, Decimal("1.50"))]


def test_columns_that_would_have_one_name_are_refused(shop, dump) -> None:
    shop('create table same ("Größe" int, "Gräße" int)')
    with pytest.raises(ConfigurationError) as error:
        dump(same=None)
    assert "columns 'Größe', 'Gräße' would all be called 'gr_e' here" in str(error.value)
    assert "a query can rename columns" in str(error.value)


def test_a_table_that_is_read_whole_is_replaced_under_its_views(shop, dump, rows, target) -> None:
    shop("create table items (id int primary key, name text)")
    shop("insert into items select i, 'n' || i from generate_series(1, 10) i")
    dump(items=None)
    target.query(f"create view {SCHEMA}.seen as select count(*) as n from {SCHEMA}.items")

    shop("delete from items where id > 7; update items set name = 'new' where id = 1")
    again = dump(items=None)

    assert again.rows == {"items": 7}
    assert rows("seen") == [(7,)]
    assert rows("items where id = 1", "name") == [("new",)]


def test_a_load_that_is_tried_again_adds_nothing_twice(shop, target, url, rows) -> None:
    """Its mark was written, and who began it has not heard; or what comes after it failed."""
    shop("create table log as select n from generate_series(1, 5) n")
    arguments = {"url": url, "tables": {"log": {"cursor": "n"}}}
    with configure_dlt(target.profile), \
         SourceLoad("sql__database", target.profile, arguments) as load:  # fmt: skip
        load.extract()
        load.load()
        load.load()
        assert load.record.rows == {"log": 5}
    assert rows("log", "count(*)") == [(5,)]


def test_a_load_that_failed_half_way_goes_on_from_what_was_extracted(
    shop, target, url, rows
) -> None:
    # GIVEN two tables that are added to, one of which ends whoever writes to it, and not before
    # all other files have arrived: what was to begin after it would not
    shop(
        "create table log as select n from generate_series(1, 5) n; create table line as table log"
    )
    arguments = {"url": url, "tables": {"log": {"cursor": "n"}, "line": {"cursor": "n"}}}
    ingest("sql__database", target.profile, **arguments)
    shop("insert into log values (6); insert into line values (6)")
    target.query(
        f"create function {SCHEMA}.restart() returns trigger language plpgsql as $$ begin "
        f"while 3 > (select count(*) from {SCHEMA}._dlt_pipeline_state)"
        f" + (select count(*) from {SCHEMA}.log where n = 6) loop perform pg_sleep(0.05); end loop;"
        "perform pg_terminate_backend(pg_backend_pid()); return new; end $$;"
        f"create trigger restart before insert on {SCHEMA}.line "
        f"for each row execute function {SCHEMA}.restart()"
    )
    with configure_dlt(target.profile), \
         SourceLoad("sql__database", target.profile, arguments) as load:  # fmt: skip
        load.extract()
        with pytest.raises(IngestionError) as error:
            load.load()
        assert error.value.retryable, str(error.value)
        states = f"select count(*) from {SCHEMA}._dlt_pipeline_state"
        assert target.query(states) == [(2,)], "all but one of its files had arrived"
        # WHEN the cause is gone, and the stage is tried again without the source
        target.query(f"drop trigger restart on {SCHEMA}.line")
        shop("drop table log; drop table line")
        load.load()
    # THEN each row is there once
    assert rows("log", "count(*), sum(n)") == rows("line", "count(*), sum(n)") == [(6, 21)]
    assert target.query(states) == [(2,)]


def test_only_wide_numbers_go_as_inserts(shop, dump, target, url) -> None:
    shop("create table narrow (id bigint primary key, amount numeric(38, 2))")
    shop("create table wide (id bigint primary key, amount numeric)")
    shop("insert into narrow values (1, 1); insert into wide values (1, 1)")
    formats = []
    for _ in range(2):
        arguments = {"url": url, "tables": {"narrow": None, "wide": None}}
        with configure_dlt(target.profile), \
             SourceLoad("sql__database", target.profile, arguments) as load:  # fmt: skip
            load.extract()
            jobs = load._extracted.rglob("load/normalized/*/new_jobs/*")
            formats.append({(f.name.split(".")[0], f.name.split(".")[3]) for f in jobs})
            assert load.record.bytes > 0
            load.load()
    for found in formats:
        # The columns of a table that is copied come as a file without rows.
        of_numbers = {job for job in found if not job[0].startswith("_dlt")}
        assert of_numbers == {("narrow", "parquet"), ("narrow", "csv"), ("wide", "insert_values")}


def test_a_cursor_reads_only_what_is_new_and_merges_it(shop, dump, rows) -> None:
    shop("create table events (id int primary key, at timestamptz, body text)")
    shop("insert into events select i, timestamptz '2024-01-01' + i * interval '1 hour', 'a' "
         "from generate_series(1, 100) i")  # fmt: skip
    shop("insert into events values (101, null, 'no time')")
    asked = {"cursor": "at"}
    assert dump(events=asked).rows == {"events": 101}
    # A row with the newest time so far comes late, one is changed, one is older than the cursor.
    shop("insert into events values (102, timestamptz '2024-01-01' + interval '100 hours', 'late')")
    shop("update events set at = '2024-06-01', body = 'changed' where id = 5")
    shop("insert into events values (103, '2020-01-01', 'too old')")

    second = dump(events=asked)

    assert second.rows == {"events": 4}, "ids 100 and 102 (the newest time), 5, and 101 (no time)"
    assert rows("events", "count(*), count(distinct id)") == [(102, 102)]
    assert rows("events where id = 5", "body") == [("changed",)]
    assert rows("events where id = 102", "body") == [("late",)]
    assert dump(events=asked).rows == {"events": 2}, "id 5, which is the newest, and id 101"


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_days_are_read_again_and_the_next_load_goes_on(
    target, shop, url, rows, caplog, kind: str
) -> None:
    # GIVEN rows of ten days, without key of which one table is, and one with a cursor of numbers
    columns = (
        f"select i as id, (timestamp '2024-01-01' + i * interval '1 day')::{kind} as at, 1 as v"
    )
    for table in ("keyed", "keyless", "numbered"):
        shop(f"create table {table} as {columns} from generate_series(0, 9) i")
        shop(f"alter table {table} alter at set not null")
    config = {
        "keyed": {"cursor": "at", "key": ["id"]}, "keyless": {"cursor": "at"},
        "numbered": {"cursor": "id", "key": ["id"]},
    }  # fmt: skip

    def load(**given: Any) -> LoadRecord:
        return ingest("sql__database", target.profile, url=url, tables=config, **given)

    load()
    # WHEN all rows are changed, and three days are read again
    for table in config:
        shop(f"update {table} set v = 2")
    caplog.set_level(logging.INFO)
    again = load(window=DateWindow(dt.date(2024, 1, 3), dt.date(2024, 1, 5)))
    # THEN a table with a key and a cursor of time has these days, the others are read as always
    assert again.rows == {"keyed": 3, "keyless": 0, "numbered": 1}
    assert rows("keyed where v = 2 order by 1", "id") == [(2,), (3,), (4,)]
    assert [r.args for r in caplog.records if "read single days" in r.msg] == [
        ("keyless",), ("numbered",),
    ]  # fmt: skip
    # AND the next load goes on from the newest row
    assert load().rows == {"keyed": 1, "keyless": 0, "numbered": 1}
    assert rows("keyed", "count(*)") == [(10,)]


CURSORS = {  # type → values of two loads, the second one above the first in the type's own order
    "numeric": ("9", "12"),
    "numeric(50,10)": ("9", "12.5"),
    "numeric(5,2)": ("-9", "-8.5"),
    "smallint": ("9", "12"),
    "bigint": ("9", "9223372036854775807"),
    "oid": ("9", "4294967295"),
    "real": ("9.1", "12.1"),
    "double precision": ("-9", "1e300"),
    "date": ("'2024-01-09'", "'2024-01-12'"),
    "timestamp": ("'2024-01-01 09:00:00.000001'", "'2024-01-01 09:00:00.000002'"),
    "timestamptz": ("'2024-01-01 09:00:00+02'", "'2024-01-01 08:00:00+00'"),
    "uuid": ("'0fffffff-ffff-7fff-bfff-ffffffffffff'", "'10000000-0000-7000-8000-000000000000'"),
    "text": ("'B'", "'a'"),
    "varchar(9)": ("'Ü'", "'ü'"),
    "name": ("'B'", "'a'"),
}  # fmt: skip


@pytest.mark.sources
def test_a_cursor_of_any_type_loses_no_row(shop, dump, rows) -> None:
    # Without a key a row that is read again would be there twice; with one, it is merged.
    kinds = {f"t{n}": kind for n, kind in enumerate(CURSORS)}
    kinds |= {"merged_number": "numeric", "merged_text": "text", "merged_moment": "timestamptz"}
    asked = {
        table: {"cursor": "at", "key": ["id"] if table.startswith("merged") else None}
        for table in kinds
    }
    for load in (0, 1):
        for table, kind in kinds.items():
            shop(f"create table if not exists {table} (id int, at {kind})")
            shop(f"insert into {table} values ({load}, {CURSORS[kind][load]})")
        dump(**asked)
    dump(**asked)

    found = {table: sorted(rows(table, "id")) for table in kinds}

    assert found == {table: [(0,), (1,)] for table in kinds}
    assert rows("t0", "max(at)") == [(12,)]


def test_a_cursor_that_was_compared_as_text_before_is_refused() -> None:
    number = Column('"id"::text', arrow=pa.decimal256(76, 38), ordered='"id"')
    for before, columns in (("9", {"id": Column('"id"')}), (Decimal(9), {"id": number})):
        source._check_last_value("t", IncrementalCursor("id", before, is_inclusive=True), columns)
    with pytest.raises(ConfigurationError, match="'id' as text, in which 9 is more than 12"):
        source._check_last_value(
            "t", IncrementalCursor("id", "9", is_inclusive=True), {"id": number}
        )


@pytest.mark.sources
def test_a_cursor_of_texts_in_a_languages_order_loses_no_row(target, shop, rows) -> None:
    # The embedded Postgres knows no language; in the order of most, an `a` comes before a `B`.
    with ordinary_postgres() as source:
        url = source.url("postgres").replace("+asyncpg", "")
        source.query('create table t (id int, at text collate "und-x-icu")')
        for number, value in enumerate(["B", "a", "b"], start=1):
            source.query(f"insert into t values ({number}, '{value}')")
            ingest("sql__database", target.profile, url=url, tables={"t": {"cursor": "at"}})
    assert sorted(rows("t", "id")) == [(1,), (2,), (3,)]


UNORDERED = {
    "boolean": "true", "time": "'12:00'", "timetz": "'12:00+00'", "interval": "'1 day'",
    "char(3)": "'a'", "bytea": "'x'", "jsonb": "'1'", "integer[]": "'{1}'", "inet": "'10.0.0.1'",
    "money": "1", "bit(3)": "'101'", "mood": "'ok'", "pair": "(1, 'x')", "int4range": "'[1,5)'",
}  # fmt: skip


def test_a_cursor_whose_order_is_not_kept_is_refused_by_name(shop, dump) -> None:
    shop("create type mood as enum ('sad', 'ok'); create type pair as (a int, b text)")
    columns = {f"c{n}": kind for n, kind in enumerate(UNORDERED)}
    declared = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    shop(f"create table t (id int primary key, {declared})")
    for name in columns:
        with pytest.raises(ConfigurationError, match=f"the cursor '{name}' is of a type whose"):
            dump(t={"cursor": name})
    shop("create table f (at float8); insert into f values (1), ('nan')")
    with pytest.raises(IngestionError, match=r"column 'at' holds .* a cursor that is NaN"):
        dump(f={"cursor": "at"})


NAMES = ["Updated At", "$at", "a.b", 'say "when"', "back\\slash", "where", "ü", "at:time", "100%"]


def test_a_cursor_of_any_name(shop, dump, rows) -> None:
    asked = {f"t{n}": {"cursor": name} for n, name in enumerate(NAMES)}
    for table, name in zip(asked, NAMES, strict=True):
        quoted = '"' + name.replace('"', '""') + '"'
        shop(f"create table {table} (id int primary key, {quoted} int)")
        shop(f"insert into {table} values (1, 9)")
    dump(**asked)
    for table in asked:
        shop(f"insert into {table} values (2, 12), (3, 8)")
    assert dump(**asked).rows == dict.fromkeys(asked, 2)
    assert {table: sorted(rows(table, "id")) for table in asked} == {
        table: [(1,), (2,)] for table in asked
    }


def test_a_query_is_sent_as_it_is_written(shop, dump, rows) -> None:
    shop("create table flags (id int, updated_at timestamp, body jsonb)")
    shop("insert into flags values (1, '2024-01-01', '{\"active\":true}')")
    query = (
        "select id, updated_at, 'at :noon' as note, '100%s' as share, '\\:x' as slash, "
        "updated_at::date as day from flags where body @> '{\"active\":true}' -- no; end"
    )
    asked = {"query": query, "cursor": "updated_at", "key": ["id"]}
    dump(x=asked)
    dump(x=asked)
    assert rows("x", "note, share, slash, day") == [
        ("at :noon", "100%s", "\\:x", dt.date(2024, 1, 1))
    ]
    assert dump(whole=asked | {"cursor": None}).rows == {"whole": 1}


def test_a_lag_reads_what_was_committed_late(shop, dump, rows) -> None:
    shop("create table late (id int primary key, at timestamptz)")
    shop("insert into late values (1, '2024-01-01 12:00+00')")
    asked = {"cursor": "at", "lag_seconds": 3600}
    dump(late=asked)
    shop("insert into late values (2, '2024-01-01 11:30+00'), (3, '2024-01-01 10:00+00')")

    dump(late=asked)

    assert sorted(rows("late", "id")) == [(1,), (2,)]


def test_without_a_key_rows_are_added_once(shop, dump, rows) -> None:
    shop("create table log (n bigserial, line text)")
    shop("insert into log (line) select 'x' from generate_series(1, 50)")
    assert dump(log={"cursor": "n"}).rows == {"log": 50}
    assert dump(log={"cursor": "n"}).rows == {"log": 0}
    shop("insert into log (line) values ('y')")
    assert dump(log={"cursor": "n"}).rows == {"log": 1}
    assert rows("log", "count(*), count(distinct n)") == [(51, 51)]


def test_deletes_are_seen_on_request(shop, dump, rows) -> None:
    shop('create table pairs (a int, "B b" text, at int, primary key (a, "B b"))')
    shop("insert into pairs select i, 'k' || i, i from generate_series(1, 1000) i")
    asked = {"cursor": "at", "deletes": True}
    dump(pairs=asked)
    shop("delete from pairs where a % 10 = 0; insert into pairs values (2000, 'new', 2000)")

    second = dump(pairs=asked)

    assert second.removed["pairs"] == 100
    assert rows("pairs", "count(*)") == [(901,)]
    assert rows("pairs where a % 10 = 0 and a < 2000", "count(*)") == [(0,)]
    # A load that does not ask for it knows no keys, and takes nothing away.
    shop("insert into pairs values (3000, 'newer', 3000)")
    assert dump(pairs={"cursor": "at"}).removed == {}
    assert rows("pairs where a = 3000", "count(*)") == [(1,)]
    with pytest.raises(ConfigurationError, match="`deletes` and `lag_seconds` need a key"):
        dump(pairs={"query": "select * from pairs", "cursor": "at", "deletes": True})


def test_a_query_is_dumped_like_a_table(shop, dump, rows) -> None:
    shop("create table sales (day date, amount numeric(10,2))")
    shop("insert into sales select '2024-01-01', 1.25 from generate_series(1, 4)")
    asked = {"query": "select day, sum(amount) as total from sales group by day;", "key": ["day"]}
    assert dump(daily=asked).rows == {"daily": 1}
    assert rows("daily", "day, total") == [(dt.date(2024, 1, 1), Decimal(5))]


def test_a_changed_schema_is_handled_by_the_contract(shop, dump, rows, types_of) -> None:
    shop("create table people (id int primary key, name text, age int)")
    shop("insert into people values (1, 'a', 30)")
    dump(people=None)
    # A new column
    shop("alter table people add column city text; update people set city = 'Rio'")
    with pytest.raises(IngestionError) as error:
        dump(people={"columns": "freeze"})
    assert "violates the schema contract of table 'people': column 'city' is new" in str(
        error.value
    )
    assert not error.value.retryable
    assert dump(people={"columns": "discard_value"}).schema_changes == []
    assert "city" not in dict(types_of("people"))
    assert dump(people=None).schema_changes == ["new column people.city (text)"]
    assert rows("people", "id, name, age, city") == [(1, "a", 30, "Rio")]
    # A column that is gone keeps its place
    shop("alter table people drop column age")
    dump(people=None)
    assert rows("people", "id, name, age, city") == [(1, "a", None, "Rio")]
    # A column of another type
    shop("alter table people alter column name type bytea using name::bytea")
    with pytest.raises(IngestionError) as error:
        dump(people=None)
    assert "column 'name' is of a different type" in str(error.value)
    assert rows("people", "id, name, age, city") == [(1, "a", None, "Rio")]


@pytest.mark.parametrize("asked", [None, {"cursor": "id", "key": ["id"]}], ids=["whole", "cursor"])
@pytest.mark.parametrize(
    ("was", "becomes", "value"),
    [("numeric(10,2)", "numeric(12,4)", "1.2345"), ("int", "bigint", 2**40)],
)
def test_a_type_that_grew_is_refused_and_no_number_rounded(
    shop, dump, rows, was: str, becomes: str, value: object, asked: object
) -> None:
    shop(f"create table grown (id int primary key, v {was})")
    shop("insert into grown values (1, 7)")
    dump(grown=asked)
    shop(f"alter table grown alter column v type {becomes}")
    shop(f"insert into grown values (2, {value})")
    with pytest.raises(IngestionError, match="column 'v' is of a different type"):
        dump(grown=asked)
    assert rows("grown", "id, v") == [(1, 7)]


# As it comes out of a warehouse that has it.
ODD_VALUES = [
    ("timestamptz", "infinity", "after 9999, or infinity"),
    ("date", "0044-03-15 BC", "a moment before the year 1"),
    ("numeric(10,2)", "NaN", "not a valid decimal128 number"),
    ("numeric", "1e-50", "would cause data loss"),
]


@pytest.mark.parametrize(("declared", "value", "message"), ODD_VALUES)
def test_a_value_that_cannot_be_kept_is_refused_by_name(
    shop, dump, rows, declared: str, value: str, message: str
) -> None:
    # GIVEN a table that is read through Arrow, since its rows are looked into
    odd = {"cursor": "id"}
    shop(f"create table odd (id int primary key, v {declared}); insert into odd values (1, null)")
    dump(odd=odd)
    shop(f"insert into odd values (2, '{value}')")
    with pytest.raises(IngestionError) as error:
        dump(odd=odd)
    assert "Table 'odd': column 'v' holds a value that cannot be kept" in str(error.value)
    assert message in str(error.value)
    assert "give tables.odd a query" in str(error.value)
    assert not error.value.retryable
    assert rows("odd", "id") == [(1,)]


@pytest.mark.parametrize(("declared", "value", "_"), ODD_VALUES[:-1])
def test_a_value_that_only_postgres_holds_is_kept_there(
    shop, dump, rows, declared: str, value: str, _: str
) -> None:
    shop(f"create table odd (id int primary key, v {declared}); "
         f"insert into odd values (1, '{value}')")  # fmt: skip
    dump(odd=None)
    assert rows("odd", "id, v::text") == [(1, value)]


def test_a_large_table_is_read_in_parts_and_each_row_once(
    shop, dump, rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a table of many pages, a smaller one that inherits from it, a view, and an empty one
    shop("create table large (id bigint, note text); create table more () inherits (large); "
         "create table none_yet (id int); create view seen as select * from large")  # fmt: skip
    shop("insert into large select i, repeat('x', 100) from generate_series(1, 20000) i")
    shop("insert into more select -i, 'y' from generate_series(1, 500) i")
    monkeypatch.setattr(postgres, "MIN_PAGES_TO_SPLIT", 0)
    copied = []
    copy = postgres.PostgresReader.copy
    monkeypatch.setattr(
        postgres.PostgresReader,
        "copy",
        lambda *given: copied.append(copy(*given)) or copied[-1],
    )
    # WHEN they are read, twice
    for _ in range(2):
        loaded = dump(large=None, seen=None, none_yet=None)
        # THEN each row is there once
        assert loaded.rows == {"large": 20_500, "seen": 20_500, "none_yet": 0}
        for table in ("large", "seen"):
            found = rows(table, "count(*), count(distinct id), sum(id)")
            assert found == [(20_500, 20_500, 200_010_000 - 125_250)]
    # AND only a table of its own was read in parts, of which each had rows
    counts = [[number for _, number in files] for files in copied]
    assert [len(numbers) for numbers in counts] == [2, 1, 2] * 2
    assert all(counts[0])


def test_a_copy_ends_when_dlt_is_signalled_to_stop(shop, url, tmp_path: Path) -> None:
    generated(shop, 100_000)
    reader = get_reader(url, None, 1)
    signals.set_received_signal(signal.SIGINT)
    try:
        with pytest.raises(SignalReceivedException):
            reader.copy("sales", TableConfig(), ["id", "note"], tmp_path)
    finally:
        signals.set_received_signal(0)


def test_what_cannot_be_read_says_why_and_hides_the_password(shop, dump, target, url) -> None:
    with pytest.raises(IngestionError, match='relation "nowhere" does not exist'):
        dump(nowhere=None)
    shop("create table t (id int)")
    with pytest.raises(ConfigurationError, match="there is no column 'at'; there are id"):
        dump(t={"cursor": "at"})
    with pytest.raises(ConfigurationError, match="its table name would be 't_t'"):
        dump(**{"T t": {"table": "t"}})
    away = "postgresql://reader:s3cret-word@127.0.0.1:1/shop"
    with pytest.raises(IngestionError) as error:
        ingest("sql__database", target.profile, url=away, tables={"t": None})
    assert error.value.retryable
    assert "127.0.0.1:1/shop" in str(error.value)
    assert "s3cret-word" not in str(error.value)
    with pytest.raises(ConfigurationError) as wrong:
        ingest("sql__database", target.profile, url="s3cret-word", tables={"t": None})
    assert "is not a SQLAlchemy URL" in str(wrong.value)
    assert "s3cret-word" not in str(wrong.value)


def test_another_database_is_read_through_sqlalchemy(
    target: Warehouse, tmp_path: Path, shop: Any, rows: Callable[..., list]
) -> None:
    file = tmp_path / "shop.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(
            "create table sales (id integer primary key, at timestamp, amount numeric(12, 2), "
            '"Order by" text)'
        )
        connection.executemany(
            "insert into sales values (?, ?, ?, ?)",
            [(n, f"2024-01-01 00:{n % 60:02}:00.000000", n / 4, f"ü{n}") for n in range(1, 2501)],
        )
        connection.execute("create table none (id integer primary key, body text)")
        connection.commit()

    def dump(**tables: Any) -> LoadRecord:
        return ingest(
            "sql__database", target.profile, url=f"sqlite:///{file}", tables=tables,
            rows_at_once=1000,
        )  # fmt: skip

    loaded = dump(sales={"cursor": "id"}, none=None)
    assert loaded.rows == {"sales": 2500, "none": 0}
    assert rows("sales", "count(*), sum(amount), min(order_by)") == [
        (2500, Decimal(sum(range(1, 2501))) / 4, "ü1")
    ]
    assert dump(sales={"cursor": "id"}).rows == {"sales": 1}
    assert rows("sales", "count(*)") == [(2500,)]
    assert dump(big={"query": "select id, amount from sales where id > 2400"}).rows == {"big": 100}
    noon = {
        "query": "select id, 'at :noon %s' as note, '2024' as y from sales -- end",
        "cursor": "id",
    }
    assert dump(noon=noon | {"key": ["id"]}).rows == {"noon": 2500}
    assert dump(noon=noon | {"key": ["id"]}).rows == {"noon": 1}
    assert rows("noon", "distinct note") == [("at :noon %s",)]
    no_time = {"query": "select id, null as at from sales", "cursor": "at", "key": ["id"]}
    assert dump(no_time=no_time).rows == {"no_time": 2500}


@pytest.mark.sources
def test_another_databases_cursors_lose_no_row(
    target: Warehouse, tmp_path: Path, shop: Any, rows: Callable[..., list]
) -> None:
    file = tmp_path / "shop.db"
    cursors = {
        "numeric(12, 2)": (9, 12), "text collate nocase": ("B", "a"), "double": (9.5, 12.5),
        "date": ("2024-01-09", "2024-01-12"), "bigint": (9, 12),
    }  # fmt: skip
    tables = {f"t{n}": kind for n, kind in enumerate(cursors)}

    def add(number: int) -> None:
        with closing(sqlite3.connect(file)) as connection:
            for table, kind in tables.items():
                connection.execute(f"create table if not exists {table} (id integer, at {kind})")
                value = cursors[kind][number - 1]
                connection.execute(f"insert into {table} values (?, ?)", [number, value])
            connection.commit()

    def dump() -> None:
        asked = {t: {"cursor": "at"} for t in tables}
        asked |= {f"q{t}": {"query": f"select * from {t}", "cursor": "at"} for t in tables}
        ingest("sql__database", target.profile, url=f"sqlite:///{file}", tables=asked)

    for number in (1, 2):
        add(number)
        dump()
    dump()

    found = {t: sorted(rows(t, "id")) for table in tables for t in (table, f"q{table}")}
    assert found == {t: [(1,), (2,)] for t in found}


def test_days_of_another_database_are_read_again(
    target: Warehouse, tmp_path: Path, shop: Any, rows: Callable[..., list]
) -> None:
    file = tmp_path / "shop.db"
    with closing(sqlite3.connect(file)) as connection:
        for kind in ("date", "timestamp"):
            connection.execute(f"create table of_{kind} (id integer primary key, at {kind}, v int)")
            time = "" if kind == "date" else " 00:00:00"
            moments = [(n, f"2024-01-0{n}{time}") for n in range(1, 8)]
            connection.executemany(f"insert into of_{kind} values (?, ?, 1)", moments)
        connection.commit()
        tables = {"of_date": {"cursor": "at"}, "of_timestamp": {"cursor": "at"}}
        source = {"url": f"sqlite:///{file}", "tables": tables}
        ingest("sql__database", target.profile, **source)
        for table in tables:
            connection.execute(f"update {table} set v = 2")
        connection.commit()
        days = DateWindow(dt.date(2024, 1, 3), dt.date(2024, 1, 5))
        ingest("sql__database", target.profile, **source, window=days)
    for table in tables:
        assert rows(f"{table} where v = 2 order by 1", "id") == [(3,), (4,), (5,)]


def generated(shop: Callable[[str], list], rows: int) -> None:
    shop(
        "create unlogged table sales as select i as id, md5(i::text) as code, i % 1000 as shop, "
        "(i % 10000 / 100.0)::numeric(12,2) as amount, timestamptz '2024-01-01' + i * "
        f"interval '1 second' as at, 'a line of text' as note from generate_series(1, {rows}) i"
    )
    shop("alter table sales add primary key (id)")


@pytest.mark.nightly
@pytest.mark.kills
def test_memory_is_flat_at_five_million_rows(shop, target, url, rows) -> None:
    generated(shop, 5_000_000)
    process = start_ingesting("sql__database", target.profile, url=url, tables={"sales": None})
    record = ended(process)
    assert record["rows"] == {"sales": 5_000_000}
    assert record["memory"] < 500e6, f"{record['memory'] / 1e6:.0f} MB resident"
    assert rows("sales", "count(*), sum(id), sum(amount)") == [
        tuple(shop("select count(*), sum(id), sum(amount) from sales")[0])
    ]


@contextmanager
def unmarked(target: Warehouse) -> Iterator[None]:
    """Loads can be read, and none can be marked as complete."""
    with closing(target.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"begin; lock table {SCHEMA}._dlt_loads in share row exclusive mode")
        yield


def until_it_waits(target: Warehouse) -> None:
    waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock'"
    until(lambda: target.query(waiting))


@pytest.mark.kills
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(None, marks=pytest.mark.nightly),
        {"cursor": "at"},
        pytest.param({"cursor": "at", "key": None}, marks=pytest.mark.nightly),
    ],
)
def test_killed_anywhere_the_next_load_has_every_row_once(
    shop, target, url, rows, asked: dict[str, Any] | None
) -> None:
    # GIVEN a table that is replaced, merged, or only added to
    generated(shop, 300_000)
    if asked and "key" in asked:
        shop("alter table sales drop constraint sales_pkey")
    tables = {"sales": {"cursor": "at"} if asked else None}
    whole = [(300_000, 300_000, 45_000_150_000)]
    sums = "count(*), count(distinct id), sum(id)"
    # WHEN the first load is killed between its rows and their mark
    ingest("sql__database", target.profile, url=url, tables={"s": {"query": "select 1 as one"}})
    with unmarked(target):
        process = start_ingesting("sql__database", target.profile, url=url, tables=tables)
        until_it_waits(target)
        process.kill()
        process.communicate()
    assert rows("sales", sums) == whole, "the rows are there, and nothing says so"
    # AND others at three more moments
    for seconds in (2.5, 3.5, 4.0):
        process = start_ingesting("sql__database", target.profile, url=url, tables=tables)
        time.sleep(seconds)
        process.kill()
        process.communicate()
    # THEN the next one leaves each row once
    ingest("sql__database", target.profile, url=url, tables=tables)
    assert rows("sales", sums) == whole
