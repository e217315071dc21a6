"""Evaluate the API's responses: runs that failed, or are late, stuck or lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from infrastructure.operate.health_check.check_result import Check, Status
from infrastructure.operate.health_check.evaluate import PREFECT
from infrastructure.operate.health_check.facts import ApiState, DeploymentState, Target
from prefect_flows.core.formatting import format_duration, one_line
from prefect_flows.core.names import PIPELINE

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

# Prefect's own default, after which a run is late.
LATE_SECONDS = 15
# After this long, a late, pending or cancelling run will not recover by itself.
STUCK_SECONDS = 300
# A run takes the target's lease when it starts; the lease of a killed run expires after a minute.
LEASE_SECONDS = 120
# A run is unusually long if it exceeds both this multiple of the longest recent run, and this time.
UNUSUAL_FACTOR = 3
UNUSUAL_SECONDS = 1800
FAILED_STATES = ("FAILED", "CRASHED")
MAX_CAUSE_LENGTH = 300


def evaluate_last_run(target: Target, facts: ApiState) -> Iterator[Check]:
    """Check how the last run of the pipeline ended, and the last run of each source."""
    success = target.last_successes[0] if target.last_successes else None
    if target.last is None:
        yield Check(
            "last run", target.name, Status.WARNING, "never ran",
            next(
                (f"{PREFECT} deployment run {d.name}" for d in target.deployments if d.is_pipeline),
                f"uv run millrace run --target {target.name}",
            ),
        )  # fmt: skip
    else:
        seen = _describe_end(target.last, facts)
        if success is None:
            seen += "; no success is known"
        elif success.id != target.last.id and success.end_time is not None:
            seen += f"; last success {format_duration(facts.age(success.end_time))} ago"
        yield _evaluate_state(target.last, target.name, seen)
    for deployed in target.deployments:
        if not deployed.is_pipeline and deployed.last is not None:
            yield _evaluate_source(deployed, deployed.last, facts)


def _evaluate_source(deployed: DeploymentState, last: FlowRun, facts: ApiState) -> Check:
    return _evaluate_state(last, deployed.name, _describe_end(last, facts))


def _evaluate_state(run: FlowRun, subject: str, seen: str) -> Check:
    state = run.state_type.value if run.state_type is not None else ""
    if state in FAILED_STATES:
        cause = _find_cause(run)
        seen += f": {cause}" if cause else ""
        return Check("last run", subject, Status.FAILED, seen, f"{PREFECT} flow-run logs {run.id}")
    if state == "CANCELLED":
        return Check("last run", subject, Status.WARNING, seen, f"{PREFECT} flow-run logs {run.id}")
    return Check("last run", subject, Status.OK, seen)


def _find_cause(run: FlowRun) -> str:
    """Return what is wrong, without place and fix, which are in the run's log."""
    message = (run.state.message or "") if run.state is not None else ""
    cause = message.removeprefix("Flow run encountered an exception: ")
    return one_line(cause.partition("\n  where:")[0], MAX_CAUSE_LENGTH)


def _describe_end(run: FlowRun, facts: ApiState) -> str:
    ago = f" {format_duration(facts.age(run.end_time))} ago" if run.end_time is not None else ""
    took = f", took {format_duration(run.total_run_time.total_seconds())}" if run.start_time else ""
    return f"{run.state_name}{ago}{took}"


def evaluate_waiting_runs(target: Target, facts: ApiState) -> Iterator[Check]:
    """Check for late runs, and for runs that are stuck in Pending or Cancelling."""
    late = [
        (facts.age(run.expected_start_time), run)
        for run in _unfinished_in(target, "SCHEDULED")
        # A run that waits for its turn has the state name AwaitingConcurrencySlot.
        if run.state_name in ("Late", "Scheduled")
        and run.expected_start_time is not None
        and facts.age(run.expected_start_time) > LATE_SECONDS
    ]
    if late:
        longest = max(age for age, _ in late)
        yield Check(
            "late runs", target.name,
            Status.FAILED if longest > STUCK_SECONDS else Status.WARNING,
            f"{len(late)} late, by up to {format_duration(longest)}: "
            f"{_format([run for _, run in late])}",
            "see pool, queues and worker above; to give it up: "
            f"{PREFECT} flow-run cancel {late[0][1].id}",
        )  # fmt: skip
    else:
        yield Check("late runs", target.name, Status.OK, "none")
    stuck = [
        (age, run)
        for run in _unfinished_in(target, "PENDING", "CANCELLING")
        if run.state is not None and (age := facts.age(run.state.timestamp)) > STUCK_SECONDS
    ]
    if stuck:
        longest, first = max(stuck, key=lambda found: found[0])
        yield Check(
            "stuck runs", target.name, Status.FAILED,
            f"{first.state_name} for {format_duration(longest)}: "
            f"{_format([run for _, run in stuck])}",
            f"see the worker's log; then {PREFECT} flow-run cancel {first.id}, "
            f"or {PREFECT} flow-run delete {first.id}",
        )  # fmt: skip
    else:
        yield Check("stuck runs", target.name, Status.OK, "none")


def evaluate_running_runs(target: Target, facts: ApiState) -> Check:
    """Check the runs that Prefect shows as running.

    A run of the pipeline holds its target's lease. If nobody holds it, a run that has been running
    for minutes was killed, or waits for a run without Prefect, which Prefect does not know.
    """
    running = [
        (facts.age(run.start_time), run)
        for run in _unfinished_in(target, "RUNNING")
        if run.start_time is not None
    ]
    lost = [
        run
        for age, run in running
        if facts.flow_names.get(str(run.flow_id)) == PIPELINE
        and target.holders == 0
        and age > LEASE_SECONDS
    ]
    if lost:
        return Check(
            "running", target.name, Status.FAILED,
            f"lost: {_format(lost)} without the target's lease: killed, or waiting for a run that "
            "was started with --no-prefect",
            f"if nothing runs: {PREFECT} flow-run delete {lost[0].id}",
        )  # fmt: skip
    usual = max((run.total_run_time.total_seconds() for run in target.last_successes), default=None)
    longest = max((age for age, _ in running), default=0.0)
    if usual is not None and longest > max(UNUSUAL_FACTOR * usual, UNUSUAL_SECONDS):
        _, first = max(running, key=lambda found: found[0])
        return Check(
            "running", target.name, Status.WARNING,
            f"{_format([first])} for {format_duration(longest)}; the last took "
            f"{format_duration(usual)} or less",
            f"{PREFECT} flow-run logs {first.id}; to end it: {PREFECT} flow-run cancel {first.id}",
        )  # fmt: skip
    seen = f"{len(running)} for {format_duration(longest)}" if running else "none"
    return Check("running", target.name, Status.OK, seen)


def _unfinished_in(target: Target, *states: str) -> list[FlowRun]:
    return [
        run
        for run in target.unfinished
        if run.state_type is not None and run.state_type.value in states
    ]


def _format(runs: list[FlowRun]) -> str:
    names = ", ".join(f"{run.name} ({run.id})" for run in runs[:3])
    return names if len(runs) <= 3 else f"{names} and {len(runs) - 3} more"
