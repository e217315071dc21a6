"""Runs only given nodes of what a dbt command selects; its hooks see the others as well."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dbt.graph.selector import NodeSelector
from dbt.task.run import RunTask
from dbt.task.runnable import GraphRunnableTask

from dbt import selected_resources
from prefect_flows.transform.monkeypatch import replaced


@dataclass(frozen=True)
class Narrowing:
    """A part of a command.

    Attributes:
        only: ids of the nodes to run.
        selected: ids of all nodes of the command, which hooks see as `selected_resources`.
        earlier: dbt's results of those that are not run again, which `on-run-end` hooks see in
            `results` and `schemas` before the new ones.
    """

    only: Collection[str]
    selected: Collection[str]
    earlier: Sequence[Any]


@contextmanager
def narrowed_to(narrowing: Narrowing | None) -> Iterator[None]:
    """Narrow every selection to the given nodes, for the time of an invocation; none: as it is.

    dbt's own syntax cannot name nodes by their ids, and matches each argument with every node:
    thousands of names would take longer than the run. Its selector hands the selected ids to the
    queue through one method, `get_selected`, which is wrapped here.
    """
    if narrowing is None:
        yield
        return
    get_selected = NodeSelector.get_selected
    set_selected = selected_resources.set_selected_resources
    after_run = RunTask.after_run

    wanted, selected = set(narrowing.only), set(narrowing.selected)

    def narrowed(self: NodeSelector, *args: Any, **kwargs: Any) -> set[Any]:
        return get_selected(self, *args, **kwargs) & wanted

    initialize = GraphRunnableTask._runtime_initialize  # noqa: SLF001 # dbt offers no other place

    def initialize_for_hooks(self: GraphRunnableTask) -> None:
        initialize(self)  # type: ignore[no-untyped-call]
        if not wanted and not self._flattened_nodes:
            self._flattened_nodes = _NoNodes()

    def set_all_selected(found: set[Any]) -> None:
        set_selected(found | selected)

    def after_whole_run(self: RunTask, adapter: Any, results: Sequence[Any]) -> None:
        after_run(self, adapter, [*narrowing.earlier, *results])

    with (
        replaced(selected_resources, set_selected.__name__, set_all_selected),
        replaced(RunTask, "after_run", after_whole_run),
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
