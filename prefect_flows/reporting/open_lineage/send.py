"""Stores the OpenLineage events of a run, and sends them if a URL is set.

Nothing here fails a run: what cannot be sent is logged, and the file has it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import httpx

from prefect_flows.core.errors import StateStoreError
from prefect_flows.core.logger import Logger
from prefect_flows.core.passwords import remove_login
from prefect_flows.core.profiles import Profile
from prefect_flows.core.settings import Settings
from prefect_flows.reporting.open_lineage.events import build_events
from prefect_flows.state.runs import Run
from prefect_flows.transform.run_report import RunReport

FILE = "openlineage.ndjson"
BATCH = 100
# For one request, and for all.
REQUEST_SECONDS, ALL_SECONDS = 5.0, 15.0


def save_events(
    stored: Run, report: RunReport, profile: Profile, settings: Settings, log: Logger
) -> None:
    """Write the events of a run into its folder, one per line, and send them."""
    events = build_events(report, profile)
    text = "".join(f"{json.dumps(event, ensure_ascii=False)}\n" for event in events)
    try:
        stored.store.write(f"{stored.folder}/{FILE}", text.encode())
    except StateStoreError as error:
        log.warning("The OpenLineage events of this run are not stored. %s", error)
    if settings.openlineage_url is not None:
        fault = send(str(settings.openlineage_url), events)
        if fault is not None:
            log.warning(
                "OpenLineage events are not sent: %s\n  where: %s\n  fix:   see that the server "
                "answers, or correct MILLRACE_OPENLINEAGE_URL; %s of the run has them",
                fault, remove_login(str(settings.openlineage_url)), FILE,
            )  # fmt: skip


def send(url: str, events: Sequence[dict[str, Any]]) -> str | None:
    """Post the events in batches to the endpoint `lineage/batch` of the API.

    Args:
        url: URL of the API, which may contain a login, such as `http://host:5000/api/v1`.
        events: the events.

    Returns:
        Why some were not sent; None if all were.
    """
    deadline = time.monotonic() + ALL_SECONDS
    endpoint = f"{url.rstrip('/')}/lineage/batch"
    with httpx.Client(timeout=REQUEST_SECONDS) as client:
        for start in range(0, len(events), BATCH):
            if time.monotonic() > deadline:
                return f"{len(events) - start:,} of them did not leave within {ALL_SECONDS:.0f} s"
            try:
                answer = client.post(endpoint, json=list(events[start : start + BATCH]))
                answer.raise_for_status()
            except httpx.HTTPStatusError as error:
                return f"{error.response.status_code} {error.response.reason_phrase}"
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                return f"{type(error).__name__}: {error}"
    return None
