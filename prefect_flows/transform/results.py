"""What dbt did, node by node, in dbt's own words for a status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from prefect_flows.core.failure_class import FailureClass

# What dbt's own retry calls for a second try, and what ends its command line with exit code 1.
FAILED = frozenset({"error", "fail", "runtime error", "partial success"})
SKIPPED = "skipped"
# Batches of a microbatch model that a message lists.
MOST_BATCHES = 3
# Resource types whose statements write rows; of others dbt counts the rows of a select.
WRITTEN = frozenset({"model", "seed", "snapshot"})


@dataclass(frozen=True)
class FailedBatch:
    """A batch of a microbatch model that failed.

    Attributes:
        unique_id: dbt's id of the model.
        name: dbt's name of the batch, for example `2026-01-31`.
        begin: begin of its time, UTC.
        end: the first moment after it, UTC.
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


def in_order(batches: Iterable[FailedBatch]) -> list[FailedBatch]:
    """The batches to look at first come first: those that no retry fixes, then the earliest."""
    return sorted(batches, key=lambda batch: (batch.cause is FailureClass.TRANSIENT, batch.begin))


@dataclass(frozen=True)
class NodeResult:
    """What became of one node.

    Attributes:
        unique_id: dbt's id, for example `model.millrace.fct_flights`.
        status: dbt's status: success, error, skipped; pass, fail, warn; runtime error, no-op.
        seconds: execution time.
        failures: rows that a test returned.
        cause: class of the failure; none where the node did not fail.
        attempts: how often the node was tried.
        stage: the stage that ran it, for example `dbt-run`.
        started_at: when the last attempt began, UTC; none where nothing was executed.
        completed_at: when the last attempt ended, UTC; none where nothing was executed.
        thread: dbt's thread that ran it.
        response: what the adapter said of the statement.
        resumed: whether an earlier run did it, which this one went on from.
        failed_batch: begin and end of the batch of a microbatch model to look at first, UTC.
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
        """Whether the node itself failed; a skipped one did not."""
        return self.status in FAILED

    @property
    def done(self) -> bool:
        """Whether nothing is left to do for the node."""
        return not self.failed and self.status != SKIPPED

    @property
    def rows(self) -> int | None:
        """Rows that the statement wrote, where the warehouse says so."""
        rows = self.response.get("rows_affected") if self.resource_type in WRITTEN else None
        return int(rows) if isinstance(rows, (int, float)) and rows >= 0 else None

    @property
    def bytes(self) -> int | None:
        """Bytes that the statement processed, where the warehouse says so."""
        processed = self.response.get("bytes_processed")
        return int(processed) if isinstance(processed, (int, float)) else None

    @property
    def slot_seconds(self) -> float | None:
        """Seconds of BigQuery's slots, one after the other, that the statement took."""
        milliseconds = self.response.get("slot_ms")
        return milliseconds / 1000 if isinstance(milliseconds, (int, float)) else None

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
        """Read one entry of dbt's results.

        A test that returned rows and a source that is too old are faults of the data. An error that
        never reached an adapter (a contract, a macro, a failed hook) is one of the code. That of a
        microbatch model is the cause of the batch to look at first.

        Args:
            path: of the node's file, from the dbt project.
            batches: batches of the node that failed, those to look at first first.
        """
        node = result.node
        status = str(result.status)
        stale = str(node.resource_type) == "source" and status in ("error", "warn")
        timing = [(t.started_at, t.completed_at) for t in result.timing if t.completed_at]
        cause = None
        if status in FAILED:
            of_data = status == "fail" or stale
            cause = causes.get(node.unique_id, FailureClass.DATA if of_data else FailureClass.CODE)
        message = result.message or (_staleness(result) if stale else None)
        if cause is not None and batches:
            cause, message = batches[0].cause, f"{message}: {_errors_of_batches(batches)}"
        return cls(
            unique_id=node.unique_id,
            name=shown_name(node),
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


def _errors_of_batches(batches: Sequence[FailedBatch]) -> str:
    """The error of each of the first batches, and how many more failed."""
    said = [f"batch {b.name}: {' '.join(b.message.split())}" for b in batches[:MOST_BATCHES]]
    more = len(batches) - len(said)
    return "; ".join([*said, *([f"{more} more batches failed"] if more else [])])


def _staleness(result: Any) -> str:
    """How old a source is, and how old it may be; dbt's result has no message for it."""
    age = timedelta(seconds=round(result.age))
    limit = result.node.freshness
    allowed = limit.error_after if str(result.status) == "error" else limit.warn_after
    return (
        f"last loaded {result.max_loaded_at:%Y-%m-%d %H:%M} UTC, {age} ago; "
        f"{result.status} after {allowed.count} {allowed.period}s"
    )


def _utc(moment: datetime) -> datetime:
    """Dbt's times are UTC and do not say so."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def shown_name(node: Any) -> str:
    """The name of dbt's node; two versions of a model share theirs, so it has the version."""
    version = node.version if str(node.resource_type) == "model" else None
    return str(node.name) if version is None else f"{node.name}.v{version}"


def counts(results: Iterable[NodeResult]) -> dict[str, int]:
    """Number of nodes by status, most frequent first."""
    return dict(Counter(result.status for result in results).most_common())


def nodes_to_retry(
    results: Mapping[str, NodeResult],
    children: Mapping[str, list[str]],
    retries: Mapping[str, int],
) -> set[str]:
    """Ids of the nodes that a further attempt runs.

    Those that failed for a cause that may pass, and those that were skipped because of them. What
    lies behind a failure that cannot pass stays skipped: its inputs would be those of yesterday.

    Args:
        results: node's id → its last result.
        children: dbt's `child_map`: node's id → ids of those that depend on it.
        retries: resource type → how often a node of it is tried again.
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
    lasting = [i for i, r in results.items() if r.failed and i not in transient]
    blocked = descendants(lasting, children)
    skipped = {i for i, r in results.items() if r.status == SKIPPED}
    return (transient | skipped) - blocked


def descendants(unique_ids: Iterable[str], children: Mapping[str, list[str]]) -> set[str]:
    """Ids of all nodes that depend on the given ones, directly or through others."""
    found: set[str] = set()
    queue = list(unique_ids)
    while queue:
        for child in children.get(queue.pop(), []):
            if child not in found:
                found.add(child)
                queue.append(child)
    return found
