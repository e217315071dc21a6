"""Outbox of notifications: keeps each one until every recipient has received it.

    <state_url>/targets/<target>/outbox.json        unsent notifications

A recipient that hangs or refuses delays a run by at most `Settings.notify_seconds`, and never fails
it. What it did not receive waits for the next run of the target. A recipient that answers after the
time limit receives the notification twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, TypeAdapter

from prefect_flows.core.files import Warn
from prefect_flows.notifications.messages import Notice
from prefect_flows.state.store import StateStore

OUTBOX_FILE = "outbox.json"
# A recipient that is unavailable for long receives the newest ones, and the number of the others.
MAX_WAITING = 20
# Stands for the recipients of a notification while the Prefect API does not answer.
ALL_RECIPIENTS = "*"

Send = Callable[[str, Notice], str | None]


class PendingNotice(BaseModel):
    """A notification that at least one recipient has not received.

    Attributes:
        unsent: reason by recipient.
    """

    model_config = ConfigDict(extra="ignore")

    notice: Notice
    unsent: dict[str, str]


class Outbox(BaseModel):
    """Unsent notifications of a target.

    Attributes:
        waiting: oldest first.
        given_up: number of notifications dropped since the last one that was sent, to keep the
            newest.
    """

    model_config = ConfigDict(extra="ignore")

    waiting: list[PendingNotice] = []
    given_up: int = 0

    @classmethod
    def read(
        cls, store: StateStore, target: str, warn: Warn | None = None, file: str = OUTBOX_FILE
    ) -> Outbox:
        """Load the outbox of a target.

        Args:
            warn: see `StateStore.load`.
            file: name of its file.

        Raises:
            StateStoreError: the store cannot be read, or the file is corrupt.
        """
        return store.load(f"targets/{target}/{file}", TypeAdapter(cls), warn) or cls()

    def save(self, store: StateStore, target: str, file: str = OUTBOX_FILE) -> None:
        """Save the outbox in the state store.

        Raises:
            StateStoreError: the store cannot be written.
        """
        store.write(f"targets/{target}/{file}", self.model_dump_json(indent=1).encode())

    def add(
        self, notices: Sequence[Notice], receivers: Mapping[str | None, Sequence[str]] | None
    ) -> None:
        """Add notifications.

        Args:
            receivers: route of a notification → its current recipients; None if they could not be
                read. Notifications for recipients that no longer exist are dropped.
        """
        unread = {ALL_RECIPIENTS: "the Prefect API does not answer"}

        def address(notice: Notice) -> dict[str, str]:
            if receivers is None:
                return dict(unread)
            return dict.fromkeys(receivers.get(notice.route, ()), "not tried yet")

        if receivers is not None:
            existing = {name for names in receivers.values() for name in names}
            for waiting in self.waiting:
                if ALL_RECIPIENTS in waiting.unsent:
                    waiting.unsent = address(waiting.notice)
                waiting.unsent = {n: why for n, why in waiting.unsent.items() if n in existing}
        self.waiting += [PendingNotice(notice=each, unsent=address(each)) for each in notices]
        self.waiting = [waiting for waiting in self.waiting if waiting.unsent]
        self.given_up += max(0, len(self.waiting) - MAX_WAITING)
        self.waiting = self.waiting[-MAX_WAITING:]

    def deliver(self, send: Send, seconds: float) -> dict[str, str]:
        """Send waiting notifications, to each recipient in order and to all recipients in parallel.

        Args:
            send: sends a notice to a recipient, and returns why it could not.
            seconds: time limit.

        Returns:
            Reason by recipient that still misses a notification.
        """
        given_up, self.given_up = self.given_up, 0
        deadline = time.monotonic() + seconds
        threads = [
            _SenderThread(
                name, [w for w in self.waiting if name in w.unsent], given_up, send, deadline
            )
            for name in sorted({name for waiting in self.waiting for name in waiting.unsent})
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        failures = {}
        for thread in threads:
            # A thread may still send after the time limit; take a copy of what it has sent so far.
            sent, why = list(thread.sent), thread.why or f"no answer within {seconds:g} s"
            for waiting in thread.todo:
                if any(waiting is each for each in sent):
                    del waiting.unsent[thread.receiver]
                else:
                    waiting.unsent[thread.receiver] = failures[thread.receiver] = why
        self.waiting = [waiting for waiting in self.waiting if waiting.unsent]
        if failures:
            self.given_up = given_up
        return failures


class _SenderThread(threading.Thread):
    """Daemon thread that sends to one recipient; it never delays the end of the process."""

    def __init__(
        self, receiver: str, todo: list[PendingNotice], given_up: int, send: Send, deadline: float
    ) -> None:
        super().__init__(name=f"notices to {receiver}", daemon=True)
        self.receiver = receiver
        self.todo = todo
        self.sent: list[PendingNotice] = []
        self.why: str | None = None
        self._given_up = given_up
        self._send = send
        self._deadline = deadline

    def run(self) -> None:
        """Send in order, up to the first notification that cannot be sent."""
        for waiting in self.todo:
            if time.monotonic() > self._deadline:
                return
            notice = waiting.notice
            body = notice.body + self._late_note(notice)
            why = self._send(self.receiver, notice.model_copy(update={"body": body}))
            if why is not None:
                self.why = why
                return
            self.sent.append(waiting)

    def _late_note(self, notice: Notice) -> str:
        if (datetime.now(UTC) - notice.at).total_seconds() < 60:  # it is from this run
            return ""
        more = f" {self._given_up} older notifications were dropped." if self._given_up else ""
        return f"\n(Delayed: from {notice.at:%Y-%m-%d %H:%M} UTC.{more})"
