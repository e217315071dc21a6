"""Files that would stop a load, hang it or fill the memory: refused, and the others are loaded."""

from __future__ import annotations

import json
import os
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefect_flows.sources.files__inbox import csv_files, json_files, parquet_files
from prefect_flows.sources.files__inbox.column_names import Names
from prefect_flows.sources.files__inbox.file_errors import MalformedFile
from prefect_flows.sources.files__inbox.inbox import Content, Inbox
from tests.support.ingesting import ended, start_ingesting

MEGABYTE = 1 << 20


def refused(database) -> dict[str, tuple[str, str]]:
    """File → the table that it was for, and why it was refused."""
    found = database.query(
        "select file, table_name, reason from raw_files__inbox._files where status = 'quarantined'"
    )
    return {file: (table, reason) for file, table, reason in found}


def compressed(file: Path, *parts: tuple[bytes, int]) -> None:
    """Write a file of parts, each a text and how often it comes."""
    packer = zlib.compressobj(9, wbits=31)
    with file.open("wb") as stream:
        for text, times in parts:
            for _ in range(times):
                stream.write(packer.compress(text))
        stream.write(packer.flush())


def read(folder: Path, name: str, reader: Callable[[Content, Names], object]) -> MalformedFile:
    """Why a reader refuses a file."""
    inbox = Inbox(str(folder))
    (file,) = [file for file in inbox.list_files() if file.name == name]
    with pytest.raises(MalformedFile) as malformed:
        reader(inbox.open_content(file, folder), Names(str.lower))
    return malformed.value


@contextmanager
def an_ordinary_user() -> Iterator[None]:
    """Give up root's right to read everything."""
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)


def test_what_may_not_be_read_is_refused_until_it_may_be() -> None:
    with TemporaryDirectory() as name:
        # GIVEN files and a folder that only their owner may read
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "good.csv").write_text("id\n1\n")
        (folder / "bad.csv").write_text("id\n1\n")
        (folder / "orders").mkdir()
        (folder / "orders" / "january.csv").write_text("id\n1\n")
        for path in (folder / "bad.csv", folder / "orders"):
            path.chmod(0)
        # WHEN another user lists the inbox
        with an_ordinary_user():
            files = {file.name: file for file in Inbox(name).list_files()}
        # THEN these two are refused, and the other is loaded
        assert list(files) == ["bad.csv", "good.csv", "orders"]
        assert files["good.csv"].refusal is None
        assert "may not read it" in str(files["bad.csv"].refusal)
        assert "may not list this folder" in str(files["orders"].refusal)
        # AND they count as new once they may be read
        (folder / "bad.csv").chmod(0o644)
        (folder / "orders").chmod(0o755)
        with an_ordinary_user():
            later = {file.name: file for file in Inbox(name).list_files()}
        assert later["bad.csv"].stamp != files["bad.csv"].stamp
        assert later["good.csv"] == files["good.csv"]
        assert list(later) == ["bad.csv", "good.csv", "orders/january.csv"]


@pytest.mark.sources
def test_names_links_and_pipes_are_refused_once_and_the_others_are_loaded(
    database, inbox: Path, tmp_path: Path
) -> None:
    # GIVEN names that are no table's, links, and what is no file, in a folder with a good file
    text = "id\n1\n"
    (inbox / "good.csv").write_text(text)
    (inbox / "longer.csv").write_text("id\n" + "1\n" * 100)
    for name in ("-dlt-loads.csv", "-files.csv", "\N{SNOWMAN}.csv", "!!!.csv"):
        (inbox / name).write_text(text)
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "secret.csv").write_text(text)
    (outside / "folder" / "secret.csv").write_text(text)
    (inbox / "out.csv").symlink_to(outside / "secret.csv")
    (inbox / "out_folder").symlink_to(outside / "folder")
    (inbox / "device.csv").symlink_to("/dev/zero")
    (inbox / "nowhere.csv").symlink_to("not_there")
    (inbox / "itself.csv").symlink_to("itself.csv")
    (inbox / "orders").mkdir()
    (inbox / "orders" / "up").symlink_to("..")
    (inbox / "orders" / "again.csv").symlink_to("../longer.csv")
    os.mkfifo(inbox / "pipe.csv")
    with Path(os.fsdecode(os.fsencode(inbox) + b"/orders/\xff.csv")).open("w") as stream:
        stream.write(text)
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(os.path.relpath(inbox / "socket.csv"))

    # WHEN it is loaded, in a process that a test can end
    given = {"url": str(inbox), "min_age_seconds": 0}
    done = ended(start_ingesting("files__inbox", database.profile, **given), timeout=300)

    # THEN what is good is there, and the rest is in the ledger with its reason
    assert {table: rows for table, rows in done["rows"].items() if rows} == {
        "good": 1, "longer": 100, "orders": 101, "_files": 16,
    }  # fmt: skip
    out = "it is a link out of the inbox; put the file itself there"
    nowhere = "it is a link that leads nowhere"
    special = "it is not a regular file, but a pipe, a socket or a device"
    rename = "; rename it, or give parameter tables"
    ours = "the name of its table would be '{}', which the load itself uses" + rename
    nameless = "the name of its table would be empty" + rename
    expected = {
        "-dlt-loads.csv": ("", ours.format("_dlt_loads")),
        "-files.csv": ("", ours.format("_files")),
        "\N{SNOWMAN}.csv": ("", nameless),
        "!!!.csv": ("", nameless),
        "out.csv": ("out", out),
        "out_folder": ("out_folder", out),
        "device.csv": ("device", out),
        "nowhere.csv": ("nowhere", nowhere),
        "itself.csv": ("itself", nowhere),
        "orders/up": (
            "orders",
            "it is a link to a folder, which is not followed; put the files themselves there",
        ),
        "pipe.csv": ("pipe", special),
        "socket.csv": ("socket", special),
    }
    assert refused(database) == expected
    assert done["rejected_rows"] == len(expected)
    loaded = database.query("select _file, count(*) from raw_files__inbox.orders group by 1")
    assert dict(loaded) == {"orders/\\xff.csv": 1, "orders/again.csv": 100}

    # AND the next load looks at none of them again
    again = ended(start_ingesting("files__inbox", database.profile, **given), timeout=300)
    assert set(again["rows"].values()) == {0}
    # AND one that is renamed is taken
    (inbox / "-files.csv").rename(inbox / "renamed.csv")
    again = ended(start_ingesting("files__inbox", database.profile, **given), timeout=300)
    assert again["rows"]["renamed"] == 1


@pytest.mark.sources
def test_a_table_grows_up_to_its_columns_and_keeps_what_it_has(database, inbox: Path) -> None:
    (inbox / "t").mkdir()
    for number in range(3):
        columns = [f"c{number * 600 + n}" for n in range(600)]
        (inbox / "t" / f"{number}.csv").write_text(f"{','.join(columns)}\n{','.join('1' * 600)}\n")
    given = {"url": str(inbox), "min_age_seconds": 0}
    done = ended(start_ingesting("files__inbox", database.profile, **given))
    assert done["rows"]["t"] == 2
    assert refused(database) == {
        "t/2.csv": ("t", "it makes 1,800 columns, and a table takes 1,500")
    }


@pytest.mark.parametrize("depth", [401, 5000])
@pytest.mark.parametrize(("opening", "closing_"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_counted_and_brackets_in_texts_are_not(
    tmp_path: Path, depth: int, opening: str, closing_: str
) -> None:
    inside = opening * (depth - 1) + "1" + closing_ * (depth - 1)
    (tmp_path / "t.jsonl").write_text(f'{{"a": {inside}}}\n')
    why = read(tmp_path, "t.jsonl", lambda *given: json_files.infer(*given, {}))
    assert (why.why, why.line) == ("its objects and lists are nested more than 400 deep", 1)
    # AND one level less is read, and so are as many brackets side by side, or in a text
    for number, value in enumerate(
        [
            opening * 399 + "1" + closing_ * 399,
            json.dumps([[]] * depth),
            json.dumps('\\"[{' * depth),
        ]
    ):
        (tmp_path / f"{number}.jsonl").write_text(f'{{"a": {value}}}\n')
        inbox = Inbox(str(tmp_path))
        (file,) = [file for file in inbox.list_files() if file.name == f"{number}.jsonl"]
        assert json_files.infer(inbox.open_content(file, tmp_path), Names(str.lower), {}) == {
            "a": pa.string()
        }


def test_texts_that_many_rows_share_are_read_in_parts(tmp_path: Path) -> None:
    # GIVEN a file of a few kilobytes that stands for 8 GB
    shared = pa.array([0, None] * 4096, pa.int32())
    values = pa.DictionaryArray.from_arrays(shared, pa.array(["x" * 2 * MEGABYTE]))
    pq.write_table(pa.table({"a": values, "b": range(8192)}), tmp_path / "t.parquet")
    inbox = Inbox(str(tmp_path))
    (file,) = inbox.list_files()
    batches = parquet_files.read(inbox.open_content(file, tmp_path), Names(str.lower), {})
    # THEN each part is small, and they follow one another
    first, second = next(batches), next(batches)
    assert max(first.nbytes, second.nbytes) < 80 * MEGABYTE
    assert first["b"].to_pylist() == list(range(len(first)))
    assert second["b"][0].as_py() == len(first)
    assert first["a"][1].as_py() is None
    assert len(first["a"][0].as_py()) == 2 * MEGABYTE


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "parts", "why"),
    [
        ("t.csv.gz", [(b"id,v\n1,", 1), (b"a" * MEGABYTE, 2048)], "a row is longer than 64 MB"),
        ("t.csv.gz", [(b'id,v\n1,"', 1), (b"a\n" * (MEGABYTE // 2), 2048)],
         "a row is longer than 64 MB"),
        ("t.csv.gz", [(b"a" * MEGABYTE, 2048)], "the header is longer than 1 MB"),
        ("t.jsonl.gz", [(b'{"a":"', 1), (b"a" * MEGABYTE, 2048)],
         "the line is longer than 64 MB"),
    ],
)  # fmt: skip
def test_a_line_of_two_gigabytes_fits_into_memory(
    database, inbox: Path, name: str, parts: list[tuple[bytes, int]], why: str
) -> None:
    (inbox / "good.csv").write_text("id\n1\n")
    compressed(inbox / name, *parts)
    assert (inbox / name).stat().st_size < 10 * MEGABYTE
    given = {"url": str(inbox), "min_age_seconds": 0}
    done = ended(start_ingesting("files__inbox", database.profile, **given))
    assert done["rows"]["good"] == 1
    ((_, reason),) = refused(database).values()
    assert reason.startswith(why)
    assert done["memory"] < 1000 * MEGABYTE, f"{done['memory'] >> 20} MB"


@pytest.mark.parametrize("text", [b"a" * MEGABYTE, b'"' + b"a\n" * (MEGABYTE // 2)])
def test_a_row_that_is_too_long_is_not_read_to_its_end(tmp_path: Path, text: bytes) -> None:
    # GIVEN a row without end, as far as a reader goes that looks for its fault
    compressed(tmp_path / "t.csv.gz", (b"id,v\n1,x\n2,", 1), (text, 1), (b"a" * MEGABYTE, 100))
    why = read(tmp_path, "t.csv.gz", lambda *given: list(csv_files.read(
        *given, {"id": pa.int64(), "v": pa.string()}, csv_files.Dialect(block=csv_files.LARGE_BLOCK)
    )))  # fmt: skip
    assert why.why == "a row is longer than 64 MB, or a quotation mark is never closed"
    assert why.line == 3
