"""A dump of a real Postgres into BigQuery's stand-in: types, a cursor, deletes.

Not numbers with more than 38 digits: the stand-in's BIGNUMERIC has no more.
"""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import pytest

from prefect_flows.core.environment import set_variables
from prefect_flows.core.profiles import Profile
from prefect_flows.ingest.destinations.target import postgres_url
from prefect_flows.ingest.source_load import ingest

# It warns that it has no faster way to read rows.
pytestmark = pytest.mark.filterwarnings("ignore:Cannot create BigQuery Storage client")
PROJECT = "dump"


def test_a_table_is_dumped_merged_and_loses_its_deleted_rows(bigquery, database) -> None:
    url = postgres_url(database.profile).render_as_string(hide_password=False)
    output = {
        "type": "bigquery", "method": "oauth-secrets", "token": "made-up", "project": PROJECT,
        "schema": "dev", "threads": 1, "location": "US", "api_endpoint": bigquery.proxy.url,
    }  # fmt: skip
    profile = Profile.from_output("millrace", "prod", output)
    client = bigquery.client()

    def dump() -> Any:
        tables = {"items": {"cursor": "moment", "deletes": True}}
        with set_variables(bigquery.environment):
            return ingest("sql__database", profile, url=url, tables=tables)

    def rows(columns: str) -> list[tuple]:
        sql = f"select {columns} from {PROJECT}.raw_sql__database.items order by id"
        return [tuple(row.values()) for row in client.query(sql).result()]

    database.query(
        "create table items (id int primary key, moment timestamptz, name text, "
        "amount numeric(12,2), day date, tags text[], body jsonb, raw bytea)"
    )
    database.query(
        "insert into items select i, timestamptz '2024-01-01' + i * interval '1 day', 'süß', "
        "i / 4.0, '2024-01-01', '{a,b}', '{\"a\": 1}', '\\x00ff' "
        "from generate_series(1, 20) i"
    )
    assert dump().rows["items"] == 20
    first = rows("id, moment, name, amount, day, raw")[0]
    assert first == (
        1, dt.datetime(2024, 1, 2, tzinfo=dt.UTC), "süß", Decimal("0.25"), dt.date(2024, 1, 1),
        b"\x00\xff",
    )  # fmt: skip
    assert [json.loads(text) for text in rows("tags, body")[0]] == [["a", "b"], {"a": 1}]

    database.query("delete from items where id % 2 = 0")
    database.query("update items set name = 'new', moment = '2025-01-01' where id = 1")

    assert dump().removed["items"] == 10
    assert [row[0] for row in rows("id")] == list(range(1, 21, 2))
    assert rows("name")[0] == ("new",)
    client.close()
