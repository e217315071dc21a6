"""Reuse on BigQuery's stand-in: the time of a table's last modification decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.bigquery.emulator import BigQuery
from tests.support.project import SCRATCH_DBT, Project, neighbour

pytestmark = pytest.mark.bigquery
SOURCES = """
sources:
- {name: shop, schema: shop, tables: [{name: orders}]}
"""


def test_only_what_reads_a_modified_table_is_built(
    project: Project, bigquery: BigQuery, tmp_path: Path
) -> None:
    # GIVEN a model of a source, a view of it, and models of no source
    reusing = neighbour(project, tmp_path / "millrace", SCRATCH_DBT)
    reusing.environment = bigquery.environment
    outputs = reusing.folder / "outputs.json"
    target = bigquery.target("scratch", project="reuse", threads=1)
    outputs.write_text(json.dumps({"dbt_targets": {"value": {"reuse": target}}}))
    done = reusing.setup("--outputs", str(outputs), "--target", "reuse")
    assert done.returncode == 0, done.stdout + done.stderr
    models = reusing.folder / "dbt" / "models"
    (models / "sources.yml").write_text(SOURCES)
    (models / "orders.sql").write_text(
        "{{ config(materialized='table') }} select id from {{ source('shop', 'orders') }}"
    )
    (models / "seen.sql").write_text("select id from {{ ref('orders') }}")
    client = bigquery.client()
    client.create_dataset("reuse.shop")
    client.query("create table reuse.shop.orders as select 1 as id").result()

    def run() -> str:
        options = [
            "--target",
            "reuse",
            "--no-prefect",
            "--verbose",
            "--skip",
            "ingest",
            "--skip",
            "docs",
        ]
        done = reusing.pipeline(*options, MILLRACE_REUSE="true")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr

    assert "are reused" not in run()
    assert "Nothing changed: all 4 nodes are reused." in run()

    # WHEN the source gets a row
    client.query("insert into reuse.shop.orders values (2)").result()
    log = run()
    rows = client.query("select count(*) as n from reuse.scratch.seen").result()

    # THEN what reads it is built
    assert "2 nodes run, 2 are reused." in log
    assert ", because shop.orders has changed" in log
    assert [row["n"] for row in rows] == [2]

    # WHEN somebody drops a table, and changes rows of another one
    client.query("drop table reuse.scratch.orders").result()
    client.query("update reuse.scratch.numbers set id = 7 where true").result()
    log = run()

    # THEN both are built, and what reads them
    assert ", because its relation is missing" in log
    assert ", because its relation was changed outside the pipeline" in log
    assert "are reused" not in log
    assert "Nothing changed: all 4 nodes are reused." in run()
    client.close()
