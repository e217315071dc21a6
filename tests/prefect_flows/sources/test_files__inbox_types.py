"""The type of a column, found from its values, in one reading where that is enough."""

from __future__ import annotations

import csv
import io
import random
import re
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from prefect_flows.sources.files__inbox import csv_files, parquet_files
from prefect_flows.sources.files__inbox.byte_streams import QuoteChecker
from prefect_flows.sources.files__inbox.column_names import Names
from prefect_flows.sources.files__inbox.column_types import (
    BIGINT,
    BOOL,
    DATE,
    DATETIME,
    DOUBLE,
    LARGE_INTEGER,
    TEXT,
    TIME,
    TIMESTAMP,
    TypeInference,
    format_type,
)
from prefect_flows.sources.files__inbox.file_errors import MalformedFile, UnknownColumns
from prefect_flows.sources.files__inbox.inbox import Content, File

FOUND = [
    (["1", "-20", "0", None], BIGINT),
    (["0", "0.5", "-0.5", "-0"], DOUBLE),
    (["0", "9" * 30], LARGE_INTEGER),
    (["", None], TEXT),
    ([None, None], None),
    ([], None),
    (["2024-02-29", "0", None], TEXT),
    (["2024-02-29"], DATE),
    (["2024-02-29 12:00:00"], DATETIME),
    (["2024-02-29 12:00:00+01"], TIMESTAMP),
    (["true", "false"], BOOL),
    # A zero in front is kept, wherever it stands.
    (["1", "2", "07"], TEXT),
    (["-07", "1"], TEXT),
    (["1", None, "+01"], TEXT),
    (["1", "0", "00"], TEXT),
    # A number is what it is formatted as; telephone numbers and codes are none.
    (["4915112345678", "+4915112345678"], TEXT),
    (["0x00ff"], TEXT),
    (["1E5"], TEXT),
    (["12e3", "1"], TEXT),
    ([".5"], TEXT),
    (["5."], TEXT),
    ([" 1"], TEXT),
    (["0.5", "NaN"], TEXT),
    (["inf", "-Infinity"], TEXT),
    (["1", "true"], TEXT),
    # A fraction makes a column fractional, and so does `.0`, wherever it stands.
    (["3.0", None, "5.0"], DOUBLE),
    (["3", "5.0"], DOUBLE),
    (["3.0", "2.5"], DOUBLE),
    (["19.90", "0.50"], DOUBLE),
    # As Python and others write doubles that are very large, very small or not round.
    (["1e-07", "1.5e-7", "1e+22", "5e-324"], DOUBLE),
    (["0.30000000000000004", "0.1", "0.10000000000000001"], DOUBLE),
    (["10000000000000000000000", "0.5"], DOUBLE),
    # A double would not keep these.
    (["9007199254740993", "0.5"], TEXT),
    (["0.1234567890123456789"], TEXT),
    (["1" + "0" * 400 + ".5"], TEXT),
    (["1e-400"], TEXT),
    (["9" * 39], TEXT),
]


@pytest.mark.parametrize(("values", "kind"), FOUND)
def test_a_type_holds_every_value(values: list[str | None], kind: pa.DataType | None) -> None:
    array = pa.array(values, pa.string())
    # The same values in one batch, one a batch, and as part of a longer array that says otherwise.
    longer = pa.concat_arrays([pa.array(["x", "007"]), array, pa.array(["08"])])
    for batches in ([array], [pa.array([v], pa.string()) for v in values],
                    [longer.slice(2, len(array))]):  # fmt: skip
        guess = TypeInference()
        for batch in batches:
            guess.update(batch)
        assert guess.get_type == kind


def test_a_value_under_a_null_is_ignored() -> None:
    """Arrow may keep text there that nobody is to see."""
    text = pa.array(["1", "07"])
    masked = pa.Array.from_buffers(
        pa.string(), 2, [pa.array([True, False]).buffers()[1], *text.buffers()[1:]]
    )
    assert masked.to_pylist() == ["1", None]
    guess = TypeInference()
    guess.update(masked)
    assert guess.get_type == BIGINT


# What a column holds at first, and what may come later in it.
VALUES = [
    ["1", "-20", "0"], ["1", "", "7"], ["", ""], ["0.5", "3.0"], ["9" * 30], ["007"], ["true"],
    ["9007199254740993"], ["3.0"], ["+49151"],
    ["2024-02-29"], ["2024-02-29 12:00:00"], ["2024-02-29T12:00:00Z"], ["a", "größe"], [" 1"],
]  # fmt: skip


def of_file(folder: Path, rows: list[list[str]]) -> Content:
    path = folder / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "one", "two"], *rows])
    listed = File(path.name, str(path), path.stat().st_size, datetime.now(UTC), "")
    return Content(LocalFileSystem(), listed, folder)


def test_a_file_parsed_once_is_what_it_would_be_with_its_types_found_first(tmp_path: Path) -> None:
    dialect = csv_files.Dialect(block=256)
    chosen = random.Random(20261122)
    once = others = 0
    for _ in range(300):
        kinds = [chosen.sample(VALUES, chosen.choice([1, 1, 2])) for _ in range(2)]
        rows = [
            [str(number), *(chosen.choice(kind[number * len(kind) // 60]) for kind in kinds)]
            for number in range(60)
        ]
        content, names = of_file(tmp_path, rows), Names(str)
        types = csv_files.infer(content, names, {}, dialect)
        right = pa.Table.from_batches(csv_files.read(content, names, types, dialect))
        try:
            batches = list(csv_files.read_guessing(content, names, {}, dialect))
        except UnknownColumns:
            others += 1
            continue
        once += 1
        assert len(batches) > 1
        assert pa.Table.from_batches(batches).equals(right), rows
    assert once > 90
    assert others > 90


@pytest.mark.parametrize("last", ['60,"1', "60,1,2,3", "60,x,1", "60,01,1", "60,1.5,1"])
def test_a_row_that_is_none_leaves_the_word_to_those_who_find_it(tmp_path: Path, last: str) -> None:
    content = of_file(tmp_path, [[str(number), "1", "1"] for number in range(60)])
    with (tmp_path / "rows.csv").open("a") as file:
        file.write(last)
    with pytest.raises(UnknownColumns):
        list(csv_files.read_guessing(content, Names(str), {}, csv_files.Dialect(block=256)))


RFC_4180 = [
    'a,b\n"x","y"\n', 'a,b\n"x""y",""\n', 'a,b\n"""","z"""\n', 'a,b\r\n"",""\r\n',
    '"a","b"\n"x,\n""y""",z', 'a,b\n1,"2"', 'a,b\n"""x"",""y""",1\n',
]  # fmt: skip
AFTER_A_QUOTE = [
    'a,b\n"say \\"hi\\" now",1\n', 'a,b\n"x"y,1\n', 'a,b\n"x" ,1\n', 'a,b\n""x"",1\n',
    'a,b\n1,"x" "y"\n', '"a"b,c\n1,2\n', 'a,b\n"x""y"z,""\n',
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_quotation_marks_are_looked_at_wherever_a_read_ends(size: int) -> None:
    def looked_at(text: str, escape: str | None = None) -> tuple[bool, bool]:
        stream = QuoteChecker(io.BytesIO(text.encode() + b"\n"), ",", escape)
        while stream.read(size):
            pass
        return stream.is_regular, stream.is_open

    for text in RFC_4180:
        assert looked_at(text) == (True, False), text
    for text in AFTER_A_QUOTE:
        assert not looked_at(text)[0], text
    assert looked_at('a,b\n1,"2\n3,4\n') == (True, True)
    assert looked_at('a,b\n5" pipe,1\n')[0] is False, "it is left to Python's reader"
    for text in ('a,b\n"say \\"hi\\" now",1\n', 'a,b\n"\\\\","\\""\n', 'a,b\n\\"x,1\n'):
        assert looked_at(text, "\\") == (True, False), text


def read(folder: Path, text: str, dialect: csv_files.Dialect) -> list[dict[str, object]]:
    (folder / "rows.csv").write_text(text, newline="")
    listed = File("rows.csv", str(folder / "rows.csv"), 0, datetime.now(UTC), "")
    content, names = Content(LocalFileSystem(), listed, folder), Names(str)
    types = csv_files.infer(content, names, {}, dialect)
    return pa.Table.from_batches(csv_files.read(content, names, types, dialect)).to_pylist()


def test_text_after_a_closing_quotation_mark_is_refused(tmp_path: Path) -> None:
    for text in AFTER_A_QUOTE:
        with pytest.raises(MalformedFile, match="text follows the quotation mark") as error:
            read(tmp_path, text, csv_files.Dialect())
        assert error.value.line == (1 if text.startswith('"a"') else 2)
        assert "parameter escape" in error.value.why
    # A mark within a value that is not quoted says nothing but itself.
    assert read(tmp_path, 'a,b\n5" pipe,1\n', csv_files.Dialect()) == [{"a": '5" pipe', "b": 1}]


def test_values_with_escaped_characters_are_read_as_python_reads_them(tmp_path: Path) -> None:
    text = 'id,note\n1,"say \\"hi\\" now"\n2,"a\\\\"\n3,b\\,c\n4,"d ""e"" \\\n f"\n'
    found = read(tmp_path, text, csv_files.Dialect(escape="\\"))
    assert [row["note"] for row in found] == ['say "hi" now', "a\\", "b,c", 'd "e" \n f']
    rows = csv.DictReader(io.StringIO(text, newline=""), escapechar="\\")
    assert [str(row["note"]) for row in found] == [row["note"] for row in rows]


def test_a_value_of_a_known_column_is_converted_only_where_its_type_is_declared(
    tmp_path: Path,
) -> None:
    values = {"+49151": BIGINT, "007": BIGINT, "3.0": BIGINT, " 1": BIGINT, "NaN": DOUBLE,
              "9007199254740993": DOUBLE, "1": BOOL, "1E5": pa.decimal128(18, 2)}  # fmt: skip
    (tmp_path / "rows.csv").touch()
    listed = File("rows.csv", str(tmp_path / "rows.csv"), 0, datetime.now(UTC), "")
    content = Content(LocalFileSystem(), listed, tmp_path)
    refused = {}
    for value, kind in values.items():
        (tmp_path / "rows.csv").write_text(f"a,b\n{value},\n")
        types = {"a": kind, "b": TEXT}
        with pytest.raises(
            MalformedFile, match=re.escape(f"column 'a': {value!r} is not a ")
        ) as error:
            list(csv_files.read(content, Names(str), types, csv_files.Dialect()))
        refused[value] = "declare the column's type" in error.value.why
        declared = csv_files.Dialect(declared=frozenset(["a"]))
        if refused[value]:
            (batch,) = csv_files.read(content, Names(str), types, declared)
            assert batch.schema.field("a").type == kind
    assert refused == dict.fromkeys(values, True) | {"+49151": False, "3.0": False}


MONEY = pa.decimal128(18, 2)
MIDNIGHT, MORNING = (datetime.fromisoformat(f"2024-01-01T{hour}:00") for hour in ("00", "05"))
# Values of a Parquet file, the type of the table's column, and what they become; none where the
# file is refused.
OF_PARQUET: list[tuple[pa.Array, pa.DataType, list[object] | None]] = [
    (pa.array(["007"]), BIGINT, None),
    (pa.array(["7", None]), BIGINT, [7, None]),
    (pa.array(["2024-01-01"]), DATE, [date(2024, 1, 1)]),
    (pa.array([5]), BOOL, None),
    (pa.array([True]), DOUBLE, None),
    (pa.array([1_700_000_000]), DATETIME, None),
    (pa.array([17_000], pa.int32()), DATE, None),
    (pa.array([MIDNIGHT]), BIGINT, None),
    (pa.array([MIDNIGHT]), DATE, [date(2024, 1, 1)]),
    (pa.array([MORNING]), DATE, None),
    (pa.array([MORNING]), TIME, None),
    (pa.array([MORNING]), TIMESTAMP, None),
    (pa.array([date(2024, 1, 1)]), TIMESTAMP, None),
    (pa.array([date(2024, 1, 1)]), DATETIME, [MIDNIGHT]),
    (pa.array([Decimal("0.1"), None]), DOUBLE, [0.1, None]),
    (pa.array([Decimal("0.00000001")]), DOUBLE, [1e-8]),
    (pa.array([Decimal("0.1234567890123456789")]), DOUBLE, None),
    (pa.array([Decimal("1.50")]), pa.decimal128(3, 1), [Decimal("1.5")]),
    (pa.array([Decimal("1.05")]), pa.decimal128(3, 1), None),
    (pa.array([0.1, None]), MONEY, [Decimal("0.10"), None]),
    (pa.array([0.1], pa.float32()), MONEY, [Decimal("0.10")]),
    (pa.array([1.005]), MONEY, None),
    (pa.array([float("nan")]), MONEY, None),
    (pa.array([1e60]), LARGE_INTEGER, None),
    (pa.array([7]), MONEY, [Decimal("7.00")]),
    (pa.array([7], pa.int8()), DOUBLE, [7.0]),
    (pa.array([2**53 + 1]), DOUBLE, None),
    (pa.array([2.0]), BIGINT, [2]),
    (pa.array([float("inf")]), BIGINT, None),
    (pa.array([0.1, float("inf")]), DOUBLE, [0.1, float("inf")]),
    (pa.array([1.5]), TEXT, ["1.5"]),
    (pa.array([b"x"]), BIGINT, None),
    (pa.array([1_234_567], pa.time64("ns")), TIME, [time(0, 0, 0, 1234)]),
    (pa.nulls(2), TIMESTAMP, [None, None]),
]  # fmt: skip


@pytest.mark.parametrize(("values", "kind", "expected"), OF_PARQUET)
def test_a_value_of_parquet_is_the_same_in_another_type(
    tmp_path: Path, values: pa.Array, kind: pa.DataType, expected: list[object] | None
) -> None:
    pq.write_table(pa.table({"a": values}), tmp_path / "p.parquet", store_schema=True)
    listed = File("p.parquet", str(tmp_path / "p.parquet"), 0, datetime.now(UTC), "")
    content = Content(LocalFileSystem(), listed, tmp_path)
    if expected is None:
        with pytest.raises(MalformedFile, match=f"^.*column 'a'.* {re.escape(format_type(kind))}"):
            list(parquet_files.read(content, Names(str), {"a": kind}))
        return
    (batch,) = parquet_files.read(content, Names(str), {"a": kind})
    assert batch.schema.field("a").type == kind
    assert batch["a"].to_pylist() == expected
