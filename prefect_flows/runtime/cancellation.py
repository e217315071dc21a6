"""Cancellation of a run by Ctrl-C, SIGTERM, or a cancelled flow run in Prefect.

Every cancellation raises a `KeyboardInterrupt` in the main thread, because it is the only exception
after which dbt cancels its statements in the warehouse. A library may swallow the interrupt: with a
bare `except:`, as in the code that dbt generates to read its parsed project, or in a callback whose
errors Python ignores. Therefore the handler remembers the request, repeats the interrupt until it
has an effect, and a run also checks for a request between its stages and nodes.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from prefect_flows.core.errors import RunCancelled
from prefect_flows.core.interrupts import (
    INTERRUPT_INTERVAL_SECONDS,
    Interrupts,
    is_handling_interrupt,
)

SIGNAL_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class CancellationHandler:
    """Cancels a run: remembers the request, and interrupts the main thread until it stops.

    Attributes:
        reason: what requested the cancellation; None if nothing did.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        # Whether our own code has raised the interrupt, where no library can swallow it.
        self._has_effect = False

    def request(self, reason: str) -> None:
        """Request the cancellation of the run; callable from any thread."""
        self.reason = self.reason or reason

    def check(self) -> None:
        """Raise an interrupt if the run was cancelled.

        Raises:
            KeyboardInterrupt: the run was cancelled.
        """
        if self.reason is not None:
            self._has_effect = True
            raise KeyboardInterrupt

    @contextmanager
    def check_before_and_after(self) -> Iterator[None]:
        """Check for a cancellation before and after the block, which may swallow the interrupt.

        Raises:
            KeyboardInterrupt: the run was cancelled.
        """
        self.check()
        try:
            yield
        finally:
            self.check()

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handle Ctrl-C and SIGTERM, and turn an interrupt into `RunCancelled`.

        Signals reach only the main thread. In another thread, `check` raises the interrupt.

        Raises:
            RunCancelled: the run was cancelled.
        """
        try:
            if threading.current_thread() is threading.main_thread():
                with self._signal_handlers():
                    yield
            else:
                yield
        except KeyboardInterrupt as error:
            raise self.cancelled() from error

    @contextmanager
    def _signal_handlers(self) -> Iterator[None]:
        def handle(number: int, _frame: FrameType | None) -> None:
            self.request(SIGNAL_NAMES[signal.Signals(number)])
            # A second Ctrl-C also interrupts the cleanup after the first: the user does not wait.
            if not interrupts.is_ending and (
                number == signal.SIGINT or not (self._has_effect or is_handling_interrupt())
            ):
                raise KeyboardInterrupt

        def repeat() -> None:
            while not interrupts.stopped.wait(INTERRUPT_INTERVAL_SECONDS):
                if self.reason is not None:
                    interrupts.send()

        interrupts = Interrupts(signal.SIGTERM, handle)
        before = {number: signal.getsignal(number) for number in SIGNAL_NAMES}
        for number in SIGNAL_NAMES:
            # A shell starts a background job with SIGINT ignored; leave it so.
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, handle)
        thread = threading.Thread(target=repeat, name="millrace-stop", daemon=True)
        thread.start()
        try:
            yield
        finally:
            interrupts.is_ending = True
            interrupts.end()
            thread.join()
            for number, handler in before.items():
                signal.signal(number, handler)

    def cancelled(self) -> RunCancelled:
        """Build the error of a cancelled run."""
        return RunCancelled(
            f"The run was cancelled by {self.reason or 'Ctrl-C'}; its statements were "
            "cancelled in the warehouse.",
            where="the stage that ran; the log names it",
            fix="start it again: it resumes with the remaining nodes; --no-resume starts over",
        )
