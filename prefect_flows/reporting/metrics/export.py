"""Exports Prometheus metrics: textfile for node_exporter, or push to a Pushgateway.

Neither fails a run. A gateway delays it by at most five seconds, and failures are logged.
"""

from __future__ import annotations

import threading
from http.client import HTTPException
from urllib.parse import unquote, urlsplit

from prometheus_client import CollectorRegistry, push_to_gateway, write_to_textfile
from prometheus_client.exposition import basic_auth_handler, default_handler

from prefect_flows.core.errors import StateStoreError
from prefect_flows.core.logger import Logger
from prefect_flows.core.passwords import remove_login
from prefect_flows.core.settings import Settings
from prefect_flows.reporting.metrics.exposition import build_registry, load_facts
from prefect_flows.state.store import StateStore

JOB = "millrace"
# From the DNS lookup to the last byte of the response.
PUSH_SECONDS = 5.0


def send_metrics(store: StateStore, target: str, settings: Settings, log: Logger) -> None:
    """Write and push the metrics of a target, as configured in the settings."""
    try:
        facts = load_facts(store, target)
    except StateStoreError as error:
        log.warning("There are no metrics of this run. %s", error)
        return
    for missing in facts.faults:
        log.warning("Some metrics are missing. %s", missing)
    registry = build_registry([facts])
    if settings.metrics_dir is not None:
        file = settings.metrics_dir / f"{JOB}_{target}.prom"
        try:
            write_to_textfile(str(file), registry)
        except OSError as error:
            log.warning(
                "Metrics could not be written: %s: %s\n  where: %s\n  fix:   make the folder, "
                "let this user write there, or correct MILLRACE_METRICS_DIR",
                type(error).__name__, error, file,
            )  # fmt: skip
    if settings.metrics_push_url is not None:
        fault = push(str(settings.metrics_push_url), target, registry)
        if fault is not None:
            log.warning(
                "Metrics could not be pushed: %s\n  where: %s\n  fix:   see that the Pushgateway "
                "answers, or correct MILLRACE_METRICS_PUSH_URL",
                fault, remove_login(str(settings.metrics_push_url)),
            )  # fmt: skip


def push(
    url: str, target: str, registry: CollectorRegistry, seconds: float = PUSH_SECONDS
) -> str | None:
    """Replace the metrics of a target in the Pushgateway.

    Runs in a thread, since the timeouts of the steps of a request add up.

    Args:
        url: URL of the gateway; it may contain a login.
        seconds: time limit for the whole request.

    Returns:
        Why it failed; None if it succeeded.
    """
    faults: list[str] = []
    thread = threading.Thread(
        target=_push_in_thread, args=(url, target, registry, seconds, faults), daemon=True
    )
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return f"no answer within {seconds:g} s"
    return faults[0] if faults else None


def _push_in_thread(
    url: str, target: str, registry: CollectorRegistry, seconds: float, faults: list[str]
) -> None:
    login = urlsplit(url)

    def handler(url, method, timeout, headers, data):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        if login.username is None:
            return default_handler(url, method, timeout, headers, data)
        name, password = unquote(login.username), unquote(login.password or "")
        return basic_auth_handler(url, method, timeout, headers, data, name, password)

    try:
        push_to_gateway(
            remove_login(url), JOB, registry, {"target": target}, timeout=seconds, handler=handler
        )
    # ValueError: an invalid response or URL.
    except (OSError, HTTPException, ValueError) as error:
        faults.append(f"{type(error).__name__}: {error}")
