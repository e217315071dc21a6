"""Tables as data frames, from either warehouse, and their comparison value by value."""

from __future__ import annotations

import pandas as pd
from google.cloud.bigquery import Client
from pandas.testing import assert_series_equal

from tests.support.project import Project


def kinds(project: Project, relation: str) -> dict[str, str]:
    return dict(
        project.query(
            "select column_name, data_type from information_schema.columns "
            f"where table_schema || '.' || table_name = '{relation}' order by ordinal_position"
        )
    )


def table(project: Project, relation: str) -> pd.DataFrame:
    """A whole table; times travel as seconds since 1970, so no session's time zone touches them."""
    columns = kinds(project, relation)
    times = {column: kind for column, kind in columns.items() if kind.startswith(("time", "date"))}
    selected = [f"extract(epoch from {c})::bigint" if c in times else c for c in columns]
    rows = project.query(f"select {', '.join(selected)} from {relation}")
    frame = pd.DataFrame(rows, columns=list(columns))
    for column, kind in times.items():
        is_instant = kind == "timestamp with time zone"
        frame[column] = pd.to_datetime(frame[column], unit="s", utc=is_instant)
    return frame


def same(actual: pd.Series, expected: pd.Series) -> None:
    """Value by value, missing opposite missing, whatever the width of a number or a time."""
    if expected.dtype.kind == "M":
        actual, expected = actual.dt.as_unit("s"), expected.dt.as_unit("s")
    loose = dict.fromkeys(("check_dtype", "check_names", "check_index_type", "check_freq"), False)
    assert_series_equal(actual, expected, rtol=1e-12, atol=1e-12, **loose)


def same_table(actual: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert sorted(actual) == sorted(expected)
    assert len(actual) == len(expected)
    for column in expected:
        same(actual[column].sort_index(), expected[column].sort_index())


def bigquery_table(client: Client, relation: str) -> pd.DataFrame:
    """A whole table of BigQuery, in the types that `table` gives."""
    # Without the client of the storage API, which would ask the real service for the rows.
    rows = client.list_rows(relation, page_size=50_000).to_arrow(create_bqstorage_client=False)
    frame: pd.DataFrame = rows.to_pandas()
    for field in rows.schema:
        if str(field.type).startswith(("date", "timestamp")):
            is_instant = getattr(field.type, "tz", None) is not None
            frame[field.name] = pd.to_datetime(frame[field.name], utc=is_instant)
    return frame
