"""Decides for each selected node whether a run builds it, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from dbt.contracts.graph.manifest import Manifest

from prefect_flows.state.node_states import NodeState
from prefect_flows.state.run_summary import ReuseSummary
from prefect_flows.transform.microbatch import is_microbatch
from prefect_flows.transform.node_hashes import CodeHashes
from prefect_flows.transform.results import descendants, display_name

# Statuses after which a node need not run again. A warning is repeated until it is gone.
PASSED = frozenset({"success", "pass", "no-op"})
# Resource types with a relation in the warehouse.
WITH_RELATION = frozenset({"model", "seed", "snapshot"})

# BigQuery refreshes a materialized view by itself.
WITHOUT_ROWS = frozenset({"view", "materialized_view"})
# The end of the reason of a node that runs because an input of it does.
IS_BUILT = " is built"
# The log names at most this many reasons of a run.
MAX_CAUSES = 5

# The part of a time that names the batch of a microbatch model.
_BATCH_FORMATS = {"hour": "%Y%m%d%H", "day": "%Y%m%d", "month": "%Y%m", "year": "%Y"}


@dataclass(frozen=True)
class ReusePlan:
    """What a run executes and what it reuses.

    Attributes:
        reasons: id of each node to execute → why.
        reused: id of each reused node → its state.
    """

    reasons: Mapping[str, str] = field(default_factory=dict)
    reused: Mapping[str, NodeState] = field(default_factory=dict)

    def summarize(self) -> ReuseSummary:
        """Return how many nodes run and are reused, and what this saves."""
        states = self.reused.values()
        read = [state.bytes for state in states if state.bytes is not None]
        return ReuseSummary(
            executed=len(self.reasons),
            reused=len(self.reused),
            saved_seconds=round(sum(state.seconds for state in states), 2),
            saved_bytes=sum(read) if read else None,
        )

    def __str__(self) -> str:
        if not self.reasons:
            return f"Nothing changed: all {len(self.reused):,} nodes are reused."
        causes = Counter(r for r in self.reasons.values() if not r.endswith(IS_BUILT))
        named = ", ".join(f"{cause} ({n:,})" for cause, n in causes.most_common(MAX_CAUSES))
        more = len(causes) - MAX_CAUSES
        return (
            f"{len(self.reasons):,} nodes run, {len(self.reused):,} are reused. Because: {named}"
            f"{f' and {more:,} more reasons' if more > 0 else ''}."
        )


@dataclass(frozen=True)
class SourceVersions:
    """The rows of sources after the loads of a run.

    Attributes:
        versions: source id → a text that changes with its rows; None if it is not known.
        loaded: ids of the sources whose rows this run has added, changed or removed.
    """

    versions: Mapping[str, str | None] = field(default_factory=dict)
    loaded: Collection[str] = ()


class Inputs:
    """Node id → the nodes and sources whose rows a node reads.

    Ephemeral models have no rows: the inputs of such a model take its place. Those of a view are
    added to it, because its rows change with theirs, whether it is built or not. A source whose
    table a node of the project builds is replaced by this node, unless that is downstream of it.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._found: dict[str, tuple[str, ...]] = {}
        self._builders = {
            node.relation_name: unique_id
            for unique_id, node in manifest.nodes.items()
            if str(node.resource_type) in WITH_RELATION and node.relation_name
        }

    def get(self, unique_id: str) -> tuple[str, ...]:
        """Return the inputs of a node, without duplicates."""
        if unique_id not in self._found:
            parents = self._manifest.parent_map.get(unique_id, [])
            found = (each for parent in parents for each in self._resolve(parent))
            self._found[unique_id] = tuple(dict.fromkeys(found))
        return self._found[unique_id]

    def _resolve(self, parent: str) -> Iterator[str]:
        source = self._manifest.sources.get(parent)
        if source is not None:
            builder = self._builders.get(str(source.relation_name))
            is_upstream = builder is not None and builder not in descendants(
                [parent], self._manifest.child_map
            )
            yield builder if builder is not None and is_upstream else parent
            return
        node = self._manifest.nodes.get(parent)
        if (node is not None and not node.is_ephemeral_model) or parent in self._manifest.functions:
            yield parent
            if node is None or node.config.materialized not in WITHOUT_ROWS:
                return
        yield from self.get(parent)


def plan_reuse(
    selected: Collection[str],
    manifest: Manifest,
    code: CodeHashes,
    states: Mapping[str, NodeState],
    relations: Mapping[str, str | None],
    sources: SourceVersions,
    done: Collection[str],
    inputs: Inputs,
    *,
    rebuild: str | None = None,
) -> ReusePlan:
    """Decide for each selected node whether the run executes it.

    Args:
        selected: ids of the selected nodes, without sources.
        manifest: the parsed project.
        code: hashes of the nodes now.
        states: node id → its last execution.
        relations: node id → state of its relation now, of selected nodes and of what they read;
            None if it is missing.
        sources: the rows of the sources now.
        done: ids of the nodes that the resumed run has executed.
        inputs: what the nodes read.
        rebuild: why everything is executed; None if nodes may be reused.
    """
    nodes = _nodes(manifest)
    reasons: dict[str, str] = {}
    reused: dict[str, NodeState] = {}
    for unique_id in _sort(selected, inputs):
        if unique_id in done:
            reasons[unique_id] = "the resumed run had built it"
            continue
        state, node = states.get(unique_id), nodes[unique_id]
        if rebuild is not None or state is None:
            reasons[unique_id] = rebuild or "no run has executed it"
            continue
        found = chain(
            _find_reasons(unique_id, node, code, state, relations),
            _find_changed_inputs(node, inputs, state, states, relations, sources, reasons, nodes),
            ["code upstream of it changed"] if code.get(unique_id) != state.code else [],
        )
        reason = next(found, None)
        if reason is None:
            reused[unique_id] = state
        else:
            reasons[unique_id] = reason
    return ReusePlan(reasons, reused)


def _nodes(manifest: Manifest) -> dict[str, Any]:
    return {
        **manifest.nodes,
        **manifest.sources,
        **manifest.unit_tests,
        **manifest.functions,
        **manifest.exposures,
        **manifest.saved_queries,
    }


def _sort(selected: Collection[str], inputs: Inputs) -> list[str]:
    """Sort nodes so that each comes after its inputs."""
    found: dict[str, None] = {}
    wanted = set(selected)
    for start in selected:
        waiting = [start]
        while waiting:
            unique_id = waiting[-1]
            missing = [i for i in inputs.get(unique_id) if i in wanted and i not in found]
            if missing and unique_id not in found:
                waiting += missing
                continue
            waiting.pop()
            found[unique_id] = None
    return list(found)


def _find_reasons(
    unique_id: str,
    node: Any,
    code: CodeHashes,
    state: NodeState,
    relations: Mapping[str, str | None],
) -> Iterator[str]:
    """Yield why a node has to run whatever its inputs are."""
    if state.status is None:
        yield "the last run did not finish it"
    elif state.status not in PASSED:
        yield f"its last result was {state.status}"
    if code.get_own(unique_id) != state.own_code:
        yield "its code or configuration changed"
    if (always := _find_always(node, state)) is not None:
        yield always
    if str(node.resource_type) in WITH_RELATION:
        relation = relations.get(unique_id)
        if relation is None:
            yield "its relation is missing"
        elif relation != state.relation:
            yield "its relation was changed outside the pipeline"


def _find_always(node: Any, state: NodeState) -> str | None:
    """Return why a node changes with time; what its `meta.reuse` says takes precedence."""
    declared = get_declared_reuse(node)
    if declared is not None:
        return None if declared else "its meta says `reuse: false`"
    if state.always is None and _has_new_batch(node, state):
        return "a new batch has begun"
    return state.always


def get_declared_reuse(node: Any) -> bool | None:
    """Return `meta.reuse` of a node: true, false, or None if it has none."""
    config = getattr(node, "config", None)
    meta = {**(getattr(node, "meta", None) or {}), **(getattr(config, "meta", None) or {})}
    declared = meta.get("reuse")
    return declared if isinstance(declared, bool) else None


def get_version(state: NodeState | None) -> str | None:
    """Return the version of a node's rows; None if it is not known."""
    return state.run if state is not None and state.status in PASSED else None


def _has_new_batch(node: Any, state: NodeState) -> bool:
    if not is_microbatch(node) or state.ended_at is None:
        return False
    batch = _BATCH_FORMATS[str(node.config.batch_size)]
    return datetime.now(UTC).strftime(batch) != state.ended_at.strftime(batch)


def _find_changed_inputs(
    node: Any,
    inputs: Inputs,
    state: NodeState,
    states: Mapping[str, NodeState],
    relations: Mapping[str, str | None],
    sources: SourceVersions,
    reasons: Mapping[str, str],
    nodes: Mapping[str, Any],
) -> Iterator[str]:
    """Yield which inputs have other rows than those that a node read."""
    if str(node.resource_type) == "unit_test":
        return  # its rows are in its code
    for each in inputs.get(node.unique_id):
        name = _name(nodes.get(each), each)
        is_source = each in sources.versions
        version = sources.versions[each] if is_source else get_version(states.get(each))
        if each in reasons:
            yield f"{name}{IS_BUILT}"
        elif each in sources.loaded:
            yield f"{name} has new data"
        elif version is None:
            unknown = "it is not known whether {} has new data", "no run has built {}"
            yield unknown[not is_source].format(name)
        elif each not in state.inputs:
            yield f"it did not read {name} before"
        elif version != state.inputs[each]:
            yield f"{name} has changed"
        elif each in states and relations.get(each, states[each].relation) != states[each].relation:
            # It is not selected; a selected one is built again.
            yield f"{name} is missing or was changed outside the pipeline"
    if not state.inputs.keys() <= set(inputs.get(node.unique_id)):
        yield "it reads fewer nodes than before"


def _name(node: Any, unique_id: str) -> str:
    if node is None:
        return unique_id
    if str(node.resource_type) == "source":
        return f"{node.source_name}.{node.name}"
    return display_name(node)
