"""What an interrupted run had done that need not be done again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from prefect_flows.state.journal import Entry
from prefect_flows.transform.code import CodeHashes
from prefect_flows.transform.results import NodeResult

_RESULT = TypeAdapter(NodeResult)


@dataclass(frozen=True)
class Done:
    """What is carried over.

    Attributes:
        nodes: node's id → its result.
        records: stage's name → what it did, of stages that ended.
        entries: the journal entries that say so, for the journal of the run that goes on.
        changed: ids of nodes that were done, and have other code or inputs now.
    """

    nodes: Mapping[str, NodeResult] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    entries: Sequence[Entry] = ()
    changed: Sequence[str] = ()


def node_entry(result: NodeResult, code: CodeHashes) -> Entry:
    """The journal entry of a node."""
    return {
        "node": result.unique_id,
        "code": code.of(result.unique_id),
        "result": _RESULT.dump_python(result, mode="json"),
    }


def stage_entry(name: str, record: Mapping[str, Any]) -> Entry:
    """The journal entry of a stage that ended well."""
    return {"stage": name, "record": dict(record)}


def done_before(entries: Sequence[Entry], code: CodeHashes) -> Done:
    """What the entries of a journal say was done, as far as its code is still the same.

    A node whose code or inputs changed is not carried over, and so is nothing behind it: its hash
    covers theirs.
    """
    nodes: dict[str, NodeResult] = {}
    records: dict[str, Mapping[str, Any]] = {}
    kept: dict[str, Entry] = {}
    changed: dict[str, None] = {}
    for entry in entries:
        if "stage" in entry:
            records[entry["stage"]] = entry["record"]
            kept[entry["stage"]] = entry
            continue
        unique_id = entry["node"]
        result = replace(_RESULT.validate_python(entry["result"], strict=False), resumed=True)
        nodes.pop(unique_id, None)
        kept.pop(unique_id, None)
        if not result.done:
            continue
        if code.of(unique_id) == entry["code"]:
            nodes[unique_id] = result
            kept[unique_id] = entry
        else:
            changed[unique_id] = None
    return Done(nodes, records, list(kept.values()), list(changed))
