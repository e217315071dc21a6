"""What a door left behind, read from dbt's artifacts and from the warehouse, and compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Columns that hold the time of the run itself, by relation: what is compared in their place, or
# none. A snapshot of strategy `check` has no other clock; its `dbt_scd_id` is a hash of it. That
# a version has ended is compared, and when is not. The snapshot of strategy `timestamp` takes all
# of its times from the rows, so nothing of it is left out.
WALL_CLOCK: dict[str, dict[str, str | None]] = {
    "conformance_snapshots.customers_by_check": {
        "dbt_scd_id": None,
        "dbt_updated_at": None,
        "dbt_valid_from": None,
        "dbt_valid_to": "dbt_valid_to is not null",
    },
}


@dataclass(frozen=True)
class Relation:
    """A table or view: what it is, its columns with their types, and its rows as a multiset.

    Attributes:
        layout: how its rows lie: indexes of Postgres, partitions and clusters of BigQuery.
        definition: the statement of a view.
    """

    kind: str
    columns: tuple[tuple[str, str], ...]
    rows: Counter[tuple[Any, ...]]
    layout: tuple[str, ...] = ()
    definition: str | None = None


@dataclass(frozen=True)
class Truth:
    """What one door left behind.

    Attributes:
        failed: whether its exit code says so.
        statuses: node's id → dbt's status, and the number of failures that it counted.
        relations: every relation of the door's place, by `schema.name`; hooks count themselves in
            `conformance_raw.hook_log`.
        said: what was printed, for whoever has to find out why.
    """

    failed: bool
    statuses: Mapping[str, tuple[str, int | None]]
    relations: Mapping[str, Relation]
    said: str = field(default="", repr=False, compare=False)

    @property
    def counts(self) -> Counter[str]:
        return Counter(status for status, _ in self.statuses.values())


def statuses_in(folder: Path) -> dict[str, tuple[str, int | None]]:
    """Node's id → status and failures, from the results in a folder.

    Hooks are nodes like others; their last run counts.
    """
    file = folder / "run_results.json"
    results = json.loads(file.read_text())["results"] if file.exists() else []
    return {result["unique_id"]: (result["status"], result["failures"]) for result in results}


def statuses_in_log(file: Path) -> dict[str, tuple[str, int | None]]:
    """Node's id → status and failures, from the log of `dbt source freshness`.

    Its `sources.json` has no word of the hooks, nor of a source whose query failed.
    """
    statuses: dict[str, tuple[str, int | None]] = {}
    for line in file.read_text().splitlines():
        event = json.loads(line)
        if event["info"]["name"] == "NodeFinished":
            node = event["data"]["node_info"]
            statuses[node["unique_id"]] = (node["node_status"], None)
        elif event["info"]["name"] == "LogHookEndLine":
            node = event["data"]["node_info"]
            # dbt counts a hook that did not pass as one failure.
            status = node["node_status"]
            statuses[node["unique_id"]] = (status, int(status != "success"))
    return statuses


def compared_columns(relation: str, columns: Iterable[str], quote: str) -> str:
    """What to select of a relation to compare it: its columns, but for the time of the run."""
    instead = WALL_CLOCK.get(relation, {})
    shown = [instead.get(column, f"{quote}{column}{quote}") for column in columns]
    return ", ".join(column for column in shown if column is not None)


def differences(dbt: Truth, pipeline: Truth) -> list[str]:
    """What the two doors do not agree on, one line each; nothing when they are the same truth."""
    found = []
    if dbt.failed != pipeline.failed:
        found.append(f"exit: dbt {_ended(dbt)}, the pipeline {_ended(pipeline)}")
    if dbt.counts != pipeline.counts:
        found.append(f"counts: dbt {dict(dbt.counts)}, the pipeline {dict(pipeline.counts)}")
    for name in _names(dbt.statuses, pipeline.statuses):
        ours, theirs = pipeline.statuses.get(name), dbt.statuses.get(name)
        if ours != theirs:
            found.append(f"node {name}: dbt {_shown(theirs)}, the pipeline {_shown(ours)}")
    for name in _names(dbt.relations, pipeline.relations):
        left, right = dbt.relations.get(name), pipeline.relations.get(name)
        if left is None or right is None:
            found.append(f"relation {name}: only of {'the pipeline' if left is None else 'dbt'}")
            continue
        for aspect in ("kind", "columns", "layout", "definition"):
            theirs, ours = getattr(left, aspect), getattr(right, aspect)
            if theirs != ours:
                found.append(f"relation {name}, {aspect}: dbt {theirs}, the pipeline {ours}")
        missing, more = left.rows - right.rows, right.rows - left.rows
        if missing or more:
            found.append(
                f"relation {name}, rows: only of dbt {_rows(missing)}, "
                f"only of the pipeline {_rows(more)}"
            )
    return found


def _names(*mappings: Mapping[str, Any]) -> list[str]:
    return sorted(set().union(*mappings))


def _ended(truth: Truth) -> str:
    return "failed" if truth.failed else "passed"


def _shown(result: tuple[str, int | None] | None) -> str:
    if result is None:
        return "has no result"
    status, failures = result
    return status if failures is None else f"{status} ({failures})"


def _rows(rows: Counter[tuple[Any, ...]]) -> str:
    return str(sorted(map(str, rows.elements()))[:5])
