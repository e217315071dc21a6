"""Look at the graph of the adopted project: what the pipeline has to know, and what it says."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.publish.models import find_ancestors, is_in_folder

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

BUILT = frozenset({"seed", "snapshot", "model"})


@dataclass(frozen=True)
class Graph:
    """What a project's graph says.

    Attributes:
        counts: resource type → number of nodes.
        folders: names of the folders that hold models.
        marts: number of models in the chosen folders of marts.
        fed_sources: source tables that a seed, model or snapshot of the project builds.
        missing_sources: source tables that models, snapshots or tests read and that nothing in the
            project builds.
        stale_freshness: fed source tables with a freshness check: their rows only get older.
        snapshots_of_models: names of snapshots that read models.
        other_snapshots: names of the other snapshots.
    """

    counts: Mapping[str, int]
    folders: tuple[str, ...]
    marts: int
    fed_sources: tuple[str, ...]
    missing_sources: tuple[str, ...]
    stale_freshness: tuple[str, ...]
    snapshots_of_models: tuple[str, ...]
    other_snapshots: tuple[str, ...]

    @property
    def skipped_stages(self) -> tuple[str, ...]:
        """The stages that runs of the project leave out."""
        return ("freshness",) if self.stale_freshness else ()

    def explain(self) -> Iterator[str]:
        """Yield what was found, and what the pipeline does with it."""
        yield ", ".join(f"{n} {kind}{'s' * (n != 1)}" for kind, n in self.counts.items())
        yield f"models in the folders of marts: {self.marts}"
        if self.snapshots_of_models:
            yield (
                f"snapshots of models ({_listed(self.snapshots_of_models)}): they run in the stage "
                "dbt-run, each after its models"
            )
        if self.fed_sources:
            yield (
                f"sources that the project itself fills ({_listed(self.fed_sources)}): strategy "
                "run_then_test, because dbt build may read them before they are filled"
            )
        if self.stale_freshness:
            yield (
                f"freshness of such sources ({_listed(self.stale_freshness)}): runs skip the stage "
                "freshness, because a seed's rows only get older"
            )
        if self.missing_sources:
            yield (
                f"sources that nothing in the project fills ({_listed(self.missing_sources)}): a "
                "target needs their tables before its first run"
            )


def inspect(manifest: Manifest, adapter: str, mart_folders: Collection[str]) -> Graph:
    """Look at a parsed project.

    Raises:
        ConfigurationError: a Python model cannot run on the adapter.
    """
    nodes: Mapping[str, Any] = manifest.nodes
    _refuse_python(nodes, adapter)
    counts: dict[str, int] = {}
    for node in [*nodes.values(), *manifest.unit_tests.values(), *manifest.sources.values()]:
        kind = str(node.resource_type).replace("_", " ")
        counts[kind] = counts.get(kind, 0) + 1
    models = [node for node in nodes.values() if str(node.resource_type) == "model"]
    builders = {n.relation_name for n in nodes.values() if str(n.resource_type) in BUILT}
    read = [
        source
        for i, source in manifest.sources.items()
        if any(child in nodes for child in manifest.child_map.get(i, []))
    ]
    snapshots = {n.unique_id: n.name for n in nodes.values() if str(n.resource_type) == "snapshot"}
    of_models = {
        i
        for i in snapshots
        if any(each.startswith("model.") for each in find_ancestors(i, manifest.parent_map))
    }
    return Graph(
        counts=dict(sorted(counts.items())),
        folders=tuple(sorted({part for node in models for part in node.fqn[1:-1]})),
        marts=sum(is_in_folder(node.fqn, mart_folders) for node in models),
        fed_sources=_names(s for s in read if s.relation_name in builders),
        missing_sources=_names(s for s in read if s.relation_name not in builders),
        stale_freshness=_names(
            s for s in manifest.sources.values() if s.has_freshness and s.relation_name in builders
        ),
        snapshots_of_models=tuple(sorted(snapshots[i] for i in of_models)),
        other_snapshots=tuple(sorted(n for i, n in snapshots.items() if i not in of_models)),
    )


def _refuse_python(nodes: Mapping[str, Any], adapter: str) -> None:
    found = [n for n in nodes.values() if getattr(n, "language", "sql") == "python"]
    if found and adapter != "bigquery":
        raise ConfigurationError(
            f"The project has {len(found)} Python model(s), which {adapter} cannot run: "
            f"{_listed([node.name for node in found])}.",
            where=str(found[0].original_file_path),
            fix="write them in SQL, or load their result as a source "
            "(documentation/how_to/add_a_source.md)",
        )


def _names(sources: Any) -> tuple[str, ...]:
    return tuple(sorted(f"{source.schema}.{source.identifier}" for source in sources))


def _listed(names: Collection[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + rest
