"""Deadlines: when one is missed, which runs meet it, and who is notified although no run comes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prefect_flows.core.errors import CorruptFileError, ProjectError
from prefect_flows.core.notification_preferences import NotificationPreferences, Route
from prefect_flows.notifications import missed_deadlines
from prefect_flows.notifications.messages import Notice
from prefect_flows.notifications.missed_deadlines import notify_missed_deadlines
from prefect_flows.state.deadlines import Deadline, DeadlineState, load_deadlines
from prefect_flows.state.store import StateStore
from prefect_flows.transform.deadlines import read_deadlines
from tests.prefect_flows.publish.test_publish_run import FILES, Shop, server, shop

__all__ = ["server", "shop"]  # fixtures

BERLIN = "07:00 Europe/Berlin"
BLOCKS = ["custom-webhook/notify-shop", "custom-webhook/notify-shop--sales"]
PREFERENCES = NotificationPreferences(routes={"sales": Route(owners=("sales",))})
MODELS = f"""
models:
  shop:
    marts:
      fct_orders: {{+meta: {{deadline: "{BERLIN}", owner: sales}}}}
      dim_customers: {{+meta: {{deadline: "{BERLIN}"}}}}
"""
EXPOSURES = """
exposures:
- name: dashboard
  type: dashboard
  owner: {name: bi, email: bi@example.com}
  meta: {deadline: "00:00 UTC", owner: bi}
  depends_on: [ref('agg_orders')]
"""


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("7:00 Europe/Berlin", "'7:00 Europe/Berlin' is not a time and a time zone"),
        ("24:00 UTC", "is not a time and a time zone"), ("07:00", "is not a time and a time zone"),
        (420, "420 is not a time and a time zone"),
        ("07:00 Europe/Berlim", "there is no time zone 'Europe/Berlim'"),
        ("07:00 Europe", "there is no time zone 'Europe'"),
        ("07:00 ../UTC", "there is no time zone '../UTC'"),
    ],
)  # fmt: skip
def test_a_deadline_that_is_none_says_where_it_is(text: object, fault: str) -> None:
    node = SimpleNamespace(
        resource_type="model", name="fct", unique_id="model.shop.fct", meta={"deadline": text},
        config=None,
    )  # fmt: skip
    manifest = SimpleNamespace(nodes={"model.shop.fct": node}, exposures={})
    session: Any = SimpleNamespace(manifest=manifest, path_of=lambda _: "models/fct.sql")
    with pytest.raises(ProjectError, match="The deadline of model fct is not valid") as refused:
        read_deadlines(session)
    assert fault in refused.value.what
    assert "meta.deadline of model.shop.fct; models/fct.sql" in refused.value.where
    assert 'deadline: "07:00 Europe/Berlin"' in refused.value.fix


@pytest.mark.parametrize(
    ("now", "due", "day"),
    [
        ("2026-12-01 05:59", "2026-11-30 06:00", "2026-11-29 23:00"),
        ("2026-12-01 06:00", "2026-12-01 06:00", "2026-11-30 23:00"),
        ("2026-12-01 22:59", "2026-12-01 06:00", "2026-11-30 23:00"),
        # Summer time ends on 2026-10-25: the day has 25 hours.
        ("2026-10-25 06:00", "2026-10-25 06:00", "2026-10-24 22:00"),
        ("2026-10-24 05:00", "2026-10-24 05:00", "2026-10-23 22:00"),
    ],
)
def test_the_last_deadline_and_the_begin_of_its_day(now: str, due: str, day: str) -> None:
    assert Deadline.parse(BERLIN).get_last(at(now)) == (at(due), at(day))


@pytest.mark.parametrize(
    ("complete", "seen", "now", "is_missed"),
    [
        # Before its deadline, that of the day before counts.
        ("2026-11-30 02:00", "2026-01-01", "2026-12-01 05:59", False),
        ("2026-11-30 02:00", "2026-01-01", "2026-12-01 06:00", True),
        ("2026-12-01 05:00", "2026-01-01", "2026-12-01 06:00", False),
        # The day begins at midnight in Berlin.
        ("2026-11-30 23:00", "2026-01-01", "2026-12-01 06:00", False),
        ("2026-11-30 22:59", "2026-01-01", "2026-12-01 06:00", True),
        # Late on the same day it is there after all.
        ("2026-12-01 09:00", "2026-01-01", "2026-12-01 09:01", False),
        (None, "2026-12-01 05:00", "2026-12-01 06:00", True),
        # It was not known yet.
        (None, "2026-12-01 07:00", "2026-12-01 08:00", False),
        (None, "2026-12-01 07:00", "2026-12-02 06:00", True),
    ],
)
def test_when_a_deadline_is_missed(
    complete: str | None, seen: str, now: str, is_missed: bool
) -> None:
    state = DeadlineState(
        name="model fct", deadline=BERLIN, seen_at=at(seen),
        complete_at=None if complete is None else at(complete),
    )  # fmt: skip
    assert (state.find_missed(at(now)) is not None) == is_missed


def test_a_deadline_that_was_damaged_is_named(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path))
    state = {"name": "model fct", "deadline": "noon", "seen_at": "2026-12-01T00:00:00Z"}
    store.write("targets/dev/deadlines.json", json.dumps({"model.p.fct": state}).encode())
    with pytest.raises(CorruptFileError, match="'noon' is not a time and a time zone"):
        load_deadlines(store, "dev")


@pytest.mark.conformance
def test_runs_complete_nodes_and_owners_learn_of_missed_deadlines(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StateStore(str(shop.local / "state"))
    sent: list[tuple[str, str]] = []

    def send(receiver: str, notice: Notice) -> None:
        sent.append((receiver.rpartition("/")[2], notice.subject.partition("shop: ")[2]))
        assert (
            "fix: uv run millrace run --target shop" in notice.body or "recovered" in notice.subject
        )

    monkeypatch.setattr(missed_deadlines, "build_sender", lambda _: send)

    def complete() -> dict[str, datetime | None]:
        states = load_deadlines(store, "shop")
        return {state.name.split()[1]: state.complete_at for state in states.values()}

    def check(now: datetime) -> list[str]:
        sent.clear()
        states = load_deadlines(store, "shop")
        found = notify_missed_deadlines(
            store, "shop", states, PREFERENCES, BLOCKS, now, 5, pytest.fail
        )
        return [incident.name for incident in found]

    # GIVEN a run in which a test of the facts fails
    shop.write(**{"dbt_project.yml": FILES["dbt_project.yml"] + MODELS, "models/x.yml": EXPOSURES})
    shop.load((4, "cid", -5))
    shop.pipe(status=1)
    # THEN neither they are complete, nor the exposure of what reads them, nor what is not published
    assert complete() == {"fct_orders": None, "dim_customers": None, "dashboard": None}

    # WHEN it passes, THEN all are
    shop.load((4, "cid", 5))
    shop.pipe()
    first = complete()
    assert None not in first.values()
    # AND a run that finds nothing new completes them again, one without tests does not
    reusing = shop.pipeline(*shop.arguments, MILLRACE_REUSE="true")
    assert reusing.returncode == 0, reusing.stderr
    second = complete()
    assert all(second[name] > first[name] for name in first)  # type: ignore[operator]
    shop.pipe("--skip", "test", "--select", "dim_customers", status=0)
    assert complete() == second

    # WHEN no run comes for two days
    now = datetime.now(UTC)
    assert check(now) == []
    late = now + timedelta(days=2)
    missed = ["model fct_orders", "model dim_customers", "exposure dashboard"]
    assert sorted(check(late)) == sorted(missed)

    # THEN owners with a receiver are notified there alone, the others where everything goes
    assert ("notify-shop--sales", "model fct_orders is stale") in sent
    ((_, others),) = [each for each in sent if each[0] == "notify-shop"]
    assert others.endswith("is stale and 1 more")
    assert "fct_orders" not in others
    assert len(sent) == 2
    # AND once
    assert len(check(late + timedelta(days=1))) == 3
    assert sent == []
    # AND again when they are complete
    assert check(now) == []
    assert sorted(receiver for receiver, _ in sent) == ["notify-shop", "notify-shop--sales"]
    assert all("recovered" in subject for _, subject in sent)
