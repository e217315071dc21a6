"""Made-up runs of any size, the same at each call, for the tests of what reports show."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from prefect_flows.core.failure_class import FailureClass
from prefect_flows.reporting.run_report.build import Compiled, ReportInput, failing_rows
from prefect_flows.state.run_summary import StageSummary
from prefect_flows.transform.lineage import Column, LineageNode
from prefect_flows.transform.results import NodeResult, count_by_status
from prefect_flows.transform.run_report import RunContext

START = datetime(2026, 11, 20, 6, 0, tzinfo=UTC)
HOSTILE = "<script>alert('x')</script>"


def facts(nodes: int, *, failures: bool = True, threads: int = 4, seed: int = 7) -> ReportInput:
    """A run with that many results: 2 of 5 are models, the rest tests; sources and an exposure."""
    chance = random.Random(seed)
    lineage = _lineage(max(nodes * 2 // 5, 2), nodes, chance)
    results = _results(lineage, failures, threads, chance)
    failed = [result for result in results if result.failed]
    seconds = max((r.completed_at or START) - START for r in results).total_seconds()
    rows = {
        result.unique_id: replace(
            failing_rows(
                ("id", "value_field", "email"),
                [(1, HOSTILE, "a@example.org"), (2, None, "b@example.org")],
                "select id, status as value_field, email from t",
                "postgres",
                frozenset({"email"}),
            ),
            note="The first 2 rows of 12.",
        )
        for result in failed
        if result.resource_type == "test"
    }
    stages = [
        StageSummary(stage="ingest-crm", seconds=3.2, rows=1234567),
        StageSummary(stage="dbt-snapshot", seconds=0, skipped="nothing selected"),
    ]
    for stage in ("dbt-run", "dbt-test"):
        of_stage = [result for result in results if result.stage == stage]
        taken = sum(result.seconds for result in of_stage) / threads
        stages.append(
            StageSummary(
                stage=stage, seconds=taken, statuses=count_by_status(of_stage), attempts=2,
                rows=50_000, bytes=3_210_000_000,
            )
        )  # fmt: skip
    return ReportInput(
        target="dev",
        run_id="0190-example",
        project_name="millrace",
        dialect="postgres",
        outcome="failed" if failed else "passed",
        started_at=START,
        seconds=seconds + 4,
        lineage=lineage,
        results=results,
        stages=stages,
        history=[
            {r.unique_id: r.seconds / (3 if i % 7 == 0 else 1.1) for i, r in enumerate(results)}
        ]
        * 4,
        compiled={
            result.unique_id: Compiled(
                f"target/compiled/{result.name}.sql",
                f"with t as (\n    select * from relation\n)\n\nselect '{HOSTILE}' as x from t",
            )
            for result in failed
        },
        failing_rows=rows,
        marts={"fct_flights": 336_776, "dim_planes": 3_322},
        flow_run_url="http://127.0.0.1:4200/runs/flow-run/1",
        context=RunContext(
            parameters={"select": ["fct_flights+"]}, host="worker-1", commit="0123456789ab-dirty",
            deployment="dev", previous="20261119T060000.000000-0189", has_docs=True,
        ),
        earlier={
            result.unique_id: [
                replace(result, attempts=1, status="error", message="deadlock detected")
            ]
            for result in results
            if result.attempts == 2
        },
    )  # fmt: skip


def _lineage(models: int, nodes: int, chance: random.Random) -> dict[str, LineageNode]:
    found: dict[str, LineageNode] = {}
    sources = max(models // 10, 1)
    for i in range(sources):
        found[f"source.p.raw.s{i}"] = _node(f"source.p.raw.s{i}", "source", ())
    for i in range(models):
        third = i * 3 // models
        layer = ("stg", "int", "fct")[third]
        before = [f for f in found if f.startswith("model.")][max(0, i - 200) :]
        if third == 0 or not before:
            parents = (f"source.p.raw.s{i % sources}",)
        else:
            parents = tuple(sorted(set(chance.sample(before, min(len(before), 2)))))
        name = f"{layer}_crm__entity_{i}"
        found[f"model.p.{name}"] = _node(
            f"model.p.{name}", "model", parents, folder=f"{layer}/{i % 9}"
        )
    made = [f for f in found if f.startswith("model.")]
    for i in range(nodes - models):
        about = made[i % len(made)]
        name = f"not_null_{about.split('.')[-1]}_column_{i}"
        found[f"test.p.{name}"] = _node(f"test.p.{name}", "test", (about,), about=about)
    found["exposure.p.board"] = _node("exposure.p.board", "exposure", tuple(made[-2:]))
    return found


def _node(
    unique_id: str,
    kind: str,
    parents: tuple[str, ...],
    folder: str = "",
    about: str | None = None,
) -> LineageNode:
    name = unique_id.rsplit(".", maxsplit=1)[-1]
    path = f"models/{folder}/{name}.sql"
    owner = "ann@example.org" if kind == "model" else None
    node = LineageNode(unique_id, name, kind, path, parents, owner, None, frozenset(), None, about)
    if kind != "model":
        return node
    columns = (Column("id", "bigint", "Key of the entity."), Column("email", "text", ""))
    return replace(node, tags=(f"layer_{folder[:3]}", "nightly"), columns=columns, keys=("id",))


def _results(
    lineage: dict[str, LineageNode], failures: bool, threads: int, chance: random.Random
) -> list[NodeResult]:
    free = [START] * threads
    ended: dict[str, datetime] = {}
    bad: set[str] = set()
    results = []
    order = [n for n in lineage.values() if n.resource_type == "model"]
    tests = [n for n in lineage.values() if n.resource_type == "test"]
    for node in (*order, *tests):
        is_test = node.resource_type == "test"
        stage = "dbt-test" if is_test else "dbt-run"
        if is_test and node is tests[0]:
            free = [max(free)] * threads
        common = {
            "unique_id": node.unique_id, "name": node.name, "resource_type": node.resource_type,
            "path": node.path, "fqn": ("p", node.name), "stage": stage,
        }  # fmt: skip
        if bad & set(node.parents):
            bad.add(node.unique_id)
            results.append(
                NodeResult(**common, status="skipped", message=None, seconds=0.0, failures=None,
                           attempts=0)
            )  # fmt: skip
            continue
        thread = min(range(threads), key=free.__getitem__)
        ready = max((ended[p] for p in node.parents if p in ended), default=START)
        began = max(free[thread], ready)
        seconds = round(chance.lognormvariate(-1.5 if is_test else 0, 1), 3)
        status, message, cause, failing = ("pass" if is_test else "success"), "OK", None, None
        if (failures and chance.random() < (0.03 if is_test else 0.02)) or (
            failures and len(order) < 10 and node in {order[-2], tests[-1]}
        ):
            if is_test:
                status, failing, cause = "fail", 12, FailureClass.DATA
                message = "Got 12 results, configured to fail if != 0"
            else:
                bad.add(node.unique_id)
                status, cause = "error", FailureClass.CODE
                message = f'Database Error\n  column "{HOSTILE}" does not exist\n  LINE 3: …'
        elif is_test and chance.random() < 0.01:
            status, failing, message = "warn", 3, "Got 3 results"
        free[thread] = ended[node.unique_id] = began + timedelta(seconds=seconds)
        results.append(
            NodeResult(**common, status=status, message=message, seconds=seconds,
                       failures=failing, cause=cause, attempts=2 if len(results) == 3 else 1,
                       response={} if is_test else {"rows_affected": 1000},
                       started_at=began, completed_at=free[thread],
                       thread=f"Thread-{thread + (10 if is_test else 1)}")
        )  # fmt: skip
    return results
