"""Parquet into a real Postgres: what is encoded for COPY is what ADBC would have brought."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import dlt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefect_flows.ingest.destinations import postgres_copy
from prefect_flows.ingest.destinations.target import build_destination, configure_dlt, postgres_url
from tests.support.embedded_postgres import Warehouse, warehouse

pytest.importorskip("pgpq", reason="it has no wheel for Linux on ARM")

from prefect_flows.ingest.destinations import postgres
from prefect_flows.ingest.destinations.postgres_copy import encode_rows, unsupported_columns

UTC = dt.UTC
FIRST = dt.datetime(1, 1, 1, tzinfo=UTC)
LAST = dt.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
LONG = "9" * 29 + "." + "9" * 9


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    with warehouse(tmp_path_factory.mktemp("encode")) as target:
        yield target


def load(target: Warehouse, data: pa.Table, folder: Path, *, by_adbc: bool = False) -> Any:
    """Load into the table `<dataset>.odd`; the dataset is called as the way."""
    address = postgres_url(target.profile).render_as_string(hide_password=False)
    way = "by_adbc" if by_adbc else "encoded"
    with configure_dlt(target.profile):
        pipeline = dlt.pipeline(
            way,
            destination=dlt.destinations.postgres(address)
            if by_adbc
            else build_destination(target.profile),
            dataset_name=way,
            pipelines_dir=str(folder),
        )
        columns: Any = {
            field.name: {"name": field.name, "data_type": "timestamp", "timezone": False}
            for field in data.schema
            if pa.types.is_timestamp(field.type) and field.type.tz is None
        }
        resource = dlt.resource([data], name="odd", columns=columns, write_disposition="append")
        return pipeline.run(resource, loader_file_format="parquet")


@pytest.fixture(autouse=True)
def _no_tables(target: Warehouse) -> None:
    target.query("drop schema if exists encoded, by_adbc cascade")


COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "yes": (pa.bool_(), [True, False, None]),
    "tiny": (pa.int8(), [-128, 127, None]),
    "small": (pa.int16(), [-(2**15), 2**15 - 1, None]),
    "middle": (pa.int32(), [-(2**31), 2**31 - 1, None]),
    "select": (pa.int64(), [-(2**63), 2**63 - 1, None]),
    "half": (pa.float32(), [1.5, float("-inf"), None]),
    "double": (pa.float64(), [0.1, float("inf"), None]),
    "amount": (pa.decimal128(38, 9), [Decimal(LONG), Decimal(f"-{LONG}"), None]),
    "fraction": (pa.decimal128(12, 8), [Decimal("1.00000001"), Decimal("-0.00000001"), None]),
    "whole": (pa.decimal128(38, 0), [Decimal("9" * 38), Decimal(0), None]),
    "words": (pa.string(), ["", "Größe 你好 🐘\t\\N\r\n", None]),
    "many_words": (pa.large_string(), ["a", "b" * 100_000, None]),
    "bytes": (pa.binary(), [b"", b"\x00\xff", None]),
    "four_bytes": (pa.binary(4), [b"\x00abc", b"\xffabc", None]),
    "day": (pa.date32(), [FIRST.date(), LAST.date(), None]),
    "clock": (pa.time64("us"), [dt.time(0), dt.time(23, 59, 59, 999999), None]),
    "wall": (pa.timestamp("us"), [FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None), None]),
    "moment": (pa.timestamp("us", "UTC"), [dt.datetime(1970, 1, 1, tzinfo=UTC), LAST, None]),
    "seconds": (
        pa.timestamp("s", "UTC"),
        [dt.datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), FIRST, None],
    ),
    "there": (
        pa.timestamp("us", "America/New_York"),
        [dt.datetime(2013, 7, 1, 12, tzinfo=UTC), dt.datetime(2013, 1, 1, 12, tzinfo=UTC), None],
    ),
    "repeated": (pa.dictionary(pa.int32(), pa.string()), ["x", "x", None]),
}


# ADBC sends it as it is, and Postgres refuses the file.
NOT_BY_ADBC = {"half"}


def test_every_type_arrives_as_it_is_and_as_through_adbc(target: Warehouse, tmp_path: Path) -> None:
    data = pa.table({name: pa.array(values, kind) for name, (kind, values) in COLUMNS.items()})
    load(target, data, tmp_path)
    load(target, data.drop_columns(list(NOT_BY_ADBC)), tmp_path, by_adbc=True)

    def loaded(way: str, names: list[str]) -> dict[str, list[Any]]:
        columns = ", ".join(f'"{name}"' for name in names)
        rows = target.query(f'select {columns} from {way}.odd order by "select" nulls last')
        return {
            name: [bytes(v) if isinstance(v, memoryview) else v for v in values]
            for name, values in zip(names, zip(*rows, strict=True), strict=True)
        }

    encoded_values = loaded("encoded", list(COLUMNS))
    assert encoded_values == {name: values for name, (_, values) in COLUMNS.items()}
    by_both = [name for name in COLUMNS if name not in NOT_BY_ADBC]
    assert loaded("by_adbc", by_both) == {name: encoded_values[name] for name in by_both}
    # AND the rows say which load they are of
    assert target.query(
        "select count(*) from encoded.odd join encoded._dlt_loads on load_id = _dlt_load_id"
    ) == [(3,)]


@pytest.mark.parametrize(("kind", "oid"), [(pa.timestamp("ns"), 1184), (pa.time64("ns"), 1083)])
def test_what_is_below_a_microsecond_is_not_dropped_in_silence(
    tmp_path: Path, kind: pa.DataType, oid: int
) -> None:
    def pieces(nanoseconds: int) -> list[bytes]:
        path = tmp_path / f"{nanoseconds}.parquet"
        pq.write_table(pa.table({"at": pa.array([nanoseconds], pa.int64()).cast(kind)}), path)
        with pq.ParquetFile(path) as file:
            assert file.schema_arrow.field("at").type == kind
            return list(encode_rows(file, {"at": oid}))

    assert pieces(1_000)
    with pytest.raises(pa.ArrowInvalid, match="would lose data: 1001"):
        pieces(1_001)


def test_columns_as_the_table_has_them(target: Warehouse, tmp_path: Path) -> None:
    """A column that was made wider by hand, jsonb, a text of a certain length, and one of nulls."""
    data = pa.table({"n": pa.array([1], pa.int32()), "body": ["x"], "code": ["a"], "rest": ["b"]})
    load(target, data, tmp_path)
    target.query(
        "delete from encoded.odd; alter table encoded.odd alter n type bigint, "
        "alter body type jsonb using null, alter code type varchar(3)"
    )
    later = data.set_column(1, "body", pa.array(['{"ü": [1, null]}']))
    load(target, later.set_column(3, "rest", pa.nulls(1)), tmp_path)
    found = target.query("select n, body, code, rest from encoded.odd")
    assert found == [(1, {"ü": [1, None]}, "a", None)]


def test_nested_values_go_through_adbc_and_the_log_explains_why(
    target: Warehouse, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = pa.table({"id": [1, 2], "tags": pa.array([["a", "b"], None])})
    load(target, pa.table({"id": [0]}), tmp_path)
    target.query("alter table encoded.odd add tags text[]")
    with caplog.at_level(logging.INFO, postgres.__name__):
        load(target, data, tmp_path)
    assert target.query("select id, tags from encoded.odd where id > 0 order by id") == [
        (1, ["a", "b"]), (2, None),
    ]  # fmt: skip
    (said,) = [r.getMessage() for r in caplog.records if "goes through ADBC" in r.getMessage()]
    assert "ADBC: tags: type 1009 of Postgres" in said


def test_without_pgpq_everything_goes_through_adbc(
    target: Warehouse,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Another machine: Linux on ARM.
    monkeypatch.setattr(postgres, "find_spec", lambda _: None)
    with caplog.at_level(logging.INFO, postgres.__name__):
        load(target, pa.table({"id": [1, 2]}), tmp_path)
    assert target.query("select sum(id) from encoded.odd") == [(3,)]
    assert "goes through ADBC: pgpq is not installed" in caplog.text


@pytest.mark.parametrize(
    ("kind", "oid"),
    [
        (pa.int64(), 23), (pa.uint32(), 23), (pa.uint64(), 20), (pa.float64(), 700),
        (pa.decimal256(50, 2), 1700), (pa.int64(), 1700), (pa.string(), 1114), (pa.string(), 2950),
        (pa.list_(pa.int64()), 114), (pa.dictionary(pa.int8(), pa.int64()), 25),
    ],
)  # fmt: skip
def test_what_would_change_on_the_way_is_not_encoded(kind: pa.DataType, oid: int) -> None:
    (reason,) = unsupported_columns(pa.schema([("a", kind)]), {"a": oid})
    assert reason.startswith("a: ")
    assert unsupported_columns(pa.schema([("a", pa.string())]), {"b": 25}) == [
        "a: the table has no such column"
    ]


def test_long_rows_are_encoded_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.parquet"
    pq.write_table(pa.table({"body": ["x" * 100_000] * 1_000}), path)
    with pq.ParquetFile(path) as file:
        pieces = list(encode_rows(file, {"body": 25}))
        assert max(map(len, pieces)) < 10 * 2**20
        monkeypatch.setattr(postgres_copy, "BATCH_BYTES", 2**40)
        assert b"".join(pieces) == b"".join(encode_rows(file, {"body": 25}))


def test_a_file_that_postgres_refuses_leaves_nothing(target: Warehouse, tmp_path: Path) -> None:
    data = pa.table({"id": range(300_000), "body": ["a"] * 299_999 + ["\0"]})
    load(target, data.slice(0, 1), tmp_path)
    with pytest.raises(Exception, match='invalid byte sequence for encoding "UTF8": 0x00'):
        load(target, data, tmp_path)
    assert target.query("select count(*) from encoded.odd") == [(1,)]
