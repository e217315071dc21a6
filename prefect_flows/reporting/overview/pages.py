"""Saves the summary of a finished run, updates the overview page and sends its metrics.

Nothing here fails a run: what cannot be written is logged.
"""

from __future__ import annotations

from prefect_flows.core.errors import StateStoreError
from prefect_flows.core.logger import Logger
from prefect_flows.core.settings import Settings
from prefect_flows.reporting.overview.index_page import write_index
from prefect_flows.reporting.run_report.summary import load_freshness, run_summary
from prefect_flows.state.run_summary import load_history, save_history, save_summary
from prefect_flows.state.runs import Run, RunStatus
from prefect_flows.state.store import StateStore
from prefect_flows.transform.run_report import RunReport


def save_run(
    stored: Run,
    report: RunReport | None,
    status: RunStatus,
    failure: str | None,
    *,
    seconds: float,
    whole: bool,
    settings: Settings,
    log: Logger,
) -> None:
    """Save the run's summary, and add it to its target's history.

    Args:
        report: None if the run ended before the project was parsed.
        failure: what ended the run, if it did not pass.
        whole: whether the run covered the whole project.
    """
    store, target = stored.store, stored.header.target
    before, freshness, readable = None, None, True
    try:
        before = load_history(store, target, log.warning)
        freshness = load_freshness(store, target, log.warning)
    except StateStoreError as error:
        # The run's own summary is still saved, so that the history can be rebuilt from it.
        readable = False
        log.warning("The history of target %r lacks this run. %s", target, error)
    summary = run_summary(
        stored,
        report,
        status,
        failure,
        seconds=seconds,
        whole=whole,
        before=before,
        freshness=freshness,
        price_per_tib=settings.price_per_tib,
        mart_folders=settings.mart_folders,
    )
    try:
        save_summary(store, summary)
        if readable:
            save_history(store, summary, before)
    except StateStoreError as error:
        log.warning("The run's summary could not be saved. %s", error)


def publish(store: StateStore, target: str, settings: Settings, log: Logger) -> None:
    """Rewrite the overview page, and send the metrics of this target."""
    try:
        write_index(store)
    except StateStoreError as error:
        log.warning("The overview page could not be written. %s", error)
    if settings.metrics_dir is not None or settings.metrics_push_url is not None:
        from prefect_flows.reporting.metrics.export import send_metrics

        send_metrics(store, target, settings, log)
