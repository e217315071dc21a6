"""Collects results, failing rows and timings of a finished run; saves and publishes its report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dbt_common.exceptions import DbtBaseException

from prefect_flows.core.code_version import get_version
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.names import artifact
from prefect_flows.core.settings import Settings
from prefect_flows.reporting.column_lineage import add_columns, column_lineage
from prefect_flows.reporting.run_report import build as reports
from prefect_flows.reporting.run_report import stage_summaries
from prefect_flows.reporting.run_report.artifact import cards_markdown, headline
from prefect_flows.reporting.run_report.html_page import html_pages
from prefect_flows.reporting.run_report.key_columns import with_key_columns
from prefect_flows.runtime.base import Runtime
from prefect_flows.runtime.parameters import Parameters
from prefect_flows.state.run_summary import PublishedData, StageSummary, load_history
from prefect_flows.state.runs import Run, RunStatus
from prefect_flows.state.target_state import DOCS, REPORT, RUN_RESULTS, TargetState
from prefect_flows.transform.artifacts import run_results
from prefect_flows.transform.dbt_stage import DbtStage
from prefect_flows.transform.lineage import LineageNode, build_lineage, get_checksums
from prefect_flows.transform.results import NodeResult
from prefect_flows.transform.reuse.plan import ReusePlan
from prefect_flows.transform.run_report import FailingRows, RunContext, RunReport
from prefect_flows.transform.session import DbtSession

# Number of failed tests whose rows are fetched, and of rows of each.
MAX_TESTS_WITH_ROWS = 20
MAX_FETCHED_ROWS = 10


class RunReporter:
    """Saves and publishes the report of a run."""

    def __init__(
        self,
        session: DbtSession,
        stored: Run,
        state: TargetState,
        runtime: Runtime,
        settings: Settings,
    ) -> None:
        self._session = session
        self._settings = settings
        self._stored = stored
        self._state = state
        self._runtime = runtime

    def report(
        self,
        record: Mapping[str, Any],
        stages: Sequence[DbtStage],
        status: RunStatus,
        failure: str | None,
        plan: ReusePlan | None,
    ) -> RunReport | None:
        """Save results and report in the state store, and publish them as Prefect artifacts.

        Returns:
            The report; None if the run ended before the dbt project was parsed. Then only a page
            with the cause is saved.
        """
        target = self._session.profile.target
        publish = self._runtime.publish
        results = [result for stage in stages for result in stage.results.values()]
        earlier = {i: each for stage in stages for i, each in stage.earlier.items()}
        if self._stored.journal.failure is not None:
            self._runtime.log.warning("%s", self._stored.journal.failure)
        report = None
        if self._session.is_parsed:
            history = self._state.timings(self._runtime.log.warning)
            self._save_results(record, stages, results, history)
            report = self._build_report(record, results, earlier, history, status, failure, plan)
            self._save_page(report)
            publish(artifact(target, "report"), cards_markdown(report), headline(report))
            record = _with_redacted_messages(record, report)
        else:
            refused = self._build_refused_report(record, status, failure)
            self._save_page(refused)
            publish(artifact(target, "report"), cards_markdown(refused), headline(refused))
        for key, text, about in (
            ("extraction", stage_summaries.extraction(record), "what was read from the sources"),
            ("load", stage_summaries.load(record), "what was loaded into the warehouse"),
            ("transformation", stage_summaries.transformation(record), "seeds, snapshots, models"),
            ("validation", stage_summaries.validation(record), "freshness and tests"),
            ("run", stage_summaries.run(record, failure), status),
        ):
            publish(artifact(target, key), text, about)
        if report is not None and self._runtime.unreported:
            self._save_page(replace(report, unreported=self._runtime.unreported))
        return report

    def _build_report(
        self,
        record: Mapping[str, Any],
        results: Sequence[NodeResult],
        earlier: Mapping[str, Sequence[NodeResult]],
        history: list[dict[str, float]],
        status: RunStatus,
        failure: str | None,
        plan: ReusePlan | None,
    ) -> RunReport:
        session = self._session
        lineage = build_lineage(session.manifest)
        failed = [result.unique_id for result in results if result.failed]
        compiled = reports.get_compiled(session.manifest)
        facts = reports.ReportInput(
            target=session.profile.target,
            run_id=self._stored.header.id,
            project_name=session.manifest.metadata.project_name or "",
            dialect=session.profile.warehouse,
            outcome=status,
            started_at=self._stored.header.started_at,
            seconds=record["seconds"],
            lineage=lineage,
            results=results,
            stages=list(_stage_lines(record)),
            history=history,
            compiled=compiled,
            failing_rows=dict(fetch_failing_rows(session, results, lineage, compiled))
            if status == "failed"
            else {},
            marts=record.get("marts", {}),
            loaded={name: load["rows"] for name, load in record.get("ingest", {}).items()},
            flow_run_url=self._runtime.url,
            first_cause=None if failed else failure,
            flags=_flags(session.vars),
            model_flags=_model_flags(self._stored.header.parameters),
            unreported=self._runtime.unreported,
            published=_published_data(record),
            plan=plan,
            context=self._context(),
            earlier=earlier,
        )
        report = reports.build_report(facts)
        checksums = get_checksums(session.manifest)
        warn = self._runtime.log.warning
        return add_columns(report, column_lineage(self._settings.local_dir, checksums, warn))

    def _build_refused_report(
        self, record: Mapping[str, Any], status: RunStatus, failure: str | None
    ) -> RunReport:
        return RunReport(
            target=self._session.profile.target,
            run_id=self._stored.header.id,
            flow_run_url=self._runtime.url,
            project_name="",
            outcome=status,
            first_cause=failure,
            started_at=self._stored.header.started_at,
            seconds=record["seconds"],
            unreported=self._runtime.unreported,
            context=self._context(),
        )

    def _context(self) -> RunContext:
        header, store = self._stored.header, self._stored.store
        usual = Parameters().identity() | {"target": header.target}
        history = load_history(store, header.target, self._runtime.log.warning)
        earlier = [run.folder for run in history.runs if run.has_report] if history else []
        return RunContext(
            parameters={
                name: value for name, value in header.parameters.items() if value != usual.get(name)
            },
            host=header.host,
            commit=_find_version(self._settings),
            deployment=self._runtime.deployment(),
            previous=earlier[-1] if earlier else None,
            has_docs=DOCS in store.names(self._state.folder),
        )

    def _save_page(self, report: RunReport) -> None:
        folders = (self._stored.folder, self._state.folder)
        roots = ["/".join([".."] * (folder.count("/") + 1)) for folder in folders]
        for folder, page in zip(folders, html_pages(report, roots), strict=True):
            self._stored.store.write(f"{folder}/{REPORT}", page.encode())

    def _save_results(
        self,
        record: Mapping[str, Any],
        stages: Sequence[DbtStage],
        results: Sequence[NodeResult],
        history: list[dict[str, float]],
    ) -> None:
        documents = {i: document for stage in stages for i, document in stage.documents.items()}
        header = self._stored.header
        merged = run_results(
            results,
            documents,
            seconds=record["seconds"],
            invocation_id=header.id,
            arguments=header.parameters,
        )
        for folder in (self._stored.folder, self._state.folder):
            self._stored.store.write(f"{folder}/{RUN_RESULTS}", merged)
        (self._session.target_path / RUN_RESULTS).write_bytes(merged)
        seconds = {r.unique_id: r.seconds for r in results if r.done and not r.resumed}
        if seconds:
            self._state.add_timings(history, seconds)
        self._stored.store.put(self._session.log_dir / "dbt.log", f"{self._stored.folder}/dbt.log")


def _find_version(settings: Settings) -> str | None:
    """Return the commit of the code; None in a folder that is no clone, which also has reports."""
    try:
        return get_version(settings)
    except ConfigurationError:
        return None


def fetch_failing_rows(
    session: DbtSession,
    results: Sequence[NodeResult],
    lineage: Mapping[str, LineageNode],
    compiled: Mapping[str, reports.Compiled],
) -> Iterator[tuple[str, FailingRows]]:
    """Yield the rows of the first failed tests, queried from the warehouse again."""
    failed = [
        result.unique_id
        for result in results
        if result.status == "fail"
        and result.resource_type == "test"
        and result.unique_id in compiled
    ][:MAX_TESTS_WITH_ROWS]
    dialect = session.profile.warehouse
    personal = reports.find_personal_columns_near(lineage, failed, compiled, dialect)
    for unique_id in failed:
        test = lineage[unique_id]
        tested = lineage.get(test.attached_to or next(iter(test.parents), ""))
        keys = tested.keys if tested else ()
        sql = with_key_columns(compiled[unique_id].sql or "", dialect, keys)
        try:
            columns, rows = session.first_rows(sql, MAX_FETCHED_ROWS)
        except DbtBaseException as error:
            note = f"They could not be fetched: {type(error).__name__}."
            yield unique_id, FailingRows((), [], note=note)
            continue
        pii = personal.get(unique_id, frozenset())
        yield unique_id, reports.failing_rows(columns, rows, sql, dialect, pii, keys)


def _with_redacted_messages(record: Mapping[str, Any], report: RunReport) -> dict[str, Any]:
    """Return the record with the report's messages, which hold no personal data."""
    messages = {node.unique_id: node.message for node in report.nodes}

    def redacted(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [node | {"message": messages.get(node["node"])} for node in nodes]

    return {
        stage: stage_record
        | {"failed": redacted(stage_record["failed"]), "warned": redacted(stage_record["warned"])}
        if isinstance(stage_record, dict) and "failed" in stage_record
        else stage_record
        for stage, stage_record in record.items()
    }


def _stage_lines(record: Mapping[str, Any]) -> Iterator[StageSummary]:
    for source, load in record.get("ingest", {}).items():
        rows = sum(load["rows"].values())
        yield StageSummary(
            stage=f"extract-{source}",
            seconds=load["extract_seconds"],
            rows=rows,
            bytes=load["bytes"],
        )
        yield StageSummary(stage=f"load-{source}", seconds=load["load_seconds"], rows=rows)
    for stage in ("freshness", "seed", "snapshot", "run", "test", "build"):
        stage_record = record.get(stage)
        if stage_record is None:
            continue
        if "skipped" in stage_record:
            yield StageSummary(stage=f"dbt-{stage}", seconds=0.0, skipped=stage_record["skipped"])
        else:
            yield StageSummary(
                stage=f"dbt-{stage}",
                seconds=stage_record["seconds"],
                statuses=stage_record["statuses"],
                attempts=stage_record["attempts"],
                rows=stage_record["rows"] or None,
                bytes=stage_record["bytes"] or None,
            )
    if "publish" in record:
        publish = record["publish"]
        yield StageSummary(stage="publish-prepare", seconds=publish["prepare_seconds"])
        published = {"published": len(publish["models"])} if publish["models"] else {}
        yield StageSummary(stage="publish", statuses=published, seconds=publish["seconds"])
    if "docs" in record:
        docs = record["docs"]
        documented = {"documented": docs["relations"]}
        yield StageSummary(stage="dbt-docs", statuses=documented, seconds=docs["seconds"])


def _published_data(record: Mapping[str, Any]) -> PublishedData | None:
    publish = record.get("publish")
    return None if publish is None else PublishedData.model_validate(publish["readers"])


def _flags(vars: Mapping[str, Any]) -> str:
    return f"--vars {shlex.quote(json.dumps(dict(vars)))}" if vars else ""


def _model_flags(parameters: Mapping[str, Any]) -> list[str]:
    sample = parameters.get("sample")
    return [
        *(["--empty"] if parameters.get("empty") else []),
        *([] if sample is None else [f"--sample={sample}"]),
    ]
