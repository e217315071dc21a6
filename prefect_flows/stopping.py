"""Stops a run when it is told to: by Ctrl-C, by SIGTERM, or because Prefect cancelled it.

Whatever tells it, the main thread gets a `KeyboardInterrupt`: dbt answers that, and nothing else,
by cancelling its statements in the warehouse.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from prefect_flows.errors import RunCancelled


class Stop:
    """Tells the main thread to stop, once.

    Attributes:
        reason: who told it; none while nobody has.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._is_heard = False

    def request(self, reason: str) -> None:
        """Stop the run from any thread; nothing happens where nobody would hear it."""
        if self.reason is None and self._is_heard:
            self.reason = reason
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear SIGTERM, and say of an interrupt that the run was told to stop.

        A signal reaches the main thread only; in another one Prefect's own way has to serve.

        Raises:
            RunCancelled: the run was told to stop.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
            self.reason = self.reason or "SIGTERM"
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, interrupt)
        self._is_heard = True
        try:
            yield
        except KeyboardInterrupt as error:
            raise self.cancelled() from error
        finally:
            self._is_heard = False
            signal.signal(signal.SIGTERM, before)

    def cancelled(self) -> RunCancelled:
        """The error that says so."""
        return RunCancelled(
            f"The run was told to stop by {self.reason or 'Ctrl-C'}; its statements were "
            "cancelled in the warehouse.",
            where="the stage that ran; the log names it",
            mend="start it again: it goes on with what is left; --fresh starts over",
        )
