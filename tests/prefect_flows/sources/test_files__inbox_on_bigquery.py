"""The same source on BigQuery's stand-in: loaded, replaced, and killed loads removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_flows.core.environment import set_variables
from prefect_flows.core.profiles import Profile
from prefect_flows.ingest.source_load import ingest

# It warns that it has no faster way to read rows.
pytestmark = pytest.mark.filterwarnings("ignore:Cannot create BigQuery Storage client")
PROJECT = "inbox"
DATASET = f"{PROJECT}.raw_files__inbox"


def test_files_are_loaded_once_and_replaced(bigquery, inbox: Path) -> None:
    output = {
        "type": "bigquery", "method": "oauth-secrets", "token": "made-up", "project": PROJECT,
        "schema": "dev", "threads": 1, "location": "US", "api_endpoint": bigquery.proxy.url,
    }  # fmt: skip
    profile = Profile.from_output("millrace", "prod", output)
    client = bigquery.client()

    def load(**arguments: object) -> dict[str, int]:
        with set_variables(bigquery.environment):
            given = {"url": str(inbox), "min_age_seconds": 0} | arguments
            return ingest("files__inbox", profile, **given).rows

    def asked(sql: str) -> list[tuple]:
        return [tuple(row.values()) for row in client.query(sql).result()]

    (inbox / "t").mkdir()
    (inbox / "t/1.csv").write_text("id,größe,day\n1,0.5,2024-01-01\n2,,\n")
    (inbox / "t/2.csv").write_text("id\nx\n")
    assert load() == {"t": 2, "_files": 2}
    assert load() == {"t": 0, "_files": 0}
    (inbox / "t/1.csv").write_text("id,more\n7,x\n")
    (inbox / "t/3.csv").write_text("id\n8\n")
    assert load() == {"t": 2, "_files": 2}
    rows = f"select id, more, _file, _row from {DATASET}.t order by id"
    expected = [(7, "x", "t/1.csv", 1), (8, None, "t/3.csv", 1)]
    assert asked(rows) == expected
    # What a killed load left behind goes before the next one.
    newer = "'9999999999.5'"
    asked(f"insert into {DATASET}.t (id, _file, _dlt_load_id) values (9, 'x', {newer})")
    load()
    assert asked(rows) == expected
    statuses = f"select file, status, line_number from {DATASET}._files order by file, status"
    assert asked(statuses) == [
        ("t/1.csv", "loaded", None), ("t/1.csv", "replaced", None),
        ("t/2.csv", "quarantined", 2), ("t/3.csv", "loaded", None),
    ]  # fmt: skip
    client.close()
