"""Callbacks for the start and the result of each dbt node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dbt.task.base import BaseRunner
from dbt.task.runnable import GraphRunnableTask

from prefect_flows.transform.monkeypatch import patched


@contextmanager
def node_callbacks(
    started: Callable[[Any], None],
    finished: Callable[[Any], None],
    check_stop: Callable[[], None],
) -> Iterator[None]:
    """Call functions at the start and the end of each node while the context is open.

    dbt's events for this cost four protobuf messages per node, and `NodeFinished` also comes for
    each batch of a microbatch model. This context wraps two methods of dbt's tasks instead:
    `call_runner`, and `_handle_result`, which is called once per result. Both run in dbt's threads,
    so the callbacks must return quickly.

    Args:
        started: called with each node that starts.
        finished: called with dbt's result of each node.
        check_stop: called in the main thread before a node starts; raises an interrupt if the run
            was cancelled.
    """
    call_runner = GraphRunnableTask.call_runner
    handle_result = GraphRunnableTask._handle_result  # noqa: SLF001 # dbt has no public hook
    raise_set_error = GraphRunnableTask._raise_set_error  # noqa: SLF001

    def call_with_callback(
        self: GraphRunnableTask, runner: BaseRunner[Any, Any], *args: Any
    ) -> Any:
        started(runner.node)
        return call_runner(self, runner, *args)

    def handle_with_callback(self: GraphRunnableTask, result: Any) -> None:
        finished(result)
        handle_result(self, result)

    def check_before_start(self: GraphRunnableTask) -> None:
        check_stop()
        raise_set_error(self)  # type: ignore[no-untyped-call]

    with (
        patched(GraphRunnableTask, raise_set_error.__name__, check_before_start),
        patched(GraphRunnableTask, call_runner.__name__, call_with_callback),
        patched(GraphRunnableTask, handle_result.__name__, handle_with_callback),
    ):
        yield
