"""Notices on their way: kept until each receiver has them, for a few seconds of each run.

    <state_url>/targets/<target>/outbox.json        those that are not sent yet

A receiver that hangs or refuses delays a run by `Settings.notify_seconds` at most, and never fails
it. What it was not told waits for the next run of the target. One that answers after that is told
twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, TypeAdapter

from prefect_flows.core.files import Warn
from prefect_flows.notifications.messages import Notice
from prefect_flows.state.store import StateStore

OUTBOX = "outbox.json"
# A receiver that is away for long is told the newest ones, and how many it was not told.
MOST_WAITING = 20
# Stands for all receivers where they could not be asked for.
EVERYBODY = "*"

Send = Callable[[str, Notice], str | None]


class Waiting(BaseModel):
    """A notice that somebody was not told yet.

    Attributes:
        unsent: receiver → why it was not told.
    """

    model_config = ConfigDict(extra="ignore")

    notice: Notice
    unsent: dict[str, str]


class Outbox(BaseModel):
    """What is not sent.

    Attributes:
        waiting: oldest first.
        given_up: notices that were left out since the last one that was sent, to keep the newest.
    """

    model_config = ConfigDict(extra="ignore")

    waiting: list[Waiting] = []
    given_up: int = 0

    @classmethod
    def read(cls, store: StateStore, target: str, warn: Warn | None = None) -> Outbox:
        """The outbox of a target.

        Args:
            warn: as `StateStore.load` has it.

        Raises:
            StateStoreError: the store cannot be read, or the file is damaged.
        """
        return store.load(f"targets/{target}/{OUTBOX}", TypeAdapter(cls), warn) or cls()

    def keep(self, store: StateStore, target: str) -> None:
        """Keep it in the state store.

        Raises:
            StateStoreError: the store cannot be written.
        """
        store.write(f"targets/{target}/{OUTBOX}", self.model_dump_json(indent=1).encode())

    def add(self, notices: Sequence[Notice], receivers: Sequence[str] | None) -> None:
        """Put notices in.

        Args:
            receivers: who is told now; none where that could not be asked. What waits for one that
                is not told any more waits no longer.
        """
        if receivers is None:
            everybody = {EVERYBODY: "the Prefect API, which knows who, does not answer"}
        else:
            everybody = dict.fromkeys(receivers, "not tried yet")
            for waiting in self.waiting:
                if EVERYBODY in waiting.unsent:
                    waiting.unsent = dict(everybody)
                waiting.unsent = {n: why for n, why in waiting.unsent.items() if n in everybody}
        self.waiting += [Waiting(notice=notice, unsent=dict(everybody)) for notice in notices]
        self.waiting = [waiting for waiting in self.waiting if waiting.unsent]
        self.given_up += max(0, len(self.waiting) - MOST_WAITING)
        self.waiting = self.waiting[-MOST_WAITING:]

    def deliver(self, send: Send, seconds: float) -> dict[str, str]:
        """Send what waits, to each receiver in its order, all receivers side by side.

        Args:
            send: receiver and notice → why it was not sent.
            seconds: how long they are waited for.

        Returns:
            Receiver → why it still lacks something.
        """
        given_up, self.given_up = self.given_up, 0
        deadline = time.monotonic() + seconds
        lines = [
            _Line(name, [w for w in self.waiting if name in w.unsent], given_up, send, deadline)
            for name in sorted({name for waiting in self.waiting for name in waiting.unsent})
        ]
        for line in lines:
            line.start()
        for line in lines:
            line.join(max(0.0, deadline - time.monotonic()))
        left = {}
        for line in lines:
            # What a line still does after its time is not looked at any more.
            sent, why = list(line.sent), line.why or f"no answer within {seconds:g} s"
            for waiting in line.todo:
                if any(waiting is each for each in sent):
                    del waiting.unsent[line.receiver]
                else:
                    waiting.unsent[line.receiver] = left[line.receiver] = why
        self.waiting = [waiting for waiting in self.waiting if waiting.unsent]
        if left:
            self.given_up = given_up
        return left


class _Line(threading.Thread):
    """What goes to one receiver. It never holds up the end of the process."""

    def __init__(
        self, receiver: str, todo: list[Waiting], given_up: int, send: Send, deadline: float
    ) -> None:
        super().__init__(name=f"notices to {receiver}", daemon=True)
        self.receiver = receiver
        self.todo = todo
        self.sent: list[Waiting] = []
        self.why: str | None = None
        self._given_up = given_up
        self._send = send
        self._deadline = deadline

    def run(self) -> None:
        """Send one after the other, up to the first that cannot be sent."""
        for waiting in self.todo:
            if time.monotonic() > self._deadline:
                return
            notice = waiting.notice
            body = notice.body + self._late(notice)
            why = self._send(self.receiver, notice.model_copy(update={"body": body}))
            if why is not None:
                self.why = why
                return
            self.sent.append(waiting)

    def _late(self, notice: Notice) -> str:
        if (datetime.now(UTC) - notice.at).total_seconds() < 60:  # of this run
            return ""
        more = f" {self._given_up} older ones were left out." if self._given_up else ""
        return f"\n(This is of {notice.at:%Y-%m-%d %H:%M} UTC; it could not be sent before.{more})"
