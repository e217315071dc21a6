"""Stops a run when it is told to: by Ctrl-C, by SIGTERM, or because Prefect cancelled it.

Whatever tells it, the main thread gets a `KeyboardInterrupt`: dbt answers that, and nothing else,
by cancelling its statements in the warehouse. Code of a library may swallow the interrupt: a bare
`except:`, as the functions that dbt generates to read its parsed project have it, or a callback
whose errors Python ignores. So a request is remembered, the interrupt is repeated until one is on
its way up, and a run looks between its stages and nodes whether it was told to stop.
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
    is_interrupt_under_way,
)

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class CancellationHandler:
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
            while not interrupts.over.wait(INTERRUPT_INTERVAL_SECONDS):
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
            fix="start it again: it goes on with what is left; --no-resume starts over",
        )
