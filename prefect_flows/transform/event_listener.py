"""Listeners for dbt node events (start, result, warning), and the thread that calls them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from prefect_flows.core.formatting import one_line
from prefect_flows.transform.results import NodeResult, display_name


class EventListener(Protocol):
    """Gets the events of a stage; called from one thread at a time."""

    def stage_started(self, name: str, total: int) -> None:
        """Handle the start of a stage that runs `total` nodes."""

    def node_started(self, name: str, unique_id: str, resource_type: str, node: str) -> None:
        """Handle the start of a node in the stage `name`."""

    def nodes_finished(self, name: str, results: Sequence[NodeResult]) -> None:
        """Handle results of the stage `name`, in this order; they are in the journal already."""

    def warned(self, text: str) -> None:
        """Handle a warning of dbt that is not the result of a node."""

    def stage_finished(self, name: str) -> None:
        """Handle the end of a stage, whether it passed or failed."""


def get_warning(event: Any) -> str | None:
    """Return the warning of a dbt event in one line; None if it is not a warning.

    Warnings about a node's result do not count: the result has them.
    """
    if event.info.level != "warn" or event.info.name.startswith("Log"):
        return None
    return one_line(event.info.msg).removeprefix("[WARNING]: ")


class Recorder:
    """Passes node events of a stage to the journal and to listeners, in its own thread.

    dbt's threads only put events into a queue, so that they do not wait. The recorder takes all
    events from the queue together. It writes results to the journal before it calls the listeners:
    a node that a person sees as done does not run again.

    Args:
        name: name of the stage.
        read: converts dbt's result.
        journal: writes results to the journal.
        listeners: are called afterwards.

    Attributes:
        results: node id → result, of all finished nodes.
        failed_ephemeral: node id → result, of failed ephemeral models. dbt returns no results for
            these; it skips the models that use them.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[Any], NodeResult],
        journal: Callable[[Sequence[NodeResult]], None],
        listeners: Sequence[EventListener],
    ) -> None:
        self.results: dict[str, NodeResult] = {}
        self.failed_ephemeral: dict[str, NodeResult] = {}
        self._name = name
        self._read = read
        self._journal = journal
        self._listeners = listeners
        self._queue: queue.SimpleQueue[Callable[[], NodeResult | None] | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="millrace-recorder", daemon=True)
        self._thread.start()

    def started(self, node: Any) -> None:
        """Queue the start of a node."""
        self._queue.put(lambda: self._notify_started(node))

    def finished(self, result: Any) -> None:
        """Queue dbt's result of a node."""
        self._queue.put(lambda: self._read_result(result))

    def listen(self, event: Any) -> None:
        """Queue an event of dbt if it is a warning and not the result of a node."""
        if text := get_warning(event):
            self._queue.put(lambda: self._notify_warned(text))

    def close(self) -> None:
        """Wait until all queued events are processed, and raise the first error of the thread."""
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            while self._process_queue():
                pass
        except BaseException as error:  # noqa: BLE001 # `close` raises it in the main thread
            self._failure = error

    def _process_queue(self) -> bool:
        """Wait for an event, process all queued ones, and return whether more may come."""
        events = [self._queue.get()]
        while not self._queue.empty():
            events.append(self._queue.get())
        finished = [result for process in events if process is not None and (result := process())]
        if finished:
            self._journal(finished)
            self.results |= {result.unique_id: result for result in finished}
            for listener in self._listeners:
                listener.nodes_finished(self._name, finished)
        return None not in events

    def _read_result(self, result: Any) -> NodeResult | None:
        node = self._read(result)
        if not result.node.is_ephemeral_model:
            return node
        if node.failed:
            self.failed_ephemeral[node.unique_id] = node
            self._notify_warned(f"ephemeral model {node.name} failed: {node.message}")
        return None

    def _notify_started(self, node: Any) -> None:
        for listener in self._listeners:
            kind, name = str(node.resource_type), display_name(node)
            listener.node_started(self._name, node.unique_id, kind, name)

    def _notify_warned(self, text: str) -> None:
        for listener in self._listeners:
            listener.warned(text)
