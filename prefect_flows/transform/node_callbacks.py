"""Sees each node of a dbt command begin and end, as dbt's own bookkeeping does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dbt.task.base import BaseRunner
from dbt.task.runnable import GraphRunnableTask

from prefect_flows.transform.monkeypatch import replaced


@contextmanager
def nodes_seen(
    started: Callable[[Any], None],
    finished: Callable[[Any], None],
    check_stop: Callable[[], None],
) -> Iterator[None]:
    """Call back with each node that begins, and with dbt's result of each that ended.

    dbt fires events for both, at the price of four protobuf messages a node, and `NodeFinished` for
    every batch of a microbatch model too. Its tasks take up each result once, in one method,
    `_handle_result`; it and `call_runner` are wrapped here for the time of an invocation. Both are
    called in dbt's threads, and what is called back must not hold them up.

    Args:
        started: is called with each node that begins.
        finished: is called with dbt's result of each node that ended.
        check_stop: interrupts the main thread before it starts a node, where dbt looks whether a
            node has ended the run, if the run was told to stop.
    """
    call_runner = GraphRunnableTask.call_runner
    handle_result = GraphRunnableTask._handle_result  # noqa: SLF001 # dbt offers no other place

    raise_set_error = GraphRunnableTask._raise_set_error  # noqa: SLF001

    def seen_call(self: GraphRunnableTask, runner: BaseRunner[Any, Any], *args: Any) -> Any:
        started(runner.node)
        return call_runner(self, runner, *args)

    def seen_result(self: GraphRunnableTask, result: Any) -> None:
        finished(result)
        handle_result(self, result)

    def checked(self: GraphRunnableTask) -> None:
        check_stop()
        raise_set_error(self)  # type: ignore[no-untyped-call]

    with (
        replaced(GraphRunnableTask, raise_set_error.__name__, checked),
        replaced(GraphRunnableTask, call_runner.__name__, seen_call),
        replaced(GraphRunnableTask, handle_result.__name__, seen_result),
    ):
        yield
