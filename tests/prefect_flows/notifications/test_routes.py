"""Who is notified: receivers with a route by owner, group or tag, and those without a route."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from prefect_flows.core.errors import IngestionError, PrefectUnreachable
from prefect_flows.core.notification_preferences import NotificationPreferences, Route
from prefect_flows.notifications import run_result
from prefect_flows.notifications.messages import Notice
from prefect_flows.notifications.run_result import RunOutcome, notify_run_result
from prefect_flows.runtime.base import LocalRuntime
from prefect_flows.state.store import StateStore
from prefect_flows.transform.lineage import LineageNode
from prefect_flows.transform.run_report import FailureCard, RunReport

BLOCKS = [
    f"custom-webhook/notify-prod{name}" for name in ("", "--all", "--shop", "--money", "--bi")
]
PREFERENCES = NotificationPreferences(
    routes={
        "shop": Route(owners=("shop",)), "money": Route(tags=("finance",), groups=("billing",)),
        "bi": Route(owners=("bi",)), "gone": Route(owners=("shop",)),
    }
)  # fmt: skip
NOW = datetime.now(UTC)


class FakeRuntime(LocalRuntime):
    """A runtime with recipients; the Prefect API may be away."""

    is_api_up = True

    def __init__(self) -> None:
        super().__init__()
        self.log = logging.getLogger("test")
        self.preferences = PREFERENCES

    def recipients(self) -> list[str]:
        if not self.is_api_up:
            raise PrefectUnreachable(
                "The Prefect API does not answer.", where="here", fix="start it"
            )
        return BLOCKS


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Recipient → subjects of the notifications that it got."""
    found: dict[str, list[str]] = {}

    def send(receiver: str, notice: Notice) -> None:
        name = receiver.removeprefix("custom-webhook/notify-prod").removeprefix("--")
        found.setdefault(name or "unnamed", []).append(notice.subject.partition("prod: ")[2])

    monkeypatch.setattr(run_result, "build_sender", lambda _: send)
    return found


def node(name: str, *, tests: str | None = None, **labels: Any) -> LineageNode:
    kind = "test" if tests else "model"
    attached = f"model.p.{tests}" if tests else None
    known = {"owner": None, "group": None} | labels
    return LineageNode(
        f"{kind}.p.{name}", name, kind, "", (), pii_columns=frozenset(), relation=None,
        attached_to=attached, **known,
    )  # fmt: skip


def failed(*nodes: LineageNode, others: tuple[LineageNode, ...] = ()) -> RunOutcome:
    cards = [
        FailureCard(n.unique_id, n.name, n.resource_type, "", n.owner, n.group, None, "error",
                    "broken", None, None, None, None, [], "command")
        for n in nodes
    ]  # fmt: skip
    lineage = {n.unique_id: n for n in (*nodes, *others)}
    outcome = "failed" if nodes else "passed"
    report = RunReport(
        "prod", "1", None, "p", outcome, None, NOW, 1.0, cards=cards, lineage=lineage
    )
    return RunOutcome("prod", NOW, outcome, None, {}, report)


def notify(run: RunOutcome, folder: Path, runtime: FakeRuntime | None = None) -> None:
    notify_run_result(run, StateStore(str(folder)), runtime or FakeRuntime(), seconds=5)


ORDERS = node("orders", owner="shop", tags=("finance",))
INVOICES = node("invoices", owner="other", group="billing")
PLANES = node("planes")


def test_a_failure_goes_to_those_of_its_nodes_and_to_the_default(
    sent: dict[str, list[str]], tmp_path: Path
) -> None:
    notify(failed(PLANES, ORDERS, INVOICES), tmp_path)

    everything = ["model planes failed and 2 more"]
    assert sent == {
        "unnamed": everything, "all": everything,
        "shop": ["model orders failed"], "money": ["model orders failed and 1 more"],
    }  # fmt: skip

    # A node that fails still is notified once; those that recover go to the same.
    sent.clear()
    notify(failed(PLANES, others=(ORDERS, INVOICES)), tmp_path)
    assert sent == {}
    notify(failed(), tmp_path)  # none of the nodes is in the project any more
    recovered = ["model orders recovered and 2 more"]
    assert sent == {
        "unnamed": recovered, "all": recovered,
        "shop": ["model orders recovered"], "money": ["model orders recovered and 1 more"],
    }  # fmt: skip


def test_a_test_goes_where_its_model_does(sent: dict[str, list[str]], tmp_path: Path) -> None:
    unique = node("unique_orders_id", tests="orders", tags=("nightly",))
    notify(failed(unique, others=(ORDERS,)), tmp_path)
    assert set(sent) == {"unnamed", "all", "shop", "money"}


def test_what_has_no_node_goes_to_the_default(sent: dict[str, list[str]], tmp_path: Path) -> None:
    error = IngestionError("It cannot be read.", where="there", fix="look")
    error.source_errors = {"inbox": error}
    notify(RunOutcome("prod", NOW, "failed", error, {}), tmp_path)
    assert sent == {name: ["source inbox failed"] for name in ("unnamed", "all")}


def test_what_waited_for_the_api_goes_where_it_belongs(
    sent: dict[str, list[str]], tmp_path: Path
) -> None:
    runtime = FakeRuntime()
    runtime.is_api_up = False
    notify(failed(ORDERS), tmp_path, runtime)
    assert sent == {}
    runtime.is_api_up = True
    notify(failed(ORDERS), tmp_path, runtime)
    assert sent == {name: ["model orders failed"] for name in ("unnamed", "all", "shop", "money")}
