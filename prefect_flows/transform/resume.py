"""What an interrupted run had done that need not be done again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from prefect_flows.core.files import Warn
from prefect_flows.state.journal import Entry
from prefect_flows.transform.node_hashes import CodeHashes
from prefect_flows.transform.results import NodeResult

_RESULT = TypeAdapter(NodeResult)


class IngestRecord(BaseModel):
    """What the report reads of the record of a source."""

    rows: dict[str, int]
    bytes: int
    rejected_rows: int
    extract_seconds: float
    load_seconds: float
    seconds: float


class DbtRecord(BaseModel):
    """What the report reads of the record of a dbt stage."""

    nodes: int
    statuses: dict[str, int]
    seconds: float
    attempts: int
    resumed: int
    rows: int
    bytes: int
    failed: list[dict[str, Any]]
    warned: list[dict[str, Any]]


_RECORDS: Mapping[str, type[BaseModel]] = {
    "ingest": IngestRecord,
    "dbt": DbtRecord,
}


@dataclass(frozen=True)
class ResumeState:
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


def done_before(entries: Sequence[Entry], code: CodeHashes, warn: Warn) -> ResumeState:
    """What the entries of a journal say was done, as far as its code is still the same.

    A node whose code or inputs changed is not carried over, and so is nothing behind it: its hash
    covers theirs. An entry that does not hold what it should is left out with a warning: what it
    says was done is done again.
    """
    nodes: dict[str, NodeResult] = {}
    records: dict[str, Mapping[str, Any]] = {}
    kept: dict[str, Entry] = {}
    changed: dict[str, None] = {}
    for entry in entries:
        name = entry.get("stage") or entry["node"]
        for before in (nodes, records, kept):
            before.pop(name, None)
        try:
            result = _checked(entry)
        except ValidationError as error:
            fault = error.errors(include_input=False)[0]
            at = ".".join(str(part) for part in fault["loc"])
            warn(f"The journal entry of {name} is damaged ({at}: {fault['msg']}) and left out.")
            continue
        if result is None:
            records[entry["stage"]] = entry["record"]
            kept[entry["stage"]] = entry
            continue
        unique_id = entry["node"]
        if not result.done:
            continue
        if code.of(unique_id) == entry["code"]:
            nodes[unique_id] = result
            kept[unique_id] = entry
        else:
            changed[unique_id] = None
    return ResumeState(nodes, records, list(kept.values()), list(changed))


def _checked(entry: Entry) -> NodeResult | None:
    """The result of a node's entry; none for a stage's.

    Raises:
        ValidationError: it does not hold what it should.
    """
    if "stage" not in entry:
        return replace(_RESULT.validate_python(entry["result"], strict=False), resumed=True)
    kind = _RECORDS.get(str(entry["stage"]).partition("-")[0])
    if kind is not None:
        kind.model_validate(entry["record"])
    return None
