"""Tables with the types that loading gives them, and some rows of the flights' five."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import dlt
import pyarrow as pa
from dlt.common.libs.pyarrow import py_arrow_to_table_schema_columns

from prefect_flows.sources.files__inbox import ledger
from prefect_flows.sources.github__trending import source as github
from prefect_flows.sources.nyc__flights.source import TABLES, _package_data, _read_content, read
from prefect_flows.sources.youtube__channels import tables as youtube
from tests.support.bigquery.analyzer import Analyzer
from tests.support.bigquery.stand_ins import PROJECT

# Spread over the year: both clocks, cancelled flights, and planes and airports nobody listed.
EVERY_NTH_FLIGHT = 3_000
LOADS = {
    "load_id": "STRING",
    "schema_name": "STRING",
    "status": "INT64",
    "inserted_at": "TIMESTAMP",
}
LOADED_AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def read_rows() -> dict[str, list[dict[str, Any]]]:
    """Read some flights, with the weather, planes, airports and airlines that belong to them."""
    full = {
        table.name: read(table, _read_content(_package_data() / table.file), where="")
        for table in TABLES
    }
    chosen = range(0, len(full["flights"]), EVERY_NTH_FLIGHT)
    flights = full.pop("flights").take(list(chosen)).to_pylist()
    rows = {name: table.to_pylist() for name, table in full.items()}
    hours = {(row["origin"], row["time_hour"]) for row in flights}
    planes = {row["tailnum"] for row in flights}
    airports = {row[end] for row in flights for end in ("origin", "dest")}
    return {
        "flights": flights,
        "weather": [row for row in rows["weather"] if (row["origin"], row["time_hour"]) in hours],
        "planes": [row for row in rows["planes"] if row["tailnum"] in planes],
        "airports": [row for row in rows["airports"] if row["faa"] in airports],
        "airlines": rows["airlines"],
    }


def load_sample(analyzer: Analyzer) -> None:
    """Add the tables of every source; those of the flights have rows."""
    rows = read_rows()
    for table in TABLES:
        columns = {**table.columns, "_loaded_at": pa.timestamp("us", tz="UTC")}
        add_source(analyzer, "nyc__flights", table.name, columns, rows[table.name])
    for found in (github.REPOSITORIES, github.STAR_HISTORY):
        add_source(analyzer, "github__trending", found.name, _get_columns(found.schema))
    for found in youtube.TABLES:
        add_source(analyzer, "youtube__channels", found.name, _get_columns(found.schema))
    add_source(analyzer, "files__inbox", ledger.TABLE, _get_columns(ledger.SCHEMA))
    for name in ("nyc__flights", "github__trending", "youtube__channels", "files__inbox"):
        load = ["1", name, 0, dt.datetime.now(dt.UTC)]
        analyzer.add_table((PROJECT, f"raw_{name}", "_dlt_loads"), LOADS, [load])


def add_source(
    analyzer: Analyzer,
    source: str,
    table: str,
    columns: Mapping[str, pa.DataType],
    rows: list[dict[str, Any]] | None = None,
) -> None:
    """Add a table of a source, with the column that dlt adds to it."""
    kinds = _to_bigquery_types(table, columns) | {"_dlt_load_id": "STRING"}
    loaded = {"_loaded_at": LOADED_AT, "_dlt_load_id": "1"}
    filled = [[(row | loaded)[name] for name in kinds] for row in rows or []]
    analyzer.add_table((PROJECT, f"raw_{source}", table), kinds, filled)


def _to_bigquery_types(table: str, columns: Mapping[str, pa.DataType]) -> dict[str, str]:
    """Return the types that dlt gives columns in BigQuery."""
    capabilities = dlt.destinations.bigquery().capabilities()
    hints = py_arrow_to_table_schema_columns(pa.schema(dict(columns)))
    mapper = capabilities.get_type_mapper()
    return {name: mapper.to_destination_type(hint, {"name": table}) for name, hint in hints.items()}


def _get_columns(schema: pa.Schema) -> dict[str, pa.DataType]:
    return {column.name: column.type for column in schema}
