"""Node results of dbt: status, failure class, attempts, and which nodes to retry."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from prefect_flows.core.failure_class import FailureClass
from prefect_flows.core.formatting import one_line

# Statuses that `dbt retry` runs again, and after which dbt exits with code 1.
FAILED = frozenset({"error", "fail", "runtime error", "partial success"})
SKIPPED = "skipped"
# In dbt's `adapter_response`: the number of tests that its statement ran.
SHARED_BY = "tests_in_statement"
# A message lists at most this many failed batches of a microbatch model.
MAX_LISTED_BATCHES = 3
# Resource types whose statements write rows; for others, dbt reports the rows of a select.
WRITTEN = frozenset({"model", "seed", "snapshot"})


@dataclass(frozen=True)
class FailedBatch:
    """A batch of a microbatch model that failed.

    Attributes:
        unique_id: dbt's id of the model.
        name: dbt's name of the batch, for example `2026-01-31`.
        begin: start of its interval, UTC.
        end: end of its interval (exclusive), UTC.
        cause: failure class.
        message: the error.
    """

    unique_id: str
    name: str
    begin: datetime
    end: datetime
    cause: FailureClass
    message: str
    compiled_path: str | None = None
    compiled_code: str | None = None


def order_by_priority(batches: Iterable[FailedBatch]) -> list[FailedBatch]:
    """Sort failed batches: those that no retry fixes first, then by time."""
    return sorted(batches, key=lambda batch: (batch.cause is FailureClass.TRANSIENT, batch.begin))


@dataclass(frozen=True)
class NodeResult:
    """The result of one node.

    Attributes:
        unique_id: dbt's id, for example `model.millrace.fct_flights`.
        status: dbt's status: success, error, skipped; pass, fail, warn; runtime error, no-op.
        seconds: execution time.
        failures: rows that a test returned.
        cause: failure class; None if the node did not fail.
        attempts: number of attempts.
        stage: the stage that ran it, for example `dbt-run`.
        started_at: when the last attempt started, UTC; None if nothing was executed.
        completed_at: when the last attempt ended, UTC; None if nothing was executed.
        thread: name of dbt's thread.
        response: dbt's `adapter_response`.
        resumed: whether the result comes from the run that this one resumed.
        failed_batch: interval of the failed batch to look at first, UTC; microbatch models only.
    """

    unique_id: str
    name: str
    resource_type: str
    path: str
    fqn: tuple[str, ...]
    status: str
    message: str | None
    seconds: float
    failures: int | None
    cause: FailureClass | None = None
    attempts: int = 1
    stage: str = ""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    thread: str | None = None
    response: Mapping[str, Any] = field(default_factory=dict)
    resumed: bool = False
    failed_batch: tuple[datetime, datetime] | None = None

    @property
    def failed(self) -> bool:
        """Whether the node failed; a skipped node did not."""
        return self.status in FAILED

    @property
    def done(self) -> bool:
        """Whether the node passed, so that a resumed run does not run it again."""
        return not self.failed and self.status != SKIPPED

    @property
    def rows(self) -> int | None:
        """Rows that the statement wrote, if the warehouse reports them."""
        rows = self.response.get("rows_affected") if self.resource_type in WRITTEN else None
        return int(rows) if isinstance(rows, (int, float)) and rows >= 0 else None

    @property
    def bytes(self) -> int | None:
        """Bytes that the statement processed, if the warehouse reports them."""
        processed = self.response.get("bytes_processed")
        return int(processed) if isinstance(processed, (int, float)) else None

    @property
    def slot_seconds(self) -> float | None:
        """BigQuery slot time of the statement in seconds."""
        milliseconds = self.response.get("slot_ms")
        return milliseconds / 1000 if isinstance(milliseconds, (int, float)) else None

    @property
    def is_shared(self) -> bool:
        """Whether several tests ran in its statement; time and bytes are its share."""
        return SHARED_BY in self.response

    @classmethod
    def from_dbt(
        cls,
        result: Any,
        path: str,
        causes: Mapping[str, FailureClass],
        attempts: int,
        stage: str,
        batches: Sequence[FailedBatch] = (),
    ) -> Self:
        """Convert dbt's result of a node.

        The failure class is `data` for a test that returned rows and a failed freshness check,
        `code` for an error without a database error (a contract, a macro, a hook), and that of the
        first failed batch for a microbatch model.

        Args:
            result: dbt's result.
            path: path of the node's file in the dbt project.
            causes: node id → failure class of its exception.
            attempts: number of attempts so far.
            stage: name of the stage.
            batches: failed batches of the node, in the order of `order_by_priority`.
        """
        node = result.node
        status = str(result.status)
        stale = str(node.resource_type) == "source" and status in ("error", "warn")
        timing = [(t.started_at, t.completed_at) for t in result.timing if t.completed_at]
        cause = None
        if status in FAILED:
            is_data = status == "fail" or stale
            cause = causes.get(node.unique_id, FailureClass.DATA if is_data else FailureClass.CODE)
        message = result.message or (_format_staleness(result) if stale else None)
        if cause is not None and batches:
            cause, message = batches[0].cause, f"{message}: {_format_batch_errors(batches)}"
        return cls(
            unique_id=node.unique_id,
            name=display_name(node),
            resource_type=str(node.resource_type),
            path=path,
            fqn=tuple(node.fqn),
            status=status,
            message=message,
            seconds=round(result.execution_time, 3),
            failures=result.failures,
            cause=cause,
            attempts=attempts,
            stage=stage,
            started_at=min((_utc(start) for start, _ in timing), default=None),
            completed_at=max((_utc(end) for _, end in timing), default=None),
            thread=result.thread_id or None,
            response=dict(getattr(result, "adapter_response", None) or {}),
            failed_batch=(batches[0].begin, batches[0].end)
            if cause is not None and batches
            else None,
        )


def _format_batch_errors(batches: Sequence[FailedBatch]) -> str:
    """Format the errors of the first batches, and how many more failed."""
    errors = [f"batch {b.name}: {one_line(b.message)}" for b in batches[:MAX_LISTED_BATCHES]]
    more = len(batches) - len(errors)
    return "; ".join([*errors, *([f"{more} more batches failed"] if more else [])])


def _format_staleness(result: Any) -> str:
    """Format the age of a source and its limit; dbt's result has no message for this."""
    age = timedelta(seconds=round(result.age))
    limit = result.node.freshness
    allowed = limit.error_after if str(result.status) == "error" else limit.warn_after
    return (
        f"last loaded {result.max_loaded_at:%Y-%m-%d %H:%M} UTC, {age} ago; "
        f"{result.status} after {allowed.count} {allowed.period}s"
    )


def _utc(time: datetime) -> datetime:
    """Add the time zone to a timestamp of dbt, which is UTC without one."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def summarize_error(message: str) -> str:
    """Return the line of an error that says what is wrong.

    dbt writes `Database Error in model orders (models/orders.sql)` above it, and Postgres the line
    of the SQL and a caret below it.
    """
    lines = [line for line in message.splitlines() if line.strip()]
    is_heading = len(lines) > 1 and re.match(r"[A-Z]\w+ Error in ", lines[0])
    return one_line(lines[1 if is_heading else 0] if lines else "")


def display_name(node: Any) -> str:
    """Return the name of a node, with the version of a versioned model."""
    version = node.version if str(node.resource_type) == "model" else None
    return str(node.name) if version is None else f"{node.name}.v{version}"


def count_by_status(results: Iterable[NodeResult]) -> dict[str, int]:
    """Count results by status, most frequent first."""
    return dict(Counter(result.status for result in results).most_common())


def format_statuses(statuses: Mapping[str, int]) -> str:
    """Format the number of nodes of each status: `3 success, 1 error`."""
    return ", ".join(f"{count:,} {status}" for status, count in statuses.items()) or "nothing"


def nodes_to_retry(
    results: Mapping[str, NodeResult],
    children: Mapping[str, list[str]],
    retries: Mapping[str, int],
) -> set[str]:
    """Return the ids of the nodes that the next attempt runs; empty if none can be retried.

    These are nodes that failed with a transient error, and nodes that were skipped because of them.
    Nodes downstream of another failure stay skipped: they would read out-of-date inputs.

    Args:
        results: node id → its last result.
        children: dbt's `child_map`: node id → ids of its children.
        retries: resource type → number of retries of a node.
    """
    transient = {
        i
        for i, r in results.items()
        if r.failed
        and r.cause is FailureClass.TRANSIENT
        and r.attempts <= retries.get(r.resource_type, 0)
    }
    if not transient:
        return set()
    permanent = [i for i, r in results.items() if r.failed and i not in transient]
    blocked = descendants(permanent, children)
    skipped = {i for i, r in results.items() if r.status == SKIPPED}
    return (transient | skipped) - blocked


def descendants(unique_ids: Iterable[str], children: Mapping[str, list[str]]) -> set[str]:
    """Return the ids of all nodes downstream of the given ones."""
    found: set[str] = set()
    queue = list(unique_ids)
    while queue:
        for child in children.get(queue.pop(), []):
            if child not in found:
                found.add(child)
                queue.append(child)
    return found
