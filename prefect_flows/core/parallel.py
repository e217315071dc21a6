"""Runs independent functions in a thread pool, with a limit and with cancellation of dlt."""

from __future__ import annotations

import contextvars
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from dlt.common.runtime import signals

Result = TypeVar("Result")


def run_parallel(
    functions: Mapping[str, Callable[[], Result]], limit: int
) -> Iterator[tuple[str, Future[Result]]]:
    """Run functions in threads, and yield each name and future as it completes.

    Each thread runs in a copy of the caller's context, so that it knows its flow run. If the caller
    is interrupted, functions that have not started are cancelled, and dlt stops the others at their
    next batch or file.

    Args:
        functions: name → function.
        limit: the largest number of functions that run concurrently.
    """
    with ThreadPoolExecutor(limit, thread_name_prefix="source") as pool:
        running = {
            pool.submit(contextvars.copy_context().run, function): name
            for name, function in functions.items()
        }
        try:
            while running:
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield running.pop(future), future
        finally:
            if running:  # the caller was interrupted, or stopped iterating
                for future in running:
                    future.cancel()
                signals.set_received_signal(signal.SIGINT)
                signals.wake_all()
                wait(running)
                signals.set_received_signal(0)
