"""What a further attempt runs."""

from __future__ import annotations

from dataclasses import replace

from prefect_flows.core.failure_class import FailureClass
from prefect_flows.transform.results import NodeResult, nodes_to_retry

#     lost ── a ── b ── c         d hangs on both failures
#     bad ────────────── d ───┘
CHILDREN = {"lost": ["a"], "a": ["b", "d"], "b": ["c"], "bad": ["d"], "c": [], "d": []}


def node(name: str, status: str, cause: FailureClass | None = None) -> NodeResult:
    return NodeResult(
        unique_id=name,
        name=name,
        resource_type="model",
        path=f"models/{name}.sql",
        fqn=("project", name),
        status=status,
        message=None,
        seconds=0.0,
        failures=None,
        cause=cause,
    )


def left(*nodes: NodeResult) -> set[str]:
    results = {node.unique_id: node for node in nodes}
    return nodes_to_retry(results, CHILDREN, {"model": 1, "test": 0})


def test_what_failed_for_a_passing_cause_and_what_was_skipped_for_it() -> None:
    done = node("done", "success")
    skipped = [node(name, "skipped") for name in ("a", "b", "c")]
    assert left(done, node("lost", "error", FailureClass.TRANSIENT), *skipped) == {
        "lost",
        "a",
        "b",
        "c",
    }


def test_nothing_when_no_cause_may_pass() -> None:
    assert left(node("bad", "error", FailureClass.CODE), node("d", "skipped")) == set()
    assert left(node("bad", "fail", FailureClass.DATA)) == set()


def test_each_type_of_node_has_its_own_number_of_retries() -> None:
    lost = node("lost", "error", FailureClass.TRANSIENT)
    assert left(replace(lost, attempts=1), node("a", "skipped")) == {"lost", "a"}
    assert left(replace(lost, attempts=2), node("a", "skipped")) == set()
    tests = [replace(lost, resource_type="test"), replace(lost, unique_id="bad")]
    assert left(*tests) == {"bad"}, "a test has none left, and the model has one"


def test_what_lies_behind_a_lasting_failure_stays_skipped() -> None:
    nodes = [
        node("lost", "error", FailureClass.TRANSIENT),
        node("bad", "error", FailureClass.CODE),
        *(node(name, "skipped") for name in ("a", "b", "c", "d")),
    ]
    assert left(*nodes) == {"lost", "a", "b", "c"}
