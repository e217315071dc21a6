"""Builds Prometheus metrics (gauges) of targets, runs, stages, nodes, sources and marts.

They are read from the state store, and describe the last run of each target; Prometheus keeps the
history. At most `MAX_SERIES` nodes, sources and marts of a target have their own series: failed
ones first, then the slowest. A metric counts the nodes without one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from prefect_flows.core.errors import CorruptFileError
from prefect_flows.state.incidents import Kind
from prefect_flows.state.run_summary import RunSummary
from prefect_flows.state.runs import RunStatus
from prefect_flows.state.store import StateStore
from prefect_flows.state.target_overview import TargetOverview, load_overview, load_overviews
from prefect_flows.state.target_state import RUN_RESULTS, RUN_RESULTS_KIND, ResultEntry
from prefect_flows.transform.results import FAILED, WRITTEN

# Per kind and target.
MAX_SERIES = 500
_NODE = ("target", "node", "resource_type")

# Help text and labels by metric.
METRICS: Mapping[str, tuple[str, Sequence[str]]] = {
    "millrace_run_started_timestamp_seconds": ("Start time of the last run.", ("target",)),
    "millrace_run_ended_timestamp_seconds": ("End time of the last run.", ("target",)),
    "millrace_run_last_success_timestamp_seconds": (
        "When a run of the whole project last passed.",
        ("target",),
    ),
    "millrace_run_duration_seconds": ("Wall time of the last run.", ("target",)),
    "millrace_run_outcome": (
        "1 for how the last run ended, 0 for the other ways.",
        ("target", "outcome"),
    ),
    "millrace_run_whole": ("1 if the last run was of the whole project.", ("target",)),
    "millrace_run_rows": ("Rows that the last run loaded and wrote.", ("target",)),
    "millrace_run_processed_bytes": ("Bytes that its statements processed.", ("target",)),
    "millrace_run_billed_bytes": ("Bytes that it is billed for.", ("target",)),
    "millrace_run_cost": ("What is billed, at the price that is set.", ("target",)),
    "millrace_stage_duration_seconds": (
        "Wall time of a stage, over all attempts.",
        ("target", "stage"),
    ),
    "millrace_stage_rows": ("Rows that a stage loaded or wrote.", ("target", "stage")),
    "millrace_stage_bytes": ("Bytes that a stage read or processed.", ("target", "stage")),
    "millrace_tests": ("Tests of the last run, by how they ended.", ("target", "outcome")),
    "millrace_nodes": (
        "Nodes of the last run, by type and status.",
        ("target", "resource_type", "status"),
    ),
    "millrace_nodes_without_series": (
        "Nodes of the last run that have no series of their own.",
        ("target",),
    ),
    "millrace_node_duration_seconds": ("Execution time of a node.", _NODE),
    "millrace_node_status": ("1 for the status of a node.", (*_NODE, "status")),
    "millrace_node_rows": ("Rows that a node wrote.", _NODE),
    "millrace_node_bytes": ("Bytes that a node processed.", _NODE),
    "millrace_source_status": (
        "1 for the freshness of a table of a source.",
        ("target", "source", "status"),
    ),
    "millrace_source_loaded_timestamp_seconds": (
        "When the newest row of a table of a source was loaded.",
        ("target", "source"),
    ),
    "millrace_source_checked_timestamp_seconds": (
        "When the freshness of a table of a source was last checked.",
        ("target", "source"),
    ),
    "millrace_mart_built_timestamp_seconds": ("When a mart was last built.", ("target", "mart")),
    "millrace_mart_rows": ("Rows of a mart when they were last counted.", ("target", "mart")),
    "millrace_open_incidents": ("Incidents that are open, by kind.", ("target", "kind")),
    "millrace_state_faults": (
        "Files of the target in the state store that cannot be read; their metrics are missing.",
        ("target",),
    ),
}


@dataclass(frozen=True)
class NodeFacts:
    """Result of a node in the last run, from its entry in `run_results.json`."""

    unique_id: str
    status: str
    seconds: float
    rows: int | None
    bytes: int | None

    @property
    def resource_type(self) -> str:
        """Resource type of the node, the first part of its id."""
        return self.unique_id.partition(".")[0]


@dataclass(frozen=True)
class TargetFacts:
    """Input for the metrics of a target.

    Attributes:
        faults: what cannot be read in the state store.
    """

    known: TargetOverview
    nodes: Sequence[NodeFacts]
    faults: Sequence[str]


def load_facts(store: StateStore, target: str) -> TargetFacts:
    """Load the metrics input of a target from the state store.

    Raises:
        StateStoreError: the store cannot be read.
    """
    return _load_facts(store, load_overview(store, target))


def load_all_facts(store: StateStore) -> list[TargetFacts]:
    """Load the metrics input of all targets.

    Raises:
        StateStoreError: the store cannot be read.
    """
    return [_load_facts(store, known) for known in load_overviews(store)]


def _load_facts(store: StateStore, known: TargetOverview) -> TargetFacts:
    """Load the last results of a target; corrupt ones are a fault, and the next run replaces them.

    One corrupt file must not hide all other metrics.
    """
    try:
        found = store.load(f"targets/{known.target}/{RUN_RESULTS}", RUN_RESULTS_KIND)
    except CorruptFileError as error:
        return TargetFacts(known, [], [*known.faults, str(error)])
    nodes = [_parse_node(entry) for entry in found.results] if found is not None else []
    return TargetFacts(known, nodes, known.faults)


def build_registry(facts: Iterable[TargetFacts]) -> CollectorRegistry:
    """Build a registry with these metrics only, without metrics of the process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_TargetCollector(list(facts)))
    return registry


class _TargetCollector(Collector):
    def __init__(self, facts: Sequence[TargetFacts]) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        families = {
            name: GaugeMetricFamily(name, said, labels=labels)
            for name, (said, labels) in METRICS.items()
        }

        def add(name: str, value: float | None, *labels: str) -> None:
            if value is not None:
                families[name].add_metric(labels, value)

        for facts in self._facts:
            _add_target(facts, add)
        yield from (family for family in families.values() if family.samples)


# Takes metric, value and label values; adds no series if the value is None.
_Add = Callable[..., None]


def _add_target(facts: TargetFacts, add: _Add) -> None:
    target, past = facts.known.target, facts.known.history
    kinds = Counter(incident.kind for incident in facts.known.incidents)
    for kind in get_args(Kind):
        add("millrace_open_incidents", kinds[kind], target, kind)
    if past is not None:
        good = past.last_good.ended_at if past.last_good else None
        add("millrace_run_last_success_timestamp_seconds", _timestamp(good), target)
        _add_run(past.last, add)
        _add_tables(past.last, add)
    _add_nodes(target, facts.nodes, add)
    add("millrace_state_faults", len(facts.faults), target)


def _add_run(run: RunSummary, add: _Add) -> None:
    target = run.target
    add("millrace_run_started_timestamp_seconds", _timestamp(run.started_at), target)
    add("millrace_run_ended_timestamp_seconds", _timestamp(run.ended_at), target)
    add("millrace_run_duration_seconds", run.seconds, target)
    for outcome in get_args(RunStatus):
        add("millrace_run_outcome", float(run.outcome == outcome), target, outcome)
    add("millrace_run_whole", float(run.whole), target)
    add("millrace_run_rows", run.rows, target)
    add("millrace_run_processed_bytes", run.bytes, target)
    add("millrace_run_billed_bytes", run.bytes_billed, target)
    add("millrace_run_cost", run.cost, target)
    for stage in run.stages:
        if stage.skipped is None:
            add("millrace_stage_duration_seconds", stage.seconds, target, stage.stage)
            add("millrace_stage_rows", stage.rows, target, stage.stage)
            add("millrace_stage_bytes", stage.bytes, target, stage.stage)
    for outcome, count in run.tests:
        add("millrace_tests", count, target, outcome)


def _add_tables(run: RunSummary, add: _Add) -> None:
    target = run.target
    sources = sorted(run.sources.items(), key=lambda item: item[1].status in {"pass", None})
    for name, source in sources[:MAX_SERIES]:
        add("millrace_source_status", 1, target, name, source.status or "never checked")
        loaded, checked = _timestamp(source.max_loaded_at), _timestamp(source.checked_at)
        add("millrace_source_loaded_timestamp_seconds", loaded, target, name)
        add("millrace_source_checked_timestamp_seconds", checked, target, name)
    for name, mart in list(run.marts.items())[:MAX_SERIES]:
        add("millrace_mart_built_timestamp_seconds", _timestamp(mart.built_at), target, name)
        add("millrace_mart_rows", mart.rows, target, name)


def _add_nodes(target: str, nodes: Sequence[NodeFacts], add: _Add) -> None:
    for (kind, status), count in Counter((n.resource_type, n.status) for n in nodes).items():
        add("millrace_nodes", count, target, kind, status)
    shown = sorted(nodes, key=lambda n: (n.status not in FAILED, -n.seconds, n.unique_id))
    for node in shown[:MAX_SERIES]:
        labels = (target, node.unique_id, node.resource_type)
        add("millrace_node_duration_seconds", node.seconds, *labels)
        add("millrace_node_status", 1, *labels, node.status)
        add("millrace_node_rows", node.rows, *labels)
        add("millrace_node_bytes", node.bytes, *labels)
    add("millrace_nodes_without_series", max(len(nodes) - MAX_SERIES, 0), target)


def _parse_node(entry: ResultEntry) -> NodeFacts:
    unique_id = entry.unique_id
    said = entry.adapter_response or {}
    rows, processed = said.get("rows_affected"), said.get("bytes_processed")
    written = unique_id.partition(".")[0] in WRITTEN
    return NodeFacts(
        unique_id=unique_id,
        status=entry.status,
        seconds=entry.execution_time,
        rows=int(rows) if written and isinstance(rows, (int, float)) and rows >= 0 else None,
        bytes=int(processed) if isinstance(processed, (int, float)) else None,
    )


def _timestamp(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
