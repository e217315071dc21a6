"""A dbt stage of the pipeline: retries of failed nodes over several attempts, and its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dbt.artifacts.schemas.batch_results import BatchResults
from dbt.artifacts.schemas.run import process_run_result

from prefect_flows.core.errors import StageFailed
from prefect_flows.core.failure_class import FailureClass, classify
from prefect_flows.core.formatting import one_line
from prefect_flows.core.hints import get_google_hint
from prefect_flows.core.logger import Logger
from prefect_flows.transform.artifacts import dbt_result
from prefect_flows.transform.event_listener import EventListener, Recorder
from prefect_flows.transform.microbatch import run_failed_batches_only
from prefect_flows.transform.node_filter import NodeFilter
from prefect_flows.transform.node_log import NodeLog
from prefect_flows.transform.repro_command import build_command, format_dbt_command
from prefect_flows.transform.results import (
    SKIPPED,
    FailedBatch,
    NodeResult,
    count_by_status,
    nodes_to_retry,
    order_by_priority,
    summarize_error,
)
from prefect_flows.transform.session import DbtSession, InvocationResult

SaveResults = Callable[[Sequence[NodeResult]], None]


class DbtStage:
    """One dbt command over the selected nodes; each further attempt runs the nodes to retry.

    Args:
        session: the dbt project and its target.
        name: name of the stage and of its task, for example `dbt-run`.
        command: the dbt command, for example `["source", "freshness"]`.
        arguments: the selection.
        selected: ids of the nodes that the command runs.
        retries: resource type → number of retries of a node.
        flags: further flags of the command.
        done: results of the run that this one resumes; these nodes do not run again.
        save: writes results to the journal.
        listeners: get the events of the stage.
        narrowed: whether `arguments` select more nodes than `selected`.
        reasons: node id → why the run executes it, for the log.

    Attributes:
        attempts: number of attempts so far.
        seconds: wall time of all attempts.
        results: node id → its last result.
        earlier: node id → its results at attempts before the last one.
        documents: node id → entry of dbt's `run_results.json`.
        fixes: node id → what fixes its failure, if the error tells it.
        returned: what dbt's command returned at the last attempt.
    """

    def __init__(
        self,
        session: DbtSession,
        name: str,
        command: Sequence[str],
        arguments: Sequence[str],
        selected: Sequence[str],
        retries: Mapping[str, int],
        flags: Sequence[str],
        done: Mapping[str, NodeResult],
        save: SaveResults,
        listeners: Sequence[EventListener],
        *,
        narrowed: bool = False,
        reasons: Mapping[str, str] | None = None,
        verbose: bool = False,
    ) -> None:
        self.session = session
        self.name = name
        self.command = list(command)
        self.arguments = list(arguments)
        self.selected = list(selected)
        self.retries = retries
        self.flags = list(flags)
        self.attempts = 0
        self.seconds = 0.0
        self.results: dict[str, NodeResult] = {i: done[i] for i in self.selected if i in done}
        self.earlier: dict[str, list[NodeResult]] = {}
        self.documents: dict[str, dict[str, Any]] = {}
        self.fixes: dict[str, str] = {}
        self.returned: Any = None
        # Batches of microbatch models of which only some succeeded at the last attempt.
        self._batches: dict[str, BatchResults] = {}
        self._save = save
        self._listeners = listeners
        self._narrowed = narrowed
        self._reasons = reasons or {}
        self._verbose = verbose
        # Node id → dbt's own result object.
        self._dbt_results: dict[str, Any] = {}

    def attempt(self, log: Logger) -> dict[str, Any]:
        """Run the nodes that are left, and return the record of all attempts so far.

        Raises:
            StageFailed: a node failed; `retryable` if a further attempt has nodes to run.
        """
        only = self._remaining()
        if only is not None and (self.attempts or self.results):
            log.info(
                "%s %d of %d nodes.",
                f"Attempt {self.attempts + 1} runs" if self.attempts else "Resuming with",
                len(only),
                len(self.selected),
            )
        self.attempts += 1
        node_log = NodeLog(log, self._compiled_path, self._reasons, verbose=self._verbose)
        outcome, ephemeral = self._run(only, [*self._listeners, node_log])
        if outcome.exception is not None:
            raise self._aborted(outcome.exception) from outcome.exception
        failed = [node for node in self.results.values() if node.failed]
        if not failed and not outcome.success:
            failed = ephemeral
        if failed:
            raise self._failed(failed)
        if not outcome.success:
            raise self._aborted(RuntimeError("it reports a failure that no node explains"))
        return self.record()

    def _run(
        self, only: set[str] | None, listeners: Sequence[EventListener]
    ) -> tuple[InvocationResult, list[NodeResult]]:
        """Run dbt once and store its results; also return failed ephemeral models."""
        started = time.monotonic()
        causes: dict[str, FailureClass] = {}
        failed_batches: dict[str, list[FailedBatch]] = {}
        before = dict(self.results)

        def read_result(result: Any) -> NodeResult:
            node = result.node
            attempts = _attempts(before, node.unique_id) + (str(result.status) != SKIPPED)
            batches = order_by_priority(failed_batches.get(node.unique_id, ()))
            if batches:
                # dbt compiles a copy of the node for each batch, not the node.
                node.compiled_path = batches[0].compiled_path
                node.compiled_code = batches[0].compiled_code
            path = self.session.path_of(node)
            return NodeResult.from_dbt(result, path, causes, attempts, self.name, batches)

        def record_error(unique_id: str, error: Exception, batch: FailedBatch | None) -> None:
            if batch is not None:
                failed_batches.setdefault(unique_id, []).append(batch)
            causes[unique_id] = classify(error)
            fix = get_google_hint(error, self.session.profile)
            if fix is not None:
                self.fixes[unique_id] = fix

        for listener in listeners:
            listener.stage_started(self.name, len(self.selected if only is None else only))
        self.session.reset_compilation(self.selected if only is None else only)
        recorder = Recorder(self.name, read_result, self._save, listeners)
        try:
            with run_failed_batches_only(self.session.manifest, self._batches):
                outcome = self.session.invoke(
                    self.command,
                    [*self.arguments, *self.flags],
                    recorder,
                    node_filter=self._node_filter(only),
                    on_error=record_error,
                )
        finally:
            recorder.close()
            self.seconds += time.monotonic() - started
            self._keep_results(recorder.results)
            for listener in listeners:
                listener.stage_finished(self.name)
        self.returned = outcome.returned
        for result in outcome.results:
            unique_id = result.node.unique_id
            # dbt reports no event for hooks and for nodes that `--fail-fast` skips.
            self.results[unique_id] = recorder.results.get(unique_id) or read_result(result)
            self._keep_batches(unique_id, getattr(result, "batch_results", None))
            self._dbt_results[unique_id] = result
            if self.command != ["source", "freshness"]:
                self.documents[unique_id] = process_run_result(result).to_dict(omit_none=False)
        return outcome, list(recorder.failed_ephemeral.values())

    def _keep_results(self, results: Mapping[str, NodeResult]) -> None:
        for unique_id in results:
            if (replaced := self.results.get(unique_id)) is not None and replaced.attempts:
                self.earlier.setdefault(unique_id, []).append(replaced)
        self.results |= results

    def _keep_batches(self, unique_id: str, batches: BatchResults | None) -> None:
        """Remember which batches failed for the next attempt; if none succeeded, all run again."""
        self._batches.pop(unique_id, None)
        if batches is not None and batches.successful and batches.failed:
            self._batches[unique_id] = batches

    def record(self) -> dict[str, Any]:
        """Return the stage's record, JSON-compatible: counts, seconds, attempts, failures."""
        nodes = self._counted()
        return {
            "nodes": len(nodes),
            "statuses": count_by_status(nodes),
            "seconds": round(self.seconds, 2),
            "attempts": self.attempts,
            "resumed": sum(node.resumed for node in nodes),
            "rows": sum(node.rows or 0 for node in nodes),
            "bytes": sum(node.bytes or 0 for node in nodes),
            "failed": [_brief(node) for node in nodes if node.failed],
            "warned": [_brief(node) for node in nodes if node.status == "warn"],
        }

    def newest_rows(self) -> dict[str, str]:
        """Return source id → time of its newest row, after `dbt source freshness`."""
        return {
            result.node.unique_id: result.max_loaded_at.isoformat()
            for result in getattr(self.returned, "results", ())
            if getattr(result, "max_loaded_at", None) is not None
        }

    def _counted(self) -> list[NodeResult]:
        """Return the results of all nodes, and of failed hooks; like dbt, leave out other hooks."""
        return [r for r in self.results.values() if r.resource_type != "operation" or r.failed]

    def _remaining(self) -> set[str] | None:
        """Return the ids of the nodes to run; None for all nodes of `arguments`."""
        if self.attempts:
            retried = nodes_to_retry(self.results, self.session.manifest.child_map, self.retries)
            # Hooks run with every attempt, whatever is selected.
            return {i for i in retried if self.results[i].resource_type != "operation"}
        if self.results:
            return set(self.selected) - set(self.results)
        return set(self.selected) if self._narrowed else None

    def _node_filter(self, only: set[str] | None) -> NodeFilter | None:
        if only is None:
            return None
        earlier = [i for i in self.selected if i in self.results and i not in only]
        nodes = self.session.manifest.nodes
        # dbt compiles selected ephemeral models first, and skips the models that use a failed one.
        compiled = self._narrowed and self.attempts == 1
        ephemeral = {i for i in nodes if compiled and nodes[i].is_ephemeral_model}
        return NodeFilter(
            only | ephemeral,
            self.selected,
            [
                self._dbt_results.get(i) or dbt_result(self.results[i], self.session.node(i))
                for i in earlier
            ],
        )

    def _compiled_path(self, unique_id: str) -> str | None:
        compiled = self.session.compiled(unique_id)
        return None if compiled is None else str(compiled[0])

    def _failed(self, failed: list[NodeResult]) -> StageFailed:
        first = first_cause(failed)
        profile = self.session.profile
        nodes = self._counted()
        skipped = sum(node.status == SKIPPED for node in nodes)
        message = summarize_error(first.message or first.status)
        command = build_command(
            first,
            profile.target,
            publishes=profile.publishes,
            model_flags=[flag for flag in self.flags if flag.startswith(("--empty", "--sample="))],
        )
        return StageFailed(
            f"{self.name}: {len(failed)} of {len(nodes)} nodes failed, {skipped} skipped. "
            f"First cause ({first.cause}), {first.resource_type} {first.name}: {message}",
            where=f"{self.session.show_path(first.path)}; compiled in "
            f"{self.session.target_path / 'compiled'}",
            fix=f"{self.fixes.get(first.unique_id, 'correct it')}; to reproduce: {command}",
            record=self.record(),
            retryable=bool(
                nodes_to_retry(self.results, self.session.manifest.child_map, self.retries)
            ),
        )

    def _aborted(self, error: BaseException) -> StageFailed:
        profile = self.session.profile
        command = format_dbt_command(" ".join(self.command), profile.target)
        return StageFailed(
            f"{self.name}: dbt aborted: {one_line(str(error))}",
            where=f"target {profile.target!r}",
            fix=f"{get_google_hint(error, profile) or 'correct it'}; to reproduce: {command}",
            record=self.record(),
            retryable=classify(error) is FailureClass.TRANSIENT,
        )


def first_cause(failed: Sequence[NodeResult]) -> NodeResult:
    """Return the failure to look at first: the first that no retry fixes, or else the first."""
    return min(failed, key=lambda node: node.cause is FailureClass.TRANSIENT)


def _attempts(results: Mapping[str, NodeResult], unique_id: str) -> int:
    return results[unique_id].attempts if unique_id in results else 0


def _brief(node: NodeResult) -> dict[str, Any]:
    return {
        "node": node.unique_id,
        "status": node.status,
        "cause": node.cause,
        "message": node.message,
        "failures": node.failures,
        "attempts": node.attempts,
    }
