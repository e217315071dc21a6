"""Progress of a run in Prefect: artifact, node events, heartbeats; polls for cancellation.

A thread does this every few seconds, for many nodes in one call:

    millrace.node.finished, millrace.node.failed
        resource  millrace.target.<target>
        related   millrace.node.<target>.<node's id>, role `node`; at most 50 nodes per event
        payload   the same nodes: id, status, cause, seconds, attempts

With `match_related`, an automation reacts to one model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.exceptions import PrefectHTTPStatusError

from prefect_flows.core.names import artifact, run_tag

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from prefect_flows.runtime.cancellation import CancellationHandler
    from prefect_flows.transform.results import NodeResult

# Between two reports to Prefect, and between two looks for a cancellation.
PROGRESS_INTERVAL_SECONDS = 3
MAX_NODES_PER_EVENT = 50
# A flow run without heartbeats counts as killed (Prefect's zombie detection).
HEARTBEAT_SECONDS = 60

# What Prefect's client raises when the API does not answer, or answers with an error.
API_ERRORS = (httpx.HTTPError, PrefectHTTPStatusError)


def is_api_healthy() -> bool:
    """Return whether the Prefect API answers now, after one attempt.

    This uses a new client, because a client that has reached the API before retries for a minute.
    """
    with get_client(sync_client=True) as client:
        failure = client.api_healthcheck()
    if isinstance(failure, httpx.HTTPStatusError):
        return failure.response.status_code < 500
    return failure is None


class ProgressReporter:
    """Reports progress every few seconds while its context is open, and once when it closes.

    Args:
        flow_run_id: id of the flow run.
        target: name of the target.
        stop: gets a request when the flow run is cancelled in Prefect.
        unreported: is called with a line about what could not be reported.
    """

    def __init__(
        self,
        flow_run_id: UUID,
        target: str,
        stop: CancellationHandler,
        unreported: Callable[[str], None],
    ) -> None:
        self._flow_run_id = flow_run_id
        self._target = target
        self._stop = stop
        self._unreported = unreported
        self._lock = threading.Lock()
        self._results: list[NodeResult] = []
        self._stage = ""
        self._total = 0
        self._done = 0
        self._reported: tuple[str, int] = ("", 0)
        self._artifact: UUID | None = None
        self._failed_intervals = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="millrace-progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        if self._failed_intervals:
            self._unreported(
                "progress and events of nodes, since the last "
                f"{self._failed_intervals * PROGRESS_INTERVAL_SECONDS} s of the run"
            )

    def stage_started(self, name: str, total: int) -> None:
        """Start the progress of a stage at zero."""
        with self._lock:
            self._stage, self._total, self._done = name, total, 0

    def node_started(self, *_: Any) -> None:
        """Do nothing: only finished nodes are reported."""

    def nodes_finished(self, name: str, results: Sequence[NodeResult]) -> None:  # noqa: ARG002
        """Keep the results until the next report."""
        with self._lock:
            self._results += results
            self._done += len(results)

    def warned(self, text: str) -> None:
        """Do nothing: warnings are in the log."""

    def stage_finished(self, name: str) -> None:
        """Do nothing: the next report shows it."""

    def _run(self) -> None:
        intervals = 0
        with get_client(sync_client=True) as client:
            while not self._over.wait(PROGRESS_INTERVAL_SECONDS):
                # The first heartbeat comes after one interval. If it came after the end of a short
                # run, Prefect would wait for the next one.
                if intervals % (HEARTBEAT_SECONDS // PROGRESS_INTERVAL_SECONDS) == 0:
                    self._emit_heartbeat()
                intervals += 1
                if self._check_api():
                    self._report(client)
                    self._check_cancellation(client)
            if self._check_api():
                self._report(client)

    def _emit_heartbeat(self) -> None:
        emit_event(
            "prefect.flow-run.heartbeat",
            resource={
                "prefect.resource.id": f"prefect.flow-run.{self._flow_run_id}",
                "prefect.resource.name": self._target,
            },
            # Like Prefect's own heartbeats, which runs of deployments send as well.
            related=[
                {
                    "prefect.resource.id": f"prefect.tag.{run_tag(self._target)}",
                    "prefect.resource.role": "tag",
                }
            ],
        )

    def _check_api(self) -> bool:
        is_healthy = is_api_healthy()
        self._failed_intervals = 0 if is_healthy else self._failed_intervals + 1
        return is_healthy

    def _report(self, client: SyncPrefectClient) -> None:
        with self._lock:
            results, self._results = self._results, []
            stage, total, done = self._stage, self._total, self._done
        for failed, name in ((False, "millrace.node.finished"), (True, "millrace.node.failed")):
            self._emit(name, [result for result in results if result.failed is failed])
        if (stage, done) == self._reported or not total:
            return
        percent = min(100.0, 100 * done / total)
        text = f"{stage}: {done} of {total} nodes"
        try:
            if self._artifact is None:
                created = ArtifactCreate(
                    key=artifact(self._target, "progress"),
                    type="progress",
                    data=percent,
                    description=text,
                    flow_run_id=self._flow_run_id,
                )
                self._artifact = client.create_artifact(created).id
            else:
                client.update_artifact(
                    self._artifact, ArtifactUpdate(data=percent, description=text)
                )
        except API_ERRORS:
            return  # the next report includes it
        self._reported = (stage, done)

    def _emit(self, name: str, results: Sequence[NodeResult]) -> None:
        for first in range(0, len(results), MAX_NODES_PER_EVENT):
            nodes = results[first : first + MAX_NODES_PER_EVENT]
            emit_event(
                name,
                resource={
                    "prefect.resource.id": f"millrace.target.{self._target}",
                    "prefect.resource.name": self._target,
                },
                related=[
                    {
                        "prefect.resource.id": f"millrace.node.{self._target}.{node.unique_id}",
                        "prefect.resource.role": "node",
                        "prefect.resource.name": node.name,
                    }
                    for node in nodes
                ]
                + [
                    {
                        "prefect.resource.id": f"prefect.flow-run.{self._flow_run_id}",
                        "prefect.resource.role": "flow-run",
                    }
                ],
                payload={
                    "nodes": [
                        {
                            "id": node.unique_id,
                            "status": node.status,
                            "cause": node.cause,
                            "seconds": node.seconds,
                            "attempts": node.attempts,
                        }
                        for node in nodes
                    ]
                },
            )

    def _check_cancellation(self, client: SyncPrefectClient) -> None:
        """Stop the run if it is cancelled in Prefect: runs without a worker get no signal."""
        try:
            state = client.read_flow_run(self._flow_run_id).state
        except API_ERRORS:
            return  # checked again at the next interval
        if state is not None and state.type in (StateType.CANCELLING, StateType.CANCELLED):
            self._stop.request("a cancellation in Prefect")
