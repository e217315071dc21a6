"""When a node counts as slower than it used to be."""

from __future__ import annotations

import pytest

from prefect_flows.reporting.run_report.history import compare_durations, get_medians
from prefect_flows.transform.results import NodeResult


def _node(seconds: float, name: str = "a", *, resumed: bool = False) -> NodeResult:
    return NodeResult(
        unique_id=name, name=name, resource_type="model", path="", fqn=(), status="success",
        message=None, seconds=seconds, failures=None, resumed=resumed,
    )  # fmt: skip


def test_medians_are_of_the_runs_that_executed_the_node() -> None:
    history = [{"a": 1.0, "b": 5.0}, {"a": 9.0}, {"a": 2.0}]
    assert get_medians(history) == {"a": (2.0, 3), "b": (5.0, 1)}
    assert get_medians([]) == {}


@pytest.mark.parametrize(
    ("seconds", "earlier", "regression"),
    [
        (4.0, [2.0, 2.0, 2.0], True),
        (4.0, [2.0, 2.0], False),  # too few runs
        (3.0, [2.0, 2.0, 2.0], False),  # 1.5 times is not more than 1.5 times
        (1.2, [0.3, 0.3, 0.3], False),  # four times, and less than 1 s more
        (12.0, [10.0, 10.0, 10.0], False),  # 2 s more, and only 1.2 times
        (4.0, [], False),
    ],
)
def test_the_rule(seconds: float, earlier: list[float], regression: bool) -> None:
    (slow,) = compare_durations([_node(seconds)], [{"a": each} for each in earlier])
    assert slow.regression is regression
    assert slow.runs == len(earlier)


def test_slowest_first_and_only_what_this_run_executed() -> None:
    nodes = [_node(1, "a"), _node(3, "b"), _node(0, "c"), _node(9, "d", resumed=True)]
    assert [slow.name for slow in compare_durations(nodes, [])] == ["b", "a"]
