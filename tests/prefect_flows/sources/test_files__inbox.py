"""Files into a real Postgres: typed, new ones only, replaced where they change, or refused."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefect_flows.core.errors import ConfigurationError, IngestionError
from prefect_flows.ingest.rejected_rows import Rejection
from prefect_flows.ingest.source_load import LoadRecord, ingest

SCHEMA = "raw_files__inbox"
Load = Callable[..., LoadRecord]


@pytest.fixture
def load(database, inbox: Path) -> Load:
    def run(**arguments: Any) -> LoadRecord:
        given = {"url": str(inbox), "min_age_seconds": 0} | arguments
        return ingest("files__inbox", database.profile, **given)

    return run


def put(inbox: Path, name: str, content: str | bytes) -> Path:
    file = inbox / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def rows(database, table: str, columns: str = "*") -> list[tuple]:
    return database.query(f'select {columns} from {SCHEMA}."{table}" order by _file, _row')


def ledger(database, columns: str = "file, status, row_count, line_number, reason") -> list[tuple]:
    return database.query(f"select {columns} from {SCHEMA}._files order by _dlt_load_id, file")


def types(database, table: str) -> dict[str, str]:
    columns = database.query(
        "select column_name, data_type from information_schema.columns"
        " where table_schema = %s and table_name = %s and column_name not like '\\_%%'"
        " order by ordinal_position",
        *(SCHEMA, table),
    )
    return dict(columns)


def local(text: str) -> dt.datetime:
    """A time without a zone."""
    return dt.datetime.fromisoformat(text)


def test_new_files_are_loaded_once_by_folder_or_by_name(database, inbox, load) -> None:
    put(inbox, "orders/1.csv", "id,name\n1,a\n2,b\n")
    put(inbox, "things.jsonl", '{"id": 1}\n')

    assert load().rows == {"orders": 2, "things": 1, "_files": 2}
    assert load().rows == {"orders": 0, "things": 0, "_files": 0}
    put(inbox, "orders/2024/2.csv.gz", gzip.compress(b"id,name\n3,c\n"))
    assert load().rows == {"orders": 1, "things": 0, "_files": 1}

    assert rows(database, "orders", "id, name, _file, _row") == [
        (1, "a", "orders/1.csv", 1),
        (2, "b", "orders/1.csv", 2),
        (3, "c", "orders/2024/2.csv.gz", 1),
    ]
    assert ledger(database, "table_name, file, status, row_count") == [
        ("orders", "orders/1.csv", "loaded", 2),
        ("things", "things.jsonl", "loaded", 1),
        ("orders", "orders/2024/2.csv.gz", "loaded", 1),
    ]
    loads = database.query(f"select status from {SCHEMA}._dlt_loads")
    assert loads == [(0,)] * 3, "freshness reads the loads, also those without a new row"


def test_an_inbox_without_a_file_has_a_ledger(database, inbox, load) -> None:
    assert load().rows == {"_files": 0}
    assert load(tables={"t": "*.csv"}).rows == {"t": 0, "_files": 0}
    assert ledger(database) == []
    put(inbox, "header.csv", "id\n")
    pq.write_table(pa.table({"id": pa.array([], pa.int64())}), inbox / "none.parquet")
    assert load().rows == {"header": 0, "none": 0, "_files": 2}
    assert ledger(database, "file, status, row_count") == [
        ("header.csv", "loaded", 0), ("none.parquet", "loaded", 0),
    ]  # fmt: skip


def test_patterns_say_which_files_are_a_table_s(database, inbox, load) -> None:
    put(inbox, "in/a-orders.csv", "id\n1\n")
    put(inbox, "in/deep/b-orders.csv", "id\n2\n")
    put(inbox, "in/events.csv", "id\n3\n")
    put(inbox, "in/.hidden.csv", "id\n4\n")
    put(inbox, "in/_temporary/c-orders.csv", "id\n5\n")
    tables = {"orders": "**/*-orders.csv", "shallow": "in/*-orders.csv", "none": "other/*"}

    assert load(tables=tables).rows == {"orders": 2, "shallow": 1, "none": 0, "_files": 3}
    assert load(tables=tables).rows == {"orders": 0, "shallow": 0, "none": 0, "_files": 0}


def test_types_are_found_in_all_rows_of_the_first_file(database, inbox, load) -> None:
    late = "".join(f"{n},{n},{n},,x,2024-01-01,1\n" for n in range(200_000))
    put(
        inbox,
        "t.csv",
        "whole,fraction,large,empty,text,day,flag\n"
        + late
        + "1,0.5,99999999999999999999,,y,2024-01-02,0\n",
    )
    load()
    assert types(database, "t") == {
        "whole": "bigint", "fraction": "double precision", "large": "numeric",
        "text": "character varying", "day": "date", "flag": "bigint",
    }  # fmt: skip
    assert database.query(f"select max(large), sum(fraction) from {SCHEMA}.t") == [
        (Decimal(99999999999999999999), 19999900000.5)
    ]


def test_csv_in_its_odder_forms(database, inbox, load) -> None:
    put(
        inbox,
        "odd.csv",
        "\ufeffOrder ID,größe,数量,select,Zip,At,Local,Yes,Note\r\n"
        '1,"1,5",7,a,01234,2024-01-02T03:04:05+02:00,2024-01-02 03:04:05.123456,true,"two\r\nlines"'
        "\r\n"
        '2,"say ""hi""",8,"",99999,1970-01-01T00:00:00Z,9999-12-31 23:59:59,FALSE,\r\n'
        "\r\n"
        "3,ü,9,NA,00000,2024-06-01T00:00:00-05:30,2024-01-01,true,last without an end",
    )
    load()
    columns = (
        "order_id, grosse, shu_liang, \"select\", zip, at at time zone 'UTC', local, yes, note"
    )
    assert rows(database, "odd", f"{columns}, _row") == [
        (1, "1,5", 7, "a", "01234", local("2024-01-02T01:04:05"),
         local("2024-01-02T03:04:05.123456"), True, "two\r\nlines", 1),
        (2, 'say "hi"', 8, None, "99999", local("1970-01-01"),
         local("9999-12-31T23:59:59"), False, None, 2),
        (3, "ü", 9, "NA", "00000", local("2024-06-01T05:30:00"),
         local("2024-01-01"), True, "last without an end", 3),
    ]  # fmt: skip
    assert types(database, "odd")["at"] == "timestamp with time zone"
    assert types(database, "odd")["local"] == "timestamp without time zone"


def test_rows_of_any_length(database, inbox, load) -> None:
    text = "x\n" * 1_500_000
    put(inbox, "t/1.csv", f'id,text\n1,short\n2,"{text}"\n')
    put(inbox, "t/2.jsonl", json.dumps({"id": 3, "text": text}) + '\n{"id": 4}\n')
    put(inbox, "t/3.csv", f'id,text\n5,a\n6,"{text}\n')
    load()
    assert rows(database, "t", "id, length(text)") == [
        (1, 5), (2, 3_000_000), (3, 3_000_000), (4, None),
    ]  # fmt: skip
    assert ledger(database)[2] == (
        "t/3.csv", "quarantined", 0, 3, "a quotation mark is never closed",
    )  # fmt: skip


def test_json_lines_in_their_odder_forms(database, inbox, load) -> None:
    lines = [
        {"id": 1, "Größe": 1.5, "tags": ["a", {"b": None}], "at": "2024-01-02T03:04:05Z",
         "day": "2024-01-02"},
        {"id": 99999999999999999999, "tags": {"x": "ü"}, "ok": True, "none": None},
        {"id": 3, "Größe": 2, "tags": None, "zip": "01234", "text": "2", "late": "x\u2028y"},
    ]  # fmt: skip
    text = "\r\n\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    put(inbox, "j.ndjson", text)
    load()
    assert types(database, "j") == {
        "id": "numeric", "grosse": "double precision", "tags": "character varying",
        "at": "timestamp with time zone", "day": "date", "ok": "boolean",
        "zip": "character varying", "text": "character varying", "late": "character varying",
    }  # fmt: skip
    found = rows(database, "j", "id, grosse, tags, day, ok, zip, text, late, _row")
    assert found == [
        (1, 1.5, '["a", {"b": null}]', dt.date(2024, 1, 2), None, None, None, None, 1),
        (99999999999999999999, None, '{"x": "ü"}', None, True, None, None, None, 2),
        (3, 2.0, None, None, None, "01234", "2", "x\u2028y", 3),
    ]


def test_parquet_keeps_its_types(database, inbox, load) -> None:
    zoned = dt.datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)
    table = pa.table(
        {
            "small": pa.array([1, None], pa.int8()),
            "unsigned": pa.array([2**64 - 1, 0], pa.uint64()),
            "half": pa.array([1.5, None], pa.float32()),
            "money": pa.array([Decimal("12.50"), None], pa.decimal128(18, 2)),
            "exact": pa.array([Decimal("1" * 38), None], pa.decimal128(38, 0)),
            "word": pa.array(["a", "b"]).dictionary_encode(),
            "large": pa.array(["x", None], pa.large_string()),
            "raw": pa.array([b"\x00\xff", None]),
            "at": pa.array([zoned, None], pa.timestamp("ns", "Europe/Berlin")),
            "local": pa.array([zoned.replace(tzinfo=None), None], pa.timestamp("ms")),
            "day": pa.array([dt.date(1970, 1, 1), None], pa.date64()),
            "clock": pa.array([dt.time(12, 30), None], pa.time32("s")),
            "nested": pa.array([{"a": [1, 2]}, None]),
            "nothing": pa.nulls(2),
        }
    )
    pq.write_table(table, inbox / "p.parquet", store_schema=True)
    load()
    assert types(database, "p") == {
        "small": "bigint", "unsigned": "numeric", "half": "double precision", "money": "numeric",
        "exact": "numeric", "word": "character varying", "large": "character varying",
        "raw": "bytea", "at": "timestamp with time zone", "local": "timestamp without time zone",
        "day": "date", "clock": "time without time zone", "nested": "character varying",
    }  # fmt: skip
    (first, second) = rows(
        database, "p",
        "small, unsigned, half, money, exact, word, large, raw::text, at at time zone 'UTC', local,"
        " day, clock, nested",
    )  # fmt: skip
    assert first == (
        1, Decimal(2**64 - 1), 1.5, Decimal("12.50"), Decimal("1" * 38), "a", "x", "\\x00ff",
        zoned.replace(tzinfo=None), zoned.replace(tzinfo=None, microsecond=678000),
        dt.date(1970, 1, 1), dt.time(12, 30), '{"a": [1, 2]}',
    )  # fmt: skip
    assert second == (None, 0, None, None, None, "b", *[None] * 7)


def test_lists_and_objects_are_json_that_postgres_casts(database, inbox, load) -> None:
    """As they are written in JSON Lines; from Parquet, with text for what JSON has no value for."""
    written = '{"price": 1.10, "id": 12345678901234567890.123,  "s": "\\ud83d\\ude00"}'
    put(
        inbox,
        "j.jsonl",
        f'{{"id": 1, "a": {written}}}\n{{"a": [0.1234567890123456789], "id": 2}}\n',
    )
    far = local("2024-01-02T03:04:05.678901")
    nested = [
        {"x": float("nan"), "y": [float("-inf"), 0.5], "d": Decimal("1.10"), "b": b"\xff\x00",
         "m": [("k", 1)], "t": far},
        None,
    ]  # fmt: skip
    kind = pa.struct(
        {"x": pa.float64(), "y": pa.list_(pa.float64()), "d": pa.decimal128(38, 2),
         "b": pa.binary(), "m": pa.map_(pa.string(), pa.int64()), "t": pa.timestamp("ns")}
    )  # fmt: skip
    table = pa.table({"a": pa.array(nested, kind)})
    pq.write_table(table, inbox / "p.parquet", store_schema=True)
    load()
    assert rows(database, "j", "a, (a::jsonb)->>'price', (a::jsonb)->>'id', (a::jsonb)->>0") == [
        (written, "1.10", "12345678901234567890.123", None),
        ("[0.1234567890123456789]", None, None, "0.1234567890123456789"),
    ]
    read = (
        "(a::jsonb->>'x')::float8 = 'NaN', (a::jsonb#>>'{y,0}')::float8, (a::jsonb->>'d')::numeric"
    )
    read += ", decode(a::jsonb->>'b', 'base64'), (a::jsonb->>'t')::timestamp, a::jsonb#>>'{m,0,0}'"
    first, second = rows(database, "p", read)
    assert (*first[:3], bytes(first[3]), *first[4:]) == (
        True, float("-inf"), Decimal("1.10"), b"\xff\x00", far, "k",
    )  # fmt: skip
    assert second == (None,) * 6


def test_numbers_are_those_that_are_written_as_numbers(database, inbox, load) -> None:
    ones = "1.0\n" * 300_000  # more than a block
    put(inbox, "late.csv", f"n\n{ones}2.5\n")
    put(
        inbox,
        "c.csv",
        "phone,code,whole,exact\n+4915112345678,0x00ff,3.0,0.1234567890123456789\n017,1E5,,1\n"
        "4915,12,5.0,1\n",
    )
    put(inbox, "c/2.csv", "phone,whole\n1,2.5\n")
    put(inbox, "w.jsonl", '{"a": 3.0, "b": 12345678901234567890}\n{"a": null}\n{"a": 5.0}\n')
    put(inbox, "w/2.jsonl", '{"a": 2.5}\n{"b": 1.0}\n')
    put(inbox, "w/3.jsonl", '{"a": 2.5}\n')
    load()
    assert database.query(f"select max(n), count(*) from {SCHEMA}.late") == [(2.5, 300_001)]
    assert rows(database, "c", "phone, code, whole, exact") == [
        ("+4915112345678", "0x00ff", 3.0, "0.1234567890123456789"),
        ("017", "1E5", None, "1"),
        ("4915", "12", 5.0, "1"),
        ("1", None, 2.5, None),
    ]
    assert rows(database, "w", "a, b") == [
        (3.0, Decimal(12345678901234567890)), (None, None), (5.0, None), (2.5, None),
    ]  # fmt: skip
    assert types(database, "w") == {"a": "double precision", "b": "numeric"}
    assert ("w/2.jsonl", "quarantined", 0, 2, "column 'b': 1.0 is not a decimal(38,0)") in ledger(
        database
    )


def test_declared_types_hold(database, inbox, load) -> None:
    put(inbox, "o.csv", "zip,amount,day\n12345,12.5,x\n")
    load(types={"o": {"zip": "text", "amount": "decimal(18,2)"}})
    put(inbox, "o/2.csv", "zip,amount,day\n00001,0.10,y\n")
    load()
    assert types(database, "o") == {
        "zip": "character varying", "amount": "numeric", "day": "character varying",
    }  # fmt: skip
    assert rows(database, "o", "zip, amount") == [
        ("12345", Decimal("12.50")), ("00001", Decimal("0.10")),
    ]  # fmt: skip
    # A declared type takes values however they are written, numbers in a column of text too.
    put(inbox, "d.csv", 'id,note\n007,"say \\"hi\\" now"\n')
    put(inbox, "e.jsonl", '{"id": 12, "exact": 0.1234567890123456789, "near": 9007199254740993}\n')
    put(inbox, "e/2.jsonl", '{"id": "A1"}\n{"id": 1.50}\n{"id": true}\n')
    load(
        types={
            "d": {"id": "bigint"},
            "e": {"id": "text", "exact": "decimal(38,19)", "near": "double"},
        },
        escape="\\",
    )
    assert rows(database, "d", "id, note") == [(7, 'say "hi" now')]
    assert rows(database, "e", "id, exact, near") == [
        ("12", Decimal("0.1234567890123456789"), 9007199254740992.0),
        ("A1", None, None), ("1.50", None, None), ("true", None, None),
    ]  # fmt: skip
    for wrong in ({"escape": ","}, {"escape": '"'}, {"delimiter": ";;"}):
        with pytest.raises(ConfigurationError, match=r"cannot be (both|the)"):
            load(**wrong)
    with pytest.raises(ConfigurationError) as error:
        load(types={"o": {"zip": "varchar"}})
    assert "There is no type 'varchar' for a column." in str(error.value)
    assert "where: parameter types, o.zip" in str(error.value)


def test_columns_come_and_go_and_their_types_stay(database, inbox, load) -> None:
    put(inbox, "t/1.csv", "id,amount,empty\n1,5,\n")
    load()
    put(inbox, "t/2.csv", "note,id\nx,2\n")
    put(inbox, "t/3.csv", "id,amount\n3,0.5\n")
    put(inbox, "t/4.jsonl", '{"id": 4, "amount": 7, "empty": true}\n')
    load()
    assert rows(database, "t", "id, amount, note, empty") == [
        (1, 5, None, None), (2, None, "x", None), (4, 7, None, True),
    ]  # fmt: skip
    assert ("t/3.csv", "quarantined", 0, 2, "column 'amount': '0.5' is not a bigint") in ledger(
        database
    )


def test_a_file_that_is_touched_or_rewritten_alike_is_not_loaded_again(
    database, inbox, load
) -> None:
    file = put(inbox, "t.csv", "id\n1\n")
    load()
    os.utime(file, (1, 1))
    assert load().rows == {"t": 0, "_files": 1}
    assert load().rows == {"t": 0, "_files": 0}
    assert ledger(database, "file, status, row_count") == [
        ("t.csv", "loaded", 1), ("t.csv", "unchanged", 0),
    ]  # fmt: skip


def test_a_file_with_other_content_replaces_its_rows_alone(database, inbox, load) -> None:
    put(inbox, "t/1.csv", "id\n1\n2\n")
    put(inbox, "t/2.csv", "id\n3\n")
    load()
    put(inbox, "t/1.csv", "id,more\n7,x\n")
    put(inbox, "t/3.csv", "id\n4\n")
    assert load().rows == {"t": 2, "_files": 2}
    put(inbox, "t/4.csv", "id\n5\n")
    assert load().rows == {"t": 1, "_files": 1}, "and the next load appends again"
    assert rows(database, "t", "id, more, _file") == [
        (7, "x", "t/1.csv"), (3, None, "t/2.csv"), (4, None, "t/3.csv"), (5, None, "t/4.csv"),
    ]  # fmt: skip
    assert ledger(database, "file, status") == [
        ("t/1.csv", "replaced"), ("t/2.csv", "loaded"),
        ("t/1.csv", "loaded"), ("t/3.csv", "loaded"), ("t/4.csv", "loaded"),
    ]  # fmt: skip


def test_full_refresh_loads_every_file_that_is_there_in_place_of_its_rows(
    database, inbox, load
) -> None:
    put(inbox, "t/1.csv", "id\n1\n2\n")
    put(inbox, "t/2.csv", "id\n3\n")
    load()
    (inbox / "t/2.csv").unlink()
    assert load(full_refresh=True).rows["t"] == 2
    assert rows(database, "t", "id, _file") == [(1, "t/1.csv"), (2, "t/1.csv"), (3, "t/2.csv")]


def test_a_large_file_takes_columns_as_they_come(database, inbox, load) -> None:
    """A key that is met late is a column of all of the file's rows, and of none before it."""
    many = "".join(f'{{"id": {n}, "name": "name {n}"}}\n' for n in range(300_000))
    put(inbox, "t/1.jsonl", many + '{"id": 300000, "late": {"a": 1}}\n')
    put(inbox, "t/2.csv", "id,other\n300001,x\n")
    assert load().rows["t"] == 300_002
    assert database.query(
        f"select count(distinct id), max(_row), count(late), count(other) from {SCHEMA}.t"
    ) == [(300_002, 300_001, 1, 1)]


def test_a_malformed_file_is_refused_whole_and_taken_when_it_is_fixed(
    database, inbox, load
) -> None:
    lines = "".join(f"{n},{n}\n" for n in range(100_000))
    put(inbox, "t/1.csv", "id,n\n1,1\n")
    bad = put(inbox, "t/2.csv", f"id,n\n{lines}7\n")
    put(inbox, "t/3.csv", "id,n\n3,3\n")
    loaded = load()
    assert loaded.rows == {"t": 2, "_files": 3}
    assert rows(database, "t", "id, _file") == [(1, "t/1.csv"), (3, "t/3.csv")]
    why = "it has 1 values, and the header 2"
    assert ledger(database)[1] == ("t/2.csv", "quarantined", 0, 100_002, why)
    assert loaded.rejected == [Rejection("t", f"{inbox}/t/2.csv, line 100002", why)]
    # It is looked at again when it changed, or when somebody asks.
    assert load().rows == {"t": 0, "_files": 0}
    assert load(retry_quarantined=True).rows == {"t": 0, "_files": 1}
    bad.write_text(f"id,n\n{lines}7,7\n")
    assert load().rows == {"t": 100_001, "_files": 1}


def test_a_replaced_file_that_is_malformed_leaves_its_old_rows(database, inbox, load) -> None:
    file = put(inbox, "t.csv", "id\n1\n")
    load()
    file.write_text("id\nx\n")
    load()
    assert rows(database, "t", "id") == [(1,)]
    file.write_text("id\n2\n")
    load()
    assert rows(database, "t", "id") == [(2,)]


def test_files_that_are_being_written_are_left_for_the_next_run(database, inbox, load) -> None:
    file = put(inbox, "t.csv", "id\n1\n")
    assert load(min_age_seconds=60).rows == {"t": 0, "_files": 0}
    os.utime(file, (file.stat().st_mtime - 61,) * 2)
    assert load(min_age_seconds=60).rows == {"t": 1, "_files": 1}


def test_an_inbox_that_is_not_there_is_reported(database, inbox, load) -> None:
    with pytest.raises(IngestionError) as error:
        load(url=str(inbox / "nowhere"))
    assert "The inbox cannot be listed: FileNotFoundError" in str(error.value)
    assert f"where: {inbox}/nowhere" in str(error.value)
    assert not error.value.retryable
    with pytest.raises(ConfigurationError, match="Protocol not known: nosuch"):
        load(url="nosuch://x")
    with pytest.raises(ConfigurationError, match="'Orders' cannot be the name of a table"):
        load(tables={"Orders": "*.csv"})
    with pytest.raises(ConfigurationError) as refused:
        load(storage_options='{"key": "made-up-secret"')
    assert "The secret `storage_options` is not a JSON object." in str(refused.value)
    assert "made-up-secret" not in str(refused.value) + str(refused.value.__cause__)


def test_thousands_of_files_share_few_connections(database, inbox, load) -> None:
    for number in range(2_000):
        put(inbox, f"t/{number:04}.csv", f"id,name\n{number},x\n{number},y\n")
    assert load().rows == {"t": 4_000, "_files": 2_000}
    assert load().rows == {"t": 0, "_files": 0}
    assert database.query(f"select count(distinct _file), sum(_row) from {SCHEMA}.t") == [
        (2_000, 6_000)
    ]
