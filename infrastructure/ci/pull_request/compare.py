"""Compare the relations of a pull request with production's, inside the warehouse."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from infrastructure.ci.pull_request import comparison_query
from infrastructure.ci.pull_request.build_record import (
    COMPARISON,
    MANIFEST,
    PRODUCTION,
    Build,
    ChangedNode,
)
from infrastructure.ci.pull_request.columns import get_key, get_volatile_columns
from infrastructure.ci.pull_request.comparison_query import Sides
from infrastructure.ci.pull_request.context import Context
from infrastructure.ci.pull_request.differences import Comparison, Difference
from infrastructure.ci.pull_request.names import get_folder
from infrastructure.ci.pull_request.warehouse import (
    Limits,
    QueryFailed,
    QueryLimitExceeded,
    Relation,
    Warehouse,
)
from infrastructure.ci.pull_request.warehouse_choice import get_warehouse
from prefect_flows.core.errors import ConfigurationError

log = logging.getLogger("millrace")

DONE = frozenset({"success"})
# What `on_schema_change` means for the next run in production if columns changed.
SCHEMA_CHANGE_NOTES = {
    "fail": "production's next run of it fails without a full refresh",
    "ignore": "production's next run of it adds no column and drops none without a full refresh",
}


def compare(
    number: int, production: str, context: Context, limits: Limits, wait: float
) -> tuple[Build, Comparison]:
    """Compare the last build of a pull request with production, and store the result.

    Args:
        number: number of the pull request.
        production: target to compare with.
        context: targets and state store.
        limits: time limit per query, and limit of bytes for all queries together.
        wait: seconds to wait for the lock of the schema.

    Raises:
        ConfigurationError: there is no such build, or the schema contains another one.
    """
    folder = get_folder(context.settings, number)
    build = Build.read(folder, number, context.profile.target)
    requested = (context.profile.target, production)
    if (build.target, build.production) != requested:
        raise ConfigurationError(
            f"The last build of pull request {number} is of target {build.target!r} against "
            f"{build.production!r}, and not of {requested[0]!r} against {requested[1]!r}.",
            where=str(folder),
            fix="name these, or build it again",
        )
    if not build.nodes:
        return build, _store(folder, Comparison(build=build.id, differences=[]))
    profile = context.get_ci_profile(number)
    with (
        closing(get_warehouse(profile, limits)) as warehouse,
        warehouse.lock(build.schema_name, None, wait),
    ):
        owner = warehouse.get_owner(build.schema_name)
        if owner is None or owner.build != build.id:
            raise ConfigurationError(
                f"The schema {build.schema_name} "
                + (
                    "is gone."
                    if owner is None
                    else f"was built again at {owner.built_at:%H:%M} UTC."
                ),
                where=profile.address,
                fix="compare where it was built last, or build it again",
            )
        comparing = _ComparisonInProgress(folder, build, warehouse, limits)
        comparison = comparing.run()
    return build, _store(folder, comparison)


def read_manifests(context: Context, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return production's manifest and that of the build; empty ones if nothing was built."""
    folder = get_folder(context.settings, number)
    empty: dict[str, Any] = {"nodes": {}, "parent_map": {}, "child_map": {}}
    files = (folder / PRODUCTION / MANIFEST, folder / MANIFEST)
    before, after = (json.loads(f.read_text()) if f.exists() else dict(empty) for f in files)
    return before, after


def _store(folder: Path, comparison: Comparison) -> Comparison:
    (folder / COMPARISON).write_text(comparison.model_dump_json(indent=1))
    return comparison


class _ComparisonInProgress:
    """A comparison in progress."""

    def __init__(self, folder: Path, build: Build, warehouse: Warehouse, limits: Limits) -> None:
        self._build = build
        self._warehouse = warehouse
        self._limits = limits
        self._after: Mapping[str, Any] = json.loads((folder / MANIFEST).read_text())
        self._before: Mapping[str, Any] = json.loads((folder / PRODUCTION / MANIFEST).read_text())
        self._budget = threading.Lock()
        self._bytes = 0
        self._is_billed = False

    def run(self) -> Comparison:
        """Compare every relation that exists on both sides."""
        relations = []
        for built in self._build.nodes:
            relations += [_relation(m, built.unique_id) for m in (self._before, self._after)]
        types = self._warehouse.get_column_types(
            [r for r in dict.fromkeys(relations) if r is not None]
        )
        differences = []
        with ThreadPoolExecutor(self._warehouse.max_parallel_queries) as threads:
            compared = threads.map(lambda built: self._difference(built, types), self._build.nodes)
            for built, found in zip(self._build.nodes, compared, strict=True):
                notes = list(found.notes)
                if found.is_same is False and built.change != "new":
                    notes += self._incremental_notes(found)
                differences.append(found.model_copy(update={"notes": notes}))
                log.info("%s  %s", built.unique_id, found.summary)
        return Comparison(
            build=self._build.id,
            differences=differences,
            bytes=self._bytes if self._is_billed else None,
        )

    def _difference(
        self, built: ChangedNode, types: Mapping[Relation, Mapping[str, str]]
    ) -> Difference:
        """Compare one node."""
        unique_id = built.unique_id
        before = _relation(self._before, unique_id)
        after = _relation(self._after, unique_id)
        if built.change == "removed":
            exists = before is not None and before in types
            note = "production keeps the relation until somebody drops it" if exists else ""
            return Difference(unique_id=unique_id, notes=[note] if note else [])
        if after is None:
            return Difference(unique_id=unique_id, notes=["ephemeral: it is part of what reads it"])
        if built.status not in DONE or after not in types:
            return Difference(unique_id=unique_id, notes=["not built"])
        if before is None or before not in types:
            notes = [] if built.change == "new" else ["production has no such relation"]
            return self._count_new_relation(unique_id, after, types[after], notes)
        sides = Sides(before, after, types[before], types[after])
        difference = Difference(
            unique_id=unique_id,
            columns_added=_columns_only_in(sides.after_types, sides.before_types),
            columns_removed=_columns_only_in(sides.before_types, sides.after_types),
            types={
                name: (sides.before_types[name], sides.after_types[name])
                for name in sides.common_columns
                if sides.before_types[name] != sides.after_types[name]
            },
        )
        if self._after["nodes"][unique_id]["resource_type"] == "snapshot":
            note = "snapshots start empty here: only its columns are compared"
            return difference.model_copy(update={"notes": [note]})
        return self._compare_rows(difference, sides)

    def _incremental_notes(self, difference: Difference) -> list[str]:
        """Return notes on changes that production's incremental run does not apply."""
        config = self._after["nodes"].get(difference.unique_id, {}).get("config", {})
        if config.get("materialized") != "incremental":
            return []
        notes = ["incremental: rows that production has stay as they are until a full refresh"]
        on_schema_change = config.get("on_schema_change") or "ignore"
        if (
            difference.columns_added or difference.columns_removed
        ) and on_schema_change in SCHEMA_CHANGE_NOTES:
            notes.append(
                f"on_schema_change is {on_schema_change}: {SCHEMA_CHANGE_NOTES[on_schema_change]}"
            )
        return notes

    def _count_new_relation(
        self, unique_id: str, relation: Relation, types: Mapping[str, str], notes: list[str]
    ) -> Difference:
        """Count the rows of a relation that production does not have."""
        difference = Difference(unique_id=unique_id, notes=notes, columns_added=dict(types))
        try:
            (rows,) = self._query_counts(
                comparison_query.row_count_sql(self._warehouse.dialect, relation)
            )
        except (QueryLimitExceeded, QueryFailed) as error:
            return difference.model_copy(update={"notes": [*notes, _get_reason(error)]})
        return difference.model_copy(update={"rows_after": rows})

    def _compare_rows(self, difference: Difference, sides: Sides) -> Difference:
        """Compare rows by key, or only count them if there is no unique key."""
        unique_id = difference.unique_id
        node = self._after["nodes"][unique_id]
        volatile = get_volatile_columns(node)
        skipped = [name for name in sides.common_columns if name.lower() in volatile]
        names = {name.lower(): name for name in sides.common_columns}
        key_columns = get_key(self._after, unique_id)
        key = [names[each.lower()] for each in key_columns if each.lower() in names]
        if len(key) < len(key_columns):
            key, why = [], f"production has no {' and '.join(key_columns)}, which is the key here"
        elif not key:
            why = "no key: neither a primary key nor a unique test says what a row is known by"
        else:
            why = ""
        found: dict[str, Any] = {"skipped_columns": skipped}
        try:
            before, keys_before = self._count_rows_and_keys(sides.before, sides.before_types, key)
            after, keys_after = self._count_rows_and_keys(sides.after, sides.after_types, key)
            found |= {"rows_before": before, "rows_after": after}
            repeated = [
                f"{rows - keys:,} row(s) of {where}"
                for rows, keys, where in (
                    (before, keys_before, "production"), (after, keys_after, "the pull request"),
                )
                if key and rows != keys
            ]  # fmt: skip
            if repeated:
                key = []
                listed = ", ".join(key_columns)
                why = f"{listed} is not unique (duplicate or null in {' and '.join(repeated)})"
            if key:
                columns = [n for n in sides.common_columns if n not in key and n not in skipped]
                sql = comparison_query.comparison_sql(self._warehouse.dialect, sides, key, columns)
                added, removed, changed, *each = self._query_counts(sql)
                found |= {
                    "key": key,
                    "added": added,
                    "removed": removed,
                    "changed": changed,
                    "changed_by_column": {
                        name: count for name, count in zip(columns, each, strict=True) if count
                    },
                }
            else:
                found["notes"] = [f"rows are only counted: {why}"]
        except (QueryLimitExceeded, QueryFailed) as error:
            log.warning("%s: %s", unique_id, error)
            found["notes"] = [f"rows are not compared: {_get_reason(error)}"]
        return difference.model_copy(update=found)

    def _count_rows_and_keys(
        self, relation: Relation, types: Mapping[str, str], key: Sequence[str]
    ) -> tuple[int, int]:
        """Return the number of rows and of distinct keys of a relation."""
        dialect = self._warehouse.dialect
        if not key:
            (rows,) = self._query_counts(comparison_query.row_count_sql(dialect, relation))
            return rows, rows
        rows, keys = self._query_counts(
            comparison_query.rows_and_keys_sql(dialect, relation, types, key)
        )
        return rows, keys

    def _query_counts(self, sql: str) -> list[int]:
        """Run a query that returns counts, if its cost fits the remaining budget."""
        price = self._warehouse.estimate_bytes(sql)
        if price is not None:
            with self._budget:
                self._is_billed = True
                if self._bytes + price > self._limits.bytes:
                    raise QueryLimitExceeded(
                        f"it would read {price:,} bytes, and {self._bytes:,} of "
                        f"{self._limits.bytes:,} are read",
                        where="the comparison",
                        fix="let it read more with --gigabytes NUMBER",
                    )
                self._bytes += price
        return [int(value or 0) for value in self._warehouse.fetch_row(sql).values()]


def _relation(manifest: Mapping[str, Any], unique_id: str) -> Relation | None:
    """Return a node's relation, or None for ephemeral models and ids not in the manifest."""
    node = manifest["nodes"].get(unique_id)
    if node is None or node["config"].get("materialized") == "ephemeral":
        return None
    return Relation(node["database"], node["schema"], node["alias"])


def _columns_only_in(these: Mapping[str, str], those: Mapping[str, str]) -> dict[str, str]:
    return {name: kind for name, kind in these.items() if name not in those}


def _get_reason(error: QueryLimitExceeded | QueryFailed) -> str:
    """Return why a query has no result, without the database's message, which may contain data."""
    if isinstance(error, QueryLimitExceeded):
        return error.what.rstrip(".")
    return "the warehouse rejects the query; see the log"
