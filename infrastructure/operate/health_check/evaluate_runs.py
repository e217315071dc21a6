"""What the API's answers mean: runs that failed, are late, stuck or lost. Nothing is asked here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from infrastructure.operate.health_check.check_result import Check, Status, lasting
from infrastructure.operate.health_check.evaluate import PREFECT
from infrastructure.operate.health_check.facts import Deployed, Facts, Target
from prefect_flows.core.names import PIPELINE

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

# Prefect's own, after which it calls a run late.
LATE_SECONDS = 15
# A run that is late, pending or being cancelled so long will not fix itself.
STUCK_SECONDS = 300
# A run takes the target's lease when it begins, and a killed one's lease ends after a minute.
LEASE_SECONDS = 120
# A run is unusually long that takes so many times the longest of the last ones, and this long.
UNUSUAL_TIMES = 3
UNUSUAL_SECONDS = 1800
FAILED_STATES = ("FAILED", "CRASHED")


def judge_last_run(target: Target, facts: Facts) -> Iterator[Check]:
    """How the last run of the pipeline ended, and of each source that is loaded by itself."""
    success = target.succeeded[0] if target.succeeded else None
    if target.last is None:
        yield Check(
            "last run", target.name, Status.WARNING, "never ran",
            next(
                (f"{PREFECT} deployment run {d.name}" for d in target.deployed if d.is_pipeline),
                f"uv run millrace run --target {target.name}",
            ),
        )  # fmt: skip
    else:
        seen = _ended(target.last, facts)
        if success is None:
            seen += "; no success is known"
        elif success.id != target.last.id and success.end_time is not None:
            seen += f"; last success {lasting(facts.age(success.end_time))} ago"
        yield _judged(target.last, target.name, seen)
    for deployed in target.deployed:
        if not deployed.is_pipeline and deployed.last is not None:
            yield _judge_source(deployed, deployed.last, facts)


def _judge_source(deployed: Deployed, last: FlowRun, facts: Facts) -> Check:
    return _judged(last, deployed.name, _ended(last, facts))


def _judged(run: FlowRun, subject: str, seen: str) -> Check:
    state = run.state_type.value if run.state_type is not None else ""
    if state in FAILED_STATES:
        return Check("last run", subject, Status.FAILED, seen, f"{PREFECT} flow-run logs {run.id}")
    if state == "CANCELLED":
        return Check("last run", subject, Status.WARNING, seen, f"{PREFECT} flow-run logs {run.id}")
    return Check("last run", subject, Status.OK, seen)


def _ended(run: FlowRun, facts: Facts) -> str:
    ago = f" {lasting(facts.age(run.end_time))} ago" if run.end_time is not None else ""
    took = f", took {lasting(run.total_run_time.total_seconds())}" if run.start_time else ""
    return f"{run.state_name}{ago}{took}"


def judge_waiting(target: Target, facts: Facts) -> Iterator[Check]:
    """Runs that should have begun: late ones, and ones that were taken and do not begin."""
    late = [
        (facts.age(run.expected_start_time), run)
        for run in _of(target, "SCHEDULED")
        # One that waits for its turn is called AwaitingConcurrencySlot.
        if run.state_name in ("Late", "Scheduled")
        and run.expected_start_time is not None
        and facts.age(run.expected_start_time) > LATE_SECONDS
    ]
    if late:
        longest = max(age for age, _ in late)
        yield Check(
            "late runs", target.name,
            Status.FAILED if longest > STUCK_SECONDS else Status.WARNING,
            f"{len(late)} late, by up to {lasting(longest)}: {_names([run for _, run in late])}",
            "see pool, queues and worker above; to give it up: "
            f"{PREFECT} flow-run cancel {late[0][1].id}",
        )  # fmt: skip
    else:
        yield Check("late runs", target.name, Status.OK, "none")
    stuck = [
        (age, run)
        for run in _of(target, "PENDING", "CANCELLING")
        if run.state is not None and (age := facts.age(run.state.timestamp)) > STUCK_SECONDS
    ]
    if stuck:
        longest, first = max(stuck, key=lambda found: found[0])
        yield Check(
            "stuck runs", target.name, Status.FAILED,
            f"{first.state_name} for {lasting(longest)}: {_names([run for _, run in stuck])}",
            f"see the worker's log; then {PREFECT} flow-run cancel {first.id}, "
            f"or {PREFECT} flow-run delete {first.id}",
        )  # fmt: skip
    else:
        yield Check("stuck runs", target.name, Status.OK, "none")


def judge_running(target: Target, facts: Facts) -> Check:
    """Runs that Prefect takes for running.

    A run of the pipeline holds its target's lease. Where nobody holds it, a run that has been
    running for minutes was killed, or waits for one without Prefect, which Prefect cannot see.
    """
    running = [
        (facts.age(run.start_time), run)
        for run in _of(target, "RUNNING")
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
            f"lost: {_names(lost)} without the target's lease: killed, or waiting for a run that "
            "was started with --no-prefect",
            f"if nothing runs: {PREFECT} flow-run delete {lost[0].id}",
        )  # fmt: skip
    usual = max((run.total_run_time.total_seconds() for run in target.succeeded), default=None)
    longest = max((age for age, _ in running), default=0.0)
    if usual is not None and longest > max(UNUSUAL_TIMES * usual, UNUSUAL_SECONDS):
        _, first = max(running, key=lambda found: found[0])
        return Check(
            "running", target.name, Status.WARNING,
            f"{_names([first])} for {lasting(longest)}; the last took {lasting(usual)} or less",
            f"{PREFECT} flow-run logs {first.id}; to end it: {PREFECT} flow-run cancel {first.id}",
        )  # fmt: skip
    seen = f"{len(running)} for {lasting(longest)}" if running else "none"
    return Check("running", target.name, Status.OK, seen)


def _of(target: Target, *states: str) -> list[FlowRun]:
    return [
        run
        for run in target.unfinished
        if run.state_type is not None and run.state_type.value in states
    ]


def _names(runs: list[FlowRun]) -> str:
    names = ", ".join(f"{run.name} ({run.id})" for run in runs[:3])
    return names if len(runs) <= 3 else f"{names} and {len(runs) - 3} more"
