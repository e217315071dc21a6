"""Some rows of the source's five tables as SQL, with the types that loading gives them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from prefect_flows.sources.nyc__flights.source import (
    FLOAT,
    INTEGER,
    TABLES,
    TEXT,
    TIMESTAMP,
    _content,
    _package_data,
    read,
)

DATASET = "raw_nyc__flights"
# Spread over the year: both clocks, cancelled flights, and planes and airports nobody listed.
EVERY_NTH_FLIGHT = 3_000
KINDS: dict[pa.DataType, str] = {
    TEXT: "STRING", INTEGER: "INT64", FLOAT: "FLOAT64", TIMESTAMP: "TIMESTAMP",
}  # fmt: skip


def rows() -> dict[str, list[dict[str, Any]]]:
    """Some flights, with the weather, planes, airports and airlines that belong to them."""
    full = {
        table.name: read(table, _content(_package_data() / table.file), where="").to_pylist()
        for table in TABLES
    }
    flights = full["flights"][::EVERY_NTH_FLIGHT]
    hours = {(row["origin"], row["time_hour"]) for row in flights}
    planes = {row["tailnum"] for row in flights}
    airports = {row[end] for row in flights for end in ("origin", "dest")}
    return {
        "flights": flights,
        "weather": [row for row in full["weather"] if (row["origin"], row["time_hour"]) in hours],
        "planes": [row for row in full["planes"] if row["tailnum"] in planes],
        "airports": [row for row in full["airports"] if row["faa"] in airports],
        "airlines": full["airlines"],
    }


def statements() -> Iterator[str]:
    """What makes the tables, and fills them."""
    sample = rows()
    for table in TABLES:
        columns = {name: KINDS[kind] for name, kind in table.columns.items()}
        columns |= {"_loaded_at": "TIMESTAMP", "_dlt_load_id": "STRING"}
        loaded = {"_loaded_at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "_dlt_load_id": "1"}
        filled = [row | loaded for row in sample[table.name]]
        yield from table_of(f"{DATASET}.{table.name}", columns, filled)
    loads = {"schema_name": "STRING", "status": "INT64", "inserted_at": "TIMESTAMP"}
    load = {"schema_name": "nyc__flights", "status": 0, "inserted_at": dt.datetime.now(dt.UTC)}
    yield from table_of(f"{DATASET}._dlt_loads", loads, [load])


def table_of(name: str, columns: dict[str, str], filled: list[dict[str, Any]]) -> Iterator[str]:
    """What makes a table of these columns and rows."""
    declared = ", ".join(f"{column} {kind}" for column, kind in columns.items())
    yield f"create or replace table {name} ({declared})"
    values = [f"({', '.join(literal(row[column]) for column in columns)})" for row in filled]
    for first in range(0, len(values), 200):
        yield f"insert into {name} values {', '.join(values[first : first + 200])}"


def literal(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dt.datetime):
        return f"timestamp '{value.isoformat(sep=' ')}'"
    return json.dumps(value)
