"""Runs only given nodes of what a dbt command selects."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from dbt.graph.selector import NodeSelector
from dbt.task.runnable import GraphRunnableTask

from prefect_flows.transform.replaced import replaced


@contextmanager
def narrowed_to(unique_ids: Collection[str] | None) -> Iterator[None]:
    """Narrow every selection to the given nodes, for the time of an invocation; none: as it is.

    dbt's own syntax cannot name nodes by their ids, and matches each argument with every node:
    thousands of names would take longer than the run. Its selector hands the selected ids to the
    queue through one method, `get_selected`, which is wrapped here.
    """
    if unique_ids is None:
        yield
        return
    get_selected = NodeSelector.get_selected

    wanted = set(unique_ids)

    def narrowed(self: NodeSelector, *args: Any, **kwargs: Any) -> set[Any]:
        return get_selected(self, *args, **kwargs) & wanted

    initialize = GraphRunnableTask._runtime_initialize  # noqa: SLF001 # dbt offers no other place

    def initialize_for_hooks(self: GraphRunnableTask) -> None:
        initialize(self)  # type: ignore[no-untyped-call]
        if not wanted and not self._flattened_nodes:
            self._flattened_nodes = _NoNodes()

    with (
        replaced(NodeSelector, get_selected.__name__, narrowed),
        replaced(GraphRunnableTask, initialize.__name__, initialize_for_hooks),
    ):
        yield


class _NoNodes(list[Any]):
    """No node, and yet something to do.

    A run that was killed after its last node and before its `on-run-end` hooks has only these left,
    and dbt runs hooks only when it counts a node.
    """

    def __len__(self) -> int:
        return 1
