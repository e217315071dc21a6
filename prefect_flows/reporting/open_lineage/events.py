"""Builds the OpenLineage events of a finished run, from its report.

Each load, each executed model, seed and snapshot, and the data tests of each table are a run of a
job, whose parent is the run of the pipeline. Names follow the specification:
https://openlineage.io/docs/spec/naming
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from prefect_flows.core.formatting import truncate_long
from prefect_flows.core.names import PIPELINE
from prefect_flows.core.profiles import Profile
from prefect_flows.transform.lineage import LineageNode, get_parents, nearest
from prefect_flows.transform.results import NodeResult
from prefect_flows.transform.run_report import RunReport

SPEC = "https://openlineage.io/spec"
PRODUCER = "urn:millrace"
SCHEMA = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
# Facet → version of its schema, and the name of its definition.
_FACETS = {
    "parent": ("1-2-0", "ParentRunFacet"),
    "errorMessage": ("1-0-1", "ErrorMessageRunFacet"),
    "jobType": ("2-0-4", "JobTypeJobFacet"),
    "ownership": ("1-0-1", "OwnershipJobFacet"),
    "outputStatistics": ("1-0-2", "OutputStatisticsOutputDatasetFacet"),
    "dataQualityAssertions": ("1-1-0", "DataQualityAssertionsDatasetFacet"),
}
_BUILT = frozenset({"model", "seed", "snapshot"})
_OUTCOMES = {"passed": "COMPLETE", "cancelled": "ABORT"}
MAX_MESSAGE_CHARACTERS = 10_000


def build_events(report: RunReport, profile: Profile) -> list[dict[str, Any]]:
    """Return the events of a run in the order of their times.

    Messages are those of the report, which hold no personal data.
    """
    return sorted(_Events(report, profile).build(), key=lambda event: event["eventTime"])


class _Events:
    def __init__(self, report: RunReport, profile: Profile) -> None:
        self._report = report
        self._namespace = report.project_name
        self._job = f"{PIPELINE}.{report.target}"
        output = profile.output
        self._database = str(output.get("dbname") or output.get("project") or "")
        # A folder with a socket is no authority of a URL: the server is on this machine.
        host = str(output.get("host", ""))
        host = "localhost" if host.startswith("/") else host
        self._warehouse = (
            "bigquery"
            if profile.warehouse == "bigquery"
            else f"postgres://{host}:{output.get('port', 5432)}"
        )
        self._parents = get_parents(report.lineage)
        self._relations = {i for i, node in report.lineage.items() if node.relation}

    def build(self) -> Iterator[dict[str, Any]]:
        report = self._report
        run: dict[str, Any] = {"runId": report.run_id}
        job = self._get_job(self._job, "DAG", None)
        yield _event("START", report.started_at, run, job)
        ended = run
        if report.first_cause:
            ended = {**run, "facets": _error(report.first_cause)}
        outcome = _OUTCOMES.get(report.outcome, "FAIL")
        yield _event(outcome, report.completed_at, ended, job)
        for source, rows in report.loaded.items():
            outputs = [self._get_loaded(source, table, count) for table, count in rows.items()]
            stages = {f"extract-{source}", f"load-{source}"}
            seconds = sum(stage.seconds for stage in report.stages if stage.stage in stages)
            ended_at = report.started_at + timedelta(seconds=seconds)
            name = f"ingest.{source}"
            yield from self._run(name, "INGEST", None, report.started_at, ended_at, [], outputs)
        for node in report.nodes:
            if node.resource_type in _BUILT and node.started_at and node.completed_at:
                yield from self._build_node(node, node.started_at, node.completed_at)
        yield from self._build_tests()

    def _build_node(
        self, node: NodeResult, started: datetime, ended: datetime
    ) -> Iterator[dict[str, Any]]:
        known = self._report.lineage.get(node.unique_id)
        inputs = [
            self._get_dataset(self._report.lineage[parent])
            for parent in sorted(nearest(self._parents, node.unique_id, self._relations))
        ]
        outputs = []
        if known is not None and known.relation:
            facets = {} if node.rows is None else _facet("outputStatistics", rowCount=node.rows)
            outputs.append({**self._get_dataset(known), "outputFacets": facets})
        yield from self._run(
            node.unique_id,
            node.resource_type.upper(),
            known.owner if known else None,
            started,
            ended,
            inputs,
            outputs,
            error=node.message or node.status if node.failed else None,
        )

    def _build_tests(self) -> Iterator[dict[str, Any]]:
        """Build one run for the tests of each table."""
        tests: dict[str, list[tuple[NodeResult, LineageNode]]] = defaultdict(list)
        for result in self._report.nodes:
            node = self._report.lineage.get(result.unique_id)
            if result.resource_type == "test" and node is not None and result.started_at:
                read = nearest(self._parents, result.unique_id, self._relations)
                declared = node.attached_to if node.attached_to in self._relations else None
                if (about := declared or min(read, default=None)) is not None:
                    tests[about].append((result, node))
        for about, ran in tests.items():
            started = min(result.started_at for result, _ in ran if result.started_at)
            ended = max(result.completed_at or started for result, _ in ran)
            assertions = [_assertion(result, node) for result, node in ran]
            dataset = {
                **self._get_dataset(self._report.lineage[about]),
                "inputFacets": _facet("dataQualityAssertions", assertions=assertions),
            }
            owner = self._report.lineage[about].owner
            yield from self._run(f"tests.{about}", "TEST", owner, started, ended, [dataset], [])

    def _run(
        self,
        name: str,
        kind: str,
        owner: str | None,
        started: datetime,
        ended: datetime,
        inputs: Sequence[dict[str, Any]],
        outputs: Sequence[dict[str, Any]],
        error: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Build start and end of a run of a job within the pipeline."""
        parent = _facet(
            "parent",
            run={"runId": self._report.run_id},
            job={"namespace": self._namespace, "name": self._job},
        )
        run_id = str(uuid.uuid5(uuid.UUID(self._report.run_id), name))
        job = self._get_job(name, kind, owner)
        yield _event("START", started, {"runId": run_id, "facets": parent}, job)
        facets = parent if error is None else parent | _error(error)
        outcome = "COMPLETE" if error is None else "FAIL"
        yield _event(outcome, ended, {"runId": run_id, "facets": facets}, job, inputs, outputs)

    def _get_job(self, name: str, kind: str, owner: str | None) -> dict[str, Any]:
        facets = _facet("jobType", processingType="BATCH", integration="DBT", jobType=kind)
        if owner is not None:
            facets |= _facet("ownership", owners=[{"name": owner}])
        return {"namespace": self._namespace, "name": name, "facets": facets}

    def _get_dataset(self, node: LineageNode) -> dict[str, Any]:
        # dbt quotes each part: "database"."schema"."table", or `project`.`dataset`.`table`.
        name = str(node.relation).replace('"', "").replace("`", "")
        return {"namespace": self._warehouse, "name": name}

    def _get_loaded(self, source: str, table: str, rows: int) -> dict[str, Any]:
        name = f"{self._database}.raw_{source}.{table}"
        return {
            "namespace": self._warehouse,
            "name": name,
            "outputFacets": _facet("outputStatistics", rowCount=rows),
        }


def _assertion(result: NodeResult, node: LineageNode) -> dict[str, Any]:
    assertion: dict[str, Any] = {
        "assertion": node.test_kind or "custom_sql",
        "name": result.name,
        "success": result.status == "pass",
        "severity": "warn" if result.status == "warn" else "error",
    }
    if node.test_column:
        assertion["column"] = node.test_column
    if result.failures is not None:
        assertion |= {"actual": f"{result.failures} rows", "expected": "0 rows"}
    return assertion


def _error(message: str) -> dict[str, Any]:
    text = truncate_long(message, MAX_MESSAGE_CHARACTERS)
    return _facet("errorMessage", message=text, programmingLanguage="SQL")


def _facet(name: str, **fields: Any) -> dict[str, Any]:
    version, definition = _FACETS[name]
    schema = f"{SPEC}/facets/{version}/{definition}.json#/$defs/{definition}"
    return {name: {"_producer": PRODUCER, "_schemaURL": schema, **fields}}


def _event(
    kind: str,
    at: datetime,
    run: Mapping[str, Any],
    job: Mapping[str, Any],
    inputs: Sequence[dict[str, Any]] = (),
    outputs: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    return {
        "eventType": kind,
        "eventTime": at.isoformat(),
        "run": dict(run),
        "job": dict(job),
        "inputs": list(inputs),
        "outputs": list(outputs),
        "producer": PRODUCER,
        "schemaURL": SCHEMA,
    }
