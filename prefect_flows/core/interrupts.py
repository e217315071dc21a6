"""Timeouts and interrupts of the main thread: signals that repeat until they have an effect."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from prefect_flows.core.errors import MillraceError

INTERRUPT_INTERVAL_SECONDS = 0.5


class Interrupts:
    """Sends a signal to the main thread from another thread, as often as needed.

    If a library has replaced our handler, its handler gets the signal only once: dlt, for example,
    stops gracefully at the first signal and exits at the second.

    Args:
        number: the signal to send.
        handler: our handler for it, which raises the interrupt.

    Attributes:
        stopped: set when no more signals are sent.
        is_ending: set before `end` is called; the handler must not raise any more.
    """

    def __init__(self, number: signal.Signals, handler: object) -> None:
        self.stopped = threading.Event()
        self.is_ending = False
        self._number = number
        self._handler = handler
        self._last_handler: object = None
        self._lock = threading.Lock()

    def send(self) -> None:
        """Send the signal, unless the handler of a library has already received it."""
        with self._lock:
            handler = signal.getsignal(self._number)
            if self.stopped.is_set() or (
                handler is self._last_handler and handler != self._handler
            ):
                return
            self._last_handler = handler
            signal.pthread_kill(threading.main_thread().ident or 0, self._number)

    def end(self) -> None:
        """Stop sending; signals that were sent are handled when this returns."""
        with self._lock:
            self.stopped.set()
        # A system call makes a pending signal arrive now, at the current handler.
        signal.sigpending()


def is_handling_interrupt() -> bool:
    """Return whether the caller runs while a KeyboardInterrupt is handled."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


@contextmanager
def time_limit(seconds: float, error: MillraceError) -> Iterator[None]:
    """Run the block in this context with a timeout, and raise the error when it expires."""
    if threading.current_thread() is threading.main_thread():
        with _timeout_by_signal(seconds, error):
            yield
        return
    # Prefect takes a second to import, and only runs have other threads.
    from prefect.utilities.timeout import timeout

    try:
        with timeout(seconds):
            yield
    except TimeoutError as timed_out:
        raise error from timed_out


@contextmanager
def _timeout_by_signal(seconds: float, error: MillraceError) -> Iterator[None]:
    """Interrupt the main thread when the time is up, and repeat this until it has an effect."""
    expired = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        # After the timeout, the timer and a Ctrl-C look the same: both end the block.
        if not expired.is_set():
            if callable(before):
                before(number, frame)
        elif not (interrupts.is_ending or is_handling_interrupt()):
            raise KeyboardInterrupt

    def run_timer() -> None:
        if interrupts.stopped.wait(seconds):
            return
        expired.set()
        while not interrupts.stopped.is_set():
            interrupts.send()
            interrupts.stopped.wait(INTERRUPT_INTERVAL_SECONDS)

    interrupts = Interrupts(signal.SIGINT, handle)
    signal.signal(signal.SIGINT, handle)
    timer = threading.Thread(target=run_timer, name="millrace-timeout", daemon=True)
    timer.start()
    try:
        yield
    finally:
        interrupts.is_ending = True
        interrupts.end()
        timer.join()
        signal.signal(signal.SIGINT, before)
        if expired.is_set():
            raise error
