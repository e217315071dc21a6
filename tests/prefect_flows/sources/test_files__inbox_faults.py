"""What makes a file be refused: the line and the reason that its sender reads."""

from __future__ import annotations

import gzip
import io
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prefect_flows.ingest.source_load import ingest


def parquet(columns: dict[str, pa.Array], names: list[str] | None = None) -> bytes:
    file = io.BytesIO()
    table = pa.table(columns)
    pq.write_table(table if names is None else table.rename_columns(names), file)
    return file.getvalue()


WHOLE = parquet({"id": pa.array(range(1000)), "at": pa.array(["x"] * 1000)})
NOT_UTF_8 = pa.array([b"\xfc"]).view(pa.string())
TIMES = [datetime.fromisoformat(f"2024-01-01T{hour}:00") for hour in ("00", "05")]
LONG_TEXT = "x" * 1000

# Of tables whose columns are known (id bigint, day date, note text), and of new ones.
FAULTS: dict[str, tuple[bytes, int | None, str]] = {
    "known/short.csv": (b"id,day\n1\n", 2, "it has 1 values, and the header 2"),
    "known/long.csv": (b"id,day\n1,2024-01-01\n\n2,2024-01-01,3\n", 4,
                       "it has 3 values, and the header 2"),
    "known/type.csv": (b'note,id\n"two\nlines",1\nx,1.5\n', 4,
                       "column 'id': '1.5' is not a bigint"),
    "known/day.csv": (b"day\n2024-02-30\n", 2, "column 'day': '2024-02-30' is not a date"),
    "known/first.csv": (b"id,day\n1,x\ny,2024-01-01\n", 2, "column 'day': 'x' is not a date"),
    "known/value.csv": (f"id\n{LONG_TEXT}\n".encode(), 2,
                        f"column 'id': '{'x' * 19}…{'x' * 18}' is not a bigint"),
    "known/zeros.csv": (b"id\n1\n007\n", 3,
                        "column 'id': '007' is not a bigint that would be written so; to convert "
                        "such values, declare the column's type in the parameter types"),
    "known/phone.csv": (b"id\n+49151\n", 2, "column 'id': '+49151' is not a bigint"),
    "known/type.jsonl": (b'{"id": 1}\n\n{"id": "2"}\n', 3, "column 'id': \"2\" is not a bigint"),
    "known/nested.jsonl": (b'{"id": 1}\n{"id": {"a": 2}}\n', 2,
                           "column 'id': {\"a\": 2} is not a bigint"),
    "known/type.parquet": (parquet({"id": pa.array([1.0, 2.0, 2.5])}), 3,
                           "column 'id': 2.5 is not a bigint"),
    "known/list.parquet": (parquet({"day": pa.array([[1]])}), None,
                           "column 'day' is list<element: int64>, and the table's date"),
    "known/flag.parquet": (parquet({"id": pa.array([True])}), None,
                           "column 'id' is bool, and the table's bigint"),
    "known/clock.parquet": (parquet({"day": pa.array(TIMES)}), 2,
                            "column 'day': datetime.datetime(2024, 1, 1, 5, 0) is not a date"),
    "new/backslash.csv": (b'a,b\n1,x\n2,"say \\"hi\\" now"\n', 3,
                          "text follows the quotation mark that closes a value (inside a value it "
                          'is written twice, ""; a file that writes \\" is read with the parameter '
                          "escape)"),
    "new/nan.jsonl": (b'{"a": 1.5}\n{"a": NaN}\n', 2, "no JSON: NaN is not a JSON value"),
    "new/inner.jsonl": (b'{"a": {"b": -Infinity}}\n', 1, "no JSON: -Infinity is not a JSON value"),
    "new/digits.jsonl": (b'{"a": 1.5}\n{"a": 0.1234567890123456789}\n', 2,
                         "column 'a': 0.1234567890123456789 is not a double, which has fewer "
                         "digits; declare the column decimal or text"),
    "new/half.jsonl": (b'{"a": 0.5}\n{"a": 9007199254740993}\n', 2,
                       "column 'a': 9007199254740993 is not a double, which has fewer digits; "
                       "declare the column decimal or text"),
    "new/deep.jsonl": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", 1,
                       "its objects and lists are nested more than 400 deep"),
    "new/huge.jsonl": (b'{"a": [1e-99999]}\n', 1,
                       "1e-99999 is too large, too small or too long a number"),
    "new/latin.parquet": (parquet({"a": pa.array(["x"]), "b": NOT_UTF_8}), 1,
                          "column 'b': the text is not UTF-8"),
    "new/inner.parquet": (parquet({"a": pa.array([["x"], ["a\0b"]])}), 2,
                          "column 'a': it holds a zero byte"),
    "new/empty.csv": (b"", None, "the file is empty"),
    "new/empty.jsonl": (b"", None, "the file is empty"),
    "new/empty.parquet": (b"", None, "the file is empty"),
    "new/empty.csv.gz": (gzip.compress(b""), None, "the file is empty"),
    "new/blank.csv": (b"\n1,2\n", 1, "the first line is empty; a header is expected"),
    "new/twice.csv": (b"a,b,a\n1,2,3\n", 1, "column 'a' is duplicated"),
    "new/alike.csv": (b"a b,A_B\n1,2\n", 1, "'a b' and 'A_B' are both column 'a_b'"),
    "new/unnamed.csv": (b"a,,c\n1,2,3\n", 1, "column 2 has no name"),
    "new/ours.csv": (b"_file\n1\n", 1,
                     "column '_file' has a name that the load or a warehouse uses"),
    "new/dlts.csv": (b"id,-dlt-parent\n1,2\n", 1,
                     "column '-dlt-parent' has a name that the load or a warehouse uses"),
    "new/system.csv": (b"id,XMIN\n1,2\n", 1,
                       "column 'XMIN' has a name that the load or a warehouse uses"),
    "new/system.jsonl": (b'{"ctid": 1}\n', 1,
                         "column 'ctid' has a name that the load or a warehouse uses"),
    "new/symbol.csv": ("id,\N{SNOWMAN}\n1,2\n".encode(), 1,
                       "column 2 has no name: '\N{SNOWMAN}' has no letter or digit"),
    "new/symbol.jsonl": ('{"a": 1}\n{"\N{SNOWMAN}": 1}\n'.encode(), 1,
                         "column 2 has no name: '\N{SNOWMAN}' has no letter or digit"),
    "new/symbol.parquet": (parquet({"\N{SNOWMAN}": pa.array([1])}), 1,
                           "column 1 has no name: '\N{SNOWMAN}' has no letter or digit"),
    "new/mark.csv": (b"\xef\xbb\xbf", 1, "the first line is empty; a header is expected"),
    "new/header.csv": (b"id," + b"a" * 2_000_000 + b"\n1,2\n", 1,
                       "the header is longer than 1 MB, or a quotation mark in it is never closed"),
    "new/open.csv": (b'id,"a\n' + b"1,2\n" * 400_000, 1,
                     "the header is longer than 1 MB, or a quotation mark in it is never closed"),
    "new/columns.csv": (",".join(f"c{n}" for n in range(100_000)).encode(), 1,
                        "it makes 100,000 columns, and a table takes 1,500"),
    "new/columns.jsonl": (b"".join(b'{"c%d": 1}\n' % n for n in range(2000)), 1,
                          "it makes 2,000 columns, and a table takes 1,500"),
    "new/columns.parquet": (parquet({f"c{n}": pa.array([1]) for n in range(2000)}), 1,
                            "it makes 2,000 columns, and a table takes 1,500"),
    "known/columns.csv": (b",".join(b"c%d" % n for n in range(1498)) + b"\n"
                          + b",".join([b"1"] * 1498) + b"\n", 1,
                          "it makes 1,501 columns, and a table takes 1,500"),
    "new/widest.csv": (b",".join(b"c%d" % n for n in range(1400)) + b"\n"
                       + b",".join([b""] * 1400) + b"\n" + b",".join([b"123456"] * 1400) + b"\n",
                       None, "row 2 may need 11,479 bytes, and Postgres keeps 8,160 of a row; "
                       "split its columns over several files"),
    "new/year.parquet": (parquet({"a": pa.array([1, None, -(2**60)], pa.timestamp("us"))}), None,
                         "column 'a': row 3 has a year that is not from 1 to 9999"),
    "new/year_in_zone.parquet": (parquet({"a": pa.array([2**62], pa.timestamp("us", "UTC"))}), None,
                                 "column 'a': row 1 has a year that is not from 1 to 9999"),
    "new/date.parquet": (parquet({"a": pa.array([5_000_000], pa.date32())}), None,
                         "column 'a': row 1 has a year that is not from 1 to 9999"),
    "known/year.csv": (b"day\n2024-01-01\n0000-01-01\n", None,
                       "column 'day': row 2 has a year that is not from 1 to 9999"),
    "new/long_number.jsonl": (b'{"a\\u0000": ' + b"9" * 5000 + b"}\n", 1, "it holds a zero byte"),
    "new/long.jsonl": (b'{"a": 1}\n{"a": ' + b"9" * 5000 + b"}\n", 2,
                       f"column 'a': {'9' * 20}…{'9' * 19} is not a double, which has fewer "
                       "digits; declare the column decimal or text"),
    "known/long_number.jsonl": (b'{"id": ' + b"9" * 5000 + b"}\n", 1,
                                f"column 'id': {'9' * 20}…{'9' * 19} is not a bigint"),
    "new/objects.jsonl": (b'{"a": ' * 5000 + b"1" + b"}" * 5000 + b"\n", 1,
                          "its objects and lists are nested more than 400 deep"),
    "new/delimiter.csv": (b"a;b\n1;2\n", 1,
                          "the header is one column, 'a;b': the delimiter is not ','"),
    "new/latin.csv": ("a\nx\nm\xfcller\n".encode("latin-1"), 3,
                      "byte 0xfc is not UTF-8 (convert the file to UTF-8)"),
    "new/wide.csv": ("a\n1\n".encode("utf-16"), 1,
                     "byte 0xff is not UTF-8 (convert the file to UTF-8)"),
    "new/half.csv": ("a\nü".encode()[:-1], 2, "the text is not UTF-8: it ends within a character"),
    "new/zero.csv": (b"a\n1\n\0\n", 3, "it holds a zero byte"),
    "new/zero.jsonl": (b'{"a": "\\\\u0000"}\n{"a": "\\u0000"}\n', 2, "it holds a zero byte"),
    "new/zero.parquet": (parquet({"a": pa.array(["x", None, "a\0b"])}), 3,
                         "column 'a': it holds a zero byte"),
    "new/quote.csv": (b'a,b\n1,"2\n3,4\n', 2, "a quotation mark is never closed"),
    "new/cut.csv.gz": (gzip.compress(b"a\n" + bytes(range(48, 58)) * 10_000)[:-20], None,
                       "its compressed data ends in the middle: it is cut off"),
    "new/damaged.csv.gz": (b"no gzip at all", None,
                           "its compressed data is damaged: Not a gzipped file (b'no')"),
    "new/cut.parquet": (WHOLE[:-50], None, "not a valid Parquet file: Parquet magic bytes not "
                        "found in footer. Either the file is corrupted or this is not a parquet "
                        "file."),
    "new/twice.parquet": (parquet({"a": pa.array([1]), "b": pa.array([1])}, ["a", "a"]), None,
                          "column 'a' is duplicated"),
    "new/duration.parquet": (parquet({"a": pa.array([1], pa.duration("s"))}), None,
                             "column 'a' is of type duration[s], for which there is no column"),
    "new/syntax.jsonl": (b'{"a": 1}\n{"a": }\n', 2, "no JSON: Expecting value at character 7"),
    "new/cut.jsonl": (b'{"a": 1}\n{"a": 1', 2,
                      "no JSON: Expecting ',' delimiter at character 8"),
    "new/pretty.jsonl": (b'{\n"a": 1}\n', 1,
                         "no JSON: Expecting property name enclosed in double quotes "
                         "at character 2"),
    "new/list.jsonl": (b'[{"a": 1}]\n', 1, "a JSON object belongs here, not [{'a': 1}]"),
    "new/two.jsonl": (b'{"a": 1} {"a": 2}\n', 1, "no JSON: Extra data at character 10"),
    "new/mixed.jsonl": (b'{"a": 1}\n{"a": "x"}\n', 2, "column 'a' changed from number to string"),
    "new/same.jsonl": (b'{"a": 1, "a": 2}\n', 1, "column 'a' was specified twice"),
    "new/surrogate.jsonl": (b'{"a": "\\ud800"}\n', 1, "The surrogate pair in string is invalid."),
    "new/table.xlsx": (b"PK", None, "unsupported extension, expected one of .csv, .tsv, .jsonl, "
                       ".ndjson, .parquet (the text ones also with .gz)"),
}  # fmt: skip


def test_each_fault_is_reported_and_the_other_files_are_loaded(database, inbox: Path) -> None:
    def load() -> dict[str, int]:
        given = {"url": str(inbox), "min_age_seconds": 0}
        return ingest("files__inbox", database.profile, **given).rows

    for folder in ("known", "new"):
        (inbox / folder).mkdir()
        (inbox / folder / "0.csv").write_text("id,day,note\n1,2024-01-01,x\n")
    load()
    for name, (content, _, _) in FAULTS.items():
        (inbox / name).write_bytes(content)
    for folder in ("known", "new"):
        (inbox / folder / "z.csv").write_text("id,day,note\n2,2024-01-02,y\n")

    assert load() == {"known": 1, "new": 1, "_files": len(FAULTS) + 2}

    found = database.query(
        "select file, line_number, reason from raw_files__inbox._files where status = 'quarantined'"
    )
    assert {file: (line, reason) for file, line, reason in found} == {
        file: (line, reason) for file, (_, line, reason) in FAULTS.items()
    }
    for table in ("known", "new"):
        assert database.query(f"select id, note from raw_files__inbox.{table} order by id") == [
            (1, "x"), (2, "y"),
        ]  # fmt: skip
