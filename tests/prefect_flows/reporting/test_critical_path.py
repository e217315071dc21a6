"""The chain of nodes that explains the end of a run."""

from __future__ import annotations

from datetime import timedelta

from prefect_flows.reporting.charts.critical_path import find_critical_path
from prefect_flows.transform.lineage import LineageNode
from prefect_flows.transform.results import NodeResult
from tests.support.reporting.synthetic import START, facts


def _node(name: str, *parents: str) -> LineageNode:
    return LineageNode(name, name, "model", "", parents, None, None, frozenset(), None)


def _ran(name: str, began: float, ended: float, *, resumed: bool = False) -> NodeResult:
    return NodeResult(
        unique_id=name, name=name, resource_type="model", path="", fqn=(), status="success",
        message=None, seconds=ended - began, failures=None, resumed=resumed,
        started_at=START + timedelta(seconds=began), completed_at=START + timedelta(seconds=ended),
    )  # fmt: skip


def test_each_step_back_is_to_the_parent_that_ended_last() -> None:
    lineage = {
        node.unique_id: node
        for node in (_node("a"), _node("b"), _node("c", "a", "b"), _node("d", "c"), _node("e"))
    }
    nodes = [_ran("a", 0, 2), _ran("b", 0, 5), _ran("c", 5, 6), _ran("d", 6, 9), _ran("e", 0, 8)]
    assert [node.name for node in find_critical_path(nodes, lineage)] == ["b", "c", "d"]


def test_what_was_not_executed_is_passed_through() -> None:
    lineage = {
        n.unique_id: n for n in (_node("a"), _node("ephemeral", "a"), _node("b", "ephemeral"))
    }
    nodes = [_ran("a", 0, 2), _ran("b", 2, 3)]
    assert [node.name for node in find_critical_path(nodes, lineage)] == ["a", "b"]


def test_a_parent_that_an_earlier_run_made_did_not_keep_this_one_waiting() -> None:
    lineage = {n.unique_id: n for n in (_node("a"), _node("b", "a"))}
    nodes = [_ran("a", 0, 2, resumed=True), _ran("b", 0, 3)]
    assert [node.name for node in find_critical_path(nodes, lineage)] == ["b"]


def test_circles_and_empty_runs_end() -> None:
    lineage = {n.unique_id: n for n in (_node("a", "b"), _node("b", "a"))}
    assert find_critical_path([], lineage) == []
    assert len(find_critical_path([_ran("a", 0, 0), _ran("b", 0, 0)], lineage)) == 2


def test_it_ends_with_the_node_that_ended_last() -> None:
    given = facts(1000)
    path = find_critical_path(given.results, given.lineage)
    last = max(node.completed_at for node in given.results if node.completed_at)
    assert path[-1].completed_at == last
