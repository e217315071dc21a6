"""Runs that load a source: what they build after a load, and what they say about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.prefect_flows.publish.test_publish_run import Shop, server, shop

__all__ = ["server", "shop"]  # fixtures

FILES = {
    "models/staging/stg_orders.sql": "select * from {{ source('inbox', 'orders') }}",
    "models/sources.yml": """
sources:
- {name: inbox, schema: raw_files__inbox, tables: [{name: orders}, {name: refunds}]}
""",
    "models/marts/fct_refunds.sql": (
        "{{ config(materialized='table') }} select * from {{ source('inbox', 'refunds') }}"
    ),
}
ORDERS = "id,customer,amount,run\n1,ann,10,1\n2,bob,20,1\n"


@pytest.mark.conformance
def test_only_what_reads_new_rows_is_built(shop: Shop, tmp_path: Path) -> None:
    # GIVEN two tables that are loaded from files, and marts of both, which are published
    shop.write(**FILES)
    inbox = tmp_path / "inbox"
    (inbox / "orders").mkdir(parents=True)
    (inbox / "orders" / "1.csv").write_text(ORDERS)
    (inbox / "refunds.csv").write_text("id,amount\n1,5\n")

    def run(*options: str, status: int = 0) -> str:
        arguments = json.dumps({"files__inbox": {"url": str(inbox), "min_age_seconds": 0}})
        load = ["--source", "files__inbox", "--source-arguments", arguments, "--skip", "docs"]
        done = shop.pipeline(
            "--target", "shop", "--no-prefect", "--verbose", *load, *options, MILLRACE_REUSE="true"
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "0 of 10 nodes" in run()
    built = shop.relations()

    # WHEN a run finds no new rows
    log = run()

    # THEN it writes nothing, and says so in one line
    assert "Nothing changed: all 10 nodes are reused." in log
    assert " of 10  " not in log
    assert shop.relations() == built
    last = max((shop.local / "state" / "runs" / "shop").iterdir())
    assert "Unable to do partial parsing" not in (last / "dbt.log").read_text()

    # WHEN one table gets rows
    (inbox / "orders" / "2.csv").write_text("id,customer,amount,run\n3,eve,-7,2\n")
    log = run(status=1)

    # THEN only what reads it is built, and the test that fails keeps the marts from readers
    assert "9 nodes run, 1 are reused." in log
    assert "model stg_orders" in log
    assert ", because inbox.orders has new data" in log
    assert ", because stg_orders is built" in log
    assert "fct_refunds" not in log
    assert shop.ask("select count(*) from shop.fct_orders") == [(2,)]

    # WHEN the test still fails, although nothing changed
    log = run(status=1)

    # THEN it runs again, and so do the models that were not published
    assert "because its last result was fail" in log
    assert "because no run has executed it" in log
    assert shop.ask("select count(*) from shop.fct_orders") == [(2,)]

    # WHEN the test is repaired, without new rows
    test = "tests/no_negative_amounts.sql"
    shop.write(**{test: "select id from {{ ref('fct_orders') }} where amount < -10"})
    run()

    # THEN readers see all rows, and the report says why each node ran
    assert shop.ask("select sum(amount) from shop.fct_orders") == [(23,)]
    report = (shop.local / "state" / "targets" / "shop" / "report.html").read_text()
    assert "its last result was fail" in report
    assert ">reused</td>" in report
    assert "Nothing changed: all 10 nodes are reused." in run()
    assert "reused" not in run("--no-reuse")

    # WHEN somebody deletes rows of a published mart, which is the parent of the table with its rows
    shop.ask("delete from shop.fct_refunds")
    log = run()

    # THEN it is built again
    assert "fct_refunds" in log
    assert shop.ask("select amount from shop.fct_refunds") == [(5,)]
