"""Find what a pull request changes: dbt's `state:modified` selector, and changed variables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dbt.contracts.graph import nodes as dbt_nodes
from dbt.events.types import UnversionedBreakingChange
from dbt.exceptions import ContractBreakingChangeError

from infrastructure.ci.pull_request.names import ONE_SCHEMA
from prefect_flows.core.errors import ConfigurationError, SelectionError
from prefect_flows.core.formatting import one_line
from prefect_flows.transform.monkeypatch import patched
from prefect_flows.transform.node_hashes import CodeHashes
from prefect_flows.transform.session import DbtSession

# Resource types that dbt materializes as a relation.
MATERIALIZED = frozenset({"model", "seed", "snapshot"})

Change = Literal["new", "modified", "downstream", "removed"]

# Parts of `state:modified`, and how the comment calls them.
PARTS = {
    "body": "code",
    "configs": "configuration",
    "macros": "macros",
    "contract": "contract",
    "relation": "name",
    "persisted_descriptions": "descriptions",
}
# What dbt does not compare, and how the comment calls it.
VARIABLES_PART = "variables"


@dataclass(frozen=True)
class Changes:
    """Differences between the project and production's manifest.

    Attributes:
        kinds: id of a model, seed or snapshot → how it differs.
        parts: id of a modified node → what differs.
        selected: ids of all nodes that differ, or that depend on one; also tests.
        breaks: name of a model → breaking changes of its contract, as dbt words them.
        refused: dbt's error if a versioned model breaks its contract.
    """

    kinds: Mapping[str, Change] = field(default_factory=dict)
    parts: Mapping[str, list[str]] = field(default_factory=dict)
    contract_breaks: Mapping[str, list[str]] = field(default_factory=dict)
    refusal: str | None = None
    selected: frozenset[str] = frozenset()


def find_changes(
    session: DbtSession,
    state: Path,
    production: Mapping[str, Any],
    variables: Mapping[str, str],
) -> Changes:
    """Return what is new, modified, downstream or removed.

    Args:
        session: dbt session of the pull request.
        state: folder with production's manifest.
        production: that manifest.
        variables: node id → hash of the variables that it reads in production.

    Raises:
        SelectionError: dbt cannot compare, for example with a manifest of another version.
    """
    broken: dict[str, list[str]] = {}
    try:
        with collect_contract_breaks(broken):
            selected = _list_nodes(session, "state:modified+", state)
            modified = _list_nodes(session, "state:modified", state)
            new = _list_nodes(session, "state:new", state)
            parts: dict[str, list[str]] = {}
            for part, label in PARTS.items():
                for unique_id in _list_nodes(session, f"state:modified.{part}", state) - new:
                    parts.setdefault(unique_id, []).append(label)
    except ContractBreakingChangeError as error:
        return Changes(contract_breaks=broken, refusal=one_line(str(error)))
    read = CodeHashes(session.manifest, session.config, [ONE_SCHEMA]).variables
    for unique_id in sorted(read.keys() & variables.keys()):
        if read[unique_id] != variables[unique_id]:
            parts.setdefault(unique_id, []).append(VARIABLES_PART)
            modified.add(unique_id)
            selected |= _with_descendants(unique_id, session.manifest.child_map)
    kinds: dict[str, Change] = {}
    for unique_id in sorted(selected):
        if unique_id.partition(".")[0] in MATERIALIZED:
            kinds[unique_id] = (
                "new" if unique_id in new
                else "modified" if unique_id in modified
                else "downstream"
            )  # fmt: skip
    present = session.manifest.nodes
    for unique_id, node in production["nodes"].items():
        if node["resource_type"] in MATERIALIZED and unique_id not in present:
            kinds[unique_id] = "removed"
    return Changes(kinds, parts, broken, selected=frozenset(selected))


def _with_descendants(unique_id: str, children: Mapping[str, Sequence[str]]) -> set[str]:
    found, waiting = set(), [unique_id]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += children.get(node, [])
    return found


@contextmanager
def collect_contract_breaks(broken: dict[str, list[str]]) -> Iterator[None]:
    """Collect dbt's events about broken contracts, which dbt fires at every state comparison.

    Args:
        broken: name of a model → breaking changes; filled while the context is open.
    """
    # dbt's `nodes` module fires the event through this function.
    fire = dbt_nodes.fire_or_defer_event  # type: ignore[attr-defined]

    def collect(event: Any, *arguments: Any, **options: Any) -> None:
        if isinstance(event, UnversionedBreakingChange):
            broken[event.model_name] = [one_line(each) for each in event.breaking_changes]
        else:
            fire(event, *arguments, **options)

    with patched(dbt_nodes, fire.__name__, collect):
        yield


def require_ci_schema(session: DbtSession, changes: Changes) -> None:
    """Check that dbt would write only to the CI schema.

    A snapshot's `target_schema`, a model's `database` or a custom macro can place a relation in
    another schema than the target's.

    Raises:
        ConfigurationError: a node would be written elsewhere; nothing is built.
    """
    output = session.profile.output
    database = str(output.get("dbname") or output.get("project"))
    schema = str(output["schema"])
    for unique_id in changes.kinds:
        node = session.manifest.nodes.get(unique_id)
        if node is None or node.is_ephemeral_model:
            continue
        if (node.database, node.schema) != (database, schema):
            raise ConfigurationError(
                f"{node.resource_type} {node.name} would be written to "
                f"{node.database}.{node.schema}, and not to {schema}.",
                where=f"{session.show_path(node.original_file_path)}, and "
                f"{session.show_path('macros/generate_schema_name.sql')}",
                fix="leave `database` and `target_schema` to the target, and the schema to "
                "generate_schema_name, which gives the target's own where one_schema is set",
            )


def _list_nodes(session: DbtSession, method: str, state: Path) -> set[str]:
    """Return the ids of all nodes that a `state:` selector selects."""
    arguments = ["--select", method, "--state", str(state)]
    outcome = session.invoke(
        ["ls", "--quiet", "--output", "json", "--output-keys", "unique_id"], arguments
    )
    error = outcome.exception
    if isinstance(error, ContractBreakingChangeError):
        raise error
    if error is not None:
        raise SelectionError(
            f"dbt cannot compare the project with production: {one_line(str(error))}",
            where=f"{method} against {state}",
            fix="where it is of the manifest's version: run production with the dbt of this "
            "project first",
        ) from error
    return {json.loads(line)["unique_id"] for line in outcome.results}
