"""The type of a column, found from its values, in one reading where that is enough."""

from __future__ import annotations

import csv
import random
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem

from prefect_flows.sources.files__inbox import csv_files
from prefect_flows.sources.files__inbox.column_names import Names
from prefect_flows.sources.files__inbox.column_types import (
    BIGINT,
    BOOL,
    DATE,
    DATETIME,
    DOUBLE,
    LARGE_INTEGER,
    TEXT,
    TIMESTAMP,
    Guess,
)
from prefect_flows.sources.files__inbox.faults import UnknownColumns
from prefect_flows.sources.files__inbox.inbox import Content, File

FOUND = [
    (["1", "-20", "0", "-0", None], BIGINT),
    (["0", "0.5", "-0.5", "1e3"], DOUBLE),
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
]


@pytest.mark.parametrize(("values", "kind"), FOUND)
def test_a_type_holds_every_value(values: list[str | None], kind: pa.DataType | None) -> None:
    array = pa.array(values, pa.string())
    # The same values in one batch, one a batch, and as part of a longer array that says otherwise.
    longer = pa.concat_arrays([pa.array(["x", "007"]), array, pa.array(["08"])])
    for batches in ([array], [pa.array([v], pa.string()) for v in values],
                    [longer.slice(2, len(array))]):  # fmt: skip
        guess = Guess()
        for batch in batches:
            guess.see(batch)
        assert guess.kind == kind


def test_what_stands_under_a_null_is_no_value() -> None:
    """Arrow may keep text there that nobody is to see."""
    text = pa.array(["1", "07"])
    masked = pa.Array.from_buffers(
        pa.string(), 2, [pa.array([True, False]).buffers()[1], *text.buffers()[1:]]
    )
    assert masked.to_pylist() == ["1", None]
    guess = Guess()
    guess.see(masked)
    assert guess.kind == BIGINT


# What a column holds at first, and what may come later in it.
VALUES = [
    ["1", "-20", "0"], ["1", "", "7"], ["", ""], ["0.5", "1e3"], ["9" * 30], ["007"], ["true"],
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
    for _ in range(1000):
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
    assert once > 300
    assert others > 300


@pytest.mark.parametrize("last", ['60,"1', "60,1,2,3", "60,x,1", "60,01,1", "60,1.5,1"])
def test_a_row_that_is_none_leaves_the_word_to_those_who_find_it(tmp_path: Path, last: str) -> None:
    content = of_file(tmp_path, [[str(number), "1", "1"] for number in range(60)])
    with (tmp_path / "rows.csv").open("a") as file:
        file.write(last)
    with pytest.raises(UnknownColumns):
        list(csv_files.read_guessing(content, Names(str), {}, csv_files.Dialect(block=256)))
