"""Notices wait until they are sent, and hold up nothing."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect_flows.notifications.messages import Notice
from prefect_flows.notifications.outbox import MAX_WAITING, Outbox
from prefect_flows.state.store import StateStore


def notice(name: str, minutes_ago: float = 0) -> Notice:
    at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    return Notice(subject=name, body="text", at=at)


def test_one_that_hangs_and_one_that_refuses_do_not_hold_up_the_third() -> None:
    sent: list[tuple[str, str]] = []
    over = threading.Event()

    def send(receiver: str, notice: Notice) -> str | None:
        if receiver == "hangs":
            over.wait(60)
        if receiver == "refuses":
            return "500 Internal Server Error"
        sent.append((receiver, notice.subject))
        return None

    outbox = Outbox()
    outbox.add([notice("a"), notice("b")], {None: ["hangs", "refuses", "good"]})
    started = time.monotonic()
    left = outbox.deliver(send, seconds=3)
    assert time.monotonic() - started < 30
    assert sent == [("good", "a"), ("good", "b")]
    assert left == {"hangs": "no answer within 3 s", "refuses": "500 Internal Server Error"}
    assert [set(waiting.unsent) for waiting in outbox.waiting] == [{"hangs", "refuses"}] * 2
    # Not before: what hung goes on then, and is sent after all.
    over.set()


def test_what_waits_is_kept_and_sent_in_order_saying_that_it_is_late(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path))
    outbox = Outbox()
    outbox.add([notice("old", 90)], {None: ["team"]})
    outbox.deliver(lambda *_: "away", seconds=5)
    outbox.save(store, "dev")

    again = Outbox.read(store, "dev")
    again.add([notice("new")], {None: ["team"]})
    bodies: list[str] = []

    def send(_receiver: str, notice: Notice) -> None:
        bodies.append(notice.body)

    assert again.deliver(send, seconds=5) == {}
    assert "Delayed: from " in bodies[0]
    assert bodies[1] == "text"
    assert again.waiting == []


def test_a_notice_is_sent_once_its_recipients_can_be_read() -> None:
    outbox = Outbox()
    outbox.add([notice("a")], None)
    assert len(outbox.waiting) == 1
    outbox.add([], {None: ["team"]})
    assert [set(waiting.unsent) for waiting in outbox.waiting] == [{"team"}]


def test_a_routed_notice_waits_for_its_own_recipient_alone() -> None:
    routed = notice("a").model_copy(update={"route": "shop"})
    outbox = Outbox()
    outbox.add([routed], None)
    outbox.add([routed, notice("b")], {None: ["team"], "shop": ["its own"]})
    assert [set(waiting.unsent) for waiting in outbox.waiting] == [
        {"its own"}, {"its own"}, {"team"},
    ]  # fmt: skip


def test_a_removed_recipient_is_not_waited_for() -> None:
    outbox = Outbox()
    outbox.add([notice("a")], {None: ["gone"]})
    outbox.add([], {None: ["team"]})
    assert outbox.waiting == []


def test_the_newest_are_kept_and_the_others_counted() -> None:
    outbox = Outbox()
    outbox.add([notice(str(i), 90) for i in range(MAX_WAITING + 5)], {None: ["team"]})
    assert (len(outbox.waiting), outbox.given_up) == (MAX_WAITING, 5)
    assert outbox.waiting[0].notice.subject == "5"
    bodies: list[str] = []

    def send(_receiver: str, notice: Notice) -> None:
        bodies.append(notice.body)

    outbox.deliver(send, seconds=5)
    assert "5 older notifications were dropped" in bodies[0]
    assert outbox.given_up == 0
