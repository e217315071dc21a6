"""What dbt did, node by node, in dbt's own words for a status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prefect_flows.causes import Cause

# What dbt's own retry calls for a second try, and what ends its command line with exit code 1.
FAILED = frozenset({"error", "fail", "runtime error", "partial success"})
SKIPPED = "skipped"


@dataclass(frozen=True)
class NodeResult:
    """What became of one node.

    Attributes:
        unique_id: dbt's id, for example `model.millrace.fct_flights`.
        status: dbt's status: success, error, skipped; pass, fail, warn; runtime error, no-op.
        seconds: execution time.
        failures: rows that a test returned.
        rows: rows that the statement wrote, where the warehouse says so.
        cause: class of the failure; none where the node did not fail.
        attempts: how often the node was tried.
        stage: the stage that ran it, for example `dbt-run`.
        started_at: when the last attempt began, UTC; none where nothing was executed.
        completed_at: when the last attempt ended, UTC; none where nothing was executed.
        thread: dbt's thread that ran it.
        bytes: bytes that the statement processed, where the warehouse says so.
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
    rows: int | None
    cause: Cause | None = None
    attempts: int = 1
    stage: str = ""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    thread: str | None = None
    bytes: int | None = None
    resumed: bool = False

    @property
    def failed(self) -> bool:
        """Whether the node itself failed; a skipped one did not."""
        return self.status in FAILED

    @classmethod
    def from_dbt(cls, result: Any, causes: Mapping[str, Cause], attempts: int) -> NodeResult:
        """Read one entry of dbt's results.

        A test that returned rows is a fault of the data. An error that never reached an adapter
        (a contract, a macro, a failed hook) is one of the code.
        """
        node = result.node
        status = str(result.status)
        cause = None
        if status in FAILED:
            cause = causes.get(node.unique_id, Cause.DATA if status == "fail" else Cause.CODE)
        rows = (getattr(result, "adapter_response", None) or {}).get("rows_affected")
        return cls(
            unique_id=node.unique_id,
            name=node.name,
            resource_type=str(node.resource_type),
            path=node.original_file_path,
            fqn=tuple(node.fqn),
            status=status,
            message=result.message or None,
            seconds=round(result.execution_time, 3),
            failures=result.failures,
            rows=rows if isinstance(rows, int) and rows >= 0 else None,
            cause=cause,
            attempts=attempts,
        )


def counts(results: Iterable[NodeResult]) -> dict[str, int]:
    """Number of nodes by status, most frequent first."""
    return dict(Counter(result.status for result in results).most_common())


def left_to_do(
    results: Mapping[str, NodeResult], children: Mapping[str, list[str]]
) -> list[NodeResult]:
    """The nodes that a further attempt runs.

    Those that failed for a cause that may pass, and those that were skipped because of them. What
    lies behind a failure that cannot pass stays skipped: its inputs would be those of yesterday.

    Args:
        results: node's id → its last result.
        children: dbt's `child_map`: node's id → ids of those that depend on it.
    """
    transient = {i for i, r in results.items() if r.failed and r.cause is Cause.TRANSIENT}
    if not transient:
        return []
    blocked: set[str] = set()
    queue = [i for i, r in results.items() if r.failed and i not in transient]
    while queue:
        for child in children.get(queue.pop(), []):
            if child not in blocked:
                blocked.add(child)
                queue.append(child)
    return [
        result
        for unique_id, result in results.items()
        if (unique_id in transient or result.status == SKIPPED) and unique_id not in blocked
    ]
