"""Compares the marts of BigQuery with those of Postgres, which `test_marts.py` checks."""

from __future__ import annotations

from google.cloud.bigquery import Client, SchemaField

from tests.support.frames import bigquery_table, same_table, table
from tests.support.project import Project

# Every mart but fct_flights, and what its rows are known by.
MARTS = {
    "agg_carrier_performance_monthly": "carrier_month_id",
    "agg_delay_by_weather": "band_id",
    "agg_route_performance": "route_id",
    "dim_airlines": "carrier_code",
    "dim_airports": "airport_key",
    "dim_dates": "date_day",
    "dim_planes": "plane_key",
    "fct_weather_hourly": "weather_id",
}
# Not of the data: when a row was loaded.
CLOCK = ["_loaded_at"]
FLIGHTS = 336_776


def same_mart(project: Project, client: Client, dataset: str, mart: str, key: str) -> None:
    """Every value of a mart but of `fct_flights`."""
    on_postgres = table(project, f"dev_marts.{mart}").drop(columns=CLOCK, errors="ignore")
    on_bigquery = bigquery_table(client, f"{dataset}.{mart}").drop(columns=CLOCK, errors="ignore")
    assert list(on_bigquery) == list(on_postgres)
    assert on_postgres[key].is_unique
    same_table(on_bigquery.set_index(key), on_postgres.set_index(key))


def same_flights(project: Project, client: Client, dataset: str) -> None:
    """Every value of each flight, as hashes: ten million values are too many for JSON."""
    schema = client.get_table(f"{dataset}.fct_flights").schema
    fields = [field for field in schema if field.name not in CLOCK]
    bigquery_seconds = {
        "DATETIME": "unix_seconds(timestamp({}))",
        "TIMESTAMP": "unix_seconds({})",
    }
    postgres_seconds = dict.fromkeys(bigquery_seconds, "extract(epoch from {})::bigint")
    # Some columns a hash: the emulator's parser does not go deep.
    groups = [fields[i : i + 8] for i in range(0, len(fields), 8)]
    on_bigquery = ", ".join(
        f"to_hex({_hashed(group, bigquery_seconds, 'string')})" for group in groups
    )
    on_postgres = ", ".join(_hashed(group, postgres_seconds, "text") for group in groups)
    flights = client.query(f"select flight_id, {on_bigquery} from {dataset}.fct_flights").result(
        page_size=100_000
    )
    found = {row[0]: row.values()[1:] for row in flights}
    expected = {
        row[0]: row[1:]
        for row in project.query(f"select flight_id, {on_postgres} from dev_marts.fct_flights")
    }
    assert len(expected) == FLIGHTS
    assert found.keys() == expected.keys()
    differing = [key for key, row in expected.items() if found[key] != row]
    assert not differing, f"{len(differing)} flights differ, the first {differing[:10]}"


def _hashed(fields: list[SchemaField], seconds: dict[str, str], text: str) -> str:
    values = [seconds.get(field.field_type, "{}").format(field.name) for field in fields]
    texts = [f"coalesce(cast({value} as {text}), 'none')" for value in values]
    return "md5(concat({}))".format(", '|', ".join(texts))
