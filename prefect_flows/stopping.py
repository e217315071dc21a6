"""Stops a run when it is told to: by Ctrl-C, by SIGTERM, or because Prefect cancelled it.

Whatever tells it, the main thread gets a `KeyboardInterrupt`: dbt answers that, and nothing else,
by cancelling its statements in the warehouse. Code of a library may swallow the interrupt: a bare
`except:`, as the functions that dbt generates to read its parsed project have it, or a callback
whose errors Python ignores. So a request is remembered, the interrupt is repeated until one is on
its way up, and a run looks between its stages and nodes whether it was told to stop.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from prefect_flows.errors import RunCancelled

# How long after an interrupt without effect the next one comes.
REPEAT_SECONDS = 0.5
NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


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


class Stop:
    """Tells the main thread to stop, until it does.

    Attributes:
        reason: who told it; none while nobody has.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        # Whether the project's own code has the interrupt, where nothing swallows it any more.
        self._has_effect = False

    def request(self, reason: str) -> None:
        """Stop the run, from any thread."""
        self.reason = self.reason or reason

    def check(self) -> None:
        """Interrupt the caller if the run was told to stop.

        Raises:
            KeyboardInterrupt: it was.
        """
        if self.reason is not None:
            self._has_effect = True
            raise KeyboardInterrupt

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Look before and after a piece of work, whatever that made of an interrupt.

        Raises:
            KeyboardInterrupt: the run was told to stop.
        """
        self.check()
        try:
            yield
        finally:
            self.check()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear Ctrl-C and SIGTERM, and say of an interrupt that the run was told to stop.

        A signal reaches the main thread only; in another one a request is heard by `check`.

        Raises:
            RunCancelled: the run was told to stop.
        """
        try:
            if threading.current_thread() is threading.main_thread():
                with self._signals_heard():
                    yield
            else:
                yield
        except KeyboardInterrupt as error:
            raise self.cancelled() from error

    @contextmanager
    def _signals_heard(self) -> Iterator[None]:
        def hear(number: int, _frame: FrameType | None) -> None:
            self.request(NAMES[signal.Signals(number)])
            # A second Ctrl-C ends what the first one began: the person does not want to wait.
            if not interrupts.ending and (
                number == signal.SIGINT or not (self._has_effect or is_interrupt_under_way())
            ):
                raise KeyboardInterrupt

        def repeat() -> None:
            while not interrupts.over.wait(REPEAT_SECONDS):
                if self.reason is not None:
                    interrupts.send()

        interrupts = Interrupts(signal.SIGTERM, hear)
        before = {number: signal.getsignal(number) for number in NAMES}
        for number in NAMES:
            # A shell's background job ignores Ctrl-C, which is for what runs in the foreground.
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, hear)
        thread = threading.Thread(target=repeat, name="millrace-stop", daemon=True)
        thread.start()
        try:
            yield
        finally:
            interrupts.ending = True
            interrupts.end()
            thread.join()
            for number, handler in before.items():
                signal.signal(number, handler)

    def cancelled(self) -> RunCancelled:
        """The error that says so."""
        return RunCancelled(
            f"The run was told to stop by {self.reason or 'Ctrl-C'}; its statements were "
            "cancelled in the warehouse.",
            where="the stage that ran; the log names it",
            mend="start it again: it goes on with what is left; --fresh starts over",
        )
