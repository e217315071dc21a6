"""Takes what dbt says of its nodes, without holding dbt up, and hands it on in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from prefect_flows.transform.results import NodeResult


class Watcher(Protocol):
    """Sees a stage go by. Called from one thread at a time."""

    def stage_started(self, name: str, total: int) -> None:
        """A stage begins, with so many nodes to do."""

    def node_started(self, name: str, unique_id: str, resource_type: str, node: str) -> None:
        """A node of the stage `name` begins."""

    def nodes_finished(self, name: str, results: Sequence[NodeResult]) -> None:
        """Nodes of the stage `name` ended, in this order; each is in the journal already."""

    def warned(self, text: str) -> None:
        """Dbt warned of something that is no node's result."""

    def stage_finished(self, name: str) -> None:
        """A stage ended, however it ended."""


class Recorder:
    """A listener for dbt's events whose work is done by a thread of its own.

    dbt's threads only put the event into a queue. What came in while the thread was busy is handed
    on together: first to the journal, then to the watchers, so that whatever a person sees done
    will not be done again.

    Args:
        name: the stage's name.
        read: makes a result of a `NodeFinished` event.
        journal: makes results safe.
        watchers: are told of them afterwards.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[Any], NodeResult],
        journal: Callable[[Sequence[NodeResult]], None],
        watchers: Sequence[Watcher],
    ) -> None:
        self.results: dict[str, NodeResult] = {}
        self._name = name
        self._read = read
        self._journal = journal
        self._watchers = watchers
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="millrace-recorder", daemon=True)
        self._thread.start()

    def listen(self, event: Any) -> None:
        """Take an event of dbt."""
        if event.info.name in ("NodeStart", "NodeFinished") or event.info.level == "warn":
            self._queue.put(event)

    def close(self) -> None:
        """Wait until everything taken so far is handed on."""
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            while self._hand_on(self._taken()):
                pass
        except BaseException as error:  # noqa: BLE001 # raised again by `close`, in the main thread
            self._failure = error

    def _taken(self) -> list[Any]:
        """What has come in: at least one event."""
        events = [self._queue.get()]
        while not self._queue.empty():
            events.append(self._queue.get())
        return events

    def _hand_on(self, events: list[Any]) -> bool:
        """Hand on the events; whether there may be more."""
        finished = [
            self._read(e) for e in events if e is not None and e.info.name == "NodeFinished"
        ]
        self.results |= {result.unique_id: result for result in finished}
        if finished:
            self._journal(finished)
        for event in events:
            if event is not None and event.info.name != "NodeFinished":
                self._say(event)
        if finished:
            for watcher in self._watchers:
                watcher.nodes_finished(self._name, finished)
        return None not in events

    def _say(self, event: Any) -> None:
        for watcher in self._watchers:
            if event.info.name == "NodeStart":
                info = event.data.node_info
                watcher.node_started(self._name, info.unique_id, info.resource_type, info.node_name)
            elif not event.info.name.startswith("Log"):
                watcher.warned(" ".join(event.info.msg.split()))
