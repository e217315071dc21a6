"""A stage of the pipeline that runs dbt: its attempts, and the record of what they did."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dbt.artifacts.schemas.batch_results import BatchResults
from dbt.artifacts.schemas.run import process_run_result

from prefect_flows.core.errors import StageFailed
from prefect_flows.core.failure_class import FailureClass, classify
from prefect_flows.core.hints import get_google_hint
from prefect_flows.core.logger import Logger
from prefect_flows.transform.artifacts import dbt_result
from prefect_flows.transform.event_listener import EventListener, Recorder
from prefect_flows.transform.microbatch import only_failed_batches
from prefect_flows.transform.node_filter import Narrowing
from prefect_flows.transform.node_log import NodeLog
from prefect_flows.transform.repro_command import command_for
from prefect_flows.transform.results import (
    SKIPPED,
    FailedBatch,
    NodeResult,
    counts,
    in_order,
    nodes_to_retry,
)
from prefect_flows.transform.session import DbtSession, InvocationResult

Safe = Callable[[Sequence[NodeResult]], None]


class DbtStage:
    """One dbt command over the selected nodes, tried until nothing is left that may pass.

    Args:
        session: the dbt project and its target.
        name: the stage's name, which is also its task's: `dbt-run`.
        command: dbt's command, for example `["source", "freshness"]`.
        arguments: selection of the first attempt.
        selected: ids of the nodes that the selection holds for this command.
        retries: resource type → how often a node of it is tried again.
        flags: further flags of every attempt.
        done: results of the run that this one resumes; these nodes are not run again.
        safe: makes results safe in the journal.
        watchers: see the stage go by.
        narrowed: whether the arguments hold more nodes than are selected.
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
        safe: Safe,
        watchers: Sequence[EventListener],
        *,
        narrowed: bool = False,
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
        # Entries of dbt's run_results.json.
        self.documents: dict[str, dict[str, Any]] = {}
        # What fixes a node's failure, where its error tells more than that the code is wrong.
        self.fixes: dict[str, str] = {}
        # What dbt's command itself returned at the last attempt.
        self.returned: Any = None
        # Batches of microbatch models of which some succeeded at the last attempt, and some failed.
        self._batches: dict[str, BatchResults] = {}
        self._safe = safe
        self._watchers = watchers
        self._narrowed = narrowed
        # dbt's own results, of the attempts so far.
        self._of_dbt: dict[str, Any] = {}

    def attempt(self, log: Logger) -> dict[str, Any]:
        """Run what is left, and return the record of all attempts so far.

        Raises:
            StageFailed: a node failed; `retryable` when a further attempt has something to do.
        """
        only = self._left()
        if only is not None and (self.attempts or self.results):
            log.info(
                "%s %d of %d nodes, which are left.",
                f"Attempt {self.attempts + 1} runs" if self.attempts else "Going on with",
                len(only),
                len(self.selected),
            )
        self.attempts += 1
        outcome, inlined = self._run(only, [*self._watchers, NodeLog(log, self._compiled)])
        if outcome.exception is not None:
            raise self._ended_by(outcome.exception) from outcome.exception
        failed = [node for node in self.results.values() if node.failed]
        if not failed and not outcome.success:
            failed = inlined
        if failed:
            raise self._failed(failed)
        if not outcome.success:
            raise self._ended_by(RuntimeError("it reports a failure that no node explains"))
        return self.record()

    def _run(
        self, only: set[str] | None, watchers: Sequence[EventListener]
    ) -> tuple[InvocationResult, list[NodeResult]]:
        """Run dbt once, and take up its results; also those of ephemeral models that failed."""
        started = time.monotonic()
        causes: dict[str, FailureClass] = {}
        failed: dict[str, list[FailedBatch]] = {}
        before = dict(self.results)

        def read(result: Any) -> NodeResult:
            node = result.node
            attempts = _attempts(before, node.unique_id) + (str(result.status) != SKIPPED)
            batches = in_order(failed.get(node.unique_id, ()))
            if batches:
                # dbt compiles a copy of the node for each batch.
                node.compiled_path = batches[0].compiled_path
                node.compiled_code = batches[0].compiled_code
            path = self.session.path_of(node)
            return NodeResult.from_dbt(result, path, causes, attempts, self.name, batches)

        def ended(unique_id: str, error: Exception, batch: FailedBatch | None) -> None:
            if batch is not None:
                failed.setdefault(unique_id, []).append(batch)
            causes[unique_id] = classify(error)
            fix = get_google_hint(error, self.session.profile)
            if fix is not None:
                self.fixes[unique_id] = fix

        for watcher in watchers:
            watcher.stage_started(self.name, len(self.selected if only is None else only))
        self.session.compile_again(self.selected if only is None else only)
        recorder = Recorder(self.name, read, self._safe, watchers)
        try:
            with only_failed_batches(self.session.manifest, self._batches):
                outcome = self.session.invoke(
                    self.command,
                    [*self.arguments, *self.flags],
                    recorder,
                    narrowing=self._narrowing(only),
                    on_error=ended,
                )
        finally:
            recorder.close()
            self.seconds += time.monotonic() - started
            self.results |= recorder.results
            for watcher in watchers:
                watcher.stage_finished(self.name)
        self.returned = outcome.returned
        for result in outcome.results:
            unique_id = result.node.unique_id
            # Hooks, and what `fail-fast` left, have a result that nobody saw come.
            self.results[unique_id] = recorder.results.get(unique_id) or read(result)
            self._keep_batches(unique_id, getattr(result, "batch_results", None))
            self._of_dbt[unique_id] = result
            if self.command != ["source", "freshness"]:
                self.documents[unique_id] = process_run_result(result).to_dict(omit_none=False)
        return outcome, list(recorder.inlined.values())

    def _keep_batches(self, unique_id: str, batches: BatchResults | None) -> None:
        """Know for the next attempt which batches failed; without a success all have to run."""
        self._batches.pop(unique_id, None)
        if batches is not None and batches.successful and batches.failed:
            self._batches[unique_id] = batches

    def record(self) -> dict[str, Any]:
        """Plain JSON-able data: counts by status, seconds, attempts, and what failed or warned."""
        nodes = self._counted()
        return {
            "nodes": len(nodes),
            "statuses": counts(nodes),
            "seconds": round(self.seconds, 2),
            "attempts": self.attempts,
            "resumed": sum(node.resumed for node in nodes),
            "rows": sum(node.rows or 0 for node in nodes),
            "bytes": sum(node.bytes or 0 for node in nodes),
            "failed": [_brief(node) for node in nodes if node.failed],
            "warned": [_brief(node) for node in nodes if node.status == "warn"],
        }

    def _counted(self) -> list[NodeResult]:
        """The nodes, and of the hooks those that failed: dbt does not count the others either."""
        return [r for r in self.results.values() if r.resource_type != "operation" or r.failed]

    def _left(self) -> set[str] | None:
        """Ids of the nodes to run; none for all that the selection holds."""
        if self.attempts:
            left = nodes_to_retry(self.results, self.session.manifest.child_map, self.retries)
            # Hooks are no part of a selection; they run with every attempt.
            return {i for i in left if self.results[i].resource_type != "operation"}
        if self.results:
            return set(self.selected) - set(self.results)
        return set(self.selected) if self._narrowed else None

    def _narrowing(self, only: set[str] | None) -> Narrowing | None:
        if only is None:
            return None
        earlier = [i for i in self.selected if i in self.results and i not in only]
        nodes = self.session.manifest.nodes
        # dbt compiles those of its selection first, and skips what one that fails is part of.
        compiled = self._narrowed and self.attempts == 1
        ephemeral = {i for i in nodes if compiled and nodes[i].is_ephemeral_model}
        return Narrowing(
            only | ephemeral,
            self.selected,
            [
                self._of_dbt.get(i) or dbt_result(self.results[i], self.session.node(i))
                for i in earlier
            ],
        )

    def _compiled(self, unique_id: str) -> str | None:
        compiled = self.session.compiled(unique_id)
        return None if compiled is None else str(compiled[0])

    def _failed(self, failed: list[NodeResult]) -> StageFailed:
        first = first_cause(failed)
        nodes = self._counted()
        skipped = sum(node.status == SKIPPED for node in nodes)
        message = " ".join((first.message or first.status).split())
        command = command_for(first, self.session.profile.target)
        return StageFailed(
            f"{self.name}: {len(failed)} of {len(nodes)} nodes failed, {skipped} skipped. "
            f"First cause ({first.cause}), {first.resource_type} {first.name}: {message}",
            where=f"dbt/{first.path}; compiled in {self.session.target_path / 'compiled'}",
            fix=f"{self.fixes.get(first.unique_id, 'correct it')}; to see it again: {command}",
            record=self.record(),
            retryable=bool(
                nodes_to_retry(self.results, self.session.manifest.child_map, self.retries)
            ),
        )

    def _ended_by(self, error: BaseException) -> StageFailed:
        profile = self.session.profile
        command = f"cd dbt && uv run dbt {' '.join(self.command)} --target {profile.target}"
        return StageFailed(
            f"{self.name}: dbt did not run through: {' '.join(str(error).split())}",
            where=f"target {profile.target!r}",
            fix=f"{get_google_hint(error, profile) or 'correct it'}; to see it again: {command}",
            record=self.record(),
            retryable=classify(error) is FailureClass.TRANSIENT,
        )


def first_cause(failed: Sequence[NodeResult]) -> NodeResult:
    """The failure to look at: the first that no retry fixes, else the first."""
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
