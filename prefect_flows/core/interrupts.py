"""Interrupts the main thread until that has an effect, and bounds how long work may take."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from prefect.utilities.timeout import timeout

from prefect_flows.core.errors import MillraceError

# How long after an interrupt without effect the next one comes.
REPEAT_SECONDS = 0.5


class Interrupts:
    """Interrupts the main thread again and again, from another thread, until it is over.

    Another handler than the own one, such as dlt's while it loads, gets the signal once: dlt takes
    the first for a request and the second for an order.

    Args:
        number: the signal to send.
        handler: the own handler of it, which is to raise the interrupt.

    Attributes:
        ending: set before `end`, which the handler is not to interrupt.
    """

    def __init__(self, number: signal.Signals, handler: object) -> None:
        self.over = threading.Event()
        self.ending = False
        self._number = number
        self._handler = handler
        self._told: object = None
        self._lock = threading.Lock()

    def send(self) -> None:
        """Send the signal; again with each call, unless another's handler has heard it."""
        with self._lock:
            handler = signal.getsignal(self._number)
            if self.over.is_set() or (handler is self._told and handler != self._handler):
                return
            self._told = handler
            signal.pthread_kill(threading.main_thread().ident or 0, self._number)

    def end(self) -> None:
        """Send no more; what was sent has arrived afterwards."""
        with self._lock:
            self.over.set()
        # A signal that is on its way arrives with the next system call, at the present handler.
        signal.sigpending()


def is_interrupt_under_way() -> bool:
    """Whether the main thread handles an interrupt just now: a further one would end that work."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


@contextmanager
def bounded(seconds: float, error: MillraceError) -> Iterator[None]:
    """Interrupt what does not end in time, and raise the error."""
    if threading.current_thread() is threading.main_thread():
        with _interrupted_after(seconds, error):
            yield
        return
    try:
        with timeout(seconds):
            yield
    except TimeoutError as timed_out:
        raise error from timed_out


@contextmanager
def _interrupted_after(seconds: float, error: MillraceError) -> Iterator[None]:
    """Interrupt the main thread, again and again until that has effect, when the time is up."""
    interrupted = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def hear(number: int, frame: FrameType | None) -> None:
        # The timer sends this signal until it has effect; a person's Ctrl-C may be among them, and
        # ends the stage as well.
        if not interrupted.is_set():
            if callable(before):
                before(number, frame)
        elif not (interrupts.ending or is_interrupt_under_way()):
            raise KeyboardInterrupt

    def watch() -> None:
        if interrupts.over.wait(seconds):
            return
        interrupted.set()
        while not interrupts.over.is_set():
            interrupts.send()
            interrupts.over.wait(REPEAT_SECONDS)

    interrupts = Interrupts(signal.SIGINT, hear)
    signal.signal(signal.SIGINT, hear)
    watcher = threading.Thread(target=watch, name="millrace-timeout", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        interrupts.ending = True
        interrupts.end()
        watcher.join()
        signal.signal(signal.SIGINT, before)
        if interrupted.is_set():
            raise error
