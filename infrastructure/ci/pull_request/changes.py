"""What a pull request changes, in dbt's own words: `state:modified` and its parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dbt.contracts.graph import nodes as dbt_nodes
from dbt.events.types import UnversionedBreakingChange
from dbt.exceptions import ContractBreakingChangeError

from prefect_flows.core.errors import ConfigurationError, SelectionError
from prefect_flows.transform.monkeypatch import replaced
from prefect_flows.transform.session import DbtSession

# What dbt makes a relation of, or writes rows to.
BUILT = frozenset({"model", "seed", "snapshot"})

Change = Literal["new", "modified", "downstream", "removed"]

# dbt's parts of `state:modified`, and how a person says them.
PARTS = {
    "body": "code",
    "configs": "configuration",
    "macros": "macros",
    "contract": "contract",
    "relation": "name",
    "persisted_descriptions": "descriptions",
}


@dataclass(frozen=True)
class Changes:
    """What differs between the project and the manifest of production.

    Attributes:
        kinds: id of a model, seed or snapshot → how it differs.
        parts: id of a modified node → what of it differs.
        breaks: name of a model → what of its contract is broken, dbt's own sentences.
        refused: why dbt would not go on, where a versioned model breaks its contract.
    """

    kinds: Mapping[str, Change] = field(default_factory=dict)
    parts: Mapping[str, list[str]] = field(default_factory=dict)
    breaks: Mapping[str, list[str]] = field(default_factory=dict)
    refused: str | None = None


def changes_since(session: DbtSession, state: Path, production: Mapping[str, Any]) -> Changes:
    """Ask dbt what is modified.

    Args:
        state: folder with the manifest of production.
        production: that manifest.

    Raises:
        SelectionError: dbt cannot compare, for example with a manifest of another version.
    """
    broken: dict[str, list[str]] = {}
    try:
        with contract_breaks(broken):
            selected = _listed(session, "state:modified+", state)
            modified = _listed(session, "state:modified", state)
            new = _listed(session, "state:new", state)
            parts: dict[str, list[str]] = {}
            for part, said in PARTS.items():
                for unique_id in _listed(session, f"state:modified.{part}", state) - new:
                    parts.setdefault(unique_id, []).append(said)
    except ContractBreakingChangeError as error:
        return Changes(breaks=broken, refused=_plain(str(error)))
    kinds: dict[str, Change] = {}
    for unique_id in sorted(selected):
        if unique_id.partition(".")[0] in BUILT:
            kinds[unique_id] = (
                "new" if unique_id in new
                else "modified" if unique_id in modified
                else "downstream"
            )  # fmt: skip
    present = session.manifest.nodes
    for unique_id, node in production["nodes"].items():
        if node["resource_type"] in BUILT and unique_id not in present:
            kinds[unique_id] = "removed"
    return Changes(kinds, parts, broken)


@contextmanager
def contract_breaks(broken: dict[str, list[str]]) -> Iterator[None]:
    """Take what dbt says of broken contracts, which it says anew at every look at the state.

    Args:
        broken: name of a model → dbt's sentences, filled while the context lasts.
    """
    # dbt's nodes tell it as an event, by this name of theirs.
    fire = dbt_nodes.fire_or_defer_event  # type: ignore[attr-defined]

    def told(event: Any, *arguments: Any, **options: Any) -> None:
        if isinstance(event, UnversionedBreakingChange):
            broken[event.model_name] = [_plain(each) for each in event.breaking_changes]
        else:
            fire(event, *arguments, **options)

    with replaced(dbt_nodes, fire.__name__, told):
        yield


def see_that_all_goes_into(session: DbtSession, changes: Changes) -> None:
    """See that nothing would be written outside the schema of the pull request.

    A `target_schema` of a snapshot, a `database` of a model, and a macro of somebody's own put a
    relation elsewhere, whatever the target says.

    Raises:
        ConfigurationError: something would, and nothing is built.
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
                where=f"dbt/{node.original_file_path}, and dbt/macros/generate_schema_name.sql",
                fix="leave `database` and `target_schema` to the target, and the schema to "
                "generate_schema_name, which gives the target's own where one_schema is set",
            )


def _listed(session: DbtSession, method: str, state: Path) -> set[str]:
    """Ids of all nodes that a method selects."""
    arguments = ["--select", method, "--state", str(state)]
    outcome = session.invoke(
        ["ls", "--quiet", "--output", "json", "--output-keys", "unique_id"], arguments
    )
    error = outcome.exception
    if isinstance(error, ContractBreakingChangeError):
        raise error
    if error is not None:
        raise SelectionError(
            f"dbt cannot compare the project with production: {' '.join(str(error).split())}",
            where=f"{method} against {state}",
            fix="where it is of the manifest's version: run production with the dbt of this "
            "project first",
        ) from error
    return {json.loads(line)["unique_id"] for line in outcome.results}


def _plain(text: str) -> str:
    return " ".join(text.split())
