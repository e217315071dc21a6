"""What dbt did, node by node, in dbt's own words for a status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from google.protobuf.json_format import MessageToDict

from prefect_flows.causes import Cause

# What dbt's own retry calls for a second try, and what ends its command line with exit code 1.
FAILED = frozenset({"error", "fail", "runtime error", "partial success"})
SKIPPED = "skipped"
# Resource types whose result is a number of rows.
TESTS = frozenset({"test", "unit_test"})


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
    cause: Cause | None = None
    attempts: int = 1
    stage: str = ""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    thread: str | None = None
    response: Mapping[str, Any] = field(default_factory=dict)
    resumed: bool = False

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
        rows = self.response.get("rows_affected")
        return int(rows) if isinstance(rows, (int, float)) and rows >= 0 else None

    @property
    def bytes(self) -> int | None:
        """Bytes that the statement processed, where the warehouse says so."""
        processed = self.response.get("bytes_processed")
        return int(processed) if isinstance(processed, (int, float)) else None

    @classmethod
    def from_dbt(cls, result: Any, causes: Mapping[str, Cause], attempts: int, stage: str) -> Self:
        """Read one entry of dbt's results."""
        timing = [(t.started_at, t.completed_at) for t in result.timing if t.completed_at]
        return cls._read(
            result.node,
            str(result.status),
            causes,
            message=result.message or None,
            seconds=round(result.execution_time, 3),
            failures=result.failures,
            attempts=attempts,
            stage=stage,
            started_at=min((_utc(start) for start, _ in timing), default=None),
            completed_at=max((_utc(end) for _, end in timing), default=None),
            thread=result.thread_id or None,
            response=dict(getattr(result, "adapter_response", None) or {}),
        )

    @classmethod
    def from_event(
        cls, event: Any, node: Any, causes: Mapping[str, Cause], attempts: int, stage: str
    ) -> Self:
        """Read dbt's event `NodeFinished`, which says the same as the result of the node.

        Args:
            node: the node in the manifest.
        """
        result = event.data.run_result
        timing = [
            (t.started_at.ToDatetime(UTC), t.completed_at.ToDatetime(UTC))
            for t in result.timing_info
            if t.HasField("completed_at")
        ]
        status = result.status
        return cls._read(
            node,
            status,
            causes,
            message=result.message or None,
            seconds=round(result.execution_time, 3),
            # The event has a number for every node, and 0 where the result has none.
            failures=result.num_failures if str(node.resource_type) in TESTS else None,
            attempts=attempts,
            stage=stage,
            started_at=min((start for start, _ in timing), default=None),
            completed_at=max((end for _, end in timing), default=None),
            thread=result.thread or None,
            response=MessageToDict(result.adapter_response),
        )

    @classmethod
    def _read(cls, node: Any, status: str, causes: Mapping[str, Cause], **values: Any) -> Self:
        # A test that returned rows is a fault of the data. An error that never reached an adapter
        # (a contract, a macro, a failed hook) is one of the code.
        cause = None
        if status in FAILED:
            cause = causes.get(node.unique_id, Cause.DATA if status == "fail" else Cause.CODE)
        return cls(
            unique_id=node.unique_id,
            name=node.name,
            resource_type=str(node.resource_type),
            path=node.original_file_path,
            fqn=tuple(node.fqn),
            status=status,
            cause=cause,
            **values,
        )


def _utc(moment: datetime) -> datetime:
    """Dbt's times are UTC and do not say so."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def counts(results: Iterable[NodeResult]) -> dict[str, int]:
    """Number of nodes by status, most frequent first."""
    return dict(Counter(result.status for result in results).most_common())


def left_to_do(
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
        if r.failed and r.cause is Cause.TRANSIENT and r.attempts <= retries.get(r.resource_type, 0)
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
