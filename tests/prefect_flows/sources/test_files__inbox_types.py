"""The type of a column, found from its values."""

from __future__ import annotations

import pyarrow as pa
import pytest

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
