"""What a notice says, and that it fits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from prefect_flows.core.failure_class import FailureClass
from prefect_flows.core.notification_preferences import NotificationPreferences
from prefect_flows.notifications.messages import (
    MAX_CHARACTERS,
    build_incident_notice,
    build_recovery_notice,
    build_retry_notice,
)
from prefect_flows.state.incidents import Incident, IncidentChanges
from prefect_flows.transform.run_report import FailingRows, FailureCard

NOW = datetime.now(UTC)
URL = "http://127.0.0.1:4200/runs/flow-run/00000000-0000-0000-0000-000000000000"


def incident(i: int, **given: object) -> Incident:
    facts = {
        "id": f"model.shop.{i} code", "name": f"model orders_{i}", "node": f"model.shop.{i}",
        "cause_class": "code", "cause": "column x does not exist", "owner": "shop", "blocked": 12,
        "first_at": NOW, "last_at": NOW, "command": f"cd dbt && uv run dbt run --select orders_{i}",
    }  # fmt: skip
    return Incident.model_validate(facts | given)


def card(**given: object) -> FailureCard:
    facts = {
        "unique_id": "model.shop.0", "name": "orders_0", "resource_type": "model", "path": "o.sql",
        "owner": "shop", "group": None, "cause": FailureClass.CODE, "status": "error",
        "message": "m", "compiled_path": None, "compiled_sql": None, "failures": None,
        "failing_rows": None,
        "blocked": [("model", f"m{i}") for i in range(12)], "command": "c",
    }  # fmt: skip
    return FailureCard(**(facts | given))  # type: ignore[arg-type]


def test_a_flood_is_one_message_under_the_limit() -> None:
    new = [incident(i, cause="x" * 900) for i in range(1000)]
    notice = build_incident_notice(
        "prod", IncidentChanges(new=new), NotificationPreferences(), {"model.shop.0": card()}, URL
    )
    assert notice is not None
    assert notice.subject == "Millrace: prod: model orders_0 failed and 999 more"
    assert len(notice.subject) + len(notice.body) <= MAX_CHARACTERS
    shown = notice.body.count("also: ")
    assert f"and {999 - shown} more" in notice.body
    # What a person needs is there whatever else was cut.
    assert URL in notice.body
    assert "reproduce: cd dbt && uv run dbt run --select orders_0" in notice.body
    assert "blocked: model m0, model m1, model m2, model m3, model m4 and 7 more" in notice.body


def test_the_first_failing_rows_without_what_is_hidden() -> None:
    rows = FailingRows(("id", "n"), [(str(i), None) for i in range(10)], ("email",))
    notice = build_incident_notice(
        "prod",
        IncidentChanges(new=[incident(0)]),
        NotificationPreferences(),
        {"model.shop.0": card(failing_rows=rows)},
        URL,
    )
    assert notice is not None
    assert "failing rows (without email):\n- id=0, n=None\n- id=1, n=None\n- id=2" in notice.body
    assert "id=3" not in notice.body


def test_a_failure_says_which_data_readers_see() -> None:
    sentence = "Readers see the data of run r1, published at 2026-11-30 04:05 UTC."
    changes = IncidentChanges(new=[incident(0)])
    notice = build_incident_notice("prod", changes, NotificationPreferences(), {}, URL, sentence)
    assert notice is not None
    assert sentence in notice.body.splitlines()


def test_an_owner_is_mentioned_as_the_chat_does() -> None:
    preferences = NotificationPreferences(owners={"shop": "<@U024BE7LH>"})
    notice = build_incident_notice(
        "prod", IncidentChanges(new=[incident(0)]), preferences, {}, None
    )
    assert notice is not None
    assert "owner: <@U024BE7LH> (shop)" in notice.body


@pytest.mark.parametrize(
    ("kind", "said"), [("warning", "warns"), ("stale", "is stale"), ("failure", "failed")]
)
def test_only_what_is_wished_for(kind: str, said: str) -> None:
    judged = IncidentChanges(new=[incident(0, kind=kind)])
    notice = build_incident_notice("prod", judged, NotificationPreferences(), {}, None)
    assert notice is not None
    assert notice.subject.endswith(said)
    assert (
        build_incident_notice(
            "prod", judged, NotificationPreferences(events=("success",)), {}, None
        )
        is None
    )


def test_failures_come_before_what_warns() -> None:
    new = [incident(0, kind="warning"), incident(1)]
    notice = build_incident_notice(
        "prod", IncidentChanges(new=new), NotificationPreferences(), {}, None
    )
    assert notice is not None
    assert notice.subject == "Millrace: prod: model orders_1 failed and 1 more"


def test_a_recovery_says_how_long() -> None:
    since = datetime.now(UTC) - timedelta(hours=3, minutes=20)
    over = [incident(0, first_at=since, runs=4)]
    notice = build_recovery_notice("prod", over, 2, URL)
    assert notice is not None
    assert notice.subject == "Millrace: prod: model orders_0 recovered"
    assert "model orders_0: broken for 3 h 20 min, seen by 4 runs" in notice.body
    assert "still open: 2" in notice.body


def test_an_empty_text_sends_no_notice() -> None:
    assert (
        build_incident_notice("prod", IncidentChanges(), NotificationPreferences(), {}, URL) is None
    )
    assert build_recovery_notice("prod", [], 0, URL) is None
    assert build_retry_notice("prod", [], URL) is None
