"""dlt source state: which tables have completed a load, and the load heartbeat for freshness.

dlt restores this state from completed loads only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import dlt
from dlt.extract import DltResource, DltSource

_KEY = "loaded_tables"


def has_loaded(table: str) -> bool:
    """Return whether a load of the table ever completed; call it while a resource is extracted."""
    return table in dlt.current.source_state().get(_KEY, [])


def incomplete_tables(pipeline: dlt.Pipeline, data: DltSource) -> list[str]:
    """List the tables in which a failed load's rows would be counted twice by the next load.

    These are append-only tables, and tables that no load ever completed. In all others dlt replaces
    rows, or merges them by their key.
    """
    state: Any = pipeline.state.get("sources", {}).get(data.name, {})
    complete = state.get(_KEY, [])
    return [
        resource.name
        for resource in data.resources.values()
        if resource.write_disposition == "append" or resource.name not in complete
    ]


def heartbeat(tables: Iterable[str]) -> DltResource:
    """Build a resource that changes the state, so that dlt records a load without new rows.

    `dbt source freshness` reads that record, a row of `_dlt_loads`.
    """

    def update_state() -> Iterator[None]:
        state = dlt.current.source_state()
        state["checked_at"] = datetime.now(UTC).isoformat()
        state[_KEY] = sorted({*state.get(_KEY, []), *tables})
        yield from ()

    return dlt.resource(update_state, name="_heartbeat")
