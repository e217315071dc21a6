"""Builds the merged `run_results.json` of a run, and dbt result objects for `on-run-end` hooks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from dbt.artifacts.schemas.freshness import PartialSourceFreshnessResult
from dbt.artifacts.schemas.results import FreshnessStatus, RunStatus, TestStatus, TimingInfo
from dbt.artifacts.schemas.run import RunResult, RunResultsArtifact
from dbt.version import __version__ as dbt_version

from prefect_flows.transform.results import NodeResult


def run_results(
    results: Iterable[NodeResult],
    documents: Mapping[str, Mapping[str, Any]],
    *,
    seconds: float,
    invocation_id: str,
    arguments: Mapping[str, Any],
) -> bytes:
    """Build the `run_results.json` of all stages and attempts, in dbt's schema.

    Each entry has an additional key `millrace`: stage, number of attempts, failure class, and
    whether the result comes from the run that this one resumed. The compiled SQL of such a node is
    not in the journal, and therefore null.

    Args:
        results: the results of all nodes.
        documents: node id → dbt's entry of its last attempt.
        seconds: wall time of the run.
        invocation_id: id of the run.
        arguments: arguments of the run.
    """
    return json.dumps(
        {
            "metadata": {
                "dbt_schema_version": str(RunResultsArtifact.dbt_schema_version),
                "dbt_version": dbt_version,
                "generated_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "invocation_id": invocation_id,
                "env": {},
            },
            "results": [
                {
                    **(documents.get(result.unique_id) or _entry(result)),
                    "millrace": {
                        "stage": result.stage,
                        "attempts": result.attempts,
                        "cause": result.cause,
                        "resumed": result.resumed,
                    },
                }
                for result in results
            ],
            "elapsed_time": seconds,
            "args": dict(arguments),
        },
        default=str,
    ).encode()


def dbt_result(result: NodeResult, node: Any) -> RunResult | PartialSourceFreshnessResult:
    """Build dbt's result object of a node that an earlier process ran, for `on-run-end` hooks.

    The node is not compiled, and the result has no age of a source: the journal has neither.
    """
    timing = []
    if result.started_at is not None and result.completed_at is not None:
        # dbt's timestamps are UTC without a time zone.
        moments = [each.replace(tzinfo=None) for each in (result.started_at, result.completed_at)]
        timing = [TimingInfo("execute", *moments)]
    values: dict[str, Any] = {
        "node": node,
        "timing": timing,
        "thread_id": result.thread or "",
        "execution_time": result.seconds,
        "message": result.message,
        "adapter_response": dict(result.response),
        "failures": result.failures,
    }
    if result.resource_type == "source":
        return PartialSourceFreshnessResult(status=FreshnessStatus(result.status), **values)
    is_test = result.resource_type in ("test", "unit_test")
    status = TestStatus(result.status) if is_test else RunStatus(result.status)
    return RunResult(status=status, **values)


def _entry(result: NodeResult) -> dict[str, Any]:
    """Build an entry like dbt's for a node that an earlier process ran."""
    timing = []
    if result.started_at is not None and result.completed_at is not None:
        timing = [
            {
                "name": "execute",
                "started_at": result.started_at.isoformat(),
                "completed_at": result.completed_at.isoformat(),
            }
        ]
    return {
        "status": result.status,
        "timing": timing,
        "thread_id": result.thread or "",
        "execution_time": result.seconds,
        "adapter_response": dict(result.response),
        "message": result.message,
        "failures": result.failures,
        "unique_id": result.unique_id,
        "compiled": None,
        "compiled_code": None,
        "relation_name": None,
        "batch_results": None,
    }
