"""Works that have nothing to do with one another, some at a time."""

from __future__ import annotations

import contextvars
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from dlt.common.runtime import signals

Result = TypeVar("Result")


def run_parallel(
    works: Mapping[str, Callable[[], Result]], at_once: int
) -> Iterator[tuple[str, Future[Result]]]:
    """Do the works in threads, and give each one's future as it ends.

    Each thread sees the context of the caller: the flow run that it belongs to. When the caller is
    interrupted, what has not begun never does, and dlt is told to stop what has: it does so at its
    next batch or file.

    Args:
        works: name → what to do.
        at_once: how many are done at the same time.
    """
    with ThreadPoolExecutor(at_once, thread_name_prefix="source") as pool:
        running = {
            pool.submit(contextvars.copy_context().run, work): name for name, work in works.items()
        }
        try:
            while running:
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield running.pop(future), future
        finally:
            if running:  # the caller was interrupted, or has had enough
                for future in running:
                    future.cancel()
                signals.set_received_signal(signal.SIGINT)
                signals.wake_all()
                wait(running)
                signals.set_received_signal(0)
