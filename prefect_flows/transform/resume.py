"""Resumes an interrupted run: which nodes and stages of its journal are still valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from prefect_flows.core.files import Warn
from prefect_flows.core.validation_messages import list_faults
from prefect_flows.state.journal import Entry
from prefect_flows.transform.node_hashes import CodeHashes
from prefect_flows.transform.results import NodeResult

_RESULT = TypeAdapter(NodeResult)


class IngestRecord(BaseModel):
    """The fields that the report reads from the record of a source."""

    rows: dict[str, int]
    bytes: int
    rejected_rows: int
    extract_seconds: float
    load_seconds: float
    seconds: float


class DbtRecord(BaseModel):
    """The fields that the report reads from the record of a dbt stage."""

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
    """Results of an interrupted run that the resumed run keeps.

    Attributes:
        nodes: node id → its result.
        records: name of a stage that passed → its record.
        entries: the journal entries of these, for the journal of the resumed run.
        changed: ids of nodes that passed, but have other code or inputs now.
    """

    nodes: Mapping[str, NodeResult] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    entries: Sequence[Entry] = ()
    changed: Sequence[str] = ()


def node_entry(result: NodeResult, code: CodeHashes) -> Entry:
    """Build the journal entry of a node."""
    return {
        "node": result.unique_id,
        "code": code.get(result.unique_id),
        "result": _RESULT.dump_python(result, mode="json"),
    }


def stage_entry(name: str, record: Mapping[str, Any]) -> Entry:
    """Build the journal entry of a stage that passed."""
    return {"stage": name, "record": dict(record)}


def load_resume_state(entries: Sequence[Entry], code: CodeHashes, warn: Warn) -> ResumeState:
    """Return the journal's results whose code and inputs have not changed.

    If a node has changed, nodes downstream of it are dropped as well: their hashes cover its hash.
    A corrupt entry is skipped with a warning, and its node or stage runs again.
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
            result = _validate_entry(entry)
        except ValidationError as error:
            fault = list_faults(error)[0]
            warn(f"The journal entry of {name} is corrupt ({fault}) and was skipped.")
            continue
        if result is None:
            records[entry["stage"]] = entry["record"]
            kept[entry["stage"]] = entry
            continue
        unique_id = entry["node"]
        if not result.done:
            continue
        if code.get(unique_id) == entry["code"]:
            nodes[unique_id] = result
            kept[unique_id] = entry
        else:
            changed[unique_id] = None
    return ResumeState(nodes, records, list(kept.values()), list(changed))


def _validate_entry(entry: Entry) -> NodeResult | None:
    """Validate an entry, and return the result of a node; None for a stage.

    Raises:
        ValidationError: the entry is corrupt.
    """
    if "stage" not in entry:
        return replace(_RESULT.validate_python(entry["result"], strict=False), resumed=True)
    kind = _RECORDS.get(str(entry["stage"]).partition("-")[0])
    if kind is not None:
        kind.model_validate(entry["record"])
    return None
