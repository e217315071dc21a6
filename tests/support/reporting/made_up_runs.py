"""A state store after made-up runs, for the tests of the pages over all runs."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from prefect_flows.core.settings import Settings
from prefect_flows.reporting.overview.pages import save_run
from prefect_flows.reporting.run_report.build import build_report
from prefect_flows.reporting.run_report.html_page import html_page
from prefect_flows.state.runs import Run, RunHeader, RunStatus
from prefect_flows.state.store import StateStore
from prefect_flows.state.target_state import SOURCES
from prefect_flows.transform.lineage import LineageNode
from prefect_flows.transform.run_report import RunReport
from tests.support.reporting.synthetic import START, facts

LOG = logging.getLogger("millrace.tests")
MARTS = ("fct_flights", "dim_planes", "agg_never_built")


def made_up_report(nodes: int = 10, *, failures: bool = False, **changes: Any) -> RunReport:
    """A run's report; two marts are counted, and one of them is built."""
    report = build_report(facts(nodes, failures=failures))
    mart = {name: mart_node(name) for name in MARTS}
    built = replace(
        next(node for node in report.nodes if node.status == "success"),
        unique_id="model.p.fct_flights", name="fct_flights", path=mart["fct_flights"].path,
        response={"rows_affected": 5, "bytes_processed": 2**30, "bytes_billed": 2**39,
                  "slot_ms": 1500},
    )  # fmt: skip
    lineage = report.lineage | {node.unique_id: node for node in mart.values()}
    return replace(report, nodes=[*report.nodes, built], lineage=lineage, **changes)


def mart_node(name: str) -> LineageNode:
    path = f"models/marts/core/{name}.sql"
    return LineageNode(
        f"model.p.{name}", name, "model", path, (), None, None, frozenset(), None, None
    )


def sources_file(checked: datetime, **statuses: str) -> bytes:
    """dbt's `sources.json`: table of the source `raw` → status; an hour old, each of them."""
    results = [
        {"unique_id": f"source.p.raw.{table}", "status": status}
        if status == "runtime error"
        else {
            "unique_id": f"source.p.raw.{table}", "status": status,
            "max_loaded_at": (checked - timedelta(hours=1)).isoformat(),
            "snapshotted_at": checked.isoformat(), "max_loaded_at_time_ago_in_s": 3600.5,
        }
        for table, status in statuses.items()
    ]  # fmt: skip
    metadata = {"generated_at": checked.isoformat()}
    return json.dumps({"metadata": metadata, "results": results}).encode()


def keep_made_up_run(
    store: StateStore,
    report: RunReport | None,
    *,
    target: str = "dev",
    number: int = 0,
    ended: RunStatus | None = None,
    failure: str | None = None,
    settings: Settings | None = None,
    whole: bool = True,
    seconds: float | None = None,
) -> Run:
    """Run after run as the pipeline leaves it: `number` days after the first."""
    started = START + timedelta(days=number)
    outcome = ended or (report.outcome if report else "failed")
    header = RunHeader(
        id=f"run-{number}", target=target, parameters={}, url=f"http://127.0.0.1:4200/{number}",
        started_at=started,
    )  # fmt: skip
    run = Run(store, header)
    run.begin(None, [])
    if report is None:
        store.write(f"{run.folder}/report.html", b"It was refused.")
    else:
        if seconds is not None:
            report = replace(report, seconds=seconds)
        report = replace(report, target=target, started_at=started, outcome=outcome)
        page = html_page(report).encode()
        store.write(f"{run.folder}/report.html", page)
        store.write(f"targets/{target}/report.html", page)
        if store.read(f"targets/{target}/{SOURCES}") is None:
            store.write(f"targets/{target}/{SOURCES}", sources_file(started, s0="pass"))
    run.end(outcome)
    save_run(
        run, report, outcome, failure, seconds=report.seconds if report else 1.0, whole=whole,
        settings=settings or Settings(), log=LOG,
    )  # fmt: skip
    return run
