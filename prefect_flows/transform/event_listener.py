"""Takes what dbt says of its nodes, without holding dbt up, and hands it on in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from prefect_flows.transform.results import NodeResult, shown_name


class EventListener(Protocol):
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


def warning_of(event: Any) -> str | None:
    """What an event of dbt warns of, in one line; none where it warns of nothing.

    What dbt says of a node's result is no warning here: it comes with the result.
    """
    if event.info.level != "warn" or event.info.name.startswith("Log"):
        return None
    return " ".join(event.info.msg.split()).removeprefix("[WARNING]: ")


class Recorder:
    """Hands on what happens to the nodes of a stage, by a thread of its own.

    dbt's threads only put it into a queue. What came in while the thread was busy is handed on
    together: first to the journal, then to the watchers, so that whatever a person sees done will
    not be done again.

    Args:
        name: the stage's name.
        read: makes a result of dbt's.
        journal: makes results safe.
        watchers: are told of them afterwards.

    Attributes:
        results: node's id → its result, of all that ended.
        inlined: the same of ephemeral models that failed. dbt lists no result of these: it skips
            what they are part of.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[Any], NodeResult],
        journal: Callable[[Sequence[NodeResult]], None],
        watchers: Sequence[EventListener],
    ) -> None:
        self.results: dict[str, NodeResult] = {}
        self.inlined: dict[str, NodeResult] = {}
        self._name = name
        self._read = read
        self._journal = journal
        self._watchers = watchers
        self._queue: queue.SimpleQueue[Callable[[], NodeResult | None] | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="millrace-recorder", daemon=True)
        self._thread.start()

    def started(self, node: Any) -> None:
        """Take a node that begins."""
        self._queue.put(lambda: self._say_started(node))

    def finished(self, result: Any) -> None:
        """Take dbt's result of a node."""
        self._queue.put(lambda: self._take(result))

    def listen(self, event: Any) -> None:
        """Take a warning of dbt; what it says of a node's result comes with the result."""
        if text := warning_of(event):
            self._queue.put(lambda: self._say_warned(text))

    def close(self) -> None:
        """Wait until everything taken so far is handed on."""
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            while self._hand_on():
                pass
        except BaseException as error:  # noqa: BLE001 # raised again by `close`, in the main thread
            self._failure = error

    def _hand_on(self) -> bool:
        """Hand on what has come in, at least one thing; whether there may be more."""
        things = [self._queue.get()]
        while not self._queue.empty():
            things.append(self._queue.get())
        finished = [result for take in things if take is not None and (result := take())]
        if finished:
            self._journal(finished)
            self.results |= {result.unique_id: result for result in finished}
            for watcher in self._watchers:
                watcher.nodes_finished(self._name, finished)
        return None not in things

    def _take(self, result: Any) -> NodeResult | None:
        taken = self._read(result)
        if not result.node.is_ephemeral_model:
            return taken
        if taken.failed:
            self.inlined[taken.unique_id] = taken
            self._say_warned(f"ephemeral model {taken.name} failed: {taken.message}")
        return None

    def _say_started(self, node: Any) -> None:
        for watcher in self._watchers:
            kind, name = str(node.resource_type), shown_name(node)
            watcher.node_started(self._name, node.unique_id, kind, name)

    def _say_warned(self, text: str) -> None:
        for watcher in self._watchers:
            watcher.warned(text)
