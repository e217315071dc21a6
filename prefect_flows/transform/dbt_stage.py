"""A stage of the pipeline that runs dbt: its attempts, and the record of what they did."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from prefect_flows.causes import Cause, cause_of
from prefect_flows.errors import StageFailed
from prefect_flows.stages import Logger
from prefect_flows.transform.results import FAILED, SKIPPED, NodeResult, counts, left_to_do
from prefect_flows.transform.session import DbtSession


class DbtStage:
    """One dbt command over the selected nodes, tried until nothing is left that may pass.

    Args:
        session: the dbt project and its target.
        name: the stage's name, which is also its task's: `dbt-run`.
        command: dbt's command, for example `["source", "freshness"]`.
        arguments: selection and flags of the first attempt.
        total: number of nodes that the selection holds for this command.
    """

    def __init__(
        self,
        session: DbtSession,
        name: str,
        command: Sequence[str],
        arguments: Sequence[str],
        total: int,
        flags: Sequence[str] = (),
    ) -> None:
        self.session = session
        self.name = name
        self.command = list(command)
        self.arguments = list(arguments)
        self.flags = list(flags)
        self.total = total
        self.attempts = 0
        self.seconds = 0.0
        self.results: dict[str, NodeResult] = {}

    def attempt(self, log: Logger) -> dict[str, Any]:
        """Run what is left, and return the record of all attempts so far.

        Raises:
            StageFailed: a node failed; `retryable` when a further attempt has something to do.
        """
        arguments, total = self.arguments, self.total
        if self.results:
            left = left_to_do(self.results, self.session.manifest.child_map)
            arguments = ["--select", *(f"fqn:{'.'.join(node.fqn)}" for node in left)]
            total = len(left)
            log.info("Attempt %d runs the %d nodes that are left.", self.attempts + 1, total)
        self.attempts += 1
        started = time.monotonic()
        outcome = self.session.invoke(
            self.command, [*arguments, *self.flags], _NodeLog(log, total).listen
        )
        self.seconds += time.monotonic() - started
        for result in outcome.results:
            node = NodeResult.from_dbt(
                result,
                outcome.causes,
                self._attempts_of(result.node.unique_id) + (str(result.status) != SKIPPED),
            )
            self.results[node.unique_id] = node
        if outcome.exception is not None:
            raise self._ended_by(outcome.exception) from outcome.exception
        failed = [node for node in self.results.values() if node.failed]
        if failed:
            raise self._failed(failed)
        if not outcome.success:
            raise self._ended_by(RuntimeError("it reports a failure that no node explains"))
        return self.record()

    def record(self) -> dict[str, Any]:
        """Plain JSON-able data: counts by status, seconds, attempts, and what failed or warned."""
        nodes = self.results.values()
        return {
            "nodes": len(self.results),
            "statuses": counts(nodes),
            "seconds": round(self.seconds, 2),
            "attempts": self.attempts,
            "failed": [_brief(node) for node in nodes if node.failed],
            "warned": [_brief(node) for node in nodes if node.status == "warn"],
        }

    def _attempts_of(self, unique_id: str) -> int:
        return self.results[unique_id].attempts if unique_id in self.results else 0

    def _failed(self, failed: list[NodeResult]) -> StageFailed:
        # The first cause that no retry mends is the one to look at.
        first = min(failed, key=lambda node: node.cause is Cause.TRANSIENT)
        skipped = sum(node.status == SKIPPED for node in self.results.values())
        message = " ".join((first.message or first.status).split())
        command = " ".join(self.command)
        return StageFailed(
            f"{self.name}: {len(failed)} of {len(self.results)} nodes failed, {skipped} skipped. "
            f"First cause ({first.cause}), {first.resource_type} {first.name}: {message}",
            where=f"dbt/{first.path}; compiled in {self.session.target_path / 'compiled'}",
            mend="correct it, and to see it again: cd dbt && uv run dbt "
            f"{command} --target {self.session.profile.target}{_selection_of(first)}",
            record=self.record(),
            retryable=bool(left_to_do(self.results, self.session.manifest.child_map)),
        )

    def _ended_by(self, error: BaseException) -> StageFailed:
        return StageFailed(
            f"{self.name}: dbt did not run through: {' '.join(str(error).split())}",
            where=f"target {self.session.profile.target!r}",
            mend=f"correct it, and to see it again: cd dbt && uv run dbt {' '.join(self.command)} "
            f"--target {self.session.profile.target}",
            record=self.record(),
            retryable=cause_of(error) is Cause.TRANSIENT,
        )


class _NodeLog:
    """Logs one line a finished node, and every warning of dbt that is about something else."""

    def __init__(self, log: Logger, total: int) -> None:
        self._log = log
        self._total = total
        self._done = 0

    def listen(self, event: Any) -> None:
        if event.info.name == "NodeFinished":
            self._done += 1
            node = event.data.node_info
            result = event.data.run_result
            status = node.node_status
            say = self._log.error if status in FAILED else self._log.info
            if status == "warn":
                say = self._log.warning
            say(
                "%d of %d  %-8s %s %s  %s  %.2f s",
                self._done,
                self._total,
                status,
                node.resource_type,
                node.node_name,
                " ".join(result.message.split()),
                result.execution_time,
            )
        elif event.info.level == "warn" and not event.info.name.startswith("Log"):
            self._log.warning("dbt: %s", " ".join(event.info.msg.split()))


def _brief(node: NodeResult) -> dict[str, Any]:
    return {
        "node": node.unique_id,
        "status": node.status,
        "cause": node.cause,
        "message": node.message,
        "failures": node.failures,
        "attempts": node.attempts,
    }


def _selection_of(node: NodeResult) -> str:
    """The argument that selects a node alone; a hook runs with every selection."""
    if node.resource_type == "operation":
        return ""
    if node.resource_type == "source":
        return f" --select source:{'.'.join(node.fqn[-2:])}"
    return f" --select {node.name}"
