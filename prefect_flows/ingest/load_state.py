"""Of which tables a load has completed: the source's state, which is restored from such only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import dlt
from dlt.extract import DltResource, DltSource

_KEY = "loaded_tables"


def has_loaded(table: str) -> bool:
    """Whether a load of the table ever completed; for resources, while they are extracted."""
    return table in dlt.current.source_state().get(_KEY, [])


def incomplete_tables(pipeline: dlt.Pipeline, data: DltSource) -> list[str]:
    """Tables whose rows of a load that did not complete would be counted twice by the next one.

    Those that are added to, and those of which no load ever completed. In all others dlt replaces
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
    """Change the source's state, so that dlt records the load even when no row is new.

    That record, a row of `_dlt_loads`, is what `dbt source freshness` reads.
    """

    def beat() -> Iterator[None]:
        state = dlt.current.source_state()
        state["checked_at"] = datetime.now(UTC).isoformat()
        state[_KEY] = sorted({*state.get(_KEY, []), *tables})
        yield from ()

    return dlt.resource(beat, name="_heartbeat")
