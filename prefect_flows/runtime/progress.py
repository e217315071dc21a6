"""What goes to Prefect while a run goes, and what comes back: every few seconds, by a thread.

Never a call for a node: a progress artifact that moves, and events that carry many nodes each.

    millrace.node.finished, millrace.node.failed
        resource  millrace.target.<target>
        related   millrace.node.<target>.<node's id>, role `node`; at most 50 nodes an event
        payload   the same nodes: id, status, cause, seconds, attempts

An automation acts on one model by `match_related`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.exceptions import PrefectHTTPStatusError

from prefect_flows.core.names import run_tag

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from prefect_flows.runtime.cancellation import CancellationHandler
    from prefect_flows.transform.results import NodeResult

SECONDS = 3
NODES_IN_AN_EVENT = 50
# By its heartbeats Prefect tells a run that lives from one that was killed.
HEARTBEAT_SECONDS = 60

# What Prefect's client raises when the API does not answer, or not as it should.
API_ERRORS = (httpx.HTTPError, PrefectHTTPStatusError)


def is_api_healthy() -> bool:
    """Whether the API answers now.

    Asked once, by a client of its own: one that has reached the API before tries for a minute.
    """
    with get_client(sync_client=True) as client:
        failure = client.api_healthcheck()
    if isinstance(failure, httpx.HTTPStatusError):
        return failure.response.status_code < 500
    return failure is None


class ProgressReporter:
    """Beats while its context lasts, and once more when it ends.

    Args:
        stop: is requested when the flow run is being cancelled.
        unreported: takes a line for what Prefect could not be told.
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
        self._shown: tuple[str, int] = ("", 0)
        self._artifact: UUID | None = None
        self._lost = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="millrace-pulse", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._lost:
            self._unreported(
                f"progress and events of nodes, since the last {self._lost * SECONDS} s of the run"
            )

    def stage_started(self, name: str, total: int) -> None:
        """Progress is the stage's: it begins again at nothing."""
        with self._lock:
            self._stage, self._total, self._done = name, total, 0

    def node_started(self, *_: Any) -> None:
        """Nothing is told of a node that begins."""

    def nodes_finished(self, name: str, results: Sequence[NodeResult]) -> None:  # noqa: ARG002
        """Keep them until the next beat."""
        with self._lock:
            self._results += results
            self._done += len(results)

    def warned(self, text: str) -> None:
        """The log says it."""

    def stage_finished(self, name: str) -> None:
        """The next beat shows it."""

    def _beat(self) -> None:
        beats = 0
        with get_client(sync_client=True) as client:
            while not self._over.wait(SECONDS):
                # Not sooner, though nobody misses a run that is killed before its first heartbeat:
                # where that comes after the end of a short run, Prefect waits for another one.
                if beats * SECONDS % HEARTBEAT_SECONDS == 0:
                    self._live()
                beats += 1
                if self._reaches():
                    self._tell(client)
                    self._ask(client)
            if self._reaches():
                self._tell(client)

    def _live(self) -> None:
        emit_event(
            "prefect.flow-run.heartbeat",
            resource={
                "prefect.resource.id": f"prefect.flow-run.{self._flow_run_id}",
                "prefect.resource.name": self._target,
            },
            # As Prefect's own heartbeats have it, which a deployment's runs send beside these.
            related=[
                {
                    "prefect.resource.id": f"prefect.tag.{run_tag(self._target)}",
                    "prefect.resource.role": "tag",
                }
            ],
        )

    def _reaches(self) -> bool:
        reached = is_api_healthy()
        self._lost = 0 if reached else self._lost + 1
        return reached

    def _tell(self, client: SyncPrefectClient) -> None:
        with self._lock:
            results, self._results = self._results, []
            stage, total, done = self._stage, self._total, self._done
        for failed, name in ((False, "millrace.node.finished"), (True, "millrace.node.failed")):
            self._emit(name, [result for result in results if result.failed is failed])
        if (stage, done) == self._shown or not total:
            return
        percent = min(100.0, 100 * done / total)
        text = f"{stage}: {done} of {total} nodes"
        try:
            if self._artifact is None:
                created = ArtifactCreate(
                    key=f"{self._target}-progress",
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
            return  # the next beat tells it
        self._shown = (stage, done)

    def _emit(self, name: str, results: Sequence[NodeResult]) -> None:
        for first in range(0, len(results), NODES_IN_AN_EVENT):
            nodes = results[first : first + NODES_IN_AN_EVENT]
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

    def _ask(self, client: SyncPrefectClient) -> None:
        """Stop when the flow run is being cancelled: not every run has a worker that would."""
        try:
            state = client.read_flow_run(self._flow_run_id).state
        except API_ERRORS:
            return  # the next beat asks again
        if state is not None and state.type in (StateType.CANCELLING, StateType.CANCELLED):
            self._stop.request("a cancellation in Prefect")
