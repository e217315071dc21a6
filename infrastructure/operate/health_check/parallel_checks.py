"""Run functions in parallel threads, with a common timeout."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class _CheckThread(threading.Thread, Generic[T]):
    """A daemon thread, since a hanging check must not keep the process from exiting."""

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.result: T | None = None
        self.error: BaseException | None = None
        self.seconds = 0.0

    def run(self) -> None:
        started = time.monotonic()
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 # raised again in the caller's thread
            self.error = error
        self.seconds = time.monotonic() - started


def run_checks(
    work: Mapping[str, Callable[[], T]], seconds: float
) -> dict[str, tuple[T, float] | None]:
    """Run functions concurrently; return each result with its seconds, or None on a timeout.

    Raises:
        BaseException: the exception of a function.
    """
    deadline = time.monotonic() + seconds
    jobs = {name: _CheckThread(call) for name, call in work.items()}
    for job in jobs.values():
        job.start()
    results: dict[str, tuple[T, float] | None] = {}
    for name, job in jobs.items():
        job.join(max(0.0, deadline - time.monotonic()))
        if job.is_alive():
            results[name] = None
            continue
        if job.error is not None:
            raise job.error
        results[name] = (job.result, job.seconds)  # type: ignore[assignment] # it ended well
    return results
