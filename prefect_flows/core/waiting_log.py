"""Logs what a run waits for. Whatever waits for a server imports it: it imports no library."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect_flows.core.logger import Logger

WAIT_LOG_SECONDS = 30.0

log: Logger = logging.getLogger("millrace")


@contextmanager
def log_while_waiting(what: str, seconds: float, log: Logger = log) -> Iterator[None]:
    """Log every 30 s what the block in this context waits for, and for how long at most."""
    over = threading.Event()
    started = time.monotonic()

    def log_progress() -> None:
        while not over.wait(WAIT_LOG_SECONDS):
            waited = time.monotonic() - started
            log.warning("Waiting for %s: %.0f s of at most %.0f s.", what, waited, seconds)

    thread = threading.Thread(target=log_progress, name="millrace-waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
