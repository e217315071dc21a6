"""What the health check says of the runs that the API knows."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from infrastructure.operate.health_check.check_result import Status
from infrastructure.operate.health_check.evaluate_runs import evaluate_last_run
from infrastructure.operate.health_check.facts import ApiState, Target

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (StateType.COMPLETED, Status.OK),
        (StateType.FAILED, Status.FAILED),
        (StateType.CRASHED, Status.FAILED),
        (StateType.CANCELLED, Status.WARNING),
        (None, Status.WARNING),
    ],
)
def test_how_the_last_run_ended_is_its_status(state: StateType | None, status: Status) -> None:
    last = None
    if state is not None:
        last = FlowRun(flow_id=uuid4(), state_type=state, state_name=state.value, end_time=NOW)
    target = Target("dev", [], last, [], [], 0)
    (check,) = evaluate_last_run(target, ApiState(NOW, [target], [], {}))
    assert check.status is status


def test_a_failed_run_has_its_cause_without_place_and_fix() -> None:
    message = (
        "Flow run encountered an exception: StageFailed: dbt-run: 1 of 2 nodes failed.\n"
        "  where: dbt/models/a.sql\n  fix:   correct it"
    )
    last = FlowRun(
        flow_id=uuid4(), state_type=StateType.FAILED, state_name="Failed", end_time=NOW,
        state=State(type=StateType.FAILED, message=message),
    )  # fmt: skip
    target = Target("dev", [], last, [], [], 0)
    (check,) = evaluate_last_run(target, ApiState(NOW, [target], [], {}))
    assert check.message.endswith(
        "; no success is known: StageFailed: dbt-run: 1 of 2 nodes failed."
    )
