"""Filters the nodes that a dbt command selects by id; hooks still see the whole selection."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dbt.graph.selector import NodeSelector
from dbt.task.run import RunTask
from dbt.task.runnable import GraphRunnableTask

from dbt import selected_resources
from prefect_flows.transform.monkeypatch import patched


@dataclass(frozen=True)
class NodeFilter:
    """The nodes to run, and what hooks see of the others.

    Attributes:
        only: ids of the nodes to run.
        selected: ids of all nodes of the stage; hooks see them as `selected_resources`.
        earlier: dbt's results of nodes that do not run again; `on-run-end` hooks see them in
            `results` and `schemas` before the new ones.
    """

    only: Collection[str]
    selected: Collection[str]
    earlier: Sequence[Any]


@contextmanager
def filter_nodes(node_filter: NodeFilter | None) -> Iterator[None]:
    """Run only the nodes of the filter while the context is open; None changes nothing.

    dbt's selection syntax has no ids, and dbt matches each argument with every node: thousands of
    names would take longer than the run. This context wraps `get_selected`, through which dbt's
    selector passes the selected ids to the queue.
    """
    if node_filter is None:
        yield
        return
    get_selected = NodeSelector.get_selected
    set_selected = selected_resources.set_selected_resources
    after_run = RunTask.after_run

    wanted, selected = set(node_filter.only), set(node_filter.selected)

    def get_filtered(self: NodeSelector, *args: Any, **kwargs: Any) -> set[Any]:
        return get_selected(self, *args, **kwargs) & wanted

    initialize = GraphRunnableTask._runtime_initialize  # noqa: SLF001 # dbt has no public hook

    def initialize_for_hooks(self: GraphRunnableTask) -> None:
        initialize(self)  # type: ignore[no-untyped-call]
        if not wanted and not self._flattened_nodes:
            self._flattened_nodes = _NoNodes()

    def set_all_selected(found: set[Any]) -> None:
        set_selected(found | selected)

    def after_run_with_earlier(self: RunTask, adapter: Any, results: Sequence[Any]) -> None:
        after_run(self, adapter, [*node_filter.earlier, *results])

    with (
        patched(selected_resources, set_selected.__name__, set_all_selected),
        patched(RunTask, "after_run", after_run_with_earlier),
        patched(NodeSelector, get_selected.__name__, get_filtered),
        patched(GraphRunnableTask, initialize.__name__, initialize_for_hooks),
    ):
        yield


class _NoNodes(list[Any]):
    """An empty list of nodes with length 1.

    dbt runs hooks only if it counts at least one node. A run that was killed between its last node
    and its `on-run-end` hooks has only the hooks left.
    """

    def __len__(self) -> int:
        return 1
