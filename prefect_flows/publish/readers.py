"""Summarizes which runs' data readers see."""

from __future__ import annotations

from collections.abc import Iterable

from prefect_flows.publish.publisher import PublishedState
from prefect_flows.state.run_summary import PublishedData


def describe_readers(states: Iterable[PublishedState]) -> PublishedData:
    """Summarize which runs' data readers see."""
    live = [(s.live_since, s.live_run) for s in states if s.live_run and s.live_since]
    newest_first = sorted(live, reverse=True)
    return PublishedData(
        run_ids=list(dict.fromkeys(run for _, run in newest_first if run)),
        since=newest_first[0][0] if newest_first else None,
    )
